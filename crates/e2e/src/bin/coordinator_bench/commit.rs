//! OffsetCommit at depth, by clients that are no members.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::wire::WireStr;
use tokio::task::JoinSet;

use super::Broker;
use super::connection::{Connection, expect_success, is_coordinator_coming};
use super::topics;
use klamm_e2e::usage::Sample;

/// The newest that has topics by name: also what librdkafka sends.
const VERSION: i16 = 9;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    broker: Broker,
    /// Groups that commit in turn.
    #[arg(long, default_value_t = 1000)]
    groups: usize,
    /// Partitions in each request.
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Measured, after two seconds that are not.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value = "coordinator-bench-commit")]
    topic: String,
}

pub async fn run(options: Options) -> Result<()> {
    const WARM_UP: Duration = Duration::from_secs(2);
    let address = options.broker.bootstrap;
    let mut admin = Connection::open(address).await?;
    topics::create(&mut admin, &options.topic, options.partitions).await?;
    let groups: Arc<[WireStr]> = topics::group_ids("commit", options.groups).into();
    topics::wait_for_coordinators(&mut admin, &groups).await?;
    once_each(address, &options.topic, options.partitions, &groups).await?;

    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs(options.seconds);
    let mut clients = JoinSet::new();
    for index in 0..options.connections {
        let mut client = Client {
            connection: Connection::open(address).await?,
            request: request(&options.topic, options.partitions),
            groups: groups.clone(),
            next_group: index * options.groups / options.connections,
            latencies: Vec::new(),
        };
        clients.spawn(async move {
            client.commit(options.depth, from, until).await?;
            anyhow::Ok(client.latencies)
        });
    }
    tokio::time::sleep_until(from.into()).await;
    let sample = Sample::now(options.broker.pid)?;
    tokio::time::sleep_until(until.into()).await;
    let (cpu, wall) = sample.elapsed()?;
    let mut latencies = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies.append(&mut client??);
    }
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |share: f64| latencies[((count - 1) as f64 * share) as usize].as_micros();
    println!(
        "commit: {count} requests of {} partitions in {:.1} s: {:.0} requests/s, \
         broker CPU {:.2} us a request ({:.0} % of a core), p50 {} us, p99 {} us",
        options.partitions,
        wall.as_secs_f64(),
        count as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
        cpu.as_secs_f64() / wall.as_secs_f64() * 100.0,
        at(0.5),
        at(0.99),
    );
    Ok(())
}

/// Every group commits once, however long its coordinator needs to come.
pub async fn once_each(
    address: SocketAddr,
    topic: &str,
    partition_count: i32,
    groups: &[WireStr],
) -> Result<()> {
    const IN_FLIGHT: usize = 64;
    const RETRY: Duration = Duration::from_millis(10);
    let mut lanes = JoinSet::new();
    for lane in groups.chunks(groups.len().div_ceil(IN_FLIGHT)) {
        let mut connection = Connection::open(address).await?;
        let mut request = request(topic, partition_count);
        let lane = lane.to_vec();
        lanes.spawn(async move {
            for group in lane {
                request.group_id = group;
                while !try_commit(&mut connection, &request).await? {
                    tokio::time::sleep(RETRY).await;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    Ok(())
}

/// False while the coordinator is coming.
async fn try_commit(connection: &mut Connection, request: &OffsetCommitRequest) -> Result<bool> {
    let answer = connection.call(VERSION, request).await?;
    for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
        if is_coordinator_coming(partition.error_code) {
            return Ok(false);
        }
        expect_success("commit an offset", partition.error_code)?;
    }
    Ok(true)
}

/// A commit without a group: that is put in.
fn request(topic: &str, partition_count: i32) -> OffsetCommitRequest {
    let partition = |index| OffsetCommitRequestPartition {
        partition_index: index,
        committed_offset: 1,
        committed_leader_epoch: -1,
        committed_metadata: Some(WireStr::default()),
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic {
        name: WireStr::from(topic.to_owned()),
        partitions: (0..partition_count).map(partition).collect(),
        ..Default::default()
    };
    OffsetCommitRequest {
        generation_id_or_member_epoch: -1,
        retention_time_ms: -1,
        topics: vec![topic],
        ..Default::default()
    }
}

struct Client {
    connection: Connection,
    request: OffsetCommitRequest,
    groups: Arc<[WireStr]>,
    next_group: usize,
    latencies: Vec<Duration>,
}

impl Client {
    /// Keeps `depth` requests in flight; what was answered between `from` and `until` counts.
    async fn commit(&mut self, depth: usize, from: Instant, until: Instant) -> Result<()> {
        let mut in_flight = std::collections::VecDeque::with_capacity(depth);
        loop {
            while in_flight.len() < depth {
                self.send().await?;
                in_flight.push_back(Instant::now());
            }
            let answer = self.connection.receive::<OffsetCommitRequest>(VERSION).await?;
            for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
                expect_success("commit an offset", partition.error_code)?;
            }
            let now = Instant::now();
            let sent = in_flight.pop_front().unwrap_or(now);
            if now >= until {
                return Ok(());
            }
            if now >= from {
                self.latencies.push(now - sent);
            }
        }
    }

    async fn send(&mut self) -> Result<()> {
        self.request.group_id = self.groups[self.next_group % self.groups.len()].clone();
        self.next_group += 1;
        for partition in self.request.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.committed_offset += 1;
        }
        self.connection.send(VERSION, &self.request).await
    }
}
