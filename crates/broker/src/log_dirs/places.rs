//! In which directory a partition lies.
//!
//! **Invariants:** a partition lies in one directory; while some directory is offline, a partition that was not found
//! may be there and is not made anew elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use klamm_cluster::controller::ReplicaPlace;
use klamm_protocol::ids::{PartitionIndex, TopicId};

use super::{LogDirs, Wanted};

/// Where a partition lies, and whose it is; `None` while nobody has asked for it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) dir: usize,
    pub(super) topic_id: Option<TopicId>,
}

/// By topic name and partition.
pub(super) type Places = BTreeMap<(Arc<str>, PartitionIndex), Place>;

impl LogDirs {
    /// Where a partition lies, or shall lie: as on disk, as the metadata says, or where there is least.
    /// `None` if it may be in a directory that is offline.
    pub(super) fn place(&self, wanted: &Wanted) -> Option<usize> {
        let mut places = self.places.lock().expect("nothing panics in here");
        let key = (wanted.topic.clone(), wanted.index);
        let found = places.get(&key).copied();
        let assigned = || self.dirs.iter().position(|dir| dir.state.id == wanted.directory);
        let dir = match found.map(|found| found.dir).or_else(assigned) {
            Some(dir) => dir,
            None if !wanted.is_new && self.may_hide_partitions() => {
                tracing::error!(
                    topic = %wanted.topic, partition = %wanted.index, directory = %wanted.directory.0,
                    "offline: its log was not found, and a log directory cannot be read"
                );
                return None;
            }
            None => self.least_loaded(),
        };
        places.insert(key, Place { dir, topic_id: Some(wanted.topic_id) });
        if found.is_none_or(|found| found.topic_id.is_none()) {
            self.dirs[dir].partition_count.fetch_add(1, Ordering::Relaxed);
        }
        let directory = self.dirs[dir].state.id;
        if directory != wanted.directory && !self.dirs[dir].state.is_offline() {
            self.record_later(ReplicaPlace { topic: wanted.topic_id, partition: wanted.index, directory });
        }
        Some(dir)
    }

    fn may_hide_partitions(&self) -> bool {
        !self.unusable.is_empty() || self.dirs.iter().any(|dir| dir.state.is_offline())
    }

    /// Of the directories that take new partitions; of all that are online if none does, since the controller
    /// knows of cordons and decided so.
    fn least_loaded(&self) -> usize {
        let count = |dir: usize| self.dirs[dir].partition_count.load(Ordering::Relaxed);
        let online = || (0..self.dirs.len()).filter(|dir| !self.dirs[*dir].state.is_offline());
        let is_open = |dir: &usize| !self.dirs[*dir].is_cordoned.load(Ordering::Relaxed);
        let least = online().filter(is_open).min_by_key(|dir| count(*dir));
        least.or_else(|| online().min_by_key(|dir| count(*dir))).unwrap_or(0)
    }
}
