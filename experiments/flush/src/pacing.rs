//! An appender that writes gigabytes: its stalls with and without write-back started early.

use crate::files::{open, start_write_back};
use crate::measure::{Samples, load_average, ms, process_cpu};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// One append of a busy producer.
const WRITE_BYTES: u64 = 64 << 10;
/// Write-back is started each time so much has been appended.
const STEP_BYTES: u64 = 4 << 20;
/// How far the awaited part lies behind the end.
const WINDOW_BYTES: u64 = 64 << 20;
/// What counts as a stall.
const STALL: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq)]
enum Pace {
    None,
    /// The appender starts it.
    Appender,
    /// Another thread starts it and waits for what lies 64 MiB behind; the appender is not held up.
    Flusher,
    /// As before, and the appender pauses (not counted as a stall, but in the total) while more than
    /// 256 MiB are unwritten.
    Budget,
}

const PACES: &[(&str, Pace)] = &[
    ("unpaced", Pace::None),
    ("started by the appender", Pace::Appender),
    ("started and awaited by a flusher", Pace::Flusher),
    ("the same with a budget of 256 MiB", Pace::Budget),
];

struct Outcome {
    writes: Samples,
    total: Duration,
    cpu: Duration,
    final_flush: Duration,
    paused: Duration,
}

/// `rate_mib` limits the appender, 0 lets it run free.
pub fn run(root: &Path, gib: u64, rate_mib: u64, repeats: usize) -> io::Result<()> {
    let load_before = load_average();
    let mut rows: Vec<Vec<Outcome>> = PACES.iter().map(|_| Vec::new()).collect();
    for repeat in 0..repeats {
        for turn in 0..PACES.len() {
            let which = (repeat + turn) % PACES.len();
            rows[which].push(once(root, gib << 30, rate_mib, PACES[which].1)?);
        }
    }
    let rate = if rate_mib == 0 { "as fast as it goes".to_owned() } else { format!("{rate_mib} MiB/s") };
    println!("\n### {gib} GiB by 64 KiB appends, {rate}; load {load_before} to {}\n", load_average());
    println!(
        "| pacing | stalls over 5 ms, each run | longest ms | p99.9 ms | time in stalls ms | MiB/s | paused ms | last flush ms | process CPU s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for ((name, _), outcomes) in PACES.iter().zip(rows) {
        let mut all = Samples::default();
        let mut stalls = Vec::new();
        let (mut total, mut cpu, mut last, mut paused, mut stalled) = (
            Samples::default(),
            Samples::default(),
            Samples::default(),
            Samples::default(),
            Samples::default(),
        );
        for outcome in outcomes {
            stalls.push(outcome.writes.over(STALL).to_string());
            stalled.push(outcome.writes.sum_over(STALL));
            total.push(outcome.total);
            cpu.push(outcome.cpu);
            last.push(outcome.final_flush);
            paused.push(outcome.paused);
            all.extend(outcome.writes);
        }
        println!(
            "| {name} | {} | {} | {} | {} | {:.0} | {} | {} | {:.2} |",
            stalls.join(", "),
            ms(all.max()),
            ms(all.quantile(0.999)),
            ms(stalled.median()),
            (gib << 10) as f64 / total.median().as_secs_f64(),
            ms(paused.median()),
            ms(last.median()),
            cpu.median().as_secs_f64(),
        );
    }
    Ok(())
}

fn once(root: &Path, bytes: u64, rate_mib: u64, pace: Pace) -> io::Result<Outcome> {
    let path = root.join("pacing");
    let file = open(&path)?;
    let outcome = write(&file, bytes, rate_mib, pace);
    drop(file);
    std::fs::remove_file(&path)?;
    rustix::fs::syncfs(File::open(root)?)?;
    outcome
}

fn write(file: &File, bytes: u64, rate_mib: u64, pace: Pace) -> io::Result<Outcome> {
    let payload = vec![0x5a; WRITE_BYTES as usize];
    let mut writes = Samples::default();
    let mut paused = Duration::ZERO;
    let steps = (bytes / STEP_BYTES) as usize;
    let (cpu, start) = (process_cpu(), Instant::now());
    std::thread::scope(|scope| -> io::Result<()> {
        let budget_steps = if pace == Pace::Budget { (256 << 20) / STEP_BYTES as usize } else { steps };
        let (done, written) = sync_channel::<u64>(budget_steps.max(1));
        if matches!(pace, Pace::Flusher | Pace::Budget) {
            let file = &file;
            scope.spawn(move || {
                for position in written {
                    start_write_back(file, position, STEP_BYTES, false).expect("start write-back");
                    if position >= WINDOW_BYTES {
                        let behind = position - WINDOW_BYTES;
                        start_write_back(file, behind, STEP_BYTES, true).expect("wait for write-back");
                    }
                }
            });
        }
        let mut position = 0;
        while position < bytes {
            let before = Instant::now();
            file.write_all_at(&payload, position)?;
            position += WRITE_BYTES;
            let ends_step = position % STEP_BYTES == 0;
            if ends_step && pace == Pace::Appender {
                start_write_back(file, position - STEP_BYTES, STEP_BYTES, false)?;
            }
            writes.push(before.elapsed());
            if ends_step && matches!(pace, Pace::Flusher | Pace::Budget) {
                let before = Instant::now();
                done.send(position - STEP_BYTES).map_err(|_| io::ErrorKind::BrokenPipe)?;
                paused += before.elapsed();
            }
            if rate_mib > 0 {
                let due = Duration::from_secs_f64(position as f64 / (rate_mib << 20) as f64);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        Ok(())
    })?;
    let total = start.elapsed();
    let before = Instant::now();
    file.sync_data()?;
    Ok(Outcome { writes, total, cpu: process_cpu() - cpu, final_flush: before.elapsed(), paused })
}
