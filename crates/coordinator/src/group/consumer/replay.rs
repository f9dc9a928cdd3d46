//! Records of consumer groups become state: live, and from the log.
//!
//! Total: what Kafka's coordinator refuses to load (a group's tombstone before its members') is taken as
//! it is meant.

use std::sync::Arc;

use super::super::record::GroupRecord;
use super::super::{Group, GroupCoordinator};
use super::group::{ConsumerGroup, ResolvedRegex};
use super::member::{LEAVE_EPOCH, Member};
use klamm_protocol::ids::TopicId;

impl GroupCoordinator {
    /// Takes in a record of a consumer group; of others nothing.
    pub(in super::super) fn apply_consumer(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::ConsumerGroupMetadata(key, None) => {
                if let Some(Group::Consumer(_)) = self.groups.get(&*key.group_id) {
                    self.groups.remove(&*key.group_id);
                }
            }
            GroupRecord::ConsumerGroupMetadata(key, value) => {
                self.consumer(&key.group_id, value.is_some(), |group| {
                    if let Some(value) = value {
                        group.epoch = value.epoch;
                        group.metadata_hash = value.metadata_hash;
                    }
                })
            }
            GroupRecord::ConsumerGroupPartitionMetadata(key, value) => {
                self.consumer(&key.group_id, value.is_some(), |group| {
                    group.has_partition_metadata = value.is_some();
                });
            }
            GroupRecord::ConsumerGroupMemberMetadata(key, value) => {
                self.consumer(&key.group_id, value.is_some(), |group| match value {
                    Some(value) => {
                        let mut member = group.member(&key.member_id).cloned().unwrap_or_default();
                        member.subscribe(value);
                        group.put_member(&key.member_id, member);
                    }
                    None => group.remove_member(&key.member_id),
                });
            }
            GroupRecord::ConsumerGroupTargetAssignmentMetadata(key, value) => {
                self.consumer(&key.group_id, value.is_some(), |group| {
                    (group.assignment_epoch, group.assignment_timestamp) = value
                        .as_ref()
                        .map_or((-1, 0), |value| (value.assignment_epoch, value.assignment_timestamp));
                });
            }
            GroupRecord::ConsumerGroupTargetAssignmentMember(key, value) => {
                let target = value.as_ref().map(|value| {
                    let topics = value.topic_partitions.iter();
                    topics
                        .map(|one| (TopicId(one.topic_id), one.partitions.iter().copied().collect()))
                        .collect()
                });
                self.consumer(&key.group_id, value.is_some(), |group| {
                    group.put_target(&key.member_id, target)
                });
            }
            GroupRecord::ConsumerGroupCurrentMemberAssignment(key, value) => {
                self.consumer(&key.group_id, value.is_some(), |group| {
                    let known = group.member(&key.member_id).cloned();
                    match (value, known) {
                        (Some(value), known) => {
                            let mut member = known.unwrap_or_default();
                            member.assign(value);
                            group.put_member(&key.member_id, member);
                        }
                        (None, Some(member)) => {
                            let left = Member {
                                member_epoch: LEAVE_EPOCH,
                                previous_member_epoch: LEAVE_EPOCH,
                                assigned: Arc::default(),
                                pending_revocation: Arc::default(),
                                ..member
                            };
                            group.put_member(&key.member_id, left);
                        }
                        (None, None) => {}
                    }
                });
            }
            GroupRecord::ConsumerGroupRegularExpression(key, value) => {
                let resolved = value.as_ref().map(|value| ResolvedRegex {
                    topics: value.topics.iter().map(|name| Arc::from(&**name)).collect(),
                    version: value.version,
                    timestamp: value.timestamp,
                });
                self.consumer(&key.group_id, value.is_some(), |group| {
                    group.put_resolved(&key.regular_expression, resolved);
                });
            }
            GroupRecord::OffsetCommit(..)
            | GroupRecord::GroupMetadata(..)
            | GroupRecord::ShareGroupMetadata(..)
            | GroupRecord::StreamsGroupMetadata(..) => {}
        }
    }

    /// Changes a consumer group. Without one a tombstone means nothing, and a value makes it, in
    /// the place of a group of another kind that it follows in the log.
    fn consumer(&mut self, id: &str, makes_it: bool, change: impl FnOnce(&mut ConsumerGroup)) {
        if !matches!(self.groups.get(id), Some(Group::Consumer(_))) {
            if !makes_it {
                return;
            }
            self.groups.insert(id.into(), Group::Consumer(Box::default()));
        }
        if let Some(Group::Consumer(group)) = self.groups.get_mut(id) {
            change(group);
        }
    }
}
