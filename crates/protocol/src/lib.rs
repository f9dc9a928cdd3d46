//! Kafka's wire protocol: ids, time types, error codes, messages, record batches.
//!
//! Bytes stay bytes: decoding slices the buffer it was given, and records are
//! never copied on their way through. What this crate deliberately does not do:
//! I/O, clocks, threads.

pub mod api_key;
pub mod error_code;
pub mod ids;
pub mod messages;
pub mod records;
pub mod time;
pub mod wire;
