//! Compaction: of the records below a safe offset, the last one of each key stays (KIP-58,
//! KIP-534), as Kafka's cleaner does it.
//!
//! `range` decides what of a log may be cleaned, `key_map` knows the last offset of each
//! key, `last_offsets` the same by offset, `transactions` what was aborted, `filter` what stays of a batch, `group` which
//! segments become one: all pure. [`Cleaning`] goes through a log in steps beside its
//! appends, `rewrite` writes `.cleaned` files, `swap` puts them in the place of what they
//! replace: the only call on [`crate::Log`], under the appender's role.
//!
//! What it deliberately does not do: choose a log, wait, throttle, touch the active segment.
//!
//! Invariants: offsets never change; a batch's bytes change only where a record of it goes
//! or it gets a delete horizon; entries of magic 0 and 1 stay as they are; bytes whose CRC
//! is wrong are never written again: they end the cleaning.

mod clean;
mod filter;
mod group;
mod key_hash;
mod key_map;
mod last_offsets;
mod range;
mod reader;
mod rewrite;
mod swap;
mod transactions;

pub use clean::{CleanSettings, CleanStats, Cleaning, Step};
pub use range::{CleanableRange, Lags};
pub use swap::{CleanedGroup, Replaced};
