//! The life of nodes: a fresh log, registration, fencing, the stop.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{BrokerEpoch, NodeId, Offset, ProducerId};
use klamm_protocol::messages::metadata_records::{
    BrokerRegistrationChangeRecord, ConfigRecord, ControllerEndpoint, ControllerFeature, FeatureLevelRecord,
    ProducerIdsRecord, RegisterControllerRecord,
};

use super::election::{NodeEvent, partition_changes};
use super::{
    ApiError, BrokerIdentity, Controller, ControllerReply, NodeRegistration, PRODUCER_IDS_PER_BLOCK,
    ProducerIdBlock, RegisterBroker, in_transaction,
};
use crate::features::{BOOTSTRAP_FEATURE_LEVELS, METADATA_VERSION};
use crate::image::{BrokerRegistration, ConfigResource, FeatureRange};
use crate::machine::{Ctx, Decision};
use crate::record::MetadataRecord;
use crate::snapshot::{image_of, register_broker_record};

const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

impl Controller {
    /// Writes what formatting a directory and the first start of Kafka 4.3.1 write together.
    pub(super) fn bootstrap(&self, formatted: Option<Vec<MetadataRecord>>) -> Decision<Self> {
        if self.image().features().contains_key(METADATA_VERSION) {
            return Decision::read(ControllerReply::Done(Ok(())));
        }
        let mut records = formatted.unwrap_or_else(|| {
            BOOTSTRAP_FEATURE_LEVELS
                .iter()
                .map(|(name, level)| {
                    FeatureLevelRecord { name: (*name).into(), feature_level: *level }.into()
                })
                .collect()
        });
        let image = image_of(Offset(0), &records);
        let of_cluster = ConfigResource::broker_default();
        // With eligible leader replicas the minimum is a matter of the cluster (KIP-966), so it
        // must stand in the log.
        if image.has_eligible_leader_replicas()
            && image.config_value(&of_cluster, MIN_INSYNC_REPLICAS).is_none()
        {
            let given = self.settings.given.get(MIN_INSYNC_REPLICAS).map_or("1", |value| value.trim());
            records.push(
                ConfigRecord {
                    resource_type: of_cluster.resource_type.code(),
                    resource_name: "".into(),
                    name: MIN_INSYNC_REPLICAS.into(),
                    value: Some(given.to_owned().into()),
                }
                .into(),
            );
        }
        if image.metadata_version().has_transactions() {
            records = in_transaction("Bootstrap records", records);
        }
        Decision::write(records, ControllerReply::Done(Ok(())))
    }

    pub(super) fn register_controller(&self, node: &NodeRegistration) -> Decision<Self> {
        let mut records = Vec::new();
        if self.image().metadata_version().has_controller_registration() {
            records.push(register_controller_record(node).into());
        }
        Decision::write(records, ControllerReply::Done(Ok(())))
    }

    pub(super) fn register_broker(&self, cx: &Ctx<'_>, command: &RegisterBroker) -> Decision<Self> {
        let reply = |result| ControllerReply::RegisterBroker(result);
        let id = command.node.node;
        let existing = self.image().broker(id);
        if let Some(existing) = existing {
            let is_live = !existing.is_fenced && !existing.in_controlled_shutdown;
            let is_same = existing.incarnation_id == command.node.incarnation_id;
            if is_live && !is_same && !command.replaces_dead {
                let message = format!(
                    "Another broker is registered with id {id} and has not been fenced; it may have been restarted \
                     before its session ended"
                );
                return Decision::read(reply(Err(ApiError::new(
                    ErrorCode::DuplicateBrokerRegistration,
                    message,
                ))));
            }
        }
        let mut records = Vec::new();
        if let Some(existing) = existing
            && command.previous_epoch != Some(existing.epoch)
            && (existing.is_fenced || existing.in_controlled_shutdown)
        {
            // What a live registration led stays as it is: nothing else was elected meanwhile.
            records.extend(partition_changes(self.image(), id, NodeEvent::StoppedUncleanly));
        }
        let epoch = BrokerEpoch(cx.next_offset.0);
        let metadata_version = self.image().metadata_version();
        let broker = BrokerRegistration {
            id,
            epoch,
            incarnation_id: command.node.incarnation_id,
            endpoints: command.node.endpoints.clone(),
            features: shared(&command.node.features),
            rack: command.rack.as_deref().map(Arc::from),
            is_fenced: true,
            in_controlled_shutdown: false,
            is_migrating_zk_broker: false,
            // An older metadata.version has no field for them.
            directories: if metadata_version.has_directories() {
                command.directories.clone()
            } else {
                Vec::new()
            },
            cordoned_directories: metadata_version
                .has_cordoned_directories()
                .then(|| command.cordoned.clone())
                .filter(|cordoned| !cordoned.is_empty()),
        };
        records.push(register_broker_record(&broker).into());
        self.write(records, reply(Ok(epoch)))
    }

