//! What seldom happens to a connection: asked about only when it has rung.
//!
//! A connection wakes for a request far more often than for its idle timer or the broker's stop, and to ask about those
//! each time would cost a part of what a small request costs.
//!
//! **Invariant:** whatever rings between two looks wakes the connection's task, and the next look sees it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::handlers::produce::ProduceWaker;

/// The events, and who is to be woken.
pub(crate) struct Seldom<E> {
    events: FuturesUnordered<Pin<Box<dyn Future<Output = E> + Send>>>,
    bell: Arc<Bell>,
}

struct Bell {
    has_rung: AtomicBool,
    connection: Arc<ProduceWaker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Before the wake: who wakes finds it.
        self.has_rung.store(true, Ordering::Release);
        self.connection.wake();
    }
}

impl<E> Seldom<E> {
    pub(crate) fn new(connection: Arc<ProduceWaker>) -> Self {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(false), connection });
        Self { events: FuturesUnordered::new(), bell }
    }

    /// Adds an event; the connection looks before it sleeps.
    pub(crate) fn push(&self, event: impl Future<Output = E> + Send + 'static) {
        self.events.push(Box::pin(event));
        self.bell.has_rung.store(true, Ordering::Release);
    }

    /// What has happened, one a call until there is no more.
    pub(crate) fn take(&mut self) -> Option<E> {
        if !self.bell.has_rung.load(Ordering::Relaxed) {
            return None;
        }
        // Before the look: what rings behind it is for the next one.
        self.bell.has_rung.swap(false, Ordering::AcqRel);
        let waker = Waker::from(self.bell.clone());
        match self.events.poll_next_unpin(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(event)) => {
                // There may be more.
                self.bell.has_rung.store(true, Ordering::Release);
                Some(event)
            }
            Poll::Ready(None) | Poll::Pending => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn what_rings_wakes_the_connection_and_is_taken_once() {
        let connection = Arc::<ProduceWaker>::default();
        let mut seldom = Seldom::new(connection.clone());
        let (first, is_first) = oneshot::channel();
        let (second, is_second) = oneshot::channel();
        seldom.push(is_first);
        seldom.push(is_second);
        assert_eq!(seldom.take(), None);
        // The first look polls all there are, and comes back for more.
        let _ = connection.woken().now_or_never();
        assert_eq!(seldom.take(), None);
        for (number, sender) in [(1, first), (2, second)] {
            sender.send(number).expect("it is waited for");
            assert!(connection.woken().now_or_never().is_some());
            assert_eq!(seldom.take(), Some(Ok(number)));
            assert_eq!(seldom.take(), None);
        }
    }

    #[test]
    fn what_has_happened_before_it_was_added_is_not_missed() {
        let mut seldom = Seldom::new(Arc::<ProduceWaker>::default());
        seldom.push(std::future::ready(1));
        seldom.push(std::future::ready(2));
        let mut taken: Vec<_> = std::iter::from_fn(|| seldom.take()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    }
}
