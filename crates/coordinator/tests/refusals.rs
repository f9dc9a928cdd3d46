//! A log that takes no records, or not so large ones: the request fails, and the machine goes on with what is written.

mod classic_client;
mod consumer_client;
mod world;

use bytes::Bytes;
use classic_client::{consumer, member, prompt_world, protocols};
use consumer_client::{beat, describe, error_of, join, say};
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::join_group::JoinGroupRequest;
use klamm_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use klamm_protocol::wire::WireStr;
use world::World;

fn text(text: &str) -> WireStr {
    WireStr::from(text.to_owned())
}

/// What a crash leaves is what lives.
fn assert_is_written(world: &mut World) {
    let before = describe(world);
    world.crash();
    assert_eq!(describe(world), before);
}

#[test]
fn an_assignment_that_is_not_written_is_nobodys_and_is_made_again() {
    let mut world = prompt_world();
    let ids = world.stable(&["a", "b"]);
    let joined: Vec<_> = ids.iter().map(|id| world.join("c", member(id))).collect();
    world.advance(0);
    let leader = joined.iter().map(|key| world.joined(*key).leader.to_string()).next().unwrap();
    let synced: Vec<_> = ids
        .iter()
        .map(|id| {
            world.refusals_left = 1;
            world.sync_as(id, 2, &leader, &ids)
        })
        .collect();
    for key in synced {
        let error = world.synced(key).error_code;
        let expected = [ErrorCode::NotCoordinator, ErrorCode::RebalanceInProgress].map(ErrorCode::code);
        assert!(expected.contains(&error), "{error}");
    }
    world.refusals_left = 0;
    assert_eq!(world.state(), "PreparingRebalance");
    let joined: Vec<_> = ids.iter().map(|id| world.join("c", member(id))).collect();
    world.advance(0);
    let leader = joined.iter().map(|key| world.joined(*key).leader.to_string()).next().unwrap();
    let synced: Vec<_> = ids.iter().map(|id| world.sync_as(id, 3, &leader, &ids)).collect();
    assert!(synced.into_iter().all(|key| world.synced(key).error_code == 0));
    assert_eq!(world.state(), "Stable");
    world.crash();
    assert!(ids.iter().all(|id| world.heartbeat(id, 3) == ErrorCode::None));
}

#[test]
fn that_the_last_member_went_is_written_as_soon_as_it_can_be() {
    let mut world = prompt_world();
    let ids = world.stable(&["a"]);
    world.refusals_left = 3;
    assert_eq!(world.leave(&[(&ids[0], None)]).error_code, ErrorCode::NotCoordinator.code());
    world.advance(2_000);
    assert_eq!(world.refusals_left, 0);
    world.advance(1_000);
    assert_eq!(world.state(), "Empty");
    world.crash();
    assert_eq!(world.state(), "Empty");
}

#[test]
fn a_commit_that_is_not_written_has_not_happened() {
    let mut world = prompt_world();
    world.create_topic("t", 1);
    assert_eq!(world.commit("", -1, 5), ErrorCode::None);
    world.refusals_left = 1;
    assert_eq!(world.commit("", -1, 6), ErrorCode::NotCoordinator);
    let records = world.log.len();
    assert_eq!(world.commit("", -1, 7), ErrorCode::None);
    assert_eq!(world.log.len(), records + 1);
}

#[test]
fn a_member_whose_join_is_not_written_joins_again() {
    let mut world = consumer_client::world();
    world.create_topic("t", 2);
    world.refusals_left = 1;
    assert_eq!(error_of(&say(&mut world, join("m", &["t"]))).0, ErrorCode::NotCoordinator);
    assert_eq!(describe(&mut world).error_code, ErrorCode::GroupIdNotFound.code());
    let joined = say(&mut world, join("m", &["t"]));
    assert_eq!((joined.error_code, joined.member_epoch), (0, 2));
    assert_is_written(&mut world);
}

#[test]
fn topics_that_changed_are_noticed_although_the_first_word_of_it_was_not_written() {
    let mut world = consumer_client::world();
    world.create_topic("t", 1);
    assert_eq!(say(&mut world, join("m", &["t"])).member_epoch, 2);
    world.create_topic("t", 2);
    world.refusals_left = 1;
    assert_eq!(error_of(&say(&mut world, beat("m", 2))).0, ErrorCode::NotCoordinator);
    let noticed = say(&mut world, beat("m", 2));
    assert_eq!(noticed.member_epoch, 3);
    assert_eq!(noticed.assignment.unwrap().topic_partitions[0].partitions, [0, 1]);
    assert_is_written(&mut world);
}

#[test]
fn a_member_that_cannot_be_fenced_is_fenced_later_and_nobody_else() {
    let mut world = consumer_client::world();
    world.create_topic("t", 2);
    say(&mut world, join("silent", &["t"]));
    say(&mut world, join("m", &["t"]));
    for _ in 0..8 {
        world.advance(5_000);
        let epoch =
            describe(&mut world).members.iter().find(|one| one.member_id == "m").unwrap().member_epoch;
        say(&mut world, beat("m", epoch));
    }
    world.refusals_left = 1;
    world.advance(5_000);
    let members = |world: &mut World| describe(world).members.len();
    assert_eq!((members(&mut world), world.refusals_left), (2, 0), "it was tried");
    for _ in 0..9 {
        world.advance(5_000);
        let epoch =
            describe(&mut world).members.iter().find(|one| one.member_id == "m").unwrap().member_epoch;
        say(&mut world, beat("m", epoch));
    }
    assert_eq!(members(&mut world), 1);
    assert_is_written(&mut world);
}

