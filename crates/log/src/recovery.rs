//! Which bytes of a log can be believed, and cutting what cannot.
//!
//! After a clean stop the last segment is only walked by its headers from its last index
//! entry. Otherwise every segment from the recovery point on is checked: structure, rising
//! offsets, leader epochs against the checkpoint, CRCs; closed segments below it are not
//! opened. What is cut is told apart ([`crate::tail`]): zeros and torn writes go; a tail with
//! valid batches behind an invalid one is kept aside. Index files are trusted up to the
//! recovery point, where a batch header confirms their last entry, and written anew behind it.
//!
//! Invariant: nothing below the recovery point is cut. What is corrupt there is stepped over
//! and told; who reads it gets an error ([`crate::verify`]).

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::active::ActiveSegment;
use crate::disk::{OpenMode, ReadAt};
use crate::entry::{Entry, SCAN_BUFFER_BYTES, Walk, WalkError, is_intact};
use crate::error::LogError;
use crate::files::{self, INDEX, LEADER_EPOCH_CHECKPOINT, LOG, TIME_INDEX, TXN_INDEX};
use crate::index::{OffsetEntry, OffsetIndex, TimeEntry, TimeIndex, decode_rising};
use crate::leader_epochs::LeaderEpochs;
use crate::limits::LogPosition;
use crate::log::new_active;
use crate::open::{
    CorruptPlace, OpenLog, RecoveryReport, Tail, Truncation, closed_segment, remove_if_there, remove_segment,
};
use crate::quarantine::Quarantined;
use crate::segment::{Segment, SegmentFile};
use crate::tail;
use klamm_protocol::ids::Offset;

/// The largest index file: room for every batch of a segment.
const INDEX_BYTES_MAX: u64 = 1 << 30;

pub(crate) struct Recovery<'a> {
    open: &'a OpenLog,
    epochs: &'a mut LeaderEpochs,
    /// Epochs are compared only with a checkpoint that was there.
    has_epochs: bool,
    /// Durable batches that agree with that checkpoint, less those that contradict it.
    epochs_right: i64,
    report: &'a mut RecoveryReport,
}

pub(crate) struct Recovered {
    /// All but the active one.
    pub segments: Vec<Arc<Segment>>,
    pub active: ActiveSegment,
    pub end: LogPosition,
    /// Segments wholly below a start that lies behind the end.
    pub below: Vec<Offset>,
}

/// How one segment is walked.
struct Walked {
    active: ActiveSegment,
    next_offset: Offset,
    fault: Option<WalkError>,
    /// Bytes in the file, believed or not.
    len: u64,
    /// The index files hold what is in memory.
    has_indexes: bool,
}

/// Where in the log a batch lies.
#[derive(Clone, Copy)]
struct Place {
    /// Of its segment.
    base: Offset,
    /// Of the next segment.
    next: Option<Offset>,
    /// What the batch before it leaves.
    expected: Offset,
}

impl<'a> Recovery<'a> {
    pub(crate) fn new(
        open: &'a OpenLog,
        epochs: &'a mut LeaderEpochs,
        report: &'a mut RecoveryReport,
    ) -> Self {
        let has_epochs = epochs.latest().is_some();
        Self { open, epochs, has_epochs, epochs_right: 0, report }
    }

