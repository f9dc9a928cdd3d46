//! What of a log may be cleaned now, and how much it needs it.
//!
//! As Kafka: everything below the active segment, the last stable offset and the first
//! segment younger than `min.compaction.lag.ms`, in whole segments. The part behind the
//! checkpoint is dirty; its share of the bytes decides, or its age against
//! `max.compaction.lag.ms`.

use std::ops::Range;

use klamm_protocol::ids::Offset;
use klamm_protocol::time::WallMs;

use crate::disk::Patience;
use crate::error::ReadError;
use crate::view::{PartitionView, io_error};

/// The lags of a topic, and the time.
#[derive(Clone, Copy, Debug)]
pub struct Lags {
    /// `min.compaction.lag.ms`.
    pub min_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_ms: i64,
    /// The time.
    pub now: WallMs,
}

/// The part of a log that may be cleaned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanableRange {
    /// Everything below was cleaned before.
    pub first_dirty: Offset,
    /// Where cleaning must end: a segment's base.
    pub first_uncleanable: Offset,
    /// Bytes in segments that were cleaned before.
    pub clean_bytes: u64,
    /// Bytes in segments with something to clean.
    pub cleanable_bytes: u64,
    /// By how much `max.compaction.lag.ms` is exceeded.
    pub overdue_ms: i64,
    /// True if the checkpoint did not fit the log, which is taken as wholly dirty.
    pub is_checkpoint_invalid: bool,
}

/// What is known of a segment; the timestamps only where somebody asks for them.
#[derive(Clone, Copy, Debug)]
struct Facts {
    base: Offset,
    size_bytes: u64,
    /// The largest timestamp.
    newest: i64,
    /// The first batch's.
    oldest: i64,
}

impl CleanableRange {
    /// Looks at a log that was cleaned up to `checkpoint`. Reads a few bytes of dirty
    /// segments where a lag is set.
    pub fn of(view: &PartitionView, checkpoint: Option<Offset>, lags: &Lags) -> Result<Self, ReadError> {
        let (limits, segments) = view.load();
        let range = limits.log_start..limits.end.offset;
        let (first_dirty, is_checkpoint_invalid) = first_dirty(checkpoint, &range);
        let first = segments.floor(first_dirty);
        let closed = &segments[..segments.len() - 1];
        let mut facts = Vec::with_capacity(closed.len());
        for (index, segment) in closed.iter().enumerate() {
            let is_dirty = index >= first && segment.size_bytes() > 0;
            let mut this = Facts {
                base: segment.base_offset(),
                size_bytes: u64::from(segment.size_bytes()),
                newest: -1,
                oldest: -1,
            };
            if is_dirty && lags.min_ms > 0 {
                this.newest = segment.max_timestamp().map_err(|error| io_error(segment, error))?;
            }
            if is_dirty && lags.max_ms < i64::MAX {
                let entry = segment
                    .first_at_or_behind(0, segment.size_bytes(), Patience::Waits)
                    .map_err(|error| error.into_read_error(segment.file().path()))?;
                this.oldest = entry.map_or(-1, |entry| entry.max_timestamp);
            }
            facts.push(this);
        }
        let active = segments.active().base_offset();
        let decided = decide(&facts, active, limits.last_stable.offset, first_dirty, lags);
        Ok(Self { is_checkpoint_invalid, ..decided })
    }

    /// The dirty share of the bytes, from 0 to 1.
    #[must_use]
    pub fn dirty_ratio(&self) -> f64 {
        match self.clean_bytes + self.cleanable_bytes {
            0 => 0.0,
            total => self.cleanable_bytes as f64 / total as f64,
        }
    }

    /// True if it should be cleaned, where `min.cleanable.dirty.ratio` is `ratio_min`.
    #[must_use]
    pub fn is_due(&self, ratio_min: f64) -> bool {
        self.cleanable_bytes > 0 && (self.overdue_ms > 0 || self.dirty_ratio() > ratio_min)
    }

    pub(super) fn dirty(&self) -> Range<Offset> {
        self.first_dirty..self.first_uncleanable
    }
}

/// The checkpoint, or the log's start where it does not lie in the log.
fn first_dirty(checkpoint: Option<Offset>, log: &Range<Offset>) -> (Offset, bool) {
    match checkpoint {
        Some(offset) if offset >= log.start && offset <= log.end => (offset, false),
        Some(_) => (log.start, true),
        None => (log.start, false),
    }
}

