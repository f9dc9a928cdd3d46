//! One batch of a part of the broker that waits for it: an answer once the batch counts.
//!
//! What it deliberately does not do: keep an order among several, which the caller keeps by waiting.

use std::sync::{Arc, Mutex};

use klamm_log::AppendOrigin;
use klamm_protocol::records::ValidatedBatch;
use tokio::sync::oneshot;

use super::acks::AppendOwner;
use super::{Append, AppendFailure, AppendGroup, AppendResult, Partition, Ticket};
use crate::host::Host;
use crate::net::waker::Completion;

impl Partition {
    /// Appends `batch` and waits until it is written; until it is committed if `waits_for_commit`.
    pub(crate) async fn append_one<H: Host>(
        self: &Arc<Self>,
        host: &H,
        batch: ValidatedBatch,
        origin: AppendOrigin,
        waits_for_commit: bool,
    ) -> AppendResult {
        let ticket = Ticket { slot: 0, place: (0, 0), waits_for_commit };
        let group = AppendGroup { batches: vec![batch], tickets: vec![ticket], origin };
        let (owner, committed) = Waiting::begin(None);
        if let Append::Done(mut results) = self.append(host, group, &owner) {
            match results.pop().flatten() {
                Some(result) => return result,
                // By the directory's flusher: who writes to several partitions at once shares its rounds.
                None => self.commit_soon(host),
            }
        }
        committed.await.unwrap_or(Err(AppendFailure::Closed))
    }
}

/// Tells a task that waits for one batch, and then whoever else must hear of it.
pub(crate) struct Waiting {
    sender: Mutex<Option<oneshot::Sender<AppendResult>>>,
    next: Option<Arc<dyn AppendOwner>>,
}

impl Waiting {
    pub(crate) fn begin(
        next: Option<Arc<dyn AppendOwner>>,
    ) -> (Arc<dyn AppendOwner>, oneshot::Receiver<AppendResult>) {
        let (sender, result) = oneshot::channel();
        (Arc::new(Self { sender: Mutex::new(Some(sender)), next }), result)
    }
}

impl AppendOwner for Waiting {
    fn leave(&self, completion: Completion<AppendResult>) {
        let sender = self.sender.lock().expect("nothing panics in here").take();
        if let Some(sender) = sender {
            // Whoever waited may have gone.
            let _ = sender.send(completion.result.clone());
        }
        if let Some(next) = &self.next {
            next.leave(completion);
        }
    }

    fn wake(&self) {
        if let Some(next) = &self.next {
            next.wake();
        }
    }

    // One batch at a time: its owner waits, and has claimed the memory of what came over the network.
    fn add_queued(&self, _bytes: usize) {}

    fn subtract_queued(&self, _bytes: usize) {}
}
