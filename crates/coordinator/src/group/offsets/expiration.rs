//! Offsets that go: by age, with their topic, on request.
//!
//! An offset of a topic that a member reads stays. Without members it is as old as the group's
//! emptiness or, in a group that only commits, as its commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_cluster::image::TopicImage;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};

use super::super::{Group, GroupCoordinator, GroupCtx, GroupOutcome};
use super::{CommittedOffset, Expiration, tombstone};

impl GroupCoordinator {
    /// Forgets what nobody has renewed for long, and groups that have neither members nor offsets.
    pub(in super::super) fn expire_offsets(&mut self, cx: &GroupCtx<'_>, out: &mut GroupOutcome) {
        out.is_divisible = true;
        for (id, group) in &self.groups {
            let expiration = match group {
                Group::Classic(group) => group.expiration(),
                Group::Consumer(group) => group.expiration(),
                Group::Share | Group::Streams => continue,
            };
            if self.expire_offsets_of(cx, id, group, expiration, out) && group.is_empty() {
                match group {
                    Group::Classic(group) => group.write_tombstones(id, out),
                    Group::Consumer(group) => group.write_tombstones(id, out),
                    Group::Share | Group::Streams => {}
                }
            }
        }
    }

    /// True if the group will have no offsets then.
    fn expire_offsets_of(
        &self,
        cx: &GroupCtx<'_>,
        id: &str,
        group: &Group,
        expiration: Option<Expiration>,
        out: &mut GroupOutcome,
    ) -> bool {
        let Some(offsets) = self.offsets.group(id) else { return true };
        let Some(expiration) = expiration else { return offsets.is_empty() };
        let is_due = |offset: &CommittedOffset| {
            if offset.expire_timestamp != -1 {
                return cx.wall.0 >= offset.expire_timestamp;
            }
            let since = match expiration {
                Expiration::SinceCommit => offset.commit_timestamp,
                Expiration::SinceEmpty(since) => since,
            };
            cx.wall.0.saturating_sub(since) >= cx.settings.offsets_retention_ms
        };
        let mut is_all = offsets.open.is_empty();
        for (topic, partitions) in offsets.committed.topics() {
            if group.is_subscribed_to(topic) {
                is_all = false;
                continue;
            }
            for (partition, offset) in partitions {
                if is_due(offset) && !offsets.open.contains(topic, *partition) {
                    out.write(tombstone(id, topic, *partition));
                } else {
                    is_all = false;
                }
            }
        }
        is_all
    }

    /// Forgets the offsets of topics that were deleted.
    pub(in super::super) fn delete_offsets_of<'a>(
        &mut self,
        topics: impl Iterator<Item = &'a Arc<TopicImage>> + Clone,
        out: &mut GroupOutcome,
    ) {
        out.is_divisible = true;
        let is_of = |offset: &CommittedOffset, topic: &TopicImage| {
            offset.topic_id == TopicId::default() || offset.topic_id == topic.id
        };
        for topic in topics {
            for (id, offsets) in &self.offsets.by_group {
                for (partition, offset) in offsets.committed.topic(&topic.name).into_iter().flatten() {
                    if is_of(offset, topic) {
                        out.write(tombstone(id, &topic.name, *partition));
                    }
                }
            }
            for (id, offsets) in self.offsets.pending.values().flatten() {
                for (partition, offset) in offsets.topic(&topic.name).into_iter().flatten() {
                    if is_of(offset, topic) {
                        out.write(tombstone(id, &topic.name, *partition));
                    }
                }
            }
        }
    }

    /// The same for topics that are not there any more: the records of it may have been refused, or a crash came
    /// before them. Who asks by name would take the offset for that of a later topic.
    pub(in super::super) fn delete_offsets_of_lost_topics(&self, cx: &GroupCtx<'_>, out: &mut GroupOutcome) {
        out.is_divisible = true;
        let mut last = (TopicId::default(), false);
        // Of most offsets the next one is of the same topic.
        let mut is_lost = |id: TopicId| {
            if id != last.0 {
                last = (id, id != TopicId::default() && cx.image.topic(id).is_none());
            }
            last.1
        };
        for (id, offsets) in &self.offsets.by_group {
            for (topic, partition, offset) in offsets.committed.iter() {
                // A tombstone would take what an open transaction is about to commit.
                if is_lost(offset.topic_id) && !offsets.open.contains(topic, partition) {
                    out.write(tombstone(id, topic, partition));
                }
            }
        }
    }

    pub(in super::super) fn delete_offsets(
        &mut self,
        request: &OffsetDeleteRequest,
        out: &mut GroupOutcome,
    ) -> OffsetDeleteResponse {
        let id: &str = &request.group_id;
        let failed =
            |error: ErrorCode| OffsetDeleteResponse { error_code: error.code(), ..Default::default() };
        let group = match self.groups.get(id) {
            _ if id.is_empty() => return failed(ErrorCode::InvalidGroupId),
            None | Some(Group::Share | Group::Streams) => return failed(ErrorCode::GroupIdNotFound),
            // What such members read is not known.
            Some(Group::Classic(group)) if !group.is_empty() && group.protocol_type() != "consumer" => {
                return failed(ErrorCode::NonEmptyGroup);
            }
            Some(group) => group,
        };
        let offsets = self.offsets.group(id);
        out.is_divisible = true;
        // A request may name a partition any number of times.
        let mut gone = BTreeSet::new();
        let topics = request.topics.iter().map(|topic| {
            let is_read = group.is_subscribed_to(&topic.name);
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let is_there = offsets.is_some_and(|offsets| {
                    offsets.committed.contains(&topic.name, index)
                        || offsets.open.contains(&topic.name, index)
                });
                if !is_read && is_there && gone.insert((topic.name.as_str(), index)) {
                    out.write(tombstone(id, &topic.name, index));
                }
                let error = if is_read { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
                OffsetDeleteResponsePartition {
                    partition_index: index,
                    error_code: error.code(),
                    ..Default::default()
                }
            });
            OffsetDeleteResponseTopic {
                name: topic.name.clone(),
                partitions: partitions.collect(),
                ..Default::default()
            }
        });
        OffsetDeleteResponse { topics: topics.collect(), ..Default::default() }
    }
}
