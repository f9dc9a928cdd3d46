//! IncrementalAlterConfigs and AlterConfigs.
//!
//! What a value may be is [`crate::config`]'s business; here is which resource has
//! configuration at all, and what changes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::NodeId;
use klamm_protocol::messages::metadata_records::{ClearElrRecord, ConfigRecord};

use super::{AlterConfigs, ApiError, Controller, ControllerReply, check_topic_name};
use crate::config::{
    AlterOp, ConfigChange, ConfigError, ConfigLayers, ConfigScope, apply_changes, validate_broker_configs,
    validate_client_metrics_configs, validate_group_configs, validate_topic_configs_over,
};
use crate::image::{ConfigResource, ConfigResourceType};
use crate::machine::Decision;
use crate::record::MetadataRecord;

/// Configuration by name, as [`crate::config`] takes it.
type Values = BTreeMap<String, String>;

/// The longest string of Kafka's formats.
const STRING_BYTES_MAX: usize = i16::MAX as usize;

const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

impl Controller {
    pub(super) fn incremental_alter_configs(
        &self,
        command: AlterConfigs<Vec<ConfigChange>>,
    ) -> Decision<Self> {
        self.alter_each(command, |_, changes| changes)
    }

    pub(super) fn alter_configs(
        &self,
        command: AlterConfigs<Vec<(String, Option<String>)>>,
    ) -> Decision<Self> {
        self.alter_each(command, |stored, given| {
            let kept: BTreeSet<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
            let dropped = stored.keys().filter(|name| !kept.contains(name.as_str()));
            let mut changes: Vec<ConfigChange> = dropped
                .map(|name| ConfigChange { name: name.clone(), op: AlterOp::Delete, value: None })
                .collect();
            changes.extend(given.into_iter().map(|(name, value)| ConfigChange {
                name,
                op: AlterOp::Set,
                value,
            }));
            changes
        })
    }

    fn alter_each<C>(
        &self,
        command: AlterConfigs<C>,
        changes_of: impl Fn(&Values, C) -> Vec<ConfigChange>,
    ) -> Decision<Self> {
        let mut seen = BTreeSet::new();
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(command.resources.len());
        for (resource, asked) in command.resources {
            let result = if seen.insert(resource.clone()) {
                let stored = self.stored(&resource);
                let changes = changes_of(&stored, asked);
                self.alter_one(&resource, stored, &changes)
            } else {
                Err(ApiError::new(ErrorCode::InvalidRequest, "Each resource must appear at most once."))
            };
            results.push((resource, result.map(|new| records.extend(new))));
        }
        let reply = ControllerReply::AlterConfigs(results);
        if command.validate_only { Decision::read(reply) } else { self.write(records, reply) }
    }

    fn alter_one(
        &self,
        resource: &ConfigResource,
        mut values: Values,
        changes: &[ConfigChange],
    ) -> Result<Vec<MetadataRecord>, ApiError> {
        let scope = self.check_resource(resource)?;
        let written = apply_changes(scope, &values, changes).map_err(|error| refused(scope, &error))?;
        self.check_min_insync_replicas(resource, changes)?;
        check_lengths(&written)?;
        for (name, value) in &written {
            match value {
                Some(value) => values.insert(name.clone(), value.clone()),
                None => values.remove(name),
            };
        }
        self.validate(resource, scope, &values)?;
        Ok(self.records(resource, &written))
    }

    /// Accepts all of a resource's configuration, as it would be.
    pub(super) fn validate(
        &self,
        resource: &ConfigResource,
        scope: ConfigScope,
        values: &Values,
    ) -> Result<(), ApiError> {
        let layers = self.layers();
        let is_one_broker = !resource.name.is_empty();
        let checked = match scope {
            ConfigScope::Topic => validate_topic_configs_over(values, &layers),
            ConfigScope::Broker => validate_broker_configs(values, is_one_broker, &layers),
            ConfigScope::Group => validate_group_configs(values, &layers),
            ConfigScope::ClientMetrics => validate_client_metrics_configs(values),
        };
        checked.map_err(|error| refused(scope, &error))
    }

