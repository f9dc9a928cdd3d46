//! The checks of a produce, in Kafka's order, and what the leader changes in a batch.
//!
//! Uncompressed records are read in place: no allocation, no copy. Compressed ones stream
//! through the window of a [`Scratch`] and are not kept. Deliberately absent: what depends
//! on the partition's state (sequences, epochs, transactions, segment size) and offsets.
//!
//! Stricter than Kafka in three places, all of which would otherwise be stored and break
//! readers: an uncompressed batch whose inner offsets are not 0, 1, 2, .. is rebuilt like a
//! compressed one; negative lengths other than -1 are no null; bytes behind the end of a
//! compressed stream are refused.

use bytes::Bytes;

use super::attributes::TimestampType;
use super::codec::{Codec, CodecError, Stream};
use super::header::{
    BATCH_HEADER_BYTES, BYTES_UP_TO_MAGIC, BatchError, BatchHeader, LOG_OVERHEAD_BYTES, MAGIC_V2,
    NO_TIMESTAMP, check_crc, i32_at,
};
use super::rebuild;
use super::record::{RawRecord, RecordError, SliceSource, Source, parse_record};
use super::reject::{ProduceReject, ProduceRejectKind as Kind};
use super::scratch::{Scratch, Window};
use super::varint::{self, VARINT_BYTES_MAX};
use crate::time::WallMs;

/// A topic's `compression.type` and level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TopicCompression {
    /// Batches stay as the producer compressed them.
    #[default]
    Producer,
    /// Every batch is stored in this codec; the level counts as in Kafka's
    /// `compression.<codec>.level`. `Codec::None` is Kafka's `uncompressed`.
    To(Codec, i32),
}

/// What the topic and the request demand of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceRules {
    /// `max.message.bytes`: the largest batch, header included.
    pub max_message_bytes: u32,
    /// `cleanup.policy` contains `compact`: every record needs a key.
    pub is_compacted: bool,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms` (KIP-937).
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms` (KIP-937).
    pub timestamp_after_max_ms: i64,
    /// `compression.type`.
    pub compression: TopicCompression,
    /// The broker's time.
    pub now: WallMs,
    /// What one batch may decompress to; Kafka has no such limit.
    pub decompressed_bytes_max: usize,
    /// Version of the Produce request.
    pub api_version: i16,
}

/// A batch that may be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedBatch {
    /// The whole batch as it came (a slice of the request), or rebuilt.
    pub bytes: Bytes,
    /// The header to store. It differs from the one in `bytes` where the leader rewrites
    /// timestamp type or max timestamp, and its `crc` is then the new one. Only base offset
    /// and leader epoch remain to be set; the CRC covers neither.
    pub header: BatchHeader,
    /// The largest timestamp: the records', or now under LogAppendTime; -1 if no record has one.
    pub max_timestamp: i64,
    /// The first record with that timestamp; the last record under LogAppendTime.
    pub offset_delta_of_max_timestamp: i32,
}

/// Validates `records`, what a producer sent for one partition.
///
/// The CPU time is bounded by `decompressed_bytes_max`. A caller that must not be held up
/// long looks at [`super::decompressed_bytes_hint`] first, or passes a small cap and repeats
/// the call elsewhere on [`Kind::DecompressedTooLarge`].
///
/// # Errors
/// [`ProduceReject`]: the batch is refused as a whole.
pub fn validate_produce(
    records: &Bytes,
    rules: &ProduceRules,
    scratch: &mut Scratch,
) -> Result<ValidatedBatch, ProduceReject> {
    let batch = only_batch(records, rules.api_version)?;
    let header = check_batch(&batch, rules)?;
    let source = header
        .attributes
        .compression()
        .map_err(|e| reject(Kind::UnsupportedCompressionType, e.to_string()))?;
    let facts = check_records(&header, source, &batch[BATCH_HEADER_BYTES..], rules, scratch)?;

    let (target, level) = match rules.compression {
        TopicCompression::Producer => (source, source.level_default()),
        TopicCompression::To(codec, level) => (codec, level),
    };
    let (bytes, mut header) = if target == source && facts.are_offsets_dense {
        (batch, header)
    } else {
        let plan = rebuild::Plan { source, target, level, are_offsets_dense: facts.are_offsets_dense };
        let bytes = rebuild::rebuild(&batch, &header, plan, facts.payload_bytes, scratch)
            .map_err(|error| codec_reject(error, 0))?;
        let header = BatchHeader::parse(&bytes).expect("the rebuilt batch has a header");
        check_size(header.batch_bytes as usize, rules)?;
        (bytes, header)
    };

    let (max_timestamp, offset_delta_of_max_timestamp) = match rules.timestamp_type {
        TimestampType::CreateTime => (facts.max_timestamp, facts.offset_delta_of_max_timestamp),
        TimestampType::LogAppendTime => (rules.now.0, header.last_offset_delta),
    };
    let attributes = header.attributes.with_timestamp_type(rules.timestamp_type);
    if attributes != header.attributes || max_timestamp != header.max_timestamp {
        header = BatchHeader { attributes, max_timestamp, ..header };
        header.crc = header.crc_of(&bytes[BATCH_HEADER_BYTES..]);
    }
    Ok(ValidatedBatch { bytes, header, max_timestamp, offset_delta_of_max_timestamp })
}

