//! The order of a connection's answers: one slot a request, answered front to back.
//!
//! **Invariant:** a response leaves only when every earlier slot has left.

use std::collections::VecDeque;

/// Requests that one connection may have under way (Kafka's clients use 5; librdkafka up to 1,000,000
/// when asked, and then waits).
pub(crate) const SLOTS_MAX: usize = 128;

/// A slot's state: parked work `P`, or a response `R`.
#[derive(Debug)]
enum Slot<P, R> {
    Parked(P),
    Ready(R),
}

/// The slots of one connection.
#[derive(Debug)]
pub(crate) struct Slots<P, R> {
    first: u64,
    queue: VecDeque<Slot<P, R>>,
}

impl<P, R> Default for Slots<P, R> {
    fn default() -> Self {
        Self { first: 0, queue: VecDeque::new() }
    }
}

impl<P, R> Slots<P, R> {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= SLOTS_MAX
    }

    /// The number that the next slot will have.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    pub(crate) fn push_parked(&mut self, work: P) -> u64 {
        let number = self.next();
        self.queue.push_back(Slot::Parked(work));
        number
    }

    /// The parked work of a slot; `None` once it was answered.
    pub(crate) fn parked(&mut self, number: u64) -> Option<&mut P> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        match self.queue.get_mut(index)? {
            Slot::Parked(work) => Some(work),
            Slot::Ready(_) => None,
        }
    }

    /// Answers a parked slot.
    pub(crate) fn answer(&mut self, number: u64, with: impl FnOnce(P) -> R) {
        let Some(index) = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else {
            return;
        };
        match self.queue.remove(index) {
            Some(Slot::Parked(work)) => self.queue.insert(index, Slot::Ready(with(work))),
            Some(ready) => self.queue.insert(index, ready),
            None => {}
        }
    }

    /// The response at the front, if it is ready.
    pub(crate) fn pop_ready(&mut self) -> Option<R> {
        match self.queue.front()? {
            Slot::Parked(_) => None,
            Slot::Ready(_) => {
                self.first += 1;
                match self.queue.pop_front()? {
                    Slot::Ready(response) => Some(response),
                    Slot::Parked(_) => None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_in_request_order() {
        let mut slots = Slots::<&str, String>::default();
        let first = slots.push_parked("a");
        let second = slots.push_parked("b");
        let third = slots.push_parked("c");
        assert_eq!(slots.pop_ready(), None);
        slots.answer(third, |work| work.to_uppercase());
        slots.answer(second, |work| work.to_owned());
        assert_eq!(slots.pop_ready(), None);
        slots.answer(first, |work| work.to_uppercase());
        let order: Vec<_> = std::iter::from_fn(|| slots.pop_ready()).collect();
        assert_eq!(order, ["A", "b", "C"]);
        assert_eq!(slots.next(), 3);
        slots.answer(first, |_| unreachable!("it has left"));
    }
}
