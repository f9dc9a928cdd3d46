//! The key and value of an internal topic's record, as bytes and back.
//!
//! A key and a value each begin with a version of two bytes; the key's tells the kind of record. A
//! value that is null is a tombstone.

use bytes::Bytes;
use klamm_protocol::wire::{DecodeError, EncodeError};

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It has no key, or one of less than two bytes.
    #[error("a record without a key")]
    NoKey,
    /// Its key is not what its kind has.
    #[error("the key of a record of kind {kind}: {source}")]
    Key {
        /// The key's version.
        kind: i16,
        /// What is wrong.
        source: DecodeError,
    },
    /// Its value is not what its kind has.
    #[error("the value of a record of kind {kind}: {source}")]
    Value {
        /// The key's version.
        kind: i16,
        /// What is wrong.
        source: DecodeError,
    },
    /// A transaction is in a state that there is not.
    #[error("a transaction has the unknown status {0}")]
    TransactionStatus(i8),
}

/// A record as its topic stores it.
pub trait Codec: Sized {
    /// Reads a record. `None` for one of a kind that this version does not know: it stays in the log
    /// and says nothing.
    ///
    /// # Errors
    /// The bytes are not what their kind has.
    fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<Option<Self>, RecordError>;

    /// The key's and the value's bytes; no value is a tombstone.
    ///
    /// # Errors
    /// A field does not fit its version.
    fn encode(&self) -> Result<(Bytes, Option<Bytes>), EncodeError>;
}
