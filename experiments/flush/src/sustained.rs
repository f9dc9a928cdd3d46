//! Rounds one after the other, as under load, with everything counted: the journal's segments are flushed behind
//! it by another thread, and it waits when it would overwrite what is not flushed yet.

use crate::files::{APPEND_BYTES, Partitions, Placement};
use crate::measure::{Samples, load_average, ms, process_cpu};
use crate::methods::{Flusher, JOURNAL_BYTES, Method};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long one alternative runs at a time.
const SLICE: Duration = Duration::from_secs(1);
/// The segments are flushed when the journal holds so much that they do not.
const SETTLE_BYTES: u64 = 64 << 20;

const METHODS: &[Method] = &[Method::Fdatasync { threads: 16 }, Method::Syncfs, Method::Journal];

#[derive(Default)]
struct Progress {
    journaled_bytes: u64,
    settled_bytes: u64,
    is_stopped: bool,
}

#[derive(Default)]
struct Behind {
    progress: Mutex<Progress>,
    changed: Condvar,
}

pub fn run(root: &Path, counts: &[usize], repeats: usize) -> io::Result<()> {
    let mut flusher = Flusher::new(root)?;
    for &count in counts {
        let mut partitions = Partitions::create(&root.join("partitions"), count, Placement::Append)?;
        let load_before = load_average();
        let mut rows = vec![(Samples::default(), Duration::ZERO, Duration::ZERO); METHODS.len()];
        for repeat in 0..repeats {
            for turn in 0..METHODS.len() {
                let which = (repeat + turn) % METHODS.len();
                partitions.rewind()?;
                let (cpu, start) = (process_cpu(), Instant::now());
                let samples = slice(&mut flusher, METHODS[which], &mut partitions)?;
                rows[which].0.extend(samples);
                rows[which].1 += process_cpu() - cpu;
                rows[which].2 += start.elapsed();
            }
        }
        partitions.remove()?;
        println!(
            "\n### {count} dirty files each round, sustained; load {load_before} to {}\n",
            load_average()
        );
        println!("| alternative | appends/s | round ms, p50 | p99 | max | process CPU us an append |");
        println!("|---|---|---|---|---|---|");
        for (method, (samples, cpu, wall)) in METHODS.iter().zip(rows) {
            let appends = (samples.count() * count).max(1);
            println!(
                "| {} | {:.0} | {} | {} | {} | {:.1} |",
                method.name(),
                appends as f64 / wall.as_secs_f64(),
                ms(samples.median()),
                ms(samples.quantile(0.99)),
                ms(samples.max()),
                cpu.as_secs_f64() * 1e6 / appends as f64,
            );
        }
    }
    Ok(())
}

fn slice(flusher: &mut Flusher, method: Method, partitions: &mut Partitions) -> io::Result<Samples> {
    let round_bytes = (partitions.files.len() * APPEND_BYTES) as u64;
    let behind = Arc::new(Behind::default());
    let directory = partitions.directory.try_clone()?;
    let settler = {
        let behind = Arc::clone(&behind);
        (method == Method::Journal).then(|| std::thread::spawn(move || settle(&directory, &behind)))
    };
    let mut samples = Samples::default();
    let until = Instant::now() + SLICE;
    while Instant::now() < until {
        let start = Instant::now();
        if settler.is_some() {
            let mut progress = behind.progress.lock().unwrap();
            // Headers are a hundredth of a copy: an eighth of the journal is more than enough for them.
            while progress.journaled_bytes + round_bytes - progress.settled_bytes > JOURNAL_BYTES / 8 * 7 {
                progress = behind.changed.wait(progress).unwrap();
            }
        }
        let position = partitions.next_position();
        flusher.append_and_flush(method, partitions, position)?;
        samples.push(start.elapsed());
        behind.progress.lock().unwrap().journaled_bytes += round_bytes;
        behind.changed.notify_all();
    }
    behind.progress.lock().unwrap().is_stopped = true;
    behind.changed.notify_all();
    if let Some(thread) = settler {
        thread.join().expect("the settler panicked")?;
    }
    Ok(samples)
}

fn settle(directory: &File, behind: &Behind) -> io::Result<()> {
    let mut progress = behind.progress.lock().unwrap();
    loop {
        let target = progress.journaled_bytes;
        if progress.is_stopped || target - progress.settled_bytes > SETTLE_BYTES {
            let is_last = progress.is_stopped;
            drop(progress);
            rustix::fs::syncfs(directory)?;
            progress = behind.progress.lock().unwrap();
            progress.settled_bytes = target;
            behind.changed.notify_all();
            if is_last {
                return Ok(());
            }
        } else {
            progress = behind.changed.wait(progress).unwrap();
        }
    }
}
