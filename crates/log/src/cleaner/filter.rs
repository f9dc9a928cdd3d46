//! What stays of a batch. No I/O.
//!
//! A record below the key map's end stays if it is its key's last, has a key, and is no
//! tombstone whose delete horizon has passed. Records of aborted transactions go. A batch
//! in which a tombstone stays, or a marker whose transaction is gone, gets its delete
//! horizon (KIP-534). A batch that must be there although all its records go stays empty:
//! a living producer's last one, for its sequence number, and the last one below the high
//! watermark, for its offset.

use std::collections::BTreeMap;

use bytes::Bytes;
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::{
    BATCH_HEADER_BYTES, BatchHeader, BatchRewriter, Codec, Record, RecordIter, Selection, StoredBatchError,
    write_empty_batch,
};

use super::key_map::KeyMap;
use super::last_offsets::LastOffsets;
use super::transactions::{Marked, Transactions};
use crate::marker::end_marker;
use crate::producer::ProducerState;
use crate::transaction_index::AbortedTransaction;

/// What one batch may expand to. Kafka has no limit; it is what a produce request may expand to.
pub(super) const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// Where a living producer's state lies in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastOfProducer {
    /// The last offset of its last batch; `None` if only a marker is left.
    last_offset: Option<Offset>,
    epoch: ProducerEpoch,
}

pub(super) struct Filter<'a> {
    pub map: &'a KeyMap,
    /// What the map knows, by offset.
    pub last_offsets: &'a LastOffsets,
    pub producers: &'a BTreeMap<ProducerId, LastOfProducer>,
    pub high_watermark: Offset,
    pub now_ms: i64,
    pub delete_retention_ms: i64,
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays as it is.
    Same,
    /// It was written anew.
    Rewritten,
    /// It goes.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filtered {
    pub fate: Fate,
    pub kept_count: u32,
    /// Of an aborted transaction that has batches left, at its marker.
    pub aborted: Option<AbortedTransaction>,
}

/// Where each living producer's state lies. A batch that the watermark has not reached may be
/// truncated yet: the one before it counts.
pub(super) fn last_of_producers(
    state: &ProducerState,
    high_watermark: Offset,
) -> BTreeMap<ProducerId, LastOfProducer> {
    let last = state.iter().map(|(id, entry)| {
        let mut last_offsets = entry.batches().iter().rev().map(|batch| batch.last_offset);
        let last_offset = last_offsets.find(|offset| *offset < high_watermark);
        (id, LastOfProducer { last_offset, epoch: entry.producer_epoch })
    });
    last.collect()
}

