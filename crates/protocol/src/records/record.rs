//! Records within a batch: their layout, and iteration over them without a copy.
//!
//! Works on uncompressed bytes; [`super::codec::decompress`] comes first where the
//! batch is compressed. One parser serves both slices in memory and the streaming
//! decompressor of [`super::validate_produce`], so that both refuse the same bytes.

use super::attributes::TimestampType;
use super::header::BatchHeader;
use super::varint::{self, VarintError};
use crate::ids::Offset;

/// Bytes that are not the records their header promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end within a record, or before the last one.
    #[error("the records end before their declared count")]
    Truncated,
    /// A varint longer than its type allows.
    #[error("a varint is longer than its type")]
    InvalidVarint,
    /// A length or count below its minimum.
    #[error("{0} is no length")]
    InvalidLength(i32),
    /// A record's fields take more or fewer bytes than its length says.
    #[error("a record of {declared} bytes has fields of {actual} bytes")]
    LengthMismatch {
        /// The record's length field.
        declared: i32,
        /// What its fields take.
        actual: u64,
    },
    /// Bytes behind the last record.
    #[error("bytes are left behind the declared count of records")]
    TrailingBytes,
}

impl From<VarintError> for RecordError {
    fn from(error: VarintError) -> Self {
        match error {
            VarintError::Truncated => Self::Truncated,
            VarintError::TooLong => Self::InvalidVarint,
        }
    }
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Its timestamp; the batch's max timestamp under LogAppendTime.
    pub timestamp: i64,
    /// Its key, or null.
    pub key: Option<&'a [u8]>,
    /// Its value, or null: a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order; keys may repeat.
    pub headers: RecordHeaders<'a>,
}

/// The headers of a record: an iterator over key and value, already checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeaders<'a> {
    bytes: &'a [u8],
    count: u32,
}

/// Iterates over the records of a batch; ends behind the last or the first bad one.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    source: SliceSource<'a>,
    header: BatchHeader,
    remaining: i32,
    is_done: bool,
}

impl<'a> RecordIter<'a> {
    /// Over `payload`, the uncompressed bytes behind `header`.
    #[must_use]
    pub fn new(header: &BatchHeader, payload: &'a [u8]) -> Self {
        Self {
            source: SliceSource::new(payload),
            header: *header,
            remaining: header.record_count.max(0),
            is_done: false,
        }
    }

    /// Bytes of the payload up to the end of the record that came last.
    pub(super) fn position(&self) -> usize {
        self.source.position
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        if self.remaining == 0 {
            self.is_done = true;
            return (!self.source.is_at_end()).then_some(Err(RecordError::TrailingBytes));
        }
        self.remaining -= 1;
        let bytes = self.source.bytes;
        let record = match parse_record(&mut self.source) {
            Ok(record) => record,
            Err(error) => {
                self.is_done = true;
                return Some(Err(error));
            }
        };
        let timestamp = match self.header.attributes.timestamp_type() {
            TimestampType::CreateTime => self.header.base_timestamp.wrapping_add(record.timestamp_delta),
            TimestampType::LogAppendTime => self.header.max_timestamp,
        };
        Some(Ok(Record {
            offset: Offset(self.header.base_offset.0.saturating_add(i64::from(record.offset_delta))),
            timestamp,
            key: record.key,
            value: record.value,
            headers: RecordHeaders::new(
                &bytes[record.headers_start as usize..self.source.position],
                record.header_count,
            ),
        }))
    }
}

impl<'a> RecordHeaders<'a> {
    /// Over bytes that [`parse_record`] has read as `count` headers.
    pub(super) fn new(bytes: &'a [u8], count: u32) -> Self {
        Self { bytes, count }
    }
}

impl<'a> Iterator for RecordHeaders<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let mut source = SliceSource::new(self.bytes);
        let header = parse_header(&mut source).expect("the record's parser has read these bytes before");
        self.bytes = &self.bytes[source.position..];
        Some(header)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count as usize, Some(self.count as usize))
    }
}

impl ExactSizeIterator for RecordHeaders<'_> {}

/// Where record bytes come from: a slice, or a decompressor's window.
pub(super) trait Source {
    /// A run of bytes: the slice itself, or nothing where bytes are only skipped.
    type Span;
    type Error: From<RecordError>;
    fn position(&self) -> u64;
    fn byte(&mut self) -> Result<u8, Self::Error>;
    fn varint(&mut self) -> Result<i32, Self::Error>;
    fn varlong(&mut self) -> Result<i64, Self::Error>;
    fn span(&mut self, len: usize) -> Result<Self::Span, Self::Error>;
}

/// A record's fields as they lie.
pub(super) struct RawRecord<S> {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<S>,
    pub value: Option<S>,
    pub header_count: u32,
    /// Position of the key's length.
    pub key_start: u64,
    /// Position of the first header's length; they end where the record does.
    pub headers_start: u64,
}

