//! Why a produced batch is refused, in the terms Kafka answers with.

use crate::error_code::ErrorCode;

/// What is wrong, by Kafka's error codes.
///
/// Where Kafka lets an internal error through as UNKNOWN_SERVER_ERROR (a codec number that
/// does not exist, bytes that do not decompress), these name the cause; neither is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProduceRejectKind {
    /// The bytes are not the ones the producer summed, or no batch at all: CORRUPT_MESSAGE.
    CorruptMessage,
    /// A batch or record that breaks the format's or the topic's rules: INVALID_RECORD.
    InvalidRecord,
    /// A timestamp outside the topic's limits, or of a type a client may not set: INVALID_TIMESTAMP.
    InvalidTimestamp,
    /// The batch is larger than `max.message.bytes`: MESSAGE_TOO_LARGE.
    MessageTooLarge,
    /// More comes out of the compressed records than the broker reads: MESSAGE_TOO_LARGE,
    /// on which a producer splits the batch.
    DecompressedTooLarge,
    /// A codec that does not exist, or not for this version: UNSUPPORTED_COMPRESSION_TYPE.
    UnsupportedCompressionType,
}

impl ProduceRejectKind {
    /// The code of the answer.
    #[must_use]
    pub fn error_code(self) -> ErrorCode {
        match self {
            Self::CorruptMessage => ErrorCode::CorruptMessage,
            Self::InvalidRecord => ErrorCode::InvalidRecord,
            Self::InvalidTimestamp => ErrorCode::InvalidTimestamp,
            Self::MessageTooLarge | Self::DecompressedTooLarge => ErrorCode::MessageTooLarge,
            Self::UnsupportedCompressionType => ErrorCode::UnsupportedCompressionType,
        }
    }
}

/// A refused batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProduceReject {
    /// What is wrong.
    pub kind: ProduceRejectKind,
    /// The same for people.
    pub message: String,
    /// The records at fault, by their place in the batch, where single records are; in
    /// order, and at most [`ProduceReject::RECORD_ERRORS_MAX`] of them (KIP-467).
    pub record_errors: Vec<(i32, String)>,
}

impl ProduceReject {
    /// How many records of one batch are reported. A batch may hold millions of small
    /// records, and each report is longer than such a record.
    pub const RECORD_ERRORS_MAX: usize = 500;

    /// The code of the answer.
    #[must_use]
    pub fn error_code(&self) -> ErrorCode {
        self.kind.error_code()
    }

    pub(super) fn new(kind: ProduceRejectKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), record_errors: Vec::new() }
    }
}
