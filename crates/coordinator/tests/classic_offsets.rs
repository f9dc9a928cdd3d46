//! Offsets of classic groups: what they keep alive, how long they stay, and how they are deleted.

mod classic_client;
mod world;

use classic_client::{consumer, prompt_world, text};
use insta::assert_snapshot;
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::join_group::JoinGroupRequest;
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use world::World;

/// A group that nobody joins comes into being by a commit, and goes with its offsets.
#[test]
fn a_group_that_only_commits() {
    let mut world = prompt_world();
    assert_eq!(world.commit("", -1, 7), ErrorCode::None);
    world.describe();
    world.call(GroupCommand::ListGroups { states: Vec::new(), types: Vec::new() });
    world.crash();
    assert_eq!(world.state(), "Empty");
    // Somebody joins it, and leaves: it is kept as a group of consumers from then on.
    let ids = world.stable(&["a"]);
    assert_eq!(world.commit("", -1, 8), ErrorCode::UnknownMemberId);
    world.leave(&[(&ids[0], None)]);
    assert_eq!(world.commit("", -1, 8), ErrorCode::None);
    world.call(GroupCommand::DeleteGroup(text("g")));
    assert_eq!(world.state(), "Dead");
    assert_snapshot!(world.take_transcript());
}

/// Offsets of topics that members read stay; without members all grow old together.
#[test]
fn offsets_stay_while_somebody_reads_their_topic() {
    let mut world = World::with_configs(&[
        ("group.initial.rebalance.delay.ms", "0"),
        ("offsets.retention.minutes", "30"),
    ]);
    let commit_u = |world: &mut World| {
        let partition = OffsetCommitRequestPartition { committed_offset: 3, ..Default::default() };
        let topics = vec![OffsetCommitRequestTopic {
            name: text("u"),
            partitions: vec![partition],
            ..Default::default()
        }];
        let request = OffsetCommitRequest { group_id: text("g"), topics, ..Default::default() };
        world.call(GroupCommand::OffsetCommit { request, version: 9 });
    };
    world.commit("", -1, 7);
    commit_u(&mut world);
    let long = JoinGroupRequest { session_timeout_ms: 1_800_000, ..consumer() };
    let joined = world.join_by("a", long, 3);
    world.advance(0);
    let id = world.joined(joined).member_id.as_str().to_owned();
    world.sync(&id, 1, &[(&id, "t-0")]);
    let delete = |topic: &str| {
        let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
        let topics = vec![OffsetDeleteRequestTopic { name: text(topic), partitions }];
        GroupCommand::OffsetDelete(OffsetDeleteRequest { group_id: text("g"), topics })
    };
    world.call(delete("t"));
    world.take_transcript();
    world.advance(1_790_000);
    world.heartbeat(&id, 1);
    world.advance(20_000);
    world.leave(&[(&id, None)]);
    world.advance(1_700_000);
    world.advance(700_000);
    assert_eq!(world.state(), "Dead");
    assert_snapshot!(world.take_transcript());
}

/// A consumer group that has lost its last member becomes a classic one when a member of the old protocol comes.
#[test]
fn an_offset_is_deleted_once_however_often_it_is_named() {
    let mut world = prompt_world();
    assert_eq!(world.commit("", -1, 10), ErrorCode::None);
    let written = world.log.len();
    let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }; 1_000];
    let topics = vec![OffsetDeleteRequestTopic { name: text("t"), partitions }];
    let request = OffsetDeleteRequest { group_id: text("g"), topics };
    let GroupReply::OffsetDelete(answered) = world.call(GroupCommand::OffsetDelete(request)) else {
        panic!("another answer")
    };
    assert_eq!((answered.error_code, answered.topics[0].partitions.len()), (0, 1_000));
    assert_eq!(world.log.len(), written + 1);
}