fn reject(kind: Kind, message: impl Into<String>) -> ProduceReject {
    ProduceReject::new(kind, message)
}

/// Check 1: exactly one batch of magic 2. Bytes behind it that are too few for another
/// batch are dropped, as Kafka drops them.
fn only_batch(records: &Bytes, api_version: i16) -> Result<Bytes, ProduceReject> {
    let invalid =
        |what: &str| Err(reject(Kind::InvalidRecord, format!("a Produce request must carry {what}")));
    let Some((magic, batch_bytes)) = whole_entry(records)? else {
        return invalid("at least one record batch for each partition");
    };
    if magic != MAGIC_V2 {
        return invalid("record batches of magic 2 only");
    }
    let batch = records.slice(..batch_bytes);
    // A batch too short for its header is found corrupt in the next step.
    if api_version < 7
        && BatchHeader::parse(&batch).is_ok_and(|h| h.attributes.compression() == Ok(Codec::Zstd))
    {
        return Err(reject(
            Kind::UnsupportedCompressionType,
            format!("zstd needs version 7 of Produce, this is version {api_version}"),
        ));
    }
    if whole_entry(&records[batch_bytes..])?.is_some() {
        return invalid("exactly one record batch for each partition");
    }
    Ok(batch)
}

/// Magic and size of the entry at the start of `bytes`; None if it is not all there.
fn whole_entry(bytes: &[u8]) -> Result<Option<(i8, usize)>, ProduceReject> {
    /// The least that any magic needs behind its length.
    const LENGTH_MIN: i32 = 14;
    if bytes.len() < LOG_OVERHEAD_BYTES {
        return Ok(None);
    }
    let length = i32_at(bytes, 8);
    if length < LENGTH_MIN {
        return Err(reject(Kind::CorruptMessage, format!("a record batch cannot have the length {length}")));
    }
    if bytes.len() < BYTES_UP_TO_MAGIC {
        return Ok(None);
    }
    let magic = bytes[16] as i8;
    if !(0..=MAGIC_V2).contains(&magic) {
        return Err(reject(Kind::CorruptMessage, BatchError::UnsupportedMagic(magic).to_string()));
    }
    let batch_bytes = length as usize + LOG_OVERHEAD_BYTES;
    Ok((bytes.len() >= batch_bytes).then_some((magic, batch_bytes)))
}

/// Checks 2 and 3: what the header alone tells, and the CRC.
fn check_batch(batch: &[u8], rules: &ProduceRules) -> Result<BatchHeader, ProduceReject> {
    let header = BatchHeader::parse(batch).map_err(|e| reject(Kind::CorruptMessage, e.to_string()))?;
    let invalid = |message: String| Err(reject(Kind::InvalidRecord, message));
    if header.base_offset.0 != 0 {
        return invalid(format!(
            "the base offset of a produced batch must be 0, it is {}",
            header.base_offset
        ));
    }
    check_size(batch.len(), rules)?;
    if !check_crc(batch) {
        return Err(reject(
            Kind::CorruptMessage,
            format!("the record batch does not have the CRC it declares, {:#010x}", header.crc),
        ));
    }
    let offset_count = i64::from(header.last_offset_delta) + 1;
    if offset_count <= 0 || header.record_count <= 0 || offset_count != i64::from(header.record_count) {
        return invalid(format!(
            "a batch of {} records cannot have the last offset delta {}",
            header.record_count, header.last_offset_delta
        ));
    }
    if header.attributes.is_control() {
        return invalid("clients may not write control records".to_owned());
    }
    if header.has_producer_id() && header.base_sequence < 0 {
        return invalid(format!(
            "producer {} sent the sequence number {}",
            header.producer_id, header.base_sequence
        ));
    }
    Ok(header)
}

