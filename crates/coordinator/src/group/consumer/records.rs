//! The records of a consumer group, as Kafka 4.3 writes them.

use bytes::Bytes;
use klamm_protocol::messages::group_records::{
    ClassicMemberMetadata, ClassicProtocol, ConsumerGroupCurrentMemberAssignmentKey,
    ConsumerGroupCurrentMemberAssignmentValue, ConsumerGroupMemberMetadataKey,
    ConsumerGroupMemberMetadataValue, ConsumerGroupMetadataKey, ConsumerGroupMetadataValue,
    ConsumerGroupPartitionMetadataKey, ConsumerGroupPartitionMetadataValue,
    ConsumerGroupRegularExpressionKey, ConsumerGroupRegularExpressionValue,
    ConsumerGroupTargetAssignmentMemberKey, ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMetadataKey, ConsumerGroupTargetAssignmentMetadataValue, TopicPartition,
};
use klamm_protocol::wire::WireStr;

use super::super::assignor::Assignment;
use super::super::record::GroupRecord;
use super::group::{ConsumerGroup, ResolvedRegex};
use super::member::Member;

/// The consumer group that a record is about; `None` if it is about no such group.
pub(in crate::group) fn group_of(record: &GroupRecord) -> Option<&str> {
    Some(match record {
        GroupRecord::ConsumerGroupMetadata(key, _) => &key.group_id,
        GroupRecord::ConsumerGroupPartitionMetadata(key, _) => &key.group_id,
        GroupRecord::ConsumerGroupMemberMetadata(key, _) => &key.group_id,
        GroupRecord::ConsumerGroupTargetAssignmentMetadata(key, _) => &key.group_id,
        GroupRecord::ConsumerGroupTargetAssignmentMember(key, _) => &key.group_id,
        GroupRecord::ConsumerGroupCurrentMemberAssignment(key, _) => &key.group_id,
        GroupRecord::ConsumerGroupRegularExpression(key, _) => &key.group_id,
        GroupRecord::OffsetCommit(..)
        | GroupRecord::GroupMetadata(..)
        | GroupRecord::ShareGroupMetadata(..)
        | GroupRecord::StreamsGroupMetadata(..) => return None,
    })
}

/// The member that a record says something of itself about; `None` of all that others decide for it.
pub(in crate::group) fn member_of(record: &GroupRecord) -> Option<&str> {
    match record {
        GroupRecord::ConsumerGroupMemberMetadata(key, _) => Some(&key.member_id),
        GroupRecord::ConsumerGroupCurrentMemberAssignment(key, _) => Some(&key.member_id),
        _ => None,
    }
}

/// Copies: what a record holds is its own.
pub(super) fn wire(text: &str) -> WireStr {
    WireStr::from(text.to_owned())
}

pub(super) fn epoch(group: &str, epoch: i32, metadata_hash: i64) -> GroupRecord {
    let value = ConsumerGroupMetadataValue { epoch, metadata_hash };
    (ConsumerGroupMetadataKey { group_id: wire(group) }, Some(value)).into()
}

pub(super) fn subscription(group: &str, member_id: &str, member: &Member) -> GroupRecord {
    let value = ConsumerGroupMemberMetadataValue {
        instance_id: member.instance_id.as_deref().map(wire),
        rack_id: member.rack_id.as_deref().map(wire),
        client_id: wire(&member.client_id),
        client_host: wire(&member.client_host),
        subscribed_topic_names: member.subscribed.iter().map(|name| wire(name)).collect(),
        subscribed_topic_regex: member.regex.as_deref().map(wire),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        server_assignor: member.assignor.as_deref().map(wire),
        classic_member_metadata: member.classic.as_ref().map(|classic| ClassicMemberMetadata {
            session_timeout_ms: classic.session_timeout_ms,
            supported_protocols: classic
                .protocols
                .iter()
                .map(|(name, metadata)| ClassicProtocol {
                    name: wire(name),
                    metadata: Bytes::copy_from_slice(metadata),
                })
                .collect(),
        }),
    };
    (member_key(group, member_id), Some(value)).into()
}

pub(super) fn target(group: &str, member_id: &str, target: &Assignment) -> GroupRecord {
    let topic_partitions = target
        .iter()
        .map(|(topic, partitions)| TopicPartition {
            topic_id: topic.0,
            partitions: partitions.iter().copied().collect(),
        })
        .collect();
    let value = ConsumerGroupTargetAssignmentMemberValue { topic_partitions };
    (target_key(group, member_id), Some(value)).into()
}

