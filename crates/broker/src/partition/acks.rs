//! Answers to producers that wait until what they wrote is durable.
//!
//! Who appended parks its answer and looks again; who flushed publishes first and then takes
//! out what is due, so that no answer stays behind. What it deliberately does not know: how
//! or when a flush happens.
//!
//! **Invariant:** every parked answer leaves exactly once: due, or with an error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_log::BatchPlaced;
use klamm_protocol::ids::Offset;

use super::{AppendResult, Ticket};
use crate::handlers::produce::ProduceWaker;
use crate::net::waker::Completion;

/// Who appends: a connection, or a coordinator. Gets the answers that come later, from any thread.
pub(crate) trait AppendOwner: Send + Sync {
    /// Leaves an answer; [`AppendOwner::wake`] follows.
    fn leave(&self, completion: Completion<AppendResult>);
    /// Answers were left.
    fn wake(&self);
    /// So many record bytes wait behind an appender.
    fn add_queued(&self, bytes: usize);
    /// They are written; a wake follows.
    fn subtract_queued(&self, bytes: usize);
}

impl AppendOwner for ProduceWaker {
    fn leave(&self, completion: Completion<AppendResult>) {
        ProduceWaker::leave(self, completion);
    }

    fn wake(&self) {
        ProduceWaker::wake(self);
    }

    fn add_queued(&self, bytes: usize) {
        ProduceWaker::add_queued(self, bytes);
    }

    fn subtract_queued(&self, bytes: usize) {
        ProduceWaker::subtract_queued(self, bytes);
    }
}

/// An answer that waits.
pub(crate) struct ParkedAck {
    pub(crate) owner: Arc<dyn AppendOwner>,
    pub(crate) ticket: Ticket,
    pub(crate) placed: BatchPlaced,
}

/// The answers that wait on one partition.
#[derive(Default)]
pub(crate) struct ParkedAcks {
    queue: Mutex<VecDeque<ParkedAck>>,
}

impl ParkedAcks {
    /// Whoever parks looks at the limits once more afterwards.
    pub(crate) fn park(&self, ack: ParkedAck) {
        self.locked().push_back(ack);
    }

    /// Answers everything below `durable`. Always by way of the lock: who publishes and then looks
    /// for answers, and who parks and then looks at the limits, must not miss each other.
    pub(crate) fn release(&self, durable: Offset) {
        let mut due = Vec::new();
        {
            let mut queue = self.locked();
            if queue.is_empty() {
                return;
            }
            // In the order of offsets but for duplicates, which refer to earlier batches.
            while queue.front().is_some_and(|ack| ack.placed.last_offset < durable) {
                due.extend(queue.pop_front());
            }
            if queue.iter().any(|ack| ack.placed.is_duplicate) {
                let (now, later): (Vec<_>, Vec<_>) =
                    queue.drain(..).partition(|ack| ack.placed.last_offset < durable);
                due.extend(now);
                queue.extend(later);
            }
        }
        answer(due, |ack| Ok(ack.placed));
    }

    /// Answers everything with a failure.
    pub(crate) fn fail(&self, result: &AppendResult) {
        let all: Vec<ParkedAck> = self.locked().drain(..).collect();
        answer(all, |_| result.clone());
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<ParkedAck>> {
        self.queue.lock().expect("nothing panics in here")
    }
}

/// A connection's answers lie together: one wake for all of them.
fn answer(acks: Vec<ParkedAck>, result: impl Fn(&ParkedAck) -> AppendResult) {
    let mut rest = acks.into_iter().peekable();
    while let Some(ack) = rest.next() {
        let Ticket { slot, place, .. } = ack.ticket;
        ack.owner.leave(Completion { slot, place, result: result(&ack) });
        if rest.peek().is_none_or(|next| !Arc::ptr_eq(&next.owner, &ack.owner)) {
            ack.owner.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::AppendFailure;

    fn ack(waker: &Arc<ProduceWaker>, slot: u64, last_offset: i64, is_duplicate: bool) -> ParkedAck {
        let placed = BatchPlaced {
            base_offset: Offset(last_offset),
            last_offset: Offset(last_offset),
            log_append_time_ms: -1,
            log_start_offset: Offset(0),
            is_duplicate,
            bytes: 0,
        };
        ParkedAck {
            owner: waker.clone(),
            ticket: Ticket { slot, place: (0, 0), waits_for_commit: true },
            placed,
        }
    }

    fn slots(waker: &ProduceWaker) -> Vec<(u64, bool)> {
        waker.take().into_iter().map(|done| (done.slot, done.result.is_ok())).collect()
    }

    #[test]
    fn answers_leave_once_they_are_durable_duplicates_too() {
        let (acks, waker) = (ParkedAcks::default(), Arc::<ProduceWaker>::default());
        for (slot, last_offset, is_duplicate) in [(1, 9, false), (2, 19, false), (3, 4, true), (4, 9, true)] {
            acks.park(ack(&waker, slot, last_offset, is_duplicate));
        }
        acks.release(Offset(5));
        assert_eq!(slots(&waker), [(3, true)]);
        acks.release(Offset(19));
        assert_eq!(slots(&waker), [(1, true), (4, true)]);
        assert!(!acks.locked().is_empty());
        acks.release(Offset(20));
        assert_eq!(slots(&waker), [(2, true)]);
        assert!(acks.locked().is_empty());
    }

    #[test]
    fn a_failure_answers_everything() {
        let (acks, waker) = (ParkedAcks::default(), Arc::<ProduceWaker>::default());
        acks.park(ack(&waker, 1, 0, false));
        acks.park(ack(&waker, 2, 1, false));
        acks.fail(&Err(AppendFailure::Closed));
        assert_eq!(slots(&waker), [(1, false), (2, false)]);
        acks.release(Offset(100));
        assert!(slots(&waker).is_empty());
    }
}
