//! Producers that each commit one transaction after another: a batch, then its end.
//!
//! With version 2 (KIP-890) the batch joins its partition by itself; before it AddPartitionsToTxn
//! comes first. What is told to come again comes again after what Java's client waits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use klamm_protocol::messages::end_txn::EndTxnRequest;
use klamm_protocol::messages::find_coordinator::FindCoordinatorRequest;
use klamm_protocol::messages::init_producer_id::InitProducerIdRequest;
use klamm_protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use klamm_protocol::records::BatchBuilder;
use klamm_protocol::wire::{Records, WireStr};
use tokio::task::JoinSet;

use super::Broker;
use super::connection::{Connection, expect_success, is_coordinator_coming};
use super::topics;
use klamm_e2e::usage::Sample;

/// What Java's client waits before it asks again whether the last transaction is over.
const RETRY: Duration = Duration::from_millis(20);
const TRANSACTION_KEY: i8 = 1;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    broker: Broker,
    /// Each with a transactional id, a connection and a partition of its own.
    #[arg(long, default_value_t = 8)]
    producers: usize,
    /// Records in each transaction.
    #[arg(long, default_value_t = 1)]
    records: usize,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// 1: partitions are added by request; 2: an epoch for each transaction.
    #[arg(long, default_value_t = 2)]
    version: i16,
    /// Measured, after two seconds that are not.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value = "coordinator-bench-transaction")]
    topic: String,
}

pub async fn run(options: Options) -> Result<()> {
    const WARM_UP: Duration = Duration::from_secs(2);
    let address = options.broker.bootstrap;
    let mut admin = Connection::open(address).await?;
    topics::create(&mut admin, &options.topic, i32::try_from(options.producers)?).await?;
    let ids = topics::group_ids("transaction", options.producers);
    let mut producers = Vec::new();
    for (partition, id) in (0..).zip(ids) {
        let connection = Connection::open(address).await?;
        producers.push(Producer::begin(connection, id, partition, &options).await?);
    }
    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs(options.seconds);
    let mut running = JoinSet::new();
    for mut producer in producers {
        let payload = vec![b'x'; options.bytes];
        let records = options.records;
        running.spawn(async move {
            while Instant::now() < until {
                producer.transaction(&payload, records, from).await?;
            }
            anyhow::Ok(producer.seen)
        });
    }
    tokio::time::sleep_until(from.into()).await;
    let sample = Sample::now(options.broker.pid)?;
    tokio::time::sleep_until(until.into()).await;
    let (cpu, wall) = sample.elapsed()?;
    let mut seen = Seen::default();
    while let Some(one) = running.join_next().await {
        let one = one??;
        seen.commits.extend(one.commits);
        seen.transactions.extend(one.transactions);
        seen.retry_count += one.retry_count;
    }
    seen.commits.sort_unstable();
    seen.transactions.sort_unstable();
    let count = seen.commits.len();
    if count == 0 {
        bail!("not one transaction in {} s", options.seconds);
    }
    let at = |of: &[Duration], share: f64| of[((count - 1) as f64 * share) as usize].as_micros();
    println!(
        "transaction version {}: {count} of {} records by {} producers in {:.1} s: {:.0} transactions/s, \
         broker CPU {:.1} us each ({:.0} % of a core), commit p50 {} us, p99 {} us, \
         all of it p50 {} us, p99 {} us, {} retries",
        options.version,
        options.records,
        options.producers,
        wall.as_secs_f64(),
        count as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
        cpu.as_secs_f64() / wall.as_secs_f64() * 100.0,
        at(&seen.commits, 0.5),
        at(&seen.commits, 0.99),
        at(&seen.transactions, 0.5),
        at(&seen.transactions, 0.99),
        seen.retry_count,
    );
    Ok(())
}

#[derive(Default)]
struct Seen {
    /// From EndTxn to its answer.
    commits: Vec<Duration>,
    /// From the first request to that answer.
    transactions: Vec<Duration>,
    retry_count: usize,
}

struct Producer {
    connection: Connection,
    transactional_id: WireStr,
    topic: WireStr,
    partition: i32,
    version: i16,
    id: i64,
    epoch: i16,
    next_sequence: i32,
    seen: Seen,
}

