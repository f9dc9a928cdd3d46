//! Checks on dynamic configs of brokers, groups and client metrics subscriptions.
//!
//! Each takes all values that would be stored, since Kafka judges the result of a change and not the change.
//!
//! Dynamic keys that Klamm reads at start only (listeners and everything of TLS and SASL) are refused with Kafka's
//! words for keys that are not dynamic, rather than stored without effect. Those of Kerberos are stored: they have no
//! effect on Kafka either unless a listener speaks GSSAPI, and clients use them as the dynamic key that harms nobody.

use std::sync::Arc;

use super::{
    ConfigError,
    definition::{
        UpdateMode, Visibility, broker_definition, broker_definitions, client_metrics_definitions,
        group_definitions, without_listener_prefix,
    },
    group_bounds::validate_group_bounds,
    layers::{ConfigLayers, Values},
    value::{ConfigValue, parse_value},
};
use crate::image::ConfigValues;

/// Checks the dynamic configs of one broker, or of all brokers where `per_broker` is false.
pub fn validate_broker_configs(
    configs: &Values,
    per_broker: bool,
    layers: &ConfigLayers,
) -> Result<(), ConfigError> {
    let keys_where = |wrong: &dyn Fn(&str) -> bool| -> Vec<String> {
        configs.keys().filter(|name| wrong(name)).cloned().collect()
    };
    let fail_on = |names: Vec<String>, error: fn(Vec<String>) -> ConfigError| {
        if names.is_empty() { Ok(()) } else { Err(error(names)) }
    };
    let mode = |name: &str| broker_definitions().get(name).map(|definition| definition.update_mode);
    fail_on(keys_where(&|name| mode(name) == Some(UpdateMode::ReadOnly)), ConfigError::NotDynamic)?;
    fail_on(keys_where(&|name| is_listener_security(name)), ConfigError::NeedsListenerPrefix)?;
    for (name, text) in configs {
        if let Some(definition) = broker_definition(name) {
            parse_value(definition, text)?;
        }
    }
    let of_one_broker = |name: &str| {
        mode(name) == Some(UpdateMode::PerBroker)
            || without_listener_prefix(name).is_some_and(|base| mode(base) == Some(UpdateMode::PerBroker))
    };
    if !per_broker {
        fail_on(keys_where(&of_one_broker), ConfigError::PerBrokerOnly)?;
    }
    let is_refused =
        |name: &str| of_one_broker(name) && !name.starts_with("sasl.kerberos.") && name != CORDONED;
    fail_on(keys_where(&is_refused), ConfigError::NotDynamic)?;
    let mut next = layers.clone();
    let layer = if per_broker { &mut next.broker } else { &mut next.cluster };
    *layer = Arc::new(configs.clone());
    validate_cordons(&next)?;
    validate_cleaner_threads(layers, &next)?;
    validate_log_times(&next)?;
    validate_group_bounds(&next)
}

/// Log directories that take no new replicas (KIP-1066).
const CORDONED: &str = "cordoned.log.dirs";

/// Only what is a log directory can be cordoned.
fn validate_cordons(layers: &ConfigLayers) -> Result<(), ConfigError> {
    let list = |name: &str| match layers.value(name) {
        Some(ConfigValue::List(items)) => Some(items),
        _ => None,
    };
    let dirs = list("log.dirs").or_else(|| list("log.dir")).unwrap_or_default();
    let mut cordoned = list(CORDONED).unwrap_or_default();
    cordoned.retain(|path| path != "*" && !dirs.contains(path));
    if cordoned.is_empty() { Ok(()) } else { Err(ConfigError::UnknownCordons(cordoned.join(", "))) }
}

/// At most double and at least half of the threads at once, as Kafka has it.
fn validate_cleaner_threads(now: &ConfigLayers, next: &ConfigLayers) -> Result<(), ConfigError> {
    let threads = |layers: &ConfigLayers| layers.integer("log.cleaner.threads");
    let (Some(now), Some(next)) = (threads(now), threads(next)) else { return Ok(()) };
    let refused = |problem: String| Err(ConfigError::CleanerThreads(problem));
    if next < 1 {
        return refused("Log cleaner threads should be at least 1".to_owned());
    }
    if next < now / 2 {
        return refused(format!(
            "Log cleaner threads cannot be reduced to less than half the current value {now}"
        ));
    }
    if next > now.max(1) * 2 {
        return refused(format!(
            "Log cleaner threads cannot be increased to more than double the current value {now}"
        ));
    }
    Ok(())
}