    pub(crate) fn run(mut self, mut bases: Vec<(Offset, u32)>) -> Result<Recovered, LogError> {
        let OpenLog { disk, dir, log_start, .. } = self.open;
        // Segments that end at or below the start: an interrupted deletion, if the start is right.
        let below = bases.iter().skip(1).take_while(|(next, _)| next <= log_start).count();
        let mut below: Vec<Offset> = bases.drain(..below).map(|(base, _)| base).collect();
        let Some((last, _)) = bases.last().copied() else {
            let active = new_active(disk, dir, *log_start, self.open.now)?;
            let end = LogPosition { offset: *log_start, segment_base: *log_start, position: 0 };
            return Ok(Recovered { segments: Vec::new(), active, end, below });
        };
        // Nothing was written to it: a roll that failed, or bytes that were lost.
        for (base, _) in bases.extract_if(1.., |(base, size)| *size == 0 && *base != last) {
            remove_segment(&**disk, dir, base)?;
            self.report.leftovers.push(files::segment_file(dir, base, LOG));
        }
        // The segment that holds the byte before the recovery point, and all behind it, are to
        // be checked: one that ends there may have been rolled since, its indexes never flushed.
        let first_checked = if self.open.was_clean {
            last
        } else {
            let point = self.open.recovery_point;
            bases.iter().rev().map(|(base, _)| *base).find(|base| *base < point).unwrap_or(bases[0].0)
        };
        let mut segments = Vec::new();
        let mut walked = None;
        let mut expected = bases[0].0;
        for (index, (base, size)) in bases.iter().copied().enumerate() {
            let next = bases.get(index + 1).map(|(next, _)| *next);
            if base < first_checked {
                self.rebuild_missing_index(base, size, next)?;
                segments.push(closed_segment(disk, dir, base, size));
                expected = base;
                continue;
            }
            let is_last = base == last;
            let mut this = self.walk(base, !self.open.was_clean, next, expected)?;
            let point = self.open.recovery_point;
            let is_as_left = point.0 == 0 || this.next_offset == point;
            if self.open.was_clean && is_last && (this.fault.is_some() || !is_as_left) {
                // The marker promised too much: look at all of it.
                this = self.walk(base, true, next, expected)?;
            }
            expected = this.next_offset;
            let mut is_torn = this.fault.is_some();
            if let Some(fault) = this.fault.take() {
                let has_more = bases[index + 1..].iter().any(|(_, size)| *size > 0);
                let was_room = self.cut(&this, &fault, has_more)?;
                // A roll cuts the room off, but the next segment may be durable before that is.
                let is_continued = bases.get(index + 1).is_some_and(|(next, _)| *next == this.next_offset);
                is_torn = !(was_room && is_continued);
            }
            // Segments are written back in any order: one may have lost its tail, or the whole
            // next one its name, with later ones still there; and a roll that failed may have left
            // its file, with more in the segment before it.
            let point = self.open.recovery_point;
            let is_gap = bases.get(index + 1).is_some_and(|(next, _)| {
                *next < this.next_offset && *next >= point
                    || !self.open.config.is_compacted && *next != this.next_offset && *next > point
            });
            if !is_last && !is_torn && !is_gap {
                self.finish(&mut this.active)?;
                segments.push(Arc::new(this.active.segment.to_closed(disk, dir)));
                continue;
            }
            if is_torn || is_gap {
                for (later, _) in &bases[index + 1..] {
                    let reason = "it does not continue the segment before it".to_owned();
                    set_segment_aside(self.open, *later, reason, self.report)?;
                }
            }
            walked = Some(this);
            break;
        }
        let mut walked = walked.expect("the last segment is always walked");
        let path = walked.active.segment.file().path().to_owned();
        let point = self.open.recovery_point;
        if walked.next_offset < point && walked.next_offset > *log_start {
            let position = u64::from(walked.active.size);
            let reason =
                format!("the log ends at {}, though {point} was reached durably", walked.next_offset);
            self.report.corrupt.push(CorruptPlace { path: path.clone(), position, reason });
        }
        // One batch may be wrong where others are not; a checkpoint is wrong for most of them.
        if self.epochs_right < 0 {
            *self.epochs = LeaderEpochs::default();
            self.report.ignored.push(dir.join(LEADER_EPOCH_CHECKPOINT));
        }
        if walked.next_offset >= *log_start {
            for base in below.drain(..) {
                remove_segment(&**disk, dir, base)?;
                self.report.leftovers.push(files::segment_file(dir, base, LOG));
            }
        }
        if !walked.has_indexes && !self.open.was_clean {
            walked.active.write_indexes(&**disk, dir).map_err(LogError::io("write the indexes in", dir))?;
            // Durable, or the next start finds those of what was there before, and believes them.
            files::sync_indexes(&**disk, dir, walked.active.shape.base_offset)?;
        }
        // Nothing behind the recovery point: all of it is durable.
        let is_recovered = walked.next_offset != point && !self.open.was_clean
            || segments.last().is_some_and(|s| s.base_offset() >= first_checked)
            || !self.report.truncations.is_empty();
        if is_recovered {
            // What was only in the page cache becomes durable before anyone may read it.
            for segment in segments.iter().filter(|s| s.base_offset() >= first_checked) {
                flush(segment)?;
            }
            flush(&walked.active.segment)?;
            disk.sync_dir(dir).map_err(LogError::io("sync", &path))?;
        }
        let end = LogPosition {
            offset: walked.next_offset,
            segment_base: walked.active.shape.base_offset,
            position: walked.active.size,
        };
        Ok(Recovered { segments, active: walked.active, end, below })
    }

