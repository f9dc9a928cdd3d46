//! Keeps logs within their limits in the background: retention, and the end of deleted files.
//!
//! Every `log.retention.check.interval.ms` each partition is looked at. What goes, by retention
//! or by DeleteRecords, leaves the view in the partition's turn; here the new log starts are
//! written down, the files renamed, and removed `file.delete.delay.ms` later.
//!
//! What it deliberately does not do: decide (that is klamm-log's), compact, finish what waits
//! when the broker stops (the next start does).
//!
//! **Invariants:** files are touched only where it may block, never in a partition's turn; a log's
//! start is durable before its files are renamed, or else each rename before the next: a full
//! disk does not keep retention from freeing it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_cluster::config::TopicConfig;
use klamm_log::{HeadCut, Removal, RetentionLimits};
use klamm_protocol::ids::{PartitionIndex, TopicId};
use klamm_protocol::time::{MonoMs, WallMs};
use tokio::sync::{Notify, watch};

use crate::broker::Broker;
use crate::host::{Host, Pool};
use crate::partition::Partition;

/// Partitions looked at in one job where it may block.
const PARTITIONS_PER_JOB: usize = 256;
/// A timestamp so far ahead keeps a segment long enough to be worth a line in the log: the
/// default of `message.timestamp.after.max.ms`.
const FUTURE_MS_WORTH_TELLING: i64 = 3_600_000;

/// Where segments that left a log are left for their files' end. Holds at most what logs held.
#[derive(Default)]
pub(crate) struct Removals {
    left: Mutex<Vec<Leaving>>,
    arrived: Notify,
}

/// Segments of one partition that are out of its view.
struct Leaving {
    partition: Arc<Partition>,
    removal: Removal,
    delay_ms: u64,
}

/// A partition with what its topic's configuration demands.
struct Candidate {
    partition: Arc<Partition>,
    limits: RetentionLimits,
    delay_ms: u64,
}

struct LogManager<H: Host> {
    broker: Arc<Broker<H>>,
    /// Renamed files, by the time of their removal; the number tells those of one time apart.
    waiting: BTreeMap<(MonoMs, u64), Removal>,
    next_number: u64,
    /// Timestamps of the future that were told.
    told: BTreeMap<(TopicId, PartitionIndex), i64>,
}

impl Removals {
    /// Takes over what has left `partition`'s view; its files go `delay_ms` after they are renamed.
    pub(crate) fn leave(&self, partition: Arc<Partition>, removal: Removal, delay_ms: u64) {
        if !removal.is_empty() {
            self.left().push(Leaving { partition, removal, delay_ms });
            self.arrived.notify_one();
        }
    }

    fn left(&self) -> MutexGuard<'_, Vec<Leaving>> {
        self.left.lock().expect("no holder panics")
    }
}

/// `file.delete.delay.ms`.
pub(crate) fn delete_delay_ms(config: &TopicConfig) -> u64 {
    u64::try_from(config.file_delete_delay_ms).unwrap_or(0)
}

fn limits_of(config: &TopicConfig) -> RetentionLimits {
    match config.cleanup_policy.delete {
        true => RetentionLimits {
            bytes_max: u64::try_from(config.retention_bytes).ok(),
            age_ms_max: (config.retention_ms >= 0).then_some(config.retention_ms),
        },
        // What lies below the log start goes all the same.
        false => RetentionLimits::default(),
    }
}

/// Runs until the broker stops.
pub(crate) async fn run<H: Host>(broker: Arc<Broker<H>>, mut stop: watch::Receiver<bool>) {
    let removals = broker.removals.clone();
    let interval_ms = broker.config.log_retention_check_interval_ms;
    let mut next_check = broker.host.mono().plus_ms(broker.config.log_initial_task_delay_ms);
    let mut manager = LogManager { broker, waiting: BTreeMap::new(), next_number: 0, told: BTreeMap::new() };
    loop {
        let due = manager.waiting.keys().next().map_or(next_check, |(due, _)| next_check.min(*due));
        tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = removals.arrived.notified() => {}
            () = manager.broker.host.sleep_until(due) => {}
        }
        let left = std::mem::take(&mut *removals.left());
        if !left.is_empty() {
            manager.mark(left).await;
        }
        manager.unlink_due().await;
        if manager.broker.host.mono() >= next_check {
            manager.check_all(&stop).await;
            next_check = manager.broker.host.mono().plus_ms(interval_ms);
        }
    }
}

