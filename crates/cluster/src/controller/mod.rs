//! The controller: turns requests about the cluster into metadata records.
//!
//! A state machine without I/O, clock or randomness of its own. [`Controller::decide`] reads
//! the image and says which records follow, [`Controller::apply`] takes them in, whether this
//! process wrote them or a replay brings them.
//!
//! Deliberately absent: who may ask (authorization), how long to wait (timeouts), several
//! brokers' liveness (heartbeats), and changing feature levels.
//!
//! Invariants: a decision is one atomic batch; with more than [`RECORDS_PER_BATCH_MAX`]
//! records it is a metadata transaction. Records are of versions which the finalized
//! `metadata.version` allows. One bad topic or resource fails alone.

mod command;
mod configs;
mod directories;
mod election;
mod names;
mod nodes;
mod partitions;
mod placement;
mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::ids::{NodeId, Offset};
use klamm_protocol::messages::metadata_records::{BeginTransactionRecord, EndTransactionRecord};

use crate::image::{MetadataDelta, MetadataImage};
use crate::machine::{Ctx, Decision, Machine};
use crate::record::MetadataRecord;
use crate::replay::Replay;

pub use command::{
    AlterConfigs, ApiError, BrokerIdentity, ControllerCommand, ControllerReply, CreatePartitions,
    CreateTopics, CreatedTopic, DeletedTopic, MorePartitions, NewTopic, NodeRegistration, ProducerIdBlock,
    RegisterBroker, ReplicaPlace, TopicRef,
};
pub use names::{METADATA_TOPIC, check_topic_name, collision_key};

/// Records in one batch of the metadata log, and partitions in one request: Kafka's limit.
pub const RECORDS_PER_BATCH_MAX: usize = 10_000;

/// Ids in one block of AllocateProducerIds (KIP-730).
pub const PRODUCER_IDS_PER_BLOCK: i32 = 1_000;

/// What the controller takes from static configuration.
#[derive(Clone)]
pub struct ControllerSettings {
    /// This node.
    pub node: NodeId,
    /// `num.partitions`.
    pub partition_count_default: i32,
    /// `default.replication.factor`.
    pub replication_factor_default: i16,
    /// What was given at start; the dynamic layers come from the image.
    pub given: Arc<BTreeMap<String, String>>,
}

/// The controller's state: an image that follows the metadata log.
pub struct Controller {
    settings: ControllerSettings,
    replay: Replay,
    committed: Offset,
}

impl Controller {
    /// A controller that continues from `replay`, which has taken in a snapshot and the log.
    #[must_use]
    pub fn new(settings: ControllerSettings, replay: Replay) -> Self {
        Self { settings, replay, committed: Offset(0) }
    }

    /// What the controller decides on: everything appended, committed or not.
    #[must_use]
    pub fn image(&self) -> &MetadataImage {
        self.replay.image()
    }

    /// What brokers may see once it is committed: no open transaction.
    #[must_use]
    pub fn stable_image(&self) -> &MetadataImage {
        self.replay.stable_image()
    }

    /// What changed in [`Controller::stable_image`] since the last call.
    pub fn take_delta(&mut self) -> MetadataDelta {
        self.replay.take_delta()
    }

    /// Moves past records that are not metadata records.
    pub fn advance_to(&mut self, next_offset: Offset) {
        self.replay.advance_to(next_offset);
    }

    /// Whether nothing was ever decided; a transaction that is open counts for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stable_image().is_empty()
    }

    /// What a controller that takes over must append first, if anything.
    #[must_use]
    pub fn abort_open_transaction(&self) -> Option<MetadataRecord> {
        self.replay.abort_open_transaction()
    }

    /// Every record below it is committed.
    #[must_use]
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// A decision that writes, as a transaction if the records do not fit one batch.
    fn write(&self, records: Vec<MetadataRecord>, reply: ControllerReply) -> Decision<Self> {
        let is_too_long = records.len() > RECORDS_PER_BATCH_MAX;
        if !is_too_long || !self.image().metadata_version().has_transactions() {
            return Decision::write(records, reply);
        }
        Decision::write(in_transaction("a long change", records), reply)
    }
}

impl Machine for Controller {
    type Command = ControllerCommand;
    type Reply = ControllerReply;
    type Record = MetadataRecord;
    type Timer = std::convert::Infallible;

    fn decide(&self, cx: &mut Ctx<'_>, command: ControllerCommand) -> Decision<Self> {
        match command {
            ControllerCommand::Bootstrap(records) => self.bootstrap(records),
            ControllerCommand::RegisterController(node) => self.register_controller(&node),
            ControllerCommand::RegisterBroker(broker) => self.register_broker(cx, &broker),
            ControllerCommand::UnfenceBroker(broker) => self.unfence_broker(broker),
            ControllerCommand::BeginControlledShutdown(broker) => self.begin_controlled_shutdown(broker),
            ControllerCommand::FenceBroker(broker) => self.fence_broker(broker),
            ControllerCommand::OfflineDirectories(broker, failed) => {
                self.offline_directories(broker, &failed)
            }
            ControllerCommand::AssignReplicas(broker, places) => self.assign_replicas(broker, &places),
            ControllerCommand::CordonDirectories(broker, cordoned) => {
                self.cordon_directories(broker, &cordoned)
            }
            ControllerCommand::CreateTopics(command) => self.create_topics(cx, command),
            ControllerCommand::DeleteTopics(topics) => self.delete_topics(topics),
            ControllerCommand::CreatePartitions(command) => self.create_partitions(command),
            ControllerCommand::IncrementalAlterConfigs(command) => self.incremental_alter_configs(command),
            ControllerCommand::AlterConfigs(command) => self.alter_configs(command),
            ControllerCommand::AllocateProducerIds(broker) => self.allocate_producer_ids(broker),
        }
    }

    fn apply(&mut self, at: Offset, record: &MetadataRecord) {
        self.replay.apply(at, record);
    }

    fn on_committed(&mut self, upto: Offset) {
        self.committed = self.committed.max(upto);
    }
}

/// Encloses records in the bounds of a metadata transaction.
fn in_transaction(name: &'static str, records: Vec<MetadataRecord>) -> Vec<MetadataRecord> {
    let mut enclosed = Vec::with_capacity(records.len() + 2);
    enclosed.push(BeginTransactionRecord { name: Some(name.into()) }.into());
    enclosed.extend(records);
    enclosed.push(EndTransactionRecord::default().into());
    enclosed
}
