//! From sources to a [`BrokerConfig`]: every key is judged, and whatever has no effect is said.
//!
//! All problems are reported at once. An unknown key is a warning with the nearest known one; a key of Kafka's without
//! effect here is a warning; one whose neglect would weaken safety stops the start.

use std::{collections::BTreeMap, fmt};

use klamm_cluster::config::{
    ConfigError, Definition, Support, broker_definition, broker_definitions, nearest_key, parse_value,
    topic_definitions, without_listener_prefix,
};

use super::{
    broker::BrokerConfig,
    sources::{Given, SourceError, Sources},
};

/// A configuration that the broker can start with.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The typed values.
    pub config: BrokerConfig,
    /// What the operator should know, one line each.
    pub warnings: Vec<String>,
}

/// One reason not to start: where, which key, what is wrong and what to do, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where the key was given; empty for defaults.
    pub origin: String,
    /// The key.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.origin.is_empty() {
            write!(f, "{}: ", self.origin)?;
        }
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// Why the broker cannot start with this configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblems {
    /// A source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Values are wrong.
    #[error("{}", .0.iter().map(ConfigProblem::to_string).collect::<Vec<_>>().join("\n"))]
    Values(Vec<ConfigProblem>),
}

/// Reads and checks all that was given. `host_name` is the machine's, for listeners on every interface.
pub fn load(sources: &Sources, host_name: Option<&str>) -> Result<Loaded, ConfigProblems> {
    let (given, mut warnings) = sources.merge()?;
    let mut problems = Vec::new();
    for (key, given) in &given {
        match judge(key, given) {
            Ok(None) => {}
            Ok(Some(warning)) => warnings.push(format!("{}: {key} {warning}", given.origin)),
            Err(problem) => {
                problems.push(ConfigProblem { origin: given.origin.to_string(), key: key.clone(), problem });
            }
        }
    }
    if problems.is_empty() {
        match BrokerConfig::build(&given, host_name) {
            Ok((config, more)) => {
                warnings.extend(more);
                return Ok(Loaded { config, warnings });
            }
            Err((key, problem)) => {
                let origin = origin_of(&given, key);
                problems.push(ConfigProblem { origin, key: key.to_owned(), problem });
            }
        }
    }
    Err(ConfigProblems::Values(problems))
}

fn origin_of(given: &BTreeMap<String, Given>, key: &str) -> String {
    given.get(key).map(|given| given.origin.to_string()).unwrap_or_default()
}

/// What there is to say about one given key: a warning or a problem.
fn judge(key: &str, given: &Given) -> Result<Option<String>, String> {
    let Some(definition) = broker_definition(key) else {
        return Ok(Some(about_unknown(key)));
    };
    parse_value(definition, &given.value).map_err(|error| about_value(definition, &given.value, &error))?;
    Ok(match definition.support {
        Support::Honoured if without_listener_prefix(key).is_some() => {
            Some("is not honoured yet for a single listener; it has no effect".to_owned())
        }
        Support::Honoured => None,
        Support::Later => Some("is not honoured yet; it has no effect".to_owned()),
        Support::Never => Some("has no counterpart in Klamm; it has no effect".to_owned()),
        Support::Stops if is_neutral(definition, &given.value) => None,
        Support::Stops => {
            return Err(format!(
                "Klamm does not honour this yet, and starting without it would weaken what it is there to guard; \
                 remove it only if that is acceptable{}",
                definition
                    .default
                    .filter(|text| !text.is_empty())
                    .map_or(String::new(), |text| format!(" (the default is {text})"))
            ));
        }
    })
}

fn is_neutral(definition: &Definition, text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || definition.default.is_some_and(|default| default.eq_ignore_ascii_case(text))
}

fn about_unknown(key: &str) -> String {
    if let Some(topic) = topic_definitions().get(key) {
        return match topic.synonyms.first() {
            Some(broker) => {
                format!("is a topic's key and has no effect here; for all topics set {}", broker.name)
            }
            None => "is a topic's key and has no effect here".to_owned(),
        };
    }
    let known = broker_definitions().iter().map(|definition| definition.name);
    match nearest_key(key, known) {
        Some(nearest) => format!("is not a known key and has no effect; did you mean {nearest}?"),
        None => "is not a known key and has no effect".to_owned(),
    }
}

