//! Where metadata records go: the contract of the log, and its bytes.
//!
//! On one node an implementation appends to `__cluster_metadata-0` and flushes; in a cluster
//! a quorum replicates. Nothing that proposes notices the difference. The formats are
//! Kafka's: [`batches`] for the log, [`checkpoint`] for snapshots, [`quorum_state`] for the
//! small file beside them.
//!
//! Deliberately absent: I/O and threads. Waiting is expressed by callbacks.

pub mod admission;
pub mod batches;
pub mod checkpoint;
pub mod control;
pub mod quorum;
pub mod quorum_state;

use klamm_protocol::ids::{LeaderEpoch, NodeId, Offset};

use crate::record::MetadataRecord;

/// The name of the log's directory within a log directory.
pub const METADATA_DIRECTORY: &str = "__cluster_metadata-0";

/// The id of the topic `__cluster_metadata`: Kafka's, the same in every cluster.
pub const METADATA_TOPIC_ID: klamm_protocol::ids::TopicId =
    klamm_protocol::ids::TopicId(klamm_protocol::ids::Uuid(1));

/// The records of one decision: one unit of commit, whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataBatch {
    records: Vec<MetadataRecord>,
}

impl MetadataBatch {
    /// A batch, unless there is nothing to write.
    #[must_use]
    pub fn new(records: Vec<MetadataRecord>) -> Option<Self> {
        (!records.is_empty()).then_some(Self { records })
    }

    /// Its records, in order.
    #[must_use]
    pub fn records(&self) -> &[MetadataRecord] {
        &self.records
    }

    /// Its records, in order.
    #[must_use]
    pub fn into_records(self) -> Vec<MetadataRecord> {
        self.records
    }
}

/// Offsets which a batch got: from `first` up to and without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// Of the first record.
    pub first: Offset,
    /// Behind the last record.
    pub end: Offset,
}

/// Why a batch will not commit under the epoch it was proposed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the leader of the metadata log in epoch {epoch}")]
pub struct NotLeader {
    /// The epoch of the proposal.
    pub epoch: LeaderEpoch,
    /// Who leads, as far as is known.
    pub leader: Option<NodeId>,
}

/// This node's part in the metadata log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides, in this epoch.
    Leader(LeaderEpoch),
    /// Another node decides, or nobody does.
    Follower {
        /// The latest epoch known.
        epoch: LeaderEpoch,
        /// Who leads it, as far as is known.
        leader: Option<NodeId>,
    },
    /// A write failed: the handle refuses to go on.
    Failed,
}

/// Hears how a proposal ended. Called once, from a thread of the log's choice.
pub type Proposed = Box<dyn FnOnce(Result<OffsetRange, NotLeader>) + Send>;

/// Hears of every change of the role and of the committed offset, in order.
pub type Watcher = Box<dyn FnMut(LogEvent) + Send>;

/// What a [`Watcher`] hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// Every record below this offset is committed.
    Committed(Offset),
    /// The role changed.
    Role(Role),
}

/// The log of metadata.
///
/// Invariants: batches of one epoch commit in the order proposed; a batch commits whole; what
/// was committed is never lost. A proposal of an epoch that is over fails.
pub trait MetadataLog: Send + Sync {
    /// Appends a batch; `done` hears once it is committed, or never will be.
    fn propose(&self, epoch: LeaderEpoch, batch: MetadataBatch, done: Proposed);

    /// Every record below it is committed.
    fn committed(&self) -> Offset;

    /// This node's part.
    fn role(&self) -> Role;

    /// Tells `watcher` of every change from now on, beginning with the present state.
    fn watch(&self, watcher: Watcher);
}
