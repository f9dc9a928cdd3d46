//! Cluster metadata and configuration; pure: no I/O, clock, threads or randomness.
//!
//! Requests become records ([`controller`]), records become the image that brokers read
//! ([`image`]), and the image becomes records again ([`snapshot`]). How the records reach a
//! disk or a quorum is behind [`metadata_log`], which also knows their bytes.

pub mod machine;

pub mod config;
pub mod features;
pub mod record;

pub mod image;
pub mod replay;
pub mod snapshot;

pub mod controller;
pub mod metadata_log;