    /// Walks a segment from where its index can be trusted.
    fn walk(
        &mut self,
        base: Offset,
        must_check: bool,
        next: Option<Offset>,
        expected: Offset,
    ) -> Result<Walked, LogError> {
        let OpenLog { disk, dir, config, .. } = self.open;
        let path = files::segment_file(dir, base, LOG);
        let file = disk.open(&path, OpenMode::Write).map_err(LogError::io("open", &path))?;
        let len = file.len().map_err(LogError::io("look at", &path))?;
        let trust = if must_check { self.open.recovery_point } else { Offset(i64::MAX) };
        let (offsets, times, is_as_written) = self.trusted_indexes(base, &*file, len, trust)?;
        let start = offsets.last().map_or(0, |entry| entry.position);
        let segment_file =
            SegmentFile::growing(Arc::clone(disk), path.clone(), Arc::clone(&file), size_of(len));
        let indexes = (OffsetIndex::in_memory(&offsets), TimeIndex::in_memory(&times));
        let max_timestamp = times.last().map_or(-1, |entry| entry.timestamp);
        let segment = Segment::active(disk, dir, Arc::new(segment_file), base, start, indexes, max_timestamp);
        let mut active = ActiveSegment::new(Arc::new(segment), self.open.now, is_as_written);
        if start > 0
            && let Some(first) = entry_at(&*file, 0, len)
        {
            active.shape.first_timestamp = Some(first.max_timestamp);
        }
        let mut next_offset = expected.max(base);
        let mut buffer = vec![0; SCAN_BUFFER_BYTES.min(len as usize + 64).max(4096)];
        let mut walk = Walk::new(&*file, u64::from(start), len, &mut buffer);
        let mut is_first = start > 0;
        let fault = loop {
            let checked = match walk.next() {
                Ok(Some(entry)) => {
                    let expected = if is_first { entry.base_offset.max(base) } else { next_offset };
                    let may_skip = is_first || config.is_compacted;
                    is_first = false;
                    let at = Place { base, next, expected };
                    self.check(&walk, &entry, &at, must_check, may_skip)
                        .map_err(|reason| WalkError::Invalid { position: u64::from(entry.position), reason })
                        .map(|()| entry)
                }
                Ok(None) => break None,
                Err(WalkError::Io { source, .. }) => return Err(LogError::io("read", &path)(source)),
                Err(error) => Err(error),
            };
            let entry = match checked {
                Ok(entry) => entry,
                // Durable bytes are never cut: on with the next batch that is good.
                Err(fault) if next_offset < self.open.recovery_point => {
                    let place = CorruptPlace::of(&path, &fault);
                    let at = place.position;
                    let failed = LogError::io("read", &path);
                    match tail::next_valid(&*file, at, len, next_offset).map_err(failed)? {
                        Some(good) => {
                            let at = Place { base, next, expected: next_offset };
                            self.keep_from_readers(&walk, &active.segment, &place, &at, &good)?;
                            next_offset = good.base_offset;
                            walk.jump_to(good.position);
                            active.keep_up_to(good.position);
                        }
                        None if tail::is_zero(&*file, at, len).map_err(LogError::io("read", &path))? => {
                            break Some(fault);
                        }
                        None => {
                            if next.is_none() {
                                next_offset = self.open.recovery_point;
                            }
                            active.keep_up_to(size_of(len));
                            self.report.corrupt.push(place);
                            break None;
                        }
                    }
                    self.report.corrupt.push(place);
                    continue;
                }
                Err(fault) => break Some(fault),
            };
            let is_behind_point = entry.base_offset >= self.open.recovery_point;
            if let Some(header) = entry.header.filter(|_| self.has_epochs && !is_behind_point) {
                let known = self.epochs.epoch_for_offset(entry.base_offset);
                self.epochs_right +=
                    known.map_or(0, |known| if known == header.leader_epoch { 1 } else { -1 });
            }
            if let Some(header) = entry.header.filter(|_| must_check && (is_behind_point || !self.has_epochs))
                && self.epochs.latest().is_none_or(|latest| latest.leader_epoch < header.leader_epoch)
            {
                self.epochs.assign(header.leader_epoch, entry.base_offset);
            }
            if must_check {
                self.report.checked_bytes += u64::from(entry.size_bytes);
            }
            active.add(config, &entry);
            next_offset = entry.next_offset();
        };
        active.segment.grow_to(active.size, active.max_timestamp());
        Ok(Walked { active, next_offset, fault, len, has_indexes: is_as_written })
    }

