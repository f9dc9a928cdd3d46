//! What a broker's process uses, by `/proc`: for the benches in `bin/`.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What a moment costs is the difference of two.
pub struct Sample {
    pid: u32,
    cpu: Duration,
    at: Instant,
}

impl Sample {
    /// # Errors
    /// When there is no such process.
    pub fn now(pid: u32) -> Result<Self> {
        Ok(Self { pid, cpu: cpu_time(pid)?, at: Instant::now() })
    }

    /// CPU and wall time since then.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn elapsed(&self) -> Result<(Duration, Duration)> {
        Ok((cpu_time(self.pid)? - self.cpu, self.at.elapsed()))
    }
}

/// User and system time of all threads, also of those that ended.
fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name before it may have spaces; fields 14 and 15 of proc(5) follow 11 fields behind it.
    let (_, fields) = text.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks =
        fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs(1) * u32::try_from(ticks)?
        / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// Resident memory.
///
/// # Errors
/// When there is no such process.
pub fn resident_mib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024)
}

/// Bytes that the process had a device read for it (`read_bytes` in `/proc/PID/io`): what came from memory is not in it.
///
/// # Errors
/// When there is no such process, or it is another user's.
pub fn device_read_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: ")).context("no read_bytes")?;
    Ok(line.trim().parse()?)
}
