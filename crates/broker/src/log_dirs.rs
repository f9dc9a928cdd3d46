//! The broker's log directories (`log.dirs`): which partition lies where, opening, deleting, checkpoints.
//!
//! Synchronous; called where it may block. What it deliberately does not do yet: retention,
//! taking a failed directory offline alone, moving partitions.
//!
//! **Invariants:** every directory is locked for as long as this lives, and carries
//! this cluster's and node's ids; the clean-shutdown marker is removed durably before the
//! first write and written last, and not where a log could not be opened or closed; an offset
//! checkpoint never speaks of an earlier topic of the same name.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use klamm_cluster::metadata_log::METADATA_DIRECTORY;
use klamm_log::directory::partition_metadata;
use klamm_log::directory::{
    CleanShutdown, DirectoryKind, LogDirectory, MetaProperties, OffsetCheckpoint, PartitionDirectory,
};
use klamm_log::disk::Disk;
use klamm_log::{Log, LogConfig, LogError, OpenLog, RecoveryReport, Tail};
use klamm_protocol::ids::{BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, PartitionIndex, TopicId, Uuid};
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
    /// Partitions, and no metadata log that knows them.
    #[error(
        "{} is missing, but there is {}: log.dirs names another first directory than before, or the metadata is lost",
        metadata.display(),
        orphan.display()
    )]
    NoMetadata {
        /// Where the metadata log should be.
        metadata: PathBuf,
        /// A partition's directory.
        orphan: PathBuf,
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
    /// As its files have them; locked while they are written.
    checkpoints: Mutex<Checkpoints>,
    /// Some log here could not be opened: the next start must look at it as after a kill.
    has_failed: AtomicBool,
    partition_count: AtomicUsize,
}

/// What a directory's checkpoint files say. Entries of partitions that are not open stay.
#[derive(Default)]
struct Checkpoints {
    recovery_points: OffsetCheckpoint,
    log_starts: OffsetCheckpoint,
}

/// Where a partition lies, and whose it is; `None` while nobody has asked for it.
#[derive(Clone, Copy)]
struct Place {
    dir: usize,
    topic_id: Option<TopicId>,
}

/// A partition's directory that waits for its removal.
pub(crate) struct Marked {
    place: usize,
    name: String,
}

/// Every log directory of this broker.
pub(crate) struct LogDirs {
    disk: Arc<dyn Disk>,
    dirs: Vec<Dir>,
    cluster_id: String,
    previous_epoch: Option<BrokerEpoch>,
    /// Where each partition lies; also of those that an earlier process left.
    places: Mutex<BTreeMap<(Arc<str>, PartitionIndex), Place>>,
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
        refuse_lost_metadata(&*disk, opened.iter().map(|(directory, _)| directory))?;
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
                checkpoints: Mutex::new(Checkpoints { recovery_points, log_starts }),
                has_failed: AtomicBool::new(false),
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
            let place = Place { dir: place, topic_id: None };
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

    /// Renames what lies here and no topic has asked for: a topic's deletion that a kill
    /// interrupted. It is kept, as in Kafka, since nobody can say that it is not missed.
    pub(crate) fn set_strays_aside(&self) {
        let mut places = self.places.lock().expect("nothing panics in here");
        let strays: Vec<_> = places
            .iter()
            .filter(|(_, place)| place.topic_id.is_none())
            .map(|(key, place)| (key.clone(), place.dir))
            .collect();
        for (key, dir) in strays {
            places.remove(&key);
            if let Err(error) = self.set_aside(&self.dirs[dir], &key.0, key.1) {
                tracing::error!(topic = %key.0, partition = %key.1, %error, "cannot set a stray partition aside");
            }
        }
    }