/// Kafka's bounds on times whose keys come in several units.
pub fn validate_log_times(layers: &ConfigLayers) -> Result<(), ConfigError> {
    let time = |topic_key: &str| {
        let definition = super::topic_definitions().get(topic_key)?;
        layers.value_behind(definition)?.as_integer()
    };
    if time("segment.ms").is_some_and(|ms| ms < 1) {
        return Err(ConfigError::Requirement("log.roll.ms must be greater than or equal to 1"));
    }
    if time("segment.jitter.ms").is_some_and(|ms| ms < 0) {
        return Err(ConfigError::Requirement("log.roll.jitter.ms must be greater than or equal to 0"));
    }
    if time("retention.ms") == Some(0) {
        return Err(ConfigError::Requirement(
            "log.retention.ms must be unlimited (-1) or, greater than or equal to 1",
        ));
    }
    Ok(())
}

/// Checks a group's configs, within the bounds that the broker's configs set.
pub fn validate_group_configs(configs: &Values, layers: &ConfigLayers) -> Result<(), ConfigError> {
    const LEAST: &str = "greater than or equal to";
    const MOST: &str = "less than or equal to";
    let definitions = group_definitions();
    if let Some(unknown) = configs.keys().find(|name| definitions.get(name).is_none()) {
        return Err(ConfigError::UnknownGroupConfig(unknown.clone()));
    }
    for definition in definitions.iter() {
        if let Some(text) = configs.get(definition.name) {
            parse_value(definition, text)?;
        }
    }
    let value = |name: &str| {
        let definition = definitions.get(name)?;
        let own = configs.get(name).and_then(|text| parse_value(definition, text).ok());
        own.or_else(|| layers.value_behind(definition))?.as_integer()
    };
    let limit = |name: &str| layers.value(name).as_ref().and_then(ConfigValue::as_integer);
    for (name, min, max) in GROUP_BOUNDS {
        let outside = |relation, bound| Err(ConfigError::OutsideBound { name, relation, bound });
        let Some(number) = value(name) else { continue };
        if limit(min).is_some_and(|min| number < min) {
            return outside(LEAST, min);
        }
        if limit(max).is_some_and(|max| number > max) {
            return outside(MOST, max);
        }
    }
    for (session, heartbeat) in [
        ("consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"),
        ("share.session.timeout.ms", "share.heartbeat.interval.ms"),
        ("streams.session.timeout.ms", "streams.heartbeat.interval.ms"),
    ] {
        if value(session) <= value(heartbeat) {
            return Err(ConfigError::OutsideBound {
                name: session,
                relation: "greater than",
                bound: heartbeat,
            });
        }
    }
    Ok(())
}

/// What a group's own configs say under a key with a number, within the bounds that the broker's configs set by now;
/// `None` if they say nothing.
pub fn group_number(configs: &ConfigValues, name: &str, layers: &ConfigLayers) -> Option<i64> {
    let definition = group_definitions().get(name)?;
    let own = parse_value(definition, configs.get(name)?).ok()?.as_integer()?;
    let limit = |name: &str| layers.value(name).as_ref().and_then(ConfigValue::as_integer);
    let (min, max) =
        GROUP_BOUNDS.iter().find(|(key, ..)| *key == name).map_or(("", ""), |(_, min, max)| (*min, *max));
    let own = limit(max).map_or(own, |max| own.min(max));
    Some(limit(min).map_or(own, |min| own.max(min)))
}

/// A group's key, and the broker's keys for its smallest and largest value (empty: none).
const GROUP_BOUNDS: [(&str, &str, &str); 13] = {
    macro_rules! bounds {
        ($kind:literal, $key:literal) => {
            (
                concat!($kind, ".", $key),
                concat!("group.", $kind, ".min.", $key),
                concat!("group.", $kind, ".max.", $key),
            )
        };
    }
    [
        bounds!("consumer", "heartbeat.interval.ms"),
        bounds!("consumer", "session.timeout.ms"),
        bounds!("consumer", "assignment.interval.ms"),
        bounds!("share", "heartbeat.interval.ms"),
        bounds!("share", "session.timeout.ms"),
        bounds!("share", "record.lock.duration.ms"),
        bounds!("share", "delivery.count.limit"),
        bounds!("share", "partition.max.record.locks"),
        bounds!("share", "assignment.interval.ms"),
        bounds!("streams", "heartbeat.interval.ms"),
        bounds!("streams", "session.timeout.ms"),
        ("streams.num.standby.replicas", "", "group.streams.max.standby.replicas"),
        bounds!("streams", "assignment.interval.ms"),
    ]
};

