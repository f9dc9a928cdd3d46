//! A list of numbers that one thread appends to while others read it, without a lock.
//!
//! Invariant: what lies below [`AppendOnly::len`] never changes; nothing is removed. An empty
//! list has no memory of its own: 20,000 partitions have 60,000 of them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Chunk `k` holds `FIRST_CHUNK << 2k` numbers, so 12 chunks hold one for every batch that
/// fits the largest segment.
const FIRST_CHUNK: usize = 16;
const CHUNKS: usize = 12;

type Chunk = OnceLock<Box<[AtomicU64]>>;

#[derive(Default)]
pub(crate) struct AppendOnly {
    len: AtomicUsize,
    chunks: OnceLock<Box<[Chunk; CHUNKS]>>,
}

impl AppendOnly {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Only ever called by one thread at a time: the log's owner.
    pub(crate) fn push(&self, value: u64) {
        let len = self.len.load(Ordering::Relaxed);
        let (chunk, index) = place(len);
        let numbers = self.chunks.get_or_init(Box::default)[chunk]
            .get_or_init(|| (0..FIRST_CHUNK << (2 * chunk)).map(|_| AtomicU64::new(0)).collect());
        numbers[index].store(value, Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Release);
    }

    /// The number at `index`, which the caller has seen to be below `len`.
    pub(crate) fn get(&self, index: usize) -> u64 {
        let (chunk, index) = place(index);
        let chunks = self.chunks.get().expect("a list with a length has chunks");
        let numbers = chunks[chunk].get().expect("an index below len has its chunk");
        numbers[index].load(Ordering::Relaxed)
    }

    /// How many of the first `len` numbers, which are sorted by it, satisfy `is_before`.
    pub(crate) fn partition_point(&self, len: usize, mut is_before: impl FnMut(u64) -> bool) -> usize {
        let (mut low, mut high) = (0, len);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_before(self.get(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }
}

fn place(index: usize) -> (usize, usize) {
    // The chunks before chunk k hold FIRST_CHUNK * (4^k - 1) / 3 numbers.
    let chunk = (3 * index / FIRST_CHUNK + 1).ilog2() as usize / 2;
    (chunk, index - FIRST_CHUNK * ((1 << (2 * chunk)) - 1) / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_are_found() {
        let list = AppendOnly::new();
        for n in 0..6000u64 {
            list.push(n * 2);
            assert_eq!(list.len() as u64, n + 1);
        }
        for n in 0..6000 {
            assert_eq!(list.get(n), n as u64 * 2);
            assert_eq!(list.partition_point(6000, |v| v < n as u64 * 2), n);
        }
        assert_eq!(list.partition_point(10, |_| true), 10);
    }
}
