//! Kafka's configuration: what keys there are, which values they take, and which of the layers wins.
//!
//! A value may come from a topic's override, from the dynamic configs of one broker or of all, from what the operator
//! gave at start, or from the default; [`ConfigLayers`] holds the broker's part of that, [`TopicConfig`] is the typed
//! result for a topic, and the `describe_*` functions answer DescribeConfigs. Messages are Kafka's, since clients show
//! and compare them.
//!
//! Reading files and environments is the broker's business, and so is acting on a value; nothing here does I/O.
//!
//! Invariant: computing effective values never fails. Validation stands where values enter.

use klamm_protocol::error_code::ErrorCode;

mod alter;
mod definition;
mod describe;
mod dynamic;
mod group_bounds;
mod layers;
mod nearest;
mod topic;
mod value;

pub use self::{
    alter::{AlterOp, ConfigChange, apply_changes},
    definition::{
        Check, ConfigType, Definition, Definitions, Support, Synonym, UpdateMode, Visibility,
        broker_definition, broker_definitions, broker_synonyms, client_metrics_definitions,
        group_definitions, topic_definitions, without_listener_prefix,
    },
    describe::{
        ConfigEntry, ConfigSource, ConfigSynonym, describe_broker, describe_broker_defaults,
        describe_client_metrics, describe_group, describe_topic,
    },
    dynamic::{
        group_number, validate_broker_configs, validate_client_metrics_configs, validate_group_configs,
        validate_log_times,
    },
    group_bounds::validate_group_bounds,
    layers::ConfigLayers,
    nearest::nearest_key,
    topic::{
        CleanupPolicy, CompressionType, Durability, MessageTimestampType, TopicConfig,
        validate_topic_configs, validate_topic_configs_over,
    },
    value::{ConfigValue, Secret, parse_value, split_list},
};

/// Which kind of resource a set of configs belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigScope {
    /// One topic.
    Topic,
    /// One broker, or all brokers where the name is empty.
    Broker,
    /// One group.
    Group,
    /// One client metrics subscription.
    ClientMetrics,
}

impl ConfigScope {
    /// The keys of this kind of resource.
    pub fn definitions(self) -> &'static Definitions {
        match self {
            Self::Topic => topic_definitions(),
            Self::Broker => broker_definitions(),
            Self::Group => group_definitions(),
            Self::ClientMetrics => client_metrics_definitions(),
        }
    }

    /// The definition of a key, seeing through listener prefixes of broker keys.
    pub fn definition(self, name: &str) -> Option<&'static Definition> {
        match self {
            Self::Broker => broker_definition(name),
            other => other.definitions().get(name),
        }
    }
}

/// Why configs were refused; its text is what Kafka answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The value is not of the type or fails its check.
    #[error("Invalid value {value} for configuration {name}: {problem}")]
    InvalidValue {
        /// The key.
        name: String,
        /// The value, hidden where it is secret.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A list that must name something is empty.
    #[error("Configuration '{name}' must not be empty. Valid values include: {allowed}")]
    EmptyList {
        /// The key.
        name: &'static str,
        /// What it may hold.
        allowed: String,
    },
    /// A list has an empty item.
    #[error("Configuration '{0}' values must not be empty.")]
    EmptyItem(&'static str),
    /// A list of addresses that is not one.
    #[error("Invalid configuration value for {name}. Each entry should be in the form `{form}`.")]
    Malformed {
        /// The key.
        name: &'static str,
        /// The form of an entry.
        form: &'static str,
    },
    /// No such topic config.
    #[error("Unknown topic config name: {0}")]
    UnknownTopicConfig(String),
    /// No such group config.
    #[error("Unknown group config name: {0}")]
    UnknownGroupConfig(String),
    /// No such client metrics config.
    #[error("Unknown client metrics configuration: {0}")]
    UnknownClientMetricsConfig(String),
    /// `min.compaction.lag.ms` above `max.compaction.lag.ms`.
    #[error(
        "conflict topic config setting min.compaction.lag.ms ({min_ms}) > max.compaction.lag.ms ({max_ms})"
    )]
    CompactionLags {
        /// The minimum.
        min_ms: i64,
        /// The maximum.
        max_ms: i64,
    },
    /// Tiered storage is off.
    #[error(
        "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."
    )]
    TieredStorageDisabled,
    /// A config of groups outside the bound that another key sets.
    #[error("{name} must be {relation} {bound}")]
    OutsideBound {
        /// The key; a group's own, or the broker's.
        name: &'static str,
        /// `greater than or equal to`, `less than or equal to`, `greater than`, `less than`.
        relation: &'static str,
        /// The key that sets the bound.
        bound: &'static str,
    },
    /// A client metrics interval outside Kafka's bounds.
    #[error("Invalid value {0} for interval.ms, interval must be between 100 and 3600000 (1 hour)")]
    MetricsInterval(i64),
    /// A client metrics match that is not `parameter=pattern`.
    #[error("Illegal client matching pattern: {0}")]
    MatchPattern(String),
    /// Keys that are read at start only.
    #[error("Cannot update these configs dynamically: [{}]", .0.join(", "))]
    NotDynamic(Vec<String>),
    /// Security keys without their listener's prefix.
    #[error(
        "These security configs can be dynamically updated only per-listener using the listener prefix: [{}]",
        .0.join(", ")
    )]
    NeedsListenerPrefix(Vec<String>),
    /// Keys that cannot be set for all brokers at once.
    #[error("Cannot update these configs at default cluster level, broker id must be specified: [{}]", .0.join(", "))]
    PerBrokerOnly(Vec<String>),
    /// A broker value that its own check lets through and the broker refuses.
    #[error("requirement failed: {0}")]
    Requirement(&'static str),
    /// `cordoned.log.dirs` names what is no log directory.
    #[error(
        "requirement failed: All entries in cordoned.log.dirs must be present in log.dirs or log.dir. Missing entries : \
         {0}"
    )]
    UnknownCordons(String),
    /// `log.cleaner.threads` changed too far at once.
    #[error("{0}")]
    CleanerThreads(String),
    /// APPEND or SUBTRACT on something that is no list.
    #[error("Can't {op} to key {name} because its type is not LIST.")]
    NotAList {
        /// The operation.
        op: &'static str,
        /// The key.
        name: String,
    },
    /// A change without the value that it needs.
    #[error("Null value not supported for : {}", .0.join(", "))]
    NullValue(Vec<String>),
    /// One key changed twice in a request.
    #[error("Error due to duplicate config keys")]
    DuplicateKeys,
}

impl ConfigError {
    /// What Kafka answers when configs of `scope` are altered, or a topic is created, with this mistake.
    pub fn error_code(&self, scope: ConfigScope) -> ErrorCode {
        match self {
            Self::NullValue(_) | Self::DuplicateKeys => ErrorCode::InvalidRequest,
            Self::UnknownClientMetricsConfig(_) | Self::MetricsInterval(_) => ErrorCode::InvalidRequest,
            Self::NotAList { .. } => ErrorCode::InvalidConfig,
            _ if scope == ConfigScope::Broker => ErrorCode::InvalidRequest,
            _ => ErrorCode::InvalidConfig,
        }
    }

    pub(crate) fn invalid_value(name: &str, value: &str, problem: &str) -> Self {
        Self::InvalidValue { name: name.to_owned(), value: value.to_owned(), problem: problem.to_owned() }
    }
}
