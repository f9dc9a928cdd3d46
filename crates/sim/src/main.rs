//! `klamm-sim`: many seeds in a row; the first failing one is made small and told.

use std::process::ExitCode;

use clap::Parser;
use klamm_sim::{Case, Sabotage, Stats, minimise, run, transcript};

#[derive(Parser)]
#[command(about = "Simulates power cuts and disk faults around the log")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many bits to flip, one in each of so many copies of a stopped log
    #[arg(long, default_value_t = 0)]
    flips: u64,
}

fn main() -> ExitCode {
    let Arguments { seeds, first, flips } = Arguments::parse();
    if flips > 0 {
        return match klamm_sim::flips::flip(first, flips) {
            Ok(found) => {
                println!("{found:?}");
                ExitCode::SUCCESS
            }
            Err(wrong) => {
                println!("seed {first}: {wrong}");
                ExitCode::FAILURE
            }
        };
    }
    let mut total = Stats::default();
    for seed in first..first.saturating_add(seeds) {
        let case = Case::draw(seed);
        let outcome = std::panic::catch_unwind(|| run(&case, Sabotage::None));
        match outcome {
            Ok(Ok(stats)) => total.add(stats),
            _ => {
                let small = minimise(&case, Sabotage::None);
                println!("seed {seed} fails; its smallest form:\n{}", transcript(&small, Sabotage::None));
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{seeds} seeds from {first}: {total:?}");
    ExitCode::SUCCESS
}
