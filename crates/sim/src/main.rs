//! `klamm-sim`: many seeds in a row; the first failing one is made small and told.

use std::process::ExitCode;

use clap::Parser;
use klamm_sim::every_step::{MUTATIONS, Thoroughness, cut_at_every_step};
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
    /// Flip every bit of so many stopped logs, with every recovery point that a broker may have kept
    #[arg(long, default_value_t = 0)]
    every_bit: u64,
    /// Cut the power at every step of every mutation and of the start behind it, with so many
    /// draws of what the device keeps
    #[arg(long, default_value_t = 0)]
    every_step: u64,
    /// Break a promise of the disk on purpose, one after the other, and tell how it is noticed
    #[arg(long)]
    sabotage: bool,
}

fn main() -> ExitCode {
    let Arguments { seeds, first, flips, every_bit, every_step, sabotage } = Arguments::parse();
    if every_step > 0 {
        return cut_every_mutation(Thoroughness { draws: every_step, start_stride: 1 });
    }
    if sabotage {
        return notice_every_sabotage(first, seeds);
    }
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
    if every_bit > 0 {
        return flip_every_bit(first, every_bit);
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

fn flip_every_bit(first: u64, seeds: u64) -> ExitCode {
    let mut is_right = true;
    for seed in first..first.saturating_add(seeds) {
        match klamm_sim::flips::flip_every_bit(seed) {
            Ok(found) => println!("seed {seed}: {found:?}"),
            Err(wrong) => {
                println!("seed {seed}: {wrong}");
                is_right = false;
            }
        }
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cut_every_mutation(thoroughness: Thoroughness) -> ExitCode {
    let mut total = Stats::default();
    for mutation in MUTATIONS {
        match cut_at_every_step(mutation, thoroughness) {
            Ok(found) => {
                println!("{mutation:?}: {} steps, {} power cuts", found.steps, found.stats.power_cuts);
                total.add(found.stats);
            }
            Err(wrong) => {
                println!("{mutation:?}: {wrong}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{total:?}");
    ExitCode::SUCCESS
}

fn notice_every_sabotage(first: u64, seeds: u64) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    for sabotage in Sabotage::ALL {
        let is_noticed = |case: &Case| {
            let outcome = std::panic::catch_unwind(|| run(case, sabotage));
            !matches!(outcome, Ok(Ok(_)))
        };
        let Some(case) = (first..first.saturating_add(seeds)).map(Case::draw).find(is_noticed) else {
            println!("{sabotage:?} goes unnoticed in {seeds} seeds from {first}");
            return ExitCode::FAILURE;
        };
        let small = minimise(&case, sabotage);
        println!("{sabotage:?} is noticed with seed {}:\n{}\n", case.seed, transcript(&small, sabotage));
    }
    ExitCode::SUCCESS
}
