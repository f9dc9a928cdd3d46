//! What a client of the consumer protocol (KIP-848) sends, in few words.

#![allow(dead_code, reason = "each test binary uses a part")]

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_describe::DescribedGroup;
use klamm_protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, RequestTopicPartitions,
};
use klamm_protocol::wire::WireStr;

use super::world::{World, client};

/// Assignments are computed at once.
pub fn world() -> World {
    World::with_configs(&[("group.consumer.assignment.interval.ms", "0")])
}

pub fn text(text: &str) -> WireStr {
    WireStr::from(text.to_owned())
}

/// A member that joins with topics by name.
pub fn join(member_id: &str, topics: &[&str]) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        group_id: text("g"),
        member_id: text(member_id),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(topics.iter().map(|name| text(name)).collect()),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    }
}

/// A heartbeat that says nothing new.
pub fn beat(member_id: &str, member_epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        group_id: text("g"),
        member_id: text(member_id),
        member_epoch,
        ..Default::default()
    }
}

/// A heartbeat that says what the member has.
pub fn owning(
    member_id: &str,
    member_epoch: i32,
    owned: &[(TopicId, &[i32])],
) -> ConsumerGroupHeartbeatRequest {
    let owned = owned.iter().map(|(topic, partitions)| RequestTopicPartitions {
        topic_id: topic.0,
        partitions: partitions.to_vec(),
    });
    ConsumerGroupHeartbeatRequest { topic_partitions: Some(owned.collect()), ..beat(member_id, member_epoch) }
}

pub fn of_instance(
    instance_id: &str,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest { instance_id: Some(text(instance_id)), ..request }
}

pub fn say(world: &mut World, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
    say_in(world, 1, request)
}

pub fn say_in(
    world: &mut World,
    version: i16,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let command = GroupCommand::ConsumerGroupHeartbeat { request, version, client: client("c") };
    match world.call(command) {
        GroupReply::ConsumerGroupHeartbeat(response) => response,
        other => panic!("{other:?}"),
    }
}

pub fn error_of(response: &ConsumerGroupHeartbeatResponse) -> (ErrorCode, String) {
    let message = response.error_message.as_ref().map(ToString::to_string).unwrap_or_default();
    (ErrorCode::from_code(response.error_code).unwrap(), message)
}

/// The group `g` as ConsumerGroupDescribe shows it.
pub fn describe(world: &mut World) -> DescribedGroup {
    match world.call(GroupCommand::ConsumerGroupDescribe(text("g"))) {
        GroupReply::ConsumerGroupDescribe(group) => group,
        other => panic!("{other:?}"),
    }
}
