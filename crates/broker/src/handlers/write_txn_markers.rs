//! WriteTxnMarkers, versions 1 and 2: a transaction coordinator, or an operator who ends a hanging
//! transaction, has markers written.
//!
//! - 2: the version of the transaction, which decides the markers' epochs (KIP-1228); before 0.
//!
//! | error | when |
//! |---|---|
//! | UNKNOWN_TOPIC_OR_PARTITION | no such partition, or its log directory has failed |
//! | INVALID_PRODUCER_EPOCH | the producer has gone on |
//! | TRANSACTION_COORDINATOR_FENCED | a later coordinator has written a marker |
//! | NOT_LEADER_OR_FOLLOWER | the partition moves, or its group coordinator loads |
//! | INVALID_TOPIC_EXCEPTION | an internal topic but `__consumer_offsets` |
//! | INVALID_REQUEST | a marker of no producer, or of no version of transactions |

use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId};
use klamm_protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerPartitionResult, WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::transactions::markers::{Marker, MarkerError, write_marker};
use crate::transactions::performer::all;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: WriteTxnMarkersRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let writes = request.markers.iter().flat_map(|entry| {
            let (broker, marker) = (&broker, marker_of(entry));
            entry.topics.iter().flat_map(move |topic| {
                topic.partition_indexes.iter().map(move |index| async move {
                    let marker = marker.ok_or(MarkerError::Refused(ErrorCode::InvalidRequest))?;
                    write_marker(broker, &topic.name, PartitionIndex(*index), &marker).await
                })
            })
        });
        let mut results = all(writes.collect()).await.into_iter();
        let mut response = WriteTxnMarkersResponse::default();
        for entry in &request.markers {
            let topics = entry.topics.iter().map(|topic| WritableTxnMarkerTopicResult {
                name: topic.name.clone(),
                partitions: topic
                    .partition_indexes
                    .iter()
                    .map(|index| WritableTxnMarkerPartitionResult {
                        partition_index: *index,
                        error_code: code(&results.next().expect("one result a partition")).code(),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            });
            response.markers.push(WritableTxnMarkerResult {
                producer_id: entry.producer_id,
                topics: topics.collect(),
                ..Default::default()
            });
        }
        meta.reply(&response)
    }))
}

/// `None` for one that no log may have.
fn marker_of(entry: &WritableTxnMarker) -> Option<Marker> {
    let is_possible = entry.producer_id >= 0 && entry.producer_epoch >= 0 && entry.transaction_version >= 0;
    is_possible.then(|| Marker {
        producer_id: ProducerId(entry.producer_id),
        producer_epoch: ProducerEpoch(entry.producer_epoch),
        coordinator_epoch: LeaderEpoch(entry.coordinator_epoch),
        is_commit: entry.transaction_result,
        transaction_version: i16::from(entry.transaction_version),
    })
}

fn code(result: &Result<(), MarkerError>) -> ErrorCode {
    match result {
        Ok(()) => ErrorCode::None,
        Err(MarkerError::UnknownPartition) => ErrorCode::UnknownTopicOrPartition,
        // Kafka knows no partition of a failed directory here.
        Err(MarkerError::Unavailable(ErrorCode::KafkaStorageError)) => ErrorCode::UnknownTopicOrPartition,
        Err(MarkerError::Refused(error) | MarkerError::Unavailable(error)) => *error,
    }
}
