//! Which offsets of the part that was mapped are the last of their key: one bit each.
//!
//! It fits a core's own cache where the key map is a miss for each record, and says of a batch that
//! all of it goes before a record is read. Where a log has very many records of each key it ends
//! early; what lies behind its end is for the key map to say.

use std::ops::{Range, RangeInclusive};

use klamm_protocol::ids::Offset;

const WORD_BITS: u64 = u64::BITS as u64;

pub(super) struct LastOffsets {
    offsets: Range<Offset>,
    words: Vec<u64>,
}

impl LastOffsets {
    /// For the offsets from `first` to before `end`, but for at most `offsets_max`; none is a last one yet.
    pub(super) fn new(first: Offset, end: Offset, offsets_max: usize) -> Self {
        let count = usize::try_from(end.0 - first.0).unwrap_or(0).min(offsets_max);
        let words = vec![0; count.div_ceil(WORD_BITS as usize)];
        Self { offsets: first..Offset(first.0 + count as i64), words }
    }

    /// Marks the last record of a key, counted from the first offset. What lies behind the end is left out.
    pub(super) fn insert(&mut self, relative: u64) {
        if let Some(word) = self.words.get_mut((relative / WORD_BITS) as usize) {
            *word |= 1 << (relative % WORD_BITS);
        }
    }

    /// True if it says of every one of these offsets whether it is the last of its key.
    pub(super) fn has_all(&self, offsets: &RangeInclusive<Offset>) -> bool {
        self.offsets.contains(offsets.start()) && self.offsets.contains(offsets.end())
    }

    /// Whether the record at `offset` is the last of its key; `None` where this does not know.
    #[inline]
    pub(super) fn is_last(&self, offset: Offset) -> Option<bool> {
        let relative = self.offsets.contains(&offset).then(|| (offset.0 - self.offsets.start.0) as u64)?;
        Some(self.words[(relative / WORD_BITS) as usize] >> (relative % WORD_BITS) & 1 == 1)
    }

    /// True if none of these offsets, all of which it has, is a last one.
    pub(super) fn has_none_of(&self, offsets: &RangeInclusive<Offset>) -> bool {
        if !self.has_all(offsets) {
            return false;
        }
        let relative = |offset: &Offset| (offset.0 - self.offsets.start.0) as u64;
        let (first, last) = (relative(offsets.start()), relative(offsets.end()));
        let (from, to) = ((first / WORD_BITS) as usize, (last / WORD_BITS) as usize);
        (from..=to).all(|at| {
            let mut word = self.words[at];
            if at == from {
                word &= u64::MAX << (first % WORD_BITS);
            }
            if at == to {
                word &= u64::MAX >> (WORD_BITS - 1 - last % WORD_BITS);
            }
            word == 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn it_is_a_set_with_an_end(
            inserted in proptest::collection::btree_set(0i64..300, 0..20),
            end in 100i64..400,
            offsets_max in 0usize..400,
            ranges in proptest::collection::vec((90i64..410, 0i64..150), 1..20),
        ) {
            let mut last = LastOffsets::new(Offset(100), Offset(end), offsets_max);
            let behind = end.min(100 + offsets_max as i64);
            inserted.iter().for_each(|relative| last.insert(*relative as u64));
            let model: BTreeSet<i64> = inserted.iter().map(|relative| 100 + relative).collect();
            for offset in 90..410 {
                let expected = (100..behind).contains(&offset).then(|| model.contains(&offset));
                prop_assert_eq!(last.is_last(Offset(offset)), expected, "{}", offset);
            }
            for (first, count) in ranges {
                let offsets = Offset(first)..=Offset(first + count);
                let has_all = first >= 100 && first + count < behind;
                prop_assert_eq!(last.has_all(&offsets), has_all);
                let expected = has_all && model.range(first..=first + count).next().is_none();
                prop_assert_eq!(last.has_none_of(&offsets), expected);
            }
        }
    }
}
