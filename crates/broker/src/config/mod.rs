//! The broker's configuration: read, checked, typed.
//!
//! `--set key=value` over `KAFKA_*` environment over a properties file over defaults. Which keys exist and what they
//! may hold is defined in `klamm_cluster::config`; here are the sources, the typed values and the rule that no key is
//! read and silently ignored. Opens no file and no socket: the caller brings the texts.

mod broker;
mod consistency;
mod listeners;
mod load;
mod properties;
mod reader;
mod sources;

#[cfg(test)]
mod page;

pub use klamm_cluster::config::Durability;

pub use self::{
    broker::{BrokerConfig, FetchCheckCrcs, InternalTopicConfig},
    listeners::{HostPort, Listener},
    load::{ConfigProblem, ConfigProblems, Loaded, load},
    properties::{MalformedEscape, Property, parse_properties},
    sources::{Given, Origin, SourceError, Sources, key_of_variable},
};
