//! The offset checkpoints of a directory: how far each log is durable, and where it starts.
//!
//! **Invariants:** an entry never speaks of an earlier topic of the same name; entries of
//! partitions that are not open stay.

use std::sync::Arc;

use klamm_log::LogError;
use klamm_log::directory::OffsetCheckpoint;
use klamm_protocol::ids::PartitionIndex;

use super::{Dir, LogDirs};
use crate::partition::Partition;
use crate::partition::registry::TopicIndex;

/// What a directory's checkpoint files say. Entries of partitions that are not open stay.
#[derive(Default)]
pub(super) struct Checkpoints {
    pub(super) recovery_points: OffsetCheckpoint,
    pub(super) log_starts: OffsetCheckpoint,
}

impl LogDirs {
    /// Writes down how far each log is durable and where it starts.
    pub(crate) fn checkpoint(&self, topics: &TopicIndex) -> Result<(), LogError> {
        let mut open = Vec::new();
        for topic in topics.topics() {
            open.extend(topic.partitions.load().iter().flatten().cloned());
        }
        let mut online = (0..self.dirs.len()).filter(|place| !self.dirs[*place].state.is_offline());
        online.try_for_each(|place| self.write_checkpoints(place, &open).map(drop))
    }

    /// Returns where each of the directory's logs is durable.
    pub(super) fn write_checkpoints(
        &self,
        place: usize,
        open: &[Arc<Partition>],
    ) -> Result<OffsetCheckpoint, LogError> {
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
}

impl Dir {
    /// Before a partition's files go or come: what is known of its name is another's.
    pub(super) fn forget_checkpoints(&self, topic: &str, index: PartitionIndex) -> Result<(), LogError> {
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