/// Checks the configs of a client metrics subscription, but not that its patterns are regular expressions.
pub fn validate_client_metrics_configs(configs: &Values) -> Result<(), ConfigError> {
    const PARAMETERS: [&str; 6] = [
        "client_instance_id",
        "client_id",
        "client_software_name",
        "client_software_version",
        "client_source_address",
        "client_source_port",
    ];
    let definitions = client_metrics_definitions();
    for (name, text) in configs {
        let Some(definition) = definitions.get(name) else {
            return Err(ConfigError::UnknownClientMetricsConfig(name.clone()));
        };
        match parse_value(definition, text)? {
            ConfigValue::Integer(interval) if !(100..=3_600_000).contains(&interval) => {
                return Err(ConfigError::MetricsInterval(interval));
            }
            ConfigValue::List(items) if name == "match" => {
                for item in items {
                    let named =
                        item.split_once('=').map(|(parameter, pattern)| (parameter.trim(), pattern.trim()));
                    if !named.is_some_and(|(key, pattern)| PARAMETERS.contains(&key) && !pattern.is_empty()) {
                        return Err(ConfigError::MatchPattern(item));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Key and trust stores: dynamic only with a listener's prefix.
fn is_listener_security(name: &str) -> bool {
    let is_store = ["ssl.keystore.", "ssl.truststore."].iter().any(|prefix| name.starts_with(prefix));
    broker_definitions().get(name).is_some_and(|definition| {
        definition.visibility == Visibility::Public && (is_store || name == "ssl.key.password")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn broker(pairs: &[(&str, &str)], per_broker: bool) -> String {
        match validate_broker_configs(&values(pairs), per_broker, &ConfigLayers::default()) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn broker_configs_are_judged_as_kafka_does() {
        for per_broker in [true, false] {
            for (name, value, expected) in [
                ("log.retention.ms", "-5", "ok"),
                (
                    "log.retention.ms",
                    "x",
                    "Invalid value x for configuration log.retention.ms: Not a number of type LONG",
                ),
                (
                    "log.retention.hours",
                    "1",
                    "Cannot update these configs dynamically: [log.retention.hours]",
                ),
                ("process.roles", "x", "Cannot update these configs dynamically: [process.roles]"),
                ("log.cleaner.threads", "2", "ok"),
                ("log.cleaner.threads", "0", "Log cleaner threads should be at least 1"),
                (
                    "log.cleaner.threads",
                    "3",
                    "Log cleaner threads cannot be increased to more than double the current value 1",
                ),
                ("nope.nope", "3", "ok"),
                ("max.connections", "5", "ok"),
                (
                    "group.consumer.assignment.interval.ms",
                    "20000",
                    "group.consumer.assignment.interval.ms must be less than or equal to \
                     group.consumer.max.assignment.interval.ms",
                ),
                ("log.roll.ms", "0", "requirement failed: log.roll.ms must be greater than or equal to 1"),
                (
                    "log.segment.bytes",
                    "1000",
                    "Invalid value 1000 for configuration log.segment.bytes: Value must be at least 1048576",
                ),
                (
                    "min.insync.replicas",
                    "0",
                    "Invalid value 0 for configuration min.insync.replicas: Value must be at least 1",
                ),
                (
                    "leader.replication.throttled.rate",
                    "-1",
                    "Invalid value -1 for configuration leader.replication.throttled.rate: Value must be at least 0",
                ),
                (
                    "ssl.keystore.location",
                    "/x",
                    "These security configs can be dynamically updated only per-listener using the listener prefix: \
                     [ssl.keystore.location]",
                ),
            ] {
                assert_eq!(broker(&[(name, value)], per_broker), expected, "{name}={value}");
            }
        }
        assert_eq!(
            broker(&[("listener.name.plaintext.ssl.keystore.location", "/x"), ("listeners", "x")], false),
            "Cannot update these configs at default cluster level, broker id must be specified: \
             [listener.name.plaintext.ssl.keystore.location, listeners]"
        );
        assert_eq!(
            broker(&[("broker.rack", "a"), ("num.partitions", "3")], true),
            "Cannot update these configs dynamically: [broker.rack, num.partitions]"
        );
    }

    #[test]
    fn keys_read_at_start_only_are_refused() {
        assert_eq!(
            broker(&[("listeners", "x")], true),
            "Cannot update these configs dynamically: [listeners]"
        );
        assert_eq!(
            broker(&[("sasl.jaas.config", "x")], true),
            "Cannot update these configs dynamically: [sasl.jaas.config]"
        );
    }

    #[test]
    fn keys_of_kerberos_are_stored_for_one_broker() {
        assert_eq!(broker(&[("sasl.kerberos.min.time.before.relogin", "58000")], true), "ok");
        assert_eq!(
            broker(&[("sasl.kerberos.min.time.before.relogin", "58000")], false),
            "Cannot update these configs at default cluster level, broker id must be specified: \
             [sasl.kerberos.min.time.before.relogin]"
        );
    }

    #[test]
    fn a_groups_number_stays_within_the_brokers_bounds() {
        let own = |text: &str| ConfigValues::unit("consumer.session.timeout.ms".into(), text.into());
        let number = |configs: &ConfigValues| {
            let layers = ConfigLayers::new(values(&[("group.consumer.max.session.timeout.ms", "50000")]));
            group_number(configs, "consumer.session.timeout.ms", &layers)
        };
        assert_eq!(number(&own("46000")), Some(46_000));
        assert_eq!(number(&own("1000")), Some(45_000));
        assert_eq!(number(&own("60000")), Some(50_000));
        assert_eq!(number(&own("soon")), None);
        assert_eq!(number(&ConfigValues::new()), None);
    }

    #[test]
    fn group_configs_are_judged_as_kafka_does() {
        for (name, value, expected) in [
            ("consumer.session.timeout.ms", "45000", "ok"),
            (
                "consumer.session.timeout.ms",
                "1",
                "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms",
            ),
            (
                "streams.num.standby.replicas",
                "5",
                "streams.num.standby.replicas must be less than or equal to group.streams.max.standby.replicas",
            ),
            ("nope", "1", "Unknown group config name: nope"),
            (
                "share.isolation.level",
                "x",
                "Invalid value x for configuration share.isolation.level: String must be one of: read_committed, \
                 read_uncommitted",
            ),
        ] {
            let judged = validate_group_configs(&values(&[(name, value)]), &ConfigLayers::default());
            assert_eq!(judged.map_or_else(|error| error.to_string(), |()| "ok".to_owned()), expected);
        }
        let layers = ConfigLayers::new(values(&[("group.consumer.max.heartbeat.interval.ms", "50000")]));
        assert_eq!(
            validate_group_configs(&values(&[("consumer.heartbeat.interval.ms", "45000")]), &layers)
                .expect_err("refused")
                .to_string(),
            "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms"
        );
        for (name, min, max) in GROUP_BOUNDS {
            assert!(group_definitions().get(name).is_some(), "{name}");
            assert!(min.is_empty() || broker_definitions().get(min).is_some(), "{min}");
            assert!(broker_definitions().get(max).is_some(), "{max}");
        }
    }

    #[test]
    fn client_metrics_configs_are_judged_as_kafka_does() {
        for (name, value, expected) in [
            (
                "interval.ms",
                "1",
                "Invalid value 1 for interval.ms, interval must be between 100 and 3600000 (1 hour)",
            ),
            ("interval.ms", "x", "Invalid value x for configuration interval.ms: Not a number of type INT"),
            ("nope", "1", "Unknown client metrics configuration: nope"),
            ("match", "x", "Illegal client matching pattern: x"),
            ("match", "foo=a", "Illegal client matching pattern: foo=a"),
            ("match", "client_id=a.*", "ok"),
            ("metrics", "a,b", "ok"),
            ("metrics", "", "ok"),
        ] {
            let judged = validate_client_metrics_configs(&values(&[(name, value)]));
            assert_eq!(judged.map_or_else(|error| error.to_string(), |()| "ok".to_owned()), expected);
        }
    }
}
