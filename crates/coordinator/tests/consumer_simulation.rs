//! A consumer group in virtual time: members join, work, pause, vanish and come back, answers get lost, topics grow,
//! the coordinator crashes, or cannot write. Whatever happens:
//!
//! - no partition has two holders, and a member that the group knows never works on more than it holds;
//! - a committed offset is never lost and never goes back;
//! - once all is quiet every partition that somebody subscribes to has exactly one member, who knows it;
//! - then heartbeats change nothing.

mod consumer_client;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use consumer_client::{beat, describe, error_of, text};
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, RequestTopicPartitions,
};
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use proptest::prelude::*;
use world::World;

const TOPICS: [&str; 3] = ["t0", "t1", "t2"];
const HEARTBEAT_MS: u64 = 5_000;
/// Sessions end after nine heartbeats, and who revokes has a minute: after this all is quiet.
const QUIET_ROUNDS: usize = 40;

/// A partition by its topic's index.
type Partition = (usize, i32);

#[derive(Clone, Debug)]
enum Op {
    Join {
        is_static: bool,
        has_regex: bool,
        topic_count: usize,
    },
    Beat {
        who: usize,
        says_owned: bool,
        is_lost: bool,
    },
    Work {
        who: usize,
    },
    Pause {
        who: usize,
    },
    Resume {
        who: usize,
    },
    Vanish {
        who: usize,
    },
    Leave {
        who: usize,
    },
    /// A static member goes for a while, and a new process with its name comes.
    Restart {
        who: usize,
    },
    Resubscribe {
        who: usize,
        topic_count: usize,
    },
    Grow {
        topic: usize,
    },
    Wait {
        ms: u64,
    },
    Crash {
        is_compacted: bool,
    },
    /// The log does not take what is written next, so often.
    Refuse {
        times: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..8_usize;
    let topic_count = 1..=TOPICS.len();
    prop_oneof![
        3 => (any::<bool>(), prop::bool::weighted(0.2), topic_count.clone()).prop_map(
            |(is_static, has_regex, topic_count)| Op::Join { is_static, has_regex, topic_count }
        ),
        16 => (who.clone(), any::<bool>(), prop::bool::weighted(0.15))
            .prop_map(|(who, says_owned, is_lost)| Op::Beat { who, says_owned, is_lost }),
        6 => who.clone().prop_map(|who| Op::Work { who }),
        1 => who.clone().prop_map(|who| Op::Pause { who }),
        1 => who.clone().prop_map(|who| Op::Resume { who }),
        1 => who.clone().prop_map(|who| Op::Vanish { who }),
        1 => who.clone().prop_map(|who| Op::Leave { who }),
        1 => who.clone().prop_map(|who| Op::Restart { who }),
        1 => (who, topic_count).prop_map(|(who, topic_count)| Op::Resubscribe { who, topic_count }),
        1 => (0..TOPICS.len()).prop_map(|topic| Op::Grow { topic }),
        4 => (0..20_000_u64).prop_map(|ms| Op::Wait { ms }),
        1 => any::<bool>().prop_map(|is_compacted| Op::Crash { is_compacted }),
        2 => (1..4_u32).prop_map(|times| Op::Refuse { times }),
    ]
}

/// A process with a consumer in it.
#[derive(Debug)]
struct Process {
    id: String,
    instance_id: Option<String>,
    /// 0 while it has to join.
    epoch: i32,
    has_regex: bool,
    topic_count: usize,
    /// What it works on, and how far it is.
    owned: BTreeMap<Partition, i64>,
    /// What it was told to work on; it does so before its next step.
    assigned: Option<BTreeSet<Partition>>,
    /// It says everything, because it does not know what the coordinator knows.
    must_say_all: bool,
    is_paused: bool,
}

struct Simulation {
    world: World,
    topics: Vec<TopicId>,
    partition_counts: Vec<i32>,
    processes: Vec<Process>,
    committed: BTreeMap<Partition, i64>,
    started_count: usize,
}

impl Simulation {
    fn new(interval_ms: &str) -> Self {
        let mut world = World::with_configs(&[("group.consumer.assignment.interval.ms", interval_ms)]);
        let topics = TOPICS.iter().map(|name| world.create_topic(name, 2)).collect();
        Self {
            world,
            topics,
            partition_counts: vec![2; TOPICS.len()],
            processes: Vec::new(),
            committed: BTreeMap::new(),
            started_count: 0,
        }
    }

