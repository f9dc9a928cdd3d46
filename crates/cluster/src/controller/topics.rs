//! CreateTopics and DeleteTopics.

use std::collections::{BTreeMap, BTreeSet};

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{NodeId, TopicId, Uuid};
use klamm_protocol::messages::metadata_records::{ConfigRecord, RemoveTopicRecord, TopicRecord};

use super::command::duplicates;
use super::names::{collision_key, may_collide};
use super::placement::{check_assignment, new_partition, place};
use super::{
    ApiError, Controller, ControllerReply, CreateTopics, CreatedTopic, DeletedTopic, METADATA_TOPIC,
    NewTopic, RECORDS_PER_BATCH_MAX, TopicRef, check_topic_name,
};
use crate::config::ConfigScope;
use crate::image::{ConfigResource, ConfigResourceType};
use crate::machine::{Ctx, Decision};
use crate::record::MetadataRecord;
use crate::snapshot::partition_record;

impl Controller {
    pub(super) fn create_topics(&self, cx: &mut Ctx<'_>, command: CreateTopics) -> Decision<Self> {
        let mut names = NameCheck::new(self, &command.topics);
        let total: i64 = command.topics.iter().map(|topic| self.partitions_asked_for(topic)).sum();
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(command.topics.len());
        let mut answered = BTreeSet::new();
        for topic in &command.topics {
            if !answered.insert(topic.name.as_str()) {
                continue;
            }
            let result = names.check(topic).and_then(|()| {
                // Kafka refuses the request as a whole; each topic carries the news.
                if total > RECORDS_PER_BATCH_MAX as i64 {
                    let message = "Excessively large number of partitions per request.";
                    return Err(ApiError::new(ErrorCode::PolicyViolation, message));
                }
                self.create_topic(cx, topic)
            });
            let result = result.map(|(created, created_records)| {
                names.taken(&topic.name);
                records.extend(created_records);
                created
            });
            results.push((topic.name.clone(), result));
        }
        let reply = ControllerReply::CreateTopics(results);
        if command.validate_only { Decision::read(reply) } else { self.write(records, reply) }
    }

    fn create_topic(
        &self,
        cx: &mut Ctx<'_>,
        topic: &NewTopic,
    ) -> Result<(CreatedTopic, Vec<MetadataRecord>), ApiError> {
        let configs = self.new_topic_configs(topic)?;
        let replicas = self.replicas(cx, topic)?;
        let id = self.new_topic_id(cx);
        let created = CreatedTopic {
            id,
            partition_count: replicas.len() as i32,
            replication_factor: replicas.first().map_or(0, Vec::len) as i16,
            configs,
        };
        let mut records = vec![TopicRecord { name: topic.name.clone().into(), topic_id: id.0 }.into()];
        records.extend(created.configs.iter().map(|(name, value)| {
            MetadataRecord::from(ConfigRecord {
                resource_type: ConfigResourceType::Topic.code(),
                resource_name: topic.name.clone().into(),
                name: name.clone().into(),
                value: Some(value.clone().into()),
            })
        }));
        for (index, replicas) in replicas.into_iter().enumerate() {
            let partition = new_partition(self.image(), index, replicas)?;
            records.push(partition_record(id.0, index as i32, &partition).into());
        }
        Ok((created, records))
    }

    fn new_topic_configs(&self, topic: &NewTopic) -> Result<BTreeMap<String, String>, ApiError> {
        let nulls: Vec<&str> = topic
            .configs
            .iter()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        if !nulls.is_empty() {
            let message = format!("Null value not supported for topic configs: {}", nulls.join(","));
            return Err(ApiError::new(ErrorCode::InvalidConfig, message));
        }
        let configs: BTreeMap<String, String> =
            topic.configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
        let resource = ConfigResource::topic(topic.name.as_str());
        self.validate(&resource, ConfigScope::Topic, &configs)?;
        Ok(configs)
    }

    fn replicas(&self, cx: &mut Ctx<'_>, topic: &NewTopic) -> Result<Vec<Vec<NodeId>>, ApiError> {
        if !topic.assignments.is_empty() {
            return self.manual_replicas(topic);
        }
        let replication_factor = match topic.replication_factor {
            -1 => self.settings.replication_factor_default,
            given => given,
        };
        if replication_factor < 1 {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(ApiError::new(ErrorCode::InvalidReplicationFactor, message));
        }
        let partition_count = match topic.partition_count {
            -1 => self.settings.partition_count_default,
            given => given,
        };
        if partition_count < 1 {
            let message = "Number of partitions was set to an invalid non-positive value.";
            return Err(ApiError::new(ErrorCode::InvalidPartitions, message));
        }
        let start = (cx.random)();
        place(self.image(), partition_count as usize, replication_factor as usize, start)
    }

