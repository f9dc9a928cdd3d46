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

use crate::host::DirPressure;

/// One log directory's health.
#[derive(Debug)]
pub(crate) struct DirState {
    pub(crate) path: PathBuf,
    pub(crate) id: DirectoryId,
    pub(crate) pressure: DirPressure,
    failure: OnceLock<String>,
    /// Shared by all directories of a broker.
    watch: Arc<Notify>,
}

impl DirState {
    pub(crate) fn new(path: &Path, id: DirectoryId, watch: Arc<Notify>) -> Arc<Self> {
        let path = path.to_owned();
        Arc::new(Self { path, id, pressure: DirPressure::default(), failure: OnceLock::new(), watch })
    }

    /// True once it has failed: nothing here is read or written any more.
    pub(crate) fn is_offline(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Takes the directory offline: after a failed flush, whatever it said.
    pub(crate) fn fail(&self, error: &LogError) {
        if self.failure.set(error.to_string()).is_ok() {
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
