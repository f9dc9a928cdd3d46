//! OffsetFetch: what a group has committed.

use std::collections::BTreeMap;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{TopicId, Uuid};
use klamm_protocol::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchResponseGroup, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
};
use klamm_protocol::wire::WireStr;

use super::super::{Group, GroupCoordinator};
use super::{CommittedOffset, GroupOffsets};

const NO_OFFSET: i64 = -1;

impl GroupCoordinator {
    pub(in super::super) fn fetch_offsets(
        &self,
        request: &OffsetFetchRequestGroup,
        require_stable: bool,
    ) -> OffsetFetchResponseGroup {
        let validated = match self.groups.get(&*request.group_id) {
            Some(Group::Consumer(group)) => {
                group.validate_fetch(request.member_id.as_deref(), request.member_epoch)
            }
            _ => Ok(()),
        };
        let mut response =
            OffsetFetchResponseGroup { group_id: request.group_id.clone(), ..Default::default() };
        if let Err(error) = validated {
            response.error_code = error.code();
            return response;
        }
        let none = GroupOffsets::default();
        let offsets = self.offsets.group(&request.group_id).unwrap_or(&none);
        let answer = |topic: &str, partition: i32, committed: Option<&CommittedOffset>| {
            if require_stable && offsets.open.contains(topic, partition) {
                return unknown(partition, ErrorCode::UnstableOffsetCommit);
            }
            match committed {
                None => unknown(partition, ErrorCode::None),
                Some(committed) => OffsetFetchResponsePartitions {
                    partition_index: partition,
                    committed_offset: committed.offset,
                    committed_leader_epoch: committed.leader_epoch,
                    metadata: Some(WireStr::from(committed.metadata.to_string())),
                    ..Default::default()
                },
            }
        };
        response.topics = match &request.topics {
            Some(topics) => topics
                .iter()
                .map(|topic| OffsetFetchResponseTopics {
                    name: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partitions: topic
                        .partition_indexes
                        .iter()
                        .map(|partition| {
                            let committed = offsets.committed.get(&topic.name, *partition);
                            let is_of_topic = |one: &&CommittedOffset| is_same(one.topic_id, topic.topic_id);
                            answer(&topic.name, *partition, committed.filter(is_of_topic))
                        })
                        .collect(),
                    ..Default::default()
                })
                .collect(),
            None => offsets
                .committed
                .topics()
                .map(|(name, partitions): (&str, &BTreeMap<i32, CommittedOffset>)| {
                    OffsetFetchResponseTopics {
                        name: WireStr::from(name.to_owned()),
                        partitions: partitions
                            .iter()
                            .map(|(partition, committed)| answer(name, *partition, Some(committed)))
                            .collect(),
                        ..Default::default()
                    }
                })
                .collect(),
        };
        response
    }
}

/// An offset of a topic that was deleted says nothing of one with its name.
fn is_same(committed: TopicId, asked: Uuid) -> bool {
    committed.0 == Uuid::ZERO || asked == Uuid::ZERO || committed.0 == asked
}

fn unknown(partition: i32, error: ErrorCode) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: partition,
        committed_offset: NO_OFFSET,
        committed_leader_epoch: -1,
        metadata: Some(WireStr::default()),
        error_code: error.code(),
        ..Default::default()
    }
}
