//! What everyone but the appender sees of a log: limits, segments, epochs.
//!
//! Reading takes no lock that the appender holds. Invariants: new segments are published
//! before limits that lie in them, lower limits before segments go; a reader therefore
//! loads limits before segments, and looks again when the two do not fit. `last_stable` is
//! never set from outside: [`PartitionView::advance`] derives it from the watermark and the
//! open transactions. A truncation raises the generation.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use klamm_protocol::time::WallMs;

use crate::disk::Patience;
use crate::entry::{Entry, WalkError};
use crate::error::{EpochEnd, ReadError};
use crate::flush::FlushState;
use crate::leader_epochs::LeaderEpochs;
use crate::limits::{Limits, LimitsCell, LogPosition};
use crate::producer::UnstableTransaction;
use crate::quarantine::Quarantined;
use crate::retention::{Bounds, HeadCut, RetentionLimits, SegmentFacts, decide};
use crate::segment::{FileRegion, Segment};

/// How often a reader looks again when limits and segments do not fit; each time
/// something was published in between.
const LOOKS_MAX: usize = 16;

/// A log's segments, oldest first; never empty, the last one is active.
pub struct Segments(Vec<Arc<Segment>>);

/// The published state of one partition's log.
pub struct PartitionView {
    pub(crate) flush: FlushState,
    limits: LimitsCell,
    segments: ArcSwap<Segments>,
    leader_epochs: ArcSwap<LeaderEpochs>,
    unstable: ArcSwap<Vec<UnstableTransaction>>,
}

impl Segments {
    pub(crate) fn new(segments: Vec<Arc<Segment>>) -> Self {
        assert!(!segments.is_empty(), "a log has an active segment");
        assert!(segments.is_sorted_by(|a, b| a.base_offset() < b.base_offset()));
        Self(segments)
    }

    /// Where the segment with `offset` stands; the first one for offsets below all.
    #[must_use]
    pub fn floor(&self, offset: Offset) -> usize {
        self.0.partition_point(|segment| segment.base_offset() <= offset).saturating_sub(1)
    }

    /// The segment that grows.
    #[must_use]
    pub fn active(&self) -> &Arc<Segment> {
        self.0.last().expect("a log has an active segment")
    }
}

impl Deref for Segments {
    type Target = [Arc<Segment>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl PartitionView {
    pub(crate) fn new(flush: FlushState, limits: Limits, segments: Segments, epochs: LeaderEpochs) -> Self {
        Self {
            flush,
            limits: LimitsCell::new(limits),
            segments: ArcSwap::from_pointee(segments),
            leader_epochs: ArcSwap::from_pointee(epochs),
            unstable: ArcSwap::from_pointee(Vec::new()),
        }
    }

    /// The limits now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits.load()
    }

    /// Limits and segments that fit each other.
    #[must_use]
    pub fn load(&self) -> (Limits, Arc<Segments>) {
        let (limits, segments) = self.consistent();
        (limits, Guard::into_inner(segments))
    }

    /// The only way to move a limit. `by` sees the limits and gives new ones, or `None` to
    /// leave them; what it says of `last_stable` is replaced. Returns what was published.
    pub fn advance(&self, by: impl FnOnce(&Limits) -> Option<Limits>) -> Option<Limits> {
        self.limits.update(|current| {
            let mut next = by(current)?;
            next.last_stable = self.last_stable(&next);
            assert!(next.log_start <= next.high_watermark.offset, "{next:?}");
            assert!(next.high_watermark.offset <= next.end.offset, "{next:?}");
            assert!(next.flushed.offset <= next.end.offset, "{next:?}");
            (next != *current).then_some(next)
        })
    }

    /// Raises the watermark to `to`, at most to the end. Never lowers it.
    pub fn raise_high_watermark(&self, to: LogPosition) -> Option<Limits> {
        self.advance(|now| {
            let to = if to.offset > now.end.offset { now.end } else { to };
            (to.offset > now.high_watermark.offset).then_some(Limits { high_watermark: to, ..*now })
        })
    }

    /// The watermark of a single replica that counts what is in the page cache: the end.
    pub fn raise_high_watermark_to_end(&self) -> Option<Limits> {
        self.advance(|now| Some(Limits { high_watermark: now.end, ..*now }))
    }

    /// The watermark of a single replica that counts what is durable: the flushed end.
    pub fn raise_high_watermark_to_flushed(&self) -> Option<Limits> {
        self.advance(|now| {
            (now.flushed.offset > now.high_watermark.offset)
                .then_some(Limits { high_watermark: now.flushed, ..*now })
        })
    }

    /// Rises with every truncation: a deferred job that carries an older one is void.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.limits.load().generation
    }

