//! An image as records, and back.
//!
//! The order is one that Kafka accepts: features first (they gate the versions of all that
//! follows), then nodes, topics each before its partitions, and everything else.
//!
//! Invariant: loading the records of an image gives an equal image, whatever it holds.

use klamm_protocol::ids::{DirectoryId, NodeId, Offset, Uuid};
use klamm_protocol::messages::metadata_records::{
    AccessControlEntryRecord, BrokerEndpoint, BrokerFeature, ClientQuotaRecord, ConfigRecord,
    ControllerEndpoint, ControllerFeature, DelegationTokenRecord, EntityData, FeatureLevelRecord,
    PartitionRecord, ProducerIdsRecord, RegisterBrokerRecord, RegisterControllerRecord, TopicRecord,
    UserScramCredentialRecord,
};
use klamm_protocol::wire::WireStr;

use crate::features::METADATA_VERSION;
use crate::image::{BrokerRegistration, MetadataDelta, MetadataImage, PartitionImage, TopicImage};
use crate::record::MetadataRecord;

/// The records that rebuild `image`.
#[must_use]
pub fn records_of(image: &MetadataImage) -> Vec<MetadataRecord> {
    let mut records = Vec::with_capacity(image.partition_count() + 64);
    features(image, &mut records);
    nodes(image, &mut records);
    for topic in image.topics().values() {
        topic_records(topic, &mut records);
    }
    for (resource, values) in image.configs() {
        records.extend(values.iter().map(|(name, value)| {
            MetadataRecord::from(ConfigRecord {
                resource_type: resource.resource_type.code(),
                resource_name: wire(&resource.name),
                name: wire(name),
                value: Some(wire(value)),
            })
        }));
    }
    principals(image, &mut records);
    records
}

/// The image that a snapshot's records give; it stands for everything below `end_offset`.
pub fn image_of<'a>(
    end_offset: Offset,
    records: impl IntoIterator<Item = &'a MetadataRecord>,
) -> MetadataImage {
    let mut image = MetadataImage::default();
    let mut ignored = MetadataDelta::default();
    for record in records {
        // A snapshot's own offsets mean nothing: the log's end as of the snapshot is what counts.
        image.apply(Offset(-1), record, &mut ignored);
    }
    image.advance_to(end_offset);
    image
}

fn features(image: &MetadataImage, records: &mut Vec<MetadataRecord>) {
    let (first, others): (Vec<_>, Vec<_>) =
        image.features().iter().partition(|(name, _)| &***name == METADATA_VERSION);
    for (name, level) in first.into_iter().chain(others) {
        records.push(FeatureLevelRecord { name: wire(name), feature_level: *level }.into());
    }
}

fn nodes(image: &MetadataImage, records: &mut Vec<MetadataRecord>) {
    for broker in image.brokers().values() {
        records.push(register_broker_record(broker).into());
    }
    for controller in image.controllers().values() {
        records.push(
            RegisterControllerRecord {
                controller_id: controller.id.0,
                incarnation_id: controller.incarnation_id,
                zk_migration_ready: controller.is_zk_migration_ready,
                end_points: controller
                    .endpoints
                    .iter()
                    .map(|endpoint| ControllerEndpoint {
                        name: wire(&endpoint.name),
                        host: wire(&endpoint.host),
                        port: endpoint.port,
                        security_protocol: endpoint.security_protocol,
                    })
                    .collect(),
                features: controller
                    .features
                    .iter()
                    .map(|(name, range)| ControllerFeature {
                        name: wire(name),
                        min_supported_version: range.level_min,
                        max_supported_version: range.level_max,
                    })
                    .collect(),
            }
            .into(),
        );
    }
}

