//! The broker's log directories (`log.dirs`): which partition lies where, opening, deleting, checkpoints.
//!
//! Synchronous; called where it may block. What it deliberately does not do yet: retention,
//! taking a failed directory offline alone, moving partitions.
//!
//! **Invariants:** every directory is locked for as long as this lives, and carries
//! this cluster's and node's ids; the clean-shutdown marker is removed durably before the
//! first write and written last.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use klamm_cluster::metadata_log::METADATA_DIRECTORY;
use klamm_log::directory::{
    CleanShutdown, DirectoryKind, LogDirectory, MetaProperties, OffsetCheckpoint, PartitionDirectory,
};
use klamm_log::disk::Disk;
use klamm_log::{Log, LogConfig, LogError, OpenLog, Tail};
use klamm_protocol::ids::{
    BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId, Uuid,
};
use klamm_protocol::time::WallMs;

use crate::host::DirPressure;
use crate::partition::Partition;
use crate::partition::registry::TopicIndex;

/// Partitions opened at once after a kill: recovery reads much and computes little.
const OPEN_THREADS_MAX: usize = 4;
/// Fewer than this are opened on the calling thread.
const OPEN_PARALLEL_MIN: usize = 8;

/// Why the directories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogDirsError {
    /// A directory or one of its files.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Another node's data.
    #[error(
        "{} belongs to node.id={found}, this node has node.id={expected}; point log.dirs elsewhere, or set node.id={found}",
        path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// As it says.
        found: NodeId,
        /// As configured.
        expected: NodeId,
    },
    /// Two directories of two clusters.
    #[error(
        "{} belongs to cluster {found}, {} to cluster {expected}; use directories of one cluster",
        path.display(),
        first.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// As it says.
        found: String,
        /// The directory that decides.
        first: PathBuf,
        /// As that one says.
        expected: String,
    },
    /// Files that are not ours, and no `meta.properties`.
    #[error(
        "{} is not empty and has no meta.properties: it is no log directory; name an empty or new directory in log.dirs",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
}

/// A partition to open or to create.
pub(crate) struct Wanted {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) index: PartitionIndex,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) directory: DirectoryId,
    pub(crate) config: LogConfig,
}

/// A partition that was asked for; `None` where its log cannot be opened.
pub(crate) type OpenedPartition = ((TopicId, PartitionIndex), Option<Arc<Partition>>);

struct Dir {
    directory: LogDirectory,
    id: DirectoryId,
    pressure: Arc<DirPressure>,
    was_clean: bool,
    recovery_points: OffsetCheckpoint,
    log_starts: OffsetCheckpoint,
    partition_count: AtomicUsize,
}

/// Every log directory of this broker.
pub(crate) struct LogDirs {
    disk: Arc<dyn Disk>,
    dirs: Vec<Dir>,
    cluster_id: String,
    previous_epoch: Option<BrokerEpoch>,
    /// Where each partition lies; also of those that an earlier process left.
    places: Mutex<BTreeMap<(Arc<str>, PartitionIndex), usize>>,
}

