//! Checking batches that come from the disk, before anybody is served from them.
//!
//! What this process wrote, or has checked since it last saw it cold, is not looked at again
//! ([`crate::checked`]). A look takes whole units of 64 KiB: every batch that touches one has
//! its CRC checked, and what no CRC covers: offsets must rise (a base offset that changed
//! meets a neighbour, unless compaction left a gap there), leader epochs must be those of the
//! epoch cache. What fails is quarantined from where a batch should begin to the next one
//! that is good, and reading goes on behind it.
//!
//! Deliberately absent: repair, and knowing when to look; [`PartitionView::check`] is for
//! bytes in memory and only says yes or no, [`PartitionView::read_checked`] may wait for the disk.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use klamm_protocol::ids::Offset;

use crate::checked::{UNIT_BYTES, units_of};
use crate::disk::{Patience, Patient, ReadAt};
use crate::entry::{Entry, LOOKUP_BUFFER_BYTES, Walk, WalkError};
use crate::error::ReadError;
use crate::leader_epochs::LeaderEpochs;
use crate::limits::LogPosition;
use crate::past_cache::{self, Held, Over, Placed, Room};
use crate::quarantine::Quarantined;
use crate::segment::{FileRegion, Segment, SegmentFile};
use crate::tail;
use crate::view::{PartitionView, io_error, limit_in};

/// Two units: a look at one unit usually needs one read.
const BUFFER_BYTES: usize = 128 << 10;
/// How often a read begins anew because something was quarantined in its way.
const ROUNDS_MAX: usize = 16;

/// A range that was just found corrupt; nobody was told yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The segment's file.
    pub path: PathBuf,
    /// What of it, and why.
    pub range: Quarantined,
}

/// A region whose bytes were read and checked.
#[derive(Debug)]
pub struct CheckedRead {
    /// Where it lies in its file.
    pub region: FileRegion,
    /// Where in the reader's [`Room`], if it was read past the page cache.
    pub place: Option<Range<usize>>,
}

/// What a segment's batches are held against.
struct Bounds<'a> {
    /// Behind the last whole batch.
    limit: u32,
    /// The offset that follows there.
    behind: Offset,
    /// The segment that grows.
    end_segment: Offset,
    epochs: &'a LeaderEpochs,
}

/// A batch that cannot be believed.
struct Fault {
    position: u32,
    /// Where its header says it ends, if that can be read.
    end: Option<u32>,
    /// The offset that should be here.
    expected: Offset,
    cause: String,
}

enum Failure {
    Io(io::Error),
    Fault(Fault),
}

impl PartitionView {
    /// True if every batch that a reader of `region` depends on is intact. Never
    /// waits for the disk: what lies cold around the region is a no.
    pub fn check(&self, region: &FileRegion) -> bool {
        let (start, end) = region.looked_at();
        let units = units_of(start, end);
        let is_good = self.with_segment(region.segment_base, |segment, bounds| {
            Arc::ptr_eq(segment.file(), &region.file)
                && verify(segment, &bytes_of(&units), bounds, Depth::UncheckedInMemory).is_ok_and(|()| {
                    region.file.checked.set(units.clone());
                    true
                })
        });
        is_good == Some(true)
    }

    /// As [`PartitionView::read`], with every byte of the region read and checked, whether
    /// that was done before or not. What is found corrupt is added to `found`; it ends the
    /// region, or is the answer if `from` lies in it.
    ///
    /// # Errors
    /// As [`PartitionView::read`]; [`ReadError::Quarantined`] where `from` cannot be served.
    pub fn read_checked(
        &self,
        from: Offset,
        up_to: LogPosition,
        max_bytes: u32,
        at_least_one: bool,
        found: &mut Vec<Corruption>,
    ) -> Result<Option<FileRegion>, ReadError> {
        let read = self.read_inspected(from, up_to, max_bytes, at_least_one, None, found)?;
        Ok(read.map(|read| read.region))
    }

    /// As [`PartitionView::read_checked`], with the bytes of a cold region read into `room`, past the
    /// page cache, where that can be. Then the region ends where the room does, and a batch that its end
    /// cuts is not checked: no reader takes a part of one.
    ///
    /// # Errors
    /// As [`PartitionView::read_checked`].
    pub fn read_into(
        &self,
        from: Offset,
        up_to: LogPosition,
        max_bytes: u32,
        at_least_one: bool,
        room: &mut Room,
        found: &mut Vec<Corruption>,
    ) -> Result<Option<CheckedRead>, ReadError> {
        self.read_inspected(from, up_to, max_bytes, at_least_one, Some(room), found)
    }