    /// What no header can say of itself.
    fn check(
        &self,
        walk: &Walk<'_>,
        entry: &Entry,
        at: &Place,
        must_check: bool,
        may_skip: bool,
    ) -> Result<(), String> {
        let Place { base, expected, .. } = *at;
        if entry.base_offset < expected || entry.last_offset < entry.base_offset {
            return Err(format!("offset {} where at least {expected} must follow", entry.base_offset));
        }
        if entry.last_offset.0 - base.0 > i64::from(i32::MAX) {
            return Err(format!("offset {} in the segment {base}", entry.last_offset));
        }
        if !must_check {
            return Ok(());
        }
        // The recovery point lies where a batch ended; compaction may have gone on beyond it since.
        let point = self.open.recovery_point;
        let is_compacted = self.open.config.is_compacted;
        if !is_compacted && entry.position > 0 && expected < point && point <= entry.base_offset {
            return Err(format!("offset {} where {expected} must follow", entry.base_offset));
        }
        if let Some(next) = self.contradicted(walk, entry, at).map_err(|error| error.to_string())? {
            return Err(format!("offsets up to {} where the next batch has {next}", entry.last_offset));
        }
        let is_behind_point = entry.base_offset >= self.open.recovery_point;
        if is_behind_point && !may_skip && entry.header.is_some() && entry.base_offset != expected {
            return Err(format!("offset {} where {expected} must follow", entry.base_offset));
        }
        if let Some(header) = entry.header.filter(|_| self.has_epochs && is_behind_point) {
            let known = self.epochs.epoch_for_offset(entry.base_offset);
            if known.is_some_and(|known| known != header.leader_epoch) {
                return Err(format!(
                    "leader epoch {} where the checkpoint has {known:?}",
                    header.leader_epoch
                ));
            }
        }
        let is_intact = walk.is_intact(entry).map_err(|error| error.to_string())?;
        if is_intact { Ok(()) } else { Err("a wrong CRC".to_owned()) }
    }

    /// No CRC covers a base offset. A batch with a gap before it whose good successor, here or in
    /// the `next` segment, has one of its offsets is not where it was written; that one's offset is told.
    fn contradicted(&self, walk: &Walk<'_>, entry: &Entry, at: &Place) -> io::Result<Option<Offset>> {
        let Place { expected, next, .. } = *at;
        if entry.base_offset == expected {
            return Ok(None);
        }
        let goes_back = |found: &Entry| (expected..entry.next_offset()).contains(&found.base_offset);
        if let Some(found) = entry_at(walk.file(), entry.end(), walk.limit()) {
            let is_good = goes_back(&found) && is_intact(walk.file(), &found)?;
            return Ok(is_good.then_some(found.base_offset));
        }
        let Some(next) = next.filter(|next| *next < entry.next_offset()) else { return Ok(None) };
        let file = self.open.disk.open(&files::segment_file(&self.open.dir, next, LOG), OpenMode::Read)?;
        let found = entry_at(&*file, 0, file.len()?).filter(goes_back);
        Ok(match found {
            Some(found) if is_intact(&*file, &found)? => Some(found.base_offset),
            _ => None,
        })
    }

