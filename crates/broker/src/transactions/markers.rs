//! One transaction marker into one partition (KIP-98, KIP-1228).
//!
//! Answers once the marker is committed, as everything that a coordinator writes. A partition of
//! `__consumer_offsets` takes it from its group coordinator, whose offsets the transaction may hold. What it
//! deliberately does not do: try again.

use klamm_log::{AppendError, AppendOrigin, trusted_batch};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId};
use klamm_protocol::records::BatchBuilder;

use crate::broker::Broker;
use crate::coordinator::{OFFSETS_TOPIC, Unavailable};
use crate::host::Host;
use crate::partition::AppendFailure;
use crate::partition::registry::Missing;

/// The end of a transaction, as one partition hears of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marker {
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: ProducerEpoch,
    pub(crate) coordinator_epoch: LeaderEpoch,
    pub(crate) is_commit: bool,
    /// The feature level of the transaction.
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
    index: PartitionIndex,
    marker: &Marker,
) -> Result<(), MarkerError> {
    let known = broker.topics.load().by_name(topic).cloned().ok_or(MarkerError::UnknownPartition)?;
    let partition = known.partition(index).map_err(|missing| match missing {
        Missing::Unknown => MarkerError::UnknownPartition,
        Missing::Offline => MarkerError::Unavailable(ErrorCode::KafkaStorageError),
    })?;
    let batch = BatchBuilder::end_transaction_marker(
        marker.is_commit,
        marker.coordinator_epoch.0,
        marker.producer_id,
        marker.producer_epoch,
        broker.host.wall().0,
    );
    let batch = trusted_batch(batch.build()).expect("a batch that was just built");
    let transaction_version = marker.transaction_version;
    let result = if topic == OFFSETS_TOPIC {
        let shard = broker.coordinators.groups.of_partition(index);
        // What a transaction coordinator takes for "not ready yet".
        let not_ready = |_: Unavailable| MarkerError::Unavailable(ErrorCode::NotLeaderOrFollower);
        let shard = shard.ok_or(Unavailable::Lost).map_err(not_ready)?;
        shard.end_transaction(batch, transaction_version, marker.is_commit).await.map_err(not_ready)?
    } else if known.is_internal {
        // A coordinator's memory, in which no transaction has a part.
        return Err(MarkerError::Refused(ErrorCode::InvalidTopicException));
    } else {
        partition.append_one(&broker.host, batch, AppendOrigin::Marker { transaction_version }, true).await
    };
    result.map(drop).map_err(|failure| match failure {
        AppendFailure::Closed => MarkerError::Unavailable(ErrorCode::NotLeaderOrFollower),
        AppendFailure::Refused(error) => refused(&error),
    })
}

fn refused(error: &AppendError) -> MarkerError {
    match error {
        AppendError::InvalidProducerEpoch(_) => MarkerError::Refused(ErrorCode::InvalidProducerEpoch),
        AppendError::TransactionCoordinatorFenced(_) => {
            MarkerError::Refused(ErrorCode::TransactionCoordinatorFenced)
        }
        AppendError::Storage(_) => MarkerError::Unavailable(ErrorCode::KafkaStorageError),
        AppendError::OutOfOrderSequence(_)
        | AppendError::InvalidTxnState(_)
        | AppendError::RecordBatchTooLarge { .. }
        | AppendError::UnexpectedOffset { .. }
        | AppendError::InvalidBatch(_)
        | AppendError::StalePlan(_) => MarkerError::Unavailable(ErrorCode::UnknownServerError),
    }
}