    /// The bytes from the batch that contains `from` on, within one segment and below
    /// `up_to`: at most `max_bytes`, but the first batch whole if `at_least_one`.
    /// `None` if there is nothing between `from` and `up_to`. A region of 0 bytes says that
    /// the first batch exceeds `max_bytes`. The last batch of a region may be cut.
    pub fn read(
        &self,
        from: Offset,
        up_to: LogPosition,
        max_bytes: u32,
        at_least_one: bool,
    ) -> Result<Option<FileRegion>, ReadError> {
        self.read_as(Patience::Waits, from, up_to, max_bytes, at_least_one)
    }

    /// The same for a reader of any patience.
    ///
    /// # Errors
    /// As [`PartitionView::read`]; for who may not wait also [`ReadError::Io`] with `WouldBlock`
    /// ([`ReadError::is_wait`]), where the index or the batch does not lie in memory.
    pub fn read_as(
        &self,
        patience: Patience,
        from: Offset,
        up_to: LogPosition,
        max_bytes: u32,
        at_least_one: bool,
    ) -> Result<Option<FileRegion>, ReadError> {
        let Some(Found { segment, entry, limit, searched_from }) = self.find(from, up_to, patience)? else {
            return Ok(None);
        };
        let file = Arc::clone(segment.file());
        let handle = file.get().map_err(|source| io_error(&segment, source))?;
        let limit = file.quarantine.behind(entry.position).map_or(limit, |start| start.min(limit));
        Ok(Some({
            let len = (limit - entry.position).min(max_bytes);
            let len_bytes = match entry.size_bytes {
                size if size <= len => len,
                size if at_least_one => size,
                _ => 0,
            };
            FileRegion {
                file,
                handle,
                searched_from,
                position: u64::from(entry.position),
                len_bytes,
                segment_base: segment.base_offset(),
                base_offset: entry.base_offset,
            }
        }))
    }

    /// Where the batch that contains `offset` begins; the end for the end offset.
    pub fn position_of(&self, offset: Offset) -> Result<LogPosition, ReadError> {
        let end = self.limits().end;
        Ok(match self.find(offset, end, Patience::Waits)? {
            Some(Found { segment, entry, .. }) => LogPosition {
                offset: entry.base_offset,
                segment_base: segment.base_offset(),
                position: entry.position,
            },
            None => end,
        })
    }

    /// The epochs of this log.
    #[must_use]
    pub fn leader_epochs(&self) -> Arc<LeaderEpochs> {
        self.leader_epochs.load_full()
    }

