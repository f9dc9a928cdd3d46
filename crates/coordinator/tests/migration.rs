//! Groups that change between the classic and the consumer protocol while their members go on (KIP-848).

mod classic_client;
mod consumer_client;
mod world;

use bytes::Bytes;
use classic_client::{instance, member, text};
use consumer_client::{beat, describe, error_of, join, of_instance, owning, say};
use insta::assert_snapshot;
use klamm_coordinator::contract::ReplyKey;
use klamm_coordinator::group::GroupCommand;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_protocol::{
    ConsumerProtocolAssignment, ConsumerProtocolAssignmentTopicPartition, ConsumerProtocolSubscription,
    ConsumerProtocolSubscriptionTopicPartition,
};
use klamm_protocol::messages::join_group::JoinGroupRequest;
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use klamm_protocol::wire::{decode_versioned, encode_versioned};
use world::World;

fn world(configs: &[(&str, &str)]) -> (World, TopicId) {
    let mut all =
        vec![("group.initial.rebalance.delay.ms", "0"), ("group.consumer.assignment.interval.ms", "0")];
    all.extend(configs);
    let mut world = World::with_configs(&all);
    let topic = world.create_topic("t", 4);
    (world, topic)
}

/// Partitions of `t`.
fn assignment(partitions: &[i32], user_data: Option<Bytes>) -> Bytes {
    let topic =
        ConsumerProtocolAssignmentTopicPartition { topic: text("t"), partitions: partitions.to_vec() };
    let assignment = ConsumerProtocolAssignment { assigned_partitions: vec![topic], user_data };
    encode_versioned(&assignment, 1).unwrap()
}

/// A classic consumer that joins again with what it has of `t`.
fn owner(id: &str, owned: &[i32]) -> JoinGroupRequest {
    let topic = ConsumerProtocolSubscriptionTopicPartition { topic: text("t"), partitions: owned.to_vec() };
    let subscription = ConsumerProtocolSubscription {
        topics: vec![text("t")],
        owned_partitions: vec![topic],
        ..Default::default()
    };
    let mut request = member(id);
    request.protocols[0].metadata = encode_versioned(&subscription, 1).unwrap();
    request
}

fn sync_with(world: &mut World, id: &str, generation_id: i32, assignments: &[(&str, Bytes)]) -> ReplyKey {
    let assignments = assignments.iter().map(|(id, assignment)| SyncGroupRequestAssignment {
        member_id: text(id),
        assignment: assignment.clone(),
    });
    world.ask(GroupCommand::SyncGroup(SyncGroupRequest {
        group_id: text("g"),
        generation_id,
        member_id: text(id),
        assignments: assignments.collect(),
        ..Default::default()
    }))
}

/// The partitions of `t` that the member is assigned.
fn synced(world: &mut World, id: &str, generation_id: i32) -> Vec<i32> {
    let key = sync_with(world, id, generation_id, &[]);
    let response = world.synced(key);
    assert_eq!(response.error_code, 0);
    let (_, assignment) = decode_versioned::<ConsumerProtocolAssignment>(response.assignment).unwrap();
    assignment.assigned_partitions.into_iter().flat_map(|topic| topic.partitions).collect()
}

/// A classic group of one consumer, which has all of `t`.
fn classic_group(world: &mut World) -> String {
    let id = world.new_id("a");
    let joined = world.join("a", member(&id));
    world.advance(0);
    assert_eq!(world.joined(joined).generation_id, 1);
    let key = sync_with(world, &id, 1, &[(&id, assignment(&[0, 1, 2, 3], None))]);
    assert_eq!(world.synced(key).error_code, 0);
    id
}

fn joined(world: &mut World, request: JoinGroupRequest) -> (ErrorCode, i32) {
    let key = world.join("a", request);
    let response = world.joined(key);
    (ErrorCode::from_code(response.error_code).unwrap(), response.generation_id)
}

