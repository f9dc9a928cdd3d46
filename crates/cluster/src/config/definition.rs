//! What every config key is: its type, default, check, synonyms and how it can be changed.
//!
//! The facts live in the tables under `definitions/`, one key a line, and are parsed once. This module knows nothing
//! of values that somebody set.
//!
//! Invariant: the tables parse (they are part of the program; a test reads every line).

use std::{collections::BTreeMap, sync::LazyLock};

/// The type of a config, as Kafka's configuration framework has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigType {
    /// `true` or `false`, in any case.
    Boolean,
    /// Free text.
    String,
    /// 32 bits.
    Int,
    /// 16 bits.
    Short,
    /// 64 bits.
    Long,
    /// A Java double.
    Double,
    /// Comma-separated.
    List,
    /// The name of a Java class.
    Class,
    /// Never shown.
    Password,
}

impl ConfigType {
    /// The type's code in DescribeConfigs responses; a key that nobody knows has 0.
    pub fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
            Self::Class => 8,
            Self::Password => 9,
        }
    }

    /// Kafka's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Int => "INT",
            Self::Short => "SHORT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "boolean" => Self::Boolean,
            "string" => Self::String,
            "int" => Self::Int,
            "short" => Self::Short,
            "long" => Self::Long,
            "double" => Self::Double,
            "list" => Self::List,
            "class" => Self::Class,
            "password" => Self::Password,
            _ => return None,
        })
    }
}

/// What a value must satisfy beyond its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// Anything of the type.
    None,
    /// A number within inclusive bounds.
    Range {
        /// Smallest value, if there is one.
        min: Option<f64>,
        /// Largest value, if there is one.
        max: Option<f64>,
    },
    /// One of these words.
    OneOf(Vec<&'static str>),
    /// One of these words, in any case.
    OneOfAnyCase(Vec<&'static str>),
    /// A list without empty items, of these words if any are named.
    Items {
        /// The allowed items; none: anything.
        allowed: Vec<&'static str>,
        /// Whether the list itself may be empty.
        may_be_empty: bool,
    },
    /// Not empty.
    NonEmpty,
    /// 1 to 9, or -1 for the codec's default.
    GzipLevel,
    /// `*`, or a list of `partition:broker`.
    ThrottledReplicas,
    /// A list of `id@host:port`.
    QuorumVoters,
    /// A list of `host:port`.
    BootstrapServers,
    /// `earliest`, `latest` or `by_duration:` and an ISO-8601 duration.
    OffsetReset,
}

/// How a broker config can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateMode {
    /// At start only.
    ReadOnly,
    /// While running, for one broker.
    PerBroker,
    /// While running, for one broker or for all.
    ClusterWide,
}

/// Where a key comes from and when it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Always described.
    Public,
    /// Kafka's internal keys: described only where they are set.
    Internal,
    /// Exists only as a dynamic config.
    DynamicOnly,
    /// Read by one of Kafka's plug-ins, not by its broker.
    Extra,
    /// Klamm's own.
    Klamm,
}

/// What Klamm does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It has its effect.
    Honoured,
    /// It is checked, stored and described, but has no effect yet.
    Later,
    /// Klamm has nothing that it could mean.
    Never,
    /// Ignoring it would weaken safety: any value but the default stops the start.
    Stops,
}

/// A broker-level key behind a topic-level or group-level one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The broker's key.
    pub name: &'static str,
    /// Multiplies the broker's value into the unit of the topic's key (hours or minutes into milliseconds).
    pub factor: i64,
}

/// One config key.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The key.
    pub name: &'static str,
    /// Its type.
    pub config_type: ConfigType,
    /// Klamm's default; `None` is null.
    pub default: Option<&'static str>,
    /// Kafka's default where it differs: `Some(None)` where Kafka has none and requires the key.
    pub kafka_default: Option<Option<&'static str>>,
    /// What values must satisfy.
    pub check: Check,
    /// The broker's keys that stand behind this one, the strongest first.
    pub synonyms: Vec<Synonym>,
    /// How it can be changed; topic, group and client metrics configs always can.
    pub update_mode: UpdateMode,
    /// When it is shown.
    pub visibility: Visibility,
    /// What Klamm does with it.
    pub support: Support,
}

impl Definition {
    /// Whether the value must never be shown.
    pub fn is_sensitive(&self) -> bool {
        self.config_type == ConfigType::Password
    }

