//! What the broker's configuration says about groups.

use klamm_cluster::config::{ConfigLayers, ConfigValue};

use super::assignor::Assignor;

/// The values of one moment; durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`: members of a classic group.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: u64,
    /// `group.coordinator.rebalance.protocols` contains `consumer`.
    pub serves_consumer_groups: bool,
    /// Of groups of the consumer protocol.
    pub consumer: ConsumerGroupSettings,
    /// The layers that a group's own configuration is put on.
    pub layers: ConfigLayers,
}

/// `group.consumer.*`; those that a group's own configuration may override are its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupSettings {
    /// `….session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// `….heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `….assignment.interval.ms`.
    pub assignment_interval_ms: i32,
    /// `….max.size`.
    pub max_size: usize,
    /// `….assignors`: by name, the first is the default.
    pub assignors: Vec<String>,
    /// `….regex.refresh.interval.ms`.
    pub regex_refresh_interval_ms: u64,
    /// `….migration.policy`.
    pub migration_policy: MigrationPolicy,
}

/// Between which protocols a group with members may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPolicy {
    /// Not at all.
    Disabled,
    /// Only from classic to consumer.
    Upgrade,
    /// Only from consumer to classic.
    Downgrade,
    /// Both ways.
    Bidirectional,
}

impl MigrationPolicy {
    /// From classic to consumer.
    #[must_use]
    pub fn allows_upgrade(self) -> bool {
        matches!(self, Self::Upgrade | Self::Bidirectional)
    }

    /// From consumer to classic.
    #[must_use]
    pub fn allows_downgrade(self) -> bool {
        matches!(self, Self::Downgrade | Self::Bidirectional)
    }
}

impl From<&ConfigLayers> for GroupSettings {
    fn from(layers: &ConfigLayers) -> Self {
        let long = |name| layers.integer(name).unwrap_or(0);
        let int = |name| i32::try_from(long(name)).unwrap_or(i32::MAX);
        let count = |name| usize::try_from(long(name)).unwrap_or(0);
        let list = |name| match layers.value(name) {
            Some(ConfigValue::List(items)) => items,
            _ => Vec::<String>::new(),
        };
        let policy = layers.text("group.consumer.migration.policy").unwrap_or("bidirectional");
        Self {
            min_session_timeout_ms: int("group.min.session.timeout.ms"),
            max_session_timeout_ms: int("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms: int("group.initial.rebalance.delay.ms"),
            max_size: count("group.max.size"),
            offset_metadata_bytes_max: count("offset.metadata.max.bytes"),
            offsets_retention_ms: long("offsets.retention.minutes").saturating_mul(60_000),
            offsets_retention_check_interval_ms: u64::try_from(long("offsets.retention.check.interval.ms"))
                .unwrap_or(0),
            serves_consumer_groups: list("group.coordinator.rebalance.protocols")
                .iter()
                .any(|protocol| protocol.eq_ignore_ascii_case("consumer")),
            consumer: ConsumerGroupSettings {
                session_timeout_ms: int("group.consumer.session.timeout.ms"),
                heartbeat_interval_ms: int("group.consumer.heartbeat.interval.ms"),
                assignment_interval_ms: int("group.consumer.assignment.interval.ms"),
                max_size: count("group.consumer.max.size"),
                assignors: names_of_assignors(&list("group.consumer.assignors")),
                regex_refresh_interval_ms: u64::try_from(long("group.consumer.regex.refresh.interval.ms"))
                    .unwrap_or(0),
                migration_policy: match policy.to_ascii_lowercase().as_str() {
                    "disabled" => MigrationPolicy::Disabled,
                    "upgrade" => MigrationPolicy::Upgrade,
                    "downgrade" => MigrationPolicy::Downgrade,
                    _ => MigrationPolicy::Bidirectional,
                },
            },
            layers: layers.clone(),
        }
    }
}

/// Each once, as members know them.
fn names_of_assignors(given: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    for name in given.iter().filter_map(|text| Assignor::from_config(text)).map(Assignor::name) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use klamm_cluster::config::{broker_definitions, parse_value};

    use super::*;

    #[test]
    fn assignors_are_known_by_their_classes_too() {
        let names = |text: &str| {
            let definition = broker_definitions().get("group.consumer.assignors").unwrap();
            parse_value(definition, text).unwrap();
            let given = [("group.consumer.assignors".to_owned(), text.to_owned())].into();
            GroupSettings::from(&ConfigLayers::new(given)).consumer.assignors
        };
        const PACKAGE: &str = "org.apache.kafka.coordinator.group.assignor";
        assert_eq!(names("uniform,range"), ["uniform", "range"]);
        assert_eq!(names(&format!("{PACKAGE}.RangeAssignor, uniform")), ["range", "uniform"]);
        assert_eq!(names(&format!("uniform,{PACKAGE}.UniformAssignor")), ["uniform"]);
    }
}
