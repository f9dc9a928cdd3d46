//! What a controller is asked and what it answers: one pair per API, in owned types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{BrokerEpoch, DirectoryId, NodeId, PartitionIndex, ProducerId, TopicId, Uuid};

use crate::config::ConfigChange;
use crate::image::{ConfigResource, Endpoint, FeatureRange};
use crate::record::MetadataRecord;

/// An error as clients see it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// Kafka's text; without one, clients show their own for the code.
    pub message: Option<String>,
}

impl ApiError {
    /// A code and a text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None }
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.name())?;
        self.message.iter().try_for_each(|message| write!(f, ": {message}"))
    }
}

/// A question to the controller.
#[derive(Clone, Debug, PartialEq)]
pub enum ControllerCommand {
    /// Begins an empty log, with these records of `bootstrap.checkpoint`, or with those that
    /// formatting a directory would leave there.
    Bootstrap(Option<Vec<MetadataRecord>>),
    /// This process's controller registers (KIP-919).
    RegisterController(NodeRegistration),
    /// A broker registers. It starts fenced.
    RegisterBroker(RegisterBroker),
    /// A fenced broker has caught up and may lead.
    UnfenceBroker(BrokerIdentity),
    /// A broker wants to stop: its partitions move or lose their leader.
    BeginControlledShutdown(BrokerIdentity),
    /// A broker is gone: its partitions move or lose their leader, and it is fenced.
    FenceBroker(BrokerIdentity),
    /// Log directories of a broker have failed (KIP-858): their partitions move or lose their leader.
    OfflineDirectories(BrokerIdentity, Vec<DirectoryId>),
    /// Where replicas of a broker lie (KIP-858).
    AssignReplicas(BrokerIdentity, Vec<ReplicaPlace>),
    /// The log directories of a broker that take no new replicas (KIP-1066).
    CordonDirectories(BrokerIdentity, Vec<DirectoryId>),
    /// CreateTopics.
    CreateTopics(CreateTopics),
    /// DeleteTopics.
    DeleteTopics(Vec<TopicRef>),
    /// CreatePartitions.
    CreatePartitions(CreatePartitions),
    /// IncrementalAlterConfigs (KIP-339).
    IncrementalAlterConfigs(AlterConfigs<Vec<ConfigChange>>),
    /// AlterConfigs: each resource gets exactly the values given.
    AlterConfigs(AlterConfigs<Vec<(String, Option<String>)>>),
    /// AllocateProducerIds (KIP-730).
    AllocateProducerIds(BrokerIdentity),
}

/// What a [`ControllerCommand`] leads to; the variants correspond.
#[derive(Clone, Debug, PartialEq)]
pub enum ControllerReply {
    /// Of [`ControllerCommand::Bootstrap`], [`ControllerCommand::RegisterController`],
    /// [`ControllerCommand::UnfenceBroker`], [`ControllerCommand::BeginControlledShutdown`],
    /// [`ControllerCommand::FenceBroker`] and of those about log directories.
    Done(Result<(), ApiError>),
    /// The broker's epoch.
    RegisterBroker(Result<BrokerEpoch, ApiError>),
    /// Per topic, in the order asked; a name that was given twice is listed once.
    CreateTopics(Vec<(String, Result<CreatedTopic, ApiError>)>),
    /// Per topic, in the order asked.
    DeleteTopics(Vec<DeletedTopic>),
    /// Per topic, in the order asked; a name that was given twice is listed once.
    CreatePartitions(Vec<(String, Result<(), ApiError>)>),
    /// Per resource, in the order asked; of either way to alter configuration.
    AlterConfigs(Vec<(ConfigResource, Result<(), ApiError>)>),
    /// The block of ids.
    AllocateProducerIds(Result<ProducerIdBlock, ApiError>),
}

/// Which process of which node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerIdentity {
    /// The node.
    pub node: NodeId,
    /// The epoch of its registration.
    pub epoch: BrokerEpoch,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRegistration {
    /// The node.
    pub node: NodeId,
    /// Drawn anew by each process.
    pub incarnation_id: Uuid,
    /// Its listeners.
    pub endpoints: Vec<Endpoint>,
    /// The features it understands.
    pub features: BTreeMap<String, FeatureRange>,
}

/// A broker's registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterBroker {
    /// What it has in common with a controller.
    pub node: NodeRegistration,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Its online log directories.
    pub directories: Vec<DirectoryId>,
    /// Those of them that take no new replicas (KIP-1066).
    pub cordoned: Vec<DirectoryId>,
    /// The epoch in its clean shutdown file; without one the last stop was not clean (KIP-966).
    pub previous_epoch: Option<BrokerEpoch>,
    /// The caller knows that the process which registered before is dead, for instance because
    /// it holds the lock on its directories: no need to wait until it is fenced.
    pub replaces_dead: bool,
}

/// In which of a broker's log directories one of its replicas lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaPlace {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The log directory.
    pub directory: DirectoryId,
}

/// CreateTopics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopics {
    /// The topics.
    pub topics: Vec<NewTopic>,
    /// Only say what would happen.
    pub validate_only: bool,
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; -1 is the default.
    pub partition_count: i32,
    /// How many replicas; -1 is the default.
    pub replication_factor: i16,
    /// Instead of both, replicas per partition.
    pub assignments: Vec<(i32, Vec<NodeId>)>,
    /// Its configuration.
    pub configs: Vec<(String, Option<String>)>,
}

/// A topic that was created, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its identity.
    pub id: TopicId,
    /// How many partitions.
    pub partition_count: i32,
    /// How many replicas.
    pub replication_factor: i16,
    /// The configuration it was given.
    pub configs: BTreeMap<String, String>,
}

/// A topic by either of its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By id (KIP-516).
    Id(TopicId),
}

/// What became of a topic to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// What was asked for.
    pub topic: TopicRef,
    /// The topic's id and name, or why nothing was deleted.
    pub result: Result<(TopicId, String), ApiError>,
}

/// CreatePartitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePartitions {
    /// The topics.
    pub topics: Vec<MorePartitions>,
    /// Only say what would happen.
    pub validate_only: bool,
}

/// A topic to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MorePartitions {
    /// Its name.
    pub name: String,
    /// How many partitions it shall have.
    pub total_count: i32,
    /// Replicas per new partition.
    pub assignments: Option<Vec<Vec<NodeId>>>,
}

/// Configuration to alter, per resource.
#[derive(Clone, Debug, PartialEq)]
pub struct AlterConfigs<C> {
    /// Resources and what to do with them.
    pub resources: Vec<(ConfigResource, C)>,
    /// Only say what would happen.
    pub validate_only: bool,
}

/// Producer ids given to one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// The first.
    pub first: ProducerId,
    /// How many.
    pub count: i32,
}

/// Names that appear more than once.
pub(super) fn duplicates<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).collect()
}
