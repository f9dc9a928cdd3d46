//! Conversations with a consumer group (KIP-848): what members say, which records follow, what they are told.

mod consumer_client;
mod world;

use consumer_client::{beat, describe, error_of, join, of_instance, owning, say, say_in, text, world};
use insta::assert_snapshot;
use klamm_cluster::image::ConfigResourceType;
use klamm_cluster::record::MetadataRecord;
use klamm_coordinator::group::{Client, GroupCommand, GroupReply, GroupTimer};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use klamm_protocol::messages::group_records::{
    ConsumerGroupPartitionMetadataKey, ConsumerGroupPartitionMetadataValue,
};
use klamm_protocol::messages::metadata_records::ConfigRecord;
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_fetch::OffsetFetchRequestGroup;
use world::World;

#[test]
fn a_member_joins_and_another_takes_half_of_it() {
    let mut world = world();
    let t = world.create_topic("t", 4);
    world.take_transcript();
    say(&mut world, join("a", &["t"]));
    say(&mut world, join("b", &["t"]));
    // The first learns what it must give up, and says when it has.
    say(&mut world, beat("a", 2));
    say(&mut world, owning("a", 2, &[(t, &[0, 1, 2, 3])]));
    say(&mut world, owning("a", 2, &[(t, &[0, 1])]));
    say(&mut world, beat("b", 3));
    say(&mut world, beat("b", 3));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn members_leave_and_the_last_leaves_an_empty_group() {
    let mut world = world();
    world.create_topic("t", 2);
    say(&mut world, join("a", &["t"]));
    say(&mut world, join("b", &["t"]));
    world.take_transcript();
    say(&mut world, beat("b", -1));
    say(&mut world, beat("a", 2));
    say(&mut world, beat("a", -1));
    say(&mut world, beat("a", -1));
    describe(&mut world);
    world.call(GroupCommand::DeleteGroup(text("g")));
    describe(&mut world);
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_static_member_goes_for_a_while_and_is_replaced() {
    let mut world = world();
    let t = world.create_topic("t", 2);
    say(&mut world, of_instance("i", join("a", &["t"])));
    world.take_transcript();
    // While it is there nobody takes its place.
    say(&mut world, of_instance("i", join("b", &["t"])));
    say(&mut world, of_instance("i", beat("b", 2)));
    say(&mut world, of_instance("j", beat("a", 2)));
    say(&mut world, of_instance("i", beat("a", -2)));
    // Another with the same name gets what it had, without a rebalance.
    say(&mut world, of_instance("i", join("b", &["t"])));
    say(&mut world, of_instance("i", owning("a", 2, &[(t, &[0, 1])])));
    say(&mut world, of_instance("i", beat("b", -1)));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn the_epoch_before_is_tolerated_and_others_are_fenced() {
    let mut world = world();
    let t = world.create_topic("t", 2);
    let u = world.create_topic("u", 1);
    say(&mut world, join("a", &["t"]));
    let more = ConsumerGroupHeartbeatRequest {
        subscribed_topic_names: Some(vec![text("t"), text("u")]),
        ..owning("a", 2, &[(t, &[0, 1])])
    };
    assert_eq!(say(&mut world, more).member_epoch, 3);
    // The answer was lost: it says what it had, and gets the answer again if it sends all.
    assert_eq!(say(&mut world, owning("a", 2, &[(t, &[0])])).member_epoch, 3);
    let all = ConsumerGroupHeartbeatRequest { member_epoch: 2, ..join("a", &["t", "u"]) };
    assert!(say(&mut world, all).assignment.is_some());
    for (request, relation) in [
        (beat("a", 2), "smaller member epoch (2)"),
        (owning("a", 2, &[(t, &[0, 7])]), "smaller member epoch (2)"),
        (owning("a", 1, &[(t, &[0])]), "smaller member epoch (1)"),
        (owning("a", 4, &[(u, &[0])]), "greater member epoch (4)"),
    ] {
        let (error, message) = error_of(&say(&mut world, request));
        assert_eq!(error, ErrorCode::FencedMemberEpoch);
        let expected = format!(
            "The consumer group member has a {relation} than the one known by the group coordinator (3). The \
             member must abandon all its partitions and rejoin."
        );
        assert_eq!(message, expected);
    }
    // Who was fenced comes back with epoch 0 and keeps its partitions.
    let again = say(&mut world, join("a", &["t", "u"]));
    assert_eq!((again.member_epoch, again.assignment.unwrap().topic_partitions.len()), (3, 2));
}

#[test]
fn what_makes_no_sense_is_refused_in_kafkas_words() {
    use ErrorCode::{
        GroupIdNotFound, GroupMaxSizeReached, InvalidRegularExpression, InvalidRequest, UnknownMemberId,
        UnsupportedAssignor, UnsupportedVersion,
    };
    let mut world = World::with_configs(&[("group.consumer.max.size", "1")]);
    say(&mut world, join("a", &["t"]));
    let joining = || join("b", &["t"]);
    let cases: Vec<(i16, ConsumerGroupHeartbeatRequest, ErrorCode, &str)> = vec![
        (
            1,
            ConsumerGroupHeartbeatRequest { member_id: text(""), ..joining() },
            InvalidRequest,
            "MemberId can't be empty.",
        ),
        (0, beat("", 1), InvalidRequest, "MemberId can't be empty."),
        (0, beat("", -1), InvalidRequest, "MemberId can't be empty."),
        (
            1,
            ConsumerGroupHeartbeatRequest { group_id: text(" "), ..joining() },
            InvalidRequest,
            "GroupId can't be empty.",
        ),
        (1, of_instance("", joining()), InvalidRequest, "InstanceId can't be empty."),
        (
            1,
            ConsumerGroupHeartbeatRequest { rack_id: Some(text("")), ..joining() },
            InvalidRequest,
            "RackId can't be empty.",
        ),
        (1, beat("b", 0), InvalidRequest, "RebalanceTimeoutMs must be provided in first request."),
        (
            1,
            ConsumerGroupHeartbeatRequest { topic_partitions: None, ..joining() },
            InvalidRequest,
            "TopicPartitions must be empty when (re-)joining.",
        ),
        (
            1,
            ConsumerGroupHeartbeatRequest { subscribed_topic_names: None, ..joining() },
            InvalidRequest,
            "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
        ),
        (1, beat("b", -2), InvalidRequest, "InstanceId can't be null."),
        (1, beat("b", -3), InvalidRequest, "MemberEpoch is invalid."),
        (
            1,
            ConsumerGroupHeartbeatRequest { server_assignor: Some(text("sticky")), ..joining() },
            UnsupportedAssignor,
            "ServerAssignor sticky is not supported. Supported assignors: uniform, range.",
        ),
        (
            1,
            joining(),
            GroupMaxSizeReached,
            "The consumer group has reached its maximum capacity of 1 members.",
        ),
        (1, beat("b", -1), UnknownMemberId, "Member b is not a member of group g."),
        (1, of_instance("i", beat("a", -1)), UnknownMemberId, "Instance id i is unknown."),
        (1, of_instance("i", beat("a", 2)), UnknownMemberId, "Instance id i is unknown."),
        (
            1,
            ConsumerGroupHeartbeatRequest { group_id: text("h"), ..beat("a", 1) },
            GroupIdNotFound,
            "Consumer group h not found.",
        ),
        (
            1,
            ConsumerGroupHeartbeatRequest { group_id: text("h"), ..beat("a", -1) },
            GroupIdNotFound,
            "Group h not found.",
        ),
        (
            1,
            ConsumerGroupHeartbeatRequest { subscribed_topic_regex: Some(text("[")), ..beat("a", 2) },
            InvalidRegularExpression,
            "SubscribedTopicRegex `[` is not a valid regular expression: missing closing ].",
        ),
    ];
    let log_len = world.log.len();
    for (version, request, error, message) in cases {
        let response = say_in(&mut world, version, request);
        assert_eq!(error_of(&response), (error, message.to_owned()));
    }
    world.set_config("group.consumer.max.size", "10");
    let (error, _) = error_of(&say(&mut world, beat("b", 2)));
    assert_eq!(error, UnknownMemberId);
    world.set_config("group.coordinator.rebalance.protocols", "classic");
    assert_eq!(error_of(&say(&mut world, joining())).0, UnsupportedVersion);
    assert_eq!(world.log.len(), log_len, "nothing was written");
}

#[test]
fn the_server_names_members_that_have_no_name() {
    let mut world = world();
    let joined = say_in(&mut world, 0, join("", &["t"]));
    let id = joined.member_id.unwrap();
    assert_eq!(id.len(), 22);
    assert_eq!(say_in(&mut world, 0, beat(&id, joined.member_epoch)).error_code, 0);
}

#[test]
fn who_is_silent_is_fenced() {
    let mut world = world();
    world.create_topic("t", 1);
    say(&mut world, join("a", &["t"]));
    world.advance(44_000);
    say(&mut world, beat("a", 2));
    world.advance(44_000);
    assert_eq!(say(&mut world, beat("a", 2)).error_code, 0);
    world.take_transcript();
    world.advance(45_000);
    assert_snapshot!(world.take_transcript());
    assert!(world.timers.keys().all(|timer| !matches!(timer, GroupTimer::Consumer(..))));
}

#[test]
fn who_does_not_revoke_in_time_is_fenced() {
    let mut world = world();
    let t = world.create_topic("t", 2);
    let slow = ConsumerGroupHeartbeatRequest { rebalance_timeout_ms: 10_000, ..join("a", &["t"]) };
    say(&mut world, slow);
    say(&mut world, join("b", &["t"]));
    say(&mut world, owning("a", 2, &[(t, &[0, 1])]));
    world.take_transcript();
    world.advance(9_000);
    say(&mut world, beat("a", 2));
    world.advance(1_000);
    say(&mut world, beat("a", 2));
    say(&mut world, beat("b", 3));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn assignments_wait_for_their_interval() {
    let mut world = World::with_configs(&[("group.consumer.assignment.interval.ms", "1000")]);
    world.create_topic("t", 2);
    assert_eq!(say(&mut world, join("a", &["t"])).member_epoch, 2);
    let early = say(&mut world, join("b", &["t"]));
    assert_eq!((early.member_epoch, early.assignment.unwrap().topic_partitions.len()), (2, 0));
    world.advance(999);
    assert_eq!(say(&mut world, beat("b", 2)).member_epoch, 2);
    world.advance(1);
    assert_eq!(say(&mut world, beat("b", 2)).member_epoch, 3);
}

#[test]
fn a_topic_that_grows_is_noticed_by_the_next_heartbeat() {
    let mut world = world();
    world.create_topic("t", 1);
    say(&mut world, join("a", &["t"]));
    world.take_transcript();
    world.create_topic("other", 1);
    say(&mut world, beat("a", 2));
    world.create_topic("t", 3);
    say(&mut world, beat("a", 2));
    world.delete_topic("t");
    say(&mut world, beat("a", 3));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn where_a_member_comes_from_is_noted_when_it_changes() {
    let mut world = world();
    world.create_topic("t", 2);
    say(&mut world, join("a", &["t"]));
    say(&mut world, beat("a", 2));
    let client = Client { id: text("moved"), host: text("/10.0.0.1") };
    world.call(GroupCommand::ConsumerGroupHeartbeat { request: beat("a", 2), version: 1, client });
    let member = describe(&mut world).members.remove(0);
    assert_eq!((&*member.client_id, &*member.client_host), ("moved", "/10.0.0.1"));
}

#[test]
fn an_expression_finds_topics_and_later_ones_too() {
    let mut world = world();
    world.create_topic("foo-1", 1);
    world.create_topic("bar", 1);
    world.take_transcript();
    let with_regex = |regex: &str, request: ConsumerGroupHeartbeatRequest| ConsumerGroupHeartbeatRequest {
        subscribed_topic_names: None,
        subscribed_topic_regex: Some(text(regex)),
        ..request
    };
    say(&mut world, with_regex("foo.*", join("a", &[])));
    world.advance(0);
    say(&mut world, beat("a", 1));
    // Not sooner than ten seconds after the last time.
    world.create_topic("foo-2", 1);
    say(&mut world, beat("a", 2));
    world.advance(10_001);
    say(&mut world, beat("a", 2));
    world.advance(0);
    say(&mut world, beat("a", 2));
    // Now by another expression, which takes the first one's record away.
    say(&mut world, with_regex("ba(r|z)", beat("a", 3)));
    say(&mut world, owning("a", 3, &[]));
    world.advance(0);
    say(&mut world, beat("a", 3));
    describe(&mut world);
    say(&mut world, beat("a", -1));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn members_choose_the_assignor_by_majority() {
    let mut world = world();
    world.create_topic("t", 2);
    let asking = |member_id: &str, assignor: &str| ConsumerGroupHeartbeatRequest {
        server_assignor: Some(text(assignor)),
        ..join(member_id, &["t"])
    };
    let assignor = |world: &mut World| describe(world).assignor_name.to_string();
    say(&mut world, join("a", &["t"]));
    assert_eq!(assignor(&mut world), "uniform");
    say(&mut world, asking("b", "range"));
    assert_eq!(assignor(&mut world), "range");
    say(&mut world, asking("c", "uniform"));
    assert_eq!(assignor(&mut world), "uniform");
}

#[test]
fn a_groups_own_configuration_counts() {
    let mut world = world();
    for (name, value) in
        [("consumer.session.timeout.ms", "50000"), ("consumer.heartbeat.interval.ms", "6000")]
    {
        world.change_image(&[MetadataRecord::Config(ConfigRecord {
            resource_type: ConfigResourceType::Group.code(),
            resource_name: text("g"),
            name: text(name),
            value: Some(text(value)),
        })]);
    }
    assert_eq!(say(&mut world, join("a", &["t"])).heartbeat_interval_ms, 6_000);
    world.advance(49_999);
    assert_eq!(say(&mut world, beat("a", 2)).error_code, 0);
    world.advance(50_000);
    assert_eq!(error_of(&say(&mut world, beat("a", 2))).0, ErrorCode::UnknownMemberId);
}

#[test]
fn a_reload_goes_on_where_it_was() {
    let mut world = world();
    let t = world.create_topic("t", 2);
    say(&mut world, join("a", &["t"]));
    say(&mut world, join("b", &["t"]));
    say(&mut world, owning("a", 2, &[(t, &[0, 1])]));
    let before = describe(&mut world);
    world.crash();
    assert_eq!(describe(&mut world), before);
    world.compact();
    world.crash();
    assert_eq!(describe(&mut world), before);
    // The session and the time to revoke begin again.
    world.advance(44_999);
    assert_eq!(say(&mut world, owning("a", 2, &[(t, &[0])])).member_epoch, 3);
    world.advance(1);
    assert_eq!(error_of(&say(&mut world, beat("b", 3))).0, ErrorCode::UnknownMemberId);
}

#[test]
fn what_kafka_4_0_kept_of_topics_goes_with_the_next_change() {
    let mut world = world();
    world.create_topic("t", 1);
    say(&mut world, join("a", &["t"]));
    let key = ConsumerGroupPartitionMetadataKey { group_id: text("g") };
    world.append((key, Some(ConsumerGroupPartitionMetadataValue::default())).into());
    world.crash();
    world.take_transcript();
    say(&mut world, beat("a", 2));
    say(&mut world, beat("a", 2));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn commits_are_good_for_what_the_member_kept_since() {
    let mut world = world();
    let t = world.create_topic("t", 2);
    let commit = |world: &mut World, member_id: &str, epoch: i32, partition: i32, version: i16| {
        let partition = OffsetCommitRequestPartition { partition_index: partition, ..Default::default() };
        let topic = OffsetCommitRequestTopic {
            name: text("t"),
            topic_id: t.0,
            partitions: vec![partition],
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: text("g"),
            member_id: text(member_id),
            generation_id_or_member_epoch: epoch,
            topics: vec![topic],
            ..Default::default()
        };
        match world.call(GroupCommand::OffsetCommit { request, version }) {
            GroupReply::OffsetCommit(response) => {
                ErrorCode::from_code(response.topics[0].partitions[0].error_code).unwrap()
            }
            other => panic!("{other:?}"),
        }
    };
    say(&mut world, join("a", &["t"]));
    say(&mut world, join("b", &["t"]));
    say(&mut world, owning("a", 2, &[(t, &[0, 1])]));
    // What it is about to give up it may still commit.
    assert_eq!(commit(&mut world, "a", 2, 1, 10), ErrorCode::None);
    assert_eq!(say(&mut world, owning("a", 2, &[(t, &[0])])).member_epoch, 3);
    assert_eq!(commit(&mut world, "a", 3, 0, 10), ErrorCode::None);
    assert_eq!(commit(&mut world, "a", 2, 0, 10), ErrorCode::None, "on its way when the epoch rose");
    assert_eq!(commit(&mut world, "a", 2, 1, 10), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut world, "a", 1, 0, 10), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut world, "a", 4, 0, 10), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut world, "a", 3, 0, 8), ErrorCode::UnsupportedVersion);
    assert_eq!(commit(&mut world, "nobody", 3, 0, 10), ErrorCode::UnknownMemberId);
    assert_eq!(commit(&mut world, "", -1, 0, 10), ErrorCode::UnknownMemberId);
    // What comes back is another one's until then.
    say(&mut world, beat("b", -1));
    assert_eq!(say(&mut world, beat("a", 3)).member_epoch, 4);
    assert_eq!(commit(&mut world, "a", 3, 1, 10), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut world, "a", 3, 0, 10), ErrorCode::None);

    let fetch = |world: &mut World, member_id: Option<&str>, member_epoch: i32| {
        let member_id = member_id.map(text);
        let group =
            OffsetFetchRequestGroup { group_id: text("g"), member_id, member_epoch, ..Default::default() };
        match world.call(GroupCommand::OffsetFetch { group, require_stable: false }) {
            GroupReply::OffsetFetch(group) => ErrorCode::from_code(group.error_code).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fetch(&mut world, None, -1), ErrorCode::None);
    assert_eq!(fetch(&mut world, Some("a"), 4), ErrorCode::None);
    assert_eq!(fetch(&mut world, Some("a"), 3), ErrorCode::StaleMemberEpoch);
    assert_eq!(fetch(&mut world, Some("b"), 3), ErrorCode::UnknownMemberId);
    // Of an empty group offsets are committed by whoever has no epoch.
    say(&mut world, beat("a", -1));
    assert_eq!(commit(&mut world, "", -1, 0, 10), ErrorCode::None);
}
