//! CreateTopics, versions 2 to 7. The controller decides; the answer waits until the partitions are there.
//!
//! From version 5 on the answer carries the new topic's configs with their true sources
//! (KIP-525): Java's Admin fails without.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_cluster::config::describe_topic;
use klamm_cluster::controller::{
    ApiError, ControllerCommand, ControllerReply, CreateTopics, CreatedTopic, NewTopic,
};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::NodeId;
use klamm_protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: CreateTopicsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let command = CreateTopics {
            topics: request.topics.iter().map(new_topic).collect(),
            validate_only: request.validate_only,
        };
        let results = create(&broker, command).await;
        let topics = results.into_iter().map(|(name, result)| to_response(&broker, name, result)).collect();
        meta.reply(&CreateTopicsResponse { topics, ..Default::default() })
    }))
}

/// Creates topics with the broker's defaults; returns those that were refused.
pub(crate) async fn auto_create<H: Host>(
    broker: &Arc<Broker<H>>,
    names: Vec<String>,
) -> BTreeMap<String, ErrorCode> {
    let topics = names
        .into_iter()
        .map(|name| NewTopic {
            name,
            partition_count: -1,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
        })
        .collect();
    let results = create(broker, CreateTopics { topics, validate_only: false }).await;
    results
        .into_iter()
        .filter_map(|(name, result)| match result {
            // Somebody else was faster: that is as good.
            Ok(_) => None,
            Err(error) if error.code == ErrorCode::TopicAlreadyExists => None,
            Err(error) => Some((name, error.code)),
        })
        .collect()
}

/// Creates one topic of the broker's own; an error if it is not there afterwards.
pub(super) async fn create_internal<H: Host>(
    broker: &Arc<Broker<H>>,
    topic: NewTopic,
) -> Result<(), ErrorCode> {
    let results = create(broker, CreateTopics { topics: vec![topic], validate_only: false }).await;
    match results.into_iter().next() {
        Some((_, Err(error))) if error.code != ErrorCode::TopicAlreadyExists => Err(error.code),
        _ => Ok(()),
    }
}

async fn create<H: Host>(
    broker: &Arc<Broker<H>>,
    command: CreateTopics,
) -> Vec<(String, Result<CreatedTopic, ApiError>)> {
    let names: Vec<String> = command.topics.iter().map(|topic| topic.name.clone()).collect();
    match broker.controller.ask(ControllerCommand::CreateTopics(command)).await {
        Ok(ControllerReply::CreateTopics(results)) => results,
        Ok(_) | Err(_) => {
            names.into_iter().map(|name| (name, Err(ErrorCode::KafkaStorageError.into()))).collect()
        }
    }
}

fn new_topic(topic: &CreatableTopic) -> NewTopic {
    NewTopic {
        name: topic.name.to_string(),
        partition_count: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|assignment| {
                (assignment.partition_index, assignment.broker_ids.iter().copied().map(NodeId).collect())
            })
            .collect(),
        configs: topic
            .configs
            .iter()
            .map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string)))
            .collect(),
    }
}

fn to_response<H: Host>(
    broker: &Broker<H>,
    name: String,
    result: Result<CreatedTopic, ApiError>,
) -> CreatableTopicResult {
    match result {
        Err(error) => CreatableTopicResult {
            name: name.into(),
            error_code: error.code.code(),
            error_message: error.message.map(Into::into),
            configs: None,
            ..Default::default()
        },
        Ok(created) => CreatableTopicResult {
            name: name.into(),
            topic_id: created.id.0,
            num_partitions: created.partition_count,
            replication_factor: created.replication_factor,
            configs: Some(configs(broker, &created.configs)),
            ..Default::default()
        },
    }
}

fn configs<H: Host>(broker: &Broker<H>, overrides: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    describe_topic(overrides, &broker.layers.load())
        .into_iter()
        .map(|entry| CreatableTopicConfigs {
            name: entry.name.into(),
            value: entry.value.map(Into::into),
            read_only: entry.read_only,
            config_source: entry.source.code(),
            is_sensitive: entry.sensitive,
            ..Default::default()
        })
        .collect()
}
