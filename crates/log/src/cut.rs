//! Taking something away from a log: its tail (a follower that diverged) or its head
//! (retention, DeleteRecords).
//!
//! Limits move before segments leave the view, and segments leave it before files change. Of
//! the head only the view changes here; its files are the [`Removal`]'s. A truncation cuts files
//! in place: only bytes above the watermark may go that way, which no client was sent. It
//! raises the view's generation.

use std::sync::Arc;

use klamm_protocol::ids::{Offset, TopicId};
use klamm_protocol::time::WallMs;

use crate::error::LogError;
use crate::files::{self, LOG};
use crate::limits::{Limits, LogPosition};
use crate::log::{Log, new_active};
use crate::open::{OpenLog, RecoveryReport, remove_if_there, remove_segment};
use crate::producer::{list_snapshots, snapshot_path};
use crate::recovery::{Recovered, Recovery};
use crate::removal::Removal;
use crate::replay;
use crate::retention::HeadCut;
use crate::segment::Segment;
use crate::view::Segments;

impl Log {
    /// Cuts the log so that it ends at `offset`, or at the beginning of the batch that
    /// contains it. Below the first segment everything goes and the log begins anew there.
    pub fn truncate_to(&mut self, offset: Offset, now: WallMs) -> Result<(), LogError> {
        self.refuse_if_poisoned()?;
        let (limits, segments) = self.view.load();
        if offset >= limits.end.offset {
            return Ok(());
        }
        if offset < limits.log_start || offset <= segments[0].base_offset() {
            return self.truncate_fully_and_start_at(offset, now);
        }
        let end = self.position_of(offset)?;
        self.outgoing.finish()?;
        self.write_indexes()?;
        self.lower_limits(end, limits.log_start);
        let result = self.cut_tail(&segments, end, now);
        result.inspect_err(|error| self.poison(error.to_string()))
    }

    /// Drops everything; the next batch gets `offset`.
    pub fn truncate_fully_and_start_at(&mut self, offset: Offset, now: WallMs) -> Result<(), LogError> {
        self.refuse_if_poisoned()?;
        self.outgoing.finish()?;
        let segments = self.view.segments();
        let end = LogPosition { offset, segment_base: offset, position: 0 };
        let result = self.begin_anew(&segments, end, now);
        result.inspect_err(|error| self.poison(error.to_string()))
    }

    /// Moves the log start up to `offset`, at most to the watermark, and takes the segments that
    /// lie wholly below it out of the view. A lower offset moves nothing.
    ///
    /// The start is durable once the log directory's checkpoint has it: before
    /// [`Removal::mark`], or that is told so.
    pub fn advance_log_start(&mut self, offset: Offset) -> Result<Removal, LogError> {
        self.refuse_if_poisoned()?;
        let limits = self.view.limits();
        if offset > limits.high_watermark.offset {
            return Err(LogError::OffsetOutOfRange {
                path: self.dir.clone(),
                offset,
                low: limits.log_start,
                high: limits.high_watermark.offset,
            });
        }
        if offset > limits.log_start {
            self.version += 1;
            self.view.advance(|now| Some(Limits { log_start: offset, ..*now }));
            if self.epochs.truncate_from_start(offset) {
                // The file may lag behind: opening the log cuts it to the start.
                self.view.publish_epochs(self.epochs.clone());
            }
        }
        Ok(self.release_head())
    }

    /// Does what retention decided, as far as it still holds: a log that was truncated since
    /// stays as it is, and an active segment that has grown since is not rolled.
    pub fn cut_head(&mut self, cut: &HeadCut, now: WallMs) -> Result<Removal, LogError> {
        self.refuse_if_poisoned()?;
        let limits = self.view.limits();
        if cut.generation != self.view.generation() {
            return self.advance_log_start(limits.log_start);
        }
        if cut.rolls_active && cut.log_start == limits.end.offset && self.active.size > 0 {
            self.roll(limits.end.offset, now)?;
        }
        self.advance_log_start(cut.log_start.min(self.active.segment.base_offset()))
    }

    /// Takes the segments that lie wholly below the log start out of the view.
    fn release_head(&mut self) -> Removal {
        let log_start = self.view.limits().log_start;
        let segments = self.view.segments();
        let gone = segments.iter().skip(1).take_while(|next| next.base_offset() <= log_start).count();
        let (gone, kept) = segments.split_at(gone);
        if !gone.is_empty() {
            self.view.note_released(gone);
            self.view.publish_segments(Segments::new(kept.to_vec()));
        }
        let bases = gone.iter().map(|segment| segment.base_offset()).collect();
        let size_bytes = gone.iter().map(|segment| u64::from(segment.size_bytes())).sum();
        Removal::new(Arc::clone(&self.outgoing), bases, size_bytes)
    }

