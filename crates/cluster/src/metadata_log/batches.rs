//! The bytes of the metadata log: record batches of metadata records or control records.
//!
//! Invariant: a decoded region gives every record with its offset, or an error that names the
//! offset; nothing is skipped silently.

use bytes::Bytes;
use klamm_protocol::ids::{LeaderEpoch, Offset};
use klamm_protocol::records::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, CodecError, RecordError as BatchRecordError, RecordIter,
    ScanError, Scanned, Scratch, UnknownCodec, check_crc, decompress, scan_batches,
};
use klamm_protocol::time::WallMs;
use klamm_protocol::wire::EncodeError;

use super::control::{ControlRecord, ControlRecordError};
use crate::controller::RECORDS_PER_BATCH_MAX;
use crate::features::MetadataVersion;
use crate::record::{MetadataRecord, RecordError};

/// Kafka's limit on a batch of the metadata log.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What decompressing one batch may yield. Kafka does not compress this log.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// A batch ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBatch {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset behind its last record.
    pub end_offset: Offset,
    /// All of it.
    pub bytes: Bytes,
}

/// Encodes records from `base_offset` on, as one batch, or several where Kafka's limits ask
/// for it: the records are then a metadata transaction, and the batches one write.
///
/// # Errors
/// [`EncodeError`] if a record holds what `metadata_version` cannot carry.
pub fn encode_records(
    base_offset: Offset,
    epoch: LeaderEpoch,
    now: WallMs,
    metadata_version: MetadataVersion,
    records: &[MetadataRecord],
) -> Result<Vec<EncodedBatch>, EncodeError> {
    let mut batches = Vec::new();
    let new_builder = |at: Offset| BatchBuilder::new().base_offset(at).leader_epoch(epoch);
    let mut builder = new_builder(base_offset);
    let mut next = base_offset;
    for record in records {
        let value = record.encode(metadata_version)?;
        let bytes = builder.size_bytes() + BatchBuilder::record_bytes_max(None, Some(&value), &[]);
        let is_full = builder.record_count() >= RECORDS_PER_BATCH_MAX || bytes > BATCH_BYTES_MAX;
        if is_full && !builder.is_empty() {
            batches.push(finish(std::mem::replace(&mut builder, new_builder(next)), next));
        }
        builder.push(now.0, None, Some(&value), &[]);
        next = next.plus(1);
    }
    if !builder.is_empty() {
        batches.push(finish(builder, next));
    }
    Ok(batches)
}

/// Encodes control records as one batch.
///
/// # Errors
/// [`EncodeError`] if a record does not fit its format.
pub fn encode_control(
    base_offset: Offset,
    epoch: LeaderEpoch,
    now: WallMs,
    records: &[ControlRecord],
) -> Result<EncodedBatch, EncodeError> {
    let mut builder = BatchBuilder::new().base_offset(base_offset).leader_epoch(epoch).control();
    for record in records {
        builder.push(now.0, Some(&record.key()), Some(&record.value()?), &[]);
    }
    Ok(finish(builder, base_offset.plus(records.len() as i64)))
}

/// One batch of the log, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedBatch {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset behind its last record.
    pub end_offset: Offset,
    /// Bytes of the whole batch.
    pub size_bytes: usize,
    /// The epoch of the leader that wrote it.
    pub epoch: LeaderEpoch,
    /// When it was written.
    pub max_timestamp_ms: i64,
    /// What is in it.
    pub content: BatchContent,
}

/// The records of a batch with their offsets.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchContent {
    /// Metadata records.
    Records(Vec<(Offset, MetadataRecord)>),
    /// Control records.
    Control(Vec<(Offset, ControlRecord)>),
}

