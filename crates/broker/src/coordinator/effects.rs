//! What machines want done outside their partitions, on its way to who does it.
//!
//! Bounded by what the machines remember: each wants at most one thing at a time for each of its
//! entries, and wants it again after a load.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

pub(crate) struct Effects<E> {
    queue: Mutex<VecDeque<E>>,
    arrived: Notify,
}

impl<E> Effects<E> {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::default(), arrived: Notify::new() }
    }

    pub(super) fn push(&self, effect: E) {
        self.queue.lock().expect("nothing panics in here").push_back(effect);
        self.arrived.notify_one();
    }

    /// The next one, once there is one; for one task.
    pub(crate) async fn take(&self) -> E {
        loop {
            if let Some(effect) = self.queue.lock().expect("nothing panics in here").pop_front() {
                return effect;
            }
            self.arrived.notified().await;
        }
    }
}
