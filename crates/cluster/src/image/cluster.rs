//! Brokers and controllers as they registered.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::ids::{BrokerEpoch, DirectoryId, NodeId, Offset, Uuid};
use klamm_protocol::messages::metadata_records::{
    BrokerRegistrationChangeRecord, RegisterBrokerRecord, RegisterControllerRecord,
};

/// Where a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name.
    pub name: Arc<str>,
    /// Host name or address.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
    /// Kafka's number of the security protocol: 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    pub security_protocol: i16,
}

/// Levels of a feature that a node understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureRange {
    /// The lowest.
    pub level_min: i16,
    /// The highest.
    pub level_max: i16,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerRegistration {
    /// Its node id.
    pub id: NodeId,
    /// The offset of its registration (KIP-903).
    pub epoch: BrokerEpoch,
    /// Drawn anew by each process.
    pub incarnation_id: Uuid,
    /// Listeners in the order registered.
    pub endpoints: Vec<Endpoint>,
    /// Features it understands.
    pub features: BTreeMap<Arc<str>, FeatureRange>,
    /// `broker.rack`.
    pub rack: Option<Arc<str>>,
    /// Fenced brokers lead nothing and are not shown to clients.
    pub is_fenced: bool,
    /// Set by a clean stop, until it registers again.
    pub in_controlled_shutdown: bool,
    /// A ZooKeeper broker in migration; only carried along.
    pub is_migrating_zk_broker: bool,
    /// Log directories that are online (KIP-858).
    pub directories: Vec<DirectoryId>,
    /// Log directories that take no new replicas (KIP-1066); `None` until the broker says so.
    pub cordoned_directories: Option<Vec<DirectoryId>>,
}

impl BrokerRegistration {
    /// The endpoint of a listener.
    #[must_use]
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| &*endpoint.name == listener)
    }

    /// Whether a replica in `directory` can be served: it is online, or not decided yet.
    #[must_use]
    pub fn has_online(&self, directory: DirectoryId) -> bool {
        match directory {
            DirectoryId::UNASSIGNED | DirectoryId::MIGRATING => true,
            DirectoryId::LOST => false,
            // A registration before KIP-858 names none.
            known => self.directories.is_empty() || self.directories.contains(&known),
        }
    }

    /// Where a new replica goes: its only directory, else wherever the broker decides later.
    #[must_use]
    pub fn default_directory(&self) -> DirectoryId {
        match self.directories[..] {
            [only] => only,
            _ => DirectoryId::UNASSIGNED,
        }
    }

    pub(super) fn from_record(at: Offset, record: &RegisterBrokerRecord) -> Self {
        Self {
            id: NodeId(record.broker_id),
            // Records of metadata versions before KIP-903 may carry -1 here.
            epoch: if record.broker_epoch < 0 { BrokerEpoch(at.0) } else { BrokerEpoch(record.broker_epoch) },
            incarnation_id: record.incarnation_id,
            endpoints: record
                .end_points
                .iter()
                .map(|listed| endpoint(&listed.name, &listed.host, listed.port, listed.security_protocol))
                .collect(),
            features: record
                .features
                .iter()
                .map(|listed| {
                    feature(&listed.name, listed.min_supported_version, listed.max_supported_version)
                })
                .collect(),
            rack: record.rack.as_deref().map(Arc::from),
            is_fenced: record.fenced,
            in_controlled_shutdown: record.in_controlled_shutdown,
            is_migrating_zk_broker: record.is_migrating_zk_broker,
            directories: record.log_dirs.iter().copied().map(DirectoryId).collect(),
            cordoned_directories: directories(record.cordoned_log_dirs.as_deref()),
        }
    }

    pub(super) fn changed_by(&self, record: &BrokerRegistrationChangeRecord) -> Self {
        let mut changed = self.clone();
        match record.fenced {
            1 => changed.is_fenced = true,
            -1 => changed.is_fenced = false,
            _ => {}
        }
        if record.in_controlled_shutdown == 1 {
            changed.in_controlled_shutdown = true;
        }
        if !record.log_dirs.is_empty() {
            changed.directories = record.log_dirs.iter().copied().map(DirectoryId).collect();
        }
        if let Some(cordoned) = directories(record.cordoned_log_dirs.as_deref()) {
            changed.cordoned_directories = Some(cordoned);
        }
        changed
    }
}

/// A registered controller (KIP-919).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerRegistration {
    /// Its node id.
    pub id: NodeId,
    /// Drawn anew by each process.
    pub incarnation_id: Uuid,
    /// Carried along from migrations.
    pub is_zk_migration_ready: bool,
    /// Listeners in the order registered.
    pub endpoints: Vec<Endpoint>,
    /// Features it understands.
    pub features: BTreeMap<Arc<str>, FeatureRange>,
}

impl ControllerRegistration {
    pub(super) fn from_record(record: &RegisterControllerRecord) -> Self {
        Self {
            id: NodeId(record.controller_id),
            incarnation_id: record.incarnation_id,
            is_zk_migration_ready: record.zk_migration_ready,
            endpoints: record
                .end_points
                .iter()
                .map(|listed| endpoint(&listed.name, &listed.host, listed.port, listed.security_protocol))
                .collect(),
            features: record
                .features
                .iter()
                .map(|listed| {
                    feature(&listed.name, listed.min_supported_version, listed.max_supported_version)
                })
                .collect(),
        }
    }
}

fn endpoint(name: &str, host: &str, port: u16, security_protocol: i16) -> Endpoint {
    Endpoint { name: name.into(), host: host.into(), port, security_protocol }
}

fn feature(name: &str, level_min: i16, level_max: i16) -> (Arc<str>, FeatureRange) {
    (name.into(), FeatureRange { level_min, level_max })
}

fn directories(ids: Option<&[Uuid]>) -> Option<Vec<DirectoryId>> {
    ids.map(|ids| ids.iter().copied().map(DirectoryId).collect())
}
