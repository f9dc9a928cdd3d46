//! Fetches that wait for a partition to grow.
//!
//! A waiting fetch keeps its missing bytes; an advance subtracts and wakes at zero.
//! A waiter registers and then looks again, so that no advance is missed.
//!
//! **Invariant:** a dropped waiter leaves: the list never grows past twice the live ones
//! and a constant.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering, fence};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

/// Lists below this length are not searched for dropped waiters.
const CLEANUP_LENGTH_MIN: usize = 16;

/// One fetch that waits, over all its partitions.
#[derive(Debug)]
pub(crate) struct FetchWait {
    missing_bytes: AtomicI64,
    enough: Notify,
}

impl FetchWait {
    /// A wait that ends once `missing_bytes` more have come.
    pub(crate) fn new(missing_bytes: i64) -> Arc<Self> {
        Arc::new(Self { missing_bytes: AtomicI64::new(missing_bytes), enough: Notify::new() })
    }

    /// Resolves once there is reason to look again.
    pub(crate) async fn enough(&self) {
        self.enough.notified().await;
    }

    /// So many of the missing bytes came before it was registered anywhere.
    pub(crate) fn found(&self, bytes: u64) {
        self.subtract(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn subtract(&self, bytes: i64) -> bool {
        let is_enough = self.missing_bytes.fetch_sub(bytes, Ordering::AcqRel) <= bytes;
        if is_enough {
            self.enough.notify_one();
        }
        is_enough
    }
}

/// The fetches that wait on one partition.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    is_any: AtomicBool,
    list: Mutex<Vec<Weak<FetchWait>>>,
}

impl Waiters {
    /// From now on `wait` hears of every advance.
    pub(crate) fn register(&self, wait: &Arc<FetchWait>) {
        let mut list = self.list.lock().expect("nothing panics in here");
        if list.len() >= CLEANUP_LENGTH_MIN && list.len() == list.capacity() {
            list.retain(|waiter| waiter.strong_count() > 0);
        }
        list.push(Arc::downgrade(wait));
        self.is_any.store(true, Ordering::SeqCst);
        // With the one in `notify`: either the limits that are looked at next are the new ones, or
        // who published them sees that somebody waits.
        fence(Ordering::SeqCst);
    }

    /// The partition has grown by `bytes`.
    pub(crate) fn advanced(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.notify(|wait| wait.subtract(bytes));
    }

    /// Something else has changed: everybody looks again.
    pub(crate) fn changed(&self) {
        self.notify(|wait| {
            wait.enough.notify_one();
            true
        });
    }

    fn notify(&self, is_done: impl Fn(&FetchWait) -> bool) {
        fence(Ordering::SeqCst);
        if !self.is_any.load(Ordering::SeqCst) {
            return;
        }
        let mut list = self.list.lock().expect("nothing panics in here");
        list.retain(|waiter| waiter.upgrade().is_some_and(|wait| !is_done(&wait)));
        if list.is_empty() {
            self.is_any.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_woken(wait: &FetchWait) -> bool {
        use std::future::Future;
        use std::task::{Context, Poll, Waker};
        let future = std::pin::pin!(wait.enough());
        matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()))
    }

    #[test]
    fn a_waiter_wakes_when_its_bytes_have_come() {
        let waiters = Waiters::default();
        let wait = FetchWait::new(100);
        waiters.register(&wait);
        waiters.advanced(60);
        assert!(!is_woken(&wait));
        waiters.advanced(40);
        assert!(is_woken(&wait));
        assert!(waiters.list.lock().unwrap().is_empty());
    }

    #[test]
    fn what_came_before_it_registered_counts() {
        let waiters = Waiters::default();
        let wait = FetchWait::new(100);
        waiters.register(&wait);
        wait.found(60);
        assert!(!is_woken(&wait));
        waiters.advanced(40);
        assert!(is_woken(&wait));
    }

    #[test]
    fn a_change_wakes_everybody() {
        let waiters = Waiters::default();
        let wait = FetchWait::new(1_000_000);
        waiters.register(&wait);
        waiters.changed();
        assert!(is_woken(&wait));
    }

    #[test]
    fn dropped_waiters_leave() {
        let waiters = Waiters::default();
        let live = FetchWait::new(1);
        waiters.register(&live);
        for _ in 0..10_000 {
            waiters.register(&FetchWait::new(1));
        }
        assert!(waiters.list.lock().unwrap().len() <= 2 * CLEANUP_LENGTH_MIN);
        waiters.advanced(1);
        assert!(is_woken(&live));
    }
}