    /// A reader sees of itself that a batch is broken, not which of two that overlap has the wrong
    /// offset: that one is quarantined. Nothing else is, for a marker in there ends a transaction
    /// all the same.
    fn keep_from_readers(
        &self,
        walk: &Walk<'_>,
        segment: &Segment,
        place: &CorruptPlace,
        at: &Place,
        good: &Entry,
    ) -> Result<(), LogError> {
        let position = size_of(place.position);
        let Some(bad) =
            entry_at(walk.file(), position, walk.limit()).filter(|bad| bad.end() == good.position)
        else {
            return Ok(());
        };
        if self.contradicted(walk, &bad, at).map_err(LogError::io("read", &place.path))?.is_some() {
            segment.file().quarantine.add(Quarantined {
                position: bad.position,
                end_position: good.position,
                offset: at.expected,
                end_offset: good.base_offset,
                cause: place.reason.clone(),
            });
        }
        Ok(())
    }

    /// Cuts a segment at its first byte that cannot be believed. True if there was only room.
    /// `has_more` says that segments behind it hold something: a write that broke off has nothing behind it.
    fn cut(&mut self, walked: &Walked, fault: &WalkError, has_more: bool) -> Result<bool, LogError> {
        let OpenLog { disk, dir, .. } = self.open;
        let file = walked.active.segment.file();
        let open = file.get().map_err(LogError::io("open", file.path()))?;
        let position = u64::from(walked.active.size);
        let reason = match fault {
            WalkError::Invalid { reason, .. } => reason.clone(),
            WalkError::Torn { .. } | WalkError::Io { .. } => "a batch that does not end".to_owned(),
        };
        let tail = tail::examine(&*open, position, walked.len, walked.next_offset)
            .map_err(LogError::io("read", file.path()))?;
        let base = walked.active.shape.base_offset;
        let tail = match tail {
            tail::Kind::Zeros => Tail::Zeros,
            tail::Kind::NothingValid if !self.open.was_clean && !has_more => Tail::Torn(reason),
            // A clean stop tears nothing.
            tail::Kind::NothingValid | tail::Kind::ValidBehind => {
                let kept = files::kept_file(&**disk, dir, base, position)?;
                if let Err(error) = tail::copy(&**disk, &*open, position, walked.len, &kept) {
                    // Half a copy helps nobody, and the next try would leave another one.
                    let _ = disk.remove_file(&kept);
                    return Err(LogError::io("keep a corrupt tail in", &kept)(error));
                }
                disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
                Tail::Corrupt { reason, kept }
            }
        };
        open.set_len(position).map_err(LogError::io("cut", file.path()))?;
        let was_room = tail == Tail::Zeros;
        self.report.truncations.push(Truncation {
            path: file.path().to_owned(),
            position,
            removed_bytes: walked.len - position,
            tail,
        });
        Ok(was_room)
    }

    /// Writes the indexes of a segment that does not grow; nobody will rebuild them.
    fn finish(&self, active: &mut ActiveSegment) -> Result<(), LogError> {
        let OpenLog { disk, dir, .. } = self.open;
        active.finish(&**disk, dir).map_err(LogError::io("write the indexes in", dir))?;
        files::sync_indexes(&**disk, dir, active.shape.base_offset)
    }

    fn rebuild_missing_index(
        &mut self,
        base: Offset,
        size: u32,
        next: Option<Offset>,
    ) -> Result<(), LogError> {
        let OpenLog { disk, dir, .. } = self.open;
        let path = files::segment_file(dir, base, INDEX);
        let has = |suffix| {
            let path = files::segment_file(dir, base, suffix);
            disk.exists(&path).map_err(LogError::io("look at", &path))
        };
        if size == 0 || (has(INDEX)? && has(TIME_INDEX)?) {
            return Ok(());
        }
        remove_if_there(&**disk, &path)?;
        remove_if_there(&**disk, &files::segment_file(dir, base, TIME_INDEX))?;
        let mut walked = self.walk(base, false, next, base)?;
        if let Some(fault) = walked.fault {
            // Without an index every search begins at the segment's start; it is slow and right.
            let place = CorruptPlace::of(walked.active.segment.file().path(), &fault);
            self.report.corrupt.push(place);
            return Ok(());
        }
        self.finish(&mut walked.active)?;
        self.report.rebuilt_indexes.push(path);
        Ok(())
    }

