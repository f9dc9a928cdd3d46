//! How other threads reach a connection: they leave a completion and wake it, once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A parked batch has its answer.
#[derive(Debug)]
pub(crate) struct Completion<R> {
    /// The slot that waits for it.
    pub(crate) slot: u64,
    /// The place within the slot: index of topic and of partition in the response.
    pub(crate) place: (u32, u32),
    /// The answer.
    pub(crate) result: R,
}

/// One connection's letter box.
#[derive(Debug)]
pub(crate) struct ConnWaker<R> {
    completions: Mutex<Vec<Completion<R>>>,
    has_completions: AtomicBool,
    queued_bytes: AtomicUsize,
    woken: Notify,
}

impl<R> Default for ConnWaker<R> {
    fn default() -> Self {
        Self {
            completions: Mutex::new(Vec::new()),
            has_completions: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            woken: Notify::new(),
        }
    }
}

impl<R> ConnWaker<R> {
    /// Leaves completions; the caller wakes afterwards.
    pub(crate) fn leave(&self, completion: Completion<R>) {
        self.completions.lock().expect("nothing panics in here").push(completion);
        self.has_completions.store(true, Ordering::Release);
    }

    /// Record bytes of the connection that wait behind an appender, whether somebody waits for
    /// their answer or not.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn add_queued(&self, bytes: usize) {
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are written; the caller wakes afterwards.
    pub(crate) fn subtract_queued(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Wakes the connection; several wakes before it looks are one.
    pub(crate) fn wake(&self) {
        self.woken.notify_one();
    }

    /// Resolves after a [`ConnWaker::wake`].
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// What was left since the last look.
    pub(crate) fn take(&self) -> Vec<Completion<R>> {
        if !self.has_completions.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.completions.lock().expect("nothing panics in here"))
    }
}
