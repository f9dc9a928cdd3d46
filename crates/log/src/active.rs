//! The bookkeeping of the segment that grows: index entries, largest timestamp, when to roll.
//!
//! It owns what only the appender knows; what readers need of it goes into the published
//! [`Segment`]. The index files are behind the lists in memory until they are written.

use std::io;
use std::path::Path;
use std::sync::Arc;

use klamm_protocol::ids::Offset;
use klamm_protocol::time::WallMs;

use crate::config::LogConfig;
use crate::disk::Disk;
use crate::entry::Entry;
use crate::files::{self, INDEX, TIME_INDEX};
use crate::index::{OFFSET_ENTRY_BYTES, OffsetEntry, TIME_ENTRY_BYTES, TimeEntry, write_entries};
use crate::prefill::Prefill;
use crate::segment::Segment;

pub(crate) struct ActiveSegment {
    pub segment: Arc<Segment>,
    /// Whole batches in the file, published or about to be.
    pub size: u32,
    pub shape: SegmentShape,
    pub prefill: Prefill,
    bytes_since_entry: u32,
    largest: TimeEntry,
    /// Entries in memory, and how many of them the files have.
    offset_entries: usize,
    time_entries: usize,
    last_time_entry: i64,
    offset_entries_written: usize,
    time_entries_written: usize,
}

/// What rolling is decided by; `plan` moves a copy of it forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentShape {
    pub base_offset: Offset,
    pub size: u32,
    /// The first batch's largest timestamp, from which `segment.ms` counts.
    pub first_timestamp: Option<i64>,
    pub created: WallMs,
    /// True once an index file has no room for another entry.
    pub is_index_full: bool,
}

impl SegmentShape {
    pub(crate) fn new(base_offset: Offset, created: WallMs) -> Self {
        Self { base_offset, size: 0, first_timestamp: None, created, is_index_full: false }
    }

    /// True if a batch must go to a new segment.
    pub(crate) fn must_roll(
        &self,
        config: &LogConfig,
        batch_bytes: u32,
        max_timestamp: i64,
        last_offset: Offset,
        now: WallMs,
    ) -> bool {
        if self.size == 0 {
            return false;
        }
        let waited_ms = match self.first_timestamp {
            Some(first) if first >= 0 => max_timestamp.saturating_sub(first),
            _ => now.0.saturating_sub(self.created.0),
        };
        self.size > config.segment_bytes.saturating_sub(batch_bytes)
            || waited_ms > config.segment_ms.saturating_sub(config.segment_jitter_ms)
            || self.is_index_full
            || last_offset.0 - self.base_offset.0 > i64::from(i32::MAX)
    }

    pub(crate) fn add(&mut self, batch_bytes: u32, max_timestamp: i64) {
        self.size += batch_bytes;
        self.first_timestamp.get_or_insert(max_timestamp);
    }
}

impl ActiveSegment {
    /// Around a segment whose indexes are in memory, both as their files have them.
    pub(crate) fn new(segment: Arc<Segment>, created: WallMs, written: bool) -> Self {
        let offset_entries = segment.offset_index.entries_from(0).len();
        let times = segment.time_index.entries_from(0);
        let base_offset = segment.base_offset();
        Self {
            size: segment.size_bytes(),
            shape: SegmentShape { size: segment.size_bytes(), ..SegmentShape::new(base_offset, created) },
            prefill: Prefill::new(segment.size_bytes(), 0),
            bytes_since_entry: 0,
            largest: times.last().copied().unwrap_or(TimeEntry { timestamp: -1, relative_offset: 0 }),
            offset_entries,
            time_entries: times.len(),
            last_time_entry: times.last().map_or(-1, |entry| entry.timestamp),
            offset_entries_written: if written { offset_entries } else { 0 },
            time_entries_written: if written { times.len() } else { 0 },
            segment,
        }
    }

    /// Where the entry that is written next begins.
    pub(crate) fn max_timestamp(&self) -> i64 {
        self.largest.timestamp
    }

    /// Takes note of a batch at `entry.position`: largest timestamp and index entries.
    pub(crate) fn add(&mut self, config: &LogConfig, entry: &Entry) {
        self.note(config, entry);
        self.shape.add(entry.size_bytes, entry.max_timestamp);
        self.size = entry.end();
    }

    /// Bytes up to here stay in the file although no batch can be read there.
    pub(crate) fn keep_up_to(&mut self, position: u32) {
        self.size = position;
        self.shape.size = position;
    }

    /// The same for a batch that the file had before and whose size is counted.
    pub(crate) fn note(&mut self, config: &LogConfig, entry: &Entry) {
        let relative_offset = self.relative(entry.last_offset);
        if entry.max_timestamp > self.largest.timestamp {
            self.largest = TimeEntry { timestamp: entry.max_timestamp, relative_offset };
        }
        if self.bytes_since_entry > config.index_interval_bytes {
            self.segment.offset_index.push(OffsetEntry { relative_offset, position: entry.position });
            self.offset_entries += 1;
            self.push_time_entry();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry = self.bytes_since_entry.saturating_add(entry.size_bytes);
        let room = |entries: usize, bytes: usize| entries + 1 >= config.segment_index_bytes as usize / bytes;
        self.shape.is_index_full =
            room(self.offset_entries, OFFSET_ENTRY_BYTES) || room(self.time_entries, TIME_ENTRY_BYTES);
    }

    /// True if enough entries wait for it to be worth a write.
    pub(crate) fn has_many_unwritten(&self, count: usize) -> bool {
        self.offset_entries - self.offset_entries_written >= count
    }

    /// Brings the index files up to what is in memory.
    pub(crate) fn write_indexes(&mut self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        self.write_indexes_as(disk, dir, "")
    }

    /// The last word of a segment that will not grow: its largest timestamp must be in the index.
    pub(crate) fn finish(&mut self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        self.finish_as(disk, dir, "")
    }

    /// The same for index files whose names end in `mark`.
    pub(crate) fn finish_as(&mut self, disk: &dyn Disk, dir: &Path, mark: &str) -> io::Result<()> {
        self.push_time_entry();
        self.write_indexes_as(disk, dir, mark)
    }

    fn write_indexes_as(&mut self, disk: &dyn Disk, dir: &Path, mark: &str) -> io::Result<()> {
        let path = |suffix| files::segment_file(dir, self.shape.base_offset, &format!("{suffix}{mark}"));
        let entries = self.segment.offset_index.entries_from(self.offset_entries_written);
        write_entries(disk, &path(INDEX), self.offset_entries_written, &entries)?;
        let times = self.segment.time_index.entries_from(self.time_entries_written);
        write_entries(disk, &path(TIME_INDEX), self.time_entries_written, &times)?;
        self.offset_entries_written += entries.len();
        self.time_entries_written += times.len();
        Ok(())
    }

    fn push_time_entry(&mut self) {
        if self.largest.timestamp > self.last_time_entry {
            self.segment.time_index.push(self.largest);
            self.time_entries += 1;
            self.last_time_entry = self.largest.timestamp;
        }
    }

    fn relative(&self, offset: Offset) -> u32 {
        u32::try_from(offset.0 - self.shape.base_offset.0)
            .expect("a segment is rolled before offsets exceed it")
    }
}