fn about_value(definition: &Definition, text: &str, error: &ConfigError) -> String {
    if definition.is_sensitive() {
        return "cannot be read".to_owned();
    }
    match definition.allowed() {
        Some(allowed) => format!("{:?} is not allowed; allowed: {allowed}", text.trim()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: &str) -> Sources {
        let file = Some(("server.properties".to_owned(), file.to_owned()));
        Sources { file, ..Sources::default() }
    }

    fn warnings(file: &str) -> Vec<String> {
        load(&sources(file), Some("machine")).expect("loads").warnings
    }

    fn refusal(file: &str) -> String {
        load(&sources(file), Some("machine")).expect_err("refused").to_string()
    }

    #[test]
    fn nothing_given_is_enough_to_start() {
        let loaded = load(&Sources::default(), None).expect("loads");
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert!(loaded.config.layers.given.contains_key("broker.id"));
    }

    #[test]
    fn a_key_without_effect_is_never_silent() {
        assert_eq!(
            warnings("num.partition=3\nretention.ms=5\nremote.storage.enable=true\nzookeeper.connect=a:1\n"),
            [
                "server.properties:1: num.partition is not a known key and has no effect; did you mean num.partitions?",
                "server.properties:3: remote.storage.enable is a topic's key and has no effect here",
                "server.properties:2: retention.ms is a topic's key and has no effect here; for all topics set \
                 log.retention.ms",
                "server.properties:4: zookeeper.connect is not a known key and has no effect",
            ]
        );
        assert_eq!(
            warnings("log.preallocate=true\nnum.io.threads=8\nnum.partitions=2\n"),
            [
                "server.properties:1: log.preallocate is not honoured yet; it has no effect",
                "server.properties:2: num.io.threads has no counterpart in Klamm; it has no effect",
            ]
        );
        assert_eq!(
            warnings("listener.name.plaintext.max.connections=5"),
            [
                "server.properties:1: listener.name.plaintext.max.connections is not honoured yet for a single \
              listener; it has no effect"
            ]
        );
    }

    #[test]
    fn every_honoured_looking_key_has_a_verdict() {
        for definition in broker_definitions().iter() {
            let Some(default) = definition.default else { continue };
            let given =
                Given { value: default.to_owned(), origin: super::super::sources::Origin::CommandLine };
            if definition.name == "controller.listener.names" {
                continue;
            }
            let verdict = judge(definition.name, &given).expect("a default is allowed");
            let silent = matches!(definition.support, Support::Honoured | Support::Stops);
            assert_eq!(verdict.is_none(), silent, "{}", definition.name);
        }
    }

    #[test]
    fn bad_values_are_named_together_with_what_is_allowed() {
        assert_eq!(
            refusal("\nlog.segment.bytes=12\nnum.partitions=many\nauto.create.topics.enable=yes\n"),
            "server.properties:4: auto.create.topics.enable: \"yes\" is not allowed; allowed: true, false\n\
             server.properties:2: log.segment.bytes: \"12\" is not allowed; allowed: 1048576 to 2147483647\n\
             server.properties:3: num.partitions: \"many\" is not allowed; allowed: 1 to 2147483647"
        );
    }

    #[test]
    fn what_guards_stops_the_start() {
        for guard in [
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:admin",
            "ssl.client.auth=required",
            "listener.name.plaintext.ssl.client.auth=required",
            "create.topic.policy.class.name=Policy",
            "config.providers=file",
        ] {
            assert!(refusal(guard).contains("would weaken"), "{guard}");
        }
        assert!(refusal("listeners=SASL_SSL://a:1").contains("SASL_SSL"));
        assert!(warnings("ssl.client.auth=none\nauthorizer.class.name=\n").is_empty());
    }

    #[test]
    fn secrets_do_not_reach_messages() {
        let file = "ssl.keystore.password=hunter2\nssl.key.password=hunter2\n";
        assert!(!warnings(file).join("\n").contains("hunter2"));
    }

    #[test]
    fn kafkas_shipped_file_starts() {
        let file = "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=localhost:9093\n\
            listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ninter.broker.listener.name=PLAINTEXT\n\
            advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
            controller.listener.names=CONTROLLER\n\
            listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,\
            SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL\n\
            num.network.threads=3\nsocket.request.max.bytes=104857600\nlog.dirs=/tmp/kraft-combined-logs\n\
            num.partitions=1\noffsets.topic.replication.factor=1\nlog.retention.hours=168\n";
        let loaded = load(&sources(file), None).expect("loads");
        assert_eq!(loaded.config.listeners.len(), 1);
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    }
}
