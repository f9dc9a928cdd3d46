//! Which bytes of a log can be believed, and cutting what cannot.
//!
//! After a clean stop the last segment is only walked by its headers from its last index
//! entry. Otherwise every segment from the recovery point on is checked: structure, rising
//! offsets, leader epochs against the checkpoint, CRCs. What is cut is told apart
//! ([`crate::tail`]): zeros and torn writes go; a tail with valid batches behind an invalid
//! one is kept aside. Index files are trusted up to the recovery point, where a batch
//! header confirms their last entry, and written anew behind it.

use std::path::Path;
use std::sync::Arc;

use klamm_protocol::ids::Offset;
use klamm_protocol::records::check_crc;

use crate::active::ActiveSegment;
use crate::disk::{DiskFile, OpenMode, read_full_at};
use crate::entry::{Entry, SCAN_BUFFER_BYTES, Walk, WalkError};
use crate::error::LogError;
use crate::files::{self, INDEX, LOG, TIME_INDEX, TXN_INDEX};
use crate::index::{OffsetEntry, OffsetIndex, TimeEntry, TimeIndex, decode_rising};
use crate::leader_epochs::LeaderEpochs;
use crate::limits::LogPosition;
use crate::log::new_active;
use crate::open::{
    OpenLog, RecoveryReport, Tail, Truncation, closed_segment, remove_if_there, remove_segment,
};
use crate::segment::{Segment, SegmentFile};
use crate::tail;

/// Bytes of entries of older formats that their own CRC does not cover.
const LEGACY_CRC_START: usize = 16;
/// The largest index file: room for every batch of a segment.
const INDEX_BYTES_MAX: u64 = 1 << 30;

pub(crate) struct Recovery<'a> {
    open: &'a OpenLog,
    epochs: &'a mut LeaderEpochs,
    /// Epochs are compared only with a checkpoint that was there.
    has_epochs: bool,
    report: &'a mut RecoveryReport,
}

pub(crate) struct Recovered {
    /// All but the active one.
    pub segments: Vec<Arc<Segment>>,
    pub active: ActiveSegment,
    pub end: LogPosition,
    /// True if batches were checked rather than trusted.
    pub is_recovered: bool,
}

/// How one segment is walked.
struct Walked {
    active: ActiveSegment,
    next_offset: Offset,
    fault: Option<WalkError>,
    /// Bytes in the file, believed or not.
    len: u64,
}

impl<'a> Recovery<'a> {
    pub(crate) fn new(
        open: &'a OpenLog,
        epochs: &'a mut LeaderEpochs,
        report: &'a mut RecoveryReport,
    ) -> Self {
        let has_epochs = epochs.latest().is_some();
        Self { open, epochs, has_epochs, report }
    }

