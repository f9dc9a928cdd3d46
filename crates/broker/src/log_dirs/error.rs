//! Why a broker does not start on its log directories.

use std::path::PathBuf;

use klamm_log::LogError;
use klamm_protocol::ids::NodeId;

/// Why the directories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogDirsError {
    /// A directory or one of its files.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Another node's data.
    #[error(
        "{} belongs to node.id={found}, this node has node.id={expected}; point log.dirs elsewhere, or set node.id={found}",
        path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// As it says.
        found: NodeId,
        /// As configured.
        expected: NodeId,
    },
    /// Two directories of two clusters.
    #[error(
        "{} belongs to cluster {found}, {} to cluster {expected}; use directories of one cluster",
        path.display(),
        first.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// As it says.
        found: String,
        /// The directory that decides.
        first: PathBuf,
        /// As that one says.
        expected: String,
    },
    /// Partitions, and no metadata log that knows them.
    #[error(
        "{} is missing, but there is {}: metadata.log.dir, or without it the first of log.dirs, is another than before, or the metadata is lost",
        metadata.display(),
        orphan.display()
    )]
    NoMetadata {
        /// Where the metadata log should be.
        metadata: PathBuf,
        /// A partition's directory.
        orphan: PathBuf,
    },
    /// The same partition in two directories.
    #[error(
        "{} and {} are the same partition: keep the one that is right (the younger, or the one whose disk did not \
         fail), and move the other away",
        first.display(),
        second.display()
    )]
    Duplicate {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Files that are not ours, and no `meta.properties`.
    #[error(
        "{} is not empty and has no meta.properties: it is no log directory; name an empty or new directory in log.dirs",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
}
