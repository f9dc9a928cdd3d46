//! One segment: a file of batches and its indexes, as readers see it.
//!
//! Immutable but for growth: the active segment's size, indexes and largest timestamp rise
//! while readers use them. Whatever takes something away (roll, truncation, swap) publishes
//! another [`Segment`]; two of them are the same only by pointer.
//!
//! Files are opened when they are needed and closed when nobody needed them for a while
//! ([`crate::lazy_file`]). Invariant: bytes below the size are whole batches and never change;
//! where the disk changed them all the same, [`crate::verify`] finds it and the range is
//! quarantined.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use klamm_protocol::ids::Offset;

use crate::checked::{CheckedUnits, units_of};
use crate::disk::{Disk, DiskFile, OpenMode, Patience, Patient, ReadAt, Residency};
use crate::entry::{Entry, LOOKUP_BUFFER_BYTES, SCAN_BUFFER_BYTES, Walk, WalkError};
use crate::files;
use crate::index::{IndexFile, OffsetIndex, TimeEntry, TimeIndex};
use crate::lazy_file::LazyFile;
use crate::quarantine::{Quarantine, Quarantined};
use crate::transaction_index::TransactionIndex;

/// The largest timestamp of a closed segment that nobody has looked up yet.
const TIMESTAMP_UNKNOWN: i64 = i64::MIN;

/// A segment's file of batches, and what is known of its bytes.
pub struct SegmentFile {
    file: LazyFile,
    pub(crate) checked: CheckedUnits,
    pub(crate) quarantine: Quarantine,
    /// What lies below was read past the page cache, or skipped by who read what is above.
    past_cache_end: AtomicU32,
}

/// A range of one segment's file: whole batches from its start; the last may be cut.
#[derive(Clone)]
pub struct FileRegion {
    /// Whose bytes they are.
    pub file: Arc<SegmentFile>,
    /// The file, open for as long as the region lives.
    pub(crate) handle: Arc<dyn DiskFile>,
    /// Where the search for the first batch began: from here on headers were believed.
    pub(crate) searched_from: u32,
    /// Where the first batch begins.
    pub position: u64,
    /// How many bytes; 0 if the first batch does not fit what the reader allowed.
    pub len_bytes: u32,
    /// Base offset of the segment.
    pub segment_base: Offset,
    /// Base offset of the first batch, at or below the offset asked for.
    pub base_offset: Offset,
}

/// A segment as readers see it.
pub struct Segment {
    base_offset: Offset,
    file: Arc<SegmentFile>,
    size_bytes: AtomicU32,
    max_timestamp: AtomicI64,
    pub(crate) offset_index: OffsetIndex,
    pub(crate) time_index: TimeIndex,
    pub(crate) transactions: Arc<TransactionIndex>,
    /// True if the cleaner made it, below every limit of readers: a limit in it is from the
    /// segments that it replaced and means all of it.
    pub(crate) is_cleaned: bool,
}

impl SegmentFile {
    /// A file whose bytes nobody has looked at.
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self::with(LazyFile::new(disk, path, OpenMode::Write), CheckedUnits::of_foreign())
    }

    /// An open file that will grow, with `size_bytes` from an earlier process.
    pub(crate) fn growing(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        file: Arc<dyn DiskFile>,
        size_bytes: u32,
    ) -> Self {
        let file = LazyFile::new(disk, path, OpenMode::Write).with_open(file);
        Self::with(file, CheckedUnits::of_file_with(size_bytes))
    }

    fn with(file: LazyFile, checked: CheckedUnits) -> Self {
        Self { file, checked, quarantine: Quarantine::default(), past_cache_end: AtomicU32::new(0) }
    }

    /// Its name when it was published; it may have another since.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The open file.
    pub fn get(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.file.get()
    }

    /// What of it was found corrupt.
    #[must_use]
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.quarantine.ranges().map_or_else(Vec::new, |ranges| ranges.to_vec())
    }

    /// The open file; `WouldBlock` if it must be opened and the reader may not wait.
    pub(crate) fn get_as(&self, patience: Patience) -> io::Result<Arc<dyn DiskFile>> {
        self.file.get_as(patience)
    }

    /// True if what ends here is read once more.
    pub(crate) fn was_read_past_cache(&self, end: u32) -> bool {
        end <= self.past_cache_end.load(Ordering::Relaxed)
    }

    pub(crate) fn note_read_past_cache(&self, end: u32) {
        self.past_cache_end.fetch_max(end, Ordering::Relaxed);
    }

    /// Closes the file until somebody needs it; only if it is not dirty.
    pub(crate) fn close(&self) {
        self.file.close();
    }

    /// Closes the file if nobody asked for it since the last call; only if it is not dirty.
    pub(crate) fn close_if_idle(&self) {
        self.file.close_if_idle();
    }
}

impl std::fmt::Debug for FileRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}; {}]", self.file.path().display(), self.position, self.len_bytes)
    }
}

