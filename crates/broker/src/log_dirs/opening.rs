//! Opening and creating partitions, several at once after a kill.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_log::directory::{OffsetCheckpoint, partition_metadata};
use klamm_log::{Log, LogConfig, LogError, OpenLog, RecoveryReport, Tail};
use klamm_protocol::ids::{DirectoryId, LeaderEpoch, PartitionIndex, TopicId};
use klamm_protocol::time::WallMs;

use super::{Dir, LogDirs};
use crate::partition::{FlushPolicy, Partition};

/// Partitions opened at once after a kill: recovery reads much and computes little.
const OPEN_THREADS_MAX: usize = 4;
/// Fewer than this are opened on the calling thread.
const OPEN_PARALLEL_MIN: usize = 8;

/// A partition to open or to create.
pub(crate) struct Wanted {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) index: PartitionIndex,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) directory: DirectoryId,
    /// Nobody can have written to it yet.
    pub(crate) is_new: bool,
    pub(crate) config: LogConfig,
    pub(crate) flush_policy: FlushPolicy,
}

/// A partition that was asked for; `None` where its log cannot be opened.
pub(crate) type OpenedPartition = ((TopicId, PartitionIndex), Option<Arc<Partition>>);

impl LogDirs {
    /// Opens or creates partitions; `None` for one that fails, which is logged.
    pub(crate) fn open_all(
        &self,
        wanted: Vec<Wanted>,
        now: WallMs,
        run_parallel: impl FnOnce(&(dyn Fn() + Sync), usize),
    ) -> Vec<OpenedPartition> {
        let threads = if wanted.len() < OPEN_PARALLEL_MIN { 1 } else { OPEN_THREADS_MAX };
        let next = AtomicUsize::new(0);
        let opened = Mutex::new(Vec::with_capacity(wanted.len()));
        let work = || {
            while let Some(one) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let partition = self.open_one(one, now);
                opened.lock().expect("nothing panics in here").push(((one.topic_id, one.index), partition));
            }
        };
        run_parallel(&work, threads);
        opened.into_inner().expect("nothing panics in here")
    }

    fn open_one(&self, wanted: &Wanted, now: WallMs) -> Option<Arc<Partition>> {
        let place = self.place(wanted)?;
        let dir = &self.dirs[place];
        if dir.state.is_offline() {
            return None;
        }
        let key = (wanted.topic_id, wanted.index);
        let was_known = self.unopened().remove(&key);
        match self.open_log(dir, wanted, now) {
            Ok(mut log) => {
                // Before the first append of this epoch: (offset, epoch) pairs never repeat.
                if let Err(error) = log.assign_leader_epoch(wanted.leader_epoch) {
                    dir.has_failed.store(true, Ordering::Relaxed);
                    dir.state.note(&error);
                    tracing::error!(topic = %wanted.topic, partition = %wanted.index, %error, "cannot lead a partition");
                    return None;
                }
                Some(Partition::new(
                    wanted.topic.clone(),
                    wanted.topic_id,
                    wanted.index,
                    wanted.leader_epoch,
                    log,
                    wanted.flush_policy,
                    dir.state.clone(),
                ))
            }
            Err(error) => {
                dir.has_failed.store(true, Ordering::Relaxed);
                dir.state.note(&error);
                if is_full(&error) {
                    self.unopened().insert(key);
                }
                if !was_known {
                    tracing::error!(topic = %wanted.topic, partition = %wanted.index, %error, "cannot open a partition");
                }
                None
            }
        }
    }

    /// Gives what a full disk had no room for to the applier again; false if there is nothing.
    pub(crate) fn retry_unopened(&self) -> bool {
        let unopened = self.unopened().clone();
        unopened.iter().for_each(|(topic, index)| self.reopen(*topic, *index));
        !unopened.is_empty()
    }

    /// It was deleted meanwhile.
    pub(crate) fn forget_unopened(&self, topic: TopicId, index: PartitionIndex) {
        self.unopened().remove(&(topic, index));
    }

    fn unopened(&self) -> MutexGuard<'_, BTreeSet<(TopicId, PartitionIndex)>> {
        self.unopened.lock().expect("nothing panics in here")
    }

    fn open_log(&self, dir: &Dir, wanted: &Wanted, now: WallMs) -> Result<Log, LogError> {
        let path = dir.directory.partition_path(&wanted.topic, wanted.index);
        let key = (wanted.topic.to_string(), wanted.index);
        let mut is_there = self.disk.exists(&path).map_err(|source| LogError::Io {
            action: "look at",
            path: path.clone(),
            source,
        })?;
        if is_there
            && partition_metadata::read_intact(&*self.disk, &path)?
                .is_some_and(|found| found != wanted.topic_id)
        {
            self.set_aside(dir, &wanted.topic, wanted.index)?;
            is_there = false;
        }
        if !is_there {
            // What checkpoints say of an earlier topic of this name is not this one's.
            dir.forget_checkpoints(&wanted.topic, wanted.index)?;
        }
        let (recovery_point, log_start) = {
            let known = dir.checkpoints.lock().expect("nothing panics in here");
            let of = |offsets: &OffsetCheckpoint| offsets.get(&key).copied().unwrap_or_default();
            (of(&known.recovery_points), of(&known.log_starts))
        };
        let open = OpenLog {
            disk: self.disk.clone(),
            dir: path,
            topic_id: wanted.topic_id,
            config: wanted.config.clone(),
            recovery_point,
            log_start,
            high_watermark: None,
            was_clean: dir.was_clean,
            now,
        };
        if !is_there {
            return Log::create(open);
        }
        let (log, report) = Log::open(open)?;
        log_report(&report);
        Ok(log)
    }
}

fn is_full(error: &LogError) -> bool {
    matches!(error, LogError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
}

/// Tells what opening a log found.
pub(crate) fn log_report(report: &RecoveryReport) {
    for path in report.leftovers.iter().chain(&report.bad_snapshots) {
        // Every stop leaves files whose time had not come yet.
        if path.extension().is_some_and(|suffix| suffix == "deleted") {
            tracing::info!(path = %path.display(), "removed a deleted file");
        } else {
            tracing::warn!(path = %path.display(), "tidied up what an earlier stop left");
        }
    }
    for path in &report.rebuilt_indexes {
        tracing::warn!(path = %path.display(), "was missing or wrong: rebuilt");
    }
    for path in &report.ignored {
        tracing::warn!(path = %path.display(), "says what cannot be: left out of account");
    }
    for place in &report.corrupt {
        tracing::error!(
            path = %place.path.display(), position = place.position, reason = place.reason,
            "corrupt below the recovery point: the bytes stay, reading them is answered with CORRUPT_MESSAGE"
        );
    }
    for cut in &report.truncations {
        let path = cut.path.display();
        match &cut.tail {
            Tail::Zeros => {}
            Tail::Torn(reason) => {
                tracing::warn!(%path, position = cut.position, removed_bytes = cut.removed_bytes, reason, "cut a torn tail");
            }
            Tail::Corrupt { reason, kept } => {
                tracing::error!(
                    %path, position = cut.position, removed_bytes = cut.removed_bytes, reason,
                    kept = %kept.display(),
                    "corrupt: an invalid batch has valid ones behind it; the tail was set aside, not lost"
                );
            }
        }
    }
}