    fn step(&mut self, op: &Op) {
        let count = self.processes.len();
        let one = |who: usize| (count > 0).then(|| who % count);
        match *op {
            Op::Join { is_static, has_regex, topic_count } => {
                if count < 8 {
                    let instance_id = is_static.then(|| format!("i{}", self.started_count));
                    self.start(instance_id, has_regex, topic_count);
                }
            }
            Op::Beat { who, says_owned, is_lost } => {
                if let Some(who) = one(who).filter(|who| !self.processes[*who].is_paused) {
                    self.beat(who, says_owned, is_lost);
                }
            }
            Op::Work { who } => {
                if let Some(who) = one(who) {
                    self.work(who);
                }
            }
            Op::Pause { who } => {
                if let Some(who) = one(who) {
                    self.processes[who].is_paused = true;
                }
            }
            Op::Resume { who } => {
                if let Some(who) = one(who) {
                    self.processes[who].is_paused = false;
                }
            }
            Op::Vanish { who } => {
                if let Some(who) = one(who) {
                    self.processes.remove(who);
                }
            }
            Op::Leave { who } => {
                if let Some(who) = one(who) {
                    let process = self.processes.remove(who);
                    self.say(&process, -1);
                }
            }
            Op::Restart { who } => {
                if let Some(who) = one(who).filter(|who| self.processes[*who].instance_id.is_some()) {
                    let process = self.processes.remove(who);
                    self.say(&process, -2);
                    self.start(process.instance_id, process.has_regex, process.topic_count);
                }
            }
            Op::Resubscribe { who, topic_count } => {
                if let Some(who) = one(who) {
                    let process = &mut self.processes[who];
                    process.topic_count = topic_count;
                    process.must_say_all = true;
                }
            }
            Op::Grow { topic } => {
                self.partition_counts[topic] += 1;
                self.world.create_topic(TOPICS[topic], self.partition_counts[topic]);
            }
            Op::Wait { ms } => self.world.advance(ms),
            Op::Refuse { times } => self.world.refusals_left = times,
            Op::Crash { is_compacted } => {
                if is_compacted {
                    self.world.compact();
                }
                let before = describe(&mut self.world);
                self.world.crash();
                assert_eq!(describe(&mut self.world), before, "replay is live");
            }
        }
        // What fires at once.
        self.world.advance(0);
        self.check();
        self.world.take_transcript();
    }

    fn start(&mut self, instance_id: Option<String>, has_regex: bool, topic_count: usize) {
        self.started_count += 1;
        self.processes.push(Process {
            id: format!("m{}", self.started_count),
            instance_id,
            epoch: 0,
            has_regex,
            topic_count,
            owned: BTreeMap::new(),
            assigned: None,
            must_say_all: true,
            is_paused: false,
        });
    }

