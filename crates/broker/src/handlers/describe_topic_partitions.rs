//! DescribeTopicPartitions, version 0 (KIP-966): topics in name order, at most so many partitions,
//! and a cursor to go on from.

use std::collections::BTreeSet;

use klamm_cluster::image::{MetadataImage, PartitionImage, TopicImage};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{NodeId, PartitionIndex};
use klamm_protocol::messages::describe_topic_partitions::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic, ResponseCursor,
};

use super::{Frame, Handled, authorized};
use crate::broker::Broker;
use crate::host::Host;
use crate::net::CloseReason;
use crate::topic_names::{is_internal, is_valid};

/// Kafka's `max.request.partition.size.limit`.
const PARTITIONS_MAX: usize = 2_000;

pub(crate) fn handle<H: Host>(broker: &Broker<H>, mut frame: Frame) -> Handled {
    let request: DescribeTopicPartitionsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    if request.cursor.as_ref().is_some_and(|cursor| cursor.partition_index < 0) {
        return Handled::Close(CloseReason::Malformed("a cursor with a negative partition".into()));
    }
    frame.meta().reply(&answer(&broker.image.load(), &request))
}

fn answer(
    image: &MetadataImage,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let wants_all = request.topics.is_empty();
    let names: BTreeSet<&str> = match wants_all {
        true => image.topic_ids().keys().map(|name| &**name).collect(),
        false => request.topics.iter().map(|topic| &*topic.name).collect(),
    };
    let (first_topic, first_partition) =
        request.cursor.as_ref().map_or(("", 0), |cursor| (&*cursor.topic_name, cursor.partition_index));
    let asked_max = usize::try_from(request.response_partition_limit).unwrap_or(0).max(1);
    let mut left = asked_max.min(PARTITIONS_MAX);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.range(first_topic..) {
        let Some(topic) = image.topic_by_name(name) else {
            // A topic of the cursor that has gone since is simply not there any more.
            if !wants_all {
                response.topics.push(unknown(name));
            }
            continue;
        };
        let first = PartitionIndex(if *name == first_topic { first_partition } else { 0 });
        let mut described = to_response(topic);
        for (index, partition) in topic.partitions.range(first..) {
            if left == 0 {
                let cursor = ResponseCursor {
                    topic_name: (*name).to_owned().into(),
                    partition_index: index.0,
                    ..Default::default()
                };
                response.next_cursor = Some(cursor);
                break;
            }
            left -= 1;
            described.partitions.push(partition_response(image, *index, partition));
        }
        if !described.partitions.is_empty() || response.next_cursor.is_none() {
            response.topics.push(described);
        }
        if response.next_cursor.is_some() {
            break;
        }
    }
    response
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error =
        if is_valid(name) { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        name: Some(name.to_owned().into()),
        is_internal: is_internal(name),
        ..Default::default()
    }
}

fn to_response(topic: &TopicImage) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        name: Some(topic.name.to_string().into()),
        topic_id: topic.id.0,
        is_internal: is_internal(&topic.name),
        topic_authorized_operations: authorized::TOPIC,
        ..Default::default()
    }
}

fn partition_response(
    image: &MetadataImage,
    index: PartitionIndex,
    partition: &PartitionImage,
) -> DescribeTopicPartitionsResponsePartition {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let error = if partition.has_leader() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable };
    DescribeTopicPartitionsResponsePartition {
        error_code: error.code(),
        partition_index: index.0,
        leader_id: partition.leader.0,
        leader_epoch: partition.leader_epoch.0,
        replica_nodes: ids(&partition.replicas),
        isr_nodes: ids(&partition.isr),
        offline_replicas: ids(&image.offline_replicas(partition)),
        eligible_leader_replicas: Some(ids(&partition.elr)),
        last_known_elr: Some(ids(&partition.last_known_elr)),
        ..Default::default()
    }
}
