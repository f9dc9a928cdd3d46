//! Builds a batch from records: for coordinators, markers, the cleaner, clients and tests.
//!
//! Its input is ours, so sizes past the format's limits are assertions, not errors.

use bytes::Bytes;

use super::attributes::{Attributes, TimestampType};
use super::codec::{self, Codec};
use super::header::{BATCH_HEADER_BYTES, BatchHeader, MAGIC_V2, NO_SEQUENCE, NO_TIMESTAMP};
use super::scratch::Scratch;
use super::varint;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// A header of a record: key and nullable value.
pub type HeaderRef<'a> = (&'a [u8], Option<&'a [u8]>);

/// Collects records and writes them as one batch of magic 2.
///
/// ```
/// use klamm_protocol::ids::Offset;
/// use klamm_protocol::records::{BatchBuilder, BatchHeader};
///
/// let mut builder = BatchBuilder::new().base_offset(Offset(42));
/// builder.push(1_700_000_000_000, Some(b"key"), Some(b"value"), &[]);
/// let batch = builder.build();
/// assert_eq!(BatchHeader::parse(&batch).unwrap().last_offset(), Offset(42));
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    codec: Codec,
    level: Option<i32>,
    has_base_timestamp: bool,
    next_offset_delta: i32,
    log_append_time: Option<i64>,
    last_offset_delta: Option<i32>,
    /// The header's place, then the records, not yet compressed.
    buffer: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch at offset 0: uncompressed, CreateTime, no producer.
    #[must_use]
    pub fn new() -> Self {
        Self {
            header: BatchHeader {
                base_offset: Offset(0),
                batch_bytes: 0,
                leader_epoch: LeaderEpoch::default(),
                magic: MAGIC_V2,
                crc: 0,
                attributes: Attributes::default(),
                last_offset_delta: 0,
                base_timestamp: NO_TIMESTAMP,
                max_timestamp: NO_TIMESTAMP,
                producer_id: ProducerId::default(),
                producer_epoch: ProducerEpoch::default(),
                base_sequence: NO_SEQUENCE,
                record_count: 0,
            },
            codec: Codec::None,
            level: None,
            has_base_timestamp: false,
            next_offset_delta: 0,
            log_append_time: None,
            last_offset_delta: None,
            buffer: vec![0; BATCH_HEADER_BYTES],
        }
    }

    /// Offset of the first record.
    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.header.base_offset = offset;
        self
    }

    /// Epoch of the leader that writes it.
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.header.leader_epoch = epoch;
        self
    }

    /// Compresses the records at the codec's own default level.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// The level for [`BatchBuilder::codec`], as Kafka's `compression.<codec>.level` counts it.
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = Some(level);
        self
    }

    /// An idempotent producer's id, epoch and the first record's sequence number (KIP-98).
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Marks the batch as part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.header.attributes = self.header.attributes.with_transactional(true);
        self
    }

    /// Marks the batch as one of control records.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.header.attributes = self.header.attributes.with_control(true);
        self
    }

    /// LogAppendTime: readers see `append_time_ms` for every record.
    #[must_use]
    pub fn log_append_time(mut self, append_time_ms: i64) -> Self {
        self.header.attributes = self.header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        self.log_append_time = Some(append_time_ms);
        self
    }

    /// Stores a delete horizon in the base timestamp (KIP-534). Before the first record.
    #[must_use]
    pub fn delete_horizon(mut self, horizon_ms: i64) -> Self {
        assert!(self.is_empty(), "timestamps already count from another base");
        self.header.attributes = self.header.attributes.with_delete_horizon(true);
        self.header.base_timestamp = horizon_ms;
        self.has_base_timestamp = true;
        self
    }

    /// Keeps the offsets up to `base offset + delta` in the batch, records or not, as the cleaner must.
    #[must_use]
    pub fn last_offset_delta(mut self, delta: i32) -> Self {
        self.last_offset_delta = Some(delta);
        self
    }

    /// Adds a record behind the last one.
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[HeaderRef<'_>],
    ) {
        self.push_at(self.next_offset_delta, timestamp, key, value, headers);
    }

    /// Adds a record at an offset counted from the base offset; offsets may leave gaps.
    pub fn push_at(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[HeaderRef<'_>],
    ) {
        if !self.has_base_timestamp {
            self.header.base_timestamp = timestamp;
            self.has_base_timestamp = true;
        }
        let timestamp_delta = timestamp.wrapping_sub(self.header.base_timestamp);
        write_record(&mut self.buffer, timestamp_delta, offset_delta, key, value, headers);
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        self.header.record_count += 1;
        self.header.last_offset_delta = offset_delta;
        self.next_offset_delta = offset_delta + 1;
    }

    /// Records so far.
    #[must_use]
    pub fn record_count(&self) -> usize {
        self.header.record_count as usize
    }

    /// True before the first record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    /// Bytes the batch would take uncompressed.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes that one more record would add, a few too many at most.
    #[must_use]
    pub fn record_bytes_max(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[HeaderRef<'_>]) -> usize {
        let nullable = |field: Option<&[u8]>| 5 + field.map_or(0, <[u8]>::len);
        let headers: usize = headers.iter().map(|(k, v)| 5 + k.len() + nullable(*v)).sum();
        5 + 1 + varint::VARINT_BYTES_MAX + 5 + nullable(key) + nullable(value) + 5 + headers
    }

    /// The whole batch.
    #[must_use]
    pub fn build(self) -> Bytes {
        self.build_with(&mut Scratch::new())
    }

    /// The whole batch; compresses through the contexts of `scratch`.
    #[must_use]
    pub fn build_with(mut self, scratch: &mut Scratch) -> Bytes {
        if let Some(append_time_ms) = self.log_append_time {
            self.header.max_timestamp = append_time_ms;
        }
        if let Some(delta) = self.last_offset_delta {
            assert!(delta >= self.header.last_offset_delta, "a record lies behind the last offset");
            self.header.last_offset_delta = delta;
        }
        if self.codec == Codec::None || self.is_empty() {
            return seal(self.header.attributes, self.header, self.buffer);
        }
        let mut out = vec![0; BATCH_HEADER_BYTES];
        let level = self.level.unwrap_or(self.codec.level_default());
        codec::compress(self.codec, level, &self.buffer[BATCH_HEADER_BYTES..], &mut out, scratch);
        seal(self.header.attributes.with_compression(self.codec), self.header, out)
    }

    /// The marker that ends a transaction in a partition (KIP-98): a control batch of one record.
    #[must_use]
    pub fn end_transaction_marker(
        is_commit: bool,
        coordinator_epoch: i32,
        id: ProducerId,
        epoch: ProducerEpoch,
        timestamp: i64,
    ) -> Self {
        let mut builder = Self::new().producer(id, epoch, NO_SEQUENCE).transactional().control();
        // Key: version 0, type 0 abort or 1 commit. Value: version 0, the coordinator's epoch.
        let key = [0, 0, 0, u8::from(is_commit)];
        let mut value = [0; 6];
        value[2..].copy_from_slice(&coordinator_epoch.to_be_bytes());
        builder.push(timestamp, Some(&key), Some(&value), &[]);
        builder
    }
}

/// Writes the header in front of the records in `batch`, with size and CRC.
pub(super) fn seal(attributes: Attributes, header: BatchHeader, mut batch: Vec<u8>) -> Bytes {
    let batch_bytes = i32::try_from(batch.len()).expect("a batch of ours is below 2 GiB") as u32;
    let mut header = BatchHeader { attributes, batch_bytes, ..header };
    let (head, body) = batch.split_first_chunk_mut().expect("the header's place was left free");
    header.crc = header.crc_of(body);
    header.write_to(head);
    Bytes::from(batch)
}

fn write_record(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[HeaderRef<'_>],
) {
    let header_count = length(headers.len());
    let headers_bytes: usize = headers.iter().map(|(k, v)| nullable_size(Some(k)) + nullable_size(*v)).sum();
    let body = 1
        + varint::size_i64(timestamp_delta)
        + varint::size_i32(offset_delta)
        + nullable_size(key)
        + nullable_size(value)
        + varint::size_i32(header_count)
        + headers_bytes;
    varint::write_i32(out, length(body));
    out.push(0);
    varint::write_i64(out, timestamp_delta);
    varint::write_i32(out, offset_delta);
    write_nullable(out, key);
    write_nullable(out, value);
    varint::write_i32(out, header_count);
    for (key, value) in headers {
        write_nullable(out, Some(key));
        write_nullable(out, *value);
    }
}

fn length(len: usize) -> i32 {
    i32::try_from(len).expect("a record of ours is below 2 GiB")
}

fn nullable_size(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| varint::size_i32(length(bytes.len())) + bytes.len())
}

fn write_nullable(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => varint::write_i32(out, -1),
        Some(bytes) => {
            varint::write_i32(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{RecordIter, check_crc};

    #[test]
    fn the_cleaner_can_keep_offsets_without_records() {
        let batch = BatchBuilder::new().base_offset(Offset(5)).last_offset_delta(3).build();
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!((header.last_offset(), header.record_count), (Offset(8), 0));
        assert_eq!((header.base_timestamp, header.max_timestamp), (NO_TIMESTAMP, NO_TIMESTAMP));
        assert!(check_crc(&batch));
    }

    #[test]
    fn a_delete_horizon_keeps_the_records_times() {
        let mut builder = BatchBuilder::new().delete_horizon(1_000);
        builder.push_at(2, 400, Some(b"k"), None, &[]);
        let batch = builder.build();
        let header = BatchHeader::parse(&batch).unwrap();
        assert!(header.attributes.has_delete_horizon());
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_000, 400));
        let record = RecordIter::new(&header, &batch[BATCH_HEADER_BYTES..]).next().unwrap().unwrap();
        assert_eq!((record.timestamp, record.offset), (400, Offset(2)));
    }

    #[test]
    fn a_marker_is_a_control_batch_of_its_producer() {
        let batch =
            BatchBuilder::end_transaction_marker(true, 7, ProducerId(9), ProducerEpoch(1), 50).build();
        let header = BatchHeader::parse(&batch).unwrap();
        assert!(header.attributes.is_control() && header.attributes.is_transactional());
        assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(9), ProducerEpoch(1)));
        let record = RecordIter::new(&header, &batch[BATCH_HEADER_BYTES..]).next().unwrap().unwrap();
        assert_eq!(record.key, Some(&[0, 0, 0, 1][..]));
        assert_eq!(record.value, Some(&[0, 0, 0, 0, 0, 7][..]));
    }

    #[test]
    fn under_log_append_time_all_records_have_the_batchs_time() {
        let mut builder = BatchBuilder::new().log_append_time(99);
        builder.push(5, None, Some(b"a"), &[]);
        builder.push(6, None, Some(b"b"), &[]);
        let batch = builder.build();
        let header = BatchHeader::parse(&batch).unwrap();
        let times: Vec<_> =
            RecordIter::new(&header, &batch[BATCH_HEADER_BYTES..]).map(|r| r.unwrap().timestamp).collect();
        assert_eq!((times, header.base_timestamp), (vec![99, 99], 5));
    }
}
