//! Random commands: what holds of the image whatever is asked, and a naive model of topics.

mod world;

use std::collections::BTreeMap;

use klamm_cluster::config::{AlterOp, ConfigChange};
use klamm_cluster::controller::{
    AlterConfigs, BrokerIdentity, ControllerCommand, ControllerReply, CreatePartitions, CreateTopics,
    MorePartitions, TopicRef, collision_key,
};
use klamm_cluster::image::{ConfigResource, MetadataImage};
use klamm_cluster::record::MetadataRecord;
use klamm_protocol::ids::{NodeId, PartitionIndex};
use proptest::prelude::*;
use world::{NODE, World, new_topic};

#[derive(Clone, Debug)]
enum Step {
    Create { names: Vec<String>, partition_count: i32, replication_factor: i16, validate_only: bool },
    Delete(String),
    Grow(String, i32),
    Stop(NodeId),
    Fence(NodeId),
    StartClean(NodeId),
    StartUnclean(NodeId),
    ProducerIds,
    MinInsyncReplicas(i32),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c.d", "c_d", "bad name", ""]).prop_map(str::to_owned)
}

fn node() -> impl Strategy<Value = NodeId> {
    (1..4i32).prop_map(NodeId)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop::collection::vec(name(), 1..3), -1..4i32, prop::sample::select(vec![-1i16, 1, 2, 3]), any::<bool>())
            .prop_map(|(names, partition_count, replication_factor, validate_only)| Step::Create {
                names, partition_count, replication_factor, validate_only
            }),
        1 => name().prop_map(Step::Delete),
        2 => (name(), -1..6i32).prop_map(|(name, count)| Step::Grow(name, count)),
        1 => node().prop_map(Step::Stop),
        1 => node().prop_map(Step::Fence),
        2 => node().prop_map(Step::StartClean),
        1 => node().prop_map(Step::StartUnclean),
        1 => Just(Step::ProducerIds),
        2 => (1..4i32).prop_map(Step::MinInsyncReplicas),
    ]
}

/// Topic names and partition counts, by the rules alone.
#[derive(Default)]
struct Model(BTreeMap<String, i32>);

impl Model {
    fn create(&mut self, names: &[String], count: i32, validate_only: bool) -> Vec<(String, bool)> {
        let mut after = self.0.clone();
        let mut results: Vec<(String, bool)> = Vec::new();
        for name in names {
            if results.iter().any(|(answered, _)| answered == name) {
                continue;
            }
            let is_given_once = names.iter().filter(|other| *other == name).count() == 1;
            let is_valid = !name.is_empty() && !name.contains(' ');
            let collides = after.keys().any(|other| collision_key(other) == collision_key(name));
            let is_created = is_given_once && is_valid && !collides && count != 0;
            if is_created {
                after.insert(name.clone(), if count == -1 { 4 } else { count });
            }
            results.push((name.clone(), is_created));
        }
        if !validate_only {
            self.0 = after;
        }
        results
    }

    fn grow(&mut self, name: &str, count: i32) -> bool {
        self.0.get_mut(name).is_some_and(|present| {
            let grows = count > *present;
            *present = count.max(*present);
            grows
        })
    }
}

fn check(image: &MetadataImage) {
    let mut partition_count = 0;
    for (id, topic) in image.topics() {
        assert_eq!(*id, topic.id);
        assert_eq!(image.topic_ids().get(&topic.name), Some(id));
        assert!(topic.partitions.keys().copied().eq((0..topic.partitions.len() as i32).map(PartitionIndex)));
        for (index, partition) in &topic.partitions {
            let of = format!("{}-{index}: {partition:?}", topic.name);
            let within = |nodes: &[NodeId]| nodes.iter().all(|node| partition.replicas.contains(node));
            assert!(!partition.replicas.is_empty(), "{of}");
            assert_eq!(partition.directories.len(), partition.replicas.len(), "{of}");
            assert!(
                within(&partition.isr) && within(&partition.elr) && within(&partition.last_known_elr),
                "{of}"
            );
            assert!(!partition.elr.iter().any(|node| partition.isr.contains(node)), "{of}");
            assert!(!partition.has_leader() || partition.isr.contains(&partition.leader), "{of}");
            assert!(!partition.has_leader() || image.is_active(partition.leader), "{of}");
            // Somebody is remembered who may lead again.
            let known = [&partition.isr, &partition.elr, &partition.last_known_elr];
            assert!(known.iter().any(|nodes| !nodes.is_empty()), "{of}");
            partition_count += 1;
        }
    }
    assert_eq!(image.partition_count(), partition_count);
    assert_eq!(image.topic_ids().len(), image.topics().len());
}