    fn read_inspected(
        &self,
        from: Offset,
        up_to: LogPosition,
        max_bytes: u32,
        at_least_one: bool,
        mut room: Option<&mut Room>,
        found: &mut Vec<Corruption>,
    ) -> Result<Option<CheckedRead>, ReadError> {
        let mut rounds = 0;
        loop {
            rounds += 1;
            let mut read = self.read(from, up_to, max_bytes, at_least_one);
            let mut placed = None;
            let (file, segment_base, range) = match &mut read {
                Ok(Some(region)) => {
                    if let Some(room) = room.as_deref_mut() {
                        placed = self.place(region, room);
                    }
                    let (start, end) = region.looked_at();
                    (Arc::clone(&region.file), region.segment_base, start..end)
                }
                // No batch begins where one should: somewhere before it something is wrong.
                Err(ReadError::Corrupt { path, position, .. }) => {
                    let at = u32::try_from(*position).unwrap_or(u32::MAX - 1);
                    let (_, segments) = self.consistent();
                    match segments.iter().find(|segment| segment.file().path() == path) {
                        Some(segment) => (Arc::clone(segment.file()), segment.base_offset(), at..at + 1),
                        None => return read.map(|_| None),
                    }
                }
                _ => return read.map(|_| None),
            };
            let found_before = found.len();
            let held = placed.as_ref().zip(room.as_deref()).map(|(placed, room)| placed.held(room));
            let was_current = self.inspect(&file, segment_base, &range, held, found)?;
            if was_current && found.len() == found_before {
                let place = placed.map(|placed| placed.region);
                return read.map(|region| region.map(|region| CheckedRead { region, place }));
            }
            if placed.is_some() {
                room = None;
            }
            if rounds == ROUNDS_MAX {
                return Err(ReadError::Truncated { offset: from });
            }
        }
    }

    fn place(&self, region: &mut FileRegion, room: &mut Room) -> Option<Placed> {
        self.with_segment(region.segment_base, |segment, bounds| {
            let grows = segment.base_offset() == bounds.end_segment;
            if grows { None } else { past_cache::place(segment, region, room) }
        })?
    }

    /// Checks a whole segment and tells what of it must not be copied: for compaction, moves
    /// and whoever else reads what no client asked for. Reads all of it.
    ///
    /// # Errors
    /// [`ReadError::Io`] if it cannot be read.
    pub fn check_segment(
        &self,
        segment: &Segment,
        found: &mut Vec<Corruption>,
    ) -> Result<Vec<Quarantined>, ReadError> {
        let _ =
            self.inspect(segment.file(), segment.base_offset(), &(0..segment.size_bytes()), None, found)?;
        Ok(segment.file().quarantined())
    }

    /// Checks a range and quarantines what is bad in it. False if the segment with this file went meanwhile, or if
    /// what is `held` is not good.
    pub(crate) fn inspect(
        &self,
        file: &Arc<SegmentFile>,
        segment_base: Offset,
        range: &Range<u32>,
        held: Option<Held<'_>>,
        found: &mut Vec<Corruption>,
    ) -> Result<bool, ReadError> {
        let units = units_of(range.start, range.end);
        let (range, depth) = match held {
            Some(held) => (range.clone(), Depth::Held(held)),
            None => (bytes_of(&units), Depth::All),
        };
        let inspected = self.with_segment(segment_base, |segment, bounds| {
            if !Arc::ptr_eq(segment.file(), file) {
                return Ok(false);
            }
            loop {
                let failed = |source| io_error(segment, source);
                match verify(segment, &range, bounds, depth) {
                    Ok(()) => break,
                    Err(Failure::Io(source)) => return Err(failed(source)),
                    // It may have been spoiled on the way: what the page cache gets decides.
                    Err(Failure::Fault(_)) if held.is_some() => return Ok(false),
                    Err(Failure::Fault(fault)) => {
                        let range = isolate(segment, fault, bounds).map_err(failed)?;
                        if !self.is_current(segment) {
                            return Ok(false);
                        }
                        let path = segment.file().path().to_owned();
                        if !segment.file().quarantine.add(range.clone()) {
                            return Err(ReadError::Quarantined { path, range });
                        }
                        found.push(Corruption { path, range });
                    }
                }
            }
            // What was held is not what the page cache will have.
            if held.is_none() {
                segment.file().checked.set(units.clone());
            }
            Ok(true)
        });
        inspected.unwrap_or(Ok(false))
    }

