//! IncrementalAlterConfigs, versions 0 to 1 (KIP-339), and AlterConfigs, versions 0 to 2. The controller decides.
//!
//! A resource that is named twice is refused as a whole, as in Kafka; so is the type
//! "broker logger", which does not exist here.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_cluster::config::{AlterOp, ConfigChange};
use klamm_cluster::controller::{AlterConfigs, ApiError, ControllerCommand, ControllerReply};
use klamm_cluster::image::{ConfigResource, ConfigResourceType};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::alter_configs::{self as full, AlterConfigsRequest, AlterConfigsResponse};
use klamm_protocol::messages::incremental_alter_configs::{
    self as incremental, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

type Outcome = (ConfigResource, Result<(), ApiError>);

pub(crate) fn handle_incremental<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: IncrementalAlterConfigsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let mut asked = Asked::default();
    for resource in &request.resources {
        let ops: Result<Vec<_>, _> = resource.configs.iter().map(to_op).collect();
        asked.add(resource.resource_type, &resource.resource_name, ops);
    }
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let (refused, resources) = asked.split();
        let command = AlterConfigs { resources, validate_only: request.validate_only };
        let outcomes = ask(&broker, refused, command, ControllerCommand::IncrementalAlterConfigs).await;
        let responses = outcomes.into_iter().map(|(resource, outcome)| {
            let (error_code, error_message) = to_error(outcome);
            incremental::AlterConfigsResourceResponse {
                error_code,
                error_message: error_message.map(Into::into),
                resource_type: resource.resource_type.code(),
                resource_name: resource.name.to_string().into(),
                ..Default::default()
            }
        });
        meta.reply(&IncrementalAlterConfigsResponse { responses: responses.collect(), ..Default::default() })
    }))
}

pub(crate) fn handle_full<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: AlterConfigsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let mut asked = Asked::default();
    for resource in &request.resources {
        let values = resource
            .configs
            .iter()
            .map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string)))
            .collect();
        asked.add(resource.resource_type, &resource.resource_name, Ok(values));
    }
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let (refused, resources) = asked.split();
        let command = AlterConfigs { resources, validate_only: request.validate_only };
        let outcomes = ask(&broker, refused, command, ControllerCommand::AlterConfigs).await;
        let responses = outcomes.into_iter().map(|(resource, outcome)| {
            let (error_code, error_message) = to_error(outcome);
            full::AlterConfigsResourceResponse {
                error_code,
                error_message: error_message.map(Into::into),
                resource_type: resource.resource_type.code(),
                resource_name: resource.name.to_string().into(),
                ..Default::default()
            }
        });
        meta.reply(&AlterConfigsResponse { responses: responses.collect(), ..Default::default() })
    }))
}

/// What is asked per resource, with what is refused before it reaches the controller.
struct Asked<C> {
    by_resource: BTreeMap<ConfigResource, Result<C, ApiError>>,
}

impl<C> Default for Asked<C> {
    fn default() -> Self {
        Self { by_resource: BTreeMap::new() }
    }
}

impl<C> Asked<C> {
    fn add(&mut self, resource_type: i8, name: &str, changes: Result<C, ApiError>) {
        let resource = ConfigResource::new(ConfigResourceType::from_code(resource_type), name);
        let changes = match resource.resource_type {
            ConfigResourceType::Other(code) => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                format!("Configs of resource type {code} cannot be altered here"),
            )),
            _ => changes,
        };
        let is_doubled = self.by_resource.contains_key(&resource);
        let changes = match is_doubled {
            true => Err(ApiError::new(ErrorCode::InvalidRequest, "Each resource must appear at most once.")),
            false => changes,
        };
        self.by_resource.insert(resource, changes);
    }

    fn split(self) -> (Vec<Outcome>, Vec<(ConfigResource, C)>) {
        let mut refused = Vec::new();
        let mut accepted = Vec::new();
        for (resource, changes) in self.by_resource {
            match changes {
                Ok(changes) => accepted.push((resource, changes)),
                Err(error) => refused.push((resource, Err(error))),
            }
        }
        (refused, accepted)
    }
}

async fn ask<H: Host, C>(
    broker: &Broker<H>,
    mut outcomes: Vec<Outcome>,
    command: AlterConfigs<C>,
    to_command: impl FnOnce(AlterConfigs<C>) -> ControllerCommand,
) -> Vec<Outcome> {
    if command.resources.is_empty() {
        return outcomes;
    }
    let resources: Vec<_> = command.resources.iter().map(|(resource, _)| resource.clone()).collect();
    match broker.controller.ask(to_command(command)).await {
        Ok(ControllerReply::AlterConfigs(done)) => outcomes.extend(done),
        Ok(_) | Err(_) => {
            let failed = |resource| (resource, Err(ErrorCode::KafkaStorageError.into()));
            outcomes.extend(resources.into_iter().map(failed));
        }
    }
    outcomes
}

fn to_op(config: &incremental::AlterableConfig) -> Result<ConfigChange, ApiError> {
    let op = AlterOp::from_code(config.config_operation).ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidRequest,
            format!("Unknown operation type {}", config.config_operation),
        )
    })?;
    Ok(ConfigChange {
        name: config.name.to_string(),
        op,
        value: config.value.as_ref().map(ToString::to_string),
    })
}

fn to_error(outcome: Result<(), ApiError>) -> (i16, Option<String>) {
    match outcome {
        Ok(()) => (ErrorCode::None.code(), None),
        Err(error) => (error.code.code(), error.message),
    }
}
