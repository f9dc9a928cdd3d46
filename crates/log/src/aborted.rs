//! Which transactions a reader of committed records must leave out.
//!
//! The lists come from the transaction indexes of the segments. One that was read from the disk
//! may be damaged, or lost, which looks like a segment without aborted transactions. So before
//! bytes with transactions are served, their ends are looked up: the markers behind them, up to
//! the last one that matters, must be listed. If one is not, the segment's list is made anew.
//! What this process wrote itself is not looked at.
//!
//! Deliberately absent: when that may wait for the disk, which the caller knows.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use klamm_protocol::ids::{Offset, ProducerId};

use crate::disk::Patience;
use crate::entry::{SCAN_BUFFER_BYTES, WalkError};
use crate::error::{LogError, ReadError};
use crate::limits::{Limits, LogPosition};
use crate::past_cache::Held;
use crate::replay::{aborted_in, read_marker};
use crate::segment::FileRegion;
use crate::transaction_index::AbortedTransaction;
use crate::view::{PartitionView, Segments, io_error, limit_in};

impl PartitionView {
    /// The aborted transactions that a reader of `region`, who asked for `from` and may read
    /// below `up_to`, must leave out.
    ///
    /// # Errors
    /// As [`PartitionView::read`].
    pub fn aborted_transactions(
        &self,
        from: Offset,
        region: &FileRegion,
        up_to: LogPosition,
    ) -> Result<Vec<AbortedTransaction>, ReadError> {
        self.aborted_transactions_as(Patience::Waits, from, region, up_to)
    }

    /// The same for a reader of any patience.
    ///
    /// # Errors
    /// As [`PartitionView::read_as`].
    pub fn aborted_transactions_as(
        &self,
        patience: Patience,
        from: Offset,
        region: &FileRegion,
        up_to: LogPosition,
    ) -> Result<Vec<AbortedTransaction>, ReadError> {
        let segments = self.segments();
        let first = segments.floor(from);
        let mut listed = Vec::new();
        for segment in &segments[first..] {
            let entries = segment.transactions.entries_as(patience).map_err(|e| io_error(segment, e))?;
            listed.extend(entries.iter().filter(|entry| entry.last_offset >= from).copied());
        }
        // The start moves before segments and their files go: a list that may lack some is not given.
        let limits = self.limits();
        if from < limits.log_start {
            let (log_start, end) = (limits.log_start, limits.end.offset);
            return Err(ReadError::OffsetOutOfRange { offset: from, log_start, end });
        }
        if listed.is_empty() {
            return Ok(listed);
        }
        let behind = self.offset_behind(&segments, region, up_to, patience)?;
        listed.retain(|entry| entry.first_offset < behind);
        Ok(listed)
    }

    /// True if [`PartitionView::aborted_transactions`] may be believed for a region.
    #[must_use]
    pub fn knows_aborted(&self, region: &FileRegion) -> bool {
        let segments = self.segments();
        let segment = &segments[segments.floor(region.segment_base)];
        segment.transactions.has_checked(&bytes_of(region))
    }

    /// Compares what is listed for a region with the markers, and lists anew what is wrong: the files
    /// of which that was needed are added to `repaired`. Reads as far as the region's transactions go; not
    /// the region itself, if `bytes` are what it holds.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the disk cannot be read.
    pub fn check_aborted(
        &self,
        region: &FileRegion,
        bytes: Option<&[u8]>,
        repaired: &mut Vec<PathBuf>,
    ) -> Result<(), ReadError> {
        let held = bytes.map_or(Held::default(), |bytes| Held::of(bytes, region.position));
        self.check_aborted_in(region.segment_base, bytes_of(region), held, repaired)
    }

    /// The same for any bytes of a segment.
    pub(crate) fn check_aborted_in(
        &self,
        segment_base: Offset,
        bytes: Range<u32>,
        held: Held<'_>,
        repaired: &mut Vec<PathBuf>,
    ) -> Result<(), ReadError> {
        self.look_at(|limits, segments| {
            let first = segments.floor(segment_base);
            let segment = &segments[first];
            if segment.base_offset() != segment_base || segment.transactions.has_checked(&bytes) {
                return Ok(());
            }
            match find_unlisted(limits, segments, first, &bytes, held) {
                Ok(unlisted) => {
                    for index in unlisted {
                        list_anew(limits, segments, index)?;
                        repaired.push(segments[index].transactions.path().to_owned());
                    }
                    segment.transactions.note_checked(bytes.clone());
                    Ok(())
                }
                Err((index, WalkError::Io { source, .. })) => Err(io_error(&segments[index], source)),
                // Batches that cannot be read are found by who reads them.
                Err(_) => Ok(()),
            }
        })
    }

