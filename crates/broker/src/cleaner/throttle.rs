//! Bounds the cleaners' reading and writing to `log.cleaner.io.max.bytes.per.second`. Pure.
//!
//! All cleaners share one. What is done before its time pushes the next permitted moment back;
//! time in which nothing was done is not saved up.

use klamm_protocol::time::MonoMs;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// When what was done so far may have been done, in milliseconds.
    free_at_ms: f64,
}

impl Throttle {
    /// Notes that `bytes` were read or written; when to go on.
    pub(super) fn note(&mut self, bytes: u64, bytes_per_second: f64, now: MonoMs) -> MonoMs {
        let now_ms = now.0 as f64;
        let took_ms = bytes as f64 * 1000.0 / bytes_per_second.max(1.0);
        self.free_at_ms = self.free_at_ms.max(now_ms) + took_ms;
        // Not worth a pause.
        if self.free_at_ms < now_ms + 1.0 { now } else { MonoMs(self.free_at_ms as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_idle_time_is_lost() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.note(500, 1000.0, MonoMs(0)), MonoMs(500));
        assert_eq!(throttle.note(500, 1000.0, MonoMs(100)), MonoMs(1000), "another cleaner waits behind");
        assert_eq!(throttle.note(1000, 1000.0, MonoMs(9000)), MonoMs(10_000));
        assert_eq!(throttle.note(1 << 40, f64::MAX, MonoMs(20_000)), MonoMs(20_000));
        let mut throttle = Throttle::default();
        let small = (0..1000).map(|_| throttle.note(1, 1000.0, MonoMs(0)).0).max();
        assert_eq!(small, Some(1000), "pieces below a millisecond add up");
    }
}
