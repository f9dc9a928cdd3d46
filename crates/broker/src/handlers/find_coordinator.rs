//! FindCoordinator, versions 0 to 6: which broker a group or a transactional id belongs to.
//!
//! - 1: kinds of keys. 4: several keys (KIP-699). 6: share groups (KIP-932), not served yet.
//!
//! The internal topic is created when somebody first asks, and the answer waits for it; Kafka
//! answers COORDINATOR_NOT_AVAILABLE and lets the client ask again.
//!
//! | error | when |
//! |---|---|
//! | COORDINATOR_NOT_AVAILABLE | the topic cannot be created, or its partition has no leader |
//! | INVALID_REQUEST | a key of another kind: share groups are not served yet |

use std::sync::Arc;

use klamm_cluster::controller::NewTopic;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::find_coordinator::{
    Coordinator, FindCoordinatorRequest, FindCoordinatorResponse,
};
use klamm_protocol::wire::WireStr;

use super::{Frame, Handled, create_topics};
use crate::broker::Broker;
use crate::config::{BrokerConfig, InternalTopicConfig};
use crate::coordinator::{OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC};
use crate::host::Host;

/// From here on a request has several keys.
const KEYS_VERSION_MIN: i16 = 4;
/// A key that is a group's id.
const GROUP_KEY: i8 = 0;
/// A key that is a transactional id.
const TRANSACTION_KEY: i8 = 1;
/// Of no broker.
const NO_NODE: i32 = -1;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, listener: &Arc<str>, mut frame: Frame) -> Handled {
    let request: FindCoordinatorRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let (broker, listener) = (broker.clone(), listener.clone());
    Handled::Later(Box::pin(async move {
        let keys = match meta.version {
            KEYS_VERSION_MIN.. => request.coordinator_keys,
            _ => vec![request.key],
        };
        match request.key_type {
            _ if keys.is_empty() => {}
            GROUP_KEY => create_topic(&broker, offsets_topic(&broker.config)).await,
            TRANSACTION_KEY => create_topic(&broker, transaction_state_topic(&broker.config)).await,
            _ => {}
        }
        let found: Vec<Coordinator> =
            keys.into_iter().map(|key| find(&broker, &listener, request.key_type, key)).collect();
        meta.reply(&response(meta.version, found))
    }))
}

/// Before several keys there is one coordinator, whose fields are the response's own. As from Kafka,
/// its message names the error also when there is none.
fn response(version: i16, found: Vec<Coordinator>) -> FindCoordinatorResponse {
    if version >= KEYS_VERSION_MIN {
        return FindCoordinatorResponse { coordinators: found, ..Default::default() };
    }
    let found = found.into_iter().next().unwrap_or_default();
    let is_found = found.error_code == ErrorCode::None.code();
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: if is_found {
            Some(WireStr::from_static(ErrorCode::None.name()))
        } else {
            found.error_message
        },
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

fn find<H: Host>(broker: &Broker<H>, listener: &str, kind: i8, key: WireStr) -> Coordinator {
    let failed = |error: ErrorCode, message: &'static str| Coordinator {
        key: key.clone(),
        node_id: NO_NODE,
        port: NO_NODE,
        error_code: error.code(),
        error_message: Some(WireStr::from_static(message)),
        ..Default::default()
    };
    let (topic, partition) = match kind {
        GROUP_KEY => (OFFSETS_TOPIC, broker.coordinators.groups.partition_of(&key)),
        TRANSACTION_KEY => (TRANSACTION_STATE_TOPIC, broker.coordinators.transactions.partition_of(&key)),
        _ => {
            let message = "only the coordinators of groups and transactions are served yet";
            return failed(ErrorCode::InvalidRequest, message);
        }
    };
    let image = broker.image.load();
    let leader = partition.and_then(|partition| {
        let topic = image.topic_by_name(topic)?;
        let leader = image.broker(topic.partitions.get(&partition)?.leader)?;
        (!leader.is_fenced).then(|| leader.endpoint(listener).map(|endpoint| (leader.id, endpoint)))?
    });
    match leader {
        None => failed(ErrorCode::CoordinatorNotAvailable, "the coordinator is not available"),
        Some((node, endpoint)) => Coordinator {
            key,
            node_id: node.0,
            host: WireStr::from(endpoint.host.to_string()),
            port: i32::from(endpoint.port),
            ..Default::default()
        },
    }
}

async fn create_topic<H: Host>(broker: &Arc<Broker<H>>, topic: NewTopic) {
    if broker.image.load().topic_by_name(&topic.name).is_some() {
        return;
    }
    let name = topic.name.clone();
    if let Err(error) = create_topics::create_internal(broker, topic).await {
        tracing::error!(error = error.name(), topic = name, "cannot create an internal topic");
    }
}

fn offsets_topic(config: &BrokerConfig) -> NewTopic {
    internal_topic(OFFSETS_TOPIC, &config.offsets_topic, &[("compression.type", "producer")])
}

fn transaction_state_topic(config: &BrokerConfig) -> NewTopic {
    let config = &config.transaction_state_log;
    let min_insync_replicas = config.min_insync_replicas.to_string();
    let configs = [
        ("compression.type", "uncompressed"),
        ("min.insync.replicas", &*min_insync_replicas),
        ("unclean.leader.election.enable", "false"),
    ];
    internal_topic(TRANSACTION_STATE_TOPIC, config, &configs)
}

fn internal_topic(name: &str, config: &InternalTopicConfig, configs: &[(&str, &str)]) -> NewTopic {
    let segment_bytes = config.segment_bytes.to_string();
    let compacted = [("cleanup.policy", "compact"), ("segment.bytes", &*segment_bytes)];
    let set = |(key, value): &(&str, &str)| ((*key).to_owned(), Some((*value).to_owned()));
    NewTopic {
        name: name.to_owned(),
        partition_count: config.num_partitions,
        replication_factor: config.replication_factor,
        assignments: Vec::new(),
        configs: compacted.iter().chain(configs).map(set).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_coordinator_comes_with_the_name_of_no_error() {
        let found = || Coordinator { node_id: 1, port: 9092, ..Default::default() };
        for version in 1..KEYS_VERSION_MIN {
            let response = response(version, vec![found()]);
            assert_eq!(response.error_message.as_deref(), Some("NONE"), "version {version}");
        }
        let response = response(KEYS_VERSION_MIN, vec![found()]);
        assert_eq!(response.coordinators, [found()]);
    }

    #[test]
    fn an_error_keeps_its_message() {
        let failed = Coordinator {
            error_code: ErrorCode::CoordinatorNotAvailable.code(),
            error_message: Some(WireStr::from_static("why")),
            ..Default::default()
        };
        assert_eq!(response(3, vec![failed]).error_message.as_deref(), Some("why"));
    }
}