    /// The index entries that can be believed below `trust`, and whether the files hold
    /// exactly these.
    fn trusted_indexes(
        &mut self,
        base: Offset,
        file: &dyn ReadAt,
        len: u64,
        trust: Offset,
    ) -> Result<(Vec<OffsetEntry>, Vec<TimeEntry>, bool), LogError> {
        let dir = &self.open.dir;
        let index_path = files::segment_file(dir, base, INDEX);
        let bytes = self.read_if_there(&index_path)?;
        let time_bytes = self.read_if_there(&files::segment_file(dir, base, TIME_INDEX))?;
        let mut offsets: Vec<OffsetEntry> = decode_rising(&bytes);
        let mut times: Vec<TimeEntry> = decode_rising(&time_bytes);
        offsets.retain(|entry| {
            u64::from(entry.position) < len && base.0 + i64::from(entry.relative_offset) < trust.0
        });
        if trust != Offset(i64::MAX) {
            // After a crash the time index may have lost more than the offset index has: it
            // speaks only for what lies before its last entry.
            let covered = times.last().map(|entry| entry.relative_offset);
            offsets.retain(|entry| covered.is_some_and(|covered| entry.relative_offset <= covered));
        }
        // The walk begins at the last one that is left: that one has to be right.
        let confirmed = offsets.last().is_none_or(|entry| {
            entry_at(file, entry.position, len)
                .is_some_and(|found| found.last_offset.0 == base.0 + i64::from(entry.relative_offset))
        });
        if !confirmed {
            offsets.clear();
            self.report.rebuilt_indexes.push(index_path);
        }
        let last = offsets.last().map(|entry| entry.relative_offset);
        times.retain(|entry| last.is_some_and(|last| entry.relative_offset <= last));
        // A time index that is behind its offset index would hide timestamps.
        if times.is_empty() && !offsets.is_empty() {
            offsets.clear();
        }
        let is_as_written = offsets.len() * 8 == bytes.len() && times.len() * 12 == time_bytes.len();
        Ok((offsets, times, is_as_written))
    }

    fn read_if_there(&self, path: &Path) -> Result<Vec<u8>, LogError> {
        match self.open.disk.read_file(path, INDEX_BYTES_MAX) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(LogError::io("read", path)(error)),
        }
    }
}

/// Takes a segment that is no part of the log any more out of it; its batches are kept.
pub(crate) fn set_segment_aside(
    open: &OpenLog,
    base: Offset,
    reason: String,
    report: &mut RecoveryReport,
) -> Result<(), LogError> {
    let OpenLog { disk, dir, .. } = open;
    let path = files::segment_file(dir, base, LOG);
    let kept = files::kept_file(&**disk, dir, base, 0)?;
    let removed_bytes = disk.metadata(&path).map_err(LogError::io("look at", &path))?.len_bytes;
    disk.rename(&path, &kept).map_err(LogError::io("rename", &path))?;
    for suffix in [INDEX, TIME_INDEX, TXN_INDEX] {
        remove_if_there(&**disk, &files::segment_file(dir, base, suffix))?;
    }
    if removed_bytes > 0 {
        let tail = Tail::Corrupt { reason, kept };
        report.truncations.push(Truncation { path, position: 0, removed_bytes, tail });
    } else {
        remove_if_there(&**disk, &kept)?;
    }
    Ok(())
}

fn flush(segment: &Segment) -> Result<(), LogError> {
    let file = segment.file();
    file.get().and_then(|open| open.sync_data()).map_err(LogError::io("flush", file.path()))
}

fn entry_at(file: &dyn ReadAt, position: u32, len: u64) -> Option<Entry> {
    let mut buffer = [0; 64];
    Walk::new(file, u64::from(position), len, &mut buffer).next().ok().flatten()
}

/// A segment is never beyond 4 GiB: who lists them has looked.
fn size_of(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