fn decide(
    closed: &[Facts],
    active: Offset,
    last_stable: Offset,
    first_dirty: Offset,
    lags: &Lags,
) -> CleanableRange {
    let is_dirty = |index: usize| closed.get(index + 1).map_or(active, |next| next.base) > first_dirty;
    let young_from = lags.now.0.saturating_sub(lags.min_ms);
    let is_young = |(index, facts): &(usize, &Facts)| {
        is_dirty(*index) && lags.min_ms > 0 && facts.size_bytes > 0 && facts.newest > young_from
    };
    let young = closed.iter().enumerate().find(is_young).map(|(_, facts)| facts.base);
    let bound = active.min(last_stable).min(young.unwrap_or(active));
    // Whole segments only: the one that the bound lies in stays as it is.
    let bases = || closed.iter().map(|facts| facts.base).chain([active]);
    let first_uncleanable = bases().rev().find(|base| *base <= bound).unwrap_or(bound);
    let mut range = CleanableRange {
        first_dirty,
        first_uncleanable,
        clean_bytes: 0,
        cleanable_bytes: 0,
        overdue_ms: 0,
        is_checkpoint_invalid: false,
    };
    let must_be_before = lags.now.0.saturating_sub(lags.max_ms.max(0));
    for (index, facts) in closed.iter().enumerate() {
        if !is_dirty(index) {
            range.clean_bytes += facts.size_bytes;
            continue;
        }
        if facts.oldest > 0 {
            range.overdue_ms = range.overdue_ms.max(must_be_before.saturating_sub(facts.oldest));
        }
        if facts.base < first_uncleanable {
            range.cleanable_bytes += facts.size_bytes;
        }
    }
    range
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(base: i64, size_bytes: u64, oldest: i64, newest: i64) -> Facts {
        Facts { base: Offset(base), size_bytes, newest, oldest }
    }

    fn decided(active: i64, last_stable: i64, first_dirty: i64, lags: Lags) -> CleanableRange {
        let closed = [facts(0, 10, 5, 10), facts(100, 20, 15, 30), facts(200, 40, 25, 20)];
        decide(&closed, Offset(active), Offset(last_stable), Offset(first_dirty), &lags)
    }

    const NO_LAGS: Lags = Lags { min_ms: 0, max_ms: i64::MAX, now: WallMs(100) };

    #[test]
    fn whole_segments_below_every_bound_are_cleaned() {
        let range = decided(300, 300, 0, NO_LAGS);
        assert_eq!((range.first_uncleanable.0, range.cleanable_bytes, range.clean_bytes), (300, 70, 0));
        let range = decided(300, 250, 100, NO_LAGS);
        assert_eq!((range.first_uncleanable.0, range.cleanable_bytes, range.clean_bytes), (200, 20, 10));
        assert!((range.dirty_ratio() - 2.0 / 3.0).abs() < 1e-9);
        assert!(range.is_due(0.5) && !range.is_due(0.7));
        // A map that was full ends within a segment, which is dirty still.
        let range = decided(300, 300, 150, NO_LAGS);
        assert_eq!((range.clean_bytes, range.cleanable_bytes), (10, 60));
        let range = decided(300, 300, 300, NO_LAGS);
        assert_eq!((range.clean_bytes, range.cleanable_bytes), (70, 0));
        assert!(!range.is_due(0.0));
        assert!(!decided(300, 50, 0, NO_LAGS).is_due(0.0), "nothing below an open transaction");
    }

    #[test]
    fn young_segments_wait_and_old_ones_hurry() {
        let range = decided(300, 300, 0, Lags { min_ms: 75, ..NO_LAGS });
        assert_eq!(range.first_uncleanable.0, 100, "a record of time 30 is younger than 100 - 75");
        let range = decided(300, 300, 0, Lags { min_ms: 70, ..NO_LAGS });
        assert_eq!(range.first_uncleanable.0, 300);
        let range = decided(300, 300, 100, Lags { max_ms: 80, ..NO_LAGS });
        assert_eq!(range.overdue_ms, 5, "15 is older than 100 - 80");
        assert!(range.is_due(0.99));
        assert_eq!(decided(300, 300, 100, Lags { max_ms: 85, ..NO_LAGS }).overdue_ms, 0);
    }

    #[test]
    fn a_checkpoint_outside_the_log_is_no_checkpoint() {
        let log = Offset(10)..Offset(20);
        assert_eq!(first_dirty(None, &log), (Offset(10), false));
        assert_eq!(first_dirty(Some(Offset(20)), &log), (Offset(20), false));
        assert_eq!(first_dirty(Some(Offset(9)), &log), (Offset(10), true));
        assert_eq!(first_dirty(Some(Offset(21)), &log), (Offset(10), true));
    }
}