    /// The allowed values in words, for people: `1 to 17`, `at least 0`, `compact, delete`. `None`: anything.
    pub fn allowed(&self) -> Option<String> {
        let bounds = match self.config_type {
            ConfigType::Short => Some((f64::from(i16::MIN), f64::from(i16::MAX))),
            ConfigType::Int => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            _ => None,
        };
        match &self.check {
            Check::Range { min: Some(min), max: Some(max) } => Some(format!("{min} to {max}")),
            Check::Range { min: Some(min), max: None } => match bounds {
                Some((_, max)) => Some(format!("{min} to {max}")),
                None => Some(format!("at least {min}")),
            },
            Check::Range { min: None, max: Some(max) } => Some(format!("at most {max}")),
            Check::OneOf(words) | Check::OneOfAnyCase(words) => Some(words.join(", ")),
            Check::Items { allowed, .. } if !allowed.is_empty() => {
                Some(format!("a list of {}", allowed.join(", ")))
            }
            Check::GzipLevel => Some("1 to 9, or -1 for the default".to_owned()),
            Check::ThrottledReplicas => Some("* or a list of partition:broker".to_owned()),
            Check::QuorumVoters => Some("a list of id@host:port".to_owned()),
            Check::BootstrapServers => Some("a list of host:port".to_owned()),
            Check::OffsetReset => Some("earliest, latest, by_duration:<ISO-8601 duration>".to_owned()),
            Check::NonEmpty => Some("not empty".to_owned()),
            _ => match self.config_type {
                ConfigType::Boolean => Some("true, false".to_owned()),
                ConfigType::Short | ConfigType::Int => bounds.map(|(min, max)| format!("{min} to {max}")),
                ConfigType::Long => Some("a 64-bit whole number".to_owned()),
                ConfigType::Double => Some("a number".to_owned()),
                _ => None,
            },
        }
    }
}

/// The keys of one kind of resource.
#[derive(Debug)]
pub struct Definitions {
    in_order: Vec<Definition>,
    by_name: BTreeMap<&'static str, usize>,
}

impl Definitions {
    /// The key's definition.
    pub fn get(&self, name: &str) -> Option<&Definition> {
        self.by_name.get(name).map(|&at| &self.in_order[at])
    }

    /// All keys, in the order in which Kafka checks them.
    pub fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.in_order.iter()
    }

    fn parse(table: &'static str) -> Option<Self> {
        let mut in_order = Vec::new();
        let mut by_name = BTreeMap::new();
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let definition = parse_line(line)?;
            if by_name.insert(definition.name, in_order.len()).is_some() {
                return None;
            }
            in_order.push(definition);
        }
        Some(Self { in_order, by_name })
    }
}

/// Topic configs.
pub fn topic_definitions() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> = LazyLock::new(|| {
        Definitions::parse(include_str!("definitions/topic.txt")).expect("a table of ours, read by a test")
    });
    &TABLE
}

/// Broker configs.
pub fn broker_definitions() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> = LazyLock::new(|| {
        Definitions::parse(include_str!("definitions/broker.txt")).expect("a table of ours, read by a test")
    });
    &TABLE
}

/// Group configs.
pub fn group_definitions() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> = LazyLock::new(|| {
        Definitions::parse(include_str!("definitions/group.txt")).expect("a table of ours, read by a test")
    });
    &TABLE
}

/// Client metrics subscription configs.
pub fn client_metrics_definitions() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> = LazyLock::new(|| {
        let table = include_str!("definitions/client_metrics.txt");
        Definitions::parse(table).expect("a table of ours, read by a test")
    });
    &TABLE
}

/// The families of broker keys that mean the same thing in different units, the strongest first.
///
/// `log.retention.ms`, `.minutes` and `.hours` are one family; a key without twins is alone in its own.
pub fn broker_synonyms(name: &str) -> Vec<&str> {
    static FAMILIES: LazyLock<BTreeMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
        let mut families = BTreeMap::new();
        for topic in topic_definitions().iter().filter(|topic| topic.synonyms.len() > 1) {
            let family: Vec<_> = topic.synonyms.iter().map(|synonym| synonym.name).collect();
            for &name in &family {
                families.insert(name, family.clone());
            }
        }
        // Kafka's one asymmetry: describing the scheduler's interval does not look at the topic-level interval.
        families.remove("log.flush.scheduler.interval.ms");
        families
    });
    if let Some(family) = FAMILIES.get(name) {
        return family.clone();
    }
    match without_listener_prefix(name) {
        Some(base) => vec![name, base],
        None => vec![name],
    }
}

/// The broker key that `listener.name.<listener>.<key>` (or `.<mechanism>.<key>`) overrides for one listener.
pub fn without_listener_prefix(name: &str) -> Option<&str> {
    /// Keys that may also be given for one SASL mechanism of a listener.
    const OF_A_MECHANISM: [&str; 5] = [
        "connections.max.reauth.ms",
        "sasl.jaas.config",
        "sasl.login.callback.handler.class",
        "sasl.login.class",
        "sasl.server.callback.handler.class",
    ];
    let (listener, base) = name.strip_prefix("listener.name.")?.split_once('.')?;
    if listener.is_empty() || base.is_empty() {
        return None;
    }
    Some(OF_A_MECHANISM.into_iter().find(|key| base.ends_with(key)).unwrap_or(base))
}

/// The definition of a broker key, also where it carries a listener's prefix.
pub fn broker_definition(name: &str) -> Option<&'static Definition> {
    let definitions = broker_definitions();
    definitions.get(name).or_else(|| definitions.get(without_listener_prefix(name)?))
}

