//! Cleaning a log from a test, reading all that is in it, and what must be left by the rules
//! told in the plainest way.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;

use klamm_log::cleaner::{CleanSettings, CleanStats, CleanableRange, Lags, Step};
use klamm_log::{Log, LogError};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::{
    BATCH_HEADER_BYTES, BatchHeader, BatchRewriter, RecordIter, Scanned, check_crc, scan_batches,
};
use klamm_protocol::time::WallMs;

/// A record as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub producer: i64,
    pub is_control: bool,
    pub is_transactional: bool,
}

pub fn settings(now_ms: i64, delete_retention_ms: i64) -> CleanSettings {
    CleanSettings {
        map_bytes: 1 << 20,
        load_factor: 0.9,
        // Small, so that batches exceed it.
        buffer_bytes: 64,
        delete_retention_ms,
        now: WallMs(now_ms),
        hash_key: 77,
    }
}

pub fn range(log: &Log, checkpoint: Option<i64>, now_ms: i64) -> CleanableRange {
    let lags = Lags { min_ms: 0, max_ms: i64::MAX, now: WallMs(now_ms) };
    CleanableRange::of(&log.view(), checkpoint.map(Offset), &lags).unwrap()
}

/// Cleans everything that may be cleaned; gives the new checkpoint.
pub fn clean(
    log: &mut Log,
    checkpoint: Option<i64>,
    settings: CleanSettings,
) -> Result<(i64, CleanStats), LogError> {
    let range = range(log, checkpoint, settings.now.0);
    let mut cleaning = log.begin_cleaning(range, settings)?;
    loop {
        match cleaning.step()? {
            Step::Working { .. } => {}
            Step::Swap(group) => {
                log.replace_segments(&group)?.expect("nobody else changed the log").remove()?;
            }
            Step::Done(end) => return Ok((end.0, cleaning.stats())),
            Step::Overtaken => panic!("nobody else changed the log"),
        }
    }
}

/// Every batch header and every record, as a reader gets them.
pub fn read_all(log: &Log) -> (Vec<BatchHeader>, Vec<Read>) {
    let view = log.view();
    let limits = view.limits();
    let (mut headers, mut records) = (Vec::new(), Vec::new());
    let mut from = limits.log_start;
    while let Some(region) = view.read(from, limits.end, 600, true).unwrap() {
        let bytes = region.read().unwrap();
        let mut next = from;
        for entry in scan_batches(&bytes) {
            let Ok(Scanned::Batch(batch)) = entry else { break };
            assert!(check_crc(batch.bytes), "at {}", batch.header.base_offset);
            assert!(batch.header.base_offset >= next || next == from, "offsets rise");
            next = batch.header.next_offset();
            records.extend(records_of(&batch.header, batch.bytes));
            headers.push(batch.header);
        }
        assert!(next > from, "no batch at {from}");
        from = next;
    }
    (headers, records)
}

pub fn records_of(header: &BatchHeader, batch: &[u8]) -> Vec<Read> {
    let mut rewriter = BatchRewriter::new();
    let of = |record: klamm_protocol::records::Record<'_>| Read {
        offset: record.offset.0,
        timestamp: record.timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        producer: header.producer_id.0,
        is_control: header.attributes.is_control(),
        is_transactional: header.attributes.is_transactional(),
    };
    if header.attributes.compression() == Ok(klamm_protocol::records::Codec::None) {
        return RecordIter::new(header, &batch[BATCH_HEADER_BYTES..]).map(|r| of(r.unwrap())).collect();
    }
    rewriter.records(header, batch, 1 << 20).unwrap().map(|r| of(r.unwrap())).collect()
}

/// What a client that reads only committed transactions makes of it: the last value of each key.
pub fn committed_view(log: &Log) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let view = log.view();
    let limits = view.limits();
    let (headers, records) = read_all(log);
    let region = view.read(limits.log_start, limits.end, u32::MAX, true).unwrap();
    let mut listed = Vec::new();
    // Kafka lists them with each response; here for one segment after the other.
    let mut from = limits.log_start;
    while let Some(region) = view.read(from, limits.end, u32::MAX, true).unwrap() {
        listed.extend(view.aborted_transactions(from, &region, limits.end).unwrap());
        let bytes = region.read().unwrap();
        let last = scan_batches(&bytes).filter_map(|entry| match entry {
            Ok(Scanned::Batch(batch)) => Some(batch.header.next_offset()),
            _ => None,
        });
        from = last.last().unwrap();
    }
    drop(region);
    let mut state = BTreeMap::new();
    for record in &records {
        if record.offset >= limits.last_stable.offset.0 {
            break;
        }
        let header = headers
            .iter()
            .find(|h| h.base_offset.0 <= record.offset && record.offset <= h.last_offset().0)
            .unwrap();
        let is_aborted = record.is_transactional
            && listed.iter().any(|aborted| {
                aborted.producer_id.0 == record.producer
                    && aborted.first_offset <= header.base_offset
                    && header.base_offset < aborted.last_offset
            });
        if record.is_control || is_aborted {
            continue;
        }
        let Some(key) = record.key.clone() else { continue };
        match record.value.clone() {
            Some(value) => state.insert(key, value),
            None => state.remove(&key),
        };
    }
    state
}
