//! OffsetCommit, versions 2 to 10.
//!
//! - 2 to 4: a retention of its own. 6: leader epochs. 7: static members. 9: KIP-848. 10: topic ids.
//!
//! | error | when |
//! |---|---|
//! | UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID | no such partition; the others are committed |
//! | OFFSET_METADATA_TOO_LARGE | longer than `offset.metadata.max.bytes` |
//! | UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID, REBALANCE_IN_PROGRESS, STALE_MEMBER_EPOCH | what the group says of the member |
//! | GROUP_ID_NOT_FOUND | a member of a group that is not there; before version 9 ILLEGAL_GENERATION |
//! | UNKNOWN_SERVER_ERROR | all of it, with metadata and names, is more than `max.message.bytes` of the internal topic |
//! | NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS | not here, or not yet |

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use klamm_cluster::image::MetadataImage;
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{PartitionIndex, TopicId, Uuid};
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestTopic, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};
use klamm_protocol::wire::WireStr;

use super::coordinated::ask_now;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

/// From here on topics have their ids.
const TOPIC_ID_VERSION_MIN: i16 = 10;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let mut request: OffsetCommitRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let all = request.topics.clone();
    let refused = take_unknown(&broker.image.load(), &mut request, meta.version);
    if request.topics.is_empty() {
        return meta.reply(&in_order(&all, refused));
    }
    let group_id = request.group_id.clone();
    let command = GroupCommand::OffsetCommit { request, version: meta.version };
    ask_now(broker, &group_id, command, move |answer| {
        let mut answered = refused;
        match answer {
            Ok(GroupReply::OffsetCommit(response)) => answered.extend(response.topics),
            Ok(other) => unreachable!("{other:?} answers OffsetCommit"),
            Err(error) => answered = all.iter().map(|topic| failed(topic, error)).collect(),
        }
        meta.reply(&in_order(&all, answered))
    })
}

/// Gives every topic its name and id, and takes out what is not there.
fn take_unknown(
    image: &MetadataImage,
    request: &mut OffsetCommitRequest,
    version: i16,
) -> Vec<OffsetCommitResponseTopic> {
    let mut refused = Vec::new();
    request.topics.retain_mut(|topic| {
        let (known, error) = match version {
            ..TOPIC_ID_VERSION_MIN => (image.topic_by_name(&topic.name), ErrorCode::UnknownTopicOrPartition),
            _ => (image.topic(TopicId(topic.topic_id)), ErrorCode::UnknownTopicId),
        };
        let Some(known) = known else {
            refused.push(failed(topic, error));
            return false;
        };
        topic.topic_id = known.id.0;
        topic.name = WireStr::from(known.name.to_string());
        let mut missing = OffsetCommitRequestTopic { partitions: Vec::new(), ..topic.clone() };
        topic.partitions.retain(|partition| {
            let is_there = known.partitions.contains_key(&PartitionIndex(partition.partition_index));
            if !is_there {
                missing.partitions.push(partition.clone());
            }
            is_there
        });
        if !missing.partitions.is_empty() {
            refused.push(failed(&missing, ErrorCode::UnknownTopicOrPartition));
        }
        !topic.partitions.is_empty()
    });
    refused
}

fn failed(topic: &OffsetCommitRequestTopic, error: ErrorCode) -> OffsetCommitResponseTopic {
    OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .map(|partition| OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error.code(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

/// Each topic once, as the request named it: by name or by id. A request may name millions.
fn in_order(
    asked: &[OffsetCommitRequestTopic],
    answered: Vec<OffsetCommitResponseTopic>,
) -> OffsetCommitResponse {
    let mut topics: Vec<OffsetCommitResponseTopic> = Vec::with_capacity(asked.len());
    let mut places = BTreeMap::<(WireStr, Uuid), usize>::new();
    for mut answer in answered {
        // Without a name it is none that is known here.
        let id = if answer.name.is_empty() { answer.topic_id } else { Uuid::ZERO };
        match places.entry((answer.name.clone(), id)) {
            Entry::Occupied(place) => topics[*place.get()].partitions.append(&mut answer.partitions),
            Entry::Vacant(place) => {
                place.insert(topics.len());
                topics.push(answer);
            }
        }
    }
    OffsetCommitResponse { topics, ..Default::default() }
}