    /// What kind of configuration the resource has, if it exists.
    fn check_resource(&self, resource: &ConfigResource) -> Result<ConfigScope, ApiError> {
        let invalid = |message: String| Err(ApiError::new(ErrorCode::InvalidRequest, message));
        let name = &*resource.name;
        match resource.resource_type {
            ConfigResourceType::Topic if name.is_empty() => {
                invalid("Default topic resources are not allowed.".to_owned())
            }
            ConfigResourceType::Topic => {
                check_topic_name(name)
                    .map_err(|message| ApiError::new(ErrorCode::InvalidTopicException, message))?;
                if self.image().topic_by_name(name).is_none() {
                    let message = format!("The topic '{name}' does not exist.");
                    return Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, message));
                }
                Ok(ConfigScope::Topic)
            }
            ConfigResourceType::Broker if name.is_empty() => Ok(ConfigScope::Broker),
            ConfigResourceType::Broker => match name.parse().map(NodeId) {
                Err(_) => invalid(format!("Node id must be an integer, but it is: {name}")),
                Ok(node) if self.image().broker(node).is_none() => Err(ApiError::new(
                    ErrorCode::BrokerIdNotRegistered,
                    format!("No broker with id {node} found."),
                )),
                Ok(_) => Ok(ConfigScope::Broker),
            },
            ConfigResourceType::ClientMetrics if name.is_empty() => {
                invalid("Subscription name can't be empty".to_owned())
            }
            ConfigResourceType::Group if name.is_empty() => {
                invalid("Default group resources are not allowed.".to_owned())
            }
            ConfigResourceType::ClientMetrics => Ok(ConfigScope::ClientMetrics),
            ConfigResourceType::Group => Ok(ConfigScope::Group),
            ConfigResourceType::Other(code) => invalid(format!("Unknown resource type {code}")),
        }
    }

    /// With eligible leader replicas the minimum is the topic's or the cluster's (KIP-966):
    /// brokers that disagree could not tell who is eligible.
    fn check_min_insync_replicas(
        &self,
        resource: &ConfigResource,
        changes: &[ConfigChange],
    ) -> Result<(), ApiError> {
        let is_broker = resource.resource_type == ConfigResourceType::Broker;
        let change = changes.iter().find(|change| change.name == MIN_INSYNC_REPLICAS);
        let Some(change) = change.filter(|_| is_broker && self.image().has_eligible_leader_replicas()) else {
            return Ok(());
        };
        let refuse = |message: &str| Err(ApiError::new(ErrorCode::InvalidConfig, message));
        if !resource.name.is_empty() {
            refuse("Broker-level min.insync.replicas cannot be altered while ELR is enabled.")
        } else if change.op == AlterOp::Delete {
            refuse("Cluster-level min.insync.replicas cannot be removed while ELR is enabled.")
        } else {
            Ok(())
        }
    }

    fn records(
        &self,
        resource: &ConfigResource,
        written: &BTreeMap<String, Option<String>>,
    ) -> Vec<MetadataRecord> {
        let record = |(name, value): (&String, &Option<String>)| {
            MetadataRecord::from(ConfigRecord {
                resource_type: resource.resource_type.code(),
                resource_name: resource.name.to_string().into(),
                name: name.clone().into(),
                value: value.clone().map(Into::into),
            })
        };
        let mut records: Vec<MetadataRecord> = written.iter().map(record).collect();
        // Another minimum makes the eligible replicas wrong; an empty name is "of every topic".
        let is_minimum_changed =
            written.contains_key(MIN_INSYNC_REPLICAS) && self.image().has_eligible_leader_replicas();
        let topic_name = match resource.resource_type {
            ConfigResourceType::Topic => Some(resource.name.to_string()),
            ConfigResourceType::Broker if resource.name.is_empty() => Some(String::new()),
            _ => None,
        };
        if let Some(topic_name) = topic_name.filter(|_| is_minimum_changed) {
            records.push(ClearElrRecord { topic_name: topic_name.into() }.into());
        }
        records
    }

    fn stored(&self, resource: &ConfigResource) -> Values {
        let values = self.image().config(resource).into_iter().flatten();
        values.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn layers(&self) -> ConfigLayers {
        ConfigLayers {
            given: self.settings.given.clone(),
            cluster: Arc::new(self.stored(&ConfigResource::broker_default())),
            broker: Arc::new(self.stored(&ConfigResource::broker(self.settings.node))),
        }
    }
}

/// What is appended to comes in pieces that fit a request, and must fit a record as a whole.
fn check_lengths(written: &BTreeMap<String, Option<String>>) -> Result<(), ApiError> {
    let length = |value: &Option<String>| value.as_ref().map_or(0, String::len);
    match written.iter().find(|(_, value)| length(value) > STRING_BYTES_MAX) {
        None => Ok(()),
        Some((name, value)) => {
            let message =
                format!("The value of {name} is {} bytes long, more than {STRING_BYTES_MAX}", length(value));
            Err(ApiError::new(ErrorCode::InvalidConfig, message))
        }
    }
}

fn refused(scope: ConfigScope, error: &ConfigError) -> ApiError {
    ApiError::new(error.error_code(scope), error.to_string())
}
