//! What a start does with the directories before anything is served: lock, read, check, find.
//!
//! **Invariants:** [`LogDirs::open`] writes nothing but the lock files; [`LogDirs::begin`] is called once the
//! metadata log was read too, and removes the clean-shutdown markers before anything of a partition changes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};

use klamm_cluster::metadata_log::METADATA_DIRECTORY;
use klamm_log::LogError;
use klamm_log::directory::{DirectoryKind, LogDirectory, MetaProperties, OffsetCheckpoint, meta_properties};
use klamm_log::disk::Disk;
use klamm_protocol::ids::{DirectoryId, NodeId, Uuid};
use tokio::sync::Notify;

use super::checkpoints::Checkpoints;
use super::places::{Place, Places};
use super::{Dir, DirState, LogDirs, LogDirsError, MetadataDir, Move, PartitionKey};
use crate::flusher::DirFlusher;

impl LogDirs {
    /// Locks and reads the directories, and that of the metadata log if it is none of them. `draw`
    /// gives ids to what is new.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        paths: &[PathBuf],
        metadata_path: &Path,
        node: NodeId,
        mut draw: impl FnMut() -> Uuid,
    ) -> Result<Self, LogDirsError> {
        let is_own = !paths.iter().any(|path| path == metadata_path);
        let mut opened = Vec::with_capacity(paths.len() + 1);
        let mut unusable = Vec::new();
        let own = is_own.then_some(metadata_path);
        let cluster_id = lock_all(&disk, paths, own, metadata_path, &mut opened, &mut unusable)
            .and_then(|()| cluster_of(&*disk, &opened, metadata_path, node));
        let cluster_id = match cluster_id {
            Ok(cluster_id) => cluster_id.unwrap_or_else(|| draw().to_string()),
            Err(error) => {
                opened.into_iter().for_each(|(directory, _)| directory.leave());
                return Err(error);
            }
        };
        // A stop is clean only if every directory says so.
        let mut previous_epochs = Vec::new();
        let mut dirs = Vec::with_capacity(opened.len());
        let watch = Arc::<Notify>::default();
        let mut metadata = None;
        let mut unwritten = Vec::new();
        for (directory, properties) in opened {
            let path = directory.path().to_owned();
            let id = match properties.as_ref().and_then(|properties| properties.directory_id) {
                Some(id) => id,
                None => {
                    let id = DirectoryId(draw());
                    let others = properties.map(|properties| properties.others).unwrap_or_default();
                    let cluster_id = cluster_id.clone();
                    let properties =
                        MetaProperties { cluster_id, node_id: node, directory_id: Some(id), others };
                    unwritten.push((path.clone(), properties));
                    id
                }
            };
            if is_own && path == metadata_path {
                // Kafka leaves no marker here: all of the log is checked.
                metadata = Some(MetadataDir { path, id, was_clean: false, own: Some(directory) });
                continue;
            }
            let clean = directory.clean_shutdown()?;
            if path == metadata_path {
                metadata = Some(MetadataDir { path, id, was_clean: clean.is_some(), own: None });
            }
            previous_epochs.push(clean.map(|clean| clean.broker_epoch));
            let recovery_points = directory.recovery_points().unwrap_or_else(|error| {
                tracing::warn!(%error, "recovering every log from its start");
                OffsetCheckpoint::new()
            });
            let log_starts = directory.log_starts().unwrap_or_else(|error| {
                tracing::warn!(%error, "deleted records whose segments are still there come back");
                OffsetCheckpoint::new()
            });
            let cleaned = directory.cleaner_offsets().unwrap_or_else(|error| {
                tracing::warn!(%error, "compacted topics are taken as never compacted");
                OffsetCheckpoint::new()
            });
            dirs.push(Dir {
                state: DirState::new(
                    directory.path(),
                    id,
                    watch.clone(),
                    DirFlusher::new(&*disk, directory.path()),
                ),
                was_clean: clean.is_some(),
                checkpoints: Mutex::new(Checkpoints::new(recovery_points, log_starts, cleaned)),
                has_failed: AtomicBool::new(false),
                is_cordoned: AtomicBool::new(false),
                is_told: AtomicBool::new(false),
                partition_count: AtomicUsize::new(0),
                directory,
            });
        }
        let metadata = metadata.expect("it is one of the directories or was opened with them");
        let previous_epoch = previous_epochs.iter().copied().min().flatten();
        Ok(Self {
            disk,
            dirs,
            metadata,
            unwritten,
            unusable,
            cluster_id,
            previous_epoch,
            watch,
            places: Mutex::default(),
            unrecorded: Mutex::default(),
            moves: Mutex::default(),
            move_requested: Notify::new(),
            to_reopen: Mutex::default(),
            unopened: Mutex::default(),
        })
    }

    /// Writes what is new, removes the clean-shutdown markers and finds the partitions: from here on the
    /// directories are in use.
    pub(crate) fn begin(&self) -> Result<(), LogDirsError> {
        for (path, properties) in &self.unwritten {
            meta_properties::write(&*self.disk, path, properties)?;
        }
        let mut found = Found::default();
        for (place, dir) in self.dirs.iter().enumerate() {
            match self.find_partitions(place, &mut found) {
                Err(LogDirsError::Log(error @ LogError::Io { .. }))
                    if dir.state.path != self.metadata.path =>
                {
                    dir.state.fail(&error);
                }
                done => done?,
            }
        }
        // A move that a stop or a kill interrupted begins anew.
        let unfinished = found.futures.into_iter().filter(|(key, _)| found.places.contains_key(key));
        *self.moves.lock().expect("nothing panics in here") =
            unfinished.map(|(key, to)| (key, Move::to(to))).collect();
        *self.places.lock().expect("nothing panics in here") = found.places;
        Ok(())
    }

    fn find_partitions(&self, place: usize, all: &mut Found) -> Result<(), LogDirsError> {
        let dir = &self.dirs[place];
        dir.directory.remove_clean_shutdown()?;
        let mut live_count = 0;
        for found in dir.directory.partitions()? {
            let key = (Arc::from(found.topic.as_str()), found.partition);
            match found.kind {
                _ if found.name == METADATA_DIRECTORY => {}
                DirectoryKind::Live => {
                    let place = match all.places.get(&key) {
                        None => place,
                        Some(earlier) => self.choose(earlier.dir, place, &found.name)?,
                    };
                    all.places.insert(key, Place { dir: place, topic_id: None });
                    live_count += 1;
                }
                // A deletion that a stop interrupted.
                DirectoryKind::Delete => dir.directory.remove_partition(&found.name)?,
                DirectoryKind::Future => {
                    dir.directory.remove_partition(&found.name)?;
                    all.futures.insert(key, place);
                }
                DirectoryKind::Stray => {}
            }
        }
        if live_count > 0 && !dir.was_clean {
            tracing::warn!(
                directory = %dir.state.path.display(), partitions = live_count,
                "the last stop was not clean: every log is checked from its recovery point on"
            );
        }
        Ok(())
    }

    /// One partition in two directories: a move that ended between its last two steps, or a mistake
    /// that only a person can undo.
    fn choose(&self, first: usize, second: usize, name: &str) -> Result<usize, LogDirsError> {
        let path = |place: usize| self.dirs[place].directory.path().join(name);
        let (kept, gone) = match self.moved_here(&path(first), &path(second))? {
            Some(kept) if kept == path(first) => (first, second),
            Some(_) => (second, first),
            None => return Err(LogDirsError::Duplicate { first: path(first), second: path(second) }),
        };
        tracing::warn!(path = %path(gone).display(), kept = %path(kept).display(), "removed what a move had left");
        self.dirs[gone].directory.remove_partition(name)?;
        self.remove_mark(&path(kept))?;
        Ok(kept)
    }
}

