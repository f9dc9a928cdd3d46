//! One record taken into an image.

use std::sync::Arc;

use klamm_protocol::ids::{NodeId, Offset, PartitionIndex, ProducerId, TopicId};
use klamm_protocol::messages::metadata_records::{
    BrokerRegistrationChangeRecord, ClearElrRecord, ClientQuotaRecord, ConfigRecord, PartitionChangeRecord,
    PartitionRecord, TopicRecord,
};

use super::{
    AclEntry, BrokerRegistration, ConfigResource, ConfigResourceType, ControllerRegistration,
    DelegationToken, MetadataDelta, MetadataImage, PartitionImage, QuotaEntity, ScramCredential, TopicImage,
};
use crate::record::MetadataRecord;

impl MetadataImage {
    /// Takes in the record at offset `at` and notes in `delta` what it touched. Total.
    ///
    /// The records that bound a metadata transaction change nothing here: undoing one is
    /// the business of [`crate::replay::Replay`].
    pub fn apply(&mut self, at: Offset, record: &MetadataRecord, delta: &mut MetadataDelta) {
        self.advance_to(at.plus(1));
        match record {
            MetadataRecord::RegisterBroker(record) => {
                let broker = BrokerRegistration::from_record(at, record);
                delta.brokers_changed.insert(broker.id);
                self.brokers.insert(broker.id, Arc::new(broker));
            }
            MetadataRecord::UnregisterBroker(record) => {
                let id = NodeId(record.broker_id);
                if self.brokers.remove(&id).is_some() {
                    delta.brokers_changed.insert(id);
                }
            }
            MetadataRecord::BrokerRegistrationChange(record) => self.change_broker(record, delta),
            MetadataRecord::FenceBroker(record) => self.change_broker(
                &BrokerRegistrationChangeRecord {
                    broker_id: record.id,
                    broker_epoch: record.epoch,
                    fenced: 1,
                    ..Default::default()
                },
                delta,
            ),
            MetadataRecord::UnfenceBroker(record) => self.change_broker(
                &BrokerRegistrationChangeRecord {
                    broker_id: record.id,
                    broker_epoch: record.epoch,
                    fenced: -1,
                    ..Default::default()
                },
                delta,
            ),
            MetadataRecord::RegisterController(record) => {
                let controller = ControllerRegistration::from_record(record);
                delta.controllers_changed.insert(controller.id);
                self.controllers.insert(controller.id, Arc::new(controller));
            }
            MetadataRecord::Topic(record) => self.create_topic(record, delta),
            MetadataRecord::RemoveTopic(record) => self.remove_topic(TopicId(record.topic_id), delta),
            MetadataRecord::Partition(record) => self.create_partition(record, delta),
            MetadataRecord::PartitionChange(record) => self.change_partition(record, delta),
            MetadataRecord::ClearElr(record) => self.clear_elr(record, delta),
            MetadataRecord::Config(record) => self.set_config(record, delta),
            MetadataRecord::FeatureLevel(record) => {
                delta.features_changed = true;
                if record.feature_level == 0 {
                    self.features.remove(&*record.name);
                } else {
                    self.features.insert(Arc::from(&*record.name), record.feature_level);
                }
            }
            MetadataRecord::ProducerIds(record) => {
                delta.producer_ids_changed = true;
                // 0 says as much as no record at all.
                let next = Some(ProducerId(record.next_producer_id)).filter(|next| next.0 > 0);
                self.next_producer_id = next.unwrap_or_default();
            }
            MetadataRecord::ClientQuota(record) => self.set_quota(record, delta),
            MetadataRecord::AccessControlEntry(record) => {
                delta.acls_changed = true;
                self.acls.insert(record.id, Arc::new(AclEntry::from_record(record)));
            }
            MetadataRecord::RemoveAccessControlEntry(record) => {
                delta.acls_changed |= self.acls.remove(&record.id).is_some();
            }
            MetadataRecord::UserScramCredential(record) => {
                delta.scram_changed = true;
                let key = (record.mechanism, Arc::from(&*record.name));
                self.scram.insert(key, Arc::new(ScramCredential::from_record(record)));
            }
            MetadataRecord::RemoveUserScramCredential(record) => {
                let key = (record.mechanism, Arc::from(&*record.name));
                delta.scram_changed |= self.scram.remove(&key).is_some();
            }
            MetadataRecord::DelegationToken(record) => {
                delta.tokens_changed = true;
                let token = DelegationToken::from_record(record);
                self.tokens.insert(Arc::from(&*record.token_id), Arc::new(token));
            }
            MetadataRecord::RemoveDelegationToken(record) => {
                delta.tokens_changed |= self.tokens.remove(&*record.token_id).is_some();
            }
            MetadataRecord::NoOp(_)
            | MetadataRecord::ZkMigrationState(_)
            | MetadataRecord::BeginTransaction(_)
            | MetadataRecord::EndTransaction(_)
            | MetadataRecord::AbortTransaction(_) => {}
        }
    }

