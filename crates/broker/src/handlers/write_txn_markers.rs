//! WriteTxnMarkers, versions 1 and 2: a transaction coordinator, or an operator who ends a hanging
//! transaction, has markers written.
//!
//! - 2: the version of the transaction, which decides the markers' epochs (KIP-1228); before 0.
//!
//! A partition that a marker names twice gets it once, and one answer; answers come by name and index.
//!
//! | error | when |
//! |---|---|
//! | UNKNOWN_TOPIC_OR_PARTITION | no such partition, or its log directory has failed |
//! | INVALID_PRODUCER_EPOCH | the producer has gone on |
//! | TRANSACTION_COORDINATOR_FENCED | a later coordinator has written a marker |
//! | NOT_LEADER_OR_FOLLOWER | the partition moves, or its group coordinator loads |
//! | INVALID_TOPIC_EXCEPTION | an internal topic but `__consumer_offsets` |
//! | INVALID_REQUEST | a marker of no producer, or of no version of transactions |

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId};
use klamm_protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerPartitionResult, WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use klamm_protocol::wire::WireStr;

use super::distinct::distinct_partitions;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::transactions::chunks::in_chunks;
use crate::transactions::markers::{Marker, MarkerError, write_marker};

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: WriteTxnMarkersRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let entries: Vec<Entry> = request.markers.into_iter().map(Entry::from).collect();
        let partitions = entries.clone().into_iter().flat_map(Entry::partitions);
        let writes = partitions.map(|(marker, topic, index)| {
            let broker = broker.clone();
            async move {
                match marker {
                    Some(marker) => code(&write_marker(&broker, &topic, index, &marker).await),
                    None => ErrorCode::InvalidRequest,
                }
            }
        });
        let mut results = in_chunks(writes).await.into_iter();
        let mut response = WriteTxnMarkersResponse::default();
        for Entry { producer_id, topics, .. } in entries {
            let topics = topics.into_iter().map(|(name, indexes)| WritableTxnMarkerTopicResult {
                name,
                partitions: indexes
                    .into_iter()
                    .map(|partition_index| WritableTxnMarkerPartitionResult {
                        partition_index,
                        error_code: results.next().expect("one result a partition").code(),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            });
            response.markers.push(WritableTxnMarkerResult {
                producer_id,
                topics: topics.collect(),
                ..Default::default()
            });
        }
        meta.reply(&response)
    }))
}

/// A marker and where it goes: into each partition once, as in Kafka.
#[derive(Clone)]
struct Entry {
    producer_id: i64,
    marker: Option<Marker>,
    topics: BTreeMap<WireStr, Vec<i32>>,
}

impl From<WritableTxnMarker> for Entry {
    fn from(entry: WritableTxnMarker) -> Self {
        let (producer_id, marker) = (entry.producer_id, marker_of(&entry));
        let topics = entry.topics.into_iter().map(|topic| (topic.name, topic.partition_indexes));
        Self { producer_id, marker, topics: distinct_partitions(topics) }
    }
}

impl Entry {
    fn partitions(self) -> impl Iterator<Item = (Option<Marker>, WireStr, PartitionIndex)> {
        let marker = self.marker;
        self.topics.into_iter().flat_map(move |(topic, indexes)| {
            indexes.into_iter().map(move |index| (marker, topic.clone(), PartitionIndex(index)))
        })
    }
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