    pub(crate) fn run(mut self, mut bases: Vec<(Offset, u32)>) -> Result<Recovered, LogError> {
        let OpenLog { disk, dir, log_start, .. } = self.open;
        // Segments that end at or below the start: an interrupted deletion.
        while bases.get(1).is_some_and(|(next, _)| next <= log_start) {
            let (base, _) = bases.remove(0);
            remove_segment(&**disk, dir, base)?;
            self.report.leftovers.push(files::segment_file(dir, base, LOG));
        }
        let Some((last, _)) = bases.last().copied() else {
            let active = new_active(disk, dir, *log_start, self.open.now)?;
            let end = LogPosition { offset: *log_start, segment_base: *log_start, position: 0 };
            return Ok(Recovered { segments: Vec::new(), active, end, is_recovered: false });
        };
        // The segment that holds the recovery point, and all behind it, are to be checked.
        let first_checked = if self.open.was_clean {
            last
        } else {
            let point = self.open.recovery_point;
            bases.iter().rev().map(|(base, _)| *base).find(|base| *base <= point).unwrap_or(bases[0].0)
        };
        let mut segments = Vec::new();
        let mut walked = None;
        let mut expected = bases[0].0;
        for (index, (base, size)) in bases.iter().copied().enumerate() {
            if base < first_checked {
                self.rebuild_missing_index(base, size)?;
                segments.push(closed_segment(disk, dir, base, size));
                expected = base;
                continue;
            }
            let is_last = base == last;
            let mut this = self.walk(base, !self.open.was_clean, is_last, expected)?;
            if self.open.was_clean && this.fault.is_some() {
                // The marker promised too much: look at all of it.
                this = self.walk(base, true, is_last, expected)?;
            }
            expected = this.next_offset;
            let fault = this.fault.take();
            if let Some(fault) = &fault {
                self.cut(&this, fault)?;
            }
            if !is_last && fault.is_none() {
                this.active.finish(&**disk, dir).map_err(LogError::io("write the indexes in", dir))?;
                segments.push(Arc::new(this.active.segment.to_closed(disk, dir)));
                continue;
            }
            if fault.is_some() {
                for (later, _) in &bases[index + 1..] {
                    self.set_segment_aside(*later)?;
                }
            }
            walked = Some(this);
            break;
        }
        let mut walked = walked.expect("the last segment is always walked");
        let is_recovered = !self.open.was_clean || !self.report.truncations.is_empty();
        let path = walked.active.segment.file().path().to_owned();
        if is_recovered {
            walked.active.write_indexes(&**disk, dir).map_err(LogError::io("write the indexes in", dir))?;
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
        Ok(Recovered { segments, active: walked.active, end, is_recovered })
    }

    /// Walks a segment from where its index can be trusted.
    fn walk(
        &mut self,
        base: Offset,
        must_check: bool,
        is_last: bool,
        expected: Offset,
    ) -> Result<Walked, LogError> {
        let OpenLog { disk, dir, config, .. } = self.open;
        let path = files::segment_file(dir, base, LOG);
        let file = disk.open(&path, OpenMode::Write).map_err(LogError::io("open", &path))?;
        let len = file.len().map_err(LogError::io("look at", &path))?;
        let trust = if must_check { self.open.recovery_point } else { Offset(i64::MAX) };
        let (offsets, times, is_as_written) = self.trusted_indexes(base, &*file, len, trust)?;
        let start = offsets.last().map_or(0, |entry| entry.position);
        let segment_file = SegmentFile::opened(Arc::clone(disk), path.clone(), Arc::clone(&file));
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
            let entry = match walk.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break None,
                Err(WalkError::Io { source, .. }) => return Err(LogError::io("read", &path)(source)),
                Err(error) => break Some(error),
            };
            let expected = if is_first { entry.base_offset.max(base) } else { next_offset };
            let may_skip = is_first || !is_last || config.is_compacted || entry.position == 0;
            is_first = false;
            if let Err(reason) = self.check(&walk, &entry, base, expected, must_check, may_skip) {
                break Some(WalkError::Invalid { position: u64::from(entry.position), reason });
            }
            if let Some(header) = entry.header.filter(|_| must_check)
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
        Ok(Walked { active, next_offset, fault, len })
    }