    fn change_broker(&mut self, record: &BrokerRegistrationChangeRecord, delta: &mut MetadataDelta) {
        let id = NodeId(record.broker_id);
        let Some(broker) = self.brokers.get_mut(&id) else { return };
        // A change meant for an earlier registration says nothing about this one.
        if broker.epoch.0 == record.broker_epoch {
            *broker = Arc::new(broker.changed_by(record));
            delta.brokers_changed.insert(id);
        }
    }

    fn create_topic(&mut self, record: &TopicRecord, delta: &mut MetadataDelta) {
        let id = TopicId(record.topic_id);
        // A name or id that is taken would leave the two maps at odds.
        if self.topics.contains_key(&id) || self.topic_ids.contains_key(&*record.name) {
            return;
        }
        let name: Arc<str> = Arc::from(&*record.name);
        self.topic_ids.insert(name.clone(), id);
        self.topics.insert(id, Arc::new(TopicImage { id, name, partitions: imbl::OrdMap::new() }));
        delta.topic_created(id);
    }

    fn remove_topic(&mut self, id: TopicId, delta: &mut MetadataDelta) {
        let Some(topic) = self.topics.remove(&id) else { return };
        self.topic_ids.remove(&topic.name);
        self.partition_count -= topic.partitions.len();
        let resource = ConfigResource::topic(topic.name.clone());
        if self.configs.remove(&resource).is_some() {
            delta.configs_changed.insert(resource);
        }
        delta.topic_deleted(topic);
    }

    fn create_partition(&mut self, record: &PartitionRecord, delta: &mut MetadataDelta) {
        let id = TopicId(record.topic_id);
        let Some(topic) = self.topics.get_mut(&id) else { return };
        let index = PartitionIndex(record.partition_id);
        let partition = Arc::new(PartitionImage::from_record(record));
        if Arc::make_mut(topic).partitions.insert(index, partition).is_none() {
            self.partition_count += 1;
        }
        delta.partitions_changed.insert((id, index));
    }

    fn change_partition(&mut self, record: &PartitionChangeRecord, delta: &mut MetadataDelta) {
        let id = TopicId(record.topic_id);
        let index = PartitionIndex(record.partition_id);
        let Some(topic) = self.topics.get_mut(&id) else { return };
        let Some(changed) = topic.partitions.get(&index).map(|partition| partition.changed_by(record)) else {
            return;
        };
        Arc::make_mut(topic).partitions.insert(index, Arc::new(changed));
        delta.partitions_changed.insert((id, index));
    }

    fn clear_elr(&mut self, record: &ClearElrRecord, delta: &mut MetadataDelta) {
        let topics: Vec<TopicId> = if record.topic_name.is_empty() {
            self.topics.keys().copied().collect()
        } else {
            self.topic_ids.get(&*record.topic_name).copied().into_iter().collect()
        };
        for id in topics {
            let Some(topic) = self.topics.get_mut(&id) else { continue };
            let holds_any = |partition: &PartitionImage| {
                !partition.elr.is_empty() || !partition.last_known_elr.is_empty()
            };
            let with_elr: Vec<PartitionIndex> = topic
                .partitions
                .iter()
                .filter(|(_, partition)| holds_any(partition))
                .map(|(index, _)| *index)
                .collect();
            for index in with_elr {
                if let Some(partition) = Arc::make_mut(topic).partitions.get_mut(&index) {
                    let partition = Arc::make_mut(partition);
                    partition.partition_epoch = partition.partition_epoch.saturating_add(1);
                    partition.elr.clear();
                    partition.last_known_elr.clear();
                    delta.partitions_changed.insert((id, index));
                }
            }
        }
    }

    fn set_config(&mut self, record: &ConfigRecord, delta: &mut MetadataDelta) {
        let resource = ConfigResource::new(
            ConfigResourceType::from_code(record.resource_type),
            Arc::<str>::from(&*record.resource_name),
        );
        let mut values = self.configs.get(&resource).cloned().unwrap_or_default();
        match record.value.as_deref() {
            Some(value) => {
                values.insert(Arc::from(&*record.name), Arc::from(value));
            }
            None => {
                values.remove(&*record.name);
            }
        }
        if values.is_empty() {
            self.configs.remove(&resource);
        } else {
            self.configs.insert(resource.clone(), values);
        }
        delta.configs_changed.insert(resource);
    }

    fn set_quota(&mut self, record: &ClientQuotaRecord, delta: &mut MetadataDelta) {
        let mut entity: QuotaEntity = record
            .entity
            .iter()
            .map(|part| (Arc::from(&*part.entity_type), part.entity_name.as_deref().map(Arc::from)))
            .collect();
        entity.sort();
        let mut values = self.quotas.get(&entity).cloned().unwrap_or_default();
        if record.remove {
            values.remove(&*record.key);
        } else {
            values.insert(Arc::from(&*record.key), record.value);
        }
        if values.is_empty() {
            self.quotas.remove(&entity);
        } else {
            self.quotas.insert(entity, values);
        }
        delta.quotas_changed = true;
    }
}
