//! Rounds one after the other on one data directory, and what is said of each.

use super::check::{Anomaly, check};
use super::faults::{self, Kinds};
use super::history::{History, Outcome};
use super::round::Round;
use crate::broker::reserve_port;
use crate::cutting_proxy::{CuttingProxy, Plan};
use crate::java::Tools;
use crate::random::Random;
use crate::server::{Product, Server};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

/// Produce, Fetch, OffsetFetch, FindCoordinator, InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn and
/// TxnOffsetCommit: all that a transaction is made of.
const CUT: &[i16] = &[0, 1, 9, 10, 22, 24, 25, 26, 28];

/// What to run.
#[derive(Clone, Debug)]
pub struct Series<'a> {
    /// Whose broker.
    pub product: Product<'a>,
    /// Each round has a seed of its own, drawn from this one and its number.
    pub seed: u64,
    /// Their numbers; the durability changes with every round.
    pub rounds: Range<u64>,
    /// In each round.
    pub faults: usize,
    /// Which.
    pub kinds: Kinds,
    /// Cuts clients' connections all the while.
    pub cuts: bool,
    /// Kafka's own copier takes part.
    pub java: Option<&'a Tools>,
}

/// A round with anomalies.
#[derive(Debug)]
pub struct Failure {
    /// Its number.
    pub round: u64,
    /// What is wrong.
    pub anomalies: Vec<Anomaly>,
    /// The evidence.
    pub history: History,
}

impl Series<'_> {
    /// Runs all rounds with the data in `folder`, printing a line for each; ends with the first that has anomalies.
    ///
    /// # Errors
    /// That round.
    ///
    /// # Panics
    /// When a round hangs, or the broker does not come back.
    pub fn run(&self, folder: &Path) -> Result<(), Box<Failure>> {
        // Transactions that nobody ends are looked for often, so that their timeouts fall into the round.
        let settings = [("transaction.abort.timed.out.transaction.cleanup.interval.ms", "200")];
        let proxy_port = self.cuts.then(reserve_port);
        let mut server = Server::new(self.product, folder, proxy_port, &settings);
        let plan = Plan::new(self.seed, CUT, 5..=60);
        let proxy = proxy_port.map(|port| CuttingProxy::start(port, server.address(), plan));
        for number in self.rounds.clone() {
            let durability = if number % 2 == 0 { "flushed" } else { "page_cache" };
            server.kill_9();
            server.set("klamm.durability", durability);
            server.start();
            let mut random = Random::of(self.seed).part(number);
            let faults = faults::plan(self.faults, self.kinds, &mut random);
            eprintln!("round {number} of seed {}, {durability}: {faults:?}", self.seed);
            let began = Instant::now();
            let round = Round { name: format!("round-{number}"), random, faults, java: self.java };
            let history = round.run(&mut server);
            let anomalies = check(&history);
            let cuts = proxy.as_ref().map(|proxy| format!(", cuts so far {:?}", proxy.cuts()));
            let cuts = cuts.unwrap_or_default();
            eprintln!(
                "  {:.1} s: {}{cuts}, {} anomalies",
                began.elapsed().as_secs_f64(),
                summary(&history),
                anomalies.len()
            );
            if !anomalies.is_empty() {
                return Err(Box::new(Failure { round: number, anomalies, history }));
            }
        }
        Ok(())
    }
}

fn summary(history: &History) -> String {
    let count = |outcome| history.transactions.values().filter(|of| of.outcome == outcome).count();
    let fenced = history.transactions.values().filter(|of| of.is_fenced).count();
    let copied: usize = history
        .copies
        .iter()
        .map(|copy| history.partitions.get(&copy.input).map_or(0, |reads| reads.committed.len()))
        .sum();
    format!(
        "{} committed, {} aborted ({fenced} fenced), {} unknown, {copied} records copied",
        count(Outcome::Committed),
        count(Outcome::Aborted),
        count(Outcome::Unknown)
    )
}
