//! What the device itself does: a bare write and flush at a fixed rate, beside a bare read of the same old segments.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::cold::Pace;
use super::hot::wait_until;
use super::phases::{self, Plan, Samples, Switch, Used};
use super::topics::OldSegments;
use super::wire::Partition;
use super::{COLD_TOPIC, Joined};

/// The file is written beforehand, so that a flush has no block to find: as good as a flush gets.
const FILE_BYTES: usize = 16 << 20;
const WRITE_BYTES: usize = 4096;
/// As the kernel reads ahead.
const READ_BYTES: usize = 256 << 10;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    plan: Plan,
    /// The log directory of a broker on which `broker` ran: its old segments are read.
    #[arg(long)]
    log_dir: PathBuf,
    /// Flushes a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Of the reader; 0: as fast as it goes.
    #[arg(long, default_value_t = 0)]
    cold_mb_per_second: u64,
}

pub fn run(options: &Options) -> Result<()> {
    let old = Partition { topic: COLD_TOPIC.to_owned(), index: 0 };
    let segments = OldSegments::find(&options.log_dir, &old)?;
    let path = options.log_dir.join("cold_reads.floor");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    std::fs::remove_file(&path)?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;
    let switch = Switch::default();
    let (phases, samples) = std::thread::scope(|scope| {
        let flusher = scope.spawn(|| flush(&file, Duration::from_secs(1) / options.rate, &switch));
        let reader = scope.spawn(|| read(&segments, options.cold_mb_per_second, &switch));
        let phases = phases::run(options.plan, &switch, || segments.evict(), || Ok(Used::default()));
        let samples = flusher.joined();
        reader.joined()?;
        anyhow::Ok((phases?, samples?))
    })?;
    println!("floor: {} KiB written and flushed {} times a second", WRITE_BYTES >> 10, options.rate);
    phases::print_latencies("fdatasync", &samples, &phases)?;
    phases::print_cold(&phases);
    Ok(())
}

fn flush(file: &File, interval: Duration, switch: &Switch) -> Result<Samples> {
    let mut samples = Samples::default();
    let bytes = [1; WRITE_BYTES];
    let mut due = Instant::now();
    for position in (0..FILE_BYTES).step_by(WRITE_BYTES).cycle() {
        if switch.is_over() {
            break;
        }
        due += interval;
        let from = wait_until(due);
        file.write_all_at(&bytes, position as u64)?;
        file.sync_data()?;
        samples.push(from, from.elapsed());
    }
    Ok(samples)
}

fn read(segments: &OldSegments, mb_per_second_max: u64, switch: &Switch) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut pace = Pace::of(mb_per_second_max);
    loop {
        segments.evict()?;
        for path in segments.logs() {
            let file = File::open(path)?;
            let mut position = 0;
            loop {
                if !switch.wait_for_cold() {
                    return Ok(());
                }
                pace.begin();
                let count = file.read_at(&mut buffer, position)?;
                if count == 0 {
                    break;
                }
                position += count as u64;
                switch.note_cold_bytes(count as u64);
                pace.wait_for(count as u64);
            }
            if position == 0 && segments.logs().count() == 1 {
                bail!("{} is empty", path.display());
            }
        }
    }
}