    fn manual_replicas(&self, topic: &NewTopic) -> Result<Vec<Vec<NodeId>>, ApiError> {
        for (field, is_set) in [
            ("replication factor", topic.replication_factor != -1),
            ("numPartitions", topic.partition_count != -1),
        ] {
            if is_set {
                let message =
                    format!("A manual partition assignment was specified, but {field} was not set to -1.");
                return Err(ApiError::new(ErrorCode::InvalidRequest, message));
            }
        }
        let refuse = |message: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
        let mut by_partition = BTreeMap::new();
        let mut replication_factor = None;
        for (partition, replicas) in &topic.assignments {
            check_assignment(self.image(), replicas)?;
            let expected = *replication_factor.get_or_insert(replicas.len());
            if expected != replicas.len() {
                return refuse(format!(
                    "The manual partition assignment includes a partition with {} replica(s), but this is not \
                     consistent with previous partitions, which have {expected} replica(s).",
                    replicas.len()
                ));
            }
            if by_partition.insert(*partition, replicas.clone()).is_some() {
                return refuse(format!(
                    "Found multiple manual partition assignments for partition {partition}"
                ));
            }
        }
        if !by_partition.keys().copied().eq(0..by_partition.len() as i32) {
            return refuse("partitions should be a consecutive 0-based integer sequence".to_owned());
        }
        Ok(by_partition.into_values().collect())
    }

    fn new_topic_id(&self, cx: &mut Ctx<'_>) -> TopicId {
        loop {
            let id = Uuid::from_random(cx.random_u128());
            // A leading dash would look like an option to the command line tools.
            let is_usable = !id.is_reserved() && !id.to_string().starts_with('-');
            if is_usable && self.image().topic(TopicId(id)).is_none() {
                return TopicId(id);
            }
        }
    }

    fn partitions_asked_for(&self, topic: &NewTopic) -> i64 {
        match (topic.assignments.len(), topic.partition_count) {
            (0, -1) => i64::from(self.settings.partition_count_default),
            (0, count) => i64::from(count.max(0)),
            (assigned, _) => assigned as i64,
        }
    }

    pub(super) fn delete_topics(&self, topics: Vec<TopicRef>) -> Decision<Self> {
        let mut records: Vec<MetadataRecord> = Vec::new();
        let mut gone = BTreeSet::new();
        let mut results = Vec::with_capacity(topics.len());
        for topic in topics {
            let found = match &topic {
                TopicRef::Name(name) => {
                    self.image().topic_by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition)
                }
                TopicRef::Id(id) => self.image().topic(*id).ok_or(ErrorCode::UnknownTopicId),
            };
            let result = found.map_err(ApiError::from).and_then(|found| {
                if !gone.insert(found.id) {
                    let message = "The topic was given more than once.";
                    return Err(ApiError::new(ErrorCode::InvalidRequest, message));
                }
                records.push(RemoveTopicRecord { topic_id: found.id.0 }.into());
                Ok((found.id, found.name.to_string()))
            });
            results.push(DeletedTopic { topic, result });
        }
        self.write(records, ControllerReply::DeleteTopics(results))
    }
}

/// Checks names against each other and against the topics that exist.
struct NameCheck<'a> {
    controller: &'a Controller,
    given_twice: BTreeSet<&'a str>,
    /// Names by their collision key, of topics that exist; filled when first needed.
    colliding: Option<BTreeMap<String, String>>,
}

impl<'a> NameCheck<'a> {
    fn new(controller: &'a Controller, topics: &'a [NewTopic]) -> Self {
        let given_twice = duplicates(topics.iter().map(|topic| topic.name.as_str()));
        Self { controller, given_twice, colliding: None }
    }

    fn check(&mut self, topic: &NewTopic) -> Result<(), ApiError> {
        let name = topic.name.as_str();
        if self.given_twice.contains(name) {
            return Err(ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name."));
        }
        if name == METADATA_TOPIC {
            let message = format!("Creation of internal topic {METADATA_TOPIC} is prohibited.");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        check_topic_name(name).map_err(|message| ApiError::new(ErrorCode::InvalidTopicException, message))?;
        if self.controller.image().topic_by_name(name).is_some() {
            let message = format!("Topic '{name}' already exists.");
            return Err(ApiError::new(ErrorCode::TopicAlreadyExists, message));
        }
        if may_collide(name)
            && let Some(other) = self.colliding().get(&collision_key(name))
        {
            let message = format!("Topic '{name}' collides with existing topic: {other}");
            return Err(ApiError::new(ErrorCode::InvalidTopicException, message));
        }
        Ok(())
    }

    fn taken(&mut self, name: &str) {
        if may_collide(name) {
            self.colliding().insert(collision_key(name), name.to_owned());
        }
    }

    fn colliding(&mut self) -> &mut BTreeMap<String, String> {
        let image = self.controller.image();
        self.colliding.get_or_insert_with(|| {
            let names = image.topic_ids().keys().filter(|name| may_collide(name));
            names.map(|name| (collision_key(name), name.to_string())).collect()
        })
    }
}
