//! The cluster's metadata at one offset of its log, as brokers and the controller read it.
//!
//! A [`MetadataImage`] is a value: cloning is cheap, a clone never changes, and one image
//! becomes the next by [`MetadataImage::apply`]. Every kind of record is kept, also those
//! nothing acts upon yet, or a snapshot would lose them.
//!
//! Deliberately absent: validation. What reaches `apply` was decided by a controller; a
//! record that names something unknown changes nothing.

mod apply;
mod cluster;
mod configs;
mod delta;
mod principals;
mod topics;

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use klamm_protocol::ids::{NodeId, Offset, PartitionIndex, ProducerId, TopicId, Uuid};

use crate::features::{ELIGIBLE_LEADER_REPLICAS_VERSION, METADATA_VERSION, MetadataVersion};

pub use cluster::{BrokerRegistration, ControllerRegistration, Endpoint, FeatureRange};
pub use configs::{ConfigResource, ConfigResourceType, ConfigValues};
pub use delta::MetadataDelta;
pub use principals::{AclEntry, DelegationToken, QuotaEntity, ScramCredential, Secret};
pub(crate) use topics::NO_LEADER_CHANGE;
pub use topics::{PartitionImage, RecoveryState, TopicImage};

/// All metadata below [`MetadataImage::next_offset`].
#[derive(Clone, Default, PartialEq)]
pub struct MetadataImage {
    next_offset: Offset,
    features: OrdMap<Arc<str>, i16>,
    brokers: OrdMap<NodeId, Arc<BrokerRegistration>>,
    controllers: OrdMap<NodeId, Arc<ControllerRegistration>>,
    topics: OrdMap<TopicId, Arc<TopicImage>>,
    topic_ids: OrdMap<Arc<str>, TopicId>,
    partition_count: usize,
    configs: OrdMap<ConfigResource, ConfigValues>,
    next_producer_id: ProducerId,
    quotas: OrdMap<QuotaEntity, OrdMap<Arc<str>, f64>>,
    acls: OrdMap<Uuid, Arc<AclEntry>>,
    scram: OrdMap<(i8, Arc<str>), Arc<ScramCredential>>,
    tokens: OrdMap<Arc<str>, Arc<DelegationToken>>,
}

impl MetadataImage {
    /// The offset behind the last record taken in.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Moves past records that are not metadata records, such as leader changes.
    pub fn advance_to(&mut self, next_offset: Offset) {
        self.next_offset = self.next_offset.max(next_offset);
    }