impl FileRegion {
    /// Reads at most `buf.len()` bytes; 0 at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.handle.read_at(buf, position)
    }

    /// The descriptor for sendfile; `None` where there is no real file.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.handle.fd()
    }

    /// Whether reading the region would go to the device.
    #[must_use]
    pub fn residency(&self) -> Residency {
        self.handle.residency(self.position, u64::from(self.len_bytes))
    }

    /// True if this process wrote or checked all of it and nobody saw it cold since.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        let (start, end) = self.looked_at();
        self.file.checked.covers(start, end)
    }

    /// The region lies cold: what it holds must be checked when it has been read.
    pub fn forget_checked(&self) {
        let (start, end) = self.looked_at();
        self.file.checked.clear(units_of(start, end));
    }

    /// The bytes whose content decides what a reader of the region is told.
    pub(crate) fn looked_at(&self) -> (u32, u32) {
        let end = u32::try_from(self.position + u64::from(self.len_bytes)).unwrap_or(u32::MAX);
        (self.searched_from, end)
    }

    /// Reads the whole region: for readers that cannot send the file itself.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len_bytes as usize];
        let count = crate::disk::read_full_at(&*self.handle, &mut bytes, self.position)?;
        // A file that somebody cut must not read as zeros.
        if count < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment ends before the region"));
        }
        Ok(bytes)
    }
}

impl Segment {
    /// A segment that nothing is appended to: its indexes are searched in their files.
    pub(crate) fn closed(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        file: Arc<SegmentFile>,
        base: Offset,
        size: u32,
    ) -> Self {
        let index = |suffix| IndexFile::new(Arc::clone(disk), files::segment_file(dir, base, suffix));
        Self {
            base_offset: base,
            file,
            size_bytes: AtomicU32::new(size),
            max_timestamp: AtomicI64::new(TIMESTAMP_UNKNOWN),
            offset_index: OffsetIndex::File(index(files::INDEX)),
            time_index: TimeIndex::File(index(files::TIME_INDEX)),
            transactions: Self::transaction_index(disk, dir, base),
            is_cleaned: false,
        }
    }

    /// A segment that grows: its indexes are in memory.
    pub(crate) fn active(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        file: Arc<SegmentFile>,
        base: Offset,
        size: u32,
        indexes: (OffsetIndex, TimeIndex),
        max_timestamp: i64,
    ) -> Self {
        Self {
            base_offset: base,
            file,
            size_bytes: AtomicU32::new(size),
            max_timestamp: AtomicI64::new(max_timestamp),
            offset_index: indexes.0,
            time_index: indexes.1,
            transactions: Self::transaction_index(disk, dir, base),
            is_cleaned: false,
        }
    }

    /// This segment once it has stopped growing; it keeps the open file.
    pub(crate) fn to_closed(&self, disk: &Arc<dyn Disk>, dir: &Path) -> Self {
        let file = Arc::clone(&self.file);
        let closed = Self::closed(disk, dir, file, self.base_offset, self.size_bytes());
        closed.max_timestamp.store(self.max_timestamp.load(Ordering::Acquire), Ordering::Release);
        Self { transactions: Arc::clone(&self.transactions), is_cleaned: self.is_cleaned, ..closed }
    }

    /// A segment that the cleaner writes: all in memory until its files have their names.
    pub(crate) fn cleaned(disk: &Arc<dyn Disk>, dir: &Path, file: Arc<SegmentFile>, base: Offset) -> Self {
        let indexes = (OffsetIndex::in_memory(&[]), TimeIndex::in_memory(&[]));
        Self { is_cleaned: true, ..Self::active(disk, dir, file, base, 0, indexes, -1) }
    }

    fn transaction_index(disk: &Arc<dyn Disk>, dir: &Path, base: Offset) -> Arc<TransactionIndex> {
        let path = files::segment_file(dir, base, files::TXN_INDEX);
        Arc::new(TransactionIndex::new(Arc::clone(disk), path))
    }

    /// The offset its name gives, at or below its first record's.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// The file of batches.
    #[must_use]
    pub fn file(&self) -> &Arc<SegmentFile> {
        &self.file
    }

    /// Bytes of whole batches in the file.
    #[must_use]
    pub fn size_bytes(&self) -> u32 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// The largest timestamp in the segment; -1 if no record has one.
    pub fn max_timestamp(&self) -> io::Result<i64> {
        let known = self.max_timestamp.load(Ordering::Acquire);
        if known != TIMESTAMP_UNKNOWN {
            return Ok(known);
        }
        let last = self.confirmed(self.time_index.last()?)?;
        // The last entry of a whole index is the largest of all, and usually the last batch's.
        let found = self.walked_max_timestamp(last)?;
        self.max_timestamp.store(found, Ordering::Release);
        Ok(found)
    }

    /// What retention goes by: the largest timestamp, or when the file was last written if no
    /// record has one. `None` if nobody knows.
    pub(crate) fn timestamp_for_age(&self) -> io::Result<Option<i64>> {
        let timestamp = self.max_timestamp()?;
        if timestamp >= 0 {
            return Ok(Some(timestamp));
        }
        let modified_ms = self.file.file.metadata()?.modified_ms;
        Ok((modified_ms > 0).then_some(modified_ms))
    }

