//! Which leader epoch began at which offset, and Kafka's `leader-epoch-checkpoint` file.
//!
//! Answers OffsetForLeaderEpoch (KIP-101, KIP-320). Invariant: epochs and start offsets
//! both rise strictly.

use std::path::Path;

use klamm_protocol::ids::{LeaderEpoch, Offset};

use crate::directory::checkpoint::{read_lines, write_lines};
use crate::disk::Disk;
use crate::error::{EpochEnd, LogError};
use crate::files::LEADER_EPOCH_CHECKPOINT;
use crate::limits::OFFSET_MAX;

/// Where one epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub leader_epoch: LeaderEpoch,
    /// The first offset written in it.
    pub start_offset: Offset,
}

/// The epochs of one log, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs(Vec<EpochStart>);

impl LeaderEpochs {
    /// The newest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<EpochStart> {
        self.0.last().copied()
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// The epoch in which `offset` was written.
    #[must_use]
    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.0.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).map(|index| self.0[index].leader_epoch)
    }

    /// The largest epoch not above `requested` and where it ends; -1 and -1 if `requested`
    /// is above all that is known here (KIP-320).
    #[must_use]
    pub fn end_offset_for(&self, requested: LeaderEpoch, log_end: Offset) -> EpochEnd {
        let unknown = EpochEnd { leader_epoch: LeaderEpoch(-1), end_offset: Offset(-1) };
        let Some(latest) = self.latest() else { return unknown };
        if requested.0 < 0 || requested > latest.leader_epoch {
            return unknown;
        }
        if requested == latest.leader_epoch {
            return EpochEnd { leader_epoch: requested, end_offset: log_end };
        }
        let above = self.0.partition_point(|entry| entry.leader_epoch <= requested);
        let end_offset = self.0[above].start_offset;
        // Below everything known: the caller's epoch itself, ending where the log begins to know.
        let leader_epoch = above.checked_sub(1).map_or(requested, |index| self.0[index].leader_epoch);
        EpochEnd { leader_epoch, end_offset }
    }

    /// `epoch` begins at `start_offset`. Entries that contradict it go. True if anything changed.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if epoch.0 < 0
            || self
                .latest()
                .is_some_and(|last| last.leader_epoch == epoch && last.start_offset <= start_offset)
        {
            return false;
        }
        self.0.retain(|entry| entry.leader_epoch < epoch && entry.start_offset < start_offset);
        self.0.push(EpochStart { leader_epoch: epoch, start_offset });
        true
    }

    /// Forgets what begins at or behind `end`. True if anything changed.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| entry.start_offset < end);
        self.0.len() != before
    }

    /// Forgets what ends at or below `start`; the epoch that contains it begins there.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) -> bool {
        let covering = self.0.partition_point(|entry| entry.start_offset <= start);
        let Some(kept) = covering.checked_sub(1) else { return false };
        if kept == 0 && self.0[0].start_offset == start {
            return false;
        }
        self.0.drain(..kept);
        self.0[0].start_offset = start;
        true
    }

    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Self, LogError> {
        let path = dir.join(LEADER_EPOCH_CHECKPOINT);
        let mut epochs = Self::default();
        for (number, line) in read_lines(disk, &path)?.unwrap_or_default() {
            let parsed = line.split_once(' ').and_then(|(epoch, offset)| {
                let start_offset = Offset(offset.parse().ok()?);
                (0..=OFFSET_MAX.0).contains(&start_offset.0).then_some(())?;
                Some(EpochStart { leader_epoch: LeaderEpoch(epoch.parse().ok()?), start_offset })
            });
            let entry = parsed.ok_or_else(|| LogError::Malformed {
                path: path.clone(),
                line: number,
                reason: format!("{line:?} is not an epoch and an offset"),
            })?;
            epochs.assign(entry.leader_epoch, entry.start_offset);
        }
        Ok(epochs)
    }

    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let lines = self.0.iter().map(|entry| format!("{} {}", entry.leader_epoch, entry.start_offset));
        write_lines(disk, &dir.join(LEADER_EPOCH_CHECKPOINT), lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in entries {
            assert!(epochs.assign(LeaderEpoch(*epoch), Offset(*start)));
        }
        epochs
    }

    fn end(epochs: &LeaderEpochs, requested: i32) -> (i32, i64) {
        let end = epochs.end_offset_for(LeaderEpoch(requested), Offset(100));
        (end.leader_epoch.0, end.end_offset.0)
    }

    #[test]
    fn ends_are_those_of_kip_320() {
        let known = epochs(&[(2, 10), (4, 20), (7, 50)]);
        assert_eq!(end(&known, 7), (7, 100));
        assert_eq!(end(&known, 8), (-1, -1));
        assert_eq!(end(&known, -1), (-1, -1));
        assert_eq!(end(&known, 5), (4, 50));
        assert_eq!(end(&known, 4), (4, 50));
        assert_eq!(end(&known, 3), (2, 20));
        assert_eq!(end(&known, 1), (1, 10));
        assert_eq!(end(&LeaderEpochs::default(), 0), (-1, -1));
        assert_eq!(known.epoch_for_offset(Offset(49)), Some(LeaderEpoch(4)));
        assert_eq!(known.epoch_for_offset(Offset(9)), None);
    }

    #[test]
    fn an_assignment_drops_what_contradicts_it() {
        let mut known = epochs(&[(2, 10), (4, 20), (7, 50)]);
        assert!(!known.assign(LeaderEpoch(7), Offset(60)));
        assert!(known.assign(LeaderEpoch(8), Offset(20)));
        assert_eq!(known, epochs(&[(2, 10), (8, 20)]));
        assert!(known.assign(LeaderEpoch(1), Offset(30)));
        assert_eq!(known, epochs(&[(1, 30)]));
    }

    #[test]
    fn truncation_keeps_the_covering_epoch() {
        let mut known = epochs(&[(2, 10), (4, 20), (7, 50)]);
        assert!(known.truncate_from_start(Offset(30)));
        assert_eq!(known, epochs(&[(4, 30), (7, 50)]));
        assert!(!known.truncate_from_start(Offset(30)));
        assert!(!known.truncate_from_start(Offset(5)));
        assert!(known.truncate_from_end(Offset(50)));
        assert_eq!(known, epochs(&[(4, 30)]));
    }

    #[test]
    fn the_file_is_kafkas() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/t-0");
        disk.create_dir_all(dir).unwrap();
        let known = epochs(&[(0, 0), (3, 12)]);
        known.store(&disk, dir).unwrap();
        let text = disk.read_file(&dir.join(LEADER_EPOCH_CHECKPOINT), 100).unwrap();
        assert_eq!(text, b"0\n2\n0 0\n3 12\n");
        assert_eq!(LeaderEpochs::load(&disk, dir).unwrap(), known);
    }
}
