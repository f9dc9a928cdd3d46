//! Which of the broker's configs of groups bound one another: each default lies between its bounds, and a member's
//! heartbeat comes more often than its session ends.
//!
//! Judges the values of one moment. What a group's own configs may say is in [`super::dynamic`].
//!
//! Invariant: the same pairs are refused as by Kafka 4.3.1, with its words (`ConfigError`'s text).

use super::{ConfigError, layers::ConfigLayers, value::ConfigValue};

const AT_LEAST: &str = "greater than or equal to";
const AT_MOST: &str = "less than or equal to";
const LESS: &str = "less than";

type Rule = (&'static str, &'static str, &'static str);

/// Kafka's rules, in its order and direction: a key, how it must compare, another key.
const RULES: &[Rule] = {
    macro_rules! rules {
        ($($name:literal $relation:ident $bound:literal;)*) => {
            &[$((concat!("group.", $name), $relation, concat!("group.", $bound))),*]
        };
    }
    rules! {
        "consumer.max.heartbeat.interval.ms" AT_LEAST "consumer.min.heartbeat.interval.ms";
        "consumer.heartbeat.interval.ms" AT_LEAST "consumer.min.heartbeat.interval.ms";
        "consumer.heartbeat.interval.ms" AT_MOST "consumer.max.heartbeat.interval.ms";
        "consumer.max.session.timeout.ms" AT_LEAST "consumer.min.session.timeout.ms";
        "consumer.session.timeout.ms" AT_LEAST "consumer.min.session.timeout.ms";
        "consumer.session.timeout.ms" AT_MOST "consumer.max.session.timeout.ms";
        "consumer.heartbeat.interval.ms" LESS "consumer.session.timeout.ms";
        "consumer.max.assignment.interval.ms" AT_LEAST "consumer.min.assignment.interval.ms";
        "consumer.assignment.interval.ms" AT_LEAST "consumer.min.assignment.interval.ms";
        "consumer.assignment.interval.ms" AT_MOST "consumer.max.assignment.interval.ms";
        "share.max.heartbeat.interval.ms" AT_LEAST "share.min.heartbeat.interval.ms";
        "share.heartbeat.interval.ms" AT_LEAST "share.min.heartbeat.interval.ms";
        "share.heartbeat.interval.ms" AT_MOST "share.max.heartbeat.interval.ms";
        "share.max.session.timeout.ms" AT_LEAST "share.min.session.timeout.ms";
        "share.session.timeout.ms" AT_LEAST "share.min.session.timeout.ms";
        "share.session.timeout.ms" AT_MOST "share.max.session.timeout.ms";
        "share.heartbeat.interval.ms" LESS "share.session.timeout.ms";
        "share.max.assignment.interval.ms" AT_LEAST "share.min.assignment.interval.ms";
        "share.assignment.interval.ms" AT_LEAST "share.min.assignment.interval.ms";
        "share.assignment.interval.ms" AT_MOST "share.max.assignment.interval.ms";
        "streams.max.heartbeat.interval.ms" AT_LEAST "streams.min.heartbeat.interval.ms";
        "streams.heartbeat.interval.ms" AT_LEAST "streams.min.heartbeat.interval.ms";
        "streams.heartbeat.interval.ms" AT_MOST "streams.max.heartbeat.interval.ms";
        "streams.max.session.timeout.ms" AT_LEAST "streams.min.session.timeout.ms";
        "streams.session.timeout.ms" AT_LEAST "streams.min.session.timeout.ms";
        "streams.session.timeout.ms" AT_MOST "streams.max.session.timeout.ms";
        "streams.heartbeat.interval.ms" LESS "streams.session.timeout.ms";
        "streams.num.standby.replicas" AT_MOST "streams.max.standby.replicas";
        "streams.max.assignment.interval.ms" AT_LEAST "streams.min.assignment.interval.ms";
        "streams.assignment.interval.ms" AT_LEAST "streams.min.assignment.interval.ms";
        "streams.assignment.interval.ms" AT_MOST "streams.max.assignment.interval.ms";
        "share.delivery.count.limit" AT_LEAST "share.min.delivery.count.limit";
        "share.max.delivery.count.limit" AT_LEAST "share.delivery.count.limit";
        "share.record.lock.duration.ms" AT_LEAST "share.min.record.lock.duration.ms";
        "share.max.record.lock.duration.ms" AT_LEAST "share.record.lock.duration.ms";
        "share.partition.max.record.locks" AT_LEAST "share.min.partition.max.record.locks";
        "share.max.partition.max.record.locks" AT_LEAST "share.partition.max.record.locks";
        "share.max.share.sessions" AT_LEAST "share.max.size";
    }
};

/// Checks what the broker's configs say about groups against one another.
pub fn validate_group_bounds(layers: &ConfigLayers) -> Result<(), ConfigError> {
    let number = |name: &str| layers.value(name).as_ref().and_then(ConfigValue::as_integer);
    for &(name, relation, bound) in RULES {
        let (Some(value), Some(limit)) = (number(name), number(bound)) else { continue };
        let holds = match relation {
            AT_LEAST => value >= limit,
            AT_MOST => value <= limit,
            _ => value < limit,
        };
        if !holds {
            return Err(ConfigError::OutsideBound { name, relation, bound });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::broker_definitions, *};

    /// As Kafka 4.3.1 judged them at its start.
    #[test]
    fn pairs_are_judged_as_kafka_does() {
        let facts = include_str!("testdata/group_bounds.tsv");
        for line in facts.lines() {
            let (given, expected) = line.split_once('\t').expect("two columns");
            let values = given.split(';').map(|pair| {
                let (name, value) = pair.split_once('=').expect("a key and its value");
                assert!(broker_definitions().get(name).is_some(), "{name}");
                (name.to_owned(), value.to_owned())
            });
            let judged = validate_group_bounds(&ConfigLayers::new(values.collect()));
            let found = judged.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
            assert_eq!(found, expected, "{given}");
        }
        assert!(facts.lines().count() > 60, "{}", facts.lines().count());
    }

    #[test]
    fn every_rule_is_about_known_numbers_and_holds_by_default() {
        for (name, _, bound) in RULES {
            for key in [name, bound] {
                let default = broker_definitions().get(key).and_then(|definition| definition.default);
                assert!(default.is_some_and(|text| text.parse::<i64>().is_ok()), "{key}");
            }
        }
        assert_eq!(validate_group_bounds(&ConfigLayers::default()), Ok(()));
    }
}
