//! The state of one log directory, shared by everything that writes to it.
//!
//! Whoever meets an error of the disk says so here: [`DirState::note`] for a write that failed,
//! [`DirState::fail`] for a flush. What follows (closing the partitions, telling the controller) is
//! `directory_watch`'s, which is woken.
//!
//! **Invariants:** a directory goes offline once and stays so until a restart; the first reason is kept
//! and logged once. What leaves nothing torn and may pass (a full disk, too many open files) does not take
//! it offline (docs/adr/0010-full-disk.md).

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use klamm_log::LogError;
use klamm_protocol::ids::DirectoryId;
use tokio::sync::Notify;

use super::lane::Lane;
use crate::flusher::DirFlusher;
use crate::host::DirPressure;

/// One log directory's health.
pub(crate) struct DirState {
    pub(crate) path: PathBuf,
    pub(crate) id: DirectoryId,
    pub(crate) pressure: DirPressure,
    pub(crate) lane: Lane,
    pub(crate) flusher: DirFlusher,
    failure: OnceLock<Arc<LogError>>,
    /// Shared by all directories of a broker.
    watch: Arc<Notify>,
}

impl DirState {
    pub(crate) fn new(path: &Path, id: DirectoryId, watch: Arc<Notify>, flusher: DirFlusher) -> Arc<Self> {
        let (path, failure) = (path.to_owned(), OnceLock::new());
        Arc::new(Self {
            path,
            id,
            pressure: DirPressure::default(),
            lane: Lane::default(),
            flusher,
            failure,
            watch,
        })
    }

    /// Why nothing here is read or written any more.
    pub(crate) fn failure(&self) -> Option<&Arc<LogError>> {
        self.failure.get()
    }

    /// True once it has failed: nothing here is read or written any more.
    pub(crate) fn is_offline(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Takes the directory offline: after a failed flush, whatever it said.
    pub(crate) fn fail(&self, error: &LogError) {
        let poisoned = LogError::Poisoned { path: self.path.clone(), reason: error.to_string() };
        if self.failure.set(Arc::new(poisoned)).is_ok() {
            tracing::error!(
                directory = %self.path.display(), %error,
                "this log directory has failed and is offline; the others go on. Look at the disk, then restart"
            );
            self.watch.notify_one();
        }
    }

    /// Takes the directory offline if `error` tells of a broken disk or of files in an unknown state.
    pub(crate) fn note(&self, error: &LogError) {
        if error.is_disk_failure() {
            self.fail(error);
        }
    }
}