    /// What no header can say of itself.
    fn check(
        &self,
        walk: &Walk<'_>,
        entry: &Entry,
        base: Offset,
        expected: Offset,
        must_check: bool,
        may_skip: bool,
    ) -> Result<(), String> {
        if entry.base_offset < expected || entry.last_offset < entry.base_offset {
            return Err(format!("offset {} where at least {expected} must follow", entry.base_offset));
        }
        if entry.last_offset.0 - base.0 > i64::from(i32::MAX) {
            return Err(format!("offset {} in the segment {base}", entry.last_offset));
        }
        if !must_check {
            return Ok(());
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
        let is_intact = match walk.buffered_bytes(entry) {
            Some(bytes) => has_right_crc(bytes, entry),
            None => {
                // The walk has seen that the file holds so many bytes.
                let mut bytes = vec![0; entry.size_bytes as usize];
                let read = read_full_at(walk.file(), &mut bytes, u64::from(entry.position))
                    .map_err(|error| error.to_string())?;
                read == bytes.len() && has_right_crc(&bytes, entry)
            }
        };
        if is_intact { Ok(()) } else { Err("a wrong CRC".to_owned()) }
    }

    /// Cuts a segment at its first byte that cannot be believed.
    fn cut(&mut self, walked: &Walked, fault: &WalkError) -> Result<(), LogError> {
        let OpenLog { disk, dir, .. } = self.open;
        let file = walked.active.segment.file();
        let open = file.get().map_err(LogError::io("open", file.path()))?;
        let position = u64::from(walked.active.size);
        let reason = match fault {
            WalkError::Invalid { reason, .. } => reason.clone(),
            WalkError::Torn { .. } | WalkError::Io { .. } => "a batch that does not end".to_owned(),
        };
        let tail = tail::examine(&**open, position, walked.len, walked.next_offset)
            .map_err(LogError::io("read", file.path()))?;
        let base = walked.active.shape.base_offset;
        let tail = match tail {
            tail::Kind::Zeros => Tail::Zeros,
            tail::Kind::NothingValid => Tail::Torn(reason),
            tail::Kind::ValidBehind => {
                let kept = files::segment_file(dir, base, &format!("{LOG}.corrupt-{position}"));
                tail::copy(&**disk, &**open, position, walked.len, &kept)
                    .map_err(LogError::io("keep a corrupt tail in", &kept))?;
                disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
                Tail::Corrupt { reason, kept }
            }
        };
        open.set_len(position).map_err(LogError::io("cut", file.path()))?;
        self.report.truncations.push(Truncation {
            path: file.path().to_owned(),
            position,
            removed_bytes: walked.len - position,
            tail,
        });
        Ok(())
    }

    /// A segment behind a cut one does not continue the log any more.
    fn set_segment_aside(&mut self, base: Offset) -> Result<(), LogError> {
        let OpenLog { disk, dir, .. } = self.open;
        let path = files::segment_file(dir, base, LOG);
        let kept = files::segment_file(dir, base, &format!("{LOG}.corrupt-0"));
        let removed_bytes = disk.metadata(&path).map_err(LogError::io("look at", &path))?.len_bytes;
        disk.rename(&path, &kept).map_err(LogError::io("rename", &path))?;
        for suffix in [INDEX, TIME_INDEX, TXN_INDEX] {
            remove_if_there(&**disk, &files::segment_file(dir, base, suffix))?;
        }
        if removed_bytes > 0 {
            let reason = "the segment before it was cut".to_owned();
            let tail = Tail::Corrupt { reason, kept };
            self.report.truncations.push(Truncation { path, position: 0, removed_bytes, tail });
        } else {
            remove_if_there(&**disk, &kept)?;
        }
        Ok(())
    }

    fn rebuild_missing_index(&mut self, base: Offset, size: u32) -> Result<(), LogError> {
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
        let mut walked = self.walk(base, false, false, base)?;
        if let Some(fault) = walked.fault {
            return Err(fault.into_log_error(walked.active.segment.file().path()));
        }
        walked.active.finish(&**disk, dir).map_err(LogError::io("write the indexes in", dir))?;
        self.report.rebuilt_indexes.push(path);
        Ok(())
    }

    /// The index entries that can be believed below `trust`, and whether the files hold
    /// exactly these.
    fn trusted_indexes(
        &mut self,
        base: Offset,
        file: &dyn DiskFile,
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

fn flush(segment: &Segment) -> Result<(), LogError> {
    let file = segment.file();
    file.get().and_then(|open| open.sync_data()).map_err(LogError::io("flush", file.path()))
}

fn entry_at(file: &dyn DiskFile, position: u32, len: u64) -> Option<Entry> {
    let mut buffer = [0; 64];
    Walk::new(file, u64::from(position), len, &mut buffer).next().ok().flatten()
}

pub(crate) fn has_right_crc(bytes: &[u8], entry: &Entry) -> bool {
    if entry.header.is_some() {
        return check_crc(bytes);
    }
    let stored = u32::from_be_bytes(bytes[12..16].try_into().expect("an entry has its prefix"));
    let computed = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &bytes[LEGACY_CRC_START..]);
    u64::from(stored) == computed
}
