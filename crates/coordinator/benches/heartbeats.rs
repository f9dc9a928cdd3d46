//! What a heartbeat costs the machine: 10,000 groups of 5 members, all in one partition.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use klamm_cluster::config::ConfigLayers;
use klamm_cluster::image::MetadataImage;
use klamm_coordinator::contract::{At, Coordinator, Ctx, ReplyKey};
use klamm_coordinator::group::record::GroupRecord;
use klamm_coordinator::group::settings::GroupSettings;
use klamm_coordinator::group::{Client, GroupCommand, GroupCoordinator, GroupOutcome, GroupReply};
use klamm_protocol::ids::{LeaderEpoch, Offset};
use klamm_protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use klamm_protocol::messages::consumer_protocol::ConsumerProtocolSubscription;
use klamm_protocol::messages::group_records::{GroupMetadataKey, GroupMetadataValue, MemberMetadata};
use klamm_protocol::messages::heartbeat::HeartbeatRequest;
use klamm_protocol::time::{MonoMs, WallMs};
use klamm_protocol::wire::{WireStr, encode_versioned};

const GROUPS: u64 = 10_000;
const MEMBERS: u64 = 5;
const HEARTBEAT_INTERVAL_MS: u64 = 3000;
/// As long as the random ids of clients.
const MEMBER_ID: &str = "consumer-5a0b2f64-6a0e-4f0e-8d6b-0d8d0f6f1c0";

/// A machine with nothing around it.
struct Bench {
    machine: GroupCoordinator,
    image: MetadataImage,
    settings: GroupSettings,
    now: MonoMs,
    out: GroupOutcome,
    next_offset: Offset,
}

impl Bench {
    fn new() -> Self {
        Self {
            machine: GroupCoordinator::default(),
            image: MetadataImage::default(),
            settings: GroupSettings::from(&ConfigLayers::default()),
            now: MonoMs(0),
            out: GroupOutcome::default(),
            next_offset: Offset(0),
        }
    }

    fn apply(&mut self, record: &GroupRecord) {
        self.machine.apply(At { offset: self.next_offset, transaction: None }, record);
        self.next_offset = self.next_offset.plus(1);
    }

    fn turn(&mut self, job: impl FnOnce(&mut GroupCoordinator, &Ctx<'_, GroupSettings>, &mut GroupOutcome)) {
        let cx = Ctx {
            mono: self.now,
            wall: WallMs(0),
            leader_epoch: LeaderEpoch(0),
            image: &self.image,
            settings: &self.settings,
            batch_bytes_max: 1_048_588,
            random: &|| 0,
        };
        job(&mut self.machine, &cx, &mut self.out);
        for record in std::mem::take(&mut self.out.records) {
            self.apply(&record);
        }
        self.out.timers.clear();
    }

    /// The one answer that comes at once.
    fn ask(&mut self, command: GroupCommand) -> GroupReply {
        self.turn(|machine, cx, out| machine.decide(cx, ReplyKey(1), command, out));
        let (_, reply) = self.out.replies.pop().expect("answered at once");
        reply
    }
}

fn group_id(group: u64) -> WireStr {
    WireStr::from(format!("a-group-of-{group}"))
}

fn member_id(member: u64) -> WireStr {
    WireStr::from(format!("{MEMBER_ID}{member}"))
}

/// The groups as a partition's log has them.
fn classic_groups() -> Bench {
    let subscription =
        ConsumerProtocolSubscription { topics: vec![WireStr::from_static("a-topic")], ..Default::default() };
    let subscription = encode_versioned(&subscription, 3).expect("a subscription");
    let member = |member| MemberMetadata {
        member_id: member_id(member),
        client_id: WireStr::from_static("consumer"),
        client_host: WireStr::from_static("/127.0.0.1"),
        rebalance_timeout: 300_000,
        session_timeout: 45_000,
        subscription: subscription.clone(),
        assignment: Bytes::from_static(&[0; 30]),
        ..Default::default()
    };
    let mut bench = Bench::new();
    for group in 0..GROUPS {
        let value = GroupMetadataValue {
            protocol_type: WireStr::from_static("consumer"),
            generation: 1,
            protocol: Some(WireStr::from_static("range")),
            leader: Some(member_id(0)),
            members: (0..MEMBERS).map(member).collect(),
            ..Default::default()
        };
        bench.apply(&GroupRecord::GroupMetadata(GroupMetadataKey { group: group_id(group) }, Some(value)));
    }
    bench.turn(|machine, cx, out| machine.loaded(cx, out));
    bench
}

/// Members that have joined one after the other, and heard of the last epoch.
fn consumer_groups() -> (Bench, Vec<ConsumerGroupHeartbeatRequest>) {
    let mut bench = Bench::new();
    let mut heartbeats = Vec::new();
    for group in 0..GROUPS {
        for member in 0..MEMBERS {
            heartbeats.push(ConsumerGroupHeartbeatRequest {
                group_id: group_id(group),
                member_id: member_id(member),
                rebalance_timeout_ms: 300_000,
                subscribed_topic_names: Some(vec![WireStr::from_static("a-topic")]),
                topic_partitions: Some(Vec::new()),
                ..Default::default()
            });
        }
    }
    // The second time with the epoch of the whole group.
    for _ in 0..2 {
        for request in &mut heartbeats {
            let command = consumer_heartbeat(request);
            let GroupReply::ConsumerGroupHeartbeat(reply) = bench.ask(command) else {
                panic!("another answer")
            };
            assert_eq!(reply.error_code, 0);
            *request = ConsumerGroupHeartbeatRequest {
                group_id: request.group_id.clone(),
                member_id: request.member_id.clone(),
                member_epoch: reply.member_epoch,
                rebalance_timeout_ms: -1,
                ..Default::default()
            };
        }
        bench.now = bench.now.plus_ms(HEARTBEAT_INTERVAL_MS);
    }
    (bench, heartbeats)
}

fn consumer_heartbeat(request: &ConsumerGroupHeartbeatRequest) -> GroupCommand {
    let client = Client { id: "consumer".into(), host: "/127.0.0.1".into() };
    GroupCommand::ConsumerGroupHeartbeat { request: request.clone(), version: 1, client }
}

fn heartbeats(c: &mut Criterion) {
    let mut group = c.benchmark_group("heartbeats");
    group.throughput(Throughput::Elements(GROUPS * MEMBERS)).sample_size(20);

    let mut bench = classic_groups();
    let requests: Vec<_> = (0..GROUPS * MEMBERS)
        .map(|index| HeartbeatRequest {
            group_id: group_id(index % GROUPS),
            member_id: member_id(index / GROUPS),
            generation_id: 1,
            ..Default::default()
        })
        .collect();
    group.bench_function("classic", |b| {
        b.iter(|| {
            bench.now = bench.now.plus_ms(HEARTBEAT_INTERVAL_MS);
            for request in &requests {
                let reply = bench.ask(GroupCommand::Heartbeat(request.clone()));
                assert!(matches!(black_box(reply), GroupReply::Heartbeat(reply) if reply.error_code == 0));
            }
        });
    });

    let (mut bench, requests) = consumer_groups();
    group.bench_function("consumer (KIP-848)", |b| {
        b.iter(|| {
            bench.now = bench.now.plus_ms(HEARTBEAT_INTERVAL_MS);
            for request in &requests {
                let reply = bench.ask(consumer_heartbeat(request));
                assert!(matches!(
                    black_box(reply),
                    GroupReply::ConsumerGroupHeartbeat(reply) if reply.error_code == 0
                ));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, heartbeats);
criterion_main!(benches);
