//! The broker's layers of values: given at start, dynamic for all brokers, dynamic for this one.
//!
//! Keys that mean the same in other units (`log.retention.ms`, `.minutes`, `.hours`) form a family: a dynamic value of
//! one hides what weaker layers say about the others, as in Kafka.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    definition::{Definition, broker_definitions, broker_synonyms},
    value::{ConfigValue, parse_value},
};

/// Values by key, as somebody wrote them.
pub type Values = BTreeMap<String, String>;

/// What stands behind a broker's configuration, the strongest last. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigLayers {
    /// Given explicitly at start: command line, environment or file.
    pub given: Arc<Values>,
    /// Dynamic configs of the empty broker name: for all brokers.
    pub cluster: Arc<Values>,
    /// Dynamic configs of this broker.
    pub broker: Arc<Values>,
}

impl ConfigLayers {
    /// Layers with what was given at start and nothing dynamic.
    pub fn new(given: Values) -> Self {
        Self { given: Arc::new(given), ..Self::default() }
    }

    /// The text of the strongest layer that sets `name`, unless a stronger layer sets another of its family.
    pub fn text(&self, name: &str) -> Option<&str> {
        for layer in [&self.broker, &self.cluster] {
            if let Some(text) = layer.get(name) {
                return Some(text);
            }
            if layer.keys().any(|key| broker_synonyms(key).contains(&name)) {
                return None;
            }
        }
        self.given.get(name).map(String::as_str)
    }

    /// The effective value of a broker key; `None` where it is null, unknown or unreadable.
    pub fn value(&self, name: &str) -> Option<ConfigValue> {
        let definition = broker_definitions().get(name)?;
        self.set_value(definition).or_else(|| parse_value(definition, definition.default?).ok())
    }

    /// The effective value of a broker key that is a whole number.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.value(name)?.as_integer()
    }

    /// The value of the strongest layer, without the default.
    pub(super) fn set_value(&self, definition: &Definition) -> Option<ConfigValue> {
        self.text(definition.name).and_then(|text| parse_value(definition, text).ok())
    }

    /// What the broker's configuration says about a topic or group key: the first synonym that somebody set, else the
    /// first that has a default, else the key's own default.
    pub(super) fn value_behind(&self, key: &Definition) -> Option<ConfigValue> {
        let scaled = |value: ConfigValue, factor: i64| match value {
            ConfigValue::Integer(number) => ConfigValue::Integer(number.saturating_mul(factor)),
            other => other,
        };
        for synonym in &key.synonyms {
            let set = broker_definitions().get(synonym.name).and_then(|broker| self.set_value(broker));
            if let Some(value) = set {
                return Some(scaled(value, synonym.factor));
            }
        }
        for synonym in &key.synonyms {
            let broker = broker_definitions().get(synonym.name);
            let default = broker.and_then(|broker| parse_value(broker, broker.default?).ok());
            if let Some(value) = default {
                return Some(scaled(value, synonym.factor));
            }
        }
        key.default.and_then(|text| parse_value(key, text).ok())
    }
}