/// Epochs never fall; the leader's rises whenever the leader changes.
fn check_progress(old: &MetadataImage, new: &MetadataImage) {
    for (id, topic) in new.topics() {
        for (index, now) in &topic.partitions {
            let Some(before) = old.partition(*id, *index) else { continue };
            assert!(now.leader_epoch >= before.leader_epoch);
            assert!(now.partition_epoch >= before.partition_epoch);
            assert!(now == before || now.partition_epoch > before.partition_epoch);
            assert!(now.leader == before.leader || now.leader_epoch > before.leader_epoch);
        }
    }
    for (node, broker) in new.brokers() {
        assert!(old.broker(*node).is_none_or(|before| before.epoch <= broker.epoch));
    }
    assert!(new.next_producer_id() >= old.next_producer_id());
}

fn run(world: &mut World, model: &mut Model, step: &Step) {
    let registered = |world: &World, node: NodeId| {
        world.image().broker(node).map(|broker| BrokerIdentity { node, epoch: broker.epoch })
    };
    match step {
        Step::Create { names, partition_count, replication_factor, validate_only } => {
            let mut topics: Vec<_> = names.iter().map(|name| new_topic(name, *partition_count)).collect();
            topics.iter_mut().for_each(|topic| topic.replication_factor = *replication_factor);
            let any_active = world.image().brokers().keys().any(|node| world.image().is_active(*node));
            let fits = usize::try_from(*replication_factor).unwrap_or(1) <= world.image().brokers().len();
            let command = CreateTopics { topics, validate_only: *validate_only };
            let ControllerReply::CreateTopics(results) = world.ask(ControllerCommand::CreateTopics(command))
            else {
                panic!("another reply")
            };
            let results: Vec<_> = results.into_iter().map(|(name, result)| (name, result.is_ok())).collect();
            if any_active && fits {
                assert_eq!(results, model.create(names, *partition_count, *validate_only));
            } else {
                assert!(results.iter().all(|(_, is_created)| !is_created));
            }
        }
        Step::Delete(name) => {
            let command = ControllerCommand::DeleteTopics(vec![TopicRef::Name(name.clone())]);
            let ControllerReply::DeleteTopics(results) = world.ask(command) else { panic!("another reply") };
            assert_eq!(results[0].result.is_ok(), model.0.remove(name).is_some());
        }
        Step::Grow(name, total_count) => {
            let any_active = world.image().brokers().keys().any(|node| world.image().is_active(*node));
            let topics =
                vec![MorePartitions { name: name.clone(), total_count: *total_count, assignments: None }];
            let command = CreatePartitions { topics, validate_only: false };
            let reply = world.ask(ControllerCommand::CreatePartitions(command));
            let ControllerReply::CreatePartitions(results) = reply else { panic!("another reply") };
            assert_eq!(results[0].1.is_ok(), any_active && model.grow(name, *total_count));
        }
        Step::Stop(node) => {
            if let Some(broker) = registered(world, *node) {
                world.stop(broker);
            }
        }
        Step::Fence(node) => {
            if let Some(broker) = registered(world, *node) {
                world.ask(ControllerCommand::FenceBroker(broker));
            }
        }
        Step::StartClean(node) => {
            let previous = registered(world, *node).map(|broker| broker.epoch);
            world.start(*node, previous);
        }
        Step::StartUnclean(node) => {
            world.start(*node, None);
        }
        Step::MinInsyncReplicas(count) => {
            // Another minimum clears the ELR, also that of a partition which has nothing else.
            let mut partitions = world.image().topics().values().flat_map(|topic| topic.partitions.values());
            if partitions.all(|partition| partition.has_leader()) {
                let value = Some(count.to_string());
                let change = ConfigChange { name: "min.insync.replicas".to_owned(), op: AlterOp::Set, value };
                let command = AlterConfigs {
                    resources: vec![(ConfigResource::broker_default(), vec![change])],
                    validate_only: false,
                };
                world.ask(ControllerCommand::IncrementalAlterConfigs(command));
            }
        }
        Step::ProducerIds => {
            if let Some(broker) = registered(world, NODE) {
                world.ask(ControllerCommand::AllocateProducerIds(broker));
            }
        }
    }
}

