//! The offset index and the time index of one segment, in Kafka's file formats.
//!
//! `.index`: 8-byte entries, offset relative to the segment's base and position of the
//! batch whose *last* offset it is. `.timeindex`: 12-byte entries, largest timestamp so far
//! and the relative last offset of the batch that has it. All big endian.
//!
//! The active segment's indexes live in memory; a closed segment's are searched in their
//! files with a few small reads and cost nothing before. Nothing is memory-mapped.
//! Invariants: an index only proposes a place, the walk over batches decides; both kinds
//! only ever grow upwards, so whatever does not rise (the zero tail that a killed Kafka
//! leaves) ends the index.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::append_only::AppendOnly;
use crate::disk::{Disk, OpenMode, Patience, Patient, read_full_at};
use crate::lazy_file::LazyFile;

/// Bytes of one `.index` entry.
pub const OFFSET_ENTRY_BYTES: usize = 8;
/// Bytes of one `.timeindex` entry.
pub const TIME_ENTRY_BYTES: usize = 12;
/// A search in a file ends by reading a window of at most so many entries.
const WINDOW_ENTRIES: u64 = 256;

/// One line of an offset index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Last offset of a batch, counted from the segment's base.
    pub relative_offset: u32,
    /// Where that batch begins.
    pub position: u32,
}

/// One line of a time index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// The largest timestamp up to that batch.
    pub timestamp: i64,
    /// Last offset of the batch that has it, counted from the segment's base.
    pub relative_offset: u32,
}

/// An entry of either index: what one list or file of them needs to know.
pub(crate) trait IndexEntry: Copy {
    const BYTES: usize;
    fn decode(bytes: &[u8]) -> Self;
    fn encode(&self, out: &mut Vec<u8>);
    /// True if `next` may follow `self`.
    fn rises_to(&self, next: &Self) -> bool;
    /// True for what no index begins with: the first entry of a file of zeros.
    fn is_zero(&self) -> bool;
}

impl IndexEntry for OffsetEntry {
    const BYTES: usize = OFFSET_ENTRY_BYTES;

    fn decode(bytes: &[u8]) -> Self {
        Self { relative_offset: u32_at(bytes, 0), position: u32_at(bytes, 4) }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }

    fn rises_to(&self, next: &Self) -> bool {
        self.relative_offset < next.relative_offset && self.position < next.position
    }

    fn is_zero(&self) -> bool {
        self.relative_offset == 0 && self.position == 0
    }
}

impl IndexEntry for TimeEntry {
    const BYTES: usize = TIME_ENTRY_BYTES;

    fn decode(bytes: &[u8]) -> Self {
        let timestamp = i64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        Self { timestamp, relative_offset: u32_at(bytes, 8) }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
    }

    fn rises_to(&self, next: &Self) -> bool {
        self.timestamp < next.timestamp && self.relative_offset <= next.relative_offset
    }

    fn is_zero(&self) -> bool {
        self.timestamp == 0 && self.relative_offset == 0
    }
}

/// The entries of an index file as far as they rise; the rest of the file is not an index.
pub(crate) fn decode_rising<E: IndexEntry>(bytes: &[u8]) -> Vec<E> {
    let mut entries: Vec<E> = Vec::new();
    let mut chunks = bytes.chunks_exact(E::BYTES).map(E::decode).peekable();
    while let Some(entry) = chunks.next() {
        let follows = match entries.last() {
            Some(last) => last.rises_to(&entry),
            None => !(entry.is_zero() && chunks.peek().is_some_and(E::is_zero)),
        };
        if !follows {
            break;
        }
        entries.push(entry);
    }
    entries
}

/// The offset index of a segment, wherever it lives.
pub(crate) enum OffsetIndex {
    Memory(Box<AppendOnly>),
    File(IndexFile),
}

/// The time index of a segment, wherever it lives.
pub(crate) enum TimeIndex {
    Memory { timestamps: Box<AppendOnly>, offsets: Box<AppendOnly> },
    File(IndexFile),
}

impl OffsetIndex {
    pub(crate) fn in_memory(entries: &[OffsetEntry]) -> Self {
        let list = AppendOnly::new();
        entries.iter().for_each(|entry| list.push(pack(entry)));
        Self::Memory(Box::new(list))
    }

    /// The last entry at or below `relative_offset`.
    pub(crate) fn floor(&self, relative_offset: u32, patience: Patience) -> io::Result<Option<OffsetEntry>> {
        match self {
            Self::Memory(list) => {
                let after = list
                    .partition_point(list.len(), |packed| unpack(packed).relative_offset <= relative_offset);
                Ok(after.checked_sub(1).map(|index| unpack(list.get(index))))
            }
            Self::File(file) => {
                file.last_before(|entry: &OffsetEntry| entry.relative_offset <= relative_offset, patience)
            }
        }
    }

