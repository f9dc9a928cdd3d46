//! Partitions that nobody owns: set aside when found at start, marked and removed when deleted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use klamm_log::directory::{DirectoryKind, PartitionDirectory, partition_metadata};
use klamm_log::{Log, LogError};
use klamm_protocol::ids::{PartitionIndex, Uuid};

use super::{Dir, LogDirs};

/// A partition's directory that waits for its removal.
pub(crate) struct Marked {
    pub(super) place: usize,
    pub(super) name: String,
}

impl LogDirs {
    /// Renames what lies here and no topic has asked for: a topic's deletion that a kill
    /// interrupted. It is kept, as in Kafka, since nobody can say that it is not missed.
    pub(crate) fn set_strays_aside(&self) {
        let mut places = self.places.lock().expect("nothing panics in here");
        let strays: Vec<_> = places
            .iter()
            .filter(|(_, place)| place.topic_id.is_none() && !self.dirs[place.dir].state.is_offline())
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
    pub(super) fn set_aside(&self, dir: &Dir, topic: &str, index: PartitionIndex) -> Result<(), LogError> {
        let path = dir.directory.partition_path(topic, index);
        let id = partition_metadata::read_intact(&*self.disk, &path)?.unwrap_or_default();
        let live = PartitionDirectory::live_name(topic, index);
        let marked = PartitionDirectory::marked_name(topic, index, DirectoryKind::Stray, id.0);
        tracing::warn!(path = %path.display(), %marked, "no topic of the metadata owns this partition: set aside");
        dir.forget_checkpoints(topic, index)?;
        dir.directory.rename_partition(&live, &marked)
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
        if dir.state.is_offline() {
            // Its files are a stray's should the directory ever be read again.
            return Ok(None);
        }
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
}
