//! A partition's log on disk, in Kafka's file formats.
//!
//! [`Log`] is the one writer: [`Log::plan`] decides an append without I/O, [`Log::write`]
//! does it with one vectored write. Everyone else reads the published [`PartitionView`].
//! [`directory`] knows the log directory around the partitions, [`disk`] is the only way to
//! files. Synchronous: no runtime, no clock (time is an argument), no randomness, no
//! logging (what was found is returned).
//!
//! Way in: `log` (the writer), `plan` and `write` (an append), `view` (reading), `open`
//! and `recovery` (starting), `producer` (idempotence and transactions), `cleaner` (compaction).

pub mod cleaner;
pub mod directory;
pub mod disk;

mod config;
mod error;
mod limits;

mod copy;
mod cut;
mod flush;
mod log;
mod plan;
mod prefill;
mod removal;
mod retention;
mod upkeep;
mod verification;
mod write;

mod aborted;
mod timestamps;
mod verify;
mod view;

mod active;
mod append_only;
mod checked;
mod entry;
mod files;
mod index;
mod lazy_file;
mod leader_epochs;
mod past_cache;
mod quarantine;
mod segment;
mod transaction_index;

mod marker;
mod producer;

mod leftovers;
mod open;
mod recovery;
mod replay;
mod tail;

pub use config::LogConfig;
pub use copy::LogCopy;
pub use error::{AppendError, EpochEnd, LogError, ReadError};
pub use flush::FlushJob;
pub use leader_epochs::{EpochStart, LeaderEpochs};
pub use limits::{Limits, LogPosition};
pub use log::Log;
pub use marker::end_marker;
pub use open::{CorruptPlace, OpenLog, RecoveryReport, Tail, Truncation};
pub use past_cache::Room;
pub use plan::{AppendContext, AppendOrigin, BatchPlaced, Plan, trusted_batch};
pub use producer::{
    BatchMetadata, EndMarker, ProducerEntry, ProducerState, TransactionClaim, UnstableTransaction,
    VerificationTicket,
};
pub use quarantine::Quarantined;
pub use removal::Removal;
pub use retention::{HeadCut, RetentionLimits};
pub use segment::{FileRegion, Segment, SegmentFile};
pub use tail::{Kind as TailKind, examine as examine_tail};
pub use timestamps::TimestampOffset;
pub use transaction_index::AbortedTransaction;
pub use verify::{CheckedRead, Corruption};
pub use view::{PartitionView, Segments};