    /// One heartbeat, and what the process learns from the answer, if it hears it.
    fn beat(&mut self, who: usize, says_owned: bool, is_lost: bool) {
        self.reconcile(who);
        let process = &self.processes[who];
        let says_all = process.must_say_all || process.epoch == 0;
        let mut request = beat(&process.id, process.epoch);
        request.instance_id = process.instance_id.as_deref().map(text);
        if says_all || says_owned {
            request.topic_partitions = Some(self.wire(process.owned.keys()));
        }
        if says_all {
            request.rebalance_timeout_ms = 60_000;
            request.subscribed_topic_names = Some(Vec::new());
            request.subscribed_topic_regex = Some(text(""));
            if process.has_regex {
                request.subscribed_topic_regex = Some(text("t[0-9]"));
            } else {
                let names = TOPICS[..process.topic_count].iter().map(|name| text(name));
                request.subscribed_topic_names = Some(names.collect());
            }
        }
        let response = self.ask(request);
        let assigned = response.assignment.as_ref().map(|assignment| {
            let topics = assignment.topic_partitions.iter();
            topics
                .flat_map(|topic| {
                    let index = self.topics.iter().position(|id| id.0 == topic.topic_id).unwrap();
                    topic.partitions.iter().map(move |partition| (index, *partition))
                })
                .collect()
        });
        let process = &mut self.processes[who];
        if is_lost {
            process.must_say_all = true;
            return;
        }
        match error_of(&response).0 {
            ErrorCode::None => {
                process.epoch = response.member_epoch;
                process.must_say_all = false;
                process.assigned = assigned.or(process.assigned.take());
            }
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound => {
                process.epoch = 0;
                process.owned.clear();
                process.assigned = None;
            }
            ErrorCode::FencedInstanceId => {
                self.processes.remove(who);
            }
            // Its name is still taken; it tries again.
            ErrorCode::UnreleasedInstanceId => {}
            // So it does here, and says everything.
            ErrorCode::NotCoordinator => process.must_say_all = true,
            other => panic!("{other}"),
        }
    }

    /// Gives up what it shall not have, having committed it, then begins with what is new.
    fn reconcile(&mut self, who: usize) {
        let Some(assigned) = self.processes[who].assigned.take() else { return };
        self.commit(who);
        let owned = &self.processes[who].owned;
        let added: Vec<Partition> =
            assigned.iter().filter(|partition| !owned.contains_key(partition)).copied().collect();
        let positions: Vec<i64> = added.iter().map(|partition| self.fetch(*partition)).collect();
        let owned = &mut self.processes[who].owned;
        owned.retain(|partition, _| assigned.contains(partition));
        owned.extend(added.into_iter().zip(positions));
    }

    /// Consumes a record of each partition, and commits.
    fn work(&mut self, who: usize) {
        if !self.processes[who].is_paused {
            self.reconcile(who);
        }
        for position in self.processes[who].owned.values_mut() {
            *position += 1;
        }
        self.commit(who);
    }

    fn commit(&mut self, who: usize) {
        let process = &self.processes[who];
        let (id, instance_id, epoch) = (process.id.clone(), process.instance_id.clone(), process.epoch);
        for ((topic, partition), position) in process.owned.clone() {
            let committed = OffsetCommitRequestPartition {
                partition_index: partition,
                committed_offset: position,
                ..Default::default()
            };
            let request = OffsetCommitRequest {
                group_id: text("g"),
                member_id: text(&id),
                group_instance_id: instance_id.as_deref().map(text),
                generation_id_or_member_epoch: epoch,
                topics: vec![OffsetCommitRequestTopic {
                    name: text(TOPICS[topic]),
                    topic_id: self.topics[topic].0,
                    partitions: vec![committed],
                    ..Default::default()
                }],
                ..Default::default()
            };
            let GroupReply::OffsetCommit(response) =
                self.world.call(GroupCommand::OffsetCommit { request, version: 10 })
            else {
                panic!("another reply")
            };
            if response.topics[0].partitions[0].error_code == 0 {
                let before = self.committed.insert((topic, partition), position).unwrap_or(0);
                assert!(before <= position, "{id} took {topic}-{partition} back from {before} to {position}");
            }
        }
    }

    fn fetch(&mut self, (topic, partition): Partition) -> i64 {
        let group = OffsetFetchRequestGroup {
            group_id: text("g"),
            member_epoch: -1,
            topics: Some(vec![OffsetFetchRequestTopics {
                name: text(TOPICS[topic]),
                topic_id: self.topics[topic].0,
                partition_indexes: vec![partition],
                ..Default::default()
            }]),
            ..Default::default()
        };
        let GroupReply::OffsetFetch(group) =
            self.world.call(GroupCommand::OffsetFetch { group, require_stable: true })
        else {
            panic!("another reply")
        };
        let offset = group.topics[0].partitions[0].committed_offset.max(0);
        let committed = self.committed.get(&(topic, partition)).copied().unwrap_or(0);
        assert_eq!(offset, committed, "the offset of {topic}-{partition}");
        offset
    }