fn check_size(batch_bytes: usize, rules: &ProduceRules) -> Result<(), ProduceReject> {
    if batch_bytes <= rules.max_message_bytes as usize {
        return Ok(());
    }
    Err(reject(
        Kind::MessageTooLarge,
        format!("the record batch has {batch_bytes} bytes, the topic allows {}", rules.max_message_bytes),
    ))
}

/// What the records of an acceptable batch say.
struct RecordFacts {
    max_timestamp: i64,
    offset_delta_of_max_timestamp: i32,
    are_offsets_dense: bool,
    /// Bytes of the records, uncompressed.
    payload_bytes: u64,
}

/// Check 4: every record.
fn check_records(
    header: &BatchHeader,
    codec: Codec,
    payload: &[u8],
    rules: &ProduceRules,
    scratch: &mut Scratch,
) -> Result<RecordFacts, ProduceReject> {
    let mut checker = Checker::new(header, rules);
    let mut index = 0;
    let outcome = if codec == Codec::None {
        let mut source = SliceSource::new(payload);
        checker
            .check_all(&mut source, &mut index)
            .and_then(|()| if source.is_at_end() { Ok(()) } else { Err(RecordError::TrailingBytes) })
            .map_err(StreamError::Record)
            .map(|()| payload.len() as u64)
    } else {
        let outcome = StreamSource::open(codec, payload, rules.decompressed_bytes_max, scratch)
            .map_err(StreamError::Codec)
            .and_then(|mut source| {
                checker.check_all(&mut source, &mut index)?;
                source.finish()
            });
        scratch.trim();
        outcome
    };
    match outcome {
        Ok(payload_bytes) => checker.finish(payload_bytes),
        Err(StreamError::Codec(error)) => Err(codec_reject(error, index)),
        Err(StreamError::Record(error)) => {
            Err(reject(Kind::InvalidRecord, format!("record {index} of the batch: {error}")))
        }
    }
}

fn codec_reject(error: CodecError, index: i32) -> ProduceReject {
    let kind = match error {
        CodecError::TooLarge { .. } => Kind::DecompressedTooLarge,
        CodecError::Truncated(_) | CodecError::Corrupt(..) => Kind::InvalidRecord,
    };
    reject(kind, format!("the records cannot be decompressed at record {index}: {error}"))
}

/// Collects what the records of one batch say, and what is wrong with them.
struct Checker<'a> {
    header: &'a BatchHeader,
    rules: &'a ProduceRules,
    timestamp_min: i64,
    timestamp_max: i64,
    is_type_refused: bool,
    max_timestamp: i64,
    offset_delta_of_max_timestamp: i32,
    are_offsets_dense: bool,
    record_errors: Vec<(i32, String)>,
    error_count: u64,
    has_timestamp_error: bool,
}

impl<'a> Checker<'a> {
    fn new(header: &'a BatchHeader, rules: &'a ProduceRules) -> Self {
        Self {
            header,
            rules,
            timestamp_min: rules.now.0.saturating_sub(rules.timestamp_before_max_ms),
            timestamp_max: rules.now.0.saturating_add(rules.timestamp_after_max_ms),
            is_type_refused: header.attributes.timestamp_type() == TimestampType::LogAppendTime,
            max_timestamp: NO_TIMESTAMP,
            offset_delta_of_max_timestamp: 0,
            are_offsets_dense: true,
            record_errors: Vec::new(),
            error_count: 0,
            has_timestamp_error: false,
        }
    }

    /// Reads the header's count of records; `index` is the record at hand.
    fn check_all<S: Source>(&mut self, source: &mut S, index: &mut i32) -> Result<(), S::Error> {
        while *index < self.header.record_count {
            let record = parse_record(source)?;
            self.check(*index, &record);
            *index += 1;
        }
        Ok(())
    }

