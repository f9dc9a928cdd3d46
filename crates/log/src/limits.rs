//! Positions in a log, and the five limits that readers go by.
//!
//! [`LimitsCell`] publishes them without a lock for readers: the writer holds a mutex and
//! a sequence number that is odd while it writes; a reader that saw it change looks again.
//! Invariants: `log_start <= high_watermark <= end`, `last_stable <= high_watermark` and
//! `flushed <= end`, by offset; every position but `log_start` lies on a batch's border.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use klamm_protocol::ids::Offset;

/// Nothing beyond it is taken for an offset, so that counting on from one never overflows. Far more
/// records than anybody writes.
pub(crate) const OFFSET_MAX: Offset = Offset(1 << 62);

/// Where an offset lies: in which segment's file, and how many bytes into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The offset of the first record at or behind this place.
    pub offset: Offset,
    /// Base offset of the segment.
    pub segment_base: Offset,
    /// Bytes into the segment's file.
    pub position: u32,
}

/// How far the log goes, for whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The first offset that may be read.
    pub log_start: Offset,
    /// Behind the last batch (Kafka's log end offset).
    pub end: LogPosition,
    /// Up to here the bytes are durable.
    pub flushed: LogPosition,
    /// Up to here clients may read.
    pub high_watermark: LogPosition,
    /// Up to here clients that read only committed transactions may read.
    pub last_stable: LogPosition,
    /// Rises with every truncation: what was prepared by limits of an older one is void.
    pub generation: u64,
}

const WORDS: usize = 14;
/// Looks at a cell that is being written before the reader waits for the writer's mutex.
const SPINS_MAX: usize = 64;

pub(crate) struct LimitsCell {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
    writer: Mutex<Limits>,
}

impl LimitsCell {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            words: to_words(&limits).map(AtomicU64::new),
            writer: Mutex::new(limits),
        }
    }

    pub(crate) fn load(&self) -> Limits {
        for _ in 0..SPINS_MAX {
            let before = self.sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                let words = std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    return from_words(&words);
                }
            }
            std::hint::spin_loop();
        }
        // The writer lost its processor in between: wait for it rather than burn ours.
        *self.writer.lock().expect("an update does not panic")
    }

    /// The only way to change: `by` sees what is there and says what shall be, or `None`.
    pub(crate) fn update(&self, by: impl FnOnce(&Limits) -> Option<Limits>) -> Option<Limits> {
        let mut current = self.writer.lock().expect("an update does not panic");
        let next = by(&current)?;
        *current = next;
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(to_words(&next)) {
            word.store(value, Ordering::Relaxed);
        }
        self.sequence.store(sequence + 2, Ordering::Release);
        Some(next)
    }
}

fn to_words(limits: &Limits) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    words[0] = limits.log_start.0 as u64;
    let places = [limits.end, limits.flushed, limits.high_watermark, limits.last_stable];
    for (place, words) in places.iter().zip(words[1..].chunks_exact_mut(3)) {
        words[0] = place.offset.0 as u64;
        words[1] = place.segment_base.0 as u64;
        words[2] = u64::from(place.position);
    }
    words[13] = limits.generation;
    words
}

fn from_words(words: &[u64; WORDS]) -> Limits {
    let place = |at: usize| LogPosition {
        offset: Offset(words[at] as i64),
        segment_base: Offset(words[at + 1] as i64),
        position: words[at + 2] as u32,
    };
    Limits {
        log_start: Offset(words[0] as i64),
        end: place(1),
        flushed: place(4),
        high_watermark: place(7),
        last_stable: place(10),
        generation: words[13],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(value: i64) -> Limits {
        let place =
            LogPosition { offset: Offset(value), segment_base: Offset(value), position: value as u32 };
        Limits {
            log_start: Offset(value),
            end: place,
            flushed: place,
            high_watermark: place,
            last_stable: place,
            generation: value as u64,
        }
    }

    #[test]
    fn every_field_survives() {
        let place = |n: i64| LogPosition { offset: Offset(n), segment_base: Offset(-n), position: n as u32 };
        let limits = Limits {
            log_start: Offset(-1),
            end: place(2),
            flushed: place(3),
            high_watermark: place(i64::from(u32::MAX)),
            last_stable: place(5),
            generation: 14,
        };
        assert_eq!(LimitsCell::new(limits).load(), limits);
    }

    #[test]
    fn a_reader_never_sees_two_updates_mixed() {
        let cell = LimitsCell::new(uniform(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        cell.update(|now| Some(uniform(now.log_start.0 + 1)));
                    }
                });
            }
            let mut last = 0;
            while last < 40_000 {
                let seen = cell.load();
                assert_eq!(seen, uniform(seen.log_start.0));
                assert!(seen.log_start.0 >= last, "went back");
                last = seen.log_start.0;
            }
        });
    }
}
