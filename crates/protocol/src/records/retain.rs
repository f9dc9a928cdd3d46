//! Reads a stored batch's records and writes the batch again without some of them: for the
//! cleaner.
//!
//! Records that stay keep their bytes; only a delete horizon (KIP-534), which takes the
//! place of the base timestamp, changes their timestamp deltas. Base offset, last offset,
//! producer and sequence stay, whatever goes. What it deliberately does not do: check CRCs,
//! or decide which records stay.

use std::ops::Range;

use super::codec::{self, Codec, CodecError};
use super::header::{BATCH_HEADER_BYTES, BatchHeader, NO_TIMESTAMP};
use super::record::{Record, RecordError, RecordIter};
use super::scratch::Scratch;
use super::varint;
use crate::records::TimestampType;

/// Why a stored batch's records cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredBatchError {
    /// The codec does not exist.
    #[error("compression type {0} does not exist")]
    UnknownCodec(u8),
    /// The compressed bytes are not what the codec writes, or expand too far.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The records are not what the header promises.
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// What [`BatchRewriter::select`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Records that stay.
    pub kept_count: u32,
    /// Records that go.
    pub removed_count: u32,
    /// True if a record that stays has no value.
    pub has_tombstone: bool,
    /// The largest timestamp of those that stay; -1 if none does.
    pub max_timestamp: i64,
}

/// Reads and rewrites one batch after the other; keeps its buffers between them.
#[derive(Debug, Default)]
pub struct BatchRewriter {
    scratch: Scratch,
    /// Runs of records that stay, as they lie in the uncompressed payload.
    kept: Vec<Range<usize>>,
    records: Vec<u8>,
}

impl BatchRewriter {
    /// Holds nothing until a batch comes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Iterates over the records of `batch`, whose payload expands to at most `bytes_max`.
    ///
    /// # Errors
    /// [`StoredBatchError`] for a codec or a stream that cannot be read.
    pub fn records<'a>(
        &'a mut self,
        header: &BatchHeader,
        batch: &'a [u8],
        bytes_max: usize,
    ) -> Result<RecordIter<'a>, StoredBatchError> {
        self.expand(header, batch, bytes_max)?;
        Ok(RecordIter::new(header, self.plain(header, batch)))
    }

    /// Asks `keep` for every record, and remembers the answers for [`BatchRewriter::write`].
    ///
    /// # Errors
    /// [`StoredBatchError`] where the batch cannot be read to its end.
    pub fn select(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        bytes_max: usize,
        mut keep: impl FnMut(&Record<'_>) -> bool,
    ) -> Result<Selection, StoredBatchError> {
        self.expand(header, batch, bytes_max)?;
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        let mut found = Selection { max_timestamp: NO_TIMESTAMP, ..Selection::default() };
        let mut records = RecordIter::new(header, self.plain(header, batch));
        let mut start = 0;
        while let Some(record) = records.next() {
            let record = record?;
            let end = records.position();
            if keep(&record) {
                found.kept_count += 1;
                found.has_tombstone |= record.value.is_none();
                found.max_timestamp = found.max_timestamp.max(record.timestamp);
                match kept.last_mut() {
                    Some(run) if run.end == start => run.end = end,
                    _ => kept.push(start..end),
                }
            } else {
                found.removed_count += 1;
            }
            start = end;
        }
        self.kept = kept;
        Ok(found)
    }

    /// Appends the batch of the last [`BatchRewriter::select`] to `out`, with the records
    /// that stay, in its own codec; with `horizon_ms` as delete horizon, if one is given.
    pub fn write(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        selection: &Selection,
        horizon_ms: Option<i64>,
        out: &mut Vec<u8>,
    ) {
        let codec = header.attributes.compression().unwrap_or_default();
        let start = out.len();
        out.resize(start + BATCH_HEADER_BYTES, 0);
        if codec == Codec::None {
            self.copy_kept(header, batch, horizon_ms, out);
        } else {
            let mut records = std::mem::take(&mut self.records);
            records.clear();
            self.copy_kept(header, batch, horizon_ms, &mut records);
            codec::compress(codec, codec.level_default(), &records, out, &mut self.scratch);
            self.records = records;
        }
        let mut header = *header;
        header.record_count = i32::try_from(selection.kept_count).expect("no more than there were");
        if header.attributes.timestamp_type() == TimestampType::CreateTime {
            header.max_timestamp = selection.max_timestamp;
        }
        if let Some(horizon) = horizon_ms {
            header.attributes = header.attributes.with_delete_horizon(true);
            header.base_timestamp = horizon;
        }
        seal_at(header, out, start);
        self.scratch.trim();
    }

    /// Appends the records that stay, uncompressed.
    fn copy_kept(&self, header: &BatchHeader, batch: &[u8], horizon_ms: Option<i64>, out: &mut Vec<u8>) {
        let plain = self.plain(header, batch);
        for run in &self.kept {
            match horizon_ms {
                None => out.extend_from_slice(&plain[run.clone()]),
                Some(horizon) => {
                    shift_timestamps(&plain[run.clone()], header.base_timestamp, horizon, out);
                }
            }
        }
    }

    fn expand(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        bytes_max: usize,
    ) -> Result<(), StoredBatchError> {
        let codec = header.attributes.compression().map_err(|e| StoredBatchError::UnknownCodec(e.0))?;
        if codec != Codec::None {
            let payload = batch.get(BATCH_HEADER_BYTES..).unwrap_or_default();
            codec::decompress_into_window(codec, payload, bytes_max, &mut self.scratch)?;
        }
        Ok(())
    }

    fn plain<'a>(&'a self, header: &BatchHeader, batch: &'a [u8]) -> &'a [u8] {
        match header.attributes.compression() {
            Ok(Codec::None) => batch.get(BATCH_HEADER_BYTES..).unwrap_or_default(),
            _ => self.scratch.window.unread(),
        }
    }
}

