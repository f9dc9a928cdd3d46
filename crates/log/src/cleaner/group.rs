//! Which neighbouring segments become one. Pure.
//!
//! As Kafka: as many as fit `segment.bytes` with their batches and `segment.index.bytes`
//! with each index as they are now, and whose offsets span at most 2^31 - 1. Empty segments
//! fit anywhere.

use std::ops::Range;

use klamm_protocol::ids::Offset;

/// What grouping goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub base: Offset,
    pub log_bytes: u64,
    pub index_bytes: u64,
    pub time_index_bytes: u64,
}

/// The groups, as ranges of `sizes`; `end` is the first offset behind all of them.
pub(super) fn group(sizes: &[Size], segment_bytes: u64, index_bytes: u64, end: Offset) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut log, mut index, mut times) = (0, 0, 0);
    for (at, size) in sizes.iter().enumerate() {
        // The last offset is known without a look into the segment only as a bound.
        let last = sizes.get(at + 1).map_or(end, |next| next.base).0 - 1;
        let fits = groups.last().is_some_and(|group| {
            log + size.log_bytes <= segment_bytes
                && index + size.index_bytes <= index_bytes
                && times + size.time_index_bytes <= index_bytes
                && (size.log_bytes == 0 || last - sizes[group.start].base.0 <= i64::from(i32::MAX))
        });
        if fits {
            groups.last_mut().expect("it fits one").end = at + 1;
        } else {
            groups.push(at..at + 1);
            (log, index, times) = (0, 0, 0);
        }
        log += size.log_bytes;
        index += size.index_bytes;
        times += size.time_index_bytes;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(base: i64, log_bytes: u64) -> Size {
        Size { base: Offset(base), log_bytes, index_bytes: 8, time_index_bytes: 12 }
    }

    #[test]
    fn groups_fill_up_to_the_limits() {
        let sizes = [size(0, 60), size(10, 40), size(20, 1), size(30, 99), size(40, 100), size(50, 1)];
        assert_eq!(group(&sizes, 100, 100, Offset(60)), [0..2, 2..4, 4..5, 5..6]);
        assert_eq!(group(&sizes, 1000, 24, Offset(60)), [0..2, 2..4, 4..6], "time indexes fill first");
        let alone = group(&sizes[..1], 10, 1, Offset(60));
        assert_eq!(alone.as_slice(), std::slice::from_ref(&(0..1)), "whatever its size");
        assert!(group(&[], 10, 10, Offset(0)).is_empty());
    }

    #[test]
    fn offsets_of_a_group_fit_its_index() {
        let far = i64::from(i32::MAX);
        let sizes = [size(0, 1), size(10, 1), size(far + 1, 1)];
        assert_eq!(group(&sizes, 100, 100, Offset(far + 2)), [0..2, 2..3]);
        let sizes = [size(0, 1), size(10, 1), size(far + 2, 1)];
        assert_eq!(group(&sizes, 100, 100, Offset(far + 3)), [0..1, 1..3], "a bound, not the offset");
        let sizes = [size(0, 1), size(10, 0), size(far + 2, 0)];
        let all = group(&sizes, 100, 100, Offset(far + 3));
        assert_eq!(all.as_slice(), std::slice::from_ref(&(0..3)), "empty ones need no index");
    }
}