/// More partitions than one batch may change: the restart is a metadata transaction.
#[test]
fn a_long_change_is_a_transaction() {
    let mut world = World::running();
    world.create_topic("a", 6_000);
    world.create_topic("b", 6_000);
    let broker = world.identity(NODE);
    let before = world.log.len();
    let previous = world.stop(broker);
    world.start(NODE, previous);
    let count = |wanted: fn(&MetadataRecord) -> bool| {
        world.log[before..].iter().filter(|(_, record)| wanted(record)).count()
    };
    assert_eq!(count(|record| matches!(record, MetadataRecord::BeginTransaction(_))), 2);
    assert_eq!(count(|record| matches!(record, MetadataRecord::EndTransaction(_))), 2);
    assert_eq!(count(|record| matches!(record, MetadataRecord::PartitionChange(_))), 24_000);
    check(world.image());
    assert_eq!(&world.replayed(), world.image());
}

/// Killed between registering and being unfenced: the log says fenced, the partitions are led.
#[test]
fn a_kill_between_two_decisions_of_a_start_is_survived() {
    for stop_first in [false, true] {
        let mut world = World::running();
        world.create_topic("a", 2);
        if stop_first {
            let broker = world.identity(NODE);
            world.ask(ControllerCommand::BeginControlledShutdown(broker));
        } else {
            world.register(NODE, None);
        }
        world.start(NODE, None);
        check(world.image());
        let topic = world.image().topic_by_name("a").unwrap();
        assert!(topic.partitions.values().all(|partition| partition.leader == NODE));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn whatever_is_asked(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::running();
        let mut model = Model::default();
        for step in &steps {
            let before = world.image().clone();
            run(&mut world, &mut model, step);
            check_progress(&before, world.image());
            check(world.image());
            let counts: BTreeMap<String, i32> = world
                .image()
                .topics()
                .values()
                .map(|topic| (topic.name.to_string(), topic.partitions.len() as i32))
                .collect();
            prop_assert_eq!(&counts, &model.0);
        }
        prop_assert_eq!(&world.replayed(), world.image());
    }

    /// One node, as many restarts as it takes: it leads everything afterwards, in a new epoch.
    #[test]
    fn a_lone_node_leads_after_every_start(stops in prop::collection::vec(0..3u8, 1..8)) {
        let mut world = World::running();
        world.create_topic("a", 3);
        for stop in stops {
            let before = world.image().clone();
            let broker = world.identity(NODE);
            let clean = match stop {
                0 => None,
                1 => { world.stop(broker); None }
                _ => world.stop(broker),
            };
            world.start(NODE, clean);
            check(world.image());
            for (id, topic) in world.image().topics() {
                for (index, partition) in &topic.partitions {
                    prop_assert_eq!(partition.leader, NODE);
                    prop_assert_eq!(&partition.isr, &[NODE]);
                    prop_assert!(partition.leader_epoch > before.partition(*id, *index).unwrap().leader_epoch);
                }
            }
        }
        prop_assert_eq!(&world.replayed(), world.image());
    }
}