/// Reads one record. Nothing is allocated, whatever its lengths say.
#[inline]
pub(super) fn parse_record<S: Source>(source: &mut S) -> Result<RawRecord<S::Span>, S::Error> {
    let declared = source.varint()?;
    let start = source.position();
    // The record's own attributes: none is defined.
    source.byte()?;
    let timestamp_delta = source.varlong()?;
    let offset_delta = source.varint()?;
    let key_start = source.position();
    let key = nullable(source)?;
    let value = nullable(source)?;
    let header_count = source.varint()?;
    if header_count < 0 {
        return Err(RecordError::InvalidLength(header_count).into());
    }
    let headers_start = source.position();
    for _ in 0..header_count {
        parse_header(source)?;
    }
    let actual = source.position() - start;
    if i64::from(declared) != actual as i64 {
        return Err(RecordError::LengthMismatch { declared, actual }.into());
    }
    Ok(RawRecord {
        timestamp_delta,
        offset_delta,
        key,
        value,
        header_count: header_count as u32,
        key_start,
        headers_start,
    })
}

/// Key and nullable value.
type RawHeader<S> = (S, Option<S>);

fn parse_header<S: Source>(source: &mut S) -> Result<RawHeader<S::Span>, S::Error> {
    let key_bytes = source.varint()?;
    if key_bytes < 0 {
        return Err(RecordError::InvalidLength(key_bytes).into());
    }
    Ok((source.span(key_bytes as usize)?, nullable(source)?))
}

#[inline]
fn nullable<S: Source>(source: &mut S) -> Result<Option<S::Span>, S::Error> {
    match source.varint()? {
        -1 => Ok(None),
        len if len >= 0 => source.span(len as usize).map(Some),
        len => Err(RecordError::InvalidLength(len).into()),
    }
}

/// Bytes that are all there.
#[derive(Clone, Debug)]
pub(super) struct SliceSource<'a> {
    pub bytes: &'a [u8],
    pub position: usize,
}

impl<'a> SliceSource<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.position == self.bytes.len()
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }
}

impl<'a> Source for SliceSource<'a> {
    type Span = &'a [u8];
    type Error = RecordError;

    #[inline]
    fn position(&self) -> u64 {
        self.position as u64
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = *self.bytes.get(self.position).ok_or(RecordError::Truncated)?;
        self.position += 1;
        Ok(byte)
    }

    #[inline]
    fn varint(&mut self) -> Result<i32, RecordError> {
        let (value, read) = varint::read_i32(self.rest())?;
        self.position += read;
        Ok(value)
    }

    #[inline]
    fn varlong(&mut self) -> Result<i64, RecordError> {
        let (value, read) = varint::read_i64(self.rest())?;
        self.position += read;
        Ok(value)
    }

    #[inline]
    fn span(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let span = self.rest().get(..len).ok_or(RecordError::Truncated)?;
        self.position += len;
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BATCH_HEADER_BYTES, BatchBuilder};

    fn batch() -> bytes::Bytes {
        let mut builder = BatchBuilder::new().base_offset(Offset(10));
        builder.push(5, Some(b"k"), None, &[(b"h", Some(b"1")), (b"h", None), (b"", Some(b"2"))]);
        builder.push(3, None, Some(b"v"), &[]);
        builder.build()
    }

    #[test]
    fn headers_repeat_and_keep_their_order() {
        let batch = batch();
        let header = BatchHeader::parse(&batch).unwrap();
        let records: Vec<_> =
            RecordIter::new(&header, &batch[BATCH_HEADER_BYTES..]).map(Result::unwrap).collect();
        assert_eq!((records[0].offset, records[0].timestamp), (Offset(10), 5));
        assert_eq!((records[1].offset, records[1].timestamp), (Offset(11), 3));
        assert_eq!((records[0].key, records[0].value), (Some(&b"k"[..]), None));
        let headers: Vec<_> = records[0].headers.collect();
        assert_eq!(headers, [(&b"h"[..], Some(&b"1"[..])), (b"h", None), (b"", Some(b"2"))]);
        assert_eq!(records[1].headers.len(), 0);
    }

    #[test]
    fn count_and_bytes_must_agree() {
        let batch = batch();
        let payload = &batch[BATCH_HEADER_BYTES..];
        let mut header = BatchHeader::parse(&batch).unwrap();
        header.record_count = 1;
        assert_eq!(RecordIter::new(&header, payload).last(), Some(Err(RecordError::TrailingBytes)));
        header.record_count = 3;
        assert_eq!(RecordIter::new(&header, payload).last(), Some(Err(RecordError::Truncated)));
        header.record_count = 2;
        for cut in 0..payload.len() {
            let last = RecordIter::new(&header, &payload[..cut]).last().unwrap();
            assert!(last.is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_must_be_true() {
        let header = BatchHeader { record_count: 1, ..BatchHeader::parse(&batch()).unwrap() };
        // length, attributes, timestamp delta, offset delta, key, value, header count
        let error = |bytes: &[u8]| RecordIter::new(&header, bytes).next().unwrap().err();
        assert_eq!(error(&[12, 0, 0, 0, 1, 1, 0]), None);
        assert_eq!(
            error(&[14, 0, 0, 0, 1, 1, 0]),
            Some(RecordError::LengthMismatch { declared: 7, actual: 6 })
        );
        assert_eq!(error(&[12, 0, 0, 0, 3, 1, 0]), Some(RecordError::InvalidLength(-2)));
        assert_eq!(error(&[12, 0, 0, 0, 1, 1, 1]), Some(RecordError::InvalidLength(-1)));
        assert_eq!(error(&[12, 0, 0, 0, 1, 1, 2]), Some(RecordError::Truncated));
        assert_eq!(error(&[12, 0, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x80]), Some(RecordError::InvalidVarint));
    }
}
