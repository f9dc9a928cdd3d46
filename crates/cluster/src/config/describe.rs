//! The entries of a DescribeConfigs answer: value, source and the values behind it.
//!
//! Kafka's rule for where a broker-level value comes from, quirk included: the synonyms of the key and its family,
//! layer by layer, from the first that carries the key's own name on. So `retention.ms` that stems from
//! `log.retention.hours` alone is reported as a default without synonyms.

use super::{
    definition::{
        ConfigType, Definition, UpdateMode, Visibility, broker_definition, broker_definitions,
        broker_synonyms, client_metrics_definitions, group_definitions, topic_definitions,
    },
    layers::{ConfigLayers, Values},
    topic::effective_value,
    value::parse_value,
};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// DYNAMIC_TOPIC_CONFIG.
    Topic,
    /// DYNAMIC_BROKER_CONFIG.
    Broker,
    /// DYNAMIC_DEFAULT_BROKER_CONFIG.
    Cluster,
    /// STATIC_BROKER_CONFIG.
    Given,
    /// DEFAULT_CONFIG.
    Default,
    /// DYNAMIC_BROKER_LOGGER_CONFIG.
    BrokerLogger,
    /// CLIENT_METRICS_CONFIG.
    ClientMetrics,
    /// GROUP_CONFIG.
    Group,
}

impl ConfigSource {
    /// The code on the wire.
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::Broker => 2,
            Self::Cluster => 3,
            Self::Given => 4,
            Self::Default => 5,
            Self::BrokerLogger => 6,
            Self::ClientMetrics => 7,
            Self::Group => 8,
        }
    }
}

/// One value behind an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// The key that carries it.
    pub name: String,
    /// The value; `None` where it is hidden.
    pub value: Option<String>,
    /// Its layer.
    pub source: ConfigSource,
}

/// One config of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key.
    pub name: String,
    /// The effective value; `None` for null and for what is hidden.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// The type; `None` for keys that nobody knows.
    pub config_type: Option<ConfigType>,
    /// Whether it can only be set at start.
    pub read_only: bool,
    /// Whether the value is hidden.
    pub sensitive: bool,
    /// The values behind it, the effective one first.
    pub synonyms: Vec<ConfigSynonym>,
}

impl ConfigEntry {
    /// Whether nobody set it.
    pub fn is_default(&self) -> bool {
        self.source == ConfigSource::Default
    }

    /// The type's code on the wire.
    pub fn type_code(&self) -> i8 {
        self.config_type.map_or(0, ConfigType::code)
    }
}

/// A topic's configs, by name.
pub fn describe_topic(overrides: &Values, layers: &ConfigLayers) -> Vec<ConfigEntry> {
    let definitions = topic_definitions();
    let always = [Visibility::Public, Visibility::Klamm];
    let shown = definitions.iter().filter(|definition| always.contains(&definition.visibility));
    let mut names: Vec<&str> = shown.map(|definition| definition.name).collect();
    names.extend(overrides.keys().map(String::as_str));
    sorted(names)
        .into_iter()
        .map(|name| {
            let Some(definition) = definitions.get(name) else {
                return unknown(name, vec![ConfigSource::Topic], false);
            };
            let value = effective_value(name, overrides, layers).map(|value| value.to_string());
            let mut synonyms = Vec::new();
            if overrides.contains_key(name) {
                let source = ConfigSource::Topic;
                synonyms.push(ConfigSynonym { name: name.to_owned(), value: value.clone(), source });
            }
            if let Some(first) = definition.synonyms.first() {
                synonyms.extend(behind(first.name, layers, definition.is_sensitive()));
            }
            entry(definition, name, value, false, synonyms)
        })
        .collect()
}

/// A broker's configs, by name.
pub fn describe_broker(layers: &ConfigLayers) -> Vec<ConfigEntry> {
    let always = [Visibility::Public, Visibility::Klamm];
    let shown = broker_definitions().iter().filter(|definition| always.contains(&definition.visibility));
    let mut names: Vec<&str> = shown.map(|definition| definition.name).collect();
    for layer in [&layers.given, &layers.cluster, &layers.broker] {
        names.extend(layer.keys().map(String::as_str));
    }
    sorted(names).into_iter().map(|name| broker_entry(name, layers)).collect()
}

/// What is set for all brokers, by name: the empty broker name.
pub fn describe_broker_defaults(layers: &ConfigLayers) -> Vec<ConfigEntry> {
    let of_cluster = |(name, text): (&String, &String)| {
        let mut entry = broker_entry(name, layers);
        entry.synonyms.retain(|synonym| synonym.source == ConfigSource::Cluster);
        entry.source = ConfigSource::Cluster;
        entry.value = if entry.sensitive { None } else { Some(text.clone()) };
        entry
    };
    layers.cluster.iter().map(of_cluster).collect()
}

