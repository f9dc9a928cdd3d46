//! One waiter: append and flush of 4 KB and of 1 MB, on its own thread and through a flusher thread, into an
//! appended and into a prefilled file; and what the prefilling itself costs.

use crate::files::{open, prefill};
use crate::measure::{Samples, load_average, process_cpu, us};
use crate::pool::Pool;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: &[(usize, usize)] = &[(4 << 10, 200), (64 << 10, 50), (1 << 20, 16)];
/// The window that a prefill writes ahead of the appends.
const WINDOW_BYTES: u64 = 2 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Appended,
    /// Zeros written and flushed beforehand, the cost not counted.
    Prefilled,
    /// Space reserved by `fallocate` within the file's size, the cost not counted.
    Reserved,
}

const CASES: &[(&str, Layout, bool)] = &[
    ("appended, own thread", Layout::Appended, true),
    ("appended, flusher thread", Layout::Appended, false),
    ("prefilled, own thread", Layout::Prefilled, true),
    ("prefilled, flusher thread", Layout::Prefilled, false),
    ("fallocated, own thread", Layout::Reserved, true),
];

pub fn run(root: &Path, repeats: usize) -> io::Result<()> {
    let pool = Pool::new(1);
    let load_before = load_average();
    let mut rows = vec![vec![(Samples::default(), Duration::ZERO); CASES.len()]; SIZES.len()];
    for repeat in 0..repeats {
        for (size_index, &(bytes, count)) in SIZES.iter().enumerate() {
            for turn in 0..CASES.len() {
                let which = (repeat + turn) % CASES.len();
                let (_, layout, own_thread) = CASES[which];
                let path = root.join("single");
                let file = Arc::new(prepared(&path, layout, (bytes * count) as u64)?);
                let (samples, cpu) = &mut rows[size_index][which];
                let before = process_cpu();
                samples.extend(appends(&file, bytes, count, (!own_thread).then_some(&pool))?);
                *cpu += process_cpu() - before;
                std::fs::remove_file(&path)?;
            }
        }
    }
    println!("\n### One waiter; load {load_before} to {}\n", load_average());
    println!("| bytes | case | samples | p50 us | p99 us | min us | process CPU us each |");
    println!("|---|---|---|---|---|---|---|");
    for (&(bytes, _), row) in SIZES.iter().zip(rows) {
        for ((name, _, _), (samples, cpu)) in CASES.iter().zip(row) {
            println!(
                "| {bytes} | {name} | {} | {} | {} | {} | {} |",
                samples.count(),
                us(samples.median()),
                us(samples.quantile(0.99)),
                us(samples.min()),
                us(cpu / samples.count() as u32),
            );
        }
    }
    net(root, repeats)
}

fn prepared(path: &Path, layout: Layout, bytes: u64) -> io::Result<File> {
    let file = open(path)?;
    match layout {
        Layout::Appended => {}
        Layout::Prefilled => prefill(&file, 0, bytes)?,
        Layout::Reserved => rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?,
    }
    file.sync_all()?;
    Ok(file)
}

fn appends(file: &Arc<File>, bytes: usize, count: usize, flusher: Option<&Pool>) -> io::Result<Samples> {
    let payload = vec![0x5a; bytes];
    let mut samples = Samples::default();
    for index in 0..count {
        let start = Instant::now();
        file.write_all_at(&payload, (index * bytes) as u64)?;
        match flusher {
            None => file.sync_data()?,
            Some(pool) => {
                let file = Arc::clone(file);
                pool.run(1, 1, move |_| file.sync_data())?;
            }
        }
        samples.push(start.elapsed());
    }
    Ok(samples)
}

/// 4 MiB by flushed appends, with the prefilling of each window counted in.
fn net(root: &Path, repeats: usize) -> io::Result<()> {
    const TOTAL_BYTES: u64 = 4 << 20;
    let sizes = [4 << 10, 64 << 10, 1 << 20];
    let mut rows = vec![(Samples::default(), Samples::default()); sizes.len() * 2];
    for repeat in 0..repeats {
        for turn in 0..rows.len() {
            let which = (repeat + turn) % rows.len();
            let (bytes, is_prefilled) = (sizes[which / 2], which % 2 == 1);
            let path = root.join("net");
            let file = prepared(&path, Layout::Appended, 0)?;
            let payload = vec![0x5a; bytes];
            let (cpu, start) = (process_cpu(), Instant::now());
            for position in (0..TOTAL_BYTES).step_by(bytes) {
                if is_prefilled && position % WINDOW_BYTES == 0 {
                    prefill(&file, position, WINDOW_BYTES)?;
                    file.sync_data()?;
                }
                file.write_all_at(&payload, position)?;
                file.sync_data()?;
            }
            rows[which].0.push(start.elapsed());
            rows[which].1.push(process_cpu() - cpu);
            std::fs::remove_file(&path)?;
        }
    }
    println!("\n### 4 MiB by flushed appends of one waiter, prefilling (2 MiB windows) counted in\n");
    println!(
        "| bytes | layout | repeats | wall us an append, median | min | process CPU us an append, median |"
    );
    println!("|---|---|---|---|---|---|");
    for (which, (wall, cpu)) in rows.iter().enumerate() {
        let bytes = sizes[which / 2];
        let appends = (TOTAL_BYTES / bytes as u64) as u32;
        println!(
            "| {bytes} | {} | {} | {} | {} | {} |",
            if which % 2 == 1 { "prefilled" } else { "appended" },
            wall.count(),
            us(wall.median() / appends),
            us(wall.min() / appends),
            us(cpu.median() / appends),
        );
    }
    Ok(())
}