impl<H: Host> LogManager<H> {
    async fn check_all(&mut self, stop: &watch::Receiver<bool>) {
        let mut candidates = Vec::new();
        for topic in self.broker.topics.load().topics() {
            let config = topic.config.load();
            let (limits, delay_ms) = (limits_of(&config), delete_delay_ms(&config));
            let partitions = topic.partitions.load();
            let of =
                |partition: &Arc<Partition>| Candidate { partition: partition.clone(), limits, delay_ms };
            candidates.extend(partitions.iter().flatten().filter(|one| !one.is_offline()).map(of));
        }
        let mut told = BTreeMap::new();
        while !candidates.is_empty() && !*stop.borrow() {
            let rest = candidates.split_off(candidates.len().min(PARTITIONS_PER_JOB));
            let job = std::mem::replace(&mut candidates, rest);
            let now = self.broker.host.wall();
            let decided = self.broker.host.offload(Pool::ColdRead, move || decide(job, now)).await;
            for (candidate, cut) in decided {
                if let Some(timestamp) = cut.future_timestamp {
                    let key = (candidate.partition.topic_id, candidate.partition.index);
                    if self.told.get(&key) != Some(&timestamp) {
                        tell_of_future(&candidate.partition, timestamp, now);
                    }
                    told.insert(key, timestamp);
                }
                if cut.segment_count() > 0 {
                    self.cut(candidate, cut, now).await;
                }
            }
        }
        self.told = told;
    }

    async fn cut(&self, candidate: Candidate, cut: HeadCut, now: WallMs) {
        let Candidate { partition, delay_ms, .. } = candidate;
        let (of, removals) = (partition.clone(), self.broker.removals.clone());
        let job = move |log: &mut klamm_log::Log| {
            let removal = log.cut_head(&cut, now)?;
            let gone = (removal.segment_count(), removal.size_bytes());
            removals.leave(of, removal, delay_ms);
            Ok::<_, klamm_log::LogError>(gone)
        };
        match partition.with_log_offloaded(&self.broker.host, job).await {
            None => {}
            Some(Ok((segments, bytes))) => tracing::info!(
                topic = %partition.topic, partition = %partition.index, segments, bytes,
                log_start = cut.log_start.0, by_size = cut.by_size, by_age = cut.by_age,
                "retention lets segments go"
            ),
            Some(Err(error)) => {
                partition.dir().note(&error);
                tracing::error!(topic = %partition.topic, partition = %partition.index, %error, "retention failed");
            }
        }
    }

    /// Writes the log starts down, then renames.
    async fn mark(&mut self, all: Vec<Leaving>) {
        for one in &all {
            self.broker.metrics.deleted_segments.inc_by(one.removal.segment_count() as u64);
            self.broker.metrics.deleted_bytes.inc_by(one.removal.size_bytes());
        }
        let dirs = self.broker.dirs.clone();
        let job = move || {
            let moved: Vec<_> = all.iter().map(|one| one.partition.clone()).collect();
            let is_durable = dirs.checkpoint_log_starts(&moved);
            let marked = all.into_iter().zip(is_durable).filter_map(|(one, is_durable)| {
                match one.removal.mark(is_durable) {
                    Ok(()) => Some((one.removal, one.delay_ms)),
                    Err(error) => {
                        one.partition.dir().note(&error);
                        let (topic, partition) = (&one.partition.topic, one.partition.index);
                        tracing::error!(
                            %topic, %partition, %error,
                            "cannot rename deleted segments; the next start removes them"
                        );
                        None
                    }
                }
            });
            marked.collect::<Vec<_>>()
        };
        let marked = self.broker.host.offload(Pool::Flush, job).await;
        let now = self.broker.host.mono();
        for (removal, delay_ms) in marked {
            self.waiting.insert((now.plus_ms(delay_ms), self.next_number), removal);
            self.next_number += 1;
        }
    }

    async fn unlink_due(&mut self) {
        let later = self.waiting.split_off(&(self.broker.host.mono().plus_ms(1), 0));
        let due = std::mem::replace(&mut self.waiting, later);
        if due.is_empty() {
            return;
        }
        let job = move || {
            for removal in due.into_values() {
                if let Err(error) = removal.unlink() {
                    tracing::warn!(%error, "cannot remove a deleted segment; the next start tries again");
                }
            }
        };
        self.broker.host.offload(Pool::Flush, job).await;
    }
}

fn decide(job: Vec<Candidate>, now: WallMs) -> Vec<(Candidate, HeadCut)> {
    let decided = job.into_iter().filter_map(|candidate| {
        match candidate.partition.view.decide_retention(&candidate.limits, now) {
            Ok(cut) => Some((candidate, cut)),
            Err(error) => {
                let (topic, partition) = (&candidate.partition.topic, candidate.partition.index);
                tracing::error!(%topic, %partition, %error, "retention cannot tell a segment's age");
                None
            }
        }
    });
    decided.filter(|(_, cut)| cut.segment_count() > 0 || cut.future_timestamp.is_some()).collect()
}

fn tell_of_future(partition: &Partition, timestamp: i64, now: WallMs) {
    if timestamp.saturating_sub(now.0) > FUTURE_MS_WORTH_TELLING {
        tracing::warn!(
            topic = %partition.topic, partition = %partition.index, timestamp_ms = timestamp,
            "a record's timestamp lies in the future: its segment and all behind it stay until retention.ms \
             after that; message.timestamp.after.max.ms refuses such records"
        );
    }
}
