//! The consumer's own protocol inside the classic one: subscriptions and assignments as bytes.
//!
//! Versions above the newest that is known are read as that one; what follows then is not looked at.

use std::sync::Arc;

use bytes::Bytes;
use klamm_cluster::image::MetadataImage;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_heartbeat::RequestTopicPartitions;
use klamm_protocol::messages::consumer_protocol::{
    ConsumerProtocolAssignment, ConsumerProtocolAssignmentTopicPartition, ConsumerProtocolSubscription,
};
use klamm_protocol::wire::{self, DecodeError, Decoder, Message, Source};

use super::super::assignor::Assignment;
use super::records::wire as text;

/// The protocol type of consumers.
pub(super) const PROTOCOL_TYPE: &str = "consumer";
/// An empty string is one byte on the wire, and more in memory.
const EXPANSION_MAX: usize = 64;

/// What a consumer subscribes to.
pub(super) fn subscription(bytes: &[u8]) -> Result<ConsumerProtocolSubscription, DecodeError> {
    read(bytes)
}

/// What a consumer was assigned.
pub(super) fn assignment(bytes: &[u8]) -> Result<ConsumerProtocolAssignment, DecodeError> {
    read(bytes)
}

/// The bytes of an assignment, for whoever sent `subscription`: in its version.
pub(super) fn assignment_for(
    image: &MetadataImage,
    subscription: &[u8],
    assigned: &Assignment,
) -> Result<Bytes, DecodeError> {
    let version = decoder(subscription).i16()?.clamp(0, *ConsumerProtocolAssignment::VERSIONS.end());
    let topics = assigned.iter().filter_map(|(id, partitions)| {
        let topic = text(&image.topic(*id)?.name);
        Some(ConsumerProtocolAssignmentTopicPartition {
            topic,
            partitions: partitions.iter().copied().collect(),
        })
    });
    let assignment = ConsumerProtocolAssignment { assigned_partitions: topics.collect(), user_data: None };
    Ok(wire::encode_versioned(&assignment, version).expect("every version can carry it"))
}

/// With ids of topics; those that do not exist are left out.
pub(super) fn owned(
    image: &MetadataImage,
    subscription: &ConsumerProtocolSubscription,
) -> Vec<RequestTopicPartitions> {
    let topics = subscription.owned_partitions.iter().filter_map(|owned| {
        let topic_id = image.topic_by_name(&owned.topic)?.id.0;
        Some(RequestTopicPartitions { topic_id, partitions: owned.partitions.clone() })
    });
    topics.collect()
}

/// With ids of topics; those that do not exist are left out.
pub(super) fn with_ids(image: &MetadataImage, assignment: &ConsumerProtocolAssignment) -> Assignment {
    let topics = assignment.assigned_partitions.iter().filter_map(|assigned| {
        let id: TopicId = image.topic_by_name(&assigned.topic)?.id;
        Some((id, assigned.partitions.iter().copied().collect()))
    });
    topics.collect()
}

/// The names of a subscription's topics, copied.
pub(super) fn names(subscription: &ConsumerProtocolSubscription) -> std::collections::BTreeSet<Arc<str>> {
    subscription.topics.iter().map(|name| Arc::from(&**name)).collect()
}

fn read<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    let mut decoder = decoder(bytes);
    let version = decoder.i16()?.min(*M::VERSIONS.end());
    M::decode(&mut decoder, version)
}

fn decoder(bytes: &[u8]) -> Decoder {
    let budget_bytes = bytes.len().saturating_mul(EXPANSION_MAX).saturating_add(4096);
    Decoder::new(Bytes::copy_from_slice(bytes), budget_bytes)
}