pub(super) fn target_epoch(group: &str, assignment_epoch: i32, assignment_timestamp: i64) -> GroupRecord {
    let value = ConsumerGroupTargetAssignmentMetadataValue { assignment_epoch, assignment_timestamp };
    (ConsumerGroupTargetAssignmentMetadataKey { group_id: wire(group) }, Some(value)).into()
}

pub(super) fn current(group: &str, member_id: &str, member: &Member) -> GroupRecord {
    (current_key(group, member_id), Some(member.current_assignment())).into()
}

pub(super) fn resolved_regex(group: &str, regex: &str, resolved: &ResolvedRegex) -> GroupRecord {
    let value = ConsumerGroupRegularExpressionValue {
        topics: resolved.topics.iter().map(|name| wire(name)).collect(),
        version: resolved.version,
        timestamp: resolved.timestamp,
    };
    (regex_key(group, regex), Some(value)).into()
}

pub(super) fn regex_tombstone(group: &str, regex: &str) -> GroupRecord {
    (regex_key(group, regex), None::<ConsumerGroupRegularExpressionValue>).into()
}

/// Kafka 4.0 kept there what the metadata's hash says since.
pub(super) fn partition_metadata_tombstone(group: &str) -> GroupRecord {
    let key = ConsumerGroupPartitionMetadataKey { group_id: wire(group) };
    (key, None::<ConsumerGroupPartitionMetadataValue>).into()
}

/// Tombstones of one member. Kafka refuses to load them in another order.
pub(super) fn member_tombstones(group: &str, member_id: &str) -> [GroupRecord; 3] {
    [
        (current_key(group, member_id), None::<ConsumerGroupCurrentMemberAssignmentValue>).into(),
        (target_key(group, member_id), None::<ConsumerGroupTargetAssignmentMemberValue>).into(),
        (member_key(group, member_id), None::<ConsumerGroupMemberMetadataValue>).into(),
    ]
}

/// Tombstones of a group and all it has, where `renamed` is the new id of a member that was just replaced.
pub(super) fn group_tombstones(
    id: &str,
    group: &ConsumerGroup,
    renamed: Option<(&str, &str)>,
) -> Vec<GroupRecord> {
    let name = |member_id: &str| match renamed {
        Some((old, new)) if old == member_id => wire(new),
        _ => wire(member_id),
    };
    let members: Vec<WireStr> = group.members().keys().map(|member_id| name(member_id)).collect();
    let mut records: Vec<GroupRecord> = Vec::with_capacity(3 * members.len() + 3);
    records.extend(members.iter().map(|member_id| {
        (current_key(id, member_id), None::<ConsumerGroupCurrentMemberAssignmentValue>).into()
    }));
    records.extend(members.iter().map(|member_id| {
        (target_key(id, member_id), None::<ConsumerGroupTargetAssignmentMemberValue>).into()
    }));
    let key = ConsumerGroupTargetAssignmentMetadataKey { group_id: wire(id) };
    records.push((key, None::<ConsumerGroupTargetAssignmentMetadataValue>).into());
    records.extend(
        members
            .iter()
            .map(|member_id| (member_key(id, member_id), None::<ConsumerGroupMemberMetadataValue>).into()),
    );
    records.extend(group.resolved().keys().map(|regex| regex_tombstone(id, regex)));
    records.push(partition_metadata_tombstone(id));
    let key = ConsumerGroupMetadataKey { group_id: wire(id) };
    records.push((key, None::<ConsumerGroupMetadataValue>).into());
    records
}

fn member_key(group: &str, member_id: &str) -> ConsumerGroupMemberMetadataKey {
    ConsumerGroupMemberMetadataKey { group_id: wire(group), member_id: wire(member_id) }
}

fn target_key(group: &str, member_id: &str) -> ConsumerGroupTargetAssignmentMemberKey {
    ConsumerGroupTargetAssignmentMemberKey { group_id: wire(group), member_id: wire(member_id) }
}

fn current_key(group: &str, member_id: &str) -> ConsumerGroupCurrentMemberAssignmentKey {
    ConsumerGroupCurrentMemberAssignmentKey { group_id: wire(group), member_id: wire(member_id) }
}

fn regex_key(group: &str, regex: &str) -> ConsumerGroupRegularExpressionKey {
    ConsumerGroupRegularExpressionKey { group_id: wire(group), regular_expression: wire(regex) }
}
