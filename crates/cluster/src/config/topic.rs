//! Effective configuration of a topic, and the checks on a topic's overrides.
//!
//! Tiered storage does not exist here, so a topic can never be configured for it, and Kafka's rules among the keys of
//! such topics have nothing to apply to.

use std::collections::BTreeMap;

use super::{
    ConfigError,
    definition::topic_definitions,
    layers::{ConfigLayers, Values},
    value::{ConfigValue, parse_value},
};

/// What happens to old records. Neither: everything is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Only the last record of a key is kept.
    pub compact: bool,
    /// Segments past the retention limits go.
    pub delete: bool,
}

/// When acks=all is answered, and what readers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the flush: what was acknowledged survives a power cut.
    Flushed,
    /// Once written to the file, as in Kafka: it survives a killed process.
    PageCache,
}

/// How batches are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer sent them.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Whose clock stamps records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageTimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's.
    LogAppendTime,
}

/// The effective configuration of one topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// `segment.bytes`, or `internal.segment.bytes` where tests of Kafka set it.
    pub segment_bytes: i32,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`.
    pub segment_index_bytes: i32,
    /// `index.interval.bytes`.
    pub index_interval_bytes: i32,
    /// `klamm.durability`.
    pub durability: Durability,
    /// `flush.messages`.
    pub flush_messages: i64,
    /// `flush.ms`.
    pub flush_ms: i64,
    /// `retention.bytes`; negative: no limit.
    pub retention_bytes: i64,
    /// `retention.ms`; -1: no limit.
    pub retention_ms: i64,
    /// `max.message.bytes`.
    pub max_message_bytes: i32,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `file.delete.delay.ms`.
    pub file_delete_delay_ms: i64,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election_enable: bool,
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
    /// `compression.type`.
    pub compression_type: CompressionType,
    /// `compression.gzip.level`; -1: the codec's default.
    pub compression_gzip_level: i32,
    /// `compression.lz4.level`.
    pub compression_lz4_level: i32,
    /// `compression.zstd.level`.
    pub compression_zstd_level: i32,
    /// `preallocate`.
    pub preallocate: bool,
    /// `message.timestamp.type`.
    pub message_timestamp_type: MessageTimestampType,
    /// `message.timestamp.before.max.ms`.
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub message_timestamp_after_max_ms: i64,
    /// `leader.replication.throttled.replicas`: `*` or `partition:broker`.
    pub leader_replication_throttled_replicas: Vec<String>,
    /// `follower.replication.throttled.replicas`: `*` or `partition:broker`.
    pub follower_replication_throttled_replicas: Vec<String>,
    /// `remote.storage.enable`.
    pub remote_storage_enable: bool,
    /// `local.retention.ms`; -2: as `retention.ms`.
    pub local_retention_ms: i64,
    /// `local.retention.bytes`; -2: as `retention.bytes`.
    pub local_retention_bytes: i64,
    /// `remote.log.copy.disable`.
    pub remote_log_copy_disable: bool,
    /// `remote.log.delete.on.disable`.
    pub remote_log_delete_on_disable: bool,
}

impl TopicConfig {
    /// The effective values for a topic with these overrides.
    pub fn effective(overrides: &Values, layers: &ConfigLayers) -> Self {
        let lookup = Lookup { overrides, layers };
        let policy = lookup.list("cleanup.policy");
        Self {
            segment_bytes: match lookup.value("internal.segment.bytes") {
                Some(ConfigValue::Integer(bytes)) => bytes as i32,
                _ => lookup.int("segment.bytes"),
            },
            segment_ms: lookup.long("segment.ms"),
            segment_jitter_ms: lookup.long("segment.jitter.ms"),
            segment_index_bytes: lookup.int("segment.index.bytes"),
            index_interval_bytes: lookup.int("index.interval.bytes"),
            durability: match lookup.word("klamm.durability").as_str() {
                "page_cache" => Durability::PageCache,
                _ => Durability::Flushed,
            },
            flush_messages: lookup.long("flush.messages"),
            flush_ms: lookup.long("flush.ms"),
            retention_bytes: lookup.long("retention.bytes"),
            // Brokers may say any negative number for "no limit".
            retention_ms: lookup.long("retention.ms").max(-1),
            max_message_bytes: lookup.int("max.message.bytes"),
            delete_retention_ms: lookup.long("delete.retention.ms"),
            min_compaction_lag_ms: lookup.long("min.compaction.lag.ms"),
            max_compaction_lag_ms: lookup.long("max.compaction.lag.ms"),
            file_delete_delay_ms: lookup.long("file.delete.delay.ms"),
            min_cleanable_dirty_ratio: match lookup.value("min.cleanable.dirty.ratio") {
                Some(ConfigValue::Double(ratio)) => ratio,
                _ => 0.5,
            },
            cleanup_policy: CleanupPolicy {
                compact: policy.iter().any(|item| item == "compact"),
                delete: policy.iter().any(|item| item == "delete"),
            },
            unclean_leader_election_enable: lookup.flag("unclean.leader.election.enable"),
            min_insync_replicas: lookup.int("min.insync.replicas"),
            compression_type: match lookup.word("compression.type").as_str() {
                "uncompressed" => CompressionType::Uncompressed,
                "gzip" => CompressionType::Gzip,
                "snappy" => CompressionType::Snappy,
                "lz4" => CompressionType::Lz4,
                "zstd" => CompressionType::Zstd,
                _ => CompressionType::Producer,
            },
            compression_gzip_level: lookup.int("compression.gzip.level"),
            compression_lz4_level: lookup.int("compression.lz4.level"),
            compression_zstd_level: lookup.int("compression.zstd.level"),
            preallocate: lookup.flag("preallocate"),
            message_timestamp_type: match lookup.word("message.timestamp.type").as_str() {
                "LogAppendTime" => MessageTimestampType::LogAppendTime,
                _ => MessageTimestampType::CreateTime,
            },
            message_timestamp_before_max_ms: lookup.long("message.timestamp.before.max.ms"),
            message_timestamp_after_max_ms: lookup.long("message.timestamp.after.max.ms"),
            leader_replication_throttled_replicas: lookup.list("leader.replication.throttled.replicas"),
            follower_replication_throttled_replicas: lookup.list("follower.replication.throttled.replicas"),
            remote_storage_enable: lookup.flag("remote.storage.enable"),
            local_retention_ms: lookup.long("local.retention.ms"),
            local_retention_bytes: lookup.long("local.retention.bytes"),
            remote_log_copy_disable: lookup.flag("remote.log.copy.disable"),
            remote_log_delete_on_disable: lookup.flag("remote.log.delete.on.disable"),
        }
    }
}

impl TopicConfig {
    /// How old a segment's first record may grow: a compacted topic rolls for
    /// `max.compaction.lag.ms` too, since the active segment is never compacted (KIP-354).
    pub fn max_segment_ms(&self) -> i64 {
        match self.cleanup_policy.compact && self.max_compaction_lag_ms > 0 {
            true => self.segment_ms.min(self.max_compaction_lag_ms),
            false => self.segment_ms,
        }
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self::effective(&BTreeMap::new(), &ConfigLayers::default())
    }
}

/// Checks a topic's overrides against the defaults alone; see [`validate_topic_configs_over`].
pub fn validate_topic_configs(overrides: &Values) -> Result<(), ConfigError> {
    validate_topic_configs_over(overrides, &ConfigLayers::default())
}

/// Checks a topic's overrides: names, values, and rules among values, where the broker's stand for those not given.
pub fn validate_topic_configs_over(overrides: &Values, layers: &ConfigLayers) -> Result<(), ConfigError> {
    let definitions = topic_definitions();
    if let Some(unknown) = overrides.keys().find(|name| definitions.get(name).is_none()) {
        return Err(ConfigError::UnknownTopicConfig(unknown.clone()));
    }
    for definition in definitions.iter() {
        if let Some(text) = overrides.get(definition.name) {
            parse_value(definition, text)?;
        }
    }
    let config = TopicConfig::effective(overrides, layers);
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
        return Err(ConfigError::CompactionLags {
            min_ms: config.min_compaction_lag_ms,
            max_ms: config.max_compaction_lag_ms,
        });
    }
    if config.remote_storage_enable {
        return Err(ConfigError::TieredStorageDisabled);
    }
    Ok(())
}

/// The effective value of a topic key: the override if it can be read, else what the broker's layers say.
pub(super) fn effective_value(name: &str, overrides: &Values, layers: &ConfigLayers) -> Option<ConfigValue> {
    let definition = topic_definitions().get(name)?;
    overrides
        .get(name)
        .and_then(|text| parse_value(definition, text).ok())
        .or_else(|| layers.value_behind(definition))
}

struct Lookup<'a> {
    overrides: &'a Values,
    layers: &'a ConfigLayers,
}

impl Lookup<'_> {
    fn value(&self, name: &str) -> Option<ConfigValue> {
        effective_value(name, self.overrides, self.layers)
    }

    fn long(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(ConfigValue::Integer(number)) => number,
            _ => unreachable!("{name} is a number with a default"),
        }
    }

    fn int(&self, name: &str) -> i32 {
        i32::try_from(self.long(name)).expect("an INT was parsed within the bounds of one")
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Some(ConfigValue::Boolean(true)))
    }

    fn word(&self, name: &str) -> String {
        match self.value(name) {
            Some(ConfigValue::String(word)) => word,
            _ => String::new(),
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(ConfigValue::List(items)) => items,
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<const N: usize>(pairs: [(&str, &str); N]) -> Values {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn refusal<const N: usize>(pairs: [(&str, &str); N]) -> String {
        validate_topic_configs(&values(pairs)).expect_err("refused").to_string()
    }

    #[test]
    fn defaults_are_kafkas() {
        let config = TopicConfig::default();
        assert_eq!(config.segment_bytes, 1 << 30);
        assert_eq!(config.segment_ms, 7 * 24 * 3_600_000);
        assert_eq!(config.retention_ms, 7 * 24 * 3_600_000);
        assert_eq!(config.flush_ms, i64::MAX);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.compression_type, CompressionType::Producer);
        assert_eq!(config.cleanup_policy, CleanupPolicy { compact: false, delete: true });
    }

    #[test]
    fn the_strongest_layer_wins() {
        let mut layers = ConfigLayers::new(values([
            ("log.retention.hours", "24"),
            ("log.roll.hours", "5"),
            ("log.roll.ms", "7200000"),
            ("log.segment.bytes", "2000000"),
            ("log.flush.scheduler.interval.ms", "1000"),
        ]));
        let config = TopicConfig::effective(&Values::new(), &layers);
        assert_eq!(config.retention_ms, 24 * 3_600_000);
        assert_eq!(config.segment_ms, 7_200_000);
        assert_eq!(config.segment_bytes, 2_000_000);
        assert_eq!(config.flush_ms, 1000);

        let given =
            [("log.retention.hours", "24"), ("log.retention.minutes", "7"), ("log.roll.jitter.hours", "2")];
        let config = TopicConfig::effective(&Values::new(), &ConfigLayers::new(values(given)));
        assert_eq!((config.retention_ms, config.segment_jitter_ms), (7 * 60_000, 2 * 3_600_000));
        let given = [("log.retention.minutes", "7"), ("log.retention.ms", "5"), ("log.roll.jitter.ms", "3")];
        let config = TopicConfig::effective(&Values::new(), &ConfigLayers::new(values(given)));
        assert_eq!((config.retention_ms, config.segment_jitter_ms), (5, 3));

        layers.cluster = values([("log.segment.bytes", "3000000"), ("log.retention.ms", "-5")]).into();
        let config = TopicConfig::effective(&Values::new(), &layers);
        assert_eq!(config.segment_bytes, 3_000_000);
        assert_eq!(config.retention_ms, -1);

        layers.broker = values([("log.segment.bytes", "4000000")]).into();
        assert_eq!(TopicConfig::effective(&Values::new(), &layers).segment_bytes, 4_000_000);

        let overrides = values([("segment.bytes", " 5000000 "), ("cleanup.policy", "")]);
        let config = TopicConfig::effective(&overrides, &layers);
        assert_eq!(config.segment_bytes, 5_000_000);
        assert_eq!(config.cleanup_policy, CleanupPolicy { compact: false, delete: false });
    }

    #[test]
    fn compacted_topics_roll_for_their_lag() {
        let pairs = [("segment.ms", "5000"), ("max.compaction.lag.ms", "300"), ("cleanup.policy", "compact")];
        let rolls_after = |pairs: &[(&str, &str)]| {
            let overrides = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            TopicConfig::effective(&overrides, &ConfigLayers::default()).max_segment_ms()
        };
        assert_eq!(rolls_after(&pairs), 300);
        assert_eq!(rolls_after(&pairs[..2]), 5000);
        assert_eq!(rolls_after(&[pairs[0], pairs[2]]), 5000);
    }

    #[test]
    fn what_cannot_be_read_falls_back_instead_of_failing() {
        let layers = ConfigLayers::new(values([("log.segment.bytes", "many")]));
        assert_eq!(TopicConfig::effective(&values([("segment.ms", "x")]), &layers), TopicConfig::default());
    }

    #[test]
    fn refusals_read_as_kafkas() {
        assert_eq!(refusal([("no.such", "1"), ("retention.ms", "x")]), "Unknown topic config name: no.such");
        assert_eq!(
            refusal([("retention.ms", "-2")]),
            "Invalid value -2 for configuration retention.ms: Value must be at least -1"
        );
        // In the order of Kafka's definitions, not of the request.
        assert_eq!(
            refusal([("retention.ms", "x"), ("segment.ms", "y")]),
            "Invalid value y for configuration segment.ms: Not a number of type LONG"
        );
        assert_eq!(
            refusal([("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "4")]),
            "conflict topic config setting min.compaction.lag.ms (5) > max.compaction.lag.ms (4)"
        );
        assert_eq!(
            refusal([("remote.storage.enable", "true")]),
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log \
             storage."
        );
        assert_eq!(validate_topic_configs(&values([("cleanup.policy", "")])), Ok(()));
        assert_eq!(validate_topic_configs(&values([("internal.segment.bytes", "5")])), Ok(()));
        let layers = ConfigLayers::new(values([("log.cleaner.max.compaction.lag.ms", "10")]));
        assert!(validate_topic_configs_over(&values([("min.compaction.lag.ms", "11")]), &layers).is_err());
    }
}
