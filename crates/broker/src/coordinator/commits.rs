//! Answers that wait until the records before them are committed.
//!
//! The shard holds answers back under its own lock; whoever flushes the partition lets them go, from
//! any thread, without that lock. What it deliberately does not know: the machine.
//!
//! **Invariants:** answers leave in the order of the log's ends they wait for; after a failed append
//! none leaves but as an error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_protocol::ids::Offset;
use tokio::sync::{Notify, oneshot};

use super::Unavailable;
use crate::net::waker::Completion;
use crate::partition::AppendResult;
use crate::partition::acks::AppendOwner;

/// Where an answer goes.
pub(super) type Asker<R> = oneshot::Sender<Result<R, Unavailable>>;

pub(super) struct Commits<R> {
    inner: Mutex<Inner<R>>,
    /// Wakes the shard's task after a failure.
    changed: Arc<Notify>,
}

struct Inner<R> {
    committed: Offset,
    held: VecDeque<(Offset, Asker<R>, R)>,
    has_failed: bool,
}

impl<R: Send> Commits<R> {
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        let inner = Inner { committed: Offset(0), held: VecDeque::new(), has_failed: false };
        Self { inner: Mutex::new(inner), changed }
    }

    /// Begins anew: everything below `end` is in the log and counts.
    pub(super) fn begin(&self, end: Offset) {
        let mut inner = self.locked();
        inner.committed = end;
        inner.has_failed = false;
        inner.held.clear();
    }

    /// Whether everything below `end` counts.
    pub(super) fn is_committed(&self, end: Offset) -> bool {
        let inner = self.locked();
        !inner.has_failed && inner.committed >= end
    }

    /// Sends `reply` once the log is committed up to `end`.
    pub(super) fn hold(&self, end: Offset, asker: Asker<R>, reply: R) {
        let mut inner = self.locked();
        if inner.has_failed {
            let _ = asker.send(Err(Unavailable::Lost));
        } else if inner.committed >= end {
            // Whoever asked may have gone.
            let _ = asker.send(Ok(reply));
        } else {
            inner.held.push_back((end, asker, reply));
        }
    }

    /// What became of an append whose last record should lie before `end`.
    pub(super) fn note(&self, end: Offset, result: &AppendResult) {
        let mut inner = self.locked();
        match result {
            // Somebody else wrote to the partition in between.
            Ok(placed) if placed.last_offset.plus(1) != end => {
                tracing::error!(
                    expected = %end, found = %placed.last_offset.plus(1),
                    "a coordinator's records are not where they should be: it loads them again"
                );
                inner.fail();
            }
            Ok(_) => inner.committed = inner.committed.max(end),
            Err(error) => {
                tracing::warn!(%error, "a coordinator's records were not written: it loads them again");
                inner.fail();
            }
        }
        if inner.has_failed {
            self.changed.notify_one();
        }
    }

    /// As after a failed append.
    pub(super) fn fail(&self) {
        self.locked().fail();
        self.changed.notify_one();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.locked().has_failed
    }

    fn release(&self) {
        let mut inner = self.locked();
        while inner.held.front().is_some_and(|(end, ..)| *end <= inner.committed) {
            if let Some((_, asker, reply)) = inner.held.pop_front() {
                let _ = asker.send(Ok(reply));
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Inner<R>> {
        self.inner.lock().expect("nothing panics in here")
    }
}

impl<R> Inner<R> {
    fn fail(&mut self) {
        self.has_failed = true;
        for (_, asker, _) in self.held.drain(..) {
            let _ = asker.send(Err(Unavailable::Lost));
        }
    }
}

impl<R: Send> AppendOwner for Commits<R> {
    /// The slot is the end that the log has behind the batch.
    fn leave(&self, completion: Completion<AppendResult>) {
        self.note(Offset(completion.slot as i64), &completion.result);
    }

    fn wake(&self) {
        self.release();
    }

    // A coordinator's clients wait for their answers: they are the limit.
    fn add_queued(&self, _bytes: usize) {}

    fn subtract_queued(&self, _bytes: usize) {}
}
