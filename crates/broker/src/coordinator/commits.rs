//! Answers and effects that wait until the records before them are committed.
//!
//! The shard holds answers back under its own lock; whoever flushes the partition lets them go, from
//! any thread, without that lock. What it deliberately does not know: the machine.
//!
//! **Invariants:** answers and effects leave in the order of the log's ends they wait for; after a
//! failed append no answer leaves but as an error, and no effect at all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_coordinator::contract::Coordinator;
use klamm_protocol::ids::Offset;
use tokio::sync::{Notify, oneshot};

use super::Unavailable;
use super::effects::Effects;
use crate::net::waker::Completion;
use crate::partition::AppendResult;
use crate::partition::acks::AppendOwner;

/// Where an answer goes.
pub(super) type Asker<R> = oneshot::Sender<Result<R, Unavailable>>;

pub(super) struct Commits<C: Coordinator> {
    inner: Mutex<Inner<C>>,
    /// Wakes the shard's task after a failure.
    changed: Arc<Notify>,
    /// To who performs effects.
    effects: Arc<Effects<C::Effect>>,
}

struct Inner<C: Coordinator> {
    committed: Offset,
    held: VecDeque<(Offset, Held<C>)>,
    has_failed: bool,
    /// Something was committed since the last load.
    has_appended: bool,
}

/// What waits.
enum Held<C: Coordinator> {
    Answer(Asker<C::Reply>, C::Reply),
    Effect(C::Effect),
}

impl<C: Coordinator> Commits<C> {
    pub(super) fn new(changed: Arc<Notify>, effects: Arc<Effects<C::Effect>>) -> Self {
        let inner =
            Inner { committed: Offset(0), held: VecDeque::new(), has_failed: false, has_appended: false };
        Self { inner: Mutex::new(inner), changed, effects }
    }

    /// Begins anew: everything below `end` is in the log and counts.
    pub(super) fn begin(&self, end: Offset) {
        let mut inner = self.locked();
        inner.committed = end;
        inner.has_failed = false;
        inner.has_appended = false;
        inner.held.clear();
    }

    /// Whether everything below `end` counts, and nothing that waited for it is still on its way.
    pub(super) fn is_committed(&self, end: Offset) -> bool {
        let inner = self.locked();
        inner.is_committed(end)
    }

    /// Sends `reply` once the log is committed up to `end`.
    pub(super) fn hold(&self, end: Offset, asker: Asker<C::Reply>, reply: C::Reply) {
        self.hold_any(end, Held::Answer(asker, reply));
    }

    /// Lets `effect` be performed once the log is committed up to `end`.
    pub(super) fn hold_effect(&self, end: Offset, effect: C::Effect) {
        self.hold_any(end, Held::Effect(effect));
    }

    fn hold_any(&self, end: Offset, held: Held<C>) {
        let mut inner = self.locked();
        if inner.has_failed {
            held.drop_unheard();
        } else if inner.is_committed(end) {
            self.let_go(held);
        } else {
            inner.held.push_back((end, held));
        }
    }

    fn let_go(&self, held: Held<C>) {
        match held {
            // Whoever asked may have gone.
            Held::Answer(asker, reply) => drop(asker.send(Ok(reply))),
            Held::Effect(effect) => self.effects.push(effect),
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
            Ok(_) => {
                inner.committed = inner.committed.max(end);
                inner.has_appended = true;
            }
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

    pub(super) fn has_appended(&self) -> bool {
        self.locked().has_appended
    }

    fn release(&self) {
        let mut inner = self.locked();
        while inner.held.front().is_some_and(|(end, _)| *end <= inner.committed) {
            if let Some((_, held)) = inner.held.pop_front() {
                self.let_go(held);
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Inner<C>> {
        self.inner.lock().expect("nothing panics in here")
    }
}

impl<C: Coordinator> Held<C> {
    fn drop_unheard(self) {
        if let Self::Answer(asker, _) = self {
            let _ = asker.send(Err(Unavailable::Lost));
        }
    }
}

impl<C: Coordinator> Inner<C> {
    /// Between a commit and the wake that follows it what waited is still held: nothing may overtake that.
    fn is_committed(&self, end: Offset) -> bool {
        !self.has_failed && self.committed >= end && self.held.is_empty()
    }

    fn fail(&mut self) {
        self.has_failed = true;
        self.held.drain(..).for_each(|(_, held)| held.drop_unheard());
    }
}

impl<C: Coordinator> AppendOwner for Commits<C> {
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

#[cfg(test)]
mod tests {
    use klamm_coordinator::transaction::{TransactionCoordinator, TransactionEffect};
    use klamm_log::BatchPlaced;

    use super::*;

    fn placed(offset: Offset) -> AppendResult {
        Ok(BatchPlaced {
            base_offset: offset,
            last_offset: offset,
            log_append_time_ms: -1,
            log_start_offset: Offset(0),
            is_duplicate: false,
            bytes: 100,
        })
    }

    #[tokio::test]
    async fn nothing_overtakes_what_is_let_go_but_not_gone() {
        let effects = Arc::new(Effects::new());
        let commits = Commits::<TransactionCoordinator>::new(Arc::default(), effects.clone());
        commits.begin(Offset(7));
        commits.hold_effect(Offset(8), TransactionEffect::WriteMarkers("first".into()));
        commits.note(Offset(8), &placed(Offset(7)));
        assert!(!commits.is_committed(Offset(8)), "an answer would be there before what came before it");
        commits.hold_effect(Offset(8), TransactionEffect::WriteMarkers("second".into()));
        commits.wake();
        for id in ["first", "second"] {
            assert_eq!(effects.take().await, TransactionEffect::WriteMarkers(id.into()));
        }
        assert!(commits.is_committed(Offset(8)));
    }
}
