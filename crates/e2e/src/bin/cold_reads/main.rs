//! Do cold reads hurt hot ones? Producers and readers at the log's end at a fixed rate, in phases without and with
//! readers of old segments that are no longer in memory; against any broker, over the wire.
//!
//! Old segments leave the page cache by `posix_fadvise`, so the tool must see the broker's log directory; or because
//! memory is short, which is how they leave it elsewhere. `floor` does the same without a broker: what the device does to
//! a flush. What it deliberately does not do: judge. It prints what it saw; `docs/performance.md` says what is wanted.
//!
//! Invariant: an answer that is not what a healthy broker gives ends the run with an error.

mod cold;
mod floor;
mod hot;
mod phases;
mod topics;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use klamm_e2e::usage::{Sample, device_read_bytes};

use cold::ColdReader;
use hot::SentAt;
use phases::{Plan, Samples, Switch, Used};
use topics::OldSegments;
use wire::{Connection, Partition};

const COLD_TOPIC: &str = "cold-reads-old";
const HOT_TOPIC: &str = "cold-reads-hot";

/// Producers and readers at the log's end, without and with readers of old segments.
#[derive(Parser)]
#[command(name = "cold_reads")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Through a running broker.
    Broker(Options),
    /// Without one: flushes beside reads, on the files that `broker` left.
    Floor(floor::Options),
}

#[derive(Args)]
struct Options {
    #[command(flatten)]
    plan: Plan,
    /// The broker's address.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9092")]
    bootstrap: SocketAddr,
    /// Its process, for what it uses.
    #[arg(long)]
    pid: u32,
    /// Its log directory.
    #[arg(long)]
    log_dir: PathBuf,
    /// How much there is to read cold.
    #[arg(long, default_value_t = 2048)]
    old_mib: u64,
    /// Leaves them in the page cache: for a machine whose memory is in use, and more to read than what is left of it.
    #[arg(long)]
    without_eviction: bool,
    /// Readers of old segments, each with a connection.
    #[arg(long, default_value_t = 1)]
    cold_readers: u32,
    /// Of each of them; 0: as fast as it goes.
    #[arg(long, default_value_t = 0)]
    cold_mb_per_second: u64,
    /// What such a reader asks for at once: a consumer's default.
    #[arg(long, default_value_t = 1024)]
    cold_fetch_kib: i32,
    /// Each with a partition, and a reader at its end.
    #[arg(long, default_value_t = 4)]
    producers: i32,
    /// Records a second of each, one in flight.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Bytes of their values.
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Broker(options) => broker(&options),
        What::Floor(options) => floor::run(&options),
    }
}

fn broker(options: &Options) -> Result<()> {
    let address = options.bootstrap;
    let mut connection = Connection::open(address)?;
    let old = Partition { topic: COLD_TOPIC.to_owned(), index: 0 };
    topics::create(&mut connection, COLD_TOPIC, 1)?;
    topics::create(&mut connection, HOT_TOPIC, options.producers)?;
    let end_offset = topics::fill(&mut connection, &old, options.old_mib << 20)?;
    let segments = OldSegments::find(&options.log_dir, &old)?;
    let evict = || if options.without_eviction { Ok(()) } else { segments.evict() };
    let start = Sample::now(options.pid)?;
    let used = || {
        let (cpu, _) = start.elapsed()?;
        Ok(Used { cpu, device_bytes: device_read_bytes(options.pid)? })
    };
    let hot: Vec<(Partition, _)> = (0..options.producers)
        .map(|index| {
            let partition = Partition { topic: HOT_TOPIC.to_owned(), index };
            let end = connection.end_offset(&partition)?.context("no leader")?;
            Ok((partition, SentAt::from(end)))
        })
        .collect::<Result<_>>()?;
    let cold = |index: u32| ColdReader {
        address,
        old: &old,
        evict: &evict,
        first_offset: end_offset / i64::from(options.cold_readers) * i64::from(index),
        end_offset,
        fetch_bytes: options.cold_fetch_kib << 10,
        mb_per_second_max: options.cold_mb_per_second,
    };
    let switch = &Switch::default();
    let interval = Duration::from_secs(1) / options.rate;
    let (mut produced, mut read) = (Samples::default(), Samples::default());
    let phases = std::thread::scope(|scope| {
        let mut hot_threads = Vec::new();
        for (partition, sent_at) in &hot {
            let produce =
                || hot::produce(address, partition, options.record_bytes, interval, sent_at, switch);
            hot_threads
                .push((scope.spawn(produce), scope.spawn(|| hot::tail(address, partition, sent_at, switch))));
        }
        let cold_threads: Vec<_> =
            (0..options.cold_readers).map(|index| scope.spawn(move || cold(index).run(switch))).collect();
        let phases = phases::run(options.plan, switch, evict, used);
        for (producer, tail) in hot_threads {
            produced.append(producer.joined()?);
            read.append(tail.joined()?);
        }
        cold_threads.into_iter().try_for_each(Joined::joined)?;
        phases
    })?;
    println!(
        "{} pairs of phases of {} s; {} producers at {}/s of {} bytes, acks=all; {} cold readers by {} KiB{}",
        options.plan.pairs,
        options.plan.phase_seconds,
        options.producers,
        options.rate,
        options.record_bytes,
        options.cold_readers,
        options.cold_fetch_kib,
        match options.cold_mb_per_second {
            0 => String::new(),
            rate => format!(", at most {rate} MB/s each"),
        },
    );
    phases::print_latencies("produce", &produced, &phases)?;
    phases::print_latencies("read at the end", &read, &phases)?;
    phases::print_cold(&phases);
    Ok(())
}

/// A thread's outcome; its panic is this thread's.
trait Joined {
    type Outcome;
    fn joined(self) -> Self::Outcome;
}

impl<T> Joined for ScopedJoinHandle<'_, T> {
    type Outcome = T;

    fn joined(self) -> T {
        self.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
