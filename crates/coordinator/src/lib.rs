//! Coordinators: what groups, transactions and their kin remember, and how they decide.
//!
//! Every coordinator is a state machine over the records of one partition of an internal topic: see
//! [`contract`]. What this crate deliberately does not do: it opens no file, knows no socket, looks
//! at no clock and starts no task. The broker's coordinator host appends the records, waits for
//! their commit, keeps the timers and loads a machine by replaying its partition.
//!
//! Invariant: nothing that is kept holds a slice of a request ([`klamm_protocol::wire::WireStr`],
//! `Bytes`): kept strings and bytes are copies of their own size.

pub mod contract;
pub mod group;
pub mod record;
pub mod transaction;