/// A group's configs, by name.
pub fn describe_group(overrides: &Values, layers: &ConfigLayers) -> Vec<ConfigEntry> {
    let names = group_definitions().iter().map(|definition| definition.name).collect();
    let definition_of = |name| group_definitions().get(name);
    let describe = |definition: &Definition| {
        let name = definition.name;
        let own = overrides.get(name).and_then(|text| parse_value(definition, text).ok());
        let mut synonyms = Vec::new();
        if let Some(own) = &own {
            let source = ConfigSource::Group;
            synonyms.push(ConfigSynonym { name: name.to_owned(), value: Some(own.to_string()), source });
        }
        match definition.synonyms.first() {
            Some(broker) => synonyms.extend(behind(broker.name, layers, false)),
            None => synonyms.push(ConfigSynonym {
                name: name.to_owned(),
                value: definition.default.map(str::to_owned),
                source: ConfigSource::Default,
            }),
        }
        let value = own.or_else(|| layers.value_behind(definition)).map(|value| value.to_string());
        entry(definition, name, value, false, synonyms)
    };
    sorted(names).into_iter().filter_map(definition_of).map(describe).collect()
}

/// The configs of a client metrics subscription, by name.
pub fn describe_client_metrics(overrides: &Values) -> Vec<ConfigEntry> {
    let names = client_metrics_definitions().iter().map(|definition| definition.name).collect();
    let definition_of = |name| client_metrics_definitions().get(name);
    let describe = |definition: &Definition| {
        let name = definition.name;
        let own = overrides.get(name).and_then(|text| parse_value(definition, text).ok());
        let own = own.map(|value| value.to_string());
        let source = ConfigSource::ClientMetrics;
        let synonyms = own
            .iter()
            .map(|value| ConfigSynonym { name: name.to_owned(), value: Some(value.clone()), source })
            .collect();
        entry(definition, name, own.or_else(|| definition.default.map(str::to_owned)), false, synonyms)
    };
    sorted(names).into_iter().filter_map(definition_of).map(describe).collect()
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names.dedup();
    names
}

fn entry(
    definition: &Definition,
    name: &str,
    value: Option<String>,
    read_only: bool,
    synonyms: Vec<ConfigSynonym>,
) -> ConfigEntry {
    let sensitive = definition.is_sensitive();
    ConfigEntry {
        name: name.to_owned(),
        value: if sensitive { None } else { value },
        source: synonyms.first().map_or(ConfigSource::Default, |synonym| synonym.source),
        config_type: Some(definition.config_type),
        read_only,
        sensitive,
        synonyms,
    }
}

fn broker_entry(name: &str, layers: &ConfigLayers) -> ConfigEntry {
    let known = broker_definition(name).filter(|definition| definition.visibility != Visibility::Extra);
    let Some(definition) = known else {
        let sources = layer_texts(layers).into_iter().filter(|(layer, _)| layer.contains_key(name));
        return unknown(name, sources.map(|(_, source)| source).collect(), true);
    };
    // A key with a listener's prefix has no default of its own.
    let is_prefixed = definition.name != name;
    let value = if is_prefixed {
        layers.text(name).map(str::to_owned)
    } else {
        layers.value(name).map(|value| value.to_string())
    };
    let read_only = is_prefixed || definition.update_mode == UpdateMode::ReadOnly;
    entry(definition, name, value, read_only, behind(name, layers, definition.is_sensitive()))
}

/// A key without definition is treated as a secret.
fn unknown(name: &str, sources: Vec<ConfigSource>, read_only: bool) -> ConfigEntry {
    let synonym = |source| ConfigSynonym { name: name.to_owned(), value: None, source };
    ConfigEntry {
        name: name.to_owned(),
        value: None,
        source: sources.first().copied().unwrap_or(ConfigSource::Default),
        config_type: None,
        read_only,
        sensitive: true,
        synonyms: sources.into_iter().map(synonym).collect(),
    }
}

fn layer_texts(layers: &ConfigLayers) -> [(&Values, ConfigSource); 3] {
    [
        (&layers.broker, ConfigSource::Broker),
        (&layers.cluster, ConfigSource::Cluster),
        (&layers.given, ConfigSource::Given),
    ]
}

