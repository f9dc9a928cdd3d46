//! CreatePartitions.

use std::collections::BTreeSet;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{NodeId, PartitionIndex};

use super::command::duplicates;
use super::placement::{check_assignment, new_partition, place};
use super::{ApiError, Controller, ControllerReply, CreatePartitions, MorePartitions, RECORDS_PER_BATCH_MAX};
use crate::image::TopicImage;
use crate::machine::Decision;
use crate::record::MetadataRecord;
use crate::snapshot::partition_record;

impl Controller {
    pub(super) fn create_partitions(&self, command: CreatePartitions) -> Decision<Self> {
        let given_twice = duplicates(command.topics.iter().map(|topic| topic.name.as_str()));
        let mut answered = BTreeSet::new();
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(command.topics.len());
        for topic in &command.topics {
            if !answered.insert(topic.name.as_str()) {
                continue;
            }
            let result = if given_twice.contains(topic.name.as_str()) {
                Err(ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
            } else {
                self.grow_topic(topic, RECORDS_PER_BATCH_MAX.saturating_sub(records.len()))
            };
            results.push((topic.name.clone(), result.map(|new| records.extend(new))));
        }
        let reply = ControllerReply::CreatePartitions(results);
        if command.validate_only { Decision::read(reply) } else { self.write(records, reply) }
    }

    fn grow_topic(&self, asked: &MorePartitions, count_max: usize) -> Result<Vec<MetadataRecord>, ApiError> {
        let topic = self
            .image()
            .topic_by_name(&asked.name)
            .ok_or_else(|| ApiError::from(ErrorCode::UnknownTopicOrPartition))?;
        let count = topic.partitions.len();
        let wanted = usize::try_from(asked.total_count).unwrap_or(0);
        if wanted == count {
            let message = format!("Topic already has {count} partition(s).");
            return Err(ApiError::new(ErrorCode::InvalidPartitions, message));
        }
        if wanted < count {
            let message = format!(
                "The topic {} currently has {count} partition(s); {} would not be an increase.",
                asked.name, asked.total_count
            );
            return Err(ApiError::new(ErrorCode::InvalidPartitions, message));
        }
        let additional = wanted - count;
        if let Some(assignments) = &asked.assignments
            && assignments.len() != additional
        {
            let message = format!(
                "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                assignments.len()
            );
            return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
        }
        if additional > count_max {
            let message = "Excessively large number of partitions per request.";
            return Err(ApiError::new(ErrorCode::PolicyViolation, message));
        }
        let replicas = self.additional_replicas(topic, asked, additional)?;
        let mut records = Vec::with_capacity(additional);
        for (index, replicas) in (count..).zip(replicas) {
            let partition = new_partition(self.image(), index, replicas)?;
            records.push(partition_record(topic.id.0, index as i32, &partition).into());
        }
        Ok(records)
    }

    fn additional_replicas(
        &self,
        topic: &TopicImage,
        asked: &MorePartitions,
        additional: usize,
    ) -> Result<Vec<Vec<NodeId>>, ApiError> {
        let first = topic.partitions.get(&PartitionIndex(0));
        let replication_factor = first.map_or(1, |partition| partition.replicas.len());
        let Some(assignments) = &asked.assignments else {
            // Goes on round the brokers where the topic's last partition left off.
            return place(self.image(), additional, replication_factor, topic.partitions.len() as u64);
        };
        for replicas in assignments {
            check_assignment(self.image(), replicas)?;
            if replicas.len() != replication_factor {
                let message = format!(
                    "The manual partition assignment includes a partition with {} replica(s), but this is not \
                     consistent with previous partitions, which have {replication_factor} replica(s).",
                    replicas.len()
                );
                return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
            }
        }
        Ok(assignments.clone())
    }
}
