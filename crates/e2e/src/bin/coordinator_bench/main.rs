//! Load for coordinators, over the wire, against any broker: how well groups and transactions scale, and what
//! they cost.
//!
//! `coordinator_bench idle|join|join-consumer|commit|load|transaction --help` says what each measures. It speaks the protocol itself, so
//! the same requests go to every broker, and one process can be tens of thousands of members. What it deliberately does
//! not do: judge. It prints what it saw; `docs/performance.md` has the targets and how the brokers are configured.
//!
//! Invariant: an answer that is not what a healthy broker gives ends the run with an error.

mod classic_member;
mod commit;
mod connection;
mod consumer_member;
mod idle;
mod join;
mod join_consumer;
mod load;
mod topics;
mod transaction;

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Load for coordinators, over the wire.
#[derive(Parser)]
#[command(name = "coordinator_bench")]
struct Arguments {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// Many groups of either protocol whose members only heartbeat: broker CPU as percent of a core.
    Idle(idle::Options),
    /// One classic group that all members join at once: time until each has its assignment.
    Join(join::Options),
    /// The same by KIP-848: time to the target assignment, and until every member has reached it.
    JoinConsumer(join_consumer::Options),
    /// OffsetCommit at depth: requests a second, and broker CPU a request.
    Commit(commit::Options),
    /// Commits many offsets, kills the broker, starts it again: time until every group answers.
    Load(load::Options),
    /// Transactions of a few records, one after another: how many a second, how long a commit takes, broker CPU.
    Transaction(transaction::Options),
}

/// Where the broker is.
#[derive(Args, Clone)]
struct Broker {
    /// Its address.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9092")]
    bootstrap: SocketAddr,
    /// Its process, for the CPU it uses.
    #[arg(long)]
    pid: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().workload {
        Workload::Idle(options) => idle::run(options).await,
        Workload::Join(options) => join::run(options).await,
        Workload::JoinConsumer(options) => join_consumer::run(options).await,
        Workload::Commit(options) => commit::run(options).await,
        Workload::Load(options) => load::run(options).await,
        Workload::Transaction(options) => transaction::run(options).await,
    }
}