    /// True while no record has been taken in that says anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { next_offset: self.next_offset, ..Self::default() }
    }

    /// Finalized feature levels by name. Level 0 is never listed.
    #[must_use]
    pub fn features(&self) -> &OrdMap<Arc<str>, i16> {
        &self.features
    }

    /// The finalized level of a feature; 0 if it has none.
    #[must_use]
    pub fn feature_level(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// The finalized `metadata.version`.
    #[must_use]
    pub fn metadata_version(&self) -> MetadataVersion {
        self.features.get(METADATA_VERSION).map_or(MetadataVersion::MIN, |level| MetadataVersion(*level))
    }

    /// Whether eligible leader replicas are kept (KIP-966).
    #[must_use]
    pub fn has_eligible_leader_replicas(&self) -> bool {
        self.metadata_version().has_eligible_leader_replicas()
            && self.feature_level(ELIGIBLE_LEADER_REPLICAS_VERSION) >= 1
    }

    /// Registered brokers.
    #[must_use]
    pub fn brokers(&self) -> &OrdMap<NodeId, Arc<BrokerRegistration>> {
        &self.brokers
    }

    /// One registered broker.
    #[must_use]
    pub fn broker(&self, node: NodeId) -> Option<&Arc<BrokerRegistration>> {
        self.brokers.get(&node)
    }

    /// The replicas that are not there: their broker is gone or fenced, or their log directory is offline.
    #[must_use]
    pub fn offline_replicas(&self, partition: &PartitionImage) -> Vec<NodeId> {
        let is_offline = |node: &NodeId| {
            self.broker(*node)
                .is_none_or(|broker| broker.is_fenced || !broker.has_online(partition.directory_of(*node)))
        };
        partition.replicas.iter().copied().filter(is_offline).collect()
    }

    /// Whether the broker is registered, unfenced and not shutting down: what may lead.
    #[must_use]
    pub fn is_active(&self, node: NodeId) -> bool {
        self.broker(node).is_some_and(|broker| !broker.is_fenced && !broker.in_controlled_shutdown)
    }

    /// Registered controllers.
    #[must_use]
    pub fn controllers(&self) -> &OrdMap<NodeId, Arc<ControllerRegistration>> {
        &self.controllers
    }

    /// Topics by id.
    #[must_use]
    pub fn topics(&self) -> &OrdMap<TopicId, Arc<TopicImage>> {
        &self.topics
    }

    /// One topic by id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(&id)
    }

    /// One topic by name.
    #[must_use]
    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    /// Ids by name, in the order of names.
    #[must_use]
    pub fn topic_ids(&self) -> &OrdMap<Arc<str>, TopicId> {
        &self.topic_ids
    }

    /// One partition.
    #[must_use]
    pub fn partition(&self, topic: TopicId, partition: PartitionIndex) -> Option<&Arc<PartitionImage>> {
        self.topic(topic)?.partitions.get(&partition)
    }

    /// Partitions of all topics.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// Dynamic configuration of every resource that has any.
    #[must_use]
    pub fn configs(&self) -> &OrdMap<ConfigResource, ConfigValues> {
        &self.configs
    }

    /// Dynamic configuration of one resource.
    #[must_use]
    pub fn config(&self, resource: &ConfigResource) -> Option<&ConfigValues> {
        self.configs.get(resource)
    }

    /// One dynamic configuration value.
    #[must_use]
    pub fn config_value(&self, resource: &ConfigResource, name: &str) -> Option<&Arc<str>> {
        self.config(resource)?.get(name)
    }

    /// Dynamic configuration of a topic.
    #[must_use]
    pub fn topic_config(&self, name: &str) -> Option<&ConfigValues> {
        self.config(&ConfigResource::topic(name))
    }

    /// A setting of a topic as far as metadata knows: its own value, else the cluster's
    /// dynamic default under the same name.
    #[must_use]
    pub fn topic_setting(&self, topic: &str, name: &str) -> Option<&Arc<str>> {
        self.config_value(&ConfigResource::topic(topic), name)
            .or_else(|| self.config_value(&ConfigResource::broker_default(), name))
    }

    /// The `min.insync.replicas` that counts for a topic; Kafka's default is 1.
    #[must_use]
    pub fn min_insync_replicas(&self, topic: &str) -> usize {
        let value = self.topic_setting(topic, "min.insync.replicas");
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(1)
    }

    /// First producer id that no block has given out.
    #[must_use]
    pub fn next_producer_id(&self) -> ProducerId {
        if self.next_producer_id.0 < 0 { ProducerId(0) } else { self.next_producer_id }
    }

    /// Client quotas (KIP-546).
    #[must_use]
    pub fn quotas(&self) -> &OrdMap<QuotaEntity, OrdMap<Arc<str>, f64>> {
        &self.quotas
    }

    /// ACLs by id.
    #[must_use]
    pub fn acls(&self) -> &OrdMap<Uuid, Arc<AclEntry>> {
        &self.acls
    }

    /// SCRAM credentials by mechanism and user (KIP-554).
    #[must_use]
    pub fn scram(&self) -> &OrdMap<(i8, Arc<str>), Arc<ScramCredential>> {
        &self.scram
    }

    /// Delegation tokens by id (KIP-48).
    #[must_use]
    pub fn tokens(&self) -> &OrdMap<Arc<str>, Arc<DelegationToken>> {
        &self.tokens
    }
}

impl fmt::Debug for MetadataImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataImage")
            .field("next_offset", &self.next_offset)
            .field("features", &self.features)
            .field("brokers", &self.brokers)
            .field("controllers", &self.controllers)
            .field("topics", &self.topics)
            .field("next_producer_id", &self.next_producer_id)
            .field("quotas", &self.quotas)
            .field("acls", &self.acls)
            .field("scram", &self.scram)
            .field("tokens", &self.tokens)
            // Values may be passwords; names are enough to follow a test.
            .field("configs", &self.configs.iter().map(|(of, values)| (of, values.len())).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