impl Producer {
    async fn begin(
        mut connection: Connection,
        transactional_id: WireStr,
        partition: i32,
        options: &Options,
    ) -> Result<Self> {
        let find = FindCoordinatorRequest {
            key_type: TRANSACTION_KEY,
            coordinator_keys: vec![transactional_id.clone()],
            ..Default::default()
        };
        let init = InitProducerIdRequest {
            transactional_id: Some(transactional_id.clone()),
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let begun = loop {
            let found = connection.call(4, &find).await?;
            let code = found.coordinators.first().context("no coordinator in the answer")?.error_code;
            if is_coordinator_coming(code) {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            expect_success("find the coordinator", code)?;
            let answer = connection.call(4, &init).await?;
            if is_coordinator_coming(answer.error_code) {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            expect_success("begin a producer", answer.error_code)?;
            break answer;
        };
        Ok(Self {
            connection,
            transactional_id,
            topic: WireStr::from(options.topic.clone()),
            partition,
            version: options.version,
            id: begun.producer_id,
            epoch: begun.producer_epoch,
            next_sequence: 0,
            seen: Seen::default(),
        })
    }

    async fn transaction(&mut self, payload: &[u8], record_count: usize, from: Instant) -> Result<()> {
        let begun = Instant::now();
        if self.version < 2 {
            self.add_partition().await?;
        }
        self.produce(payload, record_count).await?;
        let ending = Instant::now();
        self.end().await?;
        let now = Instant::now();
        if begun >= from {
            self.seen.commits.push(now - ending);
            self.seen.transactions.push(now - begun);
        }
        Ok(())
    }

    async fn add_partition(&mut self) -> Result<()> {
        let topic = AddPartitionsToTxnTopic {
            name: self.topic.clone(),
            partitions: vec![self.partition],
            ..Default::default()
        };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.transactional_id.clone(),
            v3_and_below_producer_id: self.id,
            v3_and_below_producer_epoch: self.epoch,
            v3_and_below_topics: vec![topic],
            ..Default::default()
        };
        loop {
            let answer = self.connection.call(3, &request).await?;
            let topics = answer.results_by_topic_v3_and_below;
            let result = topics.first().and_then(|topic| topic.results_by_partition.first());
            if !self.shall_retry(result.context("no partition in the answer")?.partition_error_code).await? {
                return Ok(());
            }
        }
    }

    async fn produce(&mut self, payload: &[u8], record_count: usize) -> Result<()> {
        let mut batch = BatchBuilder::new()
            .producer(ProducerId(self.id), ProducerEpoch(self.epoch), self.next_sequence)
            .transactional();
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        for _ in 0..record_count {
            batch.push(i64::try_from(now_ms)?, None, Some(payload), &[]);
        }
        let data = PartitionProduceData {
            index: self.partition,
            records: Some(Records::Inline(batch.build())),
            ..Default::default()
        };
        let topic =
            TopicProduceData { name: self.topic.clone(), partition_data: vec![data], ..Default::default() };
        let request = ProduceRequest {
            transactional_id: Some(self.transactional_id.clone()),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![topic],
            ..Default::default()
        };
        let version = if self.version < 2 { 11 } else { 12 };
        loop {
            let answer = self.connection.call(version, &request).await?;
            let result = answer.responses.first().and_then(|topic| topic.partition_responses.first());
            if !self.shall_retry(result.context("no partition in the answer")?.error_code).await? {
                break;
            }
        }
        self.next_sequence += i32::try_from(record_count)?;
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        let request = EndTxnRequest {
            transactional_id: self.transactional_id.clone(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            committed: true,
            ..Default::default()
        };
        let version = if self.version < 2 { 4 } else { 5 };
        let answer = self.connection.call(version, &request).await?;
        expect_success("commit", answer.error_code)?;
        if self.version >= 2 {
            (self.id, self.epoch, self.next_sequence) = (answer.producer_id, answer.producer_epoch, 0);
        }
        Ok(())
    }

    async fn shall_retry(&mut self, code: i16) -> Result<bool> {
        // The last of these: the topic was just created.
        let is_too_early = matches!(
            ErrorCode::from_code(code),
            Some(
                ErrorCode::ConcurrentTransactions
                    | ErrorCode::NotEnoughReplicas
                    | ErrorCode::NotLeaderOrFollower
            )
        );
        if !is_too_early {
            expect_success("write", code)?;
            return Ok(false);
        }
        self.seen.retry_count += 1;
        tokio::time::sleep(RETRY).await;
        Ok(true)
    }
}