/// The record by which a broker registers.
#[must_use]
pub fn register_broker_record(broker: &BrokerRegistration) -> RegisterBrokerRecord {
    RegisterBrokerRecord {
        broker_id: broker.id.0,
        is_migrating_zk_broker: broker.is_migrating_zk_broker,
        incarnation_id: broker.incarnation_id,
        broker_epoch: broker.epoch.0,
        end_points: broker
            .endpoints
            .iter()
            .map(|endpoint| BrokerEndpoint {
                name: wire(&endpoint.name),
                host: wire(&endpoint.host),
                port: endpoint.port,
                security_protocol: endpoint.security_protocol,
            })
            .collect(),
        features: broker
            .features
            .iter()
            .map(|(name, range)| BrokerFeature {
                name: wire(name),
                min_supported_version: range.level_min,
                max_supported_version: range.level_max,
            })
            .collect(),
        rack: broker.rack.as_deref().map(wire),
        fenced: broker.is_fenced,
        in_controlled_shutdown: broker.in_controlled_shutdown,
        log_dirs: uuids(&broker.directories),
        cordoned_log_dirs: broker.cordoned_directories.as_deref().map(uuids),
    }
}

fn topic_records(topic: &TopicImage, records: &mut Vec<MetadataRecord>) {
    records.push(TopicRecord { name: wire(&topic.name), topic_id: topic.id.0 }.into());
    for (index, partition) in &topic.partitions {
        records.push(partition_record(topic.id.0, index.0, partition).into());
    }
}

/// The record by which a partition appears.
#[must_use]
pub fn partition_record(topic_id: Uuid, partition_id: i32, partition: &PartitionImage) -> PartitionRecord {
    let unless_empty = |of: &[NodeId]| (!of.is_empty()).then(|| node_ids(of));
    PartitionRecord {
        partition_id,
        topic_id,
        replicas: node_ids(&partition.replicas),
        isr: node_ids(&partition.isr),
        removing_replicas: node_ids(&partition.removing_replicas),
        adding_replicas: node_ids(&partition.adding_replicas),
        leader: partition.leader.0,
        leader_recovery_state: partition.recovery_state.code(),
        leader_epoch: partition.leader_epoch.0,
        partition_epoch: partition.partition_epoch,
        directories: uuids(&partition.directories),
        eligible_leader_replicas: unless_empty(&partition.elr),
        last_known_elr: unless_empty(&partition.last_known_elr),
    }
}

fn principals(image: &MetadataImage, records: &mut Vec<MetadataRecord>) {
    for (entity, values) in image.quotas() {
        for (key, value) in values {
            let entity = entity
                .iter()
                .map(|(entity_type, name)| EntityData {
                    entity_type: wire(entity_type),
                    entity_name: name.as_deref().map(wire),
                })
                .collect();
            records.push(ClientQuotaRecord { entity, key: wire(key), value: *value, remove: false }.into());
        }
    }
    if image.next_producer_id().0 > 0 {
        let next_producer_id = image.next_producer_id().0;
        // Who asked for the last block is of no consequence afterwards.
        records.push(ProducerIdsRecord { broker_id: -1, broker_epoch: -1, next_producer_id }.into());
    }
    for (id, acl) in image.acls() {
        records.push(
            AccessControlEntryRecord {
                id: *id,
                resource_type: acl.resource_type,
                resource_name: wire(&acl.resource_name),
                pattern_type: acl.pattern_type,
                principal: wire(&acl.principal),
                host: wire(&acl.host),
                operation: acl.operation,
                permission_type: acl.permission_type,
            }
            .into(),
        );
    }
    for ((mechanism, user), credential) in image.scram() {
        records.push(
            UserScramCredentialRecord {
                name: wire(user),
                mechanism: *mechanism,
                salt: credential.salt.0.clone(),
                stored_key: credential.stored_key.0.clone(),
                server_key: credential.server_key.0.clone(),
                iterations: credential.iterations,
            }
            .into(),
        );
    }
    for (id, token) in image.tokens() {
        records.push(
            DelegationTokenRecord {
                owner: wire(&token.owner),
                requester: wire(&token.requester),
                renewers: token.renewers.iter().map(|renewer| wire(renewer)).collect(),
                issue_timestamp: token.issue_timestamp_ms,
                max_timestamp: token.max_timestamp_ms,
                expiration_timestamp: token.expiration_timestamp_ms,
                token_id: wire(id),
            }
            .into(),
        );
    }
}

fn wire(text: &str) -> WireStr {
    WireStr::from(text.to_owned())
}

fn node_ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

fn uuids(directories: &[DirectoryId]) -> Vec<Uuid> {
    directories.iter().map(|directory| directory.0).collect()
}
