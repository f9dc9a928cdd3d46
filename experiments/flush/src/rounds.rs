//! Rounds over 1 to 19,900 dirty partitions: every alternative once per repeat, in a rotating order, so that what
//! else the machine does falls on all of them.

use crate::files::{Partitions, Placement};
use crate::measure::{Samples, load_average, ms};
use crate::methods::{Flusher, Method};
use std::io;
use std::path::Path;
use std::time::Duration;

#[derive(Default, Clone)]
struct Row {
    total: Samples,
    flush: Samples,
    cpu: Samples,
    settle: Samples,
}

/// Measures `methods` at each count of dirty files. A method that has used up `budget` sits out further repeats;
/// the table says how many rounds it had.
pub fn run(
    root: &Path,
    counts: &[usize],
    methods: &[Method],
    placement: Placement,
    repeats: usize,
    budget: Duration,
) -> io::Result<()> {
    let mut flusher = Flusher::new(root)?;
    for &count in counts {
        let mut partitions = Partitions::create(&root.join("partitions"), count, placement)?;
        let load_before = load_average();
        let mut rows = vec![Row::default(); methods.len()];
        for repeat in 0..repeats {
            partitions.rewind()?;
            for turn in 0..methods.len() {
                let which = (repeat + turn) % methods.len();
                let row = &mut rows[which];
                if row.total.sum() > budget {
                    continue;
                }
                // Small rounds are over in microseconds: several make one repeat.
                for _ in 0..(200 / count).clamp(1, 20) {
                    let round = flusher.round(methods[which], &mut partitions)?;
                    row.total.push(round.total);
                    row.cpu.push(round.cpu);
                    row.settle.push(round.settle);
                    if let Some(flush) = round.flush {
                        row.flush.push(flush);
                    }
                }
            }
        }
        partitions.remove()?;
        println!(
            "\n### {count} dirty files, {}; load {load_before} to {}\n",
            describe(placement),
            load_average()
        );
        println!(
            "| alternative | rounds | append+flush ms, median | min | flush ms, median | min | process CPU ms, median | min | left to flush ms |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for (method, row) in methods.iter().zip(rows) {
            let flush = |value: Duration| if row.flush.count() == 0 { "".to_owned() } else { ms(value) };
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                method.name(),
                row.total.count(),
                ms(row.total.median()),
                ms(row.total.min()),
                flush(row.flush.median()),
                flush(row.flush.min()),
                ms(row.cpu.median()),
                ms(row.cpu.min()),
                ms(row.settle.median()),
            );
        }
    }
    Ok(())
}

fn describe(placement: Placement) -> String {
    match placement {
        Placement::Append => "appended".into(),
        Placement::Prefilled { window_bytes } => format!("prefilled by {} KiB", window_bytes >> 10),
    }
}
