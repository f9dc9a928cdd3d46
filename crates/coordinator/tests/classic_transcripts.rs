//! Conversations of classic members with their coordinator: what is asked, written and answered, and when.

mod classic_client;
mod world;

use classic_client::{consumer, member, prompt_world, protocols, subscription, text};
use insta::assert_snapshot;
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use klamm_protocol::messages::join_group::JoinGroupRequest;
use klamm_protocol::messages::leave_group::LeaveGroupRequest;
use klamm_protocol::messages::sync_group::SyncGroupRequest;
use klamm_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use world::{World, client};

/// Two consumers come within the initial delay, which the second one prolongs.
#[test]
fn consumers_form_a_group() {
    let mut world = World::new();
    let a = world.new_id("a");
    let joined_a = world.join("a", member(&a));
    world.advance(2_000);
    let b = world.new_id("b");
    let joined_b = world.join("b", member(&b));
    world.advance(1_000);
    assert!(world.is_parked(joined_a), "somebody came within the first three seconds, so three more");
    world.advance(3_000);
    assert_eq!(world.joined(joined_a).members.len(), 2);
    assert!(world.joined(joined_b).members.is_empty(), "the leader alone hears of the others");
    let synced_b = world.sync(&b, 1, &[]);
    assert!(world.is_parked(synced_b));
    world.sync(&a, 1, &[(&a, "t-0"), (&b, "t-1")]);
    assert_eq!(&*world.synced(synced_b).assignment, b"t-1");
    world.heartbeat(&a, 1);
    world.commit(&a, 1, 10);
    world.describe();
    world.call(GroupCommand::ListGroups { states: Vec::new(), types: Vec::new() });
    assert_snapshot!(world.take_transcript());
}