/// Why a region of the log does not decode.
#[derive(Debug, thiserror::Error)]
pub enum BatchDecodeError {
    /// The bytes are no batches.
    #[error("the metadata log is malformed")]
    Scan(#[from] ScanError),
    /// An entry in a format before Kafka 0.11.
    #[error("the metadata log holds an entry of magic {magic} at offset {offset}")]
    Legacy {
        /// The entry's offset.
        offset: Offset,
        /// Its magic.
        magic: i8,
    },
    /// The checksum does not match.
    #[error("the batch at offset {offset} of the metadata log does not match its checksum")]
    Corrupt {
        /// The batch's first offset.
        offset: Offset,
    },
    /// The batch's compression.
    #[error("the batch at offset {offset} of the metadata log does not decompress")]
    Codec {
        /// The batch's first offset.
        offset: Offset,
        /// What is wrong.
        source: CodecError,
    },
    /// The batch names a compression that does not exist.
    #[error("the batch at offset {offset} of the metadata log has an unknown compression")]
    UnknownCodec {
        /// The batch's first offset.
        offset: Offset,
        /// What is wrong.
        source: UnknownCodec,
    },
    /// The layout of a record.
    #[error("a record of the batch at offset {offset} of the metadata log is malformed")]
    Layout {
        /// The batch's first offset.
        offset: Offset,
        /// What is wrong.
        source: BatchRecordError,
    },
    /// A metadata record.
    #[error("the record at offset {offset} of the metadata log cannot be read")]
    Record {
        /// The record's offset.
        offset: Offset,
        /// What is wrong.
        source: RecordError,
    },
    /// A control record.
    #[error("the control record at offset {offset} of the metadata log cannot be read")]
    Control {
        /// The record's offset.
        offset: Offset,
        /// What is wrong.
        source: ControlRecordError,
    },
}

/// Decodes the batches of a region, in order; ends behind the first error.
pub fn decode_batches(region: &Bytes) -> impl Iterator<Item = Result<DecodedBatch, BatchDecodeError>> + '_ {
    let mut scan = scan_batches(region);
    let mut scratch = Scratch::new();
    let mut has_failed = false;
    std::iter::from_fn(move || {
        if has_failed {
            return None;
        }
        let decoded = match scan.next()? {
            Ok(Scanned::Batch(batch)) => decode_batch(&batch.header, region.slice(batch.range), &mut scratch),
            Ok(Scanned::Legacy(entry)) => {
                Err(BatchDecodeError::Legacy { offset: entry.offset, magic: entry.magic })
            }
            Err(error) => Err(error.into()),
        };
        has_failed = decoded.is_err();
        Some(decoded)
    })
}

fn decode_batch(
    header: &BatchHeader,
    batch: Bytes,
    scratch: &mut Scratch,
) -> Result<DecodedBatch, BatchDecodeError> {
    let offset = header.base_offset;
    if !check_crc(&batch) {
        return Err(BatchDecodeError::Corrupt { offset });
    }
    let codec = header
        .attributes
        .compression()
        .map_err(|source| BatchDecodeError::UnknownCodec { offset, source })?;
    let payload = decompress(codec, &batch.slice(BATCH_HEADER_BYTES..), DECOMPRESSED_BYTES_MAX, scratch)
        .map_err(|source| BatchDecodeError::Codec { offset, source })?;
    let records = RecordIter::new(header, &payload)
        .map(|record| record.map_err(|source| BatchDecodeError::Layout { offset, source }));
    let content = if header.attributes.is_control() {
        let mut content = Vec::new();
        for record in records {
            let record = record?;
            let value = record.value.map_or_else(Bytes::new, |value| payload.slice_ref(value));
            let control = ControlRecord::decode(record.key.unwrap_or_default(), value)
                .map_err(|source| BatchDecodeError::Control { offset: record.offset, source })?;
            content.push((record.offset, control));
        }
        BatchContent::Control(content)
    } else {
        let mut content = Vec::new();
        for record in records {
            let record = record?;
            let value = record.value.map(|value| payload.slice_ref(value));
            let decoded = MetadataRecord::decode(value)
                .map_err(|source| BatchDecodeError::Record { offset: record.offset, source })?;
            content.push((record.offset, decoded));
        }
        BatchContent::Records(content)
    };
    Ok(DecodedBatch {
        base_offset: offset,
        end_offset: header.last_offset().plus(1),
        size_bytes: batch.len(),
        epoch: header.leader_epoch,
        max_timestamp_ms: header.max_timestamp,
        content,
    })
}

fn finish(builder: BatchBuilder, end_offset: Offset) -> EncodedBatch {
    let count = builder.record_count() as i64;
    EncodedBatch { base_offset: end_offset.plus(-count), end_offset, bytes: builder.build() }
}