fn parse_line(line: &'static str) -> Option<Definition> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next()?;
    let config_type = ConfigType::parse(words.next()?)?;
    let default = parse_default(words.next()?);
    let check = parse_check(words.next()?)?;
    let mut synonyms = Vec::new();
    let mut update_mode = UpdateMode::ClusterWide;
    match words.next()? {
        "-" => {}
        "read-only" => update_mode = UpdateMode::ReadOnly,
        "per-broker" => update_mode = UpdateMode::PerBroker,
        "cluster-wide" => {}
        names => {
            for name in names.split(',') {
                let (name, factor) = name.split_once('*').unwrap_or((name, "1"));
                synonyms.push(Synonym { name, factor: factor.parse().ok()? });
            }
        }
    }
    let visibility = match words.next()? {
        "public" => Visibility::Public,
        "internal" => Visibility::Internal,
        "dynamic-only" => Visibility::DynamicOnly,
        "extra" => Visibility::Extra,
        "klamm" => Visibility::Klamm,
        _ => return None,
    };
    let support = match words.next()? {
        "yes" => Support::Honoured,
        "later" => Support::Later,
        "never" => Support::Never,
        "stop" => Support::Stops,
        _ => return None,
    };
    let kafka_default = match words.next() {
        None => None,
        Some(word) => match word.strip_prefix("kafka=")? {
            "required" => Some(None),
            value => Some(Some(value)),
        },
    };
    Some(Definition {
        name,
        config_type,
        default,
        kafka_default,
        check,
        synonyms,
        update_mode,
        visibility,
        support,
    })
}

fn parse_default(word: &'static str) -> Option<&'static str> {
    match word {
        "null" => None,
        "\"\"" => Some(""),
        value => Some(value),
    }
}

fn parse_check(word: &'static str) -> Option<Check> {
    let (kind, inside) = match word.split_once('(') {
        Some((kind, rest)) => (kind, rest.strip_suffix(')')?),
        None => (word, ""),
    };
    let words = || inside.split(',').filter(|word| !word.is_empty()).collect::<Vec<_>>();
    Some(match kind {
        "-" => Check::None,
        "range" => {
            let (min, max) = inside.split_once(',')?;
            let bound = |text: &str| {
                if text.is_empty() { Some(None) } else { text.parse::<f64>().ok().map(Some) }
            };
            Check::Range { min: bound(min)?, max: bound(max)? }
        }
        "one-of" => Check::OneOf(words()),
        "one-of-any-case" => Check::OneOfAnyCase(words()),
        "items" => Check::Items { allowed: words(), may_be_empty: true },
        "items-required" => Check::Items { allowed: words(), may_be_empty: false },
        "non-empty" => Check::NonEmpty,
        "gzip-level" => Check::GzipLevel,
        "throttled-replicas" => Check::ThrottledReplicas,
        "quorum-voters" => Check::QuorumVoters,
        "bootstrap-servers" => Check::BootstrapServers,
        "offset-reset" => Check::OffsetReset,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::parse_value;

    #[test]
    fn every_table_parses_and_every_default_passes_its_own_check() {
        for definitions in
            [topic_definitions(), broker_definitions(), group_definitions(), client_metrics_definitions()]
        {
            for definition in definitions.iter() {
                // Not given at all is how a listener for controllers is absent here.
                if definition.name == "controller.listener.names" {
                    continue;
                }
                if let Some(default) = definition.default {
                    let value = parse_value(definition, default).unwrap_or_else(|error| panic!("{error}"));
                    if !definition.is_sensitive() {
                        assert_eq!(value.to_string(), default, "{}", definition.name);
                    }
                }
            }
        }
    }

    #[test]
    fn the_tables_have_as_many_keys_as_kafka() {
        let count = |of: &Definitions, what: Visibility| of.iter().filter(|d| d.visibility == what).count();
        assert_eq!(count(topic_definitions(), Visibility::Public), 33);
        assert_eq!(count(broker_definitions(), Visibility::Public), 340);
        assert_eq!(count(broker_definitions(), Visibility::Internal), 20);
        assert_eq!(group_definitions().iter().count(), 17);
        assert_eq!(client_metrics_definitions().iter().count(), 3);
    }

    #[test]
    fn synonyms_of_topic_keys_are_broker_keys() {
        for topic in topic_definitions().iter() {
            for synonym in &topic.synonyms {
                assert!(broker_definitions().get(synonym.name).is_some(), "{}", synonym.name);
            }
        }
    }

    #[test]
    fn listener_prefixes_are_seen_through() {
        assert_eq!(without_listener_prefix("listener.name.ext.ssl.client.auth"), Some("ssl.client.auth"));
        assert_eq!(
            without_listener_prefix("listener.name.ext.scram-sha-256.sasl.jaas.config"),
            Some("sasl.jaas.config")
        );
        assert_eq!(without_listener_prefix("listener.name.ext"), None);
        assert_eq!(without_listener_prefix("listeners"), None);
        assert_eq!(broker_synonyms("log.roll.hours"), ["log.roll.ms", "log.roll.hours"]);
        assert_eq!(broker_synonyms("log.flush.scheduler.interval.ms"), ["log.flush.scheduler.interval.ms"]);
    }
}