#[test]
fn members_come_and_go() {
    let mut world = prompt_world();
    let mut ids = world.stable(&["a", "b"]);
    world.take_transcript();
    ids.push(world.new_id("c"));
    let joined_c = world.join("c", member(&ids[2]));
    assert_eq!(world.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
    // Before it joins again a member commits what it has done.
    assert_eq!(world.commit(&ids[1], 1, 20), ErrorCode::None);
    world.join("b", member(&ids[1]));
    assert!(world.is_parked(joined_c));
    world.join("a", member(&ids[0]));
    assert_eq!(world.joined(joined_c).generation_id, 2);
    assert_eq!(world.commit(&ids[1], 2, 21), ErrorCode::RebalanceInProgress);
    for id in [&ids[2], &ids[0], &ids[1]] {
        world.sync_as(id, 2, &ids[0], &ids);
    }
    world.leave(&[(&ids[2], None)]);
    world.join("a", member(&ids[0]));
    let joined_b = world.join("b", member(&ids[1]));
    assert_eq!(world.joined(joined_b).generation_id, 3);
    world.sync_as(&ids[0], 3, &ids[0], &ids[..2]);
    world.leave(&[(&ids[0], None), (&ids[1], None), ("nobody", None)]);
    assert_eq!(world.state(), "Empty");
    assert_snapshot!(world.take_transcript());
}

/// A consumer of version 3 is a member at once, in version 0 one timeout serves for two.
#[test]
fn old_clients_need_no_id() {
    let mut world = prompt_world();
    let joined = world.join_by("a", JoinGroupRequest { rebalance_timeout_ms: -1, ..consumer() }, 0);
    world.advance(0);
    let id = world.joined(joined).member_id;
    world.sync(&id, 1, &[(&id, "t-0")]);
    assert_snapshot!(world.take_transcript());
}

#[test]
fn members_fail_in_every_state() {
    let mut world = prompt_world();
    // An id that is never used, and one that is used after it was given up.
    let a = world.new_id("a");
    world.advance(10_000);
    let joined = world.join("a", member(&a));
    assert_eq!(world.joined(joined).error_code, ErrorCode::UnknownMemberId.code());
    // Stable: a session ends, with a heartbeat shortly before.
    let ids = world.stable(&["b", "c"]);
    let [b, c] = &*ids else { unreachable!() };
    world.advance(9_000);
    world.heartbeat(b, 1);
    world.advance(1_000);
    assert_eq!(world.heartbeat(b, 1), ErrorCode::RebalanceInProgress);
    assert_eq!(world.heartbeat(c, 1), ErrorCode::UnknownMemberId);
    // Preparing: a member that does not join again is waited for, for as long as it sends heartbeats.
    let d = world.new_id("d");
    let joined_d = world.join("d", member(&d));
    for _ in 0..7 {
        world.advance(8_000);
        world.heartbeat(b, 1);
    }
    assert!(world.is_parked(joined_d));
    world.advance(4_000);
    assert_eq!(world.joined(joined_d).leader.as_str(), d);
    // Completing: the leader never assigns, but lives.
    for _ in 0..7 {
        world.advance(8_000);
        world.heartbeat(&d, 2);
    }
    assert_eq!(world.state(), "CompletingRebalance");
    world.advance(4_000);
    assert_eq!(world.state(), "Empty");
    assert_snapshot!(world.take_transcript());
}

/// A client that gave up waiting and joined anew left a member behind that can send no heartbeats.
#[test]
fn a_new_member_is_not_waited_for_forever() {
    let mut world = prompt_world();
    let ids = world.stable(&["a"]);
    let joined = world.join_by("b", JoinGroupRequest { rebalance_timeout_ms: 600_000, ..consumer() }, 3);
    for _ in 0..37 {
        world.advance(8_000);
        world.heartbeat(&ids[0], 1);
    }
    assert!(world.is_parked(joined));
    world.advance(4_000);
    assert_eq!(world.joined(joined).error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_member_that_leaves_while_it_waits_is_answered() {
    let mut world = prompt_world();
    let ids = world.stable(&["a", "b"]);
    let [a, b] = &*ids else { unreachable!() };
    world.take_transcript();
    let joined = world.join("a", member(a));
    world.leave(&[(a, None)]);
    assert_eq!(world.joined(joined).error_code, ErrorCode::UnknownMemberId.code());
    world.join("b", member(b));
    let c = world.new_id("c");
    world.join("c", member(&c));
    world.join("b", member(b));
    let waits = world.sync(&c, 3, &[]);
    world.leave(&[(&c, None)]);
    assert_eq!(world.synced(waits).error_code, ErrorCode::UnknownMemberId.code());
    assert_snapshot!(world.take_transcript());
}

/// Its connection was lost, so nobody hears the first answer.
#[test]
fn a_member_that_asks_again_is_answered_once_more() {
    let mut world = prompt_world();
    let ids = world.stable(&["a", "b"]);
    let [a, b] = &*ids else { unreachable!() };
    world.take_transcript();
    let first = world.join("a", member(a));
    let second = world.join("a", member(a));
    assert_eq!(world.joined(first).error_code, ErrorCode::RebalanceInProgress.code());
    world.join("b", member(b));
    assert_eq!(world.joined(second).generation_id, 2);
    // It joined already, and is told so again.
    let joined = world.join("b", member(b));
    assert_eq!(world.joined(joined).generation_id, 2);
    let first = world.sync(b, 2, &[]);
    let second = world.sync(b, 2, &[]);
    assert_eq!(world.synced(first).error_code, ErrorCode::RebalanceInProgress.code());
    world.sync(a, 2, &[(b, "t-0")]);
    assert_eq!(&*world.synced(second).assignment, b"t-0");
    let again = world.sync(b, 2, &[]);
    assert_eq!(&*world.synced(again).assignment, b"t-0");
    // In a stable group a follower that says the same is told the same.
    let joined = world.join("b", member(b));
    assert_eq!(world.joined(joined).generation_id, 2);
    let changed = JoinGroupRequest { protocols: protocols(&[("range", subscription(&["u"]))]), ..member(b) };
    let joined = world.join("b", changed);
    assert!(world.is_parked(joined));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_group_lives_through_a_crash_in_every_state() {
    let mut world = prompt_world();
    // With an id that was only given out.
    let a = world.new_id("a");
    world.crash();
    let joined = world.join("a", member(&a));
    assert_eq!(world.joined(joined).error_code, ErrorCode::UnknownMemberId.code());
    // While the first members join.
    let a = world.new_id("a");
    let joined = world.join("a", member(&a));
    assert!(world.crash().contains(&joined));
    assert_eq!(world.state(), "Empty");
    // While the leader assigns.
    let a = world.new_id("a");
    world.join("a", member(&a));
    world.advance(0);
    world.crash();
    let synced = world.sync(&a, 1, &[(&a, "t-0")]);
    assert_eq!(world.synced(synced).error_code, ErrorCode::UnknownMemberId.code());
    // When it is stable; sessions begin anew.
    let ids = world.stable(&["a", "b"]);
    let [a, b] = &*ids else { unreachable!() };
    world.advance(9_000);
    world.crash();
    world.advance(9_000);
    for id in [a, b] {
        assert_eq!(world.heartbeat(id, 1), ErrorCode::None);
    }
    let synced = world.sync(b, 1, &[]);
    assert_eq!(&*world.synced(synced).assignment, b.as_bytes());
    // During a later rebalance: whoever waited asks again.
    world.join("a", member(a));
    world.crash();
    assert_eq!(world.state(), "Stable");
    let joined_b = world.join("b", member(b));
    assert_eq!(world.joined(joined_b).generation_id, 1, "nothing has changed for a follower");
    world.join("a", member(a));
    let joined_b = world.join("b", member(b));
    assert_eq!(world.joined(joined_b).generation_id, 2);
    world.crash();
    let synced = world.sync(a, 2, &[]);
    assert_eq!(world.synced(synced).error_code, ErrorCode::IllegalGeneration.code());
    // When all have failed.
    world.advance(10_000);
    assert_eq!(world.state(), "Empty");
    world.crash();
    assert_eq!(world.state(), "Empty");
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_group_has_its_largest_size() {
    let mut world =
        World::with_configs(&[("group.initial.rebalance.delay.ms", "0"), ("group.max.size", "2")]);
    let ids = world.stable(&["a", "b"]);
    let joined = world.join("c", consumer());
    assert_eq!(world.joined(joined).error_code, ErrorCode::GroupMaxSizeReached.code());
    // One that was larger already gets smaller when it is loaded: the last ones to join are refused.
    world.set_config("group.max.size", "1");
    world.crash();
    assert_eq!(world.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
    world.take_transcript();
    world.join("b", member(&ids[1]));
    let joined = world.join("a", member(&ids[0]));
    assert_eq!(world.joined(joined).error_code, ErrorCode::GroupMaxSizeReached.code());
    world.advance(60_000);
    assert_snapshot!(world.take_transcript());
}

#[test]
fn members_agree_on_a_protocol() {
    let mut world = prompt_world();
    let metadata = subscription(&["t"]);
    let with = |names: &[&str]| {
        let listed: Vec<_> = names.iter().map(|name| (*name, metadata.clone())).collect();
        JoinGroupRequest { protocols: protocols(&listed), ..consumer() }
    };
    let joined = world.join_by("a", with(&["range", "sticky"]), 3);
    world.join_by("b", with(&["sticky", "other", "range"]), 3);
    let refused = world.join_by("c", with(&["other"]), 3);
    assert_eq!(world.joined(refused).error_code, ErrorCode::InconsistentGroupProtocol.code());
    world.join_by("d", with(&["sticky"]), 3);
    world.advance(0);
    assert_eq!(world.joined(joined).protocol_name.as_deref(), Some("sticky"));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn every_refusal_has_its_error() {
    let mut world = prompt_world();
    let ids = world.stable(&["a"]);
    let a = &*ids[0];
    world.take_transcript();
    let no_group = JoinGroupRequest { group_id: text(""), ..member(a) };
    let of_no_group = JoinGroupRequest { group_id: text("h"), ..member(a) };
    let short = JoinGroupRequest { session_timeout_ms: 5_999, ..member(a) };
    let long = JoinGroupRequest { session_timeout_ms: 1_800_001, ..member(a) };
    let connect = JoinGroupRequest { protocol_type: text("connect"), ..member(a) };
    let no_protocols = JoinGroupRequest { protocols: Vec::new(), ..member(a) };
    let no_member = member("nobody");
    let no_instance = JoinGroupRequest { group_instance_id: Some(text("i")), ..member(a) };
    for request in [no_group, of_no_group, short, long, connect, no_protocols, no_member, no_instance] {
        world.join("a", request);
    }
    let pending = world.new_id("b");
    world.join("b", JoinGroupRequest { group_instance_id: Some(text("i")), ..member(&pending) });
    world.join("b", JoinGroupRequest { group_id: text("i"), protocols: Vec::new(), ..consumer() });
    let sync =
        SyncGroupRequest { group_id: text("g"), generation_id: 1, member_id: text(a), ..Default::default() };
    for request in [
        SyncGroupRequest { group_id: text(""), ..sync.clone() },
        SyncGroupRequest { group_id: text("h"), ..sync.clone() },
        SyncGroupRequest { member_id: text("nobody"), ..sync.clone() },
        SyncGroupRequest { generation_id: 0, ..sync.clone() },
        SyncGroupRequest { generation_id: 2, ..sync.clone() },
        SyncGroupRequest { protocol_type: Some(text("connect")), ..sync.clone() },
        SyncGroupRequest { protocol_name: Some(text("sticky")), ..sync },
    ] {
        world.call(GroupCommand::SyncGroup(request));
    }
    world.heartbeat("nobody", 1);
    world.heartbeat(a, 0);
    world.heartbeat(a, 2);
    world.leave(&[("nobody", None), (a, Some("i"))]);
    world.call(GroupCommand::LeaveGroup(LeaveGroupRequest::default()));
    for (id, generation) in [("", -1), ("nobody", 1), (a, 0), (a, -1)] {
        world.commit(id, generation, 5);
    }
    world.call(GroupCommand::DeleteGroup(text("g")));
    world.call(GroupCommand::DeleteGroup(text("h")));
    for version in [5, 6] {
        world.call(GroupCommand::DescribeGroup { group_id: text("h"), version });
    }
    let transcript = world.take_transcript();
    let lines: Vec<&str> = transcript.lines().filter(|line| !line.is_empty()).collect();
    assert_snapshot!(lines.join("\n"));
}

/// Kafka Connect, schema registries: what they tell each other is theirs.
#[test]
fn a_group_of_another_protocol_type() {
    let mut world = prompt_world();
    let request = JoinGroupRequest {
        protocol_type: text("connect"),
        protocols: protocols(&[("sessioned", "anything".into())]),
        ..consumer()
    };
    let joined = world.join_by("a", request, 3);
    world.advance(0);
    let id = world.joined(joined).member_id;
    let assignments = &[(&*id, "tasks")];
    let key = world.sync(&id, 1, assignments);
    assert_eq!(world.synced(key).error_code, ErrorCode::InconsistentGroupProtocol.code());
    let key = world.sync_as(&id, 1, &id, &[id.as_str().to_owned()]);
    assert_eq!(world.synced(key).protocol_type.as_deref(), Some("connect"));
    world.crash();
    world.describe();
    world.call(GroupCommand::ListGroups { states: vec!["stable".into()], types: vec!["classic".into()] });
    assert_snapshot!(world.take_transcript());
}

/// Heartbeats are what a coordinator does all day.
#[test]
fn a_heartbeat_moves_no_timer() {
    let mut world = prompt_world();
    let ids = world.stable(&["a", "b"]);
    let timers = world.timers.clone();
    world.advance(3_000);
    world.heartbeat(&ids[0], 1);
    world.commit(&ids[0], 1, 5);
    assert_eq!(world.timers, timers);
    world.advance(7_000);
    assert_eq!(
        world.heartbeat(&ids[0], 1),
        ErrorCode::RebalanceInProgress,
        "it lives, the other one does not"
    );
}

#[test]
fn an_empty_consumer_group_becomes_a_classic_one() {
    let mut world = prompt_world();
    world.create_topic("t", 1);
    let heartbeat = |member_epoch| GroupCommand::ConsumerGroupHeartbeat {
        request: ConsumerGroupHeartbeatRequest {
            group_id: text("g"),
            member_id: text("m"),
            member_epoch,
            rebalance_timeout_ms: if member_epoch == 0 { 60_000 } else { -1 },
            subscribed_topic_names: (member_epoch == 0).then(|| vec![text("t")]),
            topic_partitions: (member_epoch == 0).then(Vec::new),
            ..Default::default()
        },
        version: 1,
        client: client("c"),
    };
    world.call(heartbeat(0));
    world.call(heartbeat(-1));
    // Whoever has an id has it from somewhere else.
    let joined = world.join("a", member("a-1"));
    assert_eq!(world.joined(joined).error_code, ErrorCode::UnknownMemberId.code());
    world.take_transcript();
    let ids = world.stable(&["a"]);
    world.crash();
    world.compact();
    world.crash();
    assert_eq!(world.heartbeat(&ids[0], 1), ErrorCode::None);
    world.call(GroupCommand::ListGroups { states: Vec::new(), types: Vec::new() });
    assert_snapshot!(world.take_transcript());
}

#[test]
fn more_than_one_batch_takes_is_refused_before_it_is_written() {
    let mut world = prompt_world();
    let ids = world.stable(&["a"]);
    let written = world.log.len();
    world.batch_bytes_max = 100;
    assert_eq!(world.commit(&ids[0], 1, 10), ErrorCode::UnknownServerError);
    let partition = TxnOffsetCommitRequestPartition::default();
    let topic =
        TxnOffsetCommitRequestTopic { name: text("t"), partitions: vec![partition; 2], ..Default::default() };
    let request = TxnOffsetCommitRequest {
        group_id: text("g"),
        member_id: text(&ids[0]),
        generation_id: 1,
        topics: vec![topic],
        ..Default::default()
    };
    let GroupReply::TxnOffsetCommit(answered) =
        world.call(GroupCommand::TxnOffsetCommit { request, version: 3 })
    else {
        panic!("another answer")
    };
    let errors: Vec<i16> =
        answered.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!(errors, [ErrorCode::UnknownServerError.code(); 2]);
    // What the leader assigns: the group begins another round.
    let joined = world.join("a", member(&ids[0]));
    world.advance(0);
    assert_eq!(world.joined(joined).generation_id, 2);
    let synced = world.sync_as(&ids[0], 2, &ids[0], &ids);
    assert_eq!(world.synced(synced).error_code, ErrorCode::UnknownServerError.code());
    assert_eq!(world.heartbeat(&ids[0], 2), ErrorCode::RebalanceInProgress);
    assert_eq!(world.log.len(), written);
    world.batch_bytes_max = 1_048_588;
    let joined = world.join("a", member(&ids[0]));
    world.advance(0);
    assert_eq!(world.joined(joined).generation_id, 3);
    let synced = world.sync_as(&ids[0], 3, &ids[0], &ids);
    assert_eq!(world.synced(synced).error_code, 0);
    assert_eq!(world.commit(&ids[0], 3, 10), ErrorCode::None);
}
