//! OffsetDelete, version 0 (KIP-496): committed offsets that a group does not need any more.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::PartitionIndex;
use klamm_protocol::messages::offset_delete::{OffsetDeleteRequest, OffsetDeleteResponse};
use klamm_protocol::messages::offset_delete::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};

use super::coordinated::ask;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let mut request: OffsetDeleteRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let image = broker.image.load();
    // A partition that is not there has no offsets that anybody could mean.
    let mut unknown = Vec::new();
    for topic in &mut request.topics {
        let known = image.topic_by_name(&topic.name);
        let is_known =
            |index: i32| known.is_some_and(|known| known.partitions.contains_key(&PartitionIndex(index)));
        let (there, missing): (Vec<_>, Vec<_>) =
            topic.partitions.drain(..).partition(|partition| is_known(partition.partition_index));
        topic.partitions = there;
        if !missing.is_empty() {
            let failed = |index| OffsetDeleteResponsePartition {
                partition_index: index,
                error_code: ErrorCode::UnknownTopicOrPartition.code(),
                ..Default::default()
            };
            unknown.push(OffsetDeleteResponseTopic {
                name: topic.name.clone(),
                partitions: missing.iter().map(|partition| failed(partition.partition_index)).collect(),
                ..Default::default()
            });
        }
    }
    request.topics.retain(|topic| !topic.partitions.is_empty());
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let group_id = request.group_id.clone();
        let mut response = match ask(&broker, &group_id, GroupCommand::OffsetDelete(request)).await {
            Ok(GroupReply::OffsetDelete(response)) => response,
            Ok(other) => unreachable!("{other:?} answers OffsetDelete"),
            Err(error) => OffsetDeleteResponse { error_code: error.code(), ..Default::default() },
        };
        if response.error_code == ErrorCode::None.code() {
            // A request may name millions.
            let places = response.topics.iter().enumerate().map(|(place, topic)| (topic.name.clone(), place));
            let mut places: BTreeMap<_, _> = places.collect();
            for topic in unknown {
                match places.entry(topic.name.clone()) {
                    Entry::Occupied(place) => {
                        response.topics[*place.get()].partitions.extend(topic.partitions);
                    }
                    Entry::Vacant(place) => {
                        place.insert(response.topics.len());
                        response.topics.push(topic);
                    }
                }
            }
        }
        meta.reply(&response)
    }))
}