/// Appends `header`'s batch without any record to `out`: offsets, producer and sequence stay.
pub fn write_empty_batch(header: &BatchHeader, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + BATCH_HEADER_BYTES, 0);
    let attributes = header.attributes.with_compression(Codec::None).with_delete_horizon(false);
    let header = BatchHeader { attributes, base_timestamp: NO_TIMESTAMP, record_count: 0, ..*header };
    seal_at(header, out, start);
}

/// Size and CRC for the batch that begins at `start`, whose header's place is free.
fn seal_at(mut header: BatchHeader, out: &mut [u8], start: usize) {
    let (head, body) = out[start..].split_first_chunk_mut().expect("the header's place was left free");
    let batch_bytes = i32::try_from(BATCH_HEADER_BYTES + body.len()).expect("a batch is below 2 GiB");
    header.batch_bytes = batch_bytes as u32;
    header.crc = header.crc_of(body);
    header.write_to(head);
}

/// Records that have been read, with timestamps counted from `to` instead of `from`.
fn shift_timestamps(mut records: &[u8], from: i64, to: i64, out: &mut Vec<u8>) {
    const READ: &str = "these records have been read";
    while !records.is_empty() {
        let (length, length_bytes) = varint::read_i32(records).expect(READ);
        let (record, behind) = records[length_bytes..].split_at(length as usize);
        let (delta, delta_bytes) = varint::read_i64(&record[1..]).expect(READ);
        let delta = delta.wrapping_add(from).wrapping_sub(to);
        let rest = &record[1 + delta_bytes..];
        let length = i32::try_from(1 + varint::size_i64(delta) + rest.len()).expect("below 2 GiB");
        varint::write_i32(out, length);
        out.push(record[0]);
        varint::write_i64(out, delta);
        out.extend_from_slice(rest);
        records = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Offset, ProducerEpoch, ProducerId};
    use crate::records::{BatchBuilder, check_crc};
    use bytes::Bytes;
    use proptest::prelude::*;

    type Plain = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn records(batch: &[u8]) -> Vec<Plain> {
        let header = BatchHeader::parse(batch).unwrap();
        let mut rewriter = BatchRewriter::new();
        let read = rewriter.records(&header, batch, 1 << 20).unwrap();
        read.map(|record| {
            let record = record.unwrap();
            let owned = |field: Option<&[u8]>| field.map(<[u8]>::to_vec);
            (record.offset.0, record.timestamp, owned(record.key), owned(record.value))
        })
        .collect()
    }

    fn batch(codec: Codec, timestamps: &[i64]) -> Bytes {
        let mut builder = BatchBuilder::new().base_offset(Offset(100)).codec(codec).producer(
            ProducerId(7),
            ProducerEpoch(1),
            40,
        );
        for (n, timestamp) in timestamps.iter().enumerate() {
            let value = (n % 3 != 0).then_some(&b"a value that is longer than its key"[..]);
            builder.push(*timestamp, Some(&[n as u8]), value, &[(b"h", Some(b"1"))]);
        }
        builder.build()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn what_stays_is_what_it_was(
            codec in 0u8..5,
            timestamps in proptest::collection::vec(0i64..1_000_000, 1..40),
            seed: u64,
            horizon in proptest::option::of(0i64..10_000_000_000),
        ) {
            let codec = Codec::from_id(codec).unwrap();
            let before = batch(codec, &timestamps);
            let header = BatchHeader::parse(&before).unwrap();
            let stays = |offset: i64| seed >> ((offset - 100) % 64) & 1 == 1;
            let mut rewriter = BatchRewriter::new();
            let selection =
                rewriter.select(&header, &before, 1 << 20, |record| stays(record.offset.0)).unwrap();
            let mut out = b"before".to_vec();
            rewriter.write(&header, &before, &selection, horizon, &mut out);
            let after = &out[6..];
            prop_assert!(check_crc(after));
            let expected: Vec<Plain> = records(&before).into_iter().filter(|r| stays(r.0)).collect();
            prop_assert_eq!(&records(after), &expected);
            let now = BatchHeader::parse(after).unwrap();
            prop_assert_eq!(now.batch_bytes as usize, after.len());
            prop_assert_eq!(now.last_offset(), header.last_offset());
            prop_assert_eq!(now.base_offset, header.base_offset);
            prop_assert_eq!(now.last_sequence(), header.last_sequence());
            prop_assert_eq!(now.attributes.compression(), Ok(codec));
            prop_assert_eq!(now.attributes.has_delete_horizon(), horizon.is_some());
            prop_assert_eq!(now.base_timestamp, horizon.unwrap_or(header.base_timestamp));
            prop_assert_eq!(now.max_timestamp, expected.iter().map(|r| r.1).max().unwrap_or(-1));
            prop_assert_eq!(selection.kept_count as usize, expected.len());
            prop_assert_eq!(selection.has_tombstone, expected.iter().any(|r| r.3.is_none()));
        }
    }

    #[test]
    fn an_empty_batch_keeps_its_offsets_and_its_producer() {
        let before = batch(Codec::Lz4, &[5, 9, 7]);
        let header = BatchHeader::parse(&before).unwrap();
        let mut out = Vec::new();
        write_empty_batch(&header, &mut out);
        let now = BatchHeader::parse(&out).unwrap();
        assert!(check_crc(&out));
        assert_eq!((now.batch_bytes, now.record_count), (61, 0));
        assert_eq!((now.base_offset, now.last_offset()), (Offset(100), Offset(102)));
        assert_eq!((now.producer_id, now.base_sequence), (ProducerId(7), 40));
        assert_eq!((now.base_timestamp, now.max_timestamp), (-1, 9));
        assert_eq!(now.attributes.compression(), Ok(Codec::None));
        assert!(records(&out).is_empty());
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_refused() {
        let mut bytes = batch(Codec::None, &[5, 9, 7]).to_vec();
        let header = BatchHeader::parse(&bytes).unwrap();
        bytes.truncate(bytes.len() - 1);
        let found = BatchRewriter::new().select(&header, &bytes, 1 << 20, |_| true);
        assert_eq!(found, Err(StoredBatchError::Records(RecordError::Truncated)));
        let bytes = batch(Codec::Zstd, &[5; 30]);
        let header = BatchHeader::parse(&bytes).unwrap();
        let found = BatchRewriter::new().select(&header, &bytes, 100, |_| true);
        assert!(matches!(found, Err(StoredBatchError::Codec(CodecError::TooLarge { .. }))), "{found:?}");
    }
}