    pub(super) fn unfence_broker(&self, broker: BrokerIdentity) -> Decision<Self> {
        let registration = match self.current(broker) {
            Ok(registration) => registration,
            Err(error) => return Decision::read(ControllerReply::Done(Err(error))),
        };
        let mut records = Vec::new();
        if registration.is_fenced {
            let change = BrokerRegistrationChangeRecord { fenced: -1, ..change_of(broker) };
            records.push(change.into());
            records.extend(partition_changes(self.image(), broker.node, NodeEvent::Activated));
        }
        self.write(records, ControllerReply::Done(Ok(())))
    }

    pub(super) fn begin_controlled_shutdown(&self, broker: BrokerIdentity) -> Decision<Self> {
        let registration = match self.current(broker) {
            Ok(registration) => registration,
            Err(error) => return Decision::read(ControllerReply::Done(Err(error))),
        };
        let mut records = Vec::new();
        if !registration.in_controlled_shutdown && !registration.is_fenced {
            let change = BrokerRegistrationChangeRecord { in_controlled_shutdown: 1, ..change_of(broker) };
            records.push(change.into());
            records.extend(partition_changes(self.image(), broker.node, NodeEvent::Deactivated));
        }
        self.write(records, ControllerReply::Done(Ok(())))
    }

    pub(super) fn fence_broker(&self, broker: BrokerIdentity) -> Decision<Self> {
        let registration = match self.current(broker) {
            Ok(registration) => registration,
            Err(error) => return Decision::read(ControllerReply::Done(Err(error))),
        };
        let mut records = Vec::new();
        if !registration.is_fenced {
            records.extend(partition_changes(self.image(), broker.node, NodeEvent::Deactivated));
            records.push(BrokerRegistrationChangeRecord { fenced: 1, ..change_of(broker) }.into());
        }
        self.write(records, ControllerReply::Done(Ok(())))
    }

    pub(super) fn allocate_producer_ids(&self, broker: BrokerIdentity) -> Decision<Self> {
        if let Err(error) = self.current(broker) {
            return Decision::read(ControllerReply::AllocateProducerIds(Err(error)));
        }
        let first = self.image().next_producer_id();
        let Some(next) = first.0.checked_add(i64::from(PRODUCER_IDS_PER_BLOCK)) else {
            let error = ApiError::new(ErrorCode::UnknownServerError, "No producer id is left");
            return Decision::read(ControllerReply::AllocateProducerIds(Err(error)));
        };
        let record = ProducerIdsRecord {
            broker_id: broker.node.0,
            broker_epoch: broker.epoch.0,
            next_producer_id: next,
        };
        let block = ProducerIdBlock { first: ProducerId(first.0), count: PRODUCER_IDS_PER_BLOCK };
        self.write(vec![record.into()], ControllerReply::AllocateProducerIds(Ok(block)))
    }

    /// The registration that `broker` speaks for, unless another replaced it.
    pub(super) fn current(&self, broker: BrokerIdentity) -> Result<&BrokerRegistration, ApiError> {
        let NodeId(id) = broker.node;
        match self.image().broker(broker.node) {
            None => {
                let message = format!("Broker {id} is not registered");
                Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, message))
            }
            Some(registration) if registration.epoch != broker.epoch => {
                let message = format!("Broker {id} has epoch {}, not {}", registration.epoch, broker.epoch);
                Err(ApiError::new(ErrorCode::StaleBrokerEpoch, message))
            }
            Some(registration) => Ok(registration),
        }
    }
}

pub(super) fn change_of(broker: BrokerIdentity) -> BrokerRegistrationChangeRecord {
    BrokerRegistrationChangeRecord {
        broker_id: broker.node.0,
        broker_epoch: broker.epoch.0,
        ..Default::default()
    }
}

fn shared(features: &BTreeMap<String, FeatureRange>) -> BTreeMap<Arc<str>, FeatureRange> {
    features.iter().map(|(name, range)| (Arc::from(name.as_str()), *range)).collect()
}

fn register_controller_record(node: &NodeRegistration) -> RegisterControllerRecord {
    RegisterControllerRecord {
        controller_id: node.node.0,
        incarnation_id: node.incarnation_id,
        zk_migration_ready: false,
        end_points: node
            .endpoints
            .iter()
            .map(|endpoint| ControllerEndpoint {
                name: endpoint.name.to_string().into(),
                host: endpoint.host.to_string().into(),
                port: endpoint.port,
                security_protocol: endpoint.security_protocol,
            })
            .collect(),
        features: node
            .features
            .iter()
            .map(|(name, range)| ControllerFeature {
                name: name.clone().into(),
                min_supported_version: range.level_min,
                max_supported_version: range.level_max,
            })
            .collect(),
    }
}
