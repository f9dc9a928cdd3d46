//! Conversations with the controller: what is asked, which records follow, what is answered.

mod world;

use insta::assert_snapshot;
use klamm_cluster::config::{AlterOp, ConfigChange};
use klamm_cluster::controller::{
    AlterConfigs, ControllerCommand, ControllerReply, CreatePartitions, CreateTopics, MorePartitions,
    TopicRef,
};
use klamm_cluster::image::ConfigResource;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{NodeId, TopicId, Uuid};
use world::{NODE, World, new_topic, registration};

#[test]
fn a_fresh_node_starts() {
    let mut world = World::empty();
    world.ask(ControllerCommand::Bootstrap(None));
    world.ask(ControllerCommand::RegisterController(registration(NODE, 90)));
    world.start(NODE, None);
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_topic_lives_through_a_clean_restart() {
    let mut world = World::running();
    world.create_topic("a", 2);
    let previous_epoch = world.stop(world.identity(NODE));
    let stopped = world.topic("a");
    world.take_transcript();
    world.start(NODE, previous_epoch);
    assert_snapshot!(format!("{stopped}\n{}{}", world.take_transcript(), world.topic("a")));
}

#[test]
fn a_topic_lives_through_a_kill() {
    let mut world = World::running();
    world.create_topic("a", 2);
    let killed = world.topic("a");
    world.take_transcript();
    world.start(NODE, None);
    assert_snapshot!(format!("{killed}\n{}{}", world.take_transcript(), world.topic("a")));
}

/// The clean shutdown file is deleted before the first write, so a kill right after finds a
/// log that was stopped cleanly and no file that says so.
#[test]
fn a_kill_while_starting_after_a_clean_stop_elects_the_last_known_leader() {
    let mut world = World::running();
    world.create_topic("a", 1);
    world.stop(world.identity(NODE));
    world.take_transcript();
    world.start(NODE, None);
    assert_snapshot!(format!("{}{}", world.take_transcript(), world.topic("a")));
}

#[test]
fn topics_are_refused_one_by_one() {
    let mut world = World::running();
    world.create_topic("taken", 1);
    world.create_topic("with.dot", 1);
    world.take_transcript();
    let assigned = |assignments: &[(i32, &[i32])]| {
        let mut topic = new_topic("assigned", -1);
        let nodes = |ids: &[i32]| ids.iter().copied().map(NodeId).collect();
        topic.assignments = assignments.iter().map(|(partition, ids)| (*partition, nodes(ids))).collect();
        topic
    };
    let configured = |name: &str, value: Option<&str>| {
        let mut topic = new_topic("configured", 1);
        topic.configs = vec![(name.to_owned(), value.map(str::to_owned))];
        topic
    };
    let replicated = |factor| klamm_cluster::controller::NewTopic {
        replication_factor: factor,
        ..new_topic("replicated", 1)
    };
    for topic in [
        new_topic("taken", 1),
        new_topic("", 1),
        new_topic(".", 1),
        new_topic("a b", 1),
        new_topic("with_dot", 1),
        new_topic("__cluster_metadata", 1),
        new_topic("none", 0),
        new_topic("many", 10_001),
        replicated(0),
        replicated(3),
        assigned(&[(0, &[1]), (2, &[1])]),
        assigned(&[(0, &[])]),
        assigned(&[(0, &[1, 1])]),
        assigned(&[(0, &[7])]),
        configured("foo", Some("bar")),
        configured("retention.ms", Some("bar")),
        configured("retention.ms", None),
    ] {
        let topics = vec![topic];
        world.ask(ControllerCommand::CreateTopics(CreateTopics { topics, validate_only: true }));
    }
    let topics = vec![new_topic("twice", 1), new_topic("once", 1), new_topic("twice", 2)];
    world.ask(ControllerCommand::CreateTopics(CreateTopics { topics, validate_only: false }));
    let transcript = world.take_transcript();
    let answers: Vec<&str> =
        transcript.lines().filter(|line| !line.is_empty() && !line.starts_with('>')).collect();
    assert_snapshot!(answers.join("\n"));
}

#[test]
fn topics_grow_and_go() {
    let mut world = World::running();
    world.create_topic("a", 1);
    world.take_transcript();
    for (name, total_count, assignments) in [
        ("a", 3, None),
        ("a", 3, None),
        ("a", 0, None),
        ("a", 5, Some(vec![vec![NodeId(1)]])),
        ("a", 4, Some(vec![vec![NodeId(9)]])),
        ("b", 3, None),
    ] {
        world.ask(ControllerCommand::CreatePartitions(CreatePartitions {
            topics: vec![MorePartitions { name: name.to_owned(), total_count, assignments }],
            validate_only: false,
        }));
    }
    world.ask(ControllerCommand::DeleteTopics(vec![
        TopicRef::Name("a".to_owned()),
        TopicRef::Name("b".to_owned()),
        TopicRef::Id(TopicId(Uuid(5))),
    ]));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn configuration_is_altered() {
    use AlterOp::{Append, Delete, Set, Subtract};
    let mut world = World::running();
    world.create_topic("as", 1);
    world.take_transcript();
    let topic = ConfigResource::topic("as");
    let broker = ConfigResource::broker(NODE);
    let all = ConfigResource::broker_default();
    for (resource, name, op, value) in [
        (&topic, "retention.ms", Set, Some("5")),
        (&topic, "retention.ms", Set, Some("5")),
        (&topic, "retention.ms", Set, Some("x")),
        (&topic, "retention.ms", Set, None),
        (&topic, "foo", Set, Some("x")),
        (&topic, "foo", Delete, None),
        (&topic, "retention.ms", Delete, None),
        (&topic, "cleanup.policy", Append, Some("compact")),
        (&topic, "cleanup.policy", Subtract, Some("delete")),
        (&topic, "retention.ms", Append, Some("5")),
        (&topic, "min.insync.replicas", Set, Some("2")),
        (&ConfigResource::topic("nope"), "retention.ms", Set, Some("5")),
        (&ConfigResource::topic(""), "retention.ms", Set, Some("5")),
        (&broker, "log.retention.ms", Set, Some("50000")),
        (&broker, "node.id", Set, Some("4")),
        (&broker, "min.insync.replicas", Set, Some("2")),
        (&ConfigResource::broker(NodeId(7)), "log.retention.ms", Set, Some("50000")),
        (&all, "log.retention.ms", Set, Some("x")),
        (&all, "min.insync.replicas", Delete, None),
        (&all, "min.insync.replicas", Set, Some("2")),
    ] {
        let change = ConfigChange { name: name.to_owned(), op, value: value.map(str::to_owned) };
        world.ask(ControllerCommand::IncrementalAlterConfigs(AlterConfigs {
            resources: vec![(resource.clone(), vec![change])],
            validate_only: false,
        }));
    }
    let set = vec![("max.message.bytes".to_owned(), Some("1000".to_owned()))];
    world.ask(ControllerCommand::AlterConfigs(AlterConfigs {
        resources: vec![(topic, set)],
        validate_only: false,
    }));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn producer_ids_come_in_blocks_and_only_to_the_living() {
    let mut world = World::running();
    let broker = world.identity(NODE);
    world.take_transcript();
    world.ask(ControllerCommand::AllocateProducerIds(broker));
    world.ask(ControllerCommand::AllocateProducerIds(broker));
    world.start(NODE, None);
    world.take_transcript();
    world.ask(ControllerCommand::AllocateProducerIds(broker));
    assert_snapshot!(world.take_transcript());
    assert_eq!(world.image().next_producer_id().0, 2_000);
}

#[test]
fn a_list_does_not_grow_beyond_what_a_record_holds() {
    let mut world = World::running();
    world.create_topic("t", 1);
    let resource = ConfigResource::topic("t");
    let mut append = |from: i32| {
        let value = (from..from + 3_000).map(|n| format!("{n}:{n}")).collect::<Vec<_>>().join(",");
        let name = "leader.replication.throttled.replicas".to_owned();
        let change = ConfigChange { name, op: AlterOp::Append, value: Some(value) };
        let resources = vec![(resource.clone(), vec![change])];
        let command = AlterConfigs { resources, validate_only: false };
        match world.ask(ControllerCommand::IncrementalAlterConfigs(command)) {
            ControllerReply::AlterConfigs(results) => results[0].1.as_ref().map_err(|e| e.code).copied(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(append(1_000), Ok(()));
    assert_eq!(append(4_000), Err(ErrorCode::InvalidConfig));
}
