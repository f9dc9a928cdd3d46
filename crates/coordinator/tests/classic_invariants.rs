//! Members of one classic group in virtual time: they start, pause, die, leave, change their minds and lose their
//! connections, while their coordinator crashes and loads what it wrote,
//! or cannot write.
//!
//! What must hold: a generation has one leader's assignment, whoever asks and however often; members that are left in
//! peace end up with it; nobody who waits is forgotten (the driver sees to it that nobody is answered twice).

mod classic_client;
mod world;

use std::collections::BTreeMap;

use bytes::Bytes;
use classic_client::{consumer, protocols, subscription, text};
use klamm_coordinator::contract::ReplyKey;
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::heartbeat::HeartbeatRequest;
use klamm_protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use klamm_protocol::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};
use proptest::prelude::*;
use world::World;

const CLIENT_COUNT: usize = 6;
const HEARTBEAT_INTERVAL_MS: u64 = 3_000;
const TICK_MS: u64 = 500;
/// Enough for a new member that died while it joined, and the rebalance after it.
const PEACE_MS: u64 = 500_000;

#[derive(Clone, Debug)]
enum Op {
    Start(usize),
    Kill(usize),
    /// Dies and starts again before anybody notices.
    Restart(usize),
    Leave(usize),
    Pause(usize, u64),
    Disconnect(usize),
    Resubscribe(usize),
    Commit(usize),
    Crash {
        compacts: bool,
    },
    /// The log does not take what is written next, so often.
    Refuse(u32),
    Advance(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0..CLIENT_COUNT;
    prop_oneof![
        5 => client.clone().prop_map(Op::Start),
        2 => client.clone().prop_map(Op::Kill),
        3 => client.clone().prop_map(Op::Restart),
        1 => client.clone().prop_map(Op::Leave),
        2 => (client.clone(), 1_000..30_000u64).prop_map(|(client, ms)| Op::Pause(client, ms)),
        1 => client.clone().prop_map(Op::Disconnect),
        1 => client.clone().prop_map(Op::Resubscribe),
        2 => client.prop_map(Op::Commit),
        2 => any::<bool>().prop_map(|compacts| Op::Crash { compacts }),
        2 => (1..5_u32).prop_map(Op::Refuse),
        5 => prop_oneof![0..2_000u64, 2_000..70_000u64].prop_map(Op::Advance),
    ]
}

/// What a client is at.
#[derive(Debug)]
enum Phase {
    /// It does not run.
    Out,
    MustJoin,
    Joining(ReplyKey),
    Syncing(ReplyKey),
    Member {
        assignment: Bytes,
    },
}

#[derive(Debug)]
struct Client {
    name: String,
    instance_id: Option<String>,
    version: i16,
    phase: Phase,
    id: String,
    generation: i32,
    subscription: u8,
    paused_until: u64,
    heartbeat_at: u64,
}

impl Client {
    fn new(index: usize) -> Self {
        Self {
            name: format!("c{index}"),
            instance_id: index.is_multiple_of(2).then(|| format!("i{index}")),
            version: if index == 1 { 3 } else { 9 },
            phase: Phase::Out,
            id: String::new(),
            generation: -1,
            subscription: 0,
            paused_until: 0,
            heartbeat_at: 0,
        }
    }

    fn is_out(&self) -> bool {
        matches!(self.phase, Phase::Out)
    }

    fn start(&mut self) {
        self.phase = Phase::MustJoin;
        self.id.clear();
        self.generation = -1;
    }

