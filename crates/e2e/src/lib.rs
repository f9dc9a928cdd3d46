//! End-to-end tests: the `klamm` binary as a process, driven by clients that nobody here wrote.
//!
//! This library starts brokers, kills them, and finds outside programs; the tests are in `tests/`, one file for one
//! promise. It never links the broker: what it knows of Klamm is its command line, its ports and its files.
//!
//! Invariants: every broker listens on port 0 or a port it reserved, and keeps its data in a temporary directory, so
//! that all tests run in parallel; waiting is polling a condition with a deadline.
//!
//! With `KLAMM_E2E_BOOTSTRAP=host:port` the client tests run against that broker instead, to show that they hold for
//! Kafka itself; tests that must own the process are then skipped.

pub mod binary;
pub mod broker;
pub mod clients;
pub mod cut_produce;
pub mod cutting_proxy;
pub mod exactly_once;
pub mod java;
pub mod kafka;
pub mod pages;
pub mod process;
pub mod python;
pub mod random;
pub mod raw;
pub mod server;
pub mod skip;
pub mod usage;
pub mod wait;
