//! The offset checkpoints of a directory: how far each log is durable, where it starts, how far
//! it was compacted.
//!
//! **Invariants:** an entry never speaks of an earlier topic of the same name; entries of
//! partitions that are not open stay.

use std::sync::Arc;

use klamm_log::LogError;
use klamm_log::directory::OffsetCheckpoint;
use klamm_protocol::ids::{Offset, PartitionIndex};

use super::{Dir, LogDirs};
use crate::partition::Partition;
use crate::partition::registry::TopicIndex;

/// What a directory's checkpoint files say. Entries of partitions that are not open stay.
#[derive(Default)]
pub(super) struct Checkpoints {
    pub(super) recovery_points: OffsetCheckpoint,
    pub(super) log_starts: OffsetCheckpoint,
    /// How far each compacted log was cleaned.
    pub(super) cleaned: OffsetCheckpoint,
    /// True while the file may differ from `log_starts`.
    has_new_log_starts: bool,
    /// Rounds of the flusher that the files know of.
    rounds: u64,
}

impl Checkpoints {
    pub(super) fn new(
        recovery_points: OffsetCheckpoint,
        log_starts: OffsetCheckpoint,
        cleaned: OffsetCheckpoint,
    ) -> Self {
        // Written once behind every start: a file that could not be read is a good one again.
        Self { recovery_points, log_starts, cleaned, has_new_log_starts: true, rounds: 0 }
    }

    /// A start never goes back; one of 0 needs no line.
    fn note_log_start(&mut self, key: (String, PartitionIndex), log_start: Offset) {
        let known = self.log_starts.get(&key).copied().unwrap_or_default();
        if known < log_start {
            self.log_starts.insert(key, log_start);
            self.has_new_log_starts = true;
        }
    }
}

impl LogDirs {
    /// Writes down where these logs start, in the directories where that has changed. Tells of each
    /// whether its start is durable now; a failure is logged.
    pub(crate) fn checkpoint_log_starts(&self, moved: &[Arc<Partition>]) -> Vec<bool> {
        let places: Vec<_> = moved.iter().map(|partition| self.place_of(partition)).collect();
        let mut is_durable = vec![true; self.dirs.len()];
        for (place, dir) in self.dirs.iter().enumerate() {
            let mut checkpoints = dir.checkpoints.lock().expect("nothing panics in here");
            for (partition, _) in moved.iter().zip(&places).filter(|(_, found)| **found == Some(place)) {
                let log_start = partition.view.limits().log_start;
                checkpoints.note_log_start((partition.topic.to_string(), partition.index), log_start);
            }
            if checkpoints.has_new_log_starts
                && let Err(error) = dir.write_log_starts(&mut checkpoints)
            {
                is_durable[place] = false;
                dir.state.note(&error);
                tracing::error!(%error, "cannot write down where logs start");
            }
        }
        places.into_iter().map(|place| place.is_none_or(|place| is_durable[place])).collect()
    }

    /// Writes down how far each log is durable and where it starts, in the directories in which
    /// something was flushed since.
    pub(crate) fn checkpoint_flushed(&self, topics: &TopicIndex) -> Result<(), LogError> {
        let mut open = Vec::new();
        for (place, dir) in self.dirs.iter().enumerate().filter(|(_, dir)| !dir.state.is_offline()) {
            // Looked at first: what is flushed meanwhile is the next time's.
            let rounds = dir.state.round_count();
            if std::mem::replace(&mut dir.checkpoints.lock().expect("nothing panics in here").rounds, rounds)
                == rounds
            {
                continue;
            }
            if open.is_empty() {
                let partitions = topics.topics().map(|topic| topic.partitions.load_full());
                open.extend(partitions.flat_map(|partitions| partitions.to_vec()).flatten());
            }
            self.write_checkpoints(place, &open)?;
        }
        Ok(())
    }

    /// How far a partition's log was cleaned.
    pub(crate) fn cleaned_up_to(&self, partition: &Partition) -> Option<Offset> {
        let dir = &self.dirs[self.place_of(partition)?];
        let checkpoints = dir.checkpoints.lock().expect("nothing panics in here");
        checkpoints.cleaned.get(&(partition.topic.to_string(), partition.index)).copied()
    }

    /// Writes down how far a partition's log was cleaned.
    pub(crate) fn note_cleaned(&self, partition: &Partition, end: Offset) -> Result<(), LogError> {
        let Some(place) = self.place_of(partition) else { return Ok(()) };
        let dir = &self.dirs[place];
        let mut checkpoints = dir.checkpoints.lock().expect("nothing panics in here");
        checkpoints.cleaned.insert((partition.topic.to_string(), partition.index), end);
        dir.directory.write_cleaner_offsets(&checkpoints.cleaned)
    }

    /// The directory of a partition; `None` once it was deleted.
    fn place_of(&self, partition: &Partition) -> Option<usize> {
        let places = self.places.lock().expect("nothing panics in here");
        let found = places.get(&(partition.topic.clone(), partition.index))?;
        (found.topic_id == Some(partition.topic_id)).then_some(found.dir)
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
            if self.place_of(partition) != Some(place) {
                continue;
            }
            let key = (partition.topic.to_string(), partition.index);
            let limits = partition.view.limits();
            flushed.insert(key.clone(), limits.flushed.offset);
            checkpoints.recovery_points.insert(key.clone(), limits.flushed.offset);
            checkpoints.note_log_start(key, limits.log_start);
        }
        dir.directory.write_recovery_points(&checkpoints.recovery_points)?;
        if checkpoints.has_new_log_starts {
            dir.write_log_starts(&mut checkpoints)?;
        }
        Ok(flushed)
    }
}

impl Dir {
    fn write_log_starts(&self, checkpoints: &mut Checkpoints) -> Result<(), LogError> {
        self.directory.write_log_starts(&checkpoints.log_starts)?;
        checkpoints.has_new_log_starts = false;
        Ok(())
    }

    /// A partition comes from another directory: as durable as it is, or a kill would have all of it checked,
    /// and deleted records would come back.
    pub(super) fn note_arrival(
        &self,
        topic: &str,
        index: PartitionIndex,
        end: Offset,
        log_start: Offset,
    ) -> Result<(), LogError> {
        let key = (topic.to_owned(), index);
        let mut checkpoints = self.checkpoints.lock().expect("nothing panics in here");
        checkpoints.recovery_points.insert(key.clone(), end);
        checkpoints.log_starts.remove(&key);
        checkpoints.note_log_start(key, log_start);
        self.directory.write_recovery_points(&checkpoints.recovery_points)?;
        self.write_log_starts(&mut checkpoints)
    }

    /// Before a partition's files go or come: what is known of its name is another's.
    pub(super) fn forget_checkpoints(&self, topic: &str, index: PartitionIndex) -> Result<(), LogError> {
        let key = (topic.to_owned(), index);
        let mut checkpoints = self.checkpoints.lock().expect("nothing panics in here");
        if checkpoints.recovery_points.remove(&key).is_some() {
            self.directory.write_recovery_points(&checkpoints.recovery_points)?;
        }
        if checkpoints.log_starts.remove(&key).is_some() {
            checkpoints.has_new_log_starts = true;
            self.write_log_starts(&mut checkpoints)?;
        }
        if checkpoints.cleaned.remove(&key).is_some() {
            self.directory.write_cleaner_offsets(&checkpoints.cleaned)?;
        }
        Ok(())
    }
}
