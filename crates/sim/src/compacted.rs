//! What compaction may make of a log, told in the plainest way.
//!
//! Below where a cleaning ended batches may be gone and others may have lost records. Nothing
//! else may differ, and who reads committed records finds the same last value of each key.
//! Where offsets may be missing, a start cannot tell what compaction took from what was never
//! flushed and did not reach the device: there a power cut may leave a hole, as with Kafka.

use std::collections::BTreeMap;

use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchHeader, RecordIter};

use crate::history::Batch;

/// Where batches may be missing.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    /// Below it, because they were compacted.
    pub below: i64,
    /// From there on, because they were not flushed.
    pub from: i64,
}

/// Whether `found` is what cleanings may have left of `written`. Gives what is left of that,
/// were nothing compacted.
///
/// # Errors
/// The first batch that should not be as it is.
pub fn fits(found: &[Batch], written: &[&Batch], missing: Missing) -> Result<Vec<Batch>, String> {
    let mut found = found.iter().peekable();
    let mut left = Vec::new();
    for batch in written {
        let is_cleaned = batch.next() <= missing.below;
        match found.next_if(|found| found.base() == batch.base()) {
            Some(found) if found == *batch => {}
            Some(found) if is_cleaned => check_thinned(found, batch)?,
            Some(found) => return Err(format!("{found:?} is not {batch:?}")),
            None if is_cleaned => {}
            None if batch.base() >= missing.from => continue,
            None => return Err(format!("{batch:?} is missing")),
        }
        left.push((*batch).clone());
    }
    found.next().map_or(Ok(left), |extra| Err(format!("{extra:?} was not written")))
}

/// A rewritten batch says the same of itself, and holds some of the records.
fn check_thinned(found: &Batch, written: &Batch) -> Result<(), String> {
    let says = |header: &BatchHeader| {
        let kind = (header.attributes.is_transactional(), header.attributes.is_control());
        let producer = (header.producer_id, header.producer_epoch, header.base_sequence);
        (header.base_offset, header.next_offset(), header.leader_epoch, producer, kind)
    };
    if says(&found.header) != says(&written.header) {
        return Err(format!("{found:?} was made of {written:?}"));
    }
    let all = records(written);
    match records(found).into_iter().find(|record| !all.contains(record)) {
        Some(record) => Err(format!("{record:?} is not in {written:?}")),
        None => Ok(()),
    }
}

/// Offset, timestamp, key and value.
type Record = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn records(batch: &Batch) -> Vec<Record> {
    let records = RecordIter::new(&batch.header, &batch.bytes[BATCH_HEADER_BYTES..]);
    let records = records.map(|record| {
        let record = record.expect("a batch of our own");
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        (record.offset.0, record.timestamp, owned(record.key), owned(record.value))
    });
    records.collect()
}

/// What a reader of committed records makes of batches, if `aborted` (producer, first offset,
/// marker) are left out: the last value of each key.
pub fn last_values<'a>(
    batches: impl Iterator<Item = &'a Batch>,
    log_start: i64,
    aborted: &[(i64, i64, i64)],
) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut values = BTreeMap::new();
    for batch in batches.filter(|batch| !batch.header.attributes.is_control()) {
        let is_aborted = batch.header.attributes.is_transactional()
            && aborted.iter().any(|(producer, first, marker)| {
                *producer == batch.header.producer_id.0 && (*first..*marker).contains(&batch.base())
            });
        for (offset, _, key, value) in records(batch) {
            let Some(key) = key.filter(|_| offset >= log_start && !is_aborted) else { continue };
            match value {
                Some(value) => values.insert(key, value),
                None => values.remove(&key),
            };
        }
    }
    values
}