    fn lower_limits(&mut self, end: LogPosition, log_start: Offset) {
        self.version += 1;
        let lower = |limit: LogPosition| if limit.offset > end.offset { end } else { limit };
        self.view.advance(|now| {
            Some(Limits {
                log_start,
                end,
                flushed: lower(now.flushed),
                high_watermark: lower(now.high_watermark),
                last_stable: end,
                generation: now.generation + 1,
            })
        });
    }

    fn cut_tail(&mut self, segments: &[Arc<Segment>], end: LogPosition, now: WallMs) -> Result<(), LogError> {
        let gone = segments.iter().rev().take_while(|s| s.base_offset() > end.segment_base);
        for segment in gone {
            remove_segment(&*self.disk, &self.dir, segment.base_offset())?;
        }
        // Durable before the file before them is shorter: no crash leaves a hole.
        self.disk.sync_dir(&self.dir).map_err(LogError::io("sync", &self.dir))?;
        let path = files::segment_file(&self.dir, end.segment_base, LOG);
        let kept = segments.iter().find(|segment| segment.base_offset() == end.segment_base);
        let kept = kept.ok_or_else(|| LogError::Corrupt {
            path: path.clone(),
            position: u64::from(end.position),
            reason: "the segment is not in the log".to_owned(),
        })?;
        let file = kept.file().get().map_err(LogError::io("open", &path))?;
        file.set_len(u64::from(end.position)).map_err(LogError::io("cut", &path))?;
        // A flush that finds nothing new would not do it, and what was cut must not come back.
        file.sync_data().map_err(LogError::io("flush", &path))?;
        let aborted = kept.transactions.entries().map_err(LogError::io("read the .txnindex of", &path))?;
        let listed = aborted.iter().filter(|entry| entry.last_offset < end.offset).copied().collect();
        kept.transactions.replace(listed).map_err(LogError::io("write the .txnindex of", &path))?;
        if self.epochs.truncate_from_end(end.offset) {
            self.store_epochs()?;
        }
        let bases = segments
            .iter()
            .take_while(|segment| segment.base_offset() <= end.segment_base)
            .map(|segment| (segment.base_offset(), segment.size_bytes()))
            .collect();
        let open = self.as_open(now);
        let mut report = RecoveryReport::default();
        let Recovered { segments: mut list, active, .. } =
            Recovery::new(&open, &mut self.epochs, &mut report).run(bases)?;
        list.push(Arc::clone(&active.segment));
        self.active = active;
        // Entries of what was cut would pass for those of what comes in its place.
        self.write_indexes()?;
        self.view.publish_segments(Segments::new(list));
        self.rebuild_producers(&open)
    }

    fn begin_anew(
        &mut self,
        segments: &[Arc<Segment>],
        end: LogPosition,
        now: WallMs,
    ) -> Result<(), LogError> {
        // Whatever they count is gone, also what lies below the new beginning.
        for offset in list_snapshots(&*self.disk, &self.dir).map_err(LogError::io("list", &self.dir))? {
            remove_if_there(&*self.disk, &snapshot_path(&self.dir, offset))?;
        }
        for segment in segments {
            remove_segment(&*self.disk, &self.dir, segment.base_offset())?;
        }
        let active = new_active(&self.disk, &self.dir, end.offset, now)?;
        self.view.note_new_names();
        self.version += 1;
        self.view.advance(|now| Some(Limits { generation: now.generation + 1, ..*now }));
        self.view.publish_segments(Segments::new(vec![Arc::clone(&active.segment)]));
        self.active = active;
        self.view.publish_unstable(Vec::new());
        self.view.advance(|now| {
            Some(Limits {
                log_start: end.offset,
                end,
                flushed: end,
                high_watermark: end,
                last_stable: end,
                generation: now.generation + 1,
            })
        });
        self.epochs.truncate_from_end(end.offset);
        self.epochs.truncate_from_start(end.offset);
        self.store_epochs()?;
        self.rebuild_producers(&self.as_open(now))
    }

    /// Snapshots behind the end describe what is gone.
    fn rebuild_producers(&mut self, open: &OpenLog) -> Result<(), LogError> {
        let end = self.view.limits().end.offset;
        let offsets = list_snapshots(&*self.disk, &self.dir).map_err(LogError::io("list", &self.dir))?;
        for offset in offsets.into_iter().filter(|offset| *offset > end) {
            remove_if_there(&*self.disk, &snapshot_path(&self.dir, offset))?;
        }
        let rebuilt = replay::rebuild(open, &self.view, &mut RecoveryReport::default())?;
        self.producers = rebuilt.state;
        self.verifications.clear();
        self.last_snapshot = rebuilt.last_snapshot;
        self.publish_unstable();
        self.view.advance(|now| Some(*now));
        Ok(())
    }

    fn as_open(&self, now: WallMs) -> OpenLog {
        OpenLog {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            topic_id: TopicId::default(),
            config: self.config.clone(),
            recovery_point: Offset(0),
            log_start: self.view.limits().log_start,
            high_watermark: None,
            was_clean: true,
            now,
        }
    }
}
