//! The topics and partitions this broker serves, published for every reader.
//!
//! One writer, the metadata applier, replaces the index; readers load it once per
//! request. What it deliberately does not hold: the cluster's metadata (that is the
//! image); only what the hot paths need.

use std::sync::Arc;

use arc_swap::ArcSwap;
use imbl::OrdMap;
use klamm_cluster::config::{CompressionType, MessageTimestampType, TopicConfig};
use klamm_protocol::ids::{PartitionIndex, TopicId};
use klamm_protocol::records::{Codec, ProduceRules, TimestampType, TopicCompression};
use klamm_protocol::time::WallMs;

use super::Partition;

/// What one batch may decompress to. Kafka has no limit; the largest honest batch (1 MiB, text,
/// zstd) stays far below, and a bomb is refused before it costs more.
const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A topic as the hot paths see it.
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    pub(crate) is_internal: bool,
    pub(crate) config: ArcSwap<TopicConfig>,
    /// By partition index; `None` where the partition's log could not be opened.
    pub(crate) partitions: ArcSwap<Vec<Option<Arc<Partition>>>>,
}

/// Why a partition is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The topic has no partition of that number.
    Unknown,
    /// Its log directory is offline.
    Offline,
}

impl Topic {
    pub(crate) fn partition(&self, index: PartitionIndex) -> Result<Arc<Partition>, Missing> {
        let partitions = self.partitions.load();
        let place = usize::try_from(index.0).map_err(|_| Missing::Unknown)?;
        match partitions.get(place) {
            Some(Some(partition)) if !partition.is_offline() => Ok(partition.clone()),
            Some(Some(_)) => Err(Missing::Offline),
            Some(None) => Err(Missing::Offline),
            None => Err(Missing::Unknown),
        }
    }
}

impl Topic {
    /// What its configuration demands of a batch.
    pub(crate) fn produce_rules(&self, now: WallMs, api_version: i16) -> ProduceRules {
        let config = self.config.load();
        ProduceRules {
            max_message_bytes: u32::try_from(config.max_message_bytes).unwrap_or(0),
            is_compacted: config.cleanup_policy.compact,
            timestamp_type: match config.message_timestamp_type {
                MessageTimestampType::CreateTime => TimestampType::CreateTime,
                MessageTimestampType::LogAppendTime => TimestampType::LogAppendTime,
            },
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
            compression: match config.compression_type {
                CompressionType::Producer => TopicCompression::Producer,
                CompressionType::Uncompressed => TopicCompression::To(Codec::None, 0),
                CompressionType::Gzip => TopicCompression::To(Codec::Gzip, config.compression_gzip_level),
                CompressionType::Snappy => TopicCompression::To(Codec::Snappy, 0),
                CompressionType::Lz4 => TopicCompression::To(Codec::Lz4, config.compression_lz4_level),
                CompressionType::Zstd => TopicCompression::To(Codec::Zstd, config.compression_zstd_level),
            },
            now,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            api_version,
        }
    }
}

/// The index of one moment.
#[derive(Clone, Default)]
pub(crate) struct TopicIndex {
    by_name: OrdMap<Arc<str>, Arc<Topic>>,
    by_id: OrdMap<TopicId, Arc<Topic>>,
}

impl TopicIndex {
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    pub(crate) fn by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    pub(crate) fn insert(&mut self, topic: Arc<Topic>) {
        self.by_name.insert(topic.name.clone(), topic.clone());
        self.by_id.insert(topic.id, topic);
    }

    pub(crate) fn remove(&mut self, id: TopicId) -> Option<Arc<Topic>> {
        let topic = self.by_id.remove(&id)?;
        // The name may already belong to a younger topic.
        if self.by_name.get(&topic.name).is_some_and(|named| named.id == id) {
            self.by_name.remove(&topic.name);
        }
        Some(topic)
    }
}
