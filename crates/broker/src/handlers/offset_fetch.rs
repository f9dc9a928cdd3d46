//! OffsetFetch, versions 1 to 10.
//!
//! - 2: all offsets of a group; an error for all of it. 5: leader epochs. 7: only stable offsets
//!   (KIP-447). 8: several groups. 9: member and epoch (KIP-848). 10: topic ids.
//!
//! | error | when |
//! |---|---|
//! | UNSTABLE_OFFSET_COMMIT | an open transaction may replace it, and only stable offsets are wanted |
//! | UNKNOWN_TOPIC_ID | no such topic |
//! | UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH | what a consumer group says of the member |
//! | NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS | not here, or not yet |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_cluster::image::MetadataImage;
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{TopicId, Uuid};
use klamm_protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use klamm_protocol::wire::WireStr;

use super::coordinated::ask;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

/// From here on a request has several groups.
const GROUPS_VERSION_MIN: i16 = 8;
/// From here on topics have their ids.
const TOPIC_ID_VERSION_MIN: i16 = 10;
/// Before, an error is told for each partition.
const GROUP_ERROR_VERSION_MIN: i16 = 2;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: OffsetFetchRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let version = meta.version;
        if version >= GROUPS_VERSION_MIN {
            let mut groups = Vec::with_capacity(request.groups.len());
            let mut seen = BTreeSet::new();
            for group in request.groups {
                // All offsets of a group are a lot for a few bytes: asked for again, they are not told again.
                if !seen.insert(group.group_id.clone()) {
                    continue;
                }
                groups.push(fetch(&broker, group, request.require_stable, version).await);
            }
            return meta.reply(&OffsetFetchResponse { groups, ..Default::default() });
        }
        let group = of_one_group(request.group_id, request.topics);
        let answered = fetch(&broker, group, request.require_stable, version).await;
        meta.reply(&for_one_group(answered))
    }))
}

async fn fetch<H: Host>(
    broker: &Broker<H>,
    mut group: OffsetFetchRequestGroup,
    require_stable: bool,
    version: i16,
) -> OffsetFetchResponseGroup {
    keep_first_mentions(&mut group);
    let asked = group.clone();
    let refused = match version {
        TOPIC_ID_VERSION_MIN.. => take_unknown(&broker.image.load(), &mut group),
        _ => Vec::new(),
    };
    let group_id = group.group_id.clone();
    let command = GroupCommand::OffsetFetch { group, require_stable };
    let mut answered = match ask(broker, &group_id, command).await {
        Ok(GroupReply::OffsetFetch(answered)) => answered,
        Ok(other) => unreachable!("{other:?} answers OffsetFetch"),
        Err(error) => return failed(asked, error, version),
    };
    if answered.error_code != ErrorCode::None.code() {
        let error = ErrorCode::from_code(answered.error_code).unwrap_or(ErrorCode::UnknownServerError);
        return failed(asked, error, version);
    }
    if version >= TOPIC_ID_VERSION_MIN {
        let image = broker.image.load();
        for topic in answered.topics.iter_mut().filter(|topic| topic.topic_id == Uuid::ZERO) {
            topic.topic_id = image.topic_by_name(&topic.name).map_or(Uuid::ZERO, |known| known.id.0);
        }
        // Without an id it cannot be told.
        answered.topics.retain(|topic| topic.topic_id != Uuid::ZERO);
    }
    answered.topics.extend(refused);
    answered
}

/// A partition's metadata may be long: however often it is named, it is told once.
fn keep_first_mentions(group: &mut OffsetFetchRequestGroup) {
    let mut seen = BTreeMap::<(WireStr, Uuid), BTreeSet<i32>>::new();
    for topics in group.topics.iter_mut() {
        topics.retain_mut(|topic| {
            let was_empty = topic.partition_indexes.is_empty();
            let of_topic = seen.entry((topic.name.clone(), topic.topic_id)).or_default();
            topic.partition_indexes.retain(|index| of_topic.insert(*index));
            was_empty || !topic.partition_indexes.is_empty()
        });
    }
}

/// Gives every topic its name, and takes out what is not there.
fn take_unknown(
    image: &MetadataImage,
    group: &mut OffsetFetchRequestGroup,
) -> Vec<OffsetFetchResponseTopics> {
    let mut refused = Vec::new();
    for topics in group.topics.iter_mut() {
        topics.retain_mut(|topic| match image.topic(TopicId(topic.topic_id)) {
            Some(known) => {
                topic.name = WireStr::from(known.name.to_string());
                true
            }
            None => {
                refused.push(failed_topic(topic, ErrorCode::UnknownTopicId));
                false
            }
        });
    }
    refused
}

fn failed(group: OffsetFetchRequestGroup, error: ErrorCode, version: i16) -> OffsetFetchResponseGroup {
    let topics = match version {
        GROUP_ERROR_VERSION_MIN.. => Vec::new(),
        _ => group.topics.iter().flatten().map(|topic| failed_topic(topic, error)).collect(),
    };
    OffsetFetchResponseGroup {
        group_id: group.group_id,
        topics,
        error_code: error.code(),
        ..Default::default()
    }
}

fn failed_topic(topic: &OffsetFetchRequestTopics, error: ErrorCode) -> OffsetFetchResponseTopics {
    let partition = |index: &i32| OffsetFetchResponsePartitions {
        partition_index: *index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(WireStr::default()),
        error_code: error.code(),
        ..Default::default()
    };
    OffsetFetchResponseTopics {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic.partition_indexes.iter().map(partition).collect(),
        ..Default::default()
    }
}

/// What a request before version 8 asks, as a later one would.
fn of_one_group(
    group_id: WireStr,
    topics: Option<Vec<klamm_protocol::messages::offset_fetch::OffsetFetchRequestTopic>>,
) -> OffsetFetchRequestGroup {
    let topic =
        |topic: klamm_protocol::messages::offset_fetch::OffsetFetchRequestTopic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..Default::default()
        };
    OffsetFetchRequestGroup {
        group_id,
        topics: topics.map(|topics| topics.into_iter().map(topic).collect()),
        member_epoch: -1,
        ..Default::default()
    }
}

fn for_one_group(group: OffsetFetchResponseGroup) -> OffsetFetchResponse {
    let partition = |partition: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
        ..Default::default()
    };
    let topic = |topic: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
        ..Default::default()
    };
    OffsetFetchResponse {
        topics: group.topics.into_iter().map(topic).collect(),
        error_code: group.error_code,
        ..Default::default()
    }
}