    /// The last entry whose batch begins at or below `position`.
    pub(crate) fn floor_by_position(
        &self,
        position: u32,
        patience: Patience,
    ) -> io::Result<Option<OffsetEntry>> {
        match self {
            Self::Memory(list) => {
                let after = list.partition_point(list.len(), |packed| unpack(packed).position <= position);
                Ok(after.checked_sub(1).map(|index| unpack(list.get(index))))
            }
            Self::File(file) => file.last_before(|entry: &OffsetEntry| entry.position <= position, patience),
        }
    }

    pub(crate) fn push(&self, entry: OffsetEntry) {
        match self {
            Self::Memory(list) => list.push(pack(&entry)),
            Self::File(_) => unreachable!("only the active segment grows, and its index is in memory"),
        }
    }

    /// Closes its file if nobody searched it since the last call.
    pub(crate) fn close_if_idle(&self) {
        if let Self::File(file) = self {
            file.0.close_if_idle();
        }
    }

    /// The entries from `first` on; of an index in memory.
    pub(crate) fn entries_from(&self, first: usize) -> Vec<OffsetEntry> {
        match self {
            Self::Memory(list) => (first..list.len()).map(|index| unpack(list.get(index))).collect(),
            Self::File(_) => Vec::new(),
        }
    }
}

impl TimeIndex {
    pub(crate) fn in_memory(entries: &[TimeEntry]) -> Self {
        let index = Self::Memory { timestamps: Box::default(), offsets: Box::default() };
        entries.iter().for_each(|entry| index.push(*entry));
        index
    }

    /// The last entry whose timestamp is at or below `timestamp`.
    pub(crate) fn floor(&self, timestamp: i64) -> io::Result<Option<TimeEntry>> {
        match self {
            Self::Memory { timestamps, offsets } => {
                let after = timestamps.partition_point(offsets.len(), |at| at as i64 <= timestamp);
                Ok(after.checked_sub(1).map(|index| self.in_memory_at(index)))
            }
            Self::File(file) => {
                file.last_before(|entry: &TimeEntry| entry.timestamp <= timestamp, Patience::Waits)
            }
        }
    }

    /// Closes its file if nobody searched it since the last call.
    pub(crate) fn close_if_idle(&self) {
        if let Self::File(file) = self {
            file.0.close_if_idle();
        }
    }

    pub(crate) fn last(&self) -> io::Result<Option<TimeEntry>> {
        match self {
            Self::Memory { offsets, .. } => {
                Ok(offsets.len().checked_sub(1).map(|index| self.in_memory_at(index)))
            }
            Self::File(file) => file.last_before(|_: &TimeEntry| true, Patience::Waits),
        }
    }

    pub(crate) fn push(&self, entry: TimeEntry) {
        match self {
            Self::Memory { timestamps, offsets } => {
                // A reader counts the offsets, so the timestamp must be there before.
                timestamps.push(entry.timestamp as u64);
                offsets.push(u64::from(entry.relative_offset));
            }
            Self::File(_) => unreachable!("only the active segment grows, and its index is in memory"),
        }
    }

    pub(crate) fn entries_from(&self, first: usize) -> Vec<TimeEntry> {
        match self {
            Self::Memory { offsets, .. } => {
                (first..offsets.len()).map(|index| self.in_memory_at(index)).collect()
            }
            Self::File(_) => Vec::new(),
        }
    }

    fn in_memory_at(&self, index: usize) -> TimeEntry {
        match self {
            Self::Memory { timestamps, offsets } => TimeEntry {
                timestamp: timestamps.get(index) as i64,
                relative_offset: offsets.get(index) as u32,
            },
            Self::File(_) => unreachable!("asked of an index in memory only"),
        }
    }
}

/// An index that lies in its file; opened when it is searched.
pub(crate) struct IndexFile(LazyFile);

impl IndexFile {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self(LazyFile::new(disk, path, OpenMode::Read))
    }

    /// The last entry for which `is_before` holds, which holds for a prefix of the entries.
    /// A zero tail counts as behind everything.
    fn last_before<E: IndexEntry>(
        &self,
        is_before: impl Fn(&E) -> bool,
        patience: Patience,
    ) -> io::Result<Option<E>> {
        let file = match self.0.get_as(patience) {
            Ok(file) => file,
            // Without an index the walk begins at the segment's start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len_bytes = file.len()?;
        let file = Patient(&*file, patience);
        let holds = |index: u64, entry: &E| (index == 0 || !entry.is_zero()) && is_before(entry);
        let (mut low, mut high) = (0, len_bytes / E::BYTES as u64);
        let mut one = [0; TIME_ENTRY_BYTES];
        let one = &mut one[..E::BYTES];
        while high - low > WINDOW_ENTRIES {
            let middle = low + (high - low) / 2;
            if read_full_at(&file, one, middle * E::BYTES as u64)? < E::BYTES {
                high = middle;
            } else if holds(middle, &E::decode(one)) {
                low = middle;
            } else {
                high = middle;
            }
        }
        let mut window = [0; WINDOW_ENTRIES as usize * TIME_ENTRY_BYTES];
        let window = &mut window[..(high - low) as usize * E::BYTES];
        let read = read_full_at(&file, window, low * E::BYTES as u64)?;
        let mut entries = window[..read].chunks_exact(E::BYTES).map(E::decode).zip(low..);
        let mut last = None;
        for (entry, index) in &mut entries {
            if !holds(index, &entry) {
                break;
            }
            last = Some(entry);
        }
        Ok(last)
    }
}

