//! Which directories are online, which take new partitions, and what the controller has to learn of it.

use std::path::Path;
use std::sync::atomic::Ordering;

use klamm_cluster::config::{ConfigLayers, ConfigValue};
use klamm_cluster::controller::ReplicaPlace;
use klamm_log::LogError;
use klamm_protocol::ids::DirectoryId;

use super::{Dir, LogDirs};

impl LogDirs {
    /// Returns when a directory may have failed, or the controller has something else to learn, since it
    /// last returned.
    pub(crate) async fn changed(&self) {
        self.watch.notified().await;
    }

    /// The directories that are online.
    pub(crate) fn online(&self) -> Vec<DirectoryId> {
        self.dirs.iter().filter(|dir| !dir.state.is_offline()).map(|dir| dir.state.id).collect()
    }

    /// Directories that failed and that the controller was not told of before.
    pub(crate) fn newly_failed(&self) -> Vec<DirectoryId> {
        let is_news = |dir: &&Dir| dir.state.is_offline() && !dir.is_told.swap(true, Ordering::Relaxed);
        self.dirs.iter().filter(is_news).map(|dir| dir.state.id).collect()
    }

    /// Why the broker cannot go on, if so.
    pub(crate) fn lost(&self) -> Option<String> {
        if self.dirs.iter().all(|dir| dir.state.is_offline()) {
            return Some("all log directories have failed: nothing is left to serve".to_owned());
        }
        let of_metadata = self.dirs.iter().find(|dir| dir.state.path == self.metadata.path)?;
        of_metadata.state.is_offline().then(|| {
            format!("the log directory {} with the metadata log has failed", self.metadata.path.display())
        })
    }

    /// The metadata log could not be written.
    pub(crate) fn note_metadata_error(&self, error: &LogError) {
        if let Some(dir) = self.dirs.iter().find(|dir| dir.state.path == self.metadata.path) {
            dir.state.note(error);
        }
    }

    /// Where partitions lie that the metadata has elsewhere; each is given once.
    pub(crate) fn take_unrecorded(&self) -> Vec<ReplicaPlace> {
        std::mem::take(&mut self.unrecorded.lock().expect("nothing panics in here"))
    }

    /// Tells the controller, soon, where a partition lies.
    pub(super) fn record_later(&self, place: ReplicaPlace) {
        self.unrecorded.lock().expect("nothing panics in here").push(place);
        self.watch.notify_one();
    }

    /// Follows `cordoned.log.dirs`: paths as in `log.dirs`, or `*` for all.
    pub(crate) fn follow_cordons(&self, layers: &ConfigLayers) {
        let cordoned = match layers.value("cordoned.log.dirs") {
            Some(ConfigValue::List(cordoned)) => cordoned,
            _ => Vec::new(),
        };
        for dir in &self.dirs {
            let is_meant = |path: &String| path == "*" || Path::new(path) == dir.state.path;
            dir.is_cordoned.store(cordoned.iter().any(is_meant), Ordering::Relaxed);
        }
        self.watch.notify_one();
    }

    /// The directories that take no new partitions.
    pub(crate) fn cordoned(&self) -> Vec<DirectoryId> {
        let is_cordoned = |dir: &&Dir| dir.is_cordoned.load(Ordering::Relaxed);
        self.dirs.iter().filter(is_cordoned).map(|dir| dir.state.id).collect()
    }
}
