//! A controller with a log in memory: every decision is applied at once and kept as bytes.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use klamm_cluster::controller::{
    BrokerIdentity, Controller, ControllerCommand, ControllerReply, ControllerSettings, CreateTopics,
    NewTopic, NodeRegistration, RegisterBroker,
};
use klamm_cluster::features::SUPPORTED_FEATURES;
use klamm_cluster::image::{Endpoint, FeatureRange, MetadataImage};
use klamm_cluster::machine::{Ctx, Machine};
use klamm_cluster::metadata_log::batches::{BatchContent, decode_batches, encode_records};
use klamm_cluster::record::MetadataRecord;
use klamm_cluster::replay::Replay;
use klamm_protocol::ids::{BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, Offset, Uuid};
use klamm_protocol::time::{MonoMs, WallMs};

/// The node of a one-node cluster.
pub const NODE: NodeId = NodeId(1);

/// A controller, its log, and what was said.
pub struct World {
    pub controller: Controller,
    pub log: Vec<(Offset, MetadataRecord)>,
    pub bytes: Vec<u8>,
    pub transcript: String,
    random: u64,
    incarnations: u128,
}

impl World {
    pub fn empty() -> Self {
        Self {
            controller: Controller::new(settings(), Replay::default()),
            log: Vec::new(),
            bytes: Vec::new(),
            transcript: String::new(),
            random: 7,
            incarnations: 0,
        }
    }

    /// A bootstrapped cluster of one node that runs.
    pub fn running() -> Self {
        let mut world = Self::empty();
        world.ask(ControllerCommand::Bootstrap(None));
        world.start(NODE, None);
        world
    }

    pub fn image(&self) -> &MetadataImage {
        self.controller.image()
    }

    /// Asks, applies what is decided, and notes both.
    pub fn ask(&mut self, command: ControllerCommand) -> ControllerReply {
        writeln!(self.transcript, "> {command:?}").unwrap();
        let base = self.image().next_offset();
        let mut random = self.random;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random ^ (random >> 33)
        };
        let mut cx = Ctx { mono: MonoMs(0), wall: WallMs(1_000), next_offset: base, random: &mut next };
        let decision = self.controller.decide(&mut cx, command);
        self.random = random;
        let version = self.image().metadata_version();
        let batches =
            encode_records(base, LeaderEpoch(1), WallMs(1_000), version, &decision.records).unwrap();
        for batch in batches {
            self.bytes.extend_from_slice(&batch.bytes);
        }
        for (at, record) in (base.0..).map(Offset).zip(decision.records) {
            writeln!(self.transcript, "  {at}: {}", shown(&record)).unwrap();
            self.controller.apply(at, &record);
            self.log.push((at, record));
        }
        let reply = decision.reply.into_reply().expect("the controller answers at once");
        writeln!(self.transcript, "< {reply:?}\n").unwrap();
        reply
    }

    /// Registers and unfences a node, as its process does when it starts.
    pub fn start(&mut self, node: NodeId, previous_epoch: Option<BrokerEpoch>) -> BrokerIdentity {
        let broker = self.register(node, previous_epoch);
        self.ask(ControllerCommand::UnfenceBroker(broker));
        broker
    }

    /// Registers a node.
    pub fn register(&mut self, node: NodeId, previous_epoch: Option<BrokerEpoch>) -> BrokerIdentity {
        self.incarnations += 1;
        let command = RegisterBroker {
            node: registration(node, self.incarnations),
            rack: None,
            directories: vec![directory(node)],
            cordoned: Vec::new(),
            previous_epoch,
            replaces_dead: true,
        };
        let reply = self.ask(ControllerCommand::RegisterBroker(command));
        let ControllerReply::RegisterBroker(Ok(epoch)) = reply else { panic!("{reply:?}") };
        BrokerIdentity { node, epoch }
    }

    /// Stops a node cleanly; gives what its clean shutdown file would say.
    pub fn stop(&mut self, broker: BrokerIdentity) -> Option<BrokerEpoch> {
        self.ask(ControllerCommand::BeginControlledShutdown(broker));
        self.ask(ControllerCommand::FenceBroker(broker));
        Some(broker.epoch)
    }

    pub fn identity(&self, node: NodeId) -> BrokerIdentity {
        BrokerIdentity { node, epoch: self.image().broker(node).expect("registered").epoch }
    }

    pub fn create_topic(&mut self, name: &str, partition_count: i32) -> ControllerReply {
        self.ask(create_topic(name, partition_count))
    }

    /// Everything since the last call.
    pub fn take_transcript(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }

    /// The image that the log's bytes give.
    pub fn replayed(&self) -> MetadataImage {
        let mut replay = Replay::default();
        for batch in decode_batches(&Bytes::copy_from_slice(&self.bytes)) {
            let BatchContent::Records(records) = batch.unwrap().content else { panic!("no control records") };
            for (at, record) in &records {
                replay.apply(*at, record);
            }
        }
        replay.image().clone()
    }

    /// The partitions of a topic, one a line.
    pub fn topic(&self, name: &str) -> String {
        let topic = self.image().topic_by_name(name).expect("the topic exists");
        let mut text = String::new();
        for (index, p) in &topic.partitions {
            writeln!(
                text,
                "{name}-{index} leader {} epoch {} isr {:?} elr {:?} last known {:?} {:?}",
                p.leader, p.leader_epoch, p.isr, p.elr, p.last_known_elr, p.recovery_state
            )
            .unwrap();
        }
        text
    }
}

pub fn create_topic(name: &str, partition_count: i32) -> ControllerCommand {
    ControllerCommand::CreateTopics(CreateTopics {
        topics: vec![new_topic(name, partition_count)],
        validate_only: false,
    })
}

pub fn new_topic(name: &str, partition_count: i32) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partition_count,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Vec::new(),
    }
}

pub fn settings() -> ControllerSettings {
    ControllerSettings {
        node: NODE,
        partition_count_default: 4,
        replication_factor_default: 1,
        given: Arc::default(),
    }
}

pub fn registration(node: NodeId, incarnation: u128) -> NodeRegistration {
    let features: BTreeMap<String, FeatureRange> = SUPPORTED_FEATURES
        .iter()
        .filter(|feature| feature.name == "metadata.version")
        .map(|feature| {
            let range = FeatureRange { level_min: feature.level_min, level_max: feature.level_max };
            (feature.name.to_owned(), range)
        })
        .collect();
    NodeRegistration {
        node,
        incarnation_id: Uuid(incarnation),
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "127.0.0.1".into(),
            port: 9092,
            security_protocol: 0,
        }],
        features,
    }
}

pub fn directory(node: NodeId) -> DirectoryId {
    DirectoryId(Uuid(1_000 + node.0 as u128))
}

/// A record with only what differs from the defaults of its kind's lists.
fn shown(record: &MetadataRecord) -> String {
    let text = format!("{record:?}");
    let mut text = text.replace(", removing_replicas: [], adding_replicas: []", "");
    for absent in [
        ", replicas: None",
        ", removing_replicas: None",
        ", adding_replicas: None",
        ", isr: None",
        ", eligible_leader_replicas: None",
        ", last_known_elr: None",
        ", directories: None",
        ", leader: -2",
        ", leader_recovery_state: -1",
        ", leader_recovery_state: 0",
        ", cordoned_log_dirs: None",
        ", log_dirs: []",
        ", fenced: 0",
        ", in_controlled_shutdown: 0",
    ] {
        text = text.replace(absent, "");
    }
    text
}