#[test]
fn a_classic_group_becomes_a_consumer_group_and_one_again() {
    let (mut world, t) = world(&[]);
    let a = classic_group(&mut world);
    world.commit(&a, 1, 5);
    world.take_transcript();
    // The first of the new protocol gets nothing yet: all is held.
    assert_eq!(say(&mut world, join("new", &["t"])).member_epoch, 2);
    assert_eq!(world.heartbeat(&a, 1), ErrorCode::RebalanceInProgress);
    // The classic member goes on with what it keeps, and says so when it has given up the rest.
    assert_eq!(joined(&mut world, owner(&a, &[0, 1, 2, 3])), (ErrorCode::None, 1));
    assert_eq!(synced(&mut world, &a, 1), [0, 1]);
    assert_eq!(world.commit(&a, 1, 6), ErrorCode::None);
    assert_eq!(world.heartbeat(&a, 1), ErrorCode::RebalanceInProgress);
    assert_eq!(joined(&mut world, owner(&a, &[0, 1])), (ErrorCode::None, 2));
    assert_eq!(synced(&mut world, &a, 2), [0, 1]);
    assert_eq!(world.heartbeat(&a, 2), ErrorCode::None);
    say(&mut world, owning("new", 2, &[(t, &[])]));
    assert_eq!(describe(&mut world).group_state, "Stable");
    // The last of the new protocol goes, and the rest is a classic group that joins again.
    say(&mut world, beat("new", -1));
    world.advance(0);
    assert_eq!(world.heartbeat(&a, 2), ErrorCode::RebalanceInProgress);
    assert_eq!(joined(&mut world, owner(&a, &[0, 1])), (ErrorCode::None, 3));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn members_that_wait_for_a_classic_rebalance_are_sent_to_the_new_group() {
    let (mut world, _) = world(&[]);
    let a = classic_group(&mut world);
    let b = world.new_id("b");
    let waiting = world.join("b", member(&b));
    assert!(world.is_parked(waiting));
    say(&mut world, join("new", &["t"]));
    let response = world.joined(waiting);
    assert_eq!((response.error_code, &*response.member_id), (ErrorCode::RebalanceInProgress.code(), &*b));
    assert_eq!(describe(&mut world).members.len(), 3);
    assert_eq!(world.heartbeat(&a, 1), ErrorCode::RebalanceInProgress);
    world.crash();
    assert_eq!(describe(&mut world).members.len(), 3);
    assert_eq!(joined(&mut world, owner(&a, &[0, 1, 2, 3])).0, ErrorCode::None);
}

#[test]
fn classic_members_join_a_consumer_group() {
    let (mut world, t) = world(&[]);
    say(&mut world, join("new", &["t"]));
    world.take_transcript();
    let a = world.new_id("a");
    assert_eq!(joined(&mut world, member(&a)), (ErrorCode::None, 3));
    assert!(synced(&mut world, &a, 3).is_empty());
    // It waits for what the other has, and is told when that is free.
    assert_eq!(world.heartbeat(&a, 3), ErrorCode::None);
    say(&mut world, owning("new", 2, &[(t, &[0, 1, 2, 3])]));
    assert_eq!(world.heartbeat(&a, 3), ErrorCode::None);
    say(&mut world, owning("new", 2, &[(t, &[0, 1])]));
    assert_eq!(world.heartbeat(&a, 3), ErrorCode::RebalanceInProgress);
    assert_eq!(joined(&mut world, owner(&a, &[])), (ErrorCode::None, 3));
    assert_eq!(synced(&mut world, &a, 3), [2, 3]);
    world.leave(&[(&a, None), ("nobody", None), ("", Some("nobody"))]);
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_classic_member_in_a_consumer_group_is_refused_as_kafka_does() {
    let (mut world, _) = world(&[]);
    say(&mut world, join("new", &["t"]));
    let a = world.new_id("a");
    assert_eq!(joined(&mut world, member(&a)).0, ErrorCode::None);
    let mut other = member("other");
    other.protocols[0].name = text("sticky");
    assert_eq!(joined(&mut world, other).0, ErrorCode::InconsistentGroupProtocol);
    let mut malformed = member("other");
    malformed.protocols[0].metadata = Bytes::from_static(b"\0\x01\x7f");
    assert_eq!(joined(&mut world, malformed).0, ErrorCode::InconsistentGroupProtocol);
    let connect = JoinGroupRequest { protocol_type: text("connect"), ..member("other") };
    assert_eq!(joined(&mut world, connect).0, ErrorCode::InconsistentGroupProtocol);
    let static_member = JoinGroupRequest { member_id: text("other"), ..instance("i") };
    assert_eq!(joined(&mut world, static_member).0, ErrorCode::UnknownMemberId);

    assert_eq!(world.heartbeat("nobody", 3), ErrorCode::UnknownMemberId);
    assert_eq!(world.heartbeat("new", 2), ErrorCode::UnknownMemberId, "it is of the other protocol");
    assert_eq!(world.heartbeat(&a, 2), ErrorCode::IllegalGeneration);
    let refused = |world: &mut World, request: SyncGroupRequest| {
        let key = world.ask(GroupCommand::SyncGroup(request));
        ErrorCode::from_code(world.synced(key).error_code).unwrap()
    };
    let sync = || SyncGroupRequest {
        group_id: text("g"),
        generation_id: 3,
        member_id: text(&a),
        ..Default::default()
    };
    let other_generation = SyncGroupRequest { generation_id: 2, ..sync() };
    assert_eq!(refused(&mut world, other_generation), ErrorCode::IllegalGeneration);
    let other_type = SyncGroupRequest { protocol_type: Some(text("connect")), ..sync() };
    assert_eq!(refused(&mut world, other_type), ErrorCode::InconsistentGroupProtocol);
    let other_name = SyncGroupRequest { protocol_name: Some(text("sticky")), ..sync() };
    assert_eq!(refused(&mut world, other_name), ErrorCode::InconsistentGroupProtocol);
    say(&mut world, join("newer", &["t"]));
    assert_eq!(refused(&mut world, sync()), ErrorCode::RebalanceInProgress);
    // A commit of another generation is told so in the classic way.
    assert_eq!(world.commit(&a, 9, 1), ErrorCode::IllegalGeneration);
    world.set_config("group.consumer.migration.policy", "disabled");
    assert_eq!(joined(&mut world, member(&a)).0, ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn classic_members_have_their_own_timeouts() {
    let (mut world, t) = world(&[]);
    say(&mut world, join("new", &["t"]));
    let fenced = |world: &mut World, id: &str| world.heartbeat(id, 3) == ErrorCode::UnknownMemberId;
    // Its session: ten seconds.
    let a = world.new_id("a");
    assert_eq!(joined(&mut world, member(&a)).1, 3);
    world.advance(9_999);
    assert!(!fenced(&mut world, &a));
    world.advance(10_000);
    assert!(fenced(&mut world, &a));
    // It never fetched its assignment: the rebalance timeout of a minute.
    assert_eq!(say(&mut world, owning("new", 2, &[(t, &[0, 1, 2, 3])])).member_epoch, 4);
    let b = world.new_id("b");
    assert_eq!(joined(&mut world, member(&b)).1, 5);
    say(&mut world, owning("new", 4, &[(t, &[0, 1, 2, 3])]));
    assert_eq!(say(&mut world, owning("new", 4, &[(t, &[0, 1])])).member_epoch, 5);
    for _ in 0..8 {
        world.heartbeat(&b, 5);
        say(&mut world, beat("new", 5));
        world.advance(8_000);
    }
    assert_eq!(world.heartbeat(&b, 5), ErrorCode::UnknownMemberId);
}

#[test]
fn a_static_member_changes_its_protocol() {
    let (mut world, t) = world(&[]);
    say(&mut world, of_instance("i", join("new", &["t"])));
    world.take_transcript();
    // The old process has not left, and the new one is classic: no rebalance, what it has stays, and with the
    // last member of the new protocol the group changes too.
    let key = world.join("a", instance("i"));
    let response = world.joined(key);
    assert_eq!((response.error_code, response.generation_id), (0, 2));
    world.advance(0);
    let id = response.member_id.to_string();
    assert_eq!(synced(&mut world, &id, 2), [0, 1, 2, 3]);
    assert_eq!(error_of(&say(&mut world, of_instance("i", beat("new", 2)))).0, ErrorCode::GroupIdNotFound);
    // And back.
    let back = say(&mut world, of_instance("i", join("newer", &["t"])));
    assert_eq!(back.assignment.unwrap().topic_partitions[0].partitions, [0, 1, 2, 3]);
    assert_eq!(
        say(&mut world, of_instance("i", owning("newer", back.member_epoch, &[(t, &[0, 1, 2, 3])])))
            .error_code,
        0
    );
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_group_that_may_not_change_stays() {
    for (configs, protocol, metadata, reason) in [
        (
            &[("group.consumer.migration.policy", "downgrade")][..],
            "consumer",
            None,
            "online upgrade is disabled.",
        ),
        (&[], "connect", None, "the group does not use the consumer embedded protocol."),
        (
            &[("group.consumer.max.size", "1")],
            "consumer",
            None,
            "the group size exceeds the consumer group maximum size.",
        ),
        (
            &[],
            "consumer",
            Some(Bytes::from_static(b"mine")),
            "an unsupported custom assignor is in use. Please refer to the documentation or switch to a default \
             assignor before re-attempting the upgrade.",
        ),
    ] {
        let (mut world, _) = world(configs);
        let of_type = |id: &str| JoinGroupRequest { protocol_type: text(protocol), ..member(id) };
        let mut ids = Vec::new();
        for client in ["a", "b"] {
            let request = of_type("");
            let key = world.join(client, request);
            ids.push(world.joined(key).member_id.to_string());
        }
        let first = world.join("a", of_type(&ids[0]));
        let second = world.join("b", of_type(&ids[1]));
        world.advance(0);
        let leader = world.joined(first).leader.to_string();
        world.joined(second);
        let assigned: Vec<(&str, Bytes)> =
            ids.iter().map(|id| (&**id, assignment(&[], metadata.clone()))).collect();
        let key = sync_with(&mut world, &leader, 1, &assigned);
        assert_eq!(world.synced(key).error_code, 0);
        let (error, message) = error_of(&say(&mut world, join("new", &["t"])));
        assert_eq!(error, ErrorCode::GroupIdNotFound);
        assert_eq!(message, format!("Cannot upgrade classic group g to consumer group because {reason}"));
        assert_eq!(world.heartbeat(&ids[0], 1), ErrorCode::None);
    }
}

#[test]
fn a_downgrade_that_is_not_allowed_leaves_a_consumer_group_of_classic_members() {
    let (mut world, _) = world(&[("group.consumer.migration.policy", "upgrade")]);
    let a = classic_group(&mut world);
    say(&mut world, join("new", &["t"]));
    say(&mut world, beat("new", -1));
    let group = describe(&mut world);
    assert_eq!((group.error_code, group.members.len()), (0, 1));
    assert_eq!(joined(&mut world, owner(&a, &[0, 1, 2, 3])).0, ErrorCode::None);
}

#[test]
fn empty_groups_change_without_ceremony() {
    let (mut world, _) = world(&[]);
    let a = classic_group(&mut world);
    world.leave(&[(&a, None)]);
    world.take_transcript();
    assert_eq!(say(&mut world, join("new", &["t"])).member_epoch, 2);
    say(&mut world, beat("new", -1));
    let b = world.new_id("b");
    let key = world.join("b", member(&b));
    world.advance(0);
    assert_eq!(world.joined(key).generation_id, 1);
    assert_snapshot!(world.take_transcript());
    assert_eq!(world.state(), "CompletingRebalance");
}
