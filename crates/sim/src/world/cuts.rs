//! Taking something away from the log: its head, its tail, or all of it.

use klamm_log::{Removal, RetentionLimits};
use klamm_protocol::ids::{LeaderEpoch, Offset};

use super::{Outcome, TIMESTAMP_MAX, World, text};
use crate::history::Contents;

impl World {
    pub(super) fn advance_start(&mut self, share: u8) -> Outcome {
        let limits = self.log().view().limits();
        let span = limits.high_watermark.offset.0 - limits.log_start.0;
        let to = limits.log_start.0 + span * i64::from(share) / 255;
        self.history.live.log_start = to;
        self.log_start_asked = to.max(self.log_start_asked);
        let removal = self.log().advance_log_start(Offset(to)).map_err(text)?;
        // As retention does it, with the checkpoint first, or as one who does not wait for it.
        let is_start_durable = share.is_multiple_of(2);
        if is_start_durable {
            self.checkpoint()?;
        }
        if share % 8 == 7 { Ok(()) } else { self.remove(removal, is_start_durable) }
    }

    /// By size for an even share, by age for an odd one.
    pub(super) fn retain(&mut self, share: u8) -> Outcome {
        let part = |whole: u64| whole * u64::from(share) / 255;
        let limits = if share.is_multiple_of(2) {
            RetentionLimits { bytes_max: Some(part(self.log().size_bytes())), age_ms_max: None }
        } else {
            let age_ms = self.now.0 - part(TIMESTAMP_MAX) as i64;
            RetentionLimits { bytes_max: None, age_ms_max: Some(age_ms) }
        };
        let view = self.log().view();
        let now = self.now;
        let cut = view.decide_retention(&limits, now).map_err(text)?;
        let removal = self.log().cut_head(&cut, now).map_err(text)?;
        let log_start = view.limits().log_start.0;
        self.history.live.log_start = log_start;
        self.log_start_asked = log_start.max(self.log_start_asked);
        self.checkpoint()?;
        self.remove(removal, true)
    }

    fn remove(&mut self, removal: Removal, is_start_durable: bool) -> Outcome {
        let removed = removal.mark(is_start_durable).and_then(|()| removal.unlink());
        // A disk that fails here takes its directory offline.
        removed.inspect_err(|_| self.log = None).map_err(text)
    }

    pub(super) fn truncate(&mut self, share: u8) -> Outcome {
        let live = &self.history.live;
        let to = live.log_start + (live.end - live.log_start) * i64::from(share) / 255;
        // Into the batch that holds the start, a truncation would take readable records that
        // a follower's leader still has.
        let is_inside = live.batches.iter().any(|batch| batch.base() < live.log_start && batch.next() > to);
        // What is compacted lies below the watermark, and nothing below that is truncated.
        let is_below = to <= live.log_start
            || to <= self.history.cleaned_to
            || after_truncation(live, to) < self.history.cleaned_watermark;
        if is_below || to == live.end || is_inside {
            return Ok(());
        }
        // Behind it there will be other bytes, which nobody has flushed.
        let before = self.history.live.clone();
        let point = self.log().recovery_point().0.min(after_truncation(&before, to));
        self.write_recovery_point(point)?;
        self.history.truncate(to);
        let now = self.now;
        if let Err(error) = self.log().truncate_to(Offset(to), now) {
            if self.log().view().limits().end.offset.0 == before.end {
                // It failed before it did anything.
                self.history.live = before;
            } else {
                self.is_torn = true;
            }
            return Err(error.to_string());
        }
        self.next_epoch()
    }

    pub(super) fn start_anew(&mut self) -> Outcome {
        let offset = self.history.live.end + 3;
        self.write_recovery_point(0)?;
        self.history.start_anew(offset);
        self.is_torn = true;
        let now = self.now;
        self.log().truncate_fully_and_start_at(Offset(offset), now).map_err(text)?;
        self.is_torn = false;
        self.next_epoch()
    }

    fn next_epoch(&mut self) -> Outcome {
        self.epoch += 1;
        let epoch = LeaderEpoch(self.epoch);
        self.log().assign_leader_epoch(epoch).map_err(text)
    }
}

/// Where the log ends then.
fn after_truncation(live: &Contents, to: i64) -> i64 {
    let mut after = live.clone();
    after.truncate(to);
    after.end
}