impl LogDirs {
    /// Locks and reads the directories; makes what is new. `draw` gives ids.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        paths: &[PathBuf],
        node: NodeId,
        mut draw: impl FnMut() -> Uuid,
    ) -> Result<Self, LogDirsError> {
        let mut opened = Vec::with_capacity(paths.len());
        for path in paths {
            let is_new = is_absent_or_empty(&*disk, path)?;
            // Looked at before the lock file is made: a foreign directory stays as it was.
            if !is_new
                && !disk.exists(&path.join("meta.properties")).map_err(|error| io_error(path, error))?
            {
                return Err(LogDirsError::Foreign { path: path.clone() });
            }
            let directory = LogDirectory::open(disk.clone(), path)?;
            let properties = directory.meta_properties()?;
            opened.push((directory, properties));
        }
        let decided = opened.iter().find_map(|(directory, properties)| {
            Some((directory.path().to_owned(), properties.as_ref()?.cluster_id.clone()))
        });
        let cluster_id = decided.as_ref().map_or_else(|| draw().to_string(), |(_, id)| id.clone());
        for (directory, properties) in &opened {
            let Some(properties) = properties else { continue };
            let path = directory.path().to_owned();
            if properties.node_id != node {
                return Err(LogDirsError::OtherNode { path, found: properties.node_id, expected: node });
            }
            if let Some((first, expected)) = decided.clone().filter(|(_, id)| *id != properties.cluster_id) {
                let found = properties.cluster_id.clone();
                return Err(LogDirsError::OtherCluster { path, found, first, expected });
            }
        }
        // A stop is clean only if every directory says so.
        let mut previous_epochs = Vec::new();
        let mut dirs = Vec::with_capacity(opened.len());
        for (directory, properties) in opened {
            let id = match properties.as_ref().and_then(|properties| properties.directory_id) {
                Some(id) => id,
                None => DirectoryId(draw()),
            };
            if properties.as_ref().and_then(|properties| properties.directory_id).is_none() {
                let others = properties.map(|properties| properties.others).unwrap_or_default();
                directory.write_meta_properties(&MetaProperties {
                    cluster_id: cluster_id.clone(),
                    node_id: node,
                    directory_id: Some(id),
                    others,
                })?;
            }
            let clean = directory.clean_shutdown()?;
            previous_epochs.push(clean.map(|clean| clean.broker_epoch));
            let recovery_points = directory.recovery_points().unwrap_or_else(|error| {
                tracing::warn!(%error, "recovering every log from its start");
                OffsetCheckpoint::new()
            });
            let log_starts = directory.log_starts().unwrap_or_else(|error| {
                tracing::warn!(%error, "deleted records whose segments are still there come back");
                OffsetCheckpoint::new()
            });
            dirs.push(Dir {
                id,
                pressure: Arc::default(),
                was_clean: clean.is_some(),
                recovery_points,
                log_starts,
                partition_count: AtomicUsize::new(0),
                directory,
            });
        }
        let previous_epoch = previous_epochs.iter().copied().min().flatten();
        Ok(Self { disk, dirs, cluster_id, previous_epoch, places: Mutex::default() })
    }

    /// Removes the clean-shutdown markers and finds the partitions: the last step before writing.
    pub(crate) fn begin(&self) -> Result<(), LogError> {
        let mut places = BTreeMap::new();
        for (place, dir) in self.dirs.iter().enumerate() {
            dir.directory.remove_clean_shutdown()?;
            for found in dir.directory.partitions()? {
                match found.kind {
                    _ if found.name == METADATA_DIRECTORY => {}
                    DirectoryKind::Live => {
                        places.insert((Arc::from(found.topic), found.partition), place);
                    }
                    // A deletion that a stop interrupted.
                    DirectoryKind::Delete => dir.directory.remove_partition(&found.name)?,
                    DirectoryKind::Stray | DirectoryKind::Future => {}
                }
            }
        }
        *self.places.lock().expect("nothing panics in here") = places;
        Ok(())
    }

    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The broker epoch of a clean stop; `None` after a kill or in a new directory.
    pub(crate) fn previous_epoch(&self) -> Option<BrokerEpoch> {
        self.previous_epoch
    }

    pub(crate) fn ids(&self) -> Vec<DirectoryId> {
        self.dirs.iter().map(|dir| dir.id).collect()
    }

    /// The directory with the metadata log: the first, as in Kafka without `metadata.log.dir`.
    pub(crate) fn metadata_path(&self) -> PathBuf {
        self.dirs[0].directory.path().join(METADATA_DIRECTORY)
    }

    /// The identity of the directory with the metadata log.
    pub(crate) fn metadata_directory_id(&self) -> DirectoryId {
        self.dirs[0].id
    }

    /// True if the last stop was clean for the metadata log's directory.
    pub(crate) fn was_metadata_clean(&self) -> bool {
        self.dirs[0].was_clean
    }

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
        let place = self.place(wanted);
        let dir = &self.dirs[place];
        match self.open_log(dir, wanted, now) {
            Ok(mut log) => {
                // Before the first append of this epoch: (offset, epoch) pairs never repeat.
                if let Err(error) = log.assign_leader_epoch(wanted.leader_epoch) {
                    tracing::error!(topic = %wanted.topic, partition = %wanted.index, %error, "cannot lead a partition");
                    return None;
                }
                Some(Partition::new(
                    wanted.topic.clone(),
                    wanted.topic_id,
                    wanted.index,
                    wanted.leader_epoch,
                    log,
                    dir.pressure.clone(),
                ))
            }
            Err(error) => {
                tracing::error!(topic = %wanted.topic, partition = %wanted.index, %error, "cannot open a partition");
                None
            }
        }
    }

    fn open_log(&self, dir: &Dir, wanted: &Wanted, now: WallMs) -> Result<Log, LogError> {
        let path = dir.directory.partition_path(&wanted.topic, wanted.index);
        let key = (wanted.topic.to_string(), wanted.index);
        let is_there = self.disk.exists(&path).map_err(|source| LogError::Io {
            action: "look at",
            path: path.clone(),
            source,
        })?;
        let open = OpenLog {
            disk: self.disk.clone(),
            dir: path,
            topic_id: wanted.topic_id,
            config: wanted.config.clone(),
            recovery_point: dir.recovery_points.get(&key).copied().unwrap_or_default(),
            log_start: dir.log_starts.get(&key).copied().unwrap_or_default(),
            high_watermark: None,
            was_clean: dir.was_clean,
            now,
        };
        if !is_there {
            // What checkpoints say of an earlier topic of this name is not this one's.
            return Log::create(OpenLog { recovery_point: Offset(0), log_start: Offset(0), ..open });
        }
        let (log, report) = Log::open(open)?;
        for path in report.leftovers.iter().chain(&report.bad_snapshots) {
            tracing::warn!(path = %path.display(), "tidied up what an earlier stop left");
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
        Ok(log)
    }

    /// Where a partition lies, or shall lie: as on disk, as the metadata says, or where there is least.
    fn place(&self, wanted: &Wanted) -> usize {
        let mut places = self.places.lock().expect("nothing panics in here");
        let key = (wanted.topic.clone(), wanted.index);
        let place =
            places.get(&key).copied().or_else(|| self.dirs.iter().position(|dir| dir.id == wanted.directory));
        let place = place.unwrap_or_else(|| {
            let loads = self.dirs.iter().map(|dir| dir.partition_count.load(Ordering::Relaxed));
            loads.enumerate().min_by_key(|(_, count)| *count).map_or(0, |(place, _)| place)
        });
        places.insert(key, place);
        self.dirs[place].partition_count.fetch_add(1, Ordering::Relaxed);
        place
    }

    /// Removes a partition's files: renamed first, so that an interrupted removal is finished at the next start.
    pub(crate) fn delete(
        &self,
        topic: &Arc<str>,
        index: PartitionIndex,
        log: Option<Box<Log>>,
        mark: Uuid,
    ) -> Result<(), LogError> {
        drop(log);
        let place = self.places.lock().expect("nothing panics in here").remove(&(topic.clone(), index));
        let Some(dir) = place.map(|place| &self.dirs[place]) else { return Ok(()) };
        dir.partition_count.fetch_sub(1, Ordering::Relaxed);
        let live = PartitionDirectory::live_name(topic, index);
        let marked = PartitionDirectory::marked_name(topic, index, DirectoryKind::Delete, mark);
        dir.directory.rename_partition(&live, &marked)?;
        dir.directory.remove_partition(&marked)
    }

    /// Writes down how far each log is durable and where it starts.
    pub(crate) fn checkpoint(&self, topics: &TopicIndex) -> Result<(), LogError> {
        let mut offsets = Vec::new();
        for topic in topics.topics() {
            for partition in topic.partitions.load().iter().flatten() {
                let limits = partition.view.limits();
                offsets.push((topic.name.clone(), partition.index, limits.flushed.offset, limits.log_start));
            }
        }
        self.write_checkpoints(&offsets)
    }

    fn write_checkpoints(
        &self,
        offsets: &[(Arc<str>, PartitionIndex, Offset, Offset)],
    ) -> Result<(), LogError> {
        let places = self.places.lock().expect("nothing panics in here").clone();
        for (place, dir) in self.dirs.iter().enumerate() {
            let mut flushed = OffsetCheckpoint::new();
            let mut starts = OffsetCheckpoint::new();
            for (topic, index, recovery_point, log_start) in offsets {
                if places.get(&(topic.clone(), *index)) != Some(&place) {
                    continue;
                }
                flushed.insert((topic.to_string(), *index), *recovery_point);
                if log_start.0 > 0 {
                    starts.insert((topic.to_string(), *index), *log_start);
                }
            }
            dir.directory.write_recovery_points(&flushed)?;
            dir.directory.write_log_starts(&starts)?;
        }
        Ok(())
    }

    /// Closes every log and marks the stop as clean.
    pub(crate) fn close(
        &self,
        logs: Vec<(Arc<Partition>, Box<Log>)>,
        epoch: BrokerEpoch,
    ) -> Result<(), LogError> {
        let mut offsets = Vec::with_capacity(logs.len());
        for (partition, log) in logs {
            log.close()?;
            let limits = partition.view.limits();
            offsets.push((partition.topic.clone(), partition.index, limits.flushed.offset, limits.log_start));
        }
        self.write_checkpoints(&offsets)?;
        let places = self.places.lock().expect("nothing panics in here").clone();
        for (place, dir) in self.dirs.iter().enumerate() {
            let here = offsets
                .iter()
                .filter(|(topic, index, ..)| places.get(&(topic.clone(), *index)) == Some(&place));
            // With one replica everything that is in the log is below the watermark.
            let watermarks = here.map(|(topic, index, end, _)| ((topic.to_string(), *index), *end)).collect();
            dir.directory.write_high_watermarks(&watermarks)?;
            dir.directory.write_clean_shutdown(CleanShutdown { broker_epoch: epoch })?;
        }
        Ok(())
    }
}

fn is_absent_or_empty(disk: &dyn Disk, path: &Path) -> Result<bool, LogDirsError> {
    match disk.list_dir(path) {
        // `lost+found` comes with a file system of its own; a lock file with an earlier, failed start.
        Ok(entries) => Ok(entries.iter().all(|entry| entry.name == "lost+found" || entry.name == ".lock")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error(path, error).into()),
    }
}

fn io_error(path: &Path, source: io::Error) -> LogError {
    LogError::Io { action: "read", path: path.to_owned(), source }
}
