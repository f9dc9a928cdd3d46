//! Which parts of a segment's file were seen to be intact, in units of 64 KiB.
//!
//! What this process wrote needs no look: units at or above `own_from` count as checked
//! without a bit. Below it a unit is checked once its bit is set. Whoever finds a range cold
//! takes its units back: what comes from the disk again may have changed there.
//!
//! Invariants: a segment that nobody read holds no bits; bits come in chunks of 512 bytes,
//! one for 256 MiB of the file. Nothing here waits or locks; a unit that is taken back while
//! somebody else sets it may count as checked, so who saw it cold checks it whatever its bit says.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A unit's size: small enough that a look at a few batches checks it, large enough that a
/// segment of 1 GiB needs 2 KiB of bits.
pub(crate) const UNIT_BYTES: u32 = 64 << 10;
const CHUNK_WORDS: usize = 64;
/// Units of a file of 4 GiB fit 16 chunks.
const CHUNKS: usize = 16;
const CHUNK_UNITS: u32 = (CHUNK_WORDS * 64) as u32;

type Chunk = OnceLock<Box<[AtomicU64; CHUNK_WORDS]>>;

/// The units of one file.
pub(crate) struct CheckedUnits {
    /// The first unit that holds nothing but this process's own appends.
    own_from: AtomicU32,
    chunks: OnceLock<Box<[Chunk; CHUNKS]>>,
}

/// The units that `start..end` touches.
pub(crate) fn units_of(start: u32, end: u32) -> std::ops::Range<u32> {
    start / UNIT_BYTES..end.div_ceil(UNIT_BYTES)
}

impl CheckedUnits {
    /// Of a file whose first `size_bytes` were there before this process.
    pub(crate) fn of_file_with(size_bytes: u32) -> Self {
        Self { own_from: AtomicU32::new(size_bytes.div_ceil(UNIT_BYTES)), chunks: OnceLock::new() }
    }

    /// Of a file that this process did not write.
    pub(crate) fn of_foreign() -> Self {
        Self { own_from: AtomicU32::new(u32::MAX), chunks: OnceLock::new() }
    }

    /// True if everything between two positions may be served as it is.
    pub(crate) fn covers(&self, start: u32, end: u32) -> bool {
        start >= end || units_of(start, end).all(|unit| self.has(unit))
    }

    pub(crate) fn has(&self, unit: u32) -> bool {
        unit >= self.own_from.load(Ordering::Acquire)
            || self.word(unit).is_some_and(|word| word.load(Ordering::Acquire) & bit(unit) != 0)
    }

    /// These units were looked at, every batch that touches them.
    pub(crate) fn set(&self, units: std::ops::Range<u32>) {
        let own_from = self.own_from.load(Ordering::Acquire);
        for unit in units.start..units.end.min(own_from) {
            let chunks = self.chunks.get_or_init(Box::default);
            let chunk = chunks[(unit / CHUNK_UNITS) as usize]
                .get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
            chunk[(unit % CHUNK_UNITS / 64) as usize].fetch_or(bit(unit), Ordering::AcqRel);
        }
    }

    /// These units lay cold: what they hold now comes from the disk.
    pub(crate) fn clear(&self, units: std::ops::Range<u32>) {
        let own_from = self.own_from.load(Ordering::Acquire);
        if units.end > own_from {
            // What was appended below stays checked, and from now on needs its bits.
            self.set_below(own_from..units.start);
            self.own_from.fetch_max(units.end, Ordering::AcqRel);
        }
        for unit in units {
            if let Some(word) = self.word(unit) {
                word.fetch_and(!bit(unit), Ordering::AcqRel);
            }
        }
    }

    fn set_below(&self, units: std::ops::Range<u32>) {
        if units.is_empty() {
            return;
        }
        // `set` leaves out what lies above `own_from`; these units are about to lie below.
        self.own_from.fetch_max(units.end, Ordering::AcqRel);
        self.set(units);
    }

    fn word(&self, unit: u32) -> Option<&AtomicU64> {
        let chunk = self.chunks.get()?.get((unit / CHUNK_UNITS) as usize)?.get()?;
        Some(&chunk[(unit % CHUNK_UNITS / 64) as usize])
    }
}

fn bit(unit: u32) -> u64 {
    1 << (unit % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const U: u32 = UNIT_BYTES;

    #[test]
    fn own_appends_count_and_what_was_there_before_does_not() {
        let units = CheckedUnits::of_file_with(U + 1);
        assert!(!units.covers(0, 1) && !units.covers(U, U + 5) && !units.covers(U, 3 * U));
        assert!(units.covers(2 * U, u32::MAX) && units.covers(7, 7));
        assert!(units.chunks.get().is_none(), "no bits before somebody reads");
        units.set(0..2);
        assert!(units.covers(0, u32::MAX));
        let foreign = CheckedUnits::of_foreign();
        assert!(!foreign.covers(u32::MAX - 1, u32::MAX));
    }

    #[test]
    fn a_cold_range_is_taken_back_and_nothing_else() {
        let units = CheckedUnits::of_file_with(0);
        units.clear(units_of(3 * U + 1, 5 * U));
        assert!(units.covers(0, 3 * U) && units.covers(5 * U, u32::MAX));
        assert!(!units.has(3) && !units.has(4));
        units.set(3..5);
        assert!(units.covers(0, u32::MAX));
        units.clear(0..1);
        assert!(!units.has(0) && units.has(1));
    }

    proptest! {
        #[test]
        fn it_is_a_plain_set(
            own_from in 0u32..5000,
            steps in proptest::collection::vec((any::<bool>(), 0u32..5000, 0u32..40), 0..40),
        ) {
            let units = CheckedUnits::of_file_with(own_from * U);
            let mut naive: Vec<bool> = (0..5100).map(|unit| unit >= own_from).collect();
            for (is_set, first, count) in steps {
                if is_set { units.set(first..first + count) } else { units.clear(first..first + count) }
                naive[first as usize..(first + count) as usize].fill(is_set);
            }
            for (unit, expected) in naive.iter().enumerate() {
                prop_assert_eq!(units.has(unit as u32), *expected, "unit {}", unit);
            }
        }
    }
}