    #[inline]
    fn check<S>(&mut self, index: i32, record: &RawRecord<S>) {
        let timestamp = self.header.base_timestamp.wrapping_add(record.timestamp_delta);
        if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
            self.offset_delta_of_max_timestamp = index;
        }
        self.are_offsets_dense &= record.offset_delta == index;
        if self.rules.is_compacted && record.key.is_none() {
            self.refuse(index, "a compacted topic takes no record without a key".to_owned());
            return;
        }
        let is_checked = self.rules.timestamp_type == TimestampType::CreateTime && timestamp != NO_TIMESTAMP;
        if is_checked && (timestamp < self.timestamp_min || timestamp > self.timestamp_max) {
            let (min, max) = (self.timestamp_min, self.timestamp_max);
            self.has_timestamp_error = true;
            self.refuse(index, format!("the timestamp {timestamp} is not within {min} and {max}"));
        } else if !is_checked && self.is_type_refused {
            self.has_timestamp_error = true;
            self.refuse(index, "a producer may not set the timestamp type LogAppendTime".to_owned());
        }
    }

    #[cold]
    fn refuse(&mut self, index: i32, message: String) {
        self.error_count += 1;
        if self.record_errors.len() < ProduceReject::RECORD_ERRORS_MAX {
            self.record_errors.push((index, message));
        }
    }

    fn finish(self, payload_bytes: u64) -> Result<RecordFacts, ProduceReject> {
        let Some((index, first)) = self.record_errors.first() else {
            return Ok(RecordFacts {
                max_timestamp: self.max_timestamp,
                offset_delta_of_max_timestamp: self.offset_delta_of_max_timestamp,
                are_offsets_dense: self.are_offsets_dense,
                payload_bytes,
            });
        };
        let (kind, what) = if self.has_timestamp_error {
            (Kind::InvalidTimestamp, "an invalid timestamp among them")
        } else {
            (Kind::InvalidRecord, "no key")
        };
        let message = format!(
            "{} of {} records are refused, {what}; record {index}: {first}",
            self.error_count, self.header.record_count
        );
        Err(ProduceReject { kind, message, record_errors: self.record_errors })
    }
}

enum StreamError {
    Record(RecordError),
    Codec(CodecError),
}

impl From<RecordError> for StreamError {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

/// Reads records out of a decompressor; keeps no more than a window of them.
struct StreamSource<'a> {
    stream: Stream<'a>,
    window: &'a mut Window,
}

impl<'a> StreamSource<'a> {
    fn open(
        codec: Codec,
        payload: &'a [u8],
        bytes_max: usize,
        scratch: &'a mut Scratch,
    ) -> Result<Self, CodecError> {
        scratch.window.clear();
        let stream = Stream::open(codec, payload, bytes_max, &mut scratch.contexts)?;
        Ok(Self { stream, window: &mut scratch.window })
    }

    fn fill(&mut self) -> Result<bool, StreamError> {
        self.stream.fill(self.window).map_err(StreamError::Codec)
    }

    /// At least `len` bytes, fewer only at the end of the stream.
    #[inline]
    fn peek(&mut self, len: usize) -> Result<&[u8], StreamError> {
        while self.window.unread().len() < len && self.fill()? {}
        Ok(self.window.unread())
    }

    /// Nothing may follow the last record, and the stream must end whole.
    fn finish(&mut self) -> Result<u64, StreamError> {
        if !self.window.unread().is_empty() || self.fill()? {
            return Err(RecordError::TrailingBytes.into());
        }
        Ok(self.stream.bytes_out())
    }
}

impl Source for StreamSource<'_> {
    type Span = ();
    type Error = StreamError;

    #[inline]
    fn position(&self) -> u64 {
        self.stream.bytes_out() - self.window.unread().len() as u64
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, StreamError> {
        let byte = *self.peek(1)?.first().ok_or(RecordError::Truncated)?;
        self.window.consume(1);
        Ok(byte)
    }

    #[inline]
    fn varint(&mut self) -> Result<i32, StreamError> {
        let (value, read) = varint::read_i32(self.peek(VARINT_BYTES_MAX)?).map_err(RecordError::from)?;
        self.window.consume(read);
        Ok(value)
    }

    #[inline]
    fn varlong(&mut self) -> Result<i64, StreamError> {
        let (value, read) = varint::read_i64(self.peek(VARINT_BYTES_MAX)?).map_err(RecordError::from)?;
        self.window.consume(read);
        Ok(value)
    }

    #[inline]
    fn span(&mut self, mut len: usize) -> Result<(), StreamError> {
        loop {
            let available = self.window.unread().len().min(len);
            self.window.consume(available);
            len -= available;
            if len == 0 {
                return Ok(());
            }
            if !self.fill()? {
                return Err(RecordError::Truncated.into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