impl Filter<'_> {
    /// Judges a batch; what is written anew is appended to `out`.
    pub(super) fn filter(
        &self,
        header: &BatchHeader,
        batch: &[u8],
        transactions: &mut Transactions,
        rewriter: &mut BatchRewriter,
        out: &mut Vec<u8>,
    ) -> Result<Filtered, StoredBatchError> {
        let is_control = header.attributes.is_control();
        let horizon = header.attributes.has_delete_horizon().then_some(header.base_timestamp);
        let marked = if is_control {
            let marker = end_marker(header, &Bytes::copy_from_slice(batch));
            transactions.on_control(header, marker.as_ref())
        } else {
            Marked { is_done: transactions.on_batch(header), aborted: None }
        };
        // A marker waits for its horizon; aborted records go at once.
        let are_records_done =
            marked.is_done && (!is_control || horizon.is_some_and(|horizon| horizon <= self.now_ms));
        let must_stay = self.must_stay(header);
        let filtered = |fate, kept_count| Ok(Filtered { fate, kept_count, aborted: marked.aborted });
        if header.record_count == 0 {
            return filtered(if must_stay { Fate::Same } else { Fate::Gone }, 0);
        }
        let mut found = Selection::default();
        let offsets = header.base_offset..=header.last_offset();
        // Where every record has a later one of its key, none need be looked at.
        let may_stay = is_control || !self.last_offsets.has_none_of(&offsets);
        if !are_records_done && may_stay {
            // Compressed ones would be expanded twice.
            let is_plain = header.attributes.compression() == Ok(Codec::None);
            if !is_control && is_plain && !self.last_offsets.has_all(&offsets) {
                let records = RecordIter::new(header, &batch[BATCH_HEADER_BYTES..]);
                self.map.warm(records.filter_map(|record| record.ok()?.key));
            }
            let keep = |record: &Record<'_>| is_control || self.stays(record, horizon);
            found = rewriter.select(header, batch, DECOMPRESSED_BYTES_MAX, keep)?;
        }
        if found.kept_count == 0 {
            if must_stay {
                write_empty_batch(header, out);
            }
            return filtered(if must_stay { Fate::Rewritten } else { Fate::Gone }, 0);
        }
        let needs_horizon = horizon.is_none() && (found.has_tombstone || is_control && marked.is_done);
        if found.removed_count == 0 && !needs_horizon {
            return filtered(Fate::Same, found.kept_count);
        }
        let new_horizon = needs_horizon.then(|| self.now_ms.saturating_add(self.delete_retention_ms));
        rewriter.write(header, batch, &found, new_horizon, out);
        filtered(Fate::Rewritten, found.kept_count)
    }

    fn stays(&self, record: &Record<'_>, horizon: Option<i64>) -> bool {
        if record.offset > self.map.latest() {
            return true;
        }
        let Some(key) = record.key else { return false };
        let is_last = self.last_offsets.is_last(record.offset);
        let is_last = is_last.unwrap_or_else(|| self.map.get(key).is_none_or(|last| record.offset >= last));
        is_last && (record.value.is_some() || horizon.is_none_or(|horizon| self.now_ms < horizon))
    }

    fn must_stay(&self, header: &BatchHeader) -> bool {
        let is_last_of_producer = header.has_producer_id()
            && self.producers.get(&header.producer_id).is_some_and(|last| match last.last_offset {
                Some(offset) => header.last_offset() == offset,
                // Its epoch must not be forgotten.
                None => header.attributes.is_control() && header.producer_epoch == last.epoch,
            });
        is_last_of_producer || header.next_offset() == self.high_watermark
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use klamm_protocol::records::BatchBuilder;

    const NOW_MS: i64 = 10_000;
    const RETENTION_MS: i64 = 500;

    struct World {
        map: KeyMap,
        producers: BTreeMap<ProducerId, LastOfProducer>,
        transactions: Transactions,
        now_ms: i64,
    }

    impl World {
        /// Keys with their last offsets; everything below 100 is judged.
        fn new(keys: &[(&[u8], i64)]) -> Self {
            let mut map = KeyMap::new(10_000, 0.9, &(Offset(0)..Offset(100)), 1);
            for (key, offset) in keys {
                assert!(map.put(key, Offset(*offset)));
            }
            map.cover(Offset(99));
            let transactions = Transactions::new(Vec::new());
            Self { map, producers: BTreeMap::new(), transactions, now_ms: NOW_MS }
        }

        /// By key alone: what these tests ask about was not mapped.
        fn filter(&mut self, batch: &[u8]) -> (Filtered, Vec<u8>) {
            let mut transactions = self.transactions.clone();
            let nothing = LastOffsets::new(Offset(0), Offset(0), 0);
            let found = self.filter_with(batch, &nothing, &mut transactions);
            self.transactions = transactions;
            found
        }

        fn filter_with(
            &self,
            batch: &[u8],
            last_offsets: &LastOffsets,
            transactions: &mut Transactions,
        ) -> (Filtered, Vec<u8>) {
            let header = BatchHeader::parse(batch).unwrap();
            let filter = Filter {
                map: &self.map,
                last_offsets,
                producers: &self.producers,
                high_watermark: Offset(1000),
                now_ms: self.now_ms,
                delete_retention_ms: RETENTION_MS,
            };
            let mut out = Vec::new();
            let mut rewriter = BatchRewriter::new();
            let filtered = filter.filter(&header, batch, transactions, &mut rewriter, &mut out).unwrap();
            if filtered.fate == Fate::Same {
                out = batch.to_vec();
            }
            (filtered, out)
        }
    }

    fn batch(builder: BatchBuilder, records: &[(&[u8], Option<&[u8]>)]) -> Bytes {
        let mut builder = builder;
        for (key, value) in records {
            builder.push(7, Some(key), *value, &[]);
        }
        builder.build()
    }

    fn offsets(batch: &[u8]) -> Vec<i64> {
        let header = BatchHeader::parse(batch).unwrap();
        RecordIter::new(&header, &batch[BATCH_HEADER_BYTES..]).map(|r| r.unwrap().offset.0).collect()
    }

    fn horizon(batch: &[u8]) -> Option<i64> {
        let header = BatchHeader::parse(batch).unwrap();
        header.attributes.has_delete_horizon().then_some(header.base_timestamp)
    }

    #[test]
    fn the_last_record_of_a_key_stays_and_what_the_map_does_not_cover() {
        let mut world = World::new(&[(b"a", 11), (b"b", 50)]);
        let v: Option<&[u8]> = Some(b"v");
        let at = |offset| BatchBuilder::new().base_offset(Offset(offset));
        let (filtered, kept) = world.filter(&batch(at(10), &[(b"a", v), (b"a", v), (b"b", v), (b"c", v)]));
        assert_eq!((filtered.fate, filtered.kept_count), (Fate::Rewritten, 2));
        assert_eq!(offsets(&kept), [11, 13]);
        assert_eq!(BatchHeader::parse(&kept).unwrap().last_offset(), Offset(13));
        assert_eq!(world.filter(&batch(at(20), &[(b"a", v)])).0.fate, Fate::Same, "later than the map knows");
        assert_eq!(world.filter(&batch(at(5), &[(b"a", v)])).0.fate, Fate::Gone);
        assert_eq!(world.filter(&batch(at(100), &[(b"b", v)])).0.fate, Fate::Same, "behind the map");
        let mut keyless = at(12);
        keyless.push(1, None, v, &[]);
        assert_eq!(world.filter(&keyless.build()).0.fate, Fate::Gone);
    }

    #[test]
    fn by_offset_and_by_key_the_same_stays() {
        let mut world = World::new(&[]);
        let key = |n: i64| [n as u8];
        let mut batches = Vec::new();
        for (at, codec, keys) in [
            (0, Codec::None, [1, 2, 3]),
            (3, Codec::Lz4, [1, 1, 2]),
            (6, Codec::None, [4, 1, 4]),
            (9, Codec::Zstd, [3, 9, 9]),
        ] {
            let mut builder = BatchBuilder::new().base_offset(Offset(at)).codec(codec);
            for (n, k) in keys.iter().enumerate() {
                builder.push(7, Some(&key(*k)), (*k != 9).then_some(&b"v"[..]), &[]);
                assert!(world.map.put(&key(*k), Offset(at + n as i64)));
            }
            batches.push(builder.build());
        }
        let fates = [Fate::Gone, Fate::Rewritten, Fate::Rewritten, Fate::Rewritten];
        for (batch, fate) in batches.iter().zip(fates) {
            let by_key = world.filter(batch);
            let last = world.map.last_offsets();
            let by_offset = world.filter_with(batch, &last, &mut Transactions::new(Vec::new()));
            assert_eq!((by_key.0.fate, &by_key), (fate, &by_offset));
        }
    }

    #[test]
    fn tombstones_get_a_horizon_and_go_when_it_has_passed() {
        let mut world = World::new(&[]);
        let first = batch(BatchBuilder::new(), &[(b"a", None), (b"b", Some(b"v"))]);
        let (filtered, kept) = world.filter(&first);
        assert_eq!((filtered.fate, filtered.kept_count), (Fate::Rewritten, 2));
        assert_eq!(horizon(&kept), Some(NOW_MS + RETENTION_MS));
        world.now_ms += RETENTION_MS - 1;
        assert_eq!(world.filter(&kept).0.fate, Fate::Same, "the horizon is set once");
        world.now_ms += 1;
        let (filtered, kept) = world.filter(&kept);
        assert_eq!((filtered.fate, offsets(&kept)), (Fate::Rewritten, vec![1]));
        assert_eq!(horizon(&kept), Some(NOW_MS + RETENTION_MS), "it stays with the batch");
    }

    #[test]
    fn a_living_producers_last_batch_stays_empty() {
        let mut world = World::new(&[(b"a", 50)]);
        let last = LastOfProducer { last_offset: Some(Offset(1)), epoch: ProducerEpoch(0) };
        world.producers.insert(ProducerId(4), last);
        let of = |id, at| {
            BatchBuilder::new().base_offset(Offset(at)).producer(ProducerId(id), ProducerEpoch(0), 9)
        };
        let v: Option<&[u8]> = Some(b"v");
        let (filtered, kept) = world.filter(&batch(of(4, 0), &[(b"a", v), (b"a", v)]));
        assert_eq!((filtered.fate, filtered.kept_count), (Fate::Rewritten, 0));
        let header = BatchHeader::parse(&kept).unwrap();
        assert_eq!((header.record_count, header.last_sequence()), (0, 10));
        assert_eq!(world.filter(&kept).0.fate, Fate::Same);
        assert_eq!(world.filter(&batch(of(4, 2), &[(b"a", v)])).0.fate, Fate::Gone, "not its last");
        assert_eq!(world.filter(&batch(of(5, 0), &[(b"a", v)])).0.fate, Fate::Gone, "nobody knows it");
        world.producers.clear();
        assert_eq!(world.filter(&kept).0.fate, Fate::Gone, "expired");
    }

    #[test]
    fn a_marker_waits_for_its_records_and_then_for_its_horizon() {
        let mut world = World::new(&[]);
        let producer = (ProducerId(4), ProducerEpoch(0));
        let data = BatchBuilder::new().producer(producer.0, producer.1, 0).transactional();
        let commit = BatchBuilder::end_transaction_marker(true, 0, producer.0, producer.1, 5)
            .base_offset(Offset(1))
            .build();
        world.filter(&batch(data, &[(b"a", Some(b"v"))]));
        assert_eq!(world.filter(&commit).0.fate, Fate::Same, "its record is there");
        let (filtered, waiting) = world.filter(&commit);
        assert_eq!((filtered.fate, horizon(&waiting)), (Fate::Rewritten, Some(NOW_MS + RETENTION_MS)));
        let header = BatchHeader::parse(&waiting).unwrap();
        assert!(end_marker(&header, &Bytes::from(waiting.clone())).unwrap().is_commit);
        assert_eq!(header.max_timestamp, 5);
        assert_eq!(world.filter(&waiting).0.fate, Fate::Same);
        world.now_ms += RETENTION_MS;
        assert_eq!(world.filter(&waiting).0.fate, Fate::Gone);
        // The only trace of a living producer keeps its epoch.
        let last = LastOfProducer { last_offset: None, epoch: ProducerEpoch(0) };
        world.producers.insert(producer.0, last);
        let (filtered, kept) = world.filter(&waiting);
        assert_eq!((filtered.fate, filtered.kept_count), (Fate::Rewritten, 0));
        assert!(BatchHeader::parse(&kept).unwrap().attributes.is_control());
    }
}