    /// The epoch in which `offset` was written.
    #[must_use]
    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.leader_epochs.load().epoch_for_offset(offset)
    }

    /// The newest epoch that wrote to this log.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.leader_epochs.load().latest().map(|entry| entry.leader_epoch)
    }

    /// Where the largest epoch not above `requested` ends (KIP-320).
    #[must_use]
    pub fn end_offset_for_epoch(&self, requested: LeaderEpoch) -> EpochEnd {
        let end = self.limits().end.offset;
        self.leader_epochs.load().end_offset_for(requested, end)
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.load().iter().map(|segment| u64::from(segment.size_bytes())).sum()
    }

    /// What retention takes away now; [`crate::Log::cut_head`] does it. Reads the disk for the age
    /// of segments that nobody asked about before: where it may block.
    ///
    /// # Errors
    /// Some segment's age cannot be read; nothing is decided then.
    pub fn decide_retention(&self, limits: &RetentionLimits, now: WallMs) -> Result<HeadCut, ReadError> {
        let (current, segments) = self.load();
        let bounds = Bounds {
            log_start: current.log_start,
            high_watermark: current.high_watermark.offset,
            end: current.end.offset,
        };
        let facts: Vec<SegmentFacts> = segments
            .iter()
            .take_while(|segment| segment.base_offset() <= current.end.segment_base)
            .map(|segment| SegmentFacts {
                base_offset: segment.base_offset(),
                size_bytes: segment.size_bytes(),
            })
            .collect();
        let cut = decide(limits, &bounds, &facts, now, |index| {
            let segment = &segments[index];
            segment.timestamp_for_age().map_err(|error| io_error(segment, error))
        })?;
        Ok(HeadCut { generation: current.generation, ..cut })
    }

    /// Runs `look` over limits and segments that fit each other; again if it fails and the
    /// segments have changed meanwhile, since their files may have other names then.
    pub(crate) fn look_at<T>(
        &self,
        mut look: impl FnMut(&Limits, &Segments) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let mut looks = 0;
        loop {
            let (limits, segments) = self.consistent();
            looks += 1;
            match look(&limits, &segments) {
                Err(_) if looks < LOOKS_MAX && !Arc::ptr_eq(&segments, &self.segments.load()) => {}
                done => return done,
            }
        }
    }

    /// Whether a transaction of this producer and epoch was open a moment ago.
    #[must_use]
    pub fn has_open_transaction(&self, id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.unstable.load().iter().any(|transaction| {
            transaction.last_offset.is_none()
                && transaction.producer_id == id
                && transaction.producer_epoch == epoch
        })
    }

    /// Transactions without a marker below the watermark, by their first offset.
    #[must_use]
    pub fn unstable_transactions(&self) -> Arc<Vec<UnstableTransaction>> {
        self.unstable.load_full()
    }

    pub(crate) fn publish_segments(&self, segments: Segments) {
        self.segments.store(Arc::new(segments));
    }

    pub(crate) fn publish_epochs(&self, epochs: LeaderEpochs) {
        self.leader_epochs.store(Arc::new(epochs));
    }

    /// Takes effect with the next [`PartitionView::advance`].
    pub(crate) fn publish_unstable(&self, transactions: Vec<UnstableTransaction>) {
        self.unstable.store(Arc::new(transactions));
    }

    pub(crate) fn segments(&self) -> Arc<Segments> {
        self.segments.load_full()
    }

    pub(crate) fn consistent(&self) -> (Limits, Guard<Arc<Segments>>) {
        let mut looks = 0;
        loop {
            let limits = self.limits.load();
            let segments = self.segments.load();
            let base = limits.end.segment_base;
            looks += 1;
            if segments[segments.floor(base)].base_offset() == base || looks == LOOKS_MAX {
                return (limits, segments);
            }
        }
    }

    fn last_stable(&self, limits: &Limits) -> LogPosition {
        let watermark = limits.high_watermark;
        // Ordered by first offset: the first one that is open or whose marker is not yet
        // below the watermark holds the last stable offset back.
        let unstable = self.unstable.load();
        let holding = unstable
            .iter()
            .find(|transaction| transaction.last_offset.is_none_or(|marker| marker >= watermark.offset));
        match holding {
            Some(transaction) if transaction.first.offset < watermark.offset => {
                // Deleted records hold nobody back.
                LogPosition { offset: transaction.first.offset.max(limits.log_start), ..transaction.first }
            }
            _ => watermark,
        }
    }

    fn find(&self, from: Offset, up_to: LogPosition, patience: Patience) -> Result<Option<Found>, ReadError> {
        let mut looks = 0;
        loop {
            let (limits, segments) = self.consistent();
            if from < limits.log_start || from > limits.end.offset {
                return Err(ReadError::OffsetOutOfRange {
                    offset: from,
                    log_start: limits.log_start,
                    end: limits.end.offset,
                });
            }
            // A limit from before a truncation may lie behind what is left.
            let up_to = if up_to.offset > limits.end.offset { limits.end } else { up_to };
            if from >= up_to.offset {
                return Ok(None);
            }
            let found = find_in(&segments, from, up_to, patience);
            match found.and_then(|found| within(found, limits.end.offset)) {
                Ok(Some(found)) if !self.is_current(&found.segment) && looks < LOOKS_MAX => looks += 1,
                Ok(found) => return Ok(found),
                Err((segment, Lost::Quarantined(range))) => {
                    return Err(ReadError::Quarantined { path: segment.file().path().to_owned(), range });
                }
                Err((segment, Lost::Walk(error))) => {
                    looks += 1;
                    if self.is_current(&segment) && limits.generation == self.generation() {
                        return Err(error.into_read_error(segment.file().path()));
                    }
                    if looks == LOOKS_MAX {
                        return Err(ReadError::Truncated { offset: from });
                    }
                }
            }
        }
    }

    /// False once the segment's name may belong to another file: what was opened by that name
    /// meanwhile is not to be believed.
    pub(crate) fn is_current(&self, segment: &Segment) -> bool {
        let segments = self.segments.load();
        let now = segments.get(segments.floor(segment.base_offset()));
        now.is_some_and(|now| Arc::ptr_eq(now.file(), segment.file()))
    }
}

