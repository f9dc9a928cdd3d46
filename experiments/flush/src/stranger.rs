//! What a stranger's dirty data on the same file system does to a round: syncfs flushes it too.

use crate::files::{Partitions, Placement, open};
use crate::measure::{Samples, load_average, ms};
use crate::methods::{Flusher, Method};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

const METHODS: &[Method] = &[Method::Fdatasync { threads: 16 }, Method::Syncfs, Method::Journal];

pub fn run(root: &Path, counts: &[usize], stranger_mib: usize, repeats: usize) -> io::Result<()> {
    let mut flusher = Flusher::new(root)?;
    for &count in counts {
        let mut partitions = Partitions::create(&root.join("partitions"), count, Placement::Append)?;
        let load_before = load_average();
        let mut rows = vec![(Samples::default(), Samples::default()); METHODS.len()];
        for repeat in 0..repeats {
            partitions.rewind()?;
            for turn in 0..METHODS.len() {
                let which = (repeat + turn) % METHODS.len();
                let alone = flusher.round(METHODS[which], &mut partitions)?;
                rows[which].0.push(alone.flush.unwrap_or(alone.total));
                let stranger = dirty(&root.join("stranger"), stranger_mib)?;
                let beside = flusher.round(METHODS[which], &mut partitions)?;
                rows[which].1.push(beside.flush.unwrap_or(beside.total));
                stranger.set_len(0)?;
                partitions.settle()?;
            }
        }
        partitions.remove()?;
        println!(
            "\n### {count} dirty files beside a stranger's {stranger_mib} MiB; load {load_before} to {}\n",
            load_average()
        );
        println!(
            "| alternative | repeats | flush ms alone, median | min | beside the stranger, median | min | max |"
        );
        println!("|---|---|---|---|---|---|---|");
        for (method, (alone, beside)) in METHODS.iter().zip(rows) {
            println!(
                "| {} | {} | {} | {} | {} | {} | {} |",
                method.name(),
                alone.count(),
                ms(alone.median()),
                ms(alone.min()),
                ms(beside.median()),
                ms(beside.min()),
                ms(beside.max()),
            );
        }
    }
    std::fs::remove_file(root.join("stranger"))
}

fn dirty(path: &Path, mib: usize) -> io::Result<File> {
    let file = open(path)?;
    let payload = vec![0xa5; 1 << 20];
    let start = Instant::now();
    for index in 0..mib {
        file.write_all_at(&payload, (index << 20) as u64)?;
    }
    assert!(
        start.elapsed().as_secs() < 5,
        "the stranger's data began to be written back: the disk is too slow"
    );
    Ok(file)
}