#[test]
fn a_heartbeat_that_makes_more_than_a_batch_is_refused_alone() {
    let mut world = consumer_client::world();
    world.create_topic("t", 2);
    assert_eq!(say(&mut world, join("m", &["t"])).member_epoch, 2);
    let names: Vec<String> =
        (0..40_000).map(|index| format!("a-topic-that-is-not-there-{index:08}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(error_of(&say(&mut world, join("large", &names))).0, ErrorCode::UnknownServerError);
    assert_eq!(describe(&mut world).members.len(), 1);
    assert_eq!(say(&mut world, beat("m", 2)).error_code, 0);
    assert_is_written(&mut world);
}

/// As Kafka: the process before goes on.
#[test]
fn a_static_member_that_says_more_than_a_batch_takes_replaces_nobody() {
    let mut world = prompt_world();
    world.batch_bytes_max = 1_000;
    let of_size = |size: usize| JoinGroupRequest {
        group_instance_id: Some(text("i")),
        protocols: protocols(&[("range", Bytes::from(vec![0; size]))]),
        protocol_type: text("other"),
        ..consumer()
    };
    let key = world.join("c", of_size(100));
    world.advance(0);
    let first = world.joined(key).member_id.to_string();
    let assignment = Bytes::from(vec![0; 500]);
    let request = SyncGroupRequest {
        group_id: text("g"),
        generation_id: 1,
        member_id: text(&first),
        assignments: vec![SyncGroupRequestAssignment { member_id: text(&first), assignment }],
        ..Default::default()
    };
    let key = world.ask(GroupCommand::SyncGroup(request));
    assert_eq!(world.synced(key).error_code, 0);

    // Alone too large, and together with what it was assigned.
    for size in [2_000, 500] {
        let key = world.join("c", of_size(size));
        let Some(GroupReply::JoinGroup(refused)) = world.take_reply(key) else { panic!("refused at once") };
        assert_eq!(refused.error_code, ErrorCode::UnknownServerError.code());
        assert_eq!((world.state(), world.heartbeat(&first, 1)), ("Stable".to_owned(), ErrorCode::None));
    }

    // One that is too large harms nobody as long as another is chosen.
    let two = [("range", Bytes::from(vec![0; 200])), ("large", Bytes::from(vec![0; 2_000]))];
    let key = world.join("c", JoinGroupRequest { protocols: protocols(&two), ..of_size(0) });
    let Some(GroupReply::JoinGroup(replaced)) = world.take_reply(key) else { panic!("replaced at once") };
    assert_eq!((replaced.error_code, replaced.generation_id), (0, 1));
    assert_eq!(world.heartbeat(&first, 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_group_with_many_offsets_is_deleted_in_several_batches() {
    let mut world = prompt_world();
    world.create_topic("t", 100);
    for partition in 0..100 {
        assert_eq!(world.commit_of("", -1, (Default::default(), partition), 1), ErrorCode::None);
    }
    world.batch_bytes_max = 500;
    match world.call(GroupCommand::DeleteGroup(text("g"))) {
        GroupReply::DeleteGroup(result) => assert_eq!(result.error_code, 0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn offsets_of_a_group_without_a_name_are_not_deleted() {
    let request = klamm_protocol::messages::offset_delete::OffsetDeleteRequest::default();
    match prompt_world().call(GroupCommand::OffsetDelete(request)) {
        GroupReply::OffsetDelete(response) => {
            assert_eq!(response.error_code, ErrorCode::InvalidGroupId.code());
        }
        other => panic!("{other:?}"),
    }
}

/// Its name may be another topic's later.
#[test]
fn offsets_of_a_deleted_topic_go_although_that_was_not_written() {
    for (refusals, is_crashed) in [(0, false), (1, false), (1, true)] {
        let mut world = prompt_world();
        let id = world.create_topic("t", 1);
        assert_eq!(world.commit_of("", -1, (id, 0), 5), ErrorCode::None);
        world.refusals_left = refusals;
        world.delete_topic("t");
        if is_crashed {
            world.crash();
        } else {
            world.advance(600_000);
        }
        assert_eq!(fetch_by_name(&mut world), -1);
        let other = world.create_topic("t", 1);
        assert_eq!(world.commit_of("", -1, (other, 0), 7), ErrorCode::None);
        world.advance(600_000);
        world.crash();
        assert_eq!(fetch_by_name(&mut world), 7);
    }
}

fn fetch_by_name(world: &mut World) -> i64 {
    let topic =
        OffsetFetchRequestTopics { name: text("t"), partition_indexes: vec![0], ..Default::default() };
    let group =
        OffsetFetchRequestGroup { group_id: text("g"), topics: Some(vec![topic]), ..Default::default() };
    match world.call(GroupCommand::OffsetFetch { group, require_stable: false }) {
        GroupReply::OffsetFetch(group) => group.topics[0].partitions[0].committed_offset,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_join_that_is_refused_again_and_again_keeps_no_silent_member() {
    let mut world = consumer_client::world();
    world.create_topic("t", 2);
    say(&mut world, join("silent", &["t"]));
    say(&mut world, join("m", &["t"]));
    for _ in 0..30 {
        world.advance(5_000);
        world.refusals_left = 1;
        assert_eq!(error_of(&say(&mut world, join("late", &["t"]))).0, ErrorCode::NotCoordinator);
        assert_eq!(world.refusals_left, 0);
        let epoch =
            describe(&mut world).members.iter().find(|one| one.member_id == "m").unwrap().member_epoch;
        say(&mut world, beat("m", epoch));
    }
    assert_eq!(describe(&mut world).members.len(), 1);
}
