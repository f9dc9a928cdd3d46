//! Reading old segments past the page cache.
//!
//! Who catches up reads everything once. Through the page cache it pushes out what others read again
//! and again, and the kernel reads ahead for it in pieces (8 MiB on some devices) whose bookkeeping holds up
//! a CPU for milliseconds, with every request on it (ADR 0012). So a cold region of a closed segment goes
//! straight into the reader's [`Room`], is checked there, and is served from there.
//!
//! What is read once more may stay in memory: each part of a segment is read past the cache once, and who comes behind
//! reads through it. Readers of the same data meet in the cache that way.
//!
//! Deliberately absent: the active segment, whose reads would hold up its appends (the file system locks the file
//! for both), and systems that cannot tell what lies in memory. Invariant: where anything is not as
//! it should be the answer is "not held", and the page cache serves the region.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::{DIRECT_ALIGN_BYTES, ReadAt, Residency, read_full_past_cache};
use crate::entry::Entry;
use crate::segment::{FileRegion, Segment};

/// What a [`Room`] holds beside the region: the way to its first batch, which is usually the batch before it
/// (an index entry tells the last offset of its batch), and the header behind it. No batch is longer unless
/// `max.message.bytes` was raised; memory that is not read into is not used.
const MARGIN_BYTES: u32 = (1 << 20) + (64 << 10);

/// Aligned memory for one region.
pub struct Room {
    bytes: Box<[u8]>,
    /// Where the aligned part begins.
    start: usize,
}

impl Room {
    /// Room for a region of so many bytes and for what is looked at with it.
    #[must_use]
    pub fn new(region_bytes_max: u32) -> Self {
        let len = (region_bytes_max + MARGIN_BYTES) as usize;
        let bytes = vec![0; len + DIRECT_ALIGN_BYTES].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(DIRECT_ALIGN_BYTES).min(DIRECT_ALIGN_BYTES);
        Self { bytes, start }
    }

    /// What was read into it.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.aligned()[range]
    }

    fn aligned(&self) -> &[u8] {
        &self.bytes[self.start..self.bytes.len() - DIRECT_ALIGN_BYTES + self.start]
    }

    fn aligned_mut(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - DIRECT_ALIGN_BYTES + self.start;
        &mut self.bytes[self.start..end]
    }

    /// The longest region that is read into it.
    pub(crate) fn region_bytes_max(&self) -> u32 {
        u32::try_from(self.aligned().len()).unwrap_or(u32::MAX).saturating_sub(MARGIN_BYTES)
    }
}

/// Bytes of a file in memory; what they do not cover comes from the file.
#[derive(Clone, Copy, Default)]
pub(crate) struct Held<'a> {
    bytes: &'a [u8],
    from: u64,
}

impl<'a> Held<'a> {
    /// The bytes of a file from there on.
    pub(crate) fn of(bytes: &'a [u8], from: u64) -> Self {
        Self { bytes, from }
    }

    pub(crate) fn over(self, file: &'a dyn ReadAt) -> Over<'a> {
        Over { held: self, file }
    }
}

/// A file with a part of it in memory.
pub(crate) struct Over<'a> {
    held: Held<'a>,
    file: &'a dyn ReadAt,
}

impl ReadAt for Over<'_> {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let Some(rest) = self.held_from(position) else { return self.file.read_at(buf, position) };
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn held_from(&self, position: u64) -> Option<&[u8]> {
        let Held { bytes, from } = self.held;
        let skipped = usize::try_from(position.checked_sub(from)?).ok()?;
        bytes.get(skipped..).filter(|rest| !rest.is_empty())
    }
}

/// Where a region lies in a [`Room`], and what else of its file does.
pub(crate) struct Placed {
    from: u64,
    len: usize,
    pub(crate) region: Range<usize>,
}

impl Placed {
    pub(crate) fn held<'a>(&self, room: &'a Room) -> Held<'a> {
        Held { bytes: room.bytes(0..self.len), from: self.from }
    }
}

/// Reads a cold region of a closed segment, and what is looked at with it, into `room`; the region ends where the room
/// does.
pub(crate) fn place(segment: &Segment, region: &mut FileRegion, room: &mut Room) -> Option<Placed> {
    let len_bytes = region.len_bytes.min(room.region_bytes_max());
    let is_cold = region.handle.residency(region.position, u64::from(len_bytes)) == Residency::Cold;
    if len_bytes == 0 || !is_cold || !Arc::ptr_eq(segment.file(), &region.file) {
        return None;
    }
    // Whoever brings it back into memory, it comes from the disk.
    region.forget_checked();
    let start = region.searched_from;
    let end = u32::try_from(region.position).ok()? + len_bytes;
    if region.file.was_read_past_cache(end) {
        return None;
    }
    let align = DIRECT_ALIGN_BYTES as u64;
    let from = u64::from(start) / align * align;
    // The header behind the last batch is looked at, too.
    let behind = u64::from(end) + align;
    let wanted = (behind.min(u64::from(segment.size_bytes())) - from).next_multiple_of(align);
    let target = room.aligned_mut().get_mut(..usize::try_from(wanted).ok()?)?;
    let len = read_full_past_cache(&*region.handle, target, from).ok()?;
    let skipped = usize::try_from(region.position - from).ok()?;
    let place = skipped..skipped + len_bytes as usize;
    let bytes = target.get(..len)?.get(place.clone())?;
    // A reader gets one whole batch at least.
    let first = Entry::parse(bytes, region.position, u64::from(region.len_bytes)).ok()?;
    if first.size_bytes > len_bytes {
        return None;
    }
    region.len_bytes = len_bytes;
    region.file.note_read_past_cache(end);
    Some(Placed { from, len, region: place })
}
