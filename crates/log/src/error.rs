//! What can go wrong with a log: what, where, and what to do about it.
//!
//! One enum per kind of operation. Nothing is logged here: who handles an error logs it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_protocol::ids::{LeaderEpoch, Offset, TopicId};

use crate::quarantine::Quarantined;

/// A log, or a file of the log directory, cannot be opened, written or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that cannot be what they should be.
    #[error("{} is corrupt at byte {position}: {reason}; restore it from a replica or a backup, or remove it", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// A small text file of Kafka's that cannot be read.
    #[error("{} line {line}: {reason}; correct or remove the file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The directory belongs to another topic of the same name.
    #[error("{} holds topic id {found}, not {expected}: move the directory away", path.display())]
    TopicIdMismatch {
        /// The partition's directory.
        path: PathBuf,
        /// The id in partition.metadata.
        found: TopicId,
        /// The id in the metadata.
        expected: TopicId,
    },
    /// Somebody else holds the log directory.
    #[error("{} is locked by another process: stop the broker that uses this directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The log start offset can only move to a readable offset.
    #[error("offset {offset} is outside {low}..={high} of {}", path.display())]
    OffsetOutOfRange {
        /// The partition's directory.
        path: PathBuf,
        /// What was asked.
        offset: Offset,
        /// The lowest possible.
        low: Offset,
        /// The highest possible.
        high: Offset,
    },
    /// An earlier failure left the files in a state that is not known.
    #[error("the log {} refuses to go on after: {reason}; its directory must go offline", path.display())]
    Poisoned {
        /// The partition's directory.
        path: PathBuf,
        /// The failure.
        reason: String,
    },
}

impl LogError {
    /// True if the log directory must go offline: the disk is broken, or files are in a state that is not
    /// known. False for what leaves the files as they were and may pass by itself: no space, no
    /// descriptors, no memory; and for bytes that one log cannot be read from.
    #[must_use]
    pub fn is_disk_failure(&self) -> bool {
        match self {
            Self::Io { source, .. } => !may_pass(source),
            Self::Poisoned { .. } => true,
            Self::Corrupt { .. }
            | Self::Malformed { .. }
            | Self::TopicIdMismatch { .. }
            | Self::Locked { .. }
            | Self::OffsetOutOfRange { .. } => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// EMFILE and ENFILE have no kind of their own; both are the same on every Unix.
fn may_pass(error: &io::Error) -> bool {
    const NO_DESCRIPTOR: [i32; 2] = [23, 24];
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::Interrupted
    ) || error.raw_os_error().is_some_and(|code| NO_DESCRIPTOR.contains(&code))
}

/// A batch was not appended. Others of its group may have been.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The producer was replaced by a newer one (KIP-98, KIP-360).
    #[error("{0}")]
    InvalidProducerEpoch(String),
    /// Batches of this producer before this one are missing.
    #[error("{0}")]
    OutOfOrderSequence(String),
    /// The batch does not fit the producer's transaction.
    #[error("{0}")]
    InvalidTxnState(String),
    /// The marker comes from a coordinator that was replaced.
    #[error("{0}")]
    TransactionCoordinatorFenced(String),
    /// The batch can never fit a segment.
    #[error(
        "a batch of {batch_bytes} bytes for {partition} exceeds segment.bytes={segment_bytes}: send smaller \
         batches or raise segment.bytes"
    )]
    RecordBatchTooLarge {
        /// The batch's size.
        batch_bytes: u32,
        /// The topic's limit.
        segment_bytes: u32,
        /// The partition's directory name.
        partition: String,
    },
    /// A batch that keeps its offsets does not continue the log.
    #[error("a batch with base offset {base_offset} does not continue {partition} at {end}")]
    UnexpectedOffset {
        /// The batch's first offset.
        base_offset: Offset,
        /// Where the log ends.
        end: Offset,
        /// The partition's directory name.
        partition: String,
    },
    /// The bytes are no batch that this log can take.
    #[error("{0}")]
    InvalidBatch(String),
    /// The log changed between plan and write.
    #[error("the log of {0} changed since the append was planned: plan again")]
    StalePlan(String),
    /// The disk failed; nothing of the group is in the log.
    #[error(transparent)]
    Storage(#[from] Arc<LogError>),
}

/// A read found nothing to return.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset was never written or is gone.
    #[error("offset {offset} is outside {log_start}..={end}")]
    OffsetOutOfRange {
        /// What was asked.
        offset: Offset,
        /// Where the log starts.
        log_start: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// The system refused.
    #[error("cannot read {} at byte {position}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Published bytes are not what was written: the disk lost or changed them.
    #[error("{} is corrupt at byte {position}: {reason}; restore it from a replica or a backup", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// The offset lies in a range that was found corrupt and is not served.
    #[error(
        "{} is corrupt at byte {}: {}; offsets {} to {} are lost, reading goes on at {}",
        path.display(), range.position, range.cause, range.offset, Offset(range.end_offset.0 - 1), range.end_offset
    )]
    Quarantined {
        /// The file.
        path: PathBuf,
        /// What of it, and why.
        range: Quarantined,
    },
    /// The log was cut while it was read and the place is gone.
    #[error("the log was truncated below offset {offset} while it was read")]
    Truncated {
        /// What was asked.
        offset: Offset,
    },
}

impl ReadError {
    /// True if the reader would have had to wait for the disk and may not.
    #[must_use]
    pub fn is_wait(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }
}

/// What an epoch question was answered with: the epoch found and the offset behind its last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest known epoch not above the one asked for; -1 if none is known.
    pub leader_epoch: LeaderEpoch,
    /// Where that epoch ends; -1 if unknown.
    pub end_offset: Offset,
}
