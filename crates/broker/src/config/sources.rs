//! The places where an operator gives a value, and which of them wins: `--set`, environment, file.
//!
//! Knows keys only by name; whether one exists and what it may hold is judged in `load`.

use std::{collections::BTreeMap, fmt};

use klamm_cluster::config::broker_synonyms;

use super::properties::{MalformedEscape, parse_properties};

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file, at a line.
    File {
        /// The file's name, as the operator gave it.
        name: String,
        /// From 1.
        line: usize,
    },
    /// In an environment variable.
    Environment(String),
    /// By `--set`.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment(variable) => f.write_str(variable),
            Self::CommandLine => f.write_str("--set"),
        }
    }
}

/// A value that somebody gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// As written.
    pub value: String,
    /// Where.
    pub origin: Origin,
}

/// What the operator gave, unread.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file's name and content.
    pub file: Option<(String, String)>,
    /// The process's environment; only `KAFKA_` variables matter.
    pub environment: Vec<(String, String)>,
    /// The arguments of `--set`, each `key=value`.
    pub set: Vec<String>,
}

/// Why sources cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The file is no properties file.
    #[error("{name}: {error}")]
    File {
        /// The file's name.
        name: String,
        /// What is wrong.
        error: MalformedEscape,
    },
    /// An argument of `--set` has no `=`.
    #[error("--set {0}: expected key=value")]
    Argument(String),
}

impl Sources {
    /// One value per key, and warnings about values that lose within one source.
    ///
    /// A stronger source also hides what a weaker one says about the key's twins in other units: `--set
    /// log.retention.hours=1` is not overruled by `log.retention.ms` in the file.
    pub fn merge(&self) -> Result<(BTreeMap<String, Given>, Vec<String>), SourceError> {
        let mut merged: BTreeMap<String, Given> = BTreeMap::new();
        let mut warnings = Vec::new();
        for layer in [self.file_values()?, self.environment_values(), self.argument_values()?] {
            let mut own: BTreeMap<String, Given> = BTreeMap::new();
            for (key, given) in layer {
                let origin = given.origin.clone();
                if let Some(hidden) = own.insert(key.clone(), given) {
                    warnings.push(format!("{origin}: {key} is given again; {} loses", hidden.origin));
                }
            }
            for key in own.keys() {
                for twin in twins(key) {
                    merged.remove(twin);
                }
            }
            merged.append(&mut own);
        }
        Ok((merged, warnings))
    }

    fn file_values(&self) -> Result<Vec<(String, Given)>, SourceError> {
        let Some((name, content)) = &self.file else { return Ok(Vec::new()) };
        let entries =
            parse_properties(content).map_err(|error| SourceError::File { name: name.clone(), error })?;
        let given = |line, value| Given { value, origin: Origin::File { name: name.clone(), line } };
        Ok(entries.into_iter().map(|entry| (entry.key, given(entry.line, entry.value))).collect())
    }

    fn environment_values(&self) -> Vec<(String, Given)> {
        let mut found = Vec::new();
        for (variable, value) in &self.environment {
            if let Some(key) = key_of_variable(variable) {
                found.push((
                    key,
                    Given { value: value.clone(), origin: Origin::Environment(variable.clone()) },
                ));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    fn argument_values(&self) -> Result<Vec<(String, Given)>, SourceError> {
        let split = |argument: &String| match argument.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                let given = Given { value: value.to_owned(), origin: Origin::CommandLine };
                Ok((key.trim().to_owned(), given))
            }
            _ => Err(SourceError::Argument(argument.clone())),
        };
        self.set.iter().map(split).collect()
    }
}

/// The key that an environment variable gives, as Kafka's container images map them: `_` is `.`, `__` is `_`, `___`
/// is `-`.
pub fn key_of_variable(variable: &str) -> Option<String> {
    /// Variables of Kafka's start scripts, images and of container platforms.
    const NOT_KEYS: [&str; 18] = [
        "CLASSPATH",
        "CLUSTER_ID",
        "DEBUG",
        "GC_LOG_OPTS",
        "HEAP_OPTS",
        "HOME",
        "JMX_HOSTNAME",
        "JMX_OPTS",
        "JMX_PORT",
        "JVM_PERFORMANCE_OPTS",
        "LOG4J_CMD_OPTS",
        "LOG4J_LOGGERS",
        "LOG4J_OPTS",
        "LOG4J_ROOT_LOGLEVEL",
        "MODE",
        "OPTS",
        "TOOLS_LOG4J_LOGLEVEL",
        "VERSION",
    ];
    let name = variable.strip_prefix("KAFKA_")?;
    if name.is_empty() || NOT_KEYS.contains(&name) {
        return None;
    }
    let dashes = name.replace("___", "-").replace("__", "\u{0}").replace('_', ".");
    Some(dashes.replace('\u{0}', "_").to_lowercase())
}

fn twins(key: &str) -> Vec<&str> {
    const DIRECTORIES: [&str; 2] = ["log.dir", "log.dirs"];
    if DIRECTORIES.contains(&key) { DIRECTORIES.to_vec() } else { broker_synonyms(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_keys() {
        for (variable, key) in [
            ("KAFKA_LISTENERS", Some("listeners")),
            ("KAFKA_LOG_DIRS", Some("log.dirs")),
            ("KAFKA_NODE_ID", Some("node.id")),
            ("KAFKA_A__B_C___D", Some("a_b.c-d")),
            ("KAFKA_HEAP_OPTS", None),
            ("KAFKA_", None),
            ("PATH", None),
            ("KAFKA_KLAMM_HTTP_LISTENER", Some("klamm.http.listener")),
        ] {
            assert_eq!(key_of_variable(variable).as_deref(), key, "{variable}");
        }
    }

    fn sources() -> Sources {
        Sources {
            file: Some((
                "server.properties".to_owned(),
                "log.retention.ms=5\nnum.partitions=3\nnode.id=1\nnode.id=2\nlog.dirs=/a".to_owned(),
            )),
            environment: vec![
                ("KAFKA_NUM_PARTITIONS".to_owned(), "4".to_owned()),
                ("HOME".to_owned(), "/root".to_owned()),
            ],
            set: vec![
                "log.retention.hours=7".to_owned(),
                "broker.rack=a=b".to_owned(),
                "log.dir=/b".to_owned(),
            ],
        }
    }

    #[test]
    fn the_stronger_source_wins_for_the_whole_family() {
        let (merged, warnings) = sources().merge().expect("merges");
        let shown: Vec<_> =
            merged.iter().map(|(key, given)| format!("{} {key}={}", given.origin, given.value)).collect();
        assert_eq!(
            shown,
            [
                "--set broker.rack=a=b",
                "--set log.dir=/b",
                "--set log.retention.hours=7",
                "server.properties:4 node.id=2",
                "KAFKA_NUM_PARTITIONS num.partitions=4",
            ]
        );
        assert_eq!(warnings, ["server.properties:4: node.id is given again; server.properties:3 loses"]);
    }

    #[test]
    fn unreadable_sources_are_named() {
        let mut sources = sources();
        sources.set.push("novalue".to_owned());
        assert_eq!(sources.merge().expect_err("refused").to_string(), "--set novalue: expected key=value");
        sources.file = Some(("a.properties".to_owned(), "\nx=\\uzzzz".to_owned()));
        assert_eq!(
            sources.merge().expect_err("refused").to_string(),
            "a.properties: line 2: \\u must be followed by four hexadecimal digits"
        );
    }
}
