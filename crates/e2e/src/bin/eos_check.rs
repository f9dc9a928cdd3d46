//! Checks exactly-once over real processes: transactions under kills and suspensions, idempotent produce under cut
//! connections; of Klamm, or of Kafka itself to see that what is asked holds there.
//!
//! What is done and judged is in the library (`exactly_once`, `cut_produce`). A round with anomalies ends the run, and
//! leaves its history in a file.

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use klamm_e2e::broker;
use klamm_e2e::cut_produce;
use klamm_e2e::exactly_once::faults::Kinds;
use klamm_e2e::exactly_once::series::Series;
use klamm_e2e::java::Tools;
use klamm_e2e::server::Product;
use std::path::PathBuf;

/// Checks exactly-once over real processes.
#[derive(Parser)]
#[command(name = "eos_check")]
struct Arguments {
    /// Whose broker; Kafka wants Java.
    #[arg(long, value_enum, default_value_t = Name::Klamm)]
    broker: Name,
    /// What is drawn depends on it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keeps the broker's directory here; else it is temporary.
    #[arg(long)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    check: Check,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Klamm,
    Kafka,
}

#[derive(Subcommand)]
enum Check {
    /// Transactions that read, process and write, while the broker is killed and suspended.
    Transactions(Transactions),
    /// An idempotent producer whose connections are cut.
    Produce(Produce),
}

#[derive(Args)]
struct Transactions {
    /// How many.
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// The number of the first, to run one again.
    #[arg(long, default_value_t = 0)]
    first_round: u64,
    /// Kills and suspensions in each.
    #[arg(long, default_value_t = 6)]
    faults: usize,
    /// No kills: Kafka has a fault of its own there (see `faults`).
    #[arg(long)]
    no_kills: bool,
    /// Cuts clients' connections, too.
    #[arg(long)]
    cuts: bool,
    /// Lets Kafka's own copier take part.
    #[arg(long)]
    java: bool,
    /// Where the history of a round with anomalies goes.
    #[arg(long, default_value = "eos-history.txt")]
    history: PathBuf,
}

#[derive(Args)]
struct Produce {
    /// How many.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// `klamm.durability`.
    #[arg(long, default_value = "flushed")]
    durability: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wants_java = arguments.broker == Name::Kafka
        || matches!(&arguments.check, Check::Transactions(Transactions { java: true, .. }));
    let tools = if wants_java { Tools::need("eos_check") } else { None };
    let product = match (arguments.broker, &tools) {
        (Name::Klamm, _) => Product::Klamm,
        (Name::Kafka, Some(tools)) => Product::Kafka(tools),
        (Name::Kafka, None) => bail!("Kafka needs Java and Maven"),
    };
    let temporary = broker::folder();
    let folder = arguments.folder.as_deref().unwrap_or_else(|| temporary.path());
    std::fs::create_dir_all(folder)?;
    match arguments.check {
        Check::Transactions(Transactions { rounds, first_round, faults, no_kills, cuts, java, history }) => {
            let java = if java { tools.as_ref() } else { None };
            let rounds = first_round..first_round + rounds;
            let kinds = if no_kills { Kinds::Suspensions } else { Kinds::Both };
            let series = Series { product, seed: arguments.seed, rounds, faults, kinds, cuts, java };
            if let Err(failure) = series.run(folder) {
                std::fs::write(&history, failure.history.to_string())?;
                for anomaly in &failure.anomalies {
                    println!("{anomaly:?}");
                }
                bail!(
                    "round {}: {} anomalies, its history is in {}",
                    failure.round,
                    failure.anomalies.len(),
                    history.display()
                );
            }
        }
        Check::Produce(Produce { records, durability }) => {
            let settings: &[(&str, &str)] = match product {
                Product::Klamm => &[("klamm.durability", &durability)],
                Product::Kafka(_) => &[],
            };
            let (tally, cuts) = cut_produce::run(product, folder, settings, records, arguments.seed);
            println!("{tally:?} {cuts:?}");
            if !tally.is_exactly(records) {
                bail!("{records} records were sent");
            }
        }
    }
    Ok(())
}
