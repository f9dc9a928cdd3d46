//! The timers of one shard: one deadline a key, the earliest first.

use std::collections::{BTreeMap, BTreeSet};

use klamm_cluster::machine::TimerOp;
use klamm_protocol::time::MonoMs;

/// Invariant: both sides hold the same pairs.
pub(super) struct Timers<T> {
    deadlines: BTreeMap<T, MonoMs>,
    queue: BTreeSet<(MonoMs, T)>,
}

impl<T: Ord + Clone> Timers<T> {
    pub(super) fn new() -> Self {
        Self { deadlines: BTreeMap::new(), queue: BTreeSet::new() }
    }

    pub(super) fn change(&mut self, op: TimerOp<T>) {
        match op {
            TimerOp::Set(timer, at) => {
                if let Some(before) = self.deadlines.insert(timer.clone(), at) {
                    self.queue.remove(&(before, timer.clone()));
                }
                self.queue.insert((at, timer));
            }
            TimerOp::Cancel(timer) => {
                if let Some(before) = self.deadlines.remove(&timer) {
                    self.queue.remove(&(before, timer));
                }
            }
        }
    }

    /// When the first one fires.
    pub(super) fn next(&self) -> Option<MonoMs> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub(super) fn take_due(&mut self, now: MonoMs) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_once() {
        let mut timers = Timers::new();
        timers.change(TimerOp::Set("b", MonoMs(20)));
        timers.change(TimerOp::Set("a", MonoMs(10)));
        timers.change(TimerOp::Set("c", MonoMs(5)));
        timers.change(TimerOp::Set("a", MonoMs(30)));
        timers.change(TimerOp::Cancel("c"));
        assert_eq!(timers.next(), Some(MonoMs(20)));
        assert_eq!(timers.take_due(MonoMs(19)), None);
        assert_eq!(timers.take_due(MonoMs(40)), Some("b"));
        assert_eq!(timers.take_due(MonoMs(40)), Some("a"));
        assert_eq!((timers.take_due(MonoMs(40)), timers.next()), (None, None));
    }
}