    fn with_segment<T>(&self, base: Offset, look: impl FnOnce(&Segment, &Bounds<'_>) -> T) -> Option<T> {
        let (limits, segments) = self.consistent();
        let index = segments.floor(base);
        let segment = segments.get(index).filter(|segment| segment.base_offset() == base)?;
        let behind = match segments.get(index + 1) {
            Some(next) if base != limits.end.segment_base => next.base_offset(),
            _ => limits.end.offset,
        };
        let epochs = self.leader_epochs();
        let (limit, end_segment) = (limit_in(segment, limits.end), limits.end.segment_base);
        Some(look(segment, &Bounds { limit, behind, end_segment, epochs: &epochs }))
    }
}

/// How much is looked at.
#[derive(Clone, Copy)]
enum Depth<'a> {
    /// Every batch, wherever it lies.
    All,
    /// Batches of units that are not known to be good; what does not lie in memory is a failure.
    UncheckedInMemory,
    /// Every batch that ends in the range, in bytes that were read already.
    Held(Held<'a>),
}

impl<'a> Depth<'a> {
    fn patience(self) -> Patience {
        match self {
            Self::All | Self::Held(_) => Patience::Waits,
            Self::UncheckedInMemory => Patience::OnlyMemory,
        }
    }

    fn over(self, file: &'a dyn ReadAt) -> Over<'a> {
        match self {
            Self::Held(held) => held.over(file),
            Self::All | Self::UncheckedInMemory => Held::default().over(file),
        }
    }
}

/// The bytes of these units.
fn bytes_of(units: &Range<u32>) -> Range<u32> {
    units.start.saturating_mul(UNIT_BYTES)..units.end.saturating_mul(UNIT_BYTES)
}

/// Checks the batches that touch `range`; in bytes that are held, those that end in it.
fn verify(
    segment: &Segment,
    range: &Range<u32>,
    bounds: &Bounds<'_>,
    depth: Depth<'_>,
) -> Result<(), Failure> {
    let (begin, end) = (range.start, range.end.min(bounds.limit));
    let ranges = segment.file().quarantine.ranges().unwrap_or_default();
    let before = ranges.iter().rev().find(|range| range.position <= begin);
    let (mut at, mut expected) = anchor(segment, begin, before, bounds, depth).map_err(Failure::Io)?;
    while at < end {
        let next = ranges.iter().find(|range| range.position >= at);
        let (limit, behind) =
            next.map_or((bounds.limit, bounds.behind), |range| (range.position, range.offset));
        let span = Span { at, expected, limit, behind, end };
        verify_span(segment, &span, bounds.epochs, depth, |entry| {
            let touched = entry.position.max(begin)..entry.end().min(end);
            match depth {
                Depth::All => !touched.is_empty(),
                Depth::UncheckedInMemory => !segment.file().checked.covers(touched.start, touched.end),
                Depth::Held(_) => !touched.is_empty() && entry.end() <= end,
            }
        })?;
        let Some(next) = next else { break };
        (at, expected) = (next.end_position, next.end_offset);
    }
    Ok(())
}

/// Where a batch begins at or before `begin`, and which offset it must have at least.
fn anchor(
    segment: &Segment,
    begin: u32,
    before: Option<&Quarantined>,
    bounds: &Bounds<'_>,
    depth: Depth<'_>,
) -> io::Result<(u32, Offset)> {
    let sure = before.map_or((0, segment.base_offset()), |range| (range.end_position, range.end_offset));
    let patience = depth.patience();
    let Some(proposed) = segment.offset_index.floor_by_position(begin, patience)? else { return Ok(sure) };
    if proposed.position <= sure.0 || proposed.position >= bounds.limit {
        return Ok(sure);
    }
    let mut buffer = [0; 64];
    let file = segment.file().get_as(patience)?;
    let patient = Patient(&*file, patience);
    let file = depth.over(&patient);
    let mut walk = Walk::new(&file, u64::from(proposed.position), u64::from(bounds.limit), &mut buffer);
    let last_offset = segment.base_offset().0 + i64::from(proposed.relative_offset);
    Ok(match walk.next() {
        // Index and header agree, which two flipped bits do not do by chance.
        Ok(Some(entry)) if entry.last_offset.0 == last_offset => (entry.position, entry.base_offset),
        Err(WalkError::Io { source, .. }) => return Err(source),
        _ => sure,
    })
}

/// Batches without a quarantined range between them.
struct Span {
    at: u32,
    expected: Offset,
    limit: u32,
    /// The offset that follows at the limit.
    behind: Offset,
    /// Batches that begin here or later are not looked at, but for the first one's offset.
    end: u32,
}

fn verify_span(
    segment: &Segment,
    span: &Span,
    epochs: &LeaderEpochs,
    depth: Depth<'_>,
    must_check: impl Fn(&Entry) -> bool,
) -> Result<(), Failure> {
    let file = segment.file().get_as(depth.patience()).map_err(Failure::Io)?;
    let patient = Patient(&*file, depth.patience());
    let file = depth.over(&patient);
    let len = (span.limit - span.at).min(span.end.saturating_sub(span.at).saturating_add(64)) as usize;
    let is_held = file.held_from(u64::from(span.at)).is_some();
    let mut buffer = vec![0; if is_held { LOOKUP_BUFFER_BYTES } else { len.clamp(64, BUFFER_BYTES) }];
    let mut walk = Walk::new(&file, u64::from(span.at), u64::from(span.limit), &mut buffer);
    let mut expected = span.expected;
    // The last batch, if a gap lies before it, and the offset that was expected in its place.
    let mut behind_gap: Option<(Entry, Offset)> = None;
    let out_of_order = |entry: &Entry, expected: Offset| {
        fault(entry, expected, format!("offset {} where {expected} must follow", entry.base_offset))
    };
    while behind_gap.is_some() || walk.position() < u64::from(span.end) {
        let entry = match walk.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                return match behind_gap {
                    Some((held, expected)) if held.next_offset() > span.behind => {
                        Err(out_of_order(&held, expected))
                    }
                    _ => Ok(()),
                };
            }
            Err(WalkError::Io { source, .. }) => return Err(Failure::Io(source)),
            Err(WalkError::Torn { position } | WalkError::Invalid { position, .. })
                if position >= u64::from(span.end) =>
            {
                return Ok(());
            }
            Err(error) => return Err(unreadable(error, expected)),
        };
        // Its own offset is too high if the next batch, a good one, has one of its offsets.
        if let Some((held, before)) = behind_gap.take()
            && (before..held.next_offset()).contains(&entry.base_offset)
            && walk.is_intact(&entry).map_err(Failure::Io)?
        {
            return Err(out_of_order(&held, before));
        }
        if entry.position >= span.end {
            return Ok(());
        }
        if entry.base_offset < expected || entry.last_offset < entry.base_offset {
            return Err(out_of_order(&entry, expected));
        }
        if must_check(&entry) {
            if !walk.is_intact(&entry).map_err(Failure::Io)? {
                return Err(fault(&entry, expected, "a wrong CRC".to_owned()));
            }
            // Of a batch that holds the log start the epochs know the end only.
            let known = epochs
                .epoch_for_offset(entry.base_offset)
                .or_else(|| epochs.epoch_for_offset(entry.last_offset));
            if let (Some(header), Some(known)) = (&entry.header, known)
                && header.leader_epoch.0 != -1
                && header.leader_epoch != known
            {
                let cause = format!("leader epoch {} where {known} wrote", header.leader_epoch);
                return Err(fault(&entry, expected, cause));
            }
        }
        if entry.base_offset > expected {
            behind_gap = Some((entry, expected));
        }
        expected = entry.next_offset();
    }
    Ok(())
}

