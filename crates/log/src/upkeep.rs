//! What a log wants done now and then beside appends: files closed, a cheap recovery prepared.
//!
//! Deliberately absent: when; the broker's background tasks know.

use klamm_protocol::ids::Offset;

use crate::error::LogError;
use crate::log::Log;
use crate::open::remove_if_there;
use crate::producer::snapshot_path;

/// How much may be appended before the producers are written down again: recovery walks so much
/// by its headers, in about a millisecond.
const SNAPSHOT_BYTES: u64 = 4 << 20;

impl Log {
    /// Closes the files that nobody used since the last call. A segment with bytes that are
    /// not durable keeps its file: a later descriptor may not see that its write-back failed.
    pub fn close_idle_files(&self) {
        let (limits, segments) = self.view.load();
        let is_durable = limits.flushed.offset == limits.end.offset && !self.is_poisoned();
        for segment in segments.iter() {
            segment.close_idle_files(is_durable || segment.base_offset() < limits.flushed.segment_base);
        }
    }

    /// Lets a recovery that begins at the flushed end find its way there: writes the index entries
    /// up to the end, and the producers where the last snapshot lies far behind. Call it before
    /// the flush whose target becomes the recovery point; costs nothing where nothing was appended.
    ///
    /// # Errors
    /// [`LogError`] if the disk refuses. The log is none the worse, its recovery is.
    pub fn prepare_recovery_point(&mut self) -> Result<(), LogError> {
        self.refuse_if_poisoned()?;
        if self.active.has_many_unwritten(1) {
            self.write_indexes()?;
        }
        let end = self.view.limits().end;
        let behind = u64::from(end.position).saturating_sub(self.last_snapshot_position());
        if behind < SNAPSHOT_BYTES {
            return Ok(());
        }
        let previous = self.last_snapshot;
        self.take_snapshot(end.offset, false)?;
        self.snapshot_position = (end.segment_base, end.position);
        // Of use only at a segment's base, once there is a newer one.
        if previous != self.last_snapshot && !self.is_segment_base(previous) {
            remove_if_there(&*self.disk, &snapshot_path(&self.dir, previous))?;
        }
        Ok(())
    }

    /// Where in the active segment the last snapshot was taken.
    fn last_snapshot_position(&self) -> u64 {
        let (base, position) = self.snapshot_position;
        if base == self.active.shape.base_offset { u64::from(position) } else { 0 }
    }

    fn is_segment_base(&self, offset: Offset) -> bool {
        self.view.segments().iter().any(|segment| segment.base_offset() == offset)
    }
}
