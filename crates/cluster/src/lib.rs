//! Cluster metadata and configuration; pure: no I/O, clock, threads or randomness.

pub mod config;
