//! The broker: listeners, connections, handlers, partitions, metadata.
//!
//! Reaches the world through [`host::Host`] alone, so that it also runs simulated. What
//! it deliberately does not do: bind the HTTP port, read the command line, set up logging;
//! the binary does.

mod boot;
mod broker;
mod cleaner;
pub mod config;
mod coordinator;
#[cfg(test)]
mod corruption_tests;
#[cfg(test)]
mod crash_tests;
mod directory_move;
mod directory_watch;
mod fetch;
mod flusher;
mod handlers;
pub mod host;
pub mod http;
mod idle_files;
mod log_dirs;
mod log_manager;
mod metadata;
mod metrics;
mod net;
mod partition;
mod producer_ids;
#[cfg(test)]
mod simulation;
mod topic_names;
mod transactions;

pub use boot::StartError;
pub use broker::{Broker, Running};