    /// The offset of the first batch behind a region.
    fn offset_behind(
        &self,
        segments: &Segments,
        region: &FileRegion,
        up_to: LogPosition,
        patience: Patience,
    ) -> Result<Offset, ReadError> {
        let index = segments.floor(region.segment_base);
        let segment = &segments[index];
        if segment.base_offset() != region.segment_base {
            return Ok(up_to.offset);
        }
        let end = u32::try_from(region.position + u64::from(region.len_bytes)).unwrap_or(u32::MAX);
        // Up to the far side of what cannot be read: a transaction too many is none too few.
        let found = segment
            .first_at_or_behind(end, limit_in(segment, up_to), patience)
            .map_err(|error| error.into_read_error(segment.file().path()))?;
        Ok(match (found, segments.get(index + 1)) {
            (Some(entry), _) => entry.base_offset,
            (None, Some(next)) => next.base_offset().min(up_to.offset),
            (None, None) => up_to.offset,
        })
    }
}

fn bytes_of(region: &FileRegion) -> Range<u32> {
    let start = u32::try_from(region.position).unwrap_or(u32::MAX);
    start..start.saturating_add(region.len_bytes)
}

/// The segments that do not list the end of a transaction with batches in `bytes` of the first one.
fn find_unlisted(
    limits: &Limits,
    segments: &Segments,
    first: usize,
    bytes: &Range<u32>,
    held: Held<'_>,
) -> Result<BTreeSet<usize>, (usize, WalkError)> {
    let mut unlisted = BTreeSet::new();
    let mut open: BTreeSet<ProducerId> = BTreeSet::new();
    for (index, segment) in segments.iter().enumerate().skip(first) {
        let failed = |error| (index, error);
        let io = |source| (index, WalkError::Io { position: 0, source });
        let start = if index == first { bytes.start } else { 0 };
        let file = segment.file().get().map_err(io)?;
        let mut buffer = vec![0; SCAN_BUFFER_BYTES];
        let file = if index == first { held } else { Held::default() }.over(&*file);
        let mut walk = segment.walk(&file, start, limit_in(segment, limits.end), &mut buffer);
        loop {
            // Not even the next header is read for nothing.
            if open.is_empty() && (index != first || walk.position() >= u64::from(bytes.end)) {
                return Ok(unlisted);
            }
            let Some(entry) = walk.next().map_err(failed)? else { break };
            let is_inside = index == first && entry.position < bytes.end;
            let Some(header) = entry.header.filter(|header| header.attributes.is_transactional()) else {
                continue;
            };
            if !header.attributes.is_control() {
                if is_inside {
                    open.insert(header.producer_id);
                }
                continue;
            }
            let Some(marker) = read_marker(&walk, &entry, &header).map_err(failed)? else { continue };
            if open.remove(&header.producer_id) && !marker.is_commit {
                let listed = segment.transactions.entries().map_err(io)?;
                let is_listed = |known: &AbortedTransaction| {
                    known.producer_id == header.producer_id && known.last_offset == header.base_offset
                };
                if !listed.iter().any(is_listed) {
                    unlisted.insert(index);
                }
            }
        }
    }
    Ok(unlisted)
}

fn list_anew(limits: &Limits, segments: &Segments, index: usize) -> Result<(), ReadError> {
    let segment = &segments[index];
    let limit = limit_in(segment, limits.end);
    let listed = aborted_in(segments, index, limit, limits.log_start).map_err(|error| match error {
        LogError::Io { path, source, .. } => ReadError::Io { path, position: 0, source },
        LogError::Corrupt { path, position, reason } => ReadError::Corrupt { path, position, reason },
        other => ReadError::Io {
            path: segment.file().path().to_owned(),
            position: 0,
            source: std::io::Error::other(other.to_string()),
        },
    })?;
    let up_to = segments.get(index + 1).map_or(limits.end.offset, |next| next.base_offset());
    segment.transactions.repair(listed, up_to).map_err(|source| io_error(segment, source))
}