    /// What every client does about errors; true if it goes on.
    fn heed(&mut self, error: i16) -> bool {
        match ErrorCode::from_code(error).unwrap() {
            ErrorCode::None => return true,
            // It asks again, also if its coordinator cannot write.
            ErrorCode::RebalanceInProgress | ErrorCode::NotCoordinator => self.phase = Phase::MustJoin,
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => self.start(),
            ErrorCode::FencedInstanceId => self.phase = Phase::Out,
            other => panic!("{}: {}", self.name, other.name()),
        }
        false
    }
}

struct Simulation {
    world: World,
    clients: Vec<Client>,
    /// Which assignment is a generation's.
    assignments: BTreeMap<i32, String>,
    assignment_count: u32,
}

impl Simulation {
    fn new() -> Self {
        let world = World::with_configs(&[
            ("group.initial.rebalance.delay.ms", "1000"),
            // An empty group is not forgotten, or its generations begin anew.
            ("offsets.retention.check.interval.ms", "100000000"),
        ]);
        let clients = (0..CLIENT_COUNT).map(Client::new).collect();
        Self { world, clients, assignments: BTreeMap::new(), assignment_count: 0 }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Start(index) if self.clients[index].is_out() => self.clients[index].start(),
            Op::Kill(index) => self.clients[index].phase = Phase::Out,
            Op::Restart(index) if !self.clients[index].is_out() => self.clients[index].start(),
            Op::Leave(index) => self.leave(index),
            Op::Pause(index, ms) => self.clients[index].paused_until = self.world.now.0 + ms,
            Op::Disconnect(index) if !self.clients[index].is_out() => {
                self.clients[index].phase = Phase::MustJoin;
            }
            Op::Resubscribe(index) if matches!(self.clients[index].phase, Phase::Member { .. }) => {
                self.clients[index].subscription ^= 1;
                self.clients[index].phase = Phase::MustJoin;
            }
            Op::Commit(index) if matches!(self.clients[index].phase, Phase::Member { .. }) => {
                let client = &self.clients[index];
                let error = self.world.commit(&client.id.clone(), client.generation, 1);
                self.clients[index].heed(error.code());
            }
            Op::Crash { compacts } => self.crash(compacts),
            Op::Refuse(times) => self.world.refusals_left = times,
            Op::Advance(ms) => self.advance(ms),
            _ => {}
        }
        self.advance(0);
    }

    /// Time passes in small steps, in which every client that is not paused acts.
    fn advance(&mut self, ms: u64) {
        let until = self.world.now.plus_ms(ms);
        loop {
            for index in 0..CLIENT_COUNT {
                while self.act(index) {}
            }
            let left = until.since_ms(self.world.now);
            if left == 0 {
                break;
            }
            self.world.advance(left.min(TICK_MS));
        }
        self.check_group();
    }

    /// Lets a client do one thing; false if it has nothing to do.
    fn act(&mut self, index: usize) -> bool {
        let now = self.world.now.0;
        let client = &mut self.clients[index];
        if client.is_out() || client.paused_until > now {
            return false;
        }
        match client.phase {
            Phase::Out => false,
            Phase::MustJoin => {
                self.join(index);
                true
            }
            Phase::Joining(key) => match self.world.take_reply(key) {
                Some(GroupReply::JoinGroup(response)) => {
                    self.joined(index, &response);
                    true
                }
                _ => false,
            },
            Phase::Syncing(key) => match self.world.take_reply(key) {
                Some(GroupReply::SyncGroup(response)) => {
                    self.synced(index, &response);
                    true
                }
                _ => false,
            },
            Phase::Member { .. } if client.heartbeat_at <= now => {
                client.heartbeat_at = now + HEARTBEAT_INTERVAL_MS;
                let request = HeartbeatRequest {
                    group_id: text("g"),
                    generation_id: client.generation,
                    member_id: text(&client.id),
                    group_instance_id: client.instance_id.as_deref().map(text),
                };
                match self.world.call(GroupCommand::Heartbeat(request)) {
                    GroupReply::Heartbeat(response) => !self.clients[index].heed(response.error_code),
                    other => panic!("{other:?}"),
                }
            }
            Phase::Member { .. } => false,
        }
    }

    fn join(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let topics: &[&str] = if client.subscription == 0 { &["t"] } else { &["t", "u"] };
        // All can `range`, not all like it best.
        let names = if index.is_multiple_of(3) { ["range", "sticky"] } else { ["sticky", "range"] };
        let request = JoinGroupRequest {
            member_id: text(&client.id),
            group_instance_id: client.instance_id.as_deref().map(text),
            protocols: protocols(&names.map(|name| (name, subscription(topics)))),
            ..consumer()
        };
        let key = self.world.join_by(&client.name, request, client.version);
        client.phase = Phase::Joining(key);
    }