/// The values behind a broker key.
fn behind(name: &str, layers: &ConfigLayers, sensitive: bool) -> Vec<ConfigSynonym> {
    let family = broker_synonyms(name);
    let mut found = Vec::new();
    let mut push = |name: &str, text: &str, source| {
        let value = if sensitive { None } else { Some(text.to_owned()) };
        found.push(ConfigSynonym { name: name.to_owned(), value, source });
    };
    for (layer, source) in layer_texts(layers) {
        for &key in &family {
            if let Some(text) = layer.get(key) {
                push(key, text, source);
            }
        }
    }
    for &key in &family {
        let definition = broker_definitions().get(key);
        if let Some(default) =
            definition.filter(|d| d.visibility != Visibility::DynamicOnly).and_then(|d| d.default)
        {
            push(key, default, ConfigSource::Default);
        }
    }
    let own = found.iter().position(|synonym| synonym.name == name).unwrap_or(found.len());
    found.split_off(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<const N: usize>(pairs: [(&str, &str); N]) -> Values {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The layers with which Kafka 4.3.1 gave the answers in `testdata/described.tsv`.
    fn layers() -> ConfigLayers {
        let mut layers = ConfigLayers::new(values([
            ("process.roles", "broker,controller"),
            ("node.id", "1"),
            ("broker.id", "1"),
            ("controller.quorum.voters", "1@127.0.0.1:9093"),
            ("listeners", "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"),
            ("controller.listener.names", "CONTROLLER"),
            ("log.dirs", "/tmp/layer"),
            ("log.retention.hours", "24"),
            ("log.roll.hours", "5"),
            ("log.roll.ms", " 7200000"),
            ("log.segment.bytes", "2000000"),
            ("log.flush.scheduler.interval.ms", "1000"),
            ("compression.type", "gzip"),
            ("log.cleaner.min.cleanable.ratio", ".5"),
            ("not.a.kafka.key", "hello"),
            ("log.cleanup.policy", "delete, compact"),
            ("log.preallocate", "TRUE"),
            ("ssl.keystore.password", "hunter2"),
            ("broker.rack", "r1"),
            ("listener.name.plaintext.sasl.enabled.mechanisms", "PLAIN"),
        ]));
        layers.cluster = values([
            ("min.insync.replicas", "1"),
            ("log.retention.ms", "5000"),
            ("log.segment.bytes", "3000000"),
            ("unknown.dynamic", "x"),
            ("leader.replication.throttled.rate", "7"),
        ])
        .into();
        layers.broker = values([("log.segment.bytes", "4000000"), ("message.max.bytes", " 5000 ")]).into();
        layers
    }

    fn line(resource: &str, entry: &ConfigEntry) -> String {
        let shown =
            |value: &Option<String>| value.as_ref().map_or("<null>".to_owned(), |value| format!("[{value}]"));
        let mut columns = vec![
            resource.to_owned(),
            entry.name.clone(),
            shown(&entry.value),
            entry.source.code().to_string(),
            entry.type_code().to_string(),
            if entry.read_only { "ro" } else { "rw" }.to_owned(),
            if entry.sensitive { "sensitive" } else { "-" }.to_owned(),
        ];
        for synonym in &entry.synonyms {
            columns.push(format!("{} {}={}", synonym.source.code(), synonym.name, shown(&synonym.value)));
        }
        columns.join("\t")
    }

    #[test]
    fn describes_every_entry_as_kafka_does() {
        let topic = values([
            ("segment.bytes", " 1100000 "),
            ("cleanup.policy", "compact, delete"),
            ("preallocate", "FALSE"),
            ("min.cleanable.dirty.ratio", "1"),
            ("follower.replication.throttled.replicas", "0:1,1:2"),
            ("flush.ms", "77"),
        ]);
        let group =
            values([("consumer.session.timeout.ms", " 46000"), ("share.isolation.level", "read_committed")]);
        let metrics = values([("interval.ms", "60000"), ("metrics", "a, b")]);
        let layers = layers();
        let answers = [
            ("2:t", describe_topic(&topic, &layers)),
            ("4:1", describe_broker(&layers)),
            ("4:", describe_broker_defaults(&layers)),
            ("32:g", describe_group(&group, &layers)),
            ("16:c", describe_client_metrics(&metrics)),
        ];
        // Where Klamm's default is another than Kafka's, or the key is Klamm's, Kafka's answer says nothing.
        let is_ours = |name: &str| {
            broker_definitions()
                .get(name)
                .is_some_and(|d| d.kafka_default.is_some() || d.visibility == Visibility::Klamm)
        };
        let found: Vec<_> = answers
            .iter()
            .flat_map(|(resource, entries)| entries.iter().map(move |entry| (entry, line(resource, entry))))
            .filter(|(entry, _)| !is_ours(&entry.name))
            .map(|(_, line)| line)
            .collect();
        let expected = include_str!("testdata/described.tsv").lines();
        let expected: Vec<_> = expected
            .filter(|line| !line.split('\t').nth(1).is_some_and(is_ours))
            .map(str::to_owned)
            .collect();
        assert!(expected.len() > 380);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected);
        }
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn a_secret_is_never_shown() {
        let entries = describe_broker(&layers());
        let entry = entries.iter().find(|entry| entry.name == "ssl.keystore.password").expect("described");
        assert!(entry.sensitive && entry.value.is_none());
        assert!(!format!("{entries:?}").contains("hunter2"));
    }
}
