//! The cluster's metadata on this node: its log on disk, the controller that decides, and the
//! applier that makes partitions follow.
//!
//! One node is its own quorum: an entry is committed once it is flushed. What is above
//! the seam (`klamm_cluster::metadata_log`) does not notice.

pub(crate) mod applier;
pub(crate) mod controller_host;
pub(crate) mod error;
pub(crate) mod inspect;
pub(crate) mod store;

#[cfg(test)]
mod moving_in_tests;
