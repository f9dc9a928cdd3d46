//! When a partition whose disk refuses appends says so, and when it says that this is over.
//!
//! It does not log: it only tells its caller that a line is due.
//!
//! **Invariant:** a line about being over comes only after a complaint, and not before another complaint would
//! have been due: a full disk now and then takes a small batch.

use std::sync::atomic::{AtomicU64, Ordering};

use klamm_protocol::time::MonoMs;

/// A full disk refuses every append of every producer that tries again: one line in this time is enough.
const INTERVAL_MS: u64 = 10_000;

/// What a partition has said about its disk.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// When the next complaint is due; 0 while there is nothing to complain about.
    next_ms: AtomicU64,
}

impl Complaints {
    /// An append was refused: is a line due?
    pub(super) fn refused(&self, now: MonoMs) -> bool {
        let is_due = now.0 >= self.next_ms.load(Ordering::Relaxed);
        if is_due {
            self.next_ms.store(now.plus_ms(INTERVAL_MS).0, Ordering::Relaxed);
        }
        is_due
    }

    /// An append was done: is a line due that says so? The clock is asked only after a complaint.
    pub(super) fn is_over(&self, now: impl FnOnce() -> MonoMs) -> bool {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let is_over = next_ms != 0 && now().0 >= next_ms;
        if is_over {
            self.next_ms.store(0, Ordering::Relaxed);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complains_now_and_then_and_says_once_when_it_is_over() {
        let complaints = Complaints::default();
        assert!(!complaints.is_over(|| unreachable!("nothing was refused: no append asks the clock")));
        assert!(complaints.refused(MonoMs(5)));
        assert!(!complaints.refused(MonoMs(6)), "once is enough");
        assert!(!complaints.is_over(|| MonoMs(7)), "a small batch found room: not over yet");
        assert!(complaints.refused(MonoMs(10_005)));
        assert!(complaints.is_over(|| MonoMs(20_005)));
        assert!(!complaints.is_over(|| MonoMs(40_000)), "it was said");
        assert!(complaints.refused(MonoMs(40_001)), "a new cause, a new line");
    }
}