    fn joined(&mut self, index: usize, response: &JoinGroupResponse) {
        let client = &mut self.clients[index];
        if response.error_code == ErrorCode::MemberIdRequired.code() {
            client.id = response.member_id.as_str().to_owned();
            client.phase = Phase::MustJoin;
            return;
        }
        if !client.heed(response.error_code) {
            return;
        }
        assert!(client.id.is_empty() || response.member_id == client.id, "an id stays");
        client.id = response.member_id.as_str().to_owned();
        client.generation = response.generation_id;
        let leads = response.leader == response.member_id && !response.skip_assignment;
        self.assignment_count += u32::from(leads);
        let number = self.assignment_count;
        let members = response.members.iter().filter(|_| leads);
        let assignments = members.map(|member| SyncGroupRequestAssignment {
            member_id: member.member_id.clone(),
            assignment: Bytes::from(format!("{number}:{}", member.member_id)),
        });
        let request = SyncGroupRequest {
            group_id: text("g"),
            generation_id: client.generation,
            member_id: text(&client.id),
            group_instance_id: client.instance_id.as_deref().map(text),
            protocol_type: response.protocol_type.clone(),
            protocol_name: response.protocol_name.clone(),
            assignments: assignments.collect(),
        };
        client.phase = Phase::Syncing(self.world.ask(GroupCommand::SyncGroup(request)));
    }

    fn synced(&mut self, index: usize, response: &SyncGroupResponse) {
        let client = &mut self.clients[index];
        if !client.heed(response.error_code) {
            return;
        }
        client.heartbeat_at = self.world.now.0 + HEARTBEAT_INTERVAL_MS;
        client.phase = Phase::Member { assignment: response.assignment.clone() };
        let (generation, is_static) = (client.generation, client.instance_id.is_some());
        let id = client.id.clone();
        let whose = self.check_assignment(generation, &response.assignment);
        assert!(is_static || whose == id, "{id} got what is for {whose}");
    }

    /// All assignments of a generation come from one leader. Gives whom this one was meant for.
    fn check_assignment(&mut self, generation: i32, assignment: &[u8]) -> String {
        let assignment = std::str::from_utf8(assignment).unwrap();
        let (number, whose) = assignment.split_once(':').expect("a leader names everybody");
        let known = self.assignments.entry(generation).or_insert_with(|| number.to_owned());
        assert_eq!(known, number, "two assignments in generation {generation}");
        whose.to_owned()
    }

    /// A static member keeps its place when it stops.
    fn leave(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !client.is_out() && client.instance_id.is_none() && !client.id.is_empty() {
            let members = vec![MemberIdentity {
                member_id: text(&client.id),
                group_instance_id: None,
                ..Default::default()
            }];
            let request = LeaveGroupRequest { group_id: text("g"), members, ..Default::default() };
            self.world.call(GroupCommand::LeaveGroup(request));
        }
        client.phase = Phase::Out;
    }

    /// Whoever waited sees its connection close.
    fn crash(&mut self, compacts: bool) {
        if compacts {
            self.world.compact();
        }
        let dropped = self.world.crash();
        for client in &mut self.clients {
            if let Phase::Joining(key) | Phase::Syncing(key) = client.phase
                && dropped.contains(&key)
            {
                client.phase = Phase::MustJoin;
            }
        }
    }

    fn check_group(&mut self) {
        let described = self.world.describe();
        if described.group_state == "Stable" {
            let numbers: std::collections::BTreeSet<Vec<u8>> = described
                .members
                .iter()
                .map(|member| member.member_assignment.split(|byte| *byte == b':').next().unwrap().to_vec())
                .collect();
            assert_eq!(numbers.len(), 1, "a stable group has one assignment: {described:?}");
        }
        self.world.take_transcript();
    }

    /// Nobody dies or changes any more: the group must find its peace.
    fn find_peace(&mut self) {
        self.world.refusals_left = 0;
        self.advance(PEACE_MS);
        assert!(self.world.parked.is_empty(), "forgotten: {:?}", self.world.parked);
        let described = self.world.describe();
        let running: Vec<&Client> = self.clients.iter().filter(|client| !client.is_out()).collect();
        assert_eq!(described.members.len(), running.len(), "{described:?} {running:?}");
        let expected = if running.is_empty() { &["Empty", "Dead"][..] } else { &["Stable"] };
        assert!(expected.contains(&described.group_state.as_str()), "{described:?}");
        for client in &running {
            let Phase::Member { assignment } = &client.phase else { panic!("{client:?}") };
            let known = described.members.iter().find(|member| member.member_id == client.id);
            assert_eq!(known.map(|member| &member.member_assignment), Some(assignment), "{client:?}");
            assert_eq!(client.generation, running[0].generation);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_generation_has_one_assignment_and_every_group_finds_its_peace(
        ops in proptest::collection::vec(op(), 1..60)
    ) {
        let mut simulation = Simulation::new();
        for op in &ops {
            simulation.run(op);
        }
        simulation.find_peace();
        simulation.crash(true);
        simulation.find_peace();
    }
}