    /// The topic id makes the new name unique.
    fn set_aside(&self, dir: &Dir, topic: &str, index: PartitionIndex) -> Result<(), LogError> {
        let path = dir.directory.partition_path(topic, index);
        let id = partition_metadata::read(&*self.disk, &path)?.unwrap_or_default();
        let live = PartitionDirectory::live_name(topic, index);
        let marked = PartitionDirectory::marked_name(topic, index, DirectoryKind::Stray, id.0);
        tracing::warn!(path = %path.display(), %marked, "no topic of the metadata owns this partition: set aside");
        dir.forget_checkpoints(topic, index)?;
        dir.directory.rename_partition(&live, &marked)
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
                    dir.has_failed.store(true, Ordering::Relaxed);
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
                dir.has_failed.store(true, Ordering::Relaxed);
                tracing::error!(topic = %wanted.topic, partition = %wanted.index, %error, "cannot open a partition");
                None
            }
        }
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
            && partition_metadata::read(&*self.disk, &path)?.is_some_and(|found| found != wanted.topic_id)
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

    /// Where a partition lies, or shall lie: as on disk, as the metadata says, or where there is least.
    fn place(&self, wanted: &Wanted) -> usize {
        let mut places = self.places.lock().expect("nothing panics in here");
        let key = (wanted.topic.clone(), wanted.index);
        let known = places.get(&key).map(|place| place.dir);
        let place = known.or_else(|| self.dirs.iter().position(|dir| dir.id == wanted.directory));
        let place = place.unwrap_or_else(|| {
            let loads = self.dirs.iter().map(|dir| dir.partition_count.load(Ordering::Relaxed));
            loads.enumerate().min_by_key(|(_, count)| *count).map_or(0, |(place, _)| place)
        });
        places.insert(key, Place { dir: place, topic_id: Some(wanted.topic_id) });
        self.dirs[place].partition_count.fetch_add(1, Ordering::Relaxed);
        place
    }

    /// Takes a partition's directory out of use by renaming it. What is left is
    /// [`LogDirs::remove_marked`]'s, or the next start's if that does not come to it.
    pub(crate) fn mark_deleted(
        &self,
        topic: &Arc<str>,
        index: PartitionIndex,
        log: Option<Box<Log>>,
        mark: Uuid,
    ) -> Result<Option<Marked>, LogError> {
        drop(log);
        let place = self.places.lock().expect("nothing panics in here").remove(&(topic.clone(), index));
        let Some(place) = place.map(|place| place.dir) else { return Ok(None) };
        let dir = &self.dirs[place];
        dir.partition_count.fetch_sub(1, Ordering::Relaxed);
        dir.forget_checkpoints(topic, index)?;
        let live = PartitionDirectory::live_name(topic, index);
        let name = PartitionDirectory::marked_name(topic, index, DirectoryKind::Delete, mark);
        dir.directory.rename_partition(&live, &name)?;
        Ok(Some(Marked { place, name }))
    }

    /// Removes the files of a partition that was marked.
    pub(crate) fn remove_marked(&self, marked: &Marked) -> Result<(), LogError> {
        self.dirs[marked.place].directory.remove_partition(&marked.name)
    }

    /// Writes down how far each log is durable and where it starts.
    pub(crate) fn checkpoint(&self, topics: &TopicIndex) -> Result<(), LogError> {
        let mut open = Vec::new();
        for topic in topics.topics() {
            open.extend(topic.partitions.load().iter().flatten().cloned());
        }
        (0..self.dirs.len()).try_for_each(|place| self.write_checkpoints(place, &open).map(drop))
    }

    /// Returns where each of the directory's logs is durable.
    fn write_checkpoints(&self, place: usize, open: &[Arc<Partition>]) -> Result<OffsetCheckpoint, LogError> {
        let dir = &self.dirs[place];
        let mut checkpoints = dir.checkpoints.lock().expect("nothing panics in here");
        let mut flushed = OffsetCheckpoint::new();
        for partition in open {
            // `open` may be older than a deletion, even than a new topic of the name.
            let is_here = {
                let places = self.places.lock().expect("nothing panics in here");
                places
                    .get(&(partition.topic.clone(), partition.index))
                    .is_some_and(|found| found.dir == place && found.topic_id == Some(partition.topic_id))
            };
            if !is_here {
                continue;
            }
            let key = (partition.topic.to_string(), partition.index);
            let limits = partition.view.limits();
            flushed.insert(key.clone(), limits.flushed.offset);
            checkpoints.recovery_points.insert(key.clone(), limits.flushed.offset);
            if limits.log_start.0 > 0 {
                checkpoints.log_starts.insert(key, limits.log_start);
            }
        }
        dir.directory.write_recovery_points(&checkpoints.recovery_points)?;
        dir.directory.write_log_starts(&checkpoints.log_starts)?;
        Ok(flushed)
    }

    /// Closes every log, and marks the stop of each directory as clean where all is well.
    pub(crate) fn close(
        &self,
        logs: Vec<(Arc<Partition>, Option<Box<Log>>)>,
        epoch: BrokerEpoch,
    ) -> Result<(), LogError> {
        let mut failure = None;
        let mut closed = Vec::with_capacity(logs.len());
        for (partition, log) in logs {
            match log.map(|log| log.close()) {
                Some(Ok(())) => closed.push(partition),
                lost => {
                    // Who was deleted meanwhile has no place any more.
                    let key = (partition.topic.clone(), partition.index);
                    if let Some(place) = self.places.lock().expect("nothing panics in here").get(&key) {
                        self.dirs[place.dir].has_failed.store(true, Ordering::Relaxed);
                    }
                    failure = lost.and_then(Result::err).or(failure);
                }
            }
        }
        for (place, dir) in self.dirs.iter().enumerate() {
            // With one replica everything that is in the log is below the watermark.
            let watermarks = self.write_checkpoints(place, &closed)?;
            dir.directory.write_high_watermarks(&watermarks)?;
            if dir.has_failed.load(Ordering::Relaxed) {
                let path = dir.directory.path().to_owned();
                let reason = "a log in it could not be opened or closed".to_owned();
                failure.get_or_insert(LogError::Poisoned { path, reason });
                continue;
            }
            dir.directory.write_clean_shutdown(CleanShutdown { broker_epoch: epoch })?;
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Tells what opening a log found.
pub(crate) fn log_report(report: &RecoveryReport) {
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
}

impl Dir {
    /// Before a partition's files go or come: what is known of its name is another's.
    fn forget_checkpoints(&self, topic: &str, index: PartitionIndex) -> Result<(), LogError> {
        let key = (topic.to_owned(), index);
        let mut checkpoints = self.checkpoints.lock().expect("nothing panics in here");
        if checkpoints.recovery_points.remove(&key).is_some() {
            self.directory.write_recovery_points(&checkpoints.recovery_points)?;
        }
        if checkpoints.log_starts.remove(&key).is_some() {
            self.directory.write_log_starts(&checkpoints.log_starts)?;
        }
        Ok(())
    }
}

/// Without the metadata log nobody knows whose the partitions are: a new cluster must not begin on them.
fn refuse_lost_metadata<'a>(
    disk: &dyn Disk,
    mut dirs: impl Iterator<Item = &'a LogDirectory> + Clone,
) -> Result<(), LogDirsError> {
    let Some(first) = dirs.clone().next() else { return Ok(()) };
    let metadata = first.path().join(METADATA_DIRECTORY);
    if disk.exists(&metadata).map_err(|error| io_error(&metadata, error))? {
        return Ok(());
    }
    dirs.try_for_each(|dir| {
        let found = dir.partitions()?;
        match found.iter().find(|found| found.kind == DirectoryKind::Live) {
            None => Ok(()),
            Some(orphan) => {
                let orphan = dir.path().join(&orphan.name);
                Err(LogDirsError::NoMetadata { metadata: metadata.clone(), orphan })
            }
        }
    })
}

fn is_absent_or_empty(disk: &dyn Disk, path: &Path) -> Result<bool, LogDirsError> {
    match disk.list_dir(path) {
        // `lost+found` comes with a file system of its own; the others with an earlier start that
        // failed or was killed.
        Ok(entries) => {
            let is_nothing = |name: &str| matches!(name, "lost+found" | ".lock" | "meta.properties.tmp");
            Ok(entries.iter().all(|entry| is_nothing(&entry.name)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error(path, error).into()),
    }
}

fn io_error(path: &Path, source: io::Error) -> LogError {
    LogError::Io { action: "read", path: path.to_owned(), source }
}