/// What [`LogDirs::begin`] finds.
#[derive(Default)]
struct Found {
    places: Places,
    /// Unfinished copies, and in which directory.
    futures: BTreeMap<PartitionKey, usize>,
}

type Opened = (LogDirectory, Option<MetaProperties>);

/// One that cannot be read is offline from the start, as in Kafka, unless nothing works without it.
fn lock_all(
    disk: &Arc<dyn Disk>,
    paths: &[PathBuf],
    own: Option<&Path>,
    metadata_path: &Path,
    opened: &mut Vec<Opened>,
    unusable: &mut Vec<PathBuf>,
) -> Result<(), LogDirsError> {
    let mut failure = None;
    for path in paths.iter().map(PathBuf::as_path).chain(own) {
        match lock_one(disk, path) {
            Ok(one) => opened.push(one),
            Err(LogDirsError::Log(error @ LogError::Io { .. })) if path != metadata_path => {
                tracing::error!(
                    directory = %path.display(), %error,
                    "this log directory cannot be read and is offline; the others go on. Look at the disk, then restart"
                );
                unusable.push(path.to_owned());
                failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    // A metadata log directory of its own takes no partitions.
    match failure {
        Some(error) if unusable.len() == paths.len() => Err(error.into()),
        _ => Ok(()),
    }
}

fn lock_one(disk: &Arc<dyn Disk>, path: &Path) -> Result<Opened, LogDirsError> {
    let is_new = is_absent_or_empty(&**disk, path)?;
    // Looked at before the lock file is made: a foreign directory stays as it was.
    if !is_new && !disk.exists(&path.join("meta.properties")).map_err(|error| io_error(path, error))? {
        return Err(LogDirsError::Foreign { path: path.to_owned() });
    }
    let directory = LogDirectory::open(disk.clone(), path)?;
    match directory.meta_properties() {
        Ok(properties) => Ok((directory, properties)),
        Err(error) => {
            directory.leave();
            Err(error.into())
        }
    }
}

/// The cluster that all directories belong to; `None` if all are new.
fn cluster_of(
    disk: &dyn Disk,
    opened: &[Opened],
    metadata_path: &Path,
    node: NodeId,
) -> Result<Option<String>, LogDirsError> {
    let decided = opened.iter().find_map(|(directory, properties)| {
        Some((directory.path().to_owned(), properties.as_ref()?.cluster_id.clone()))
    });
    for (directory, properties) in opened {
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
    refuse_lost_metadata(disk, metadata_path, opened.iter().map(|(directory, _)| directory))?;
    Ok(decided.map(|(_, id)| id))
}

/// Without the metadata log nobody knows whose the partitions are: a new cluster must not begin on them.
fn refuse_lost_metadata<'a>(
    disk: &dyn Disk,
    metadata_path: &Path,
    mut dirs: impl Iterator<Item = &'a LogDirectory>,
) -> Result<(), LogDirsError> {
    let metadata = metadata_path.join(METADATA_DIRECTORY);
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
