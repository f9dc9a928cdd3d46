//! A group of both protocols in virtual time: members of either kind come, pause, vanish and leave, so that the group
//! changes its kind again and again, and the coordinator crashes. Whatever happens:
//!
//! - no two members of the group work on one partition;
//! - a committed offset is never lost and never goes back;
//! - everybody who waits is answered;
//! - once all is quiet every partition has exactly one member.

mod classic_client;
mod consumer_client;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use classic_client::{consumer, member, text};
use consumer_client::{beat, error_of, join};
use klamm_coordinator::contract::ReplyKey;
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_heartbeat::RequestTopicPartitions;
use klamm_protocol::messages::consumer_protocol::{
    ConsumerProtocolAssignment, ConsumerProtocolAssignmentTopicPartition,
};
use klamm_protocol::messages::join_group::JoinGroupResponse;
use klamm_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};
use klamm_protocol::wire::{decode_versioned, encode_versioned};
use proptest::prelude::*;
use world::World;

const PARTITION_COUNT: i32 = 4;
const HEARTBEAT_MS: u64 = 3_000;
/// A session of the new protocol, twice and once more for each refusal that is left (who is silent has another one when its
/// end could not be written), and a rebalance of a minute.
const QUIET_ROUNDS: usize = 100;

#[derive(Clone, Debug)]
enum Op {
    Start {
        is_classic: bool,
    },
    Step {
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
    Wait {
        ms: u64,
    },
    Crash,
    /// The log does not take what is written next, so often.
    Refuse {
        times: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..6_usize;
    prop_oneof![
        3 => any::<bool>().prop_map(|is_classic| Op::Start { is_classic }),
        24 => who.clone().prop_map(|who| Op::Step { who }),
        1 => who.clone().prop_map(|who| Op::Pause { who }),
        1 => who.clone().prop_map(|who| Op::Resume { who }),
        1 => who.clone().prop_map(|who| Op::Vanish { who }),
        2 => who.prop_map(|who| Op::Leave { who }),
        4 => (0..6_000_u64).prop_map(|ms| Op::Wait { ms }),
        1 => Just(Op::Crash),
        2 => (1..4_u32).prop_map(|times| Op::Refuse { times }),
    ]
}

/// What a process does next.
#[derive(Debug)]
enum Phase {
    Join,
    AwaitJoin(ReplyKey),
    AwaitSync(ReplyKey),
    Beat,
}

/// A consumer. A classic one gives up all it has before it joins.
#[derive(Debug)]
struct Process {
    id: String,
    is_classic: bool,
    epoch: i32,
    phase: Phase,
    /// How far it is with what it works on.
    owned: BTreeMap<i32, i64>,
    is_paused: bool,
}

struct Simulation {
    world: World,
    topic: TopicId,
    processes: Vec<Process>,
    committed: BTreeMap<i32, i64>,
    started_count: usize,
}

impl Simulation {
    fn new() -> Self {
        let configs =
            [("group.initial.rebalance.delay.ms", "0"), ("group.consumer.assignment.interval.ms", "0")];
        let mut world = World::with_configs(&configs);
        let topic = world.create_topic("t", PARTITION_COUNT);
        Self { world, topic, processes: Vec::new(), committed: BTreeMap::new(), started_count: 0 }
    }

    fn take(&mut self, op: &Op) {
        let count = self.processes.len();
        let one = |who: usize| (count > 0).then(|| who % count);
        match *op {
            Op::Start { is_classic } if count < 6 => {
                self.started_count += 1;
                self.processes.push(Process {
                    id: if is_classic { String::new() } else { format!("m{}", self.started_count) },
                    is_classic,
                    epoch: 0,
                    phase: Phase::Join,
                    owned: BTreeMap::new(),
                    is_paused: false,
                });
            }
            Op::Start { .. } => {}
            Op::Step { who } => {
                if let Some(who) = one(who).filter(|who| !self.processes[*who].is_paused) {
                    self.step(who);
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
                    if process.is_classic {
                        self.world.leave(&[(&process.id, None)]);
                    } else {
                        consumer_client::say(&mut self.world, beat(&process.id, -1));
                    }
                }
            }
            Op::Wait { ms } => self.world.advance(ms),
            Op::Refuse { times } => self.world.refusals_left = times,
            Op::Crash => {
                let dropped = self.world.crash();
                for process in &mut self.processes {
                    if let Phase::AwaitJoin(key) | Phase::AwaitSync(key) = process.phase
                        && dropped.contains(&key)
                    {
                        process.phase = Phase::Join;
                    }
                }
            }
        }
        // What fires at once.
        self.world.advance(0);
        self.check();
        self.world.take_transcript();
    }

    fn step(&mut self, who: usize) {
        if self.processes[who].is_classic { self.step_classic(who) } else { self.beat(who) }
    }

    fn beat(&mut self, who: usize) {
        self.work(who);
        let process = &self.processes[who];
        let owned: Vec<i32> = process.owned.keys().copied().collect();
        let mut request =
            if process.epoch == 0 { join(&process.id, &["t"]) } else { beat(&process.id, process.epoch) };
        let topic = RequestTopicPartitions { topic_id: self.topic.0, partitions: owned };
        request.topic_partitions = Some(if topic.partitions.is_empty() { Vec::new() } else { vec![topic] });
        let response = consumer_client::say(&mut self.world, request);
        match error_of(&response).0 {
            ErrorCode::None => {
                self.processes[who].epoch = response.member_epoch;
                if let Some(assignment) = response.assignment {
                    let topics = assignment.topic_partitions.into_iter();
                    self.own(who, topics.flat_map(|topic| topic.partitions).collect());
                }
            }
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound => {
                self.processes[who].epoch = 0;
                self.processes[who].owned.clear();
            }
            ErrorCode::NotCoordinator => {}
            other => panic!("{other}"),
        }
    }

    fn step_classic(&mut self, who: usize) {
        let process = &self.processes[who];
        let (id, epoch) = (process.id.clone(), process.epoch);
        match process.phase {
            Phase::Join => {
                self.give_up(who);
                let request = if id.is_empty() { consumer() } else { member(&id) };
                self.processes[who].phase = Phase::AwaitJoin(self.world.join("c", request));
            }
            Phase::AwaitJoin(key) => {
                if let Some(GroupReply::JoinGroup(response)) = self.world.take_reply(key) {
                    self.joined(who, response);
                }
            }
            Phase::AwaitSync(key) => {
                if let Some(GroupReply::SyncGroup(response)) = self.world.take_reply(key) {
                    self.synced(who, response);
                }
            }
            Phase::Beat => {
                let error = self.world.heartbeat(&id, epoch);
                if error == ErrorCode::None {
                    self.work(who);
                } else {
                    self.again(who, error);
                }
            }
        }
    }

    fn joined(&mut self, who: usize, response: JoinGroupResponse) {
        let error = ErrorCode::from_code(response.error_code).unwrap();
        if error != ErrorCode::None {
            if error == ErrorCode::MemberIdRequired {
                self.processes[who].id = response.member_id.to_string();
            }
            return self.again(who, error);
        }
        let process = &mut self.processes[who];
        process.id = response.member_id.to_string();
        process.epoch = response.generation_id;
        let ids: Vec<&str> = response.members.iter().map(|member| member.member_id.as_str()).collect();
        let assignments = ids.iter().enumerate().map(|(index, id)| {
            let mine = (0..PARTITION_COUNT).filter(|one| usize::try_from(*one).unwrap() % ids.len() == index);
            SyncGroupRequestAssignment { member_id: text(id), assignment: assignment(mine.collect()) }
        });
        let request = SyncGroupRequest {
            group_id: text("g"),
            generation_id: response.generation_id,
            member_id: text(&process.id),
            assignments: assignments.collect(),
            ..Default::default()
        };
        process.phase = Phase::AwaitSync(self.world.ask(GroupCommand::SyncGroup(request)));
    }

    fn synced(&mut self, who: usize, response: SyncGroupResponse) {
        let error = ErrorCode::from_code(response.error_code).unwrap();
        if error != ErrorCode::None {
            return self.again(who, error);
        }
        let mut partitions = BTreeSet::new();
        if !response.assignment.is_empty() {
            let (_, assignment) =
                decode_versioned::<ConsumerProtocolAssignment>(response.assignment).unwrap();
            partitions =
                assignment.assigned_partitions.into_iter().flat_map(|topic| topic.partitions).collect();
        }
        self.processes[who].phase = Phase::Beat;
        self.own(who, partitions);
    }

    /// A classic process joins again, as somebody else if it is not known any more.
    fn again(&mut self, who: usize, error: ErrorCode) {
        let process = &mut self.processes[who];
        process.phase = Phase::Join;
        match error {
            ErrorCode::RebalanceInProgress | ErrorCode::MemberIdRequired | ErrorCode::NotCoordinator => {}
            ErrorCode::IllegalGeneration => process.owned.clear(),
            ErrorCode::UnknownMemberId => {
                process.owned.clear();
                process.id.clear();
            }
            other => panic!("{other}"),
        }
    }

    fn give_up(&mut self, who: usize) {
        self.commit(who);
        self.processes[who].owned.clear();
    }

    /// It works on these from now on; what it does not keep it commits.
    fn own(&mut self, who: usize, partitions: BTreeSet<i32>) {
        self.commit(who);
        let known = std::mem::take(&mut self.processes[who].owned);
        for partition in partitions {
            let position = known.get(&partition).copied().unwrap_or_else(|| self.fetch(partition));
            self.processes[who].owned.insert(partition, position);
        }
    }

    fn work(&mut self, who: usize) {
        self.processes[who].owned.values_mut().for_each(|position| *position += 1);
        self.commit(who);
    }

    fn commit(&mut self, who: usize) {
        let process = &self.processes[who];
        let (id, epoch) = (process.id.clone(), process.epoch);
        for (partition, position) in process.owned.clone() {
            if self.world.commit_of(&id, epoch, (self.topic, partition), position) == ErrorCode::None {
                let before = self.committed.insert(partition, position).unwrap_or(0);
                assert!(before <= position, "{id} took {partition} back from {before} to {position}");
            }
        }
    }

    fn fetch(&mut self, partition: i32) -> i64 {
        let topics = vec![OffsetFetchRequestTopics {
            name: text("t"),
            topic_id: self.topic.0,
            partition_indexes: vec![partition],
            ..Default::default()
        }];
        let group = OffsetFetchRequestGroup {
            group_id: text("g"),
            member_epoch: -1,
            topics: Some(topics),
            ..Default::default()
        };
        let GroupReply::OffsetFetch(group) =
            self.world.call(GroupCommand::OffsetFetch { group, require_stable: true })
        else {
            panic!("another reply")
        };
        let offset = group.topics[0].partitions[0].committed_offset.max(0);
        assert_eq!(offset, self.committed.get(&partition).copied().unwrap_or(0), "of {partition}");
        offset
    }

    /// Who is a member, of a group of whatever kind.
    fn members(&mut self) -> BTreeSet<String> {
        let consumers = consumer_client::describe(&mut self.world).members.into_iter();
        let mut members: BTreeSet<String> = consumers.map(|member| member.member_id.to_string()).collect();
        let classic = self.world.describe().members.into_iter();
        members.extend(classic.map(|member| member.member_id.to_string()));
        members
    }

    fn check(&mut self) {
        let members = self.members();
        let mut owners = BTreeMap::new();
        for process in self.processes.iter().filter(|process| members.contains(&process.id)) {
            for partition in process.owned.keys() {
                let other = owners.insert(*partition, &process.id);
                assert_eq!(other, None, "{} works on {partition} too", process.id);
            }
        }
    }

    fn settle(&mut self) {
        self.processes.retain(|process| !process.is_paused);
        for _ in 0..QUIET_ROUNDS {
            for _ in 0..3 {
                for who in 0..self.processes.len() {
                    self.step(who);
                }
            }
            self.world.advance(HEARTBEAT_MS);
            self.check();
            self.world.take_transcript();
        }
        assert!(self.world.parked.is_empty(), "not answered: {:?}", self.world.parked);
        for partition in 0..PARTITION_COUNT {
            let owners = self.processes.iter().filter(|process| process.owned.contains_key(&partition));
            let expected = usize::from(!self.processes.is_empty());
            assert_eq!(owners.count(), expected, "who works on {partition}: {:?}", self.processes);
            self.fetch(partition);
        }
        let is_classic = self.processes.iter().all(|process| process.is_classic);
        if !self.processes.is_empty() {
            let error = consumer_client::describe(&mut self.world).error_code;
            assert_eq!(error != 0, is_classic, "a group of classic members alone is a classic group");
        }
    }
}

fn assignment(partitions: Vec<i32>) -> Bytes {
    let assigned_partitions = vec![ConsumerProtocolAssignmentTopicPartition { topic: text("t"), partitions }];
    encode_versioned(&ConsumerProtocolAssignment { assigned_partitions, user_data: None }, 1).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_group_of_both_kinds_keeps_its_promises(ops in prop::collection::vec(op(), 1..100)) {
        let mut simulation = Simulation::new();
        for op in &ops {
            simulation.take(op);
        }
        simulation.settle();
    }
}
