//! Metadata, versions 0 to 13.
//!
//! - 0: an empty list means all topics; from 1 on null does. 4: auto-creation can be declined.
//! - 7: leader epochs. 8: authorized operations. 10: topic ids. 12: topics by id alone. 13: top-level error.
//!
//! A topic that is created on the way is answered with UNKNOWN_TOPIC_OR_PARTITION, as Kafka does: the client asks
//! again. The answer waits until it is there, so the second one has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_cluster::image::{MetadataImage, TopicImage};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{TopicId, Uuid};
use klamm_protocol::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use klamm_protocol::wire::WireStr;

use super::{Frame, Handled, authorized, create_topics};
use crate::broker::Broker;
use crate::host::Host;
use crate::topic_names::{is_internal, is_valid};

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, listener: &Arc<str>, mut frame: Frame) -> Handled {
    let request: MetadataRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let image = broker.image.load_full();
    let to_create = topics_to_create(broker, &image, &request);
    if to_create.is_empty() {
        return meta.reply(&answer(broker, &image, listener, &request, meta.version, &BTreeMap::new()));
    }
    let broker = broker.clone();
    let listener = listener.clone();
    Handled::Later(Box::pin(async move {
        let refused = create_topics::auto_create(&broker, to_create).await;
        // By the image from before: what was created is not known yet.
        meta.reply(&answer(&broker, &image, &listener, &request, meta.version, &refused))
    }))
}

fn topics_to_create<H: Host>(
    broker: &Broker<H>,
    image: &MetadataImage,
    request: &MetadataRequest,
) -> Vec<String> {
    if !request.allow_auto_topic_creation || !broker.config.auto_create_topics_enable {
        return Vec::new();
    }
    let mut names: Vec<String> = request
        .topics
        .iter()
        .flatten()
        .filter(|topic| topic.topic_id == Uuid::ZERO)
        .filter_map(|topic| topic.name.as_deref())
        .filter(|name| is_valid(name) && !is_internal(name) && image.topic_by_name(name).is_none())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

fn answer<H: Host>(
    broker: &Broker<H>,
    image: &MetadataImage,
    listener: &str,
    request: &MetadataRequest,
    version: i16,
    refused: &BTreeMap<String, ErrorCode>,
) -> MetadataResponse {
    let wants_operations = request.include_topic_authorized_operations;
    let is_all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let topics = match &request.topics {
        Some(topics) if !is_all => {
            topics.iter().map(|wanted| one(image, wanted, wants_operations, version, refused)).collect()
        }
        _ => image
            .topic_ids()
            .values()
            .filter_map(|id| image.topic(*id))
            .map(|topic| described(image, topic, wants_operations))
            .collect(),
    };
    MetadataResponse {
        brokers: brokers(image, listener),
        cluster_id: Some(broker.cluster_id.to_string().into()),
        controller_id: broker.config.node_id.0,
        topics,
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => authorized::CLUSTER,
            false => authorized::NOT_ASKED,
        },
        ..Default::default()
    }
}

fn brokers(image: &MetadataImage, listener: &str) -> Vec<MetadataResponseBroker> {
    image
        .brokers()
        .values()
        .filter(|registered| !registered.is_fenced)
        .filter_map(|registered| {
            let endpoint = registered.endpoint(listener)?;
            Some(MetadataResponseBroker {
                node_id: registered.id.0,
                host: endpoint.host.to_string().into(),
                port: i32::from(endpoint.port),
                rack: registered.rack.as_ref().map(|rack| rack.to_string().into()),
                ..Default::default()
            })
        })
        .collect()
}

fn one(
    image: &MetadataImage,
    wanted: &MetadataRequestTopic,
    wants_operations: bool,
    version: i16,
    refused: &BTreeMap<String, ErrorCode>,
) -> MetadataResponseTopic {
    if wanted.topic_id != Uuid::ZERO {
        return match image.topic(TopicId(wanted.topic_id)) {
            Some(topic) => described(image, topic, wants_operations),
            // Before version 12 a name cannot be null.
            None => failed(ErrorCode::UnknownTopicId, (version < 12).then(WireStr::default), wanted.topic_id),
        };
    }
    let name = wanted.name.clone().unwrap_or_default();
    if let Some(topic) = image.topic_by_name(&name) {
        return described(image, topic, wants_operations);
    }
    let error = match refused.get(&*name) {
        Some(error) => *error,
        None if !is_valid(&name) => ErrorCode::InvalidTopicException,
        None => ErrorCode::UnknownTopicOrPartition,
    };
    failed(error, Some(name), Uuid::ZERO)
}

fn failed(error: ErrorCode, name: Option<WireStr>, topic_id: Uuid) -> MetadataResponseTopic {
    let is_internal = name.as_deref().is_some_and(is_internal);
    MetadataResponseTopic { error_code: error.code(), name, topic_id, is_internal, ..Default::default() }
}

fn described(image: &MetadataImage, topic: &TopicImage, wants_operations: bool) -> MetadataResponseTopic {
    let partitions = topic
        .partitions
        .iter()
        .map(|(index, partition)| MetadataResponsePartition {
            error_code: match partition.has_leader() {
                true => ErrorCode::None.code(),
                false => ErrorCode::LeaderNotAvailable.code(),
            },
            partition_index: index.0,
            leader_id: partition.leader.0,
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: partition.replicas.iter().map(|node| node.0).collect(),
            isr_nodes: partition.isr.iter().map(|node| node.0).collect(),
            offline_replicas: image.offline_replicas(partition).iter().map(|node| node.0).collect(),
            ..Default::default()
        })
        .collect();
    MetadataResponseTopic {
        name: Some(topic.name.to_string().into()),
        topic_id: topic.id.0,
        is_internal: is_internal(&topic.name),
        partitions,
        topic_authorized_operations: if wants_operations { authorized::TOPIC } else { authorized::NOT_ASKED },
        ..Default::default()
    }
}