    /// An entry of the time index, if the batch that it names has its timestamp: the file may
    /// hold anything.
    pub(crate) fn confirmed(&self, entry: Option<TimeEntry>) -> io::Result<Option<TimeEntry>> {
        let Some(entry) = entry else { return Ok(None) };
        let offset = Offset(self.base_offset.0 + i64::from(entry.relative_offset));
        match self.locate(offset, self.size_bytes()) {
            Ok(found) => Ok(found.filter(|found| found.max_timestamp == entry.timestamp).map(|_| entry)),
            Err(WalkError::Io { source, .. }) => Err(source),
            Err(_) => Ok(None),
        }
    }

    pub(crate) fn grow_to(&self, size: u32, max_timestamp: i64) {
        self.max_timestamp.store(max_timestamp, Ordering::Release);
        self.size_bytes.store(size, Ordering::Release);
    }

    /// Closes the files that nobody used since the last call; the batches only if they are durable.
    pub(crate) fn close_idle_files(&self, is_durable: bool) {
        if is_durable {
            self.file.close_if_idle();
        }
        self.offset_index.close_if_idle();
        self.time_index.close_if_idle();
    }

    /// The first entry below `limit` whose last offset is at or above `from`.
    pub(crate) fn locate(&self, from: Offset, limit: u32) -> Result<Option<Entry>, WalkError> {
        Ok(self.search(from, limit, Patience::Waits)?.map(|(entry, _)| entry))
    }

    /// The same, and where the search for it began.
    pub(crate) fn search(
        &self,
        from: Offset,
        limit: u32,
        patience: Patience,
    ) -> Result<Option<(Entry, u32)>, WalkError> {
        let relative = u32::try_from((from.0 - self.base_offset.0).max(0)).unwrap_or(u32::MAX);
        let io = |source| WalkError::Io { position: 0, source };
        let proposed =
            self.offset_index.floor(relative, patience).map_err(io)?.map_or(0, |entry| entry.position);
        if proposed > 0 && proposed < limit {
            match self.first_reaching(from, proposed, limit, patience) {
                // The index led past the place: it is wrong, and only a proposal.
                Ok(Some(entry)) if entry.position == proposed && entry.base_offset > from => {}
                Ok(found) => return Ok(found.map(|entry| (entry, proposed))),
                Err(error @ WalkError::Io { .. }) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(self.first_reaching(from, 0, limit, patience)?.map(|entry| (entry, 0)))
    }

    /// A walk that steps over what is quarantined.
    pub(crate) fn walk<'a>(
        &self,
        file: &'a dyn ReadAt,
        start: u32,
        limit: u32,
        buffer: &'a mut [u8],
    ) -> Walk<'a> {
        let ranges = self.file.quarantine.ranges();
        Walk::new(file, u64::from(start), u64::from(limit), buffer).skipping(ranges)
    }

    /// The entry that begins at `position` or is the first behind it, below `limit`.
    pub(crate) fn first_at_or_behind(
        &self,
        position: u32,
        limit: u32,
        patience: Patience,
    ) -> Result<Option<Entry>, WalkError> {
        let io = |source| WalkError::Io { position: 0, source };
        let start = self
            .offset_index
            .floor_by_position(position, patience)
            .map_err(io)?
            .map_or(0, |entry| entry.position);
        let file = self.file.get_as(patience).map_err(io)?;
        let file = Patient(&*file, patience);
        let mut buffer = [0; LOOKUP_BUFFER_BYTES];
        let mut walk = self.walk(&file, start, limit, &mut buffer);
        while let Some(entry) = walk.next()? {
            if entry.position >= position {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn first_reaching(
        &self,
        from: Offset,
        start: u32,
        limit: u32,
        patience: Patience,
    ) -> Result<Option<Entry>, WalkError> {
        let file = self.file.get_as(patience).map_err(|source| WalkError::Io { position: 0, source })?;
        let file = Patient(&*file, patience);
        let mut buffer = [0; LOOKUP_BUFFER_BYTES];
        let mut walk = self.walk(&file, start, limit, &mut buffer);
        while let Some(entry) = walk.next()? {
            if entry.last_offset >= from {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The largest timestamp from the batch of an entry on, which has the largest one before it.
    fn walked_max_timestamp(&self, from: Option<TimeEntry>) -> io::Result<i64> {
        let relative = from.map_or(0, |entry| entry.relative_offset);
        let start = self.offset_index.floor(relative, Patience::Waits)?.map_or(0, |entry| entry.position);
        let mut found = from.map_or(-1, |entry| entry.timestamp);
        let start = if from.is_some() { start } else { 0 };
        let mut buffer = vec![0; SCAN_BUFFER_BYTES];
        let file = self.file.get()?;
        let mut walk = self.walk(&*file, start, self.size_bytes(), &mut buffer);
        loop {
            match walk.next() {
                Ok(Some(entry)) => found = entry.max_timestamp.max(found),
                Ok(None) => return Ok(found),
                Err(WalkError::Io { source, .. }) => return Err(source),
                // A wrong offset index led between batches.
                Err(_) if start > 0 => return self.walked_max_timestamp(None),
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}
