//! Record batches, magic 2: headers, records, compression, and the checks of a produce.
//!
//! Batches stay the bytes they came as: parsing slices, validation reads in place, and
//! only what Kafka's leader must change is rebuilt. Deliberately absent: converting the
//! formats before Kafka 0.11 (magic 0 and 1), which [`scan_batches`] only tells apart.
//!
//! Invariants: no bytes of a peer or a disk panic here or size an allocation; decompression
//! stops at the caller's cap; a batch that [`validate_produce`] returns decodes everywhere.

mod attributes;
mod builder;
mod codec;
mod header;
mod rebuild;
mod record;
mod reject;
mod retain;
mod scan;
mod scratch;
mod validate;
mod varint;

pub use attributes::{Attributes, TimestampType, UnknownCodec};
pub use builder::{BatchBuilder, HeaderRef};
pub use codec::{Codec, CodecError, compress, decompress, decompressed_bytes_hint};
pub use header::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, LOG_OVERHEAD_BYTES, MAGIC_V2, NO_SEQUENCE, NO_TIMESTAMP,
    check_crc, crc32c,
};
pub use record::{Record, RecordError, RecordHeaders, RecordIter};
pub use reject::{ProduceReject, ProduceRejectKind};
pub use retain::{BatchRewriter, Selection, StoredBatchError, write_empty_batch};
pub use scan::{BatchIter, BatchSlice, LegacyEntry, ScanError, Scanned, scan_batches};
pub use scratch::Scratch;
pub use validate::{ProduceRules, TopicCompression, ValidatedBatch, validate_produce};
