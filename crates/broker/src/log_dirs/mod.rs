//! The broker's log directories (`log.dirs`): which partition lies where, and what every part of
//! the broker asks of them.
//!
//! Synchronous; called where it may block. `start` locks and reads them, `opening` opens or creates
//! partitions, `checkpoints` keeps the offset files, `strays` sets aside and deletes, `state` tells a failed
//! directory, `moves` takes a partition from one to another.
//! What it deliberately does not do: tell the controller (`directory_watch` does).
//!
//! **Invariants:** every directory is locked for as long as this lives, and carries
//! this cluster's and node's ids; the clean-shutdown marker is removed durably before the
//! first write and written last, and not where a log could not be opened or closed; an offset
//! checkpoint never speaks of an earlier topic of the same name.

mod availability;
mod checkpoints;
mod describe;
mod error;
mod lane;
mod moves;
mod opening;
mod places;
mod start;
mod state;
mod strays;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use klamm_cluster::controller::ReplicaPlace;
use klamm_cluster::metadata_log::METADATA_DIRECTORY;
use klamm_log::directory::{CleanShutdown, LogDirectory, MetaProperties};
use klamm_log::disk::Disk;
use klamm_log::{Log, LogError};
use klamm_protocol::ids::{BrokerEpoch, DirectoryId, PartitionIndex, TopicId};
use tokio::sync::Notify;

use crate::partition::Partition;

use checkpoints::Checkpoints;
pub(crate) use describe::Described;
pub use error::LogDirsError;
pub(crate) use moves::{Future, Move, MoveRefused, PartitionKey};
pub(crate) use opening::{Wanted, log_report};
use places::Places;
pub(crate) use state::DirState;
pub(crate) use strays::Marked;

struct Dir {
    directory: LogDirectory,
    state: Arc<DirState>,
    was_clean: bool,
    /// As its files have them; locked while they are written.
    checkpoints: Mutex<Checkpoints>,
    /// Some log here could not be opened: the next start must look at it as after a kill.
    has_failed: AtomicBool,
    /// Takes no new partitions (KIP-1066).
    is_cordoned: AtomicBool,
    /// The controller knows that it is offline.
    is_told: AtomicBool,
    partition_count: AtomicUsize,
}

/// The directory with the metadata log.
struct MetadataDir {
    path: PathBuf,
    id: DirectoryId,
    was_clean: bool,
    /// Unless it is one of the log directories.
    own: Option<LogDirectory>,
}

/// Every log directory of this broker.
pub(crate) struct LogDirs {
    disk: Arc<dyn Disk>,
    dirs: Vec<Dir>,
    metadata: MetadataDir,
    /// `meta.properties` of new directories, to be written by [`LogDirs::begin`].
    unwritten: Vec<(PathBuf, MetaProperties)>,
    /// Log directories that could not be read at start.
    unusable: Vec<PathBuf>,
    cluster_id: String,
    previous_epoch: Option<BrokerEpoch>,
    /// Notified when a directory fails, and when the controller has to learn something else.
    watch: Arc<Notify>,
    /// Where each partition lies; also of those that an earlier process left.
    places: Mutex<Places>,
    /// What lies elsewhere than the metadata says.
    unrecorded: Mutex<Vec<ReplicaPlace>>,
    /// Moves that are asked for.
    moves: Mutex<BTreeMap<PartitionKey, Arc<Move>>>,
    move_requested: Notify,
    /// Closed partitions that the applier shall open.
    to_reopen: Mutex<Vec<(TopicId, PartitionIndex)>>,
    /// Partitions that a full disk had no room for.
    unopened: Mutex<BTreeSet<(TopicId, PartitionIndex)>>,
}

impl LogDirs {
    pub(crate) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The broker epoch of a clean stop; `None` after a kill or in a new directory.
    pub(crate) fn previous_epoch(&self) -> Option<BrokerEpoch> {
        self.previous_epoch
    }

    /// The directories' states.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Arc<DirState>> {
        self.dirs.iter().map(|dir| &dir.state)
    }

    /// Where the metadata log is.
    pub(crate) fn metadata_path(&self) -> PathBuf {
        self.metadata.path.join(METADATA_DIRECTORY)
    }

    /// The identity of the directory with the metadata log.
    pub(crate) fn metadata_directory_id(&self) -> DirectoryId {
        self.metadata.id
    }

    /// True if the last stop was clean for the metadata log's directory.
    pub(crate) fn was_metadata_clean(&self) -> bool {
        self.metadata.was_clean
    }

    /// Lets go of directories that will not be used after all.
    pub(crate) fn leave(self) {
        let own = self.metadata.own.into_iter();
        self.dirs.into_iter().map(|dir| dir.directory).chain(own).for_each(LogDirectory::leave);
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
            if dir.state.is_offline() {
                let path = dir.directory.path().to_owned();
                let reason = "the log directory is offline".to_owned();
                failure.get_or_insert(LogError::Poisoned { path, reason });
                continue;
            }
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
