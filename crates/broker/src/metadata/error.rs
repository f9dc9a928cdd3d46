//! Why the metadata log cannot be used.

use std::path::{Path, PathBuf};

use klamm_cluster::metadata_log::admission::Refusal;
use klamm_cluster::metadata_log::batches::BatchDecodeError;
use klamm_cluster::metadata_log::checkpoint::CheckpointError;
use klamm_cluster::metadata_log::quorum_state::QuorumStateError;
use klamm_log::{AppendError, LogError};
use klamm_protocol::ids::Offset;
use klamm_protocol::wire::EncodeError;

/// Why the metadata log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Its files.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A write was refused.
    #[error("cannot write the metadata log: {0}")]
    Append(#[from] AppendError),
    /// It holds what this version does not know.
    #[error("{}: {source}; start the version that wrote it, or a newer one", path.display())]
    Unknown {
        /// The log's directory.
        path: PathBuf,
        /// What it holds.
        source: BatchDecodeError,
    },
    /// No snapshot can be read that the log reaches back to.
    #[error("{}: {source}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// `quorum-state` cannot be read.
    #[error("{}: {source}", path.display())]
    QuorumState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: QuorumStateError,
    },
    /// It describes a cluster that this build does not lead.
    #[error("{}: {source}", path.display())]
    Refused {
        /// The log's directory.
        path: PathBuf,
        /// Why.
        source: Refusal,
    },
    /// An invalid batch has valid ones behind it, or records are missing: no write that broke off does that.
    #[error(
        "{} is corrupt at byte {position}: {reason}, and there are valid batches behind it; nothing was changed. \
         Restore the directory from a copy, or, to lose what lies behind it, cut the file there \
         (truncate -s {position}) and remove the segments that follow",
        path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// The log begins behind what any snapshot stands for.
    #[error("{} begins at offset {first}, and no snapshot beside it reaches that far; restore the directory from a copy", path.display())]
    Gap {
        /// The log's directory.
        path: PathBuf,
        /// Where its first segment begins.
        first: Offset,
    },
    /// Opening the log found another end than reading it did.
    #[error("{} ends at offset {opened}, but was read up to {read}; is something else writing to it?", path.display())]
    OtherEnd {
        /// The log's directory.
        path: PathBuf,
        /// As opened.
        opened: Offset,
        /// As read.
        read: Offset,
    },
    /// A record that this metadata version cannot carry.
    #[error("cannot encode a metadata record: {0}")]
    Encode(#[from] EncodeError),
    /// An earlier write failed.
    #[error("an earlier write to the metadata log failed")]
    Gone,
}

pub(super) fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> LogError {
    LogError::Io { action, path: path.to_owned(), source }
}
