//! ConsumerGroupDescribe, versions 0-1: a group as it is, one answer per group.
//!
//! Version 1 tells classic members from others.

use std::collections::BTreeMap;

use klamm_cluster::image::MetadataImage;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_describe::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use klamm_protocol::wire::WireStr;

use super::super::{Group, GroupCoordinator, GroupCtx};
use super::Refusal;
use super::group::ConsumerGroup;
use super::member::Member;
use super::records::wire;
use super::target::preferred;

const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

impl GroupCoordinator {
    pub(in super::super) fn describe_consumer(&self, cx: &GroupCtx<'_>, id: &str) -> DescribedGroup {
        let refusal = match self.groups.get(id) {
            Some(Group::Consumer(group)) => return describe(cx, id, group),
            Some(_) => Refusal::not_a_consumer_group(id),
            None => Refusal::group_not_found(id),
        };
        DescribedGroup {
            group_id: wire(id),
            error_code: refusal.error.code(),
            error_message: Some(WireStr::from(refusal.message)),
            ..Default::default()
        }
    }
}

fn describe(cx: &GroupCtx<'_>, id: &str, group: &ConsumerGroup) -> DescribedGroup {
    let assignor = preferred(&cx.settings.consumer.assignors, |name| group.assignors().of(name));
    let members = group.members().iter();
    DescribedGroup {
        group_id: wire(id),
        group_state: WireStr::from_static(group.state_name()),
        group_epoch: group.epoch,
        assignment_epoch: group.assignment_epoch,
        assignor_name: wire(assignor),
        members: members
            .map(|(member_id, member)| describe_member(cx.image, group, member_id, member))
            .collect(),
        ..Default::default()
    }
}

fn describe_member(
    image: &MetadataImage,
    group: &ConsumerGroup,
    id: &str,
    member: &Member,
) -> DescribedMember {
    let mut held = BTreeMap::<TopicId, Vec<i32>>::new();
    for (topic, partition) in member.held() {
        held.entry(topic).or_default().push(partition);
    }
    let target = group.targets().get(id);
    let target = target
        .into_iter()
        .flatten()
        .map(|(topic, partitions)| (*topic, partitions.iter().copied().collect()));
    DescribedMember {
        member_id: wire(id),
        instance_id: member.instance_id.as_deref().map(wire),
        rack_id: member.rack_id.as_deref().map(wire),
        member_epoch: member.member_epoch,
        client_id: wire(&member.client_id),
        client_host: wire(&member.client_host),
        subscribed_topic_names: member.subscribed.iter().map(|name| wire(name)).collect(),
        subscribed_topic_regex: member.regex.as_deref().map(wire),
        assignment: named(image, held),
        target_assignment: named(image, target),
        member_type: if member.is_classic() { CLASSIC_MEMBER } else { CONSUMER_MEMBER },
    }
}

/// Topics that are gone have no name, and are left out.
fn named(image: &MetadataImage, topics: impl IntoIterator<Item = (TopicId, Vec<i32>)>) -> Assignment {
    let topics = topics.into_iter().filter_map(|(id, partitions)| {
        let topic_name = wire(&image.topic(id)?.name);
        Some(TopicPartitions { topic_id: id.0, topic_name, partitions })
    });
    Assignment { topic_partitions: topics.collect() }
}
