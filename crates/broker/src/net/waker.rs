//! How other threads reach a connection: they leave a completion and wake it, once.

use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;

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
    is_woken: AtomicBool,
    task: AtomicWaker,
}

impl<R> Default for ConnWaker<R> {
    fn default() -> Self {
        Self {
            completions: Mutex::new(Vec::new()),
            has_completions: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            is_woken: AtomicBool::new(false),
            task: AtomicWaker::new(),
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
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }

    /// Resolves after a [`ConnWaker::wake`]; only the connection's own task waits here.
    pub(crate) async fn woken(&self) {
        poll_fn(|context| {
            // Before the look: a wake behind it finds the task.
            self.task.register(context.waker());
            if self.is_woken.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What was left since the last look.
    pub(crate) fn take(&self) -> Vec<Completion<R>> {
        if !self.has_completions.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.completions.lock().expect("nothing panics in here"))
    }
}
