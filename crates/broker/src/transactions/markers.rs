//! One transaction marker into one partition (KIP-98, KIP-1228).
//!
//! Answers once the marker is committed, as everything that a coordinator writes. What it deliberately does
//! not do: try again.

use std::sync::{Arc, Mutex};

use klamm_log::{AppendError, AppendOrigin, trusted_batch};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId};
use klamm_protocol::records::BatchBuilder;
use tokio::sync::oneshot;

use crate::broker::Broker;
use crate::host::Host;
use crate::net::waker::Completion;
use crate::partition::acks::AppendOwner;
use crate::partition::registry::Missing;
use crate::partition::{Append, AppendFailure, AppendGroup, AppendResult, Ticket};

/// The end of a transaction, as one partition hears of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marker {
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: ProducerEpoch,
    pub(crate) coordinator_epoch: LeaderEpoch,
    pub(crate) is_commit: bool,
    /// The feature level of the transaction.
    #[expect(dead_code, reason = "the log does not compare by it yet")]
    pub(crate) transaction_version: i16,
}

/// Why a partition has no marker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MarkerError {
    #[error("there is no such partition")]
    UnknownPartition,
    /// It never will.
    #[error("the marker was refused: {0}")]
    Refused(ErrorCode),
    /// It may later.
    #[error("the partition cannot be written now: {0}")]
    Unavailable(ErrorCode),
}

/// Writes `marker`, and waits until it is committed.
pub(crate) async fn write_marker<H: Host>(
    broker: &Broker<H>,
    topic: &str,
    partition: PartitionIndex,
    marker: &Marker,
) -> Result<(), MarkerError> {
    let topics = broker.topics.load();
    let topic = topics.by_name(topic).ok_or(MarkerError::UnknownPartition)?;
    let partition = topic.partition(partition).map_err(|missing| match missing {
        Missing::Unknown => MarkerError::UnknownPartition,
        Missing::Offline => MarkerError::Unavailable(ErrorCode::KafkaStorageError),
    })?;
    drop(topics);
    let batch = BatchBuilder::end_transaction_marker(
        marker.is_commit,
        marker.coordinator_epoch.0,
        marker.producer_id,
        marker.producer_epoch,
        broker.host.wall().0,
    );
    let group = AppendGroup {
        batches: vec![trusted_batch(batch.build()).expect("a batch that was just built")],
        tickets: vec![Ticket { slot: 0, place: (0, 0), waits_for_commit: true }],
        origin: AppendOrigin::Coordinator,
    };
    let (sender, committed) = oneshot::channel();
    let owner: Arc<dyn AppendOwner> = Arc::new(Waiting(Mutex::new(Some(sender))));
    let now = match partition.append(&broker.host, group, &owner) {
        Append::Queued => None,
        Append::Done(mut results) => {
            let now = results.pop().flatten();
            if now.is_none() {
                partition.want_commit(&broker.host).want_round();
            }
            now
        }
    };
    let result = match now {
        Some(result) => result,
        None => committed.await.unwrap_or(Err(AppendFailure::Closed)),
    };
    result.map(drop).map_err(|failure| match failure {
        AppendFailure::Closed => MarkerError::Unavailable(ErrorCode::NotLeaderOrFollower),
        AppendFailure::Refused(AppendError::InvalidProducerEpoch(_)) => {
            MarkerError::Refused(ErrorCode::InvalidProducerEpoch)
        }
        AppendFailure::Refused(AppendError::TransactionCoordinatorFenced(_)) => {
            MarkerError::Refused(ErrorCode::TransactionCoordinatorFenced)
        }
        AppendFailure::Refused(_) => MarkerError::Unavailable(ErrorCode::KafkaStorageError),
    })
}

/// One append's owner.
struct Waiting(Mutex<Option<oneshot::Sender<AppendResult>>>);

impl AppendOwner for Waiting {
    fn leave(&self, completion: Completion<AppendResult>) {
        if let Some(sender) = self.0.lock().expect("nothing panics in here").take() {
            let _ = sender.send(completion.result);
        }
    }

    fn wake(&self) {}

    fn add_queued(&self, _bytes: usize) {}

    fn subtract_queued(&self, _bytes: usize) {}
}
