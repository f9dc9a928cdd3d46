//! Which segments a log lets go: those below its start, those beyond its size, those too old.
//!
//! Pure: what is known of the segments goes in, a [`HeadCut`] comes out. Doing it is
//! [`crate::Log::cut_head`]. As in Kafka the oldest go first, and the first that stays keeps all
//! behind it; size counts before age, and the active segment counts too: when every record is
//! beyond a limit it is rolled and goes, so that an idle topic empties.
//!
//! Deliberately absent: `cleanup.policy` (the caller sets no limits where it has no `delete`).
//!
//! Invariants: only what lies wholly below the high watermark goes; an empty active segment
//! stays; a segment whose age nobody knows, or that is of the future, is not too old.

use klamm_protocol::ids::Offset;
use klamm_protocol::time::WallMs;

/// How much a log may keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionLimits {
    /// `retention.bytes`; `None`: without end.
    pub bytes_max: Option<u64>,
    /// `retention.ms`; `None`: for ever.
    pub age_ms_max: Option<i64>,
}

/// What goes from the head of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadCut {
    /// Where the log starts afterwards.
    pub log_start: Offset,
    /// Segments that lie below where the log starts already.
    pub below_start: usize,
    /// Segments beyond `retention.bytes`.
    pub by_size: usize,
    /// Segments beyond `retention.ms`.
    pub by_age: usize,
    /// True if everything goes: the active segment must be rolled first.
    pub rolls_active: bool,
    /// The timestamp of the first segment that stays, if that is in the future and age counts.
    pub future_timestamp: Option<i64>,
    /// Of the view that this was decided for.
    pub(crate) generation: u64,
}

/// A segment as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFacts {
    pub base_offset: Offset,
    pub size_bytes: u32,
}

/// The offsets that bound what may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub end: Offset,
}

impl HeadCut {
    /// How many segments go.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.below_start + self.by_size + self.by_age
    }
}

