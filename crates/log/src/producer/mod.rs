//! Producer state: who wrote what last (KIP-98), and which transactions are open.
//!
//! `entry` holds one producer and the checks of a batch against it, `state` all of them,
//! `verification` who may begin a transaction, `snapshot` Kafka's `.snapshot` files. Nothing here does I/O but `snapshot`.

mod entry;
mod snapshot;
mod state;
mod verification;

pub(crate) use entry::{AppendCheck, check_batch};
pub use entry::{BatchMetadata, ProducerEntry};
pub(crate) use snapshot::{list_snapshots, read_snapshot, snapshot_path, write_snapshot};
pub use state::EndMarker;
pub(crate) use state::is_expired;
pub use state::{ProducerState, UnstableTransaction};
pub use verification::{TransactionClaim, VerificationTicket};
pub(crate) use verification::{Verification, Verifications};
