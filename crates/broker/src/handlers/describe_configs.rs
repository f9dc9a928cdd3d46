//! DescribeConfigs, versions 1 to 4: topics, brokers, groups, client metrics, with true sources and synonyms.
//!
//! Documentation is never given: the field stays null.
//!
//! | error | when |
//! |---|---|
//! | UNKNOWN_TOPIC_OR_PARTITION, INVALID_TOPIC_EXCEPTION | no such topic, no topic name |
//! | INVALID_REQUEST | another broker's id, or a resource type that does not exist |

use klamm_cluster::config::{
    ConfigEntry, describe_broker, describe_broker_defaults, describe_client_metrics, describe_group,
    describe_topic,
};
use klamm_cluster::image::{ConfigResource, ConfigResourceType, MetadataImage};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::metadata::applier::values;
use crate::topic_names::is_valid;

/// The resource type of a broker's loggers.
const BROKER_LOGGER: i8 = 8;

pub(crate) fn handle<H: Host>(broker: &Broker<H>, mut frame: Frame) -> Handled {
    let request: DescribeConfigsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let image = broker.image.load();
    let results = request
        .resources
        .iter()
        .map(|resource| {
            let mut result = DescribeConfigsResult {
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                ..Default::default()
            };
            match describe(broker, &image, resource) {
                Ok(entries) => {
                    let wanted = resource.configuration_keys.as_deref().filter(|keys| !keys.is_empty());
                    result.configs = entries
                        .into_iter()
                        .filter(|entry| wanted.is_none_or(|keys| keys.iter().any(|key| **key == *entry.name)))
                        .map(|entry| to_response(entry, request.include_synonyms))
                        .collect();
                }
                Err((error, message)) => {
                    result.error_code = error.code();
                    result.error_message = Some(message.into());
                }
            }
            result
        })
        .collect();
    frame.meta().reply(&DescribeConfigsResponse { results, ..Default::default() })
}

fn describe<H: Host>(
    broker: &Broker<H>,
    image: &MetadataImage,
    wanted: &DescribeConfigsResource,
) -> Result<Vec<ConfigEntry>, (ErrorCode, String)> {
    let name: &str = &wanted.resource_name;
    let layers = broker.layers.load();
    match ConfigResourceType::from_code(wanted.resource_type) {
        ConfigResourceType::Topic => {
            if !is_valid(name) {
                return Err((ErrorCode::InvalidTopicException, format!("Topic name is invalid: {name}")));
            }
            if image.topic_by_name(name).is_none() {
                let message = "This server does not host this topic-partition.".to_owned();
                return Err((ErrorCode::UnknownTopicOrPartition, message));
            }
            Ok(describe_topic(&values(image, &ConfigResource::topic(name)), &layers))
        }
        ConfigResourceType::Broker if name.is_empty() => Ok(describe_broker_defaults(&layers)),
        ConfigResourceType::Broker => match name.parse::<i32>() {
            Ok(id) if id == broker.config.node_id.0 => Ok(describe_broker(&layers)),
            Ok(id) => Err((
                ErrorCode::InvalidRequest,
                format!(
                    "Unexpected broker id, expected {} or empty string, but received {id}",
                    broker.config.node_id
                ),
            )),
            Err(_) => {
                Err((ErrorCode::InvalidRequest, format!("Broker id must be an integer, but it is: {name}")))
            }
        },
        ConfigResourceType::Group if !name.is_empty() => {
            let resource = ConfigResource::new(ConfigResourceType::Group, name);
            Ok(describe_group(&values(image, &resource), &layers))
        }
        ConfigResourceType::ClientMetrics if !name.is_empty() => {
            let resource = ConfigResource::new(ConfigResourceType::ClientMetrics, name);
            Ok(describe_client_metrics(&values(image, &resource)))
        }
        ConfigResourceType::Group => {
            Err((ErrorCode::InvalidRequest, "Group name must not be empty".to_owned()))
        }
        ConfigResourceType::ClientMetrics => {
            Err((ErrorCode::InvalidRequest, "Client metrics subscription name must not be empty".to_owned()))
        }
        ConfigResourceType::Other(BROKER_LOGGER) => Err((
            ErrorCode::InvalidRequest,
            "Log levels are set by --log or KLAMM_LOG at start, not through loggers of a broker".to_owned(),
        )),
        ConfigResourceType::Other(code) => {
            Err((ErrorCode::InvalidRequest, format!("Unsupported resource type: {code}")))
        }
    }
}

fn to_response(entry: ConfigEntry, include_synonyms: bool) -> DescribeConfigsResourceResult {
    let synonyms = if include_synonyms { entry.synonyms.as_slice() } else { &[] };
    DescribeConfigsResourceResult {
        config_type: entry.type_code(),
        synonyms: synonyms
            .iter()
            .map(|synonym| DescribeConfigsSynonym {
                name: synonym.name.clone().into(),
                value: synonym.value.clone().map(Into::into),
                source: synonym.source.code(),
                ..Default::default()
            })
            .collect(),
        value: entry.value.clone().map(Into::into),
        read_only: entry.read_only,
        config_source: entry.source.code(),
        is_sensitive: entry.sensitive,
        documentation: None,
        name: entry.name.into(),
        ..Default::default()
    }
}