/// Decides for `segments`, oldest first and the last one active. `largest_timestamp` is asked,
/// in order, only for segments whose age matters; `None` is "not known".
pub(crate) fn decide<E>(
    limits: &RetentionLimits,
    bounds: &Bounds,
    segments: &[SegmentFacts],
    now: WallMs,
    mut largest_timestamp: impl FnMut(usize) -> Result<Option<i64>, E>,
) -> Result<HeadCut, E> {
    let next_base = |index: usize| segments.get(index + 1).map(|next| next.base_offset);
    let may_go = |index: usize| match segments.get(index) {
        None => false,
        Some(segment) => match next_base(index) {
            Some(next) => next <= bounds.high_watermark,
            None => segment.size_bytes > 0 && bounds.end <= bounds.high_watermark,
        },
    };
    let mut cut = HeadCut::default();
    let mut count = 0;
    while may_go(count) && next_base(count).is_some_and(|next| next <= bounds.log_start) {
        count += 1;
    }
    cut.below_start = count;

    let size_bytes: u64 = segments[count..].iter().map(|segment| u64::from(segment.size_bytes)).sum();
    let mut excess_bytes = limits.bytes_max.and_then(|max| size_bytes.checked_sub(max));
    while may_go(count) {
        excess_bytes = excess_bytes.and_then(|excess| excess.checked_sub(segments[count].size_bytes.into()));
        if excess_bytes.is_none() {
            break;
        }
        count += 1;
    }
    cut.by_size = count - cut.below_start;

    while let Some(age_ms_max) = limits.age_ms_max
        && may_go(count)
        && let Some(timestamp) = largest_timestamp(count)?
    {
        cut.future_timestamp = (timestamp > now.0).then_some(timestamp);
        if now.0.saturating_sub(timestamp) <= age_ms_max {
            break;
        }
        count += 1;
    }
    cut.by_age = count - cut.below_start - cut.by_size;

    cut.rolls_active = count > 0 && count == segments.len();
    let first_kept = segments.get(count).map_or(bounds.end, |segment| segment.base_offset);
    cut.log_start = if count > 0 { first_kept.max(bounds.log_start) } else { bounds.log_start };
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    struct Drawn {
        offsets: u8,
        size_bytes: u32,
        timestamp: Option<i64>,
    }

    fn drawn() -> impl Strategy<Value = Drawn> {
        let timestamp = proptest::option::weighted(0.9, -100i64..1100);
        (1u8..5, prop_oneof![1 => Just(0u32), 6 => 1u32..50], timestamp)
            .prop_map(|(offsets, size_bytes, timestamp)| Drawn { offsets, size_bytes, timestamp })
    }

    /// Kafka's passes one after the other over a list that really shrinks.
    struct Naive {
        segments: Vec<(i64, Drawn)>,
        log_start: i64,
        high_watermark: i64,
        end: i64,
        removed: usize,
        rolled: bool,
    }

    impl Naive {
        fn pass(&mut self, goes: impl Fn(&Self, &(i64, Drawn), Option<i64>) -> bool) -> usize {
            let mut count = 0;
            while let Some(first) = self.segments.first() {
                let next = self.segments.get(1).map(|(base, _)| *base);
                let is_empty_active = next.is_none() && first.1.size_bytes == 0;
                let is_below = next.unwrap_or(self.end) <= self.high_watermark;
                if !is_below || is_empty_active || !goes(self, first, next) {
                    break;
                }
                if next.is_none() {
                    let empty = Drawn { offsets: 0, size_bytes: 0, timestamp: None };
                    self.segments.push((self.end, empty));
                    self.rolled = true;
                }
                self.segments.remove(0);
                self.log_start = self.log_start.max(self.segments[0].0);
                self.removed += 1;
                count += 1;
            }
            count
        }
    }

    proptest! {
        #[test]
        fn what_goes_is_what_kafkas_passes_take(
            drawn in proptest::collection::vec(drawn(), 1..8),
            start in 0i64..20,
            watermark_behind in 0i64..6,
            bytes_max in proptest::option::of(0u64..200),
            age_ms_max in proptest::option::of(0i64..1000),
        ) {
            let now = 1000;
            let mut end = 10;
            let segments: Vec<(i64, Drawn)> = drawn.iter().enumerate().map(|(index, segment)| {
                let base = end;
                let is_empty_active = index + 1 == drawn.len() && segment.size_bytes == 0;
                end += if is_empty_active { 0 } else { i64::from(segment.offsets) };
                (base, *segment)
            }).collect();
            let high_watermark = (end - watermark_behind).max(10);
            let log_start = (10 + start).min(high_watermark);
            let facts: Vec<SegmentFacts> = segments.iter()
                .map(|(base, s)| SegmentFacts { base_offset: Offset(*base), size_bytes: s.size_bytes })
                .collect();
            let bounds = Bounds {
                log_start: Offset(log_start),
                high_watermark: Offset(high_watermark),
                end: Offset(end),
            };
            let limits = RetentionLimits { bytes_max, age_ms_max };
            let lookup = |index: usize| Ok::<_, ()>(segments[index].1.timestamp);
            let cut = decide(&limits, &bounds, &facts, WallMs(now), lookup).unwrap();

            let mut naive =
                Naive { segments: segments.clone(), log_start, high_watermark, end, removed: 0, rolled: false };
            let below_start = naive.pass(|log, _, next| next.is_some_and(|next| next <= log.log_start));
            let by_size = naive.pass(|log, (_, first), _| {
                let size: u64 = log.segments.iter().map(|(_, s)| u64::from(s.size_bytes)).sum();
                bytes_max.is_some_and(|max| size >= max + u64::from(first.size_bytes))
            });
            let by_age = naive.pass(|_, (_, first), _| {
                age_ms_max.is_some_and(|max| first.timestamp.is_some_and(|at| now - at > max))
            });
            prop_assert_eq!((cut.below_start, cut.by_size, cut.by_age), (below_start, by_size, by_age));
            prop_assert_eq!(cut.segment_count(), naive.removed);
            prop_assert_eq!(cut.log_start.0, naive.log_start);
            prop_assert_eq!(cut.rolls_active, naive.rolled);
            prop_assert!(cut.log_start <= bounds.high_watermark);
        }
    }

    fn cut(limits: RetentionLimits, segments: &[(i64, u32, i64)], end: i64) -> HeadCut {
        let facts: Vec<_> = segments
            .iter()
            .map(|(base, size_bytes, _)| SegmentFacts { base_offset: Offset(*base), size_bytes: *size_bytes })
            .collect();
        let bounds = Bounds { log_start: Offset(0), high_watermark: Offset(end), end: Offset(end) };
        let lookup = |index: usize| Ok::<_, ()>(Some(segments[index].2));
        decide(&limits, &bounds, &facts, WallMs(1000), lookup).unwrap()
    }

    fn by_age(age_ms_max: i64) -> RetentionLimits {
        RetentionLimits { age_ms_max: Some(age_ms_max), ..RetentionLimits::default() }
    }

    #[test]
    fn exactly_as_old_as_allowed_stays_and_the_future_is_told() {
        assert_eq!(cut(by_age(100), &[(0, 9, 900), (5, 9, 1000)], 9).segment_count(), 0);
        let one = cut(by_age(99), &[(0, 9, 900), (5, 9, 1001)], 9);
        assert_eq!((one.by_age, one.log_start, one.future_timestamp), (1, Offset(5), Some(1001)));
        assert!(cut(by_age(0), &[(0, 9, i64::MAX)], 9).future_timestamp.is_some());
        assert_eq!(cut(by_age(0), &[(0, 9, i64::MIN)], 9).segment_count(), 1);
    }

    #[test]
    fn a_segment_goes_by_size_only_if_enough_is_left_without_it() {
        let by_size = |max| RetentionLimits { bytes_max: Some(max), ..RetentionLimits::default() };
        let segments = [(0, 10, 0), (5, 10, 0), (9, 5, 0)];
        assert_eq!(cut(by_size(16), &segments, 12).by_size, 0);
        assert_eq!(cut(by_size(15), &segments, 12).by_size, 1);
        let all = cut(by_size(0), &segments, 12);
        assert_eq!((all.by_size, all.rolls_active, all.log_start), (3, true, Offset(12)));
    }
}