    fn say(&mut self, process: &Process, epoch: i32) {
        let request = ConsumerGroupHeartbeatRequest {
            instance_id: process.instance_id.as_deref().map(text),
            ..beat(&process.id, epoch)
        };
        self.ask(request);
    }

    fn ask(&mut self, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
        consumer_client::say(&mut self.world, request)
    }

    fn wire<'a>(&self, owned: impl Iterator<Item = &'a Partition>) -> Vec<RequestTopicPartitions> {
        let mut topics = BTreeMap::<usize, Vec<i32>>::new();
        for (topic, partition) in owned {
            topics.entry(*topic).or_default().push(*partition);
        }
        let wire = |(topic, partitions): (usize, _)| RequestTopicPartitions {
            topic_id: self.topics[topic].0,
            partitions,
        };
        topics.into_iter().map(wire).collect()
    }

    /// What each member holds, by the coordinator's word.
    fn held(&mut self) -> BTreeMap<String, BTreeSet<Partition>> {
        let members = describe(&mut self.world).members.into_iter();
        let held = members.map(|member| {
            let topics = member.assignment.topic_partitions.iter();
            let partitions = topics.flat_map(|topic| {
                let index = TOPICS.iter().position(|name| topic.topic_name == *name).unwrap();
                topic.partitions.iter().map(move |partition| (index, *partition))
            });
            (member.member_id.to_string(), partitions.collect())
        });
        held.collect()
    }

    fn check(&mut self) {
        let held = self.held();
        let mut holders = BTreeMap::new();
        for (member_id, partitions) in &held {
            for partition in partitions {
                let other = holders.insert(*partition, member_id);
                assert_eq!(other, None, "{partition:?} is held twice, also by {member_id}");
            }
        }
        for process in &self.processes {
            if let Some(held) = held.get(&process.id) {
                let is_known = |partition: &Partition| held.contains(partition);
                assert!(process.owned.keys().all(is_known), "{process:?} holds {held:?}");
            }
        }
    }

    /// Nobody is paused any more, nothing is lost, and time goes by.
    fn settle(&mut self) {
        self.processes.retain(|process| !process.is_paused);
        self.world.refusals_left = 0;
        for _ in 0..QUIET_ROUNDS {
            self.round();
        }
    }

    fn round(&mut self) {
        let mut who = 0;
        while who < self.processes.len() {
            let id = self.processes[who].id.clone();
            self.beat(who, true, false);
            if self.processes.get(who).is_some_and(|process| process.id == id) {
                who += 1;
            }
        }
        self.world.advance(HEARTBEAT_MS);
        self.check();
        self.world.take_transcript();
    }

    fn check_settled(&mut self) {
        for (topic, count) in self.partition_counts.clone().into_iter().enumerate() {
            let reads = |process: &Process| process.has_regex || topic < process.topic_count;
            for partition in 0..count {
                let owners: Vec<&str> = self
                    .processes
                    .iter()
                    .filter(|process| process.owned.contains_key(&(topic, partition)))
                    .inspect(|process| assert!(reads(process), "{process:?} does not subscribe"))
                    .map(|process| &*process.id)
                    .collect();
                let expected = usize::from(self.processes.iter().any(reads));
                assert_eq!(owners.len(), expected, "{topic}-{partition} is read by {owners:?}");
            }
        }
        if self.started_count > 0 && describe(&mut self.world).error_code == 0 {
            let state = describe(&mut self.world).group_state;
            assert_eq!(state, if self.processes.is_empty() { "Empty" } else { "Stable" });
        }
        let log_len = self.world.log.len();
        self.round();
        self.round();
        assert_eq!(self.world.log.len(), log_len, "heartbeats alone write nothing");
        for partition in self.committed.keys().copied().collect::<Vec<_>>() {
            self.fetch(partition);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_group_keeps_its_promises(
        ops in prop::collection::vec(op(), 1..80),
        interval_ms in prop::sample::select(vec!["0", "1000"]),
    ) {
        let mut simulation = Simulation::new(interval_ms);
        for op in &ops {
            simulation.step(op);
        }
        simulation.settle();
        simulation.check_settled();
    }
}