/// Writes entries behind those that the file already has.
pub(crate) fn write_entries<E: IndexEntry>(
    disk: &dyn Disk,
    path: &Path,
    written: usize,
    entries: &[E],
) -> io::Result<()> {
    let file = disk.open(path, OpenMode::Create)?;
    let mut bytes = Vec::with_capacity(entries.len() * E::BYTES);
    entries.iter().for_each(|entry| entry.encode(&mut bytes));
    let start = (written * E::BYTES) as u64;
    crate::disk::write_all_at(&*file, &bytes, start)?;
    let len = start + bytes.len() as u64;
    if file.len()? == len { Ok(()) } else { file.set_len(len) }
}

fn pack(entry: &OffsetEntry) -> u64 {
    u64::from(entry.relative_offset) << 32 | u64::from(entry.position)
}

fn unpack(packed: u64) -> OffsetEntry {
    OffsetEntry { relative_offset: (packed >> 32) as u32, position: packed as u32 }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use proptest::prelude::*;

    fn rising() -> impl Strategy<Value = Vec<OffsetEntry>> {
        proptest::collection::vec((1u32..50, 1u32..9000), 0..2000).prop_map(|steps| {
            let mut last = OffsetEntry { relative_offset: 0, position: 0 };
            let step = |(offset, position): (u32, u32)| {
                last.relative_offset += offset;
                last.position += position;
                last
            };
            steps.into_iter().map(step).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn memory_file_and_a_plain_search_agree(
            entries in rising(),
            zeros in 0usize..3000,
            asked in proptest::collection::vec(0u32..100_000, 1..20),
        ) {
            let disk = MemoryDisk::new();
            let path = Path::new("/x.index");
            write_entries(&disk, path, 0, &entries).unwrap();
            disk.tamper(path, |bytes| bytes.extend(std::iter::repeat_n(0, zeros * 8))).unwrap();
            let memory = OffsetIndex::in_memory(&entries);
            let file = OffsetIndex::File(IndexFile::new(Arc::new(disk.clone()), path.to_owned()));
            for offset in asked {
                let naive = entries.iter().rev().find(|e| e.relative_offset <= offset).copied();
                prop_assert_eq!(memory.floor(offset, Patience::Waits).unwrap(), naive);
                prop_assert_eq!(file.floor(offset, Patience::Waits).unwrap().filter(|e| !e.is_zero()), naive);
                let naive = entries.iter().rev().find(|e| e.position <= offset).copied();
                prop_assert_eq!(memory.floor_by_position(offset, Patience::Waits).unwrap(), naive);
            }
            let read = disk.read_file(path, 1 << 20).unwrap();
            prop_assert_eq!(decode_rising::<OffsetEntry>(&read), entries);
        }
    }

    #[test]
    fn the_bytes_are_kafkas() {
        let mut bytes = Vec::new();
        OffsetEntry { relative_offset: 5, position: 4100 }.encode(&mut bytes);
        assert_eq!(bytes, [0, 0, 0, 5, 0, 0, 0x10, 4]);
        bytes.clear();
        TimeEntry { timestamp: 1, relative_offset: 2 }.encode(&mut bytes);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
    }

    #[test]
    fn a_time_index_finds_its_floor_and_ends_at_zeros() {
        let entries = [(0i64, 0u32), (5, 3), (9, 7)]
            .map(|(timestamp, relative_offset)| TimeEntry { timestamp, relative_offset });
        let index = TimeIndex::in_memory(&entries);
        assert_eq!(index.floor(8).unwrap(), Some(entries[1]));
        assert_eq!(index.floor(-1).unwrap(), None);
        assert_eq!(index.last().unwrap(), Some(entries[2]));
        let mut bytes = Vec::new();
        entries.iter().for_each(|e| e.encode(&mut bytes));
        bytes.extend([0; 36]);
        assert_eq!(decode_rising::<TimeEntry>(&bytes), entries);
        assert!(decode_rising::<TimeEntry>(&[0; 36]).is_empty());
    }
}