/// How far a segment may be read for a reader that goes up to `up_to`.
pub(crate) fn limit_in(segment: &Segment, up_to: LogPosition) -> u32 {
    match segment.base_offset().cmp(&up_to.segment_base) {
        std::cmp::Ordering::Less => segment.size_bytes(),
        std::cmp::Ordering::Equal if segment.is_cleaned => segment.size_bytes(),
        std::cmp::Ordering::Equal => up_to.position,
        std::cmp::Ordering::Greater => 0,
    }
}

/// The batch that contains an offset.
struct Found {
    segment: Arc<Segment>,
    entry: Entry,
    /// How far the segment may be read.
    limit: u32,
    searched_from: u32,
}

/// Why a batch was not found.
enum Lost {
    Walk(WalkError),
    Quarantined(Quarantined),
}

/// No batch says offsets behind the log's end: nothing covers a base offset.
fn within(found: Option<Found>, end: Offset) -> Result<Option<Found>, (Arc<Segment>, Lost)> {
    let Some(found) = found else { return Ok(None) };
    if found.entry.next_offset() <= end {
        return Ok(Some(found));
    }
    let position = u64::from(found.entry.position);
    let reason = format!("offsets up to {} in a log that ends at {end}", found.entry.next_offset());
    Err((found.segment, Lost::Walk(WalkError::Invalid { position, reason })))
}

fn find_in(
    segments: &Segments,
    from: Offset,
    up_to: LogPosition,
    patience: Patience,
) -> Result<Option<Found>, (Arc<Segment>, Lost)> {
    // Compaction may have emptied the end of a segment: then the next one has the answer.
    for segment in &segments[segments.floor(from)..] {
        let limit = limit_in(segment, up_to);
        if limit == 0 && segment.base_offset() >= up_to.segment_base {
            break;
        }
        let lost = |lost| (Arc::clone(segment), lost);
        if let Some(range) = segment.file().quarantine.at_offset(from) {
            return Err(lost(Lost::Quarantined(range)));
        }
        match segment.search(from, limit, patience) {
            Ok(Some((entry, searched_from))) => {
                return Ok(Some(Found { segment: Arc::clone(segment), entry, limit, searched_from }));
            }
            Ok(None) => {}
            Err(error) => return Err(lost(Lost::Walk(error))),
        }
    }
    Ok(None)
}

pub(crate) fn io_error(segment: &Segment, source: std::io::Error) -> ReadError {
    ReadError::Io { path: segment.file().path().to_owned(), position: 0, source }
}
