//! DescribeProducers, version 0 (KIP-664): who writes with a producer id to a partition, and since which
//! offset a transaction is open.
//!
//! A partition that is named twice is described once: a small request would else have any amount of answer.
//!
//! | error | when |
//! |---|---|
//! | INVALID_TOPIC_EXCEPTION | no topic may have that name |
//! | UNKNOWN_TOPIC_OR_PARTITION | no such partition |
//! | KAFKA_STORAGE_ERROR | its log directory has failed |
//! | NOT_LEADER_OR_FOLLOWER | it moves |

use std::sync::Arc;

use klamm_log::{Log, ProducerEntry};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{PartitionIndex, ProducerId};
use klamm_protocol::messages::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use klamm_protocol::wire::WireStr;

use super::distinct::distinct_partitions;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::partition::registry::Missing;
use crate::topic_names::is_valid;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: DescribeProducersRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let mut response = DescribeProducersResponse::default();
        let topics = request.topics.into_iter().map(|topic| (topic.name, topic.partition_indexes));
        for (name, partition_indexes) in distinct_partitions(topics) {
            let mut partitions = Vec::with_capacity(partition_indexes.len());
            for partition_index in partition_indexes {
                let mut answer = PartitionResponse { partition_index, ..Default::default() };
                match producers(&broker, &name, PartitionIndex(partition_index)).await {
                    Ok(producers) => answer.active_producers = producers,
                    Err((error, message)) => {
                        answer.error_code = error.code();
                        answer.error_message = Some(WireStr::from(message));
                    }
                }
                partitions.push(answer);
            }
            response.topics.push(TopicResponse { name, partitions, ..Default::default() });
        }
        meta.reply(&response)
    }))
}

async fn producers<H: Host>(
    broker: &Broker<H>,
    topic: &str,
    index: PartitionIndex,
) -> Result<Vec<ProducerState>, (ErrorCode, String)> {
    if !is_valid(topic) {
        return Err((ErrorCode::InvalidTopicException, format!("Topic name is invalid: {topic}")));
    }
    let unknown = || (ErrorCode::UnknownTopicOrPartition, format!("There is no partition {topic}-{index}"));
    let known = broker.topics.load().by_name(topic).cloned().ok_or_else(unknown)?;
    let partition = known.partition(index).map_err(|missing| match missing {
        Missing::Unknown => unknown(),
        Missing::Offline => {
            (ErrorCode::KafkaStorageError, format!("The log directory of {topic}-{index} has failed"))
        }
    })?;
    let read = |log: &mut Log| log.producers().iter().map(|(id, entry)| describe(id, entry)).collect();
    let moves = || (ErrorCode::NotLeaderOrFollower, format!("{topic}-{index} is not led here now"));
    partition.with_log(&broker.host, read).await.ok_or_else(moves)
}

fn describe(id: ProducerId, entry: &ProducerEntry) -> ProducerState {
    ProducerState {
        producer_id: id.0,
        producer_epoch: i32::from(entry.producer_epoch.0),
        last_sequence: entry.last_sequence(),
        last_timestamp: entry.last_timestamp,
        coordinator_epoch: entry.coordinator_epoch,
        current_txn_start_offset: entry.current_txn_first_offset.map_or(-1, |offset| offset.0),
        ..Default::default()
    }
}
