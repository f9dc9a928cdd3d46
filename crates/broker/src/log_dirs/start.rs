//! What a start does with the directories before anything is served: lock, read, check, find.
//!
//! **Invariants:** [`LogDirs::open`] writes nothing but the lock files before every directory is known
//! to be this node's; [`LogDirs::begin`] removes the clean-shutdown markers before the first write.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};

use klamm_cluster::metadata_log::METADATA_DIRECTORY;
use klamm_log::LogError;
use klamm_log::directory::{DirectoryKind, LogDirectory, MetaProperties, OffsetCheckpoint};
use klamm_log::disk::Disk;
use klamm_protocol::ids::{DirectoryId, NodeId, Uuid};
use tokio::sync::Notify;

use super::checkpoints::Checkpoints;
use super::places::Place;
use super::{Dir, DirState, LogDirs, LogDirsError};

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
        let watch = Arc::<Notify>::default();
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
                state: DirState::new(directory.path(), id, watch.clone()),
                was_clean: clean.is_some(),
                checkpoints: Mutex::new(Checkpoints { recovery_points, log_starts }),
                has_failed: AtomicBool::new(false),
                partition_count: AtomicUsize::new(0),
                directory,
            });
        }
        let previous_epoch = previous_epochs.iter().copied().min().flatten();
        Ok(Self { disk, dirs, cluster_id, previous_epoch, watch, places: Mutex::default() })
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