fn fault(entry: &Entry, expected: Offset, cause: String) -> Failure {
    Failure::Fault(Fault { position: entry.position, end: Some(entry.end()), expected, cause })
}

fn unreadable(error: WalkError, expected: Offset) -> Failure {
    let (position, cause) = match error {
        WalkError::Io { source, .. } => return Failure::Io(source),
        WalkError::Torn { position } => (position, "a batch that does not end".to_owned()),
        WalkError::Invalid { position, reason } => (position, reason),
    };
    // A walk stays below its limit, which is a position.
    let position = u32::try_from(position).unwrap_or(u32::MAX);
    Failure::Fault(Fault { position, end: None, expected, cause })
}

/// How far a fault goes: to the next batch that is good.
fn isolate(segment: &Segment, fault: Fault, bounds: &Bounds<'_>) -> io::Result<Quarantined> {
    let Fault { position, end, expected, cause } = fault;
    let file = segment.file().get()?;
    // Nothing that is known to be bad is good again.
    let ranges = segment.file().quarantine.ranges().unwrap_or_default();
    let (limit, behind) = ranges
        .iter()
        .find(|range| range.position >= position)
        .map_or((bounds.limit, bounds.behind), |range| (range.position, range.offset));
    let follows = |entry: &Entry| entry.next_offset() <= behind;
    let next = match end {
        Some(end) if end == limit => None,
        Some(end) if end < limit => {
            tail::valid_at(&*file, u64::from(end), u64::from(limit), expected)?.filter(follows)
        }
        _ => None,
    };
    let next = match next {
        None if end != Some(limit) => {
            tail::next_valid(&*file, u64::from(position), u64::from(limit), expected)?.filter(follows)
        }
        next => next,
    };
    Ok(Quarantined {
        position,
        end_position: next.map_or(limit, |entry| entry.position),
        offset: expected,
        end_offset: next.map_or(behind, |entry| entry.base_offset).max(expected),
        cause,
    })
}
