//! The oracle: a log is a list of batches, a start, and a promise of how much is durable.
//!
//! What a start may find after a power cut is one of a few branches: the log as it was, or
//! with a tail that was cut or could not be written and had not yet been flushed over. It
//! finds all of one of them, or a piece from the front, never less than what was promised,
//! and never a mixture. A compacted log may have a hole behind that ([`compacted`]).

use std::collections::BTreeMap;

use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchHeader, RecordIter};

use crate::compacted::{self, Missing};

/// A batch as it lies in the log.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    /// What its header says.
    pub header: BatchHeader,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Batch {
    /// A batch of magic 2.
    ///
    /// # Errors
    /// The bytes are none, or their CRC is wrong.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let header = BatchHeader::parse(bytes).map_err(|error| error.to_string())?;
        let bytes = bytes.get(..header.batch_bytes as usize).ok_or("a batch that does not end")?;
        if !klamm_protocol::records::check_crc(bytes) {
            return Err(format!("the batch at {} is served with a wrong CRC", header.base_offset));
        }
        Ok(Self { header, bytes: bytes.to_vec() })
    }

    /// As appended at `base_offset` in `leader_epoch`.
    #[must_use]
    pub fn placed(bytes: &[u8], base_offset: i64, leader_epoch: i32) -> Self {
        let mut header = BatchHeader::parse(bytes).expect("a batch of our own");
        header.base_offset.0 = base_offset;
        header.leader_epoch.0 = leader_epoch;
        let mut bytes = bytes.to_vec();
        header.write_to(bytes.first_chunk_mut().expect("a batch has a header"));
        Self { header, bytes }
    }

    /// Offset of the first record.
    #[must_use]
    pub fn base(&self) -> i64 {
        self.header.base_offset.0
    }

    /// Offset behind the last record.
    #[must_use]
    pub fn next(&self) -> i64 {
        self.header.next_offset().0
    }

    fn timestamps(&self) -> impl Iterator<Item = (i64, i64)> {
        let records = RecordIter::new(&self.header, &self.bytes[BATCH_HEADER_BYTES..]);
        records
            .map(|record| record.expect("a batch of our own"))
            .map(|record| (record.offset.0, record.timestamp))
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let header = &self.header;
        write!(f, "{}..{} e{} crc {:08x}", self.base(), self.next(), header.leader_epoch, header.crc)
    }
}

/// What a log is, read out of one or kept beside one.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The batches in order; those below the start may come back until a checkpoint has it.
    pub batches: Vec<Batch>,
    /// The first readable offset.
    pub log_start: i64,
    /// Where the next batch goes.
    pub end: i64,
}

/// Producer epoch, and first sequence, last sequence, base offset of the last five batches.
pub type Producer = (i16, Vec<(i32, i32, i64)>);

impl Contents {
    /// Adds a batch behind the others.
    pub fn append(&mut self, batch: Batch) {
        assert_eq!(batch.base(), self.end, "the model's own batches follow each other");
        self.end = batch.next();
        self.batches.push(batch);
    }

    /// Cuts at `offset`, or at the beginning of the batch that contains it.
    pub fn truncate(&mut self, offset: i64) {
        let kept = self.batches.partition_point(|batch| batch.next() <= offset);
        // Before it there may be a hole.
        self.end = self.batches.get(kept).map_or(self.end, Batch::base).max(self.log_start);
        self.batches.truncate(kept);
    }

    /// The batches that hold readable records.
    pub fn readable(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().filter(|batch| batch.next() > self.log_start)
    }

    /// The producers' last batches.
    #[must_use]
    pub fn producers(&self) -> BTreeMap<i64, Producer> {
        let mut producers: BTreeMap<i64, Producer> = BTreeMap::new();
        let with_sequence =
            |batch: &&Batch| batch.header.has_producer_id() && !batch.header.attributes.is_control();
        for batch in self.batches.iter().filter(with_sequence) {
            let header = &batch.header;
            let (_, last) = producers
                .entry(header.producer_id.0)
                .or_insert_with(|| (header.producer_epoch.0, Vec::new()));
            last.push((header.base_sequence, header.last_sequence(), batch.base()));
            if last.len() > 5 {
                last.remove(0);
            }
        }
        producers
    }

    /// Producer, first offset and marker's offset of each aborted transaction.
    #[must_use]
    pub fn aborted(&self) -> Vec<(i64, i64, i64)> {
        let mut open: BTreeMap<i64, i64> = BTreeMap::new();
        let mut aborted = Vec::new();
        for batch in self.batches.iter().filter(|batch| batch.header.attributes.is_transactional()) {
            let id = batch.header.producer_id.0;
            if !batch.header.attributes.is_control() {
                open.entry(id).or_insert(batch.base());
            } else if let Some(first) = open.remove(&id)
                && is_abort(batch)
            {
                aborted.push((id, first, batch.base()));
            }
        }
        aborted
    }

    /// Where the oldest open transaction begins.
    #[must_use]
    pub fn first_unstable(&self) -> Option<i64> {
        let mut open: BTreeMap<i64, i64> = BTreeMap::new();
        for batch in self.batches.iter().filter(|batch| batch.header.attributes.is_transactional()) {
            let id = batch.header.producer_id.0;
            if batch.header.attributes.is_control() {
                open.remove(&id);
            } else {
                open.entry(id).or_insert(batch.base());
            }
        }
        open.into_values().min()
    }

    /// Whether a record with this timestamp lies there.
    #[must_use]
    pub fn has_record(&self, offset: i64, timestamp: i64) -> bool {
        self.batches.iter().flat_map(Batch::timestamps).any(|record| record == (offset, timestamp))
    }

    /// Whether any record has this timestamp.
    #[must_use]
    pub fn has_timestamp(&self, timestamp: i64) -> bool {
        self.batches.iter().flat_map(Batch::timestamps).any(|record| record.1 == timestamp)
    }

    /// The first record at or behind a time: offset and timestamp.
    #[must_use]
    pub fn record_for_timestamp(&self, asked: i64) -> Option<(i64, i64)> {
        let records = self.batches.iter().flat_map(Batch::timestamps);
        records.filter(|(offset, _)| *offset >= self.log_start).find(|(_, timestamp)| *timestamp >= asked)
    }
}

fn is_abort(marker: &Batch) -> bool {
    let mut records = RecordIter::new(&marker.header, &marker.bytes[BATCH_HEADER_BYTES..]);
    let record = records.next().expect("a marker holds a record").expect("a marker of our own");
    record.key.expect("a marker has a key")[2..4] == [0, 0]
}

/// What was done and what was promised.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The log as it answers now.
    pub live: Contents,
    /// Up to where records were said to be durable.
    pub durable_end: i64,
    /// Tails that were cut or failed and may be on the device still.
    branches: Vec<Contents>,
    /// The log start that the checkpoint durably has.
    pub log_start_durable: i64,
    /// Below it the log may have been compacted; the model itself never is.
    pub cleaned_to: i64,
    /// The watermark that compaction went by: nothing below it is truncated any more.
    pub cleaned_watermark: i64,
    /// True if the log is one that is compacted.
    pub is_compacted: bool,
}

impl History {
    /// Of an empty log.
    #[must_use]
    pub fn new(is_compacted: bool) -> Self {
        Self { is_compacted, ..Self::default() }
    }

    /// What `batches` would have made of the log may come back although they failed.
    pub fn attempt(&mut self, batches: &[Batch]) {
        let mut branch = self.live.clone();
        for batch in batches {
            branch.append(batch.clone());
        }
        self.branches.push(branch);
    }

    /// The log is cut; until a flush what was there may come back.
    pub fn truncate(&mut self, offset: i64) {
        self.branches.push(self.live.clone());
        self.live.truncate(offset);
        self.durable_end = self.durable_end.min(self.live.end);
    }

    /// The log begins anew at `offset`.
    pub fn start_anew(&mut self, offset: i64) {
        self.branches.push(self.live.clone());
        self.live = Contents { batches: Vec::new(), log_start: offset, end: offset };
        self.durable_end = 0;
    }

    /// Everything up to the end is durable, and nothing that was cut comes back.
    pub fn flushed(&mut self, end: i64) {
        self.durable_end = self.durable_end.max(end);
        self.branches.clear();
    }

    /// Below `offset` the log may be compacted from now on, by what lies below the watermark.
    pub fn cleaned(&mut self, offset: i64, high_watermark: i64) {
        self.cleaned_to = self.cleaned_to.max(offset);
        self.cleaned_watermark = self.cleaned_watermark.max(high_watermark);
    }

    /// What was accepted becomes the log.
    pub fn restart(&mut self, accepted: Contents, durable_end: i64) {
        self.live = accepted;
        self.durable_end = durable_end;
        self.branches.clear();
    }

    /// What a start may find as `found`, before any compaction; `is_whole` if nothing written may be
    /// lost either.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn accept(&self, found: &Contents, is_whole: bool) -> Result<Contents, String> {
        let mut reasons = Vec::new();
        for branch in std::iter::once(&self.live).chain(&self.branches) {
            let floor = if is_whole { self.live.end.min(branch.end) } else { self.durable_end };
            let starts = self.log_start_durable.min(self.live.log_start).min(branch.log_start)
                ..=self.live.log_start.max(branch.log_start);
            if !starts.contains(&found.log_start) {
                reasons.push(format!("log start {} was never asked for", found.log_start));
                continue;
            }
            let from = if self.is_compacted { floor } else { i64::MAX };
            match fits(found, branch, floor, Missing { below: self.cleaned_to, from }) {
                Ok(accepted) => return Ok(accepted),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(format!(
            "the log came back as {found:?}; promised was everything below {} of {:?}: {}",
            if is_whole { self.live.end } else { self.durable_end },
            self.live,
            reasons.join("; or ")
        ))
    }
}

/// `found` is `branch` without some of its front, some of its tail, and what may be missing.
fn fits(found: &Contents, branch: &Contents, floor: i64, missing: Missing) -> Result<Contents, String> {
    if found.end < floor {
        return Err(format!("the end {} lies below the promised {floor}", found.end));
    }
    let visible = |batch: &&Batch| batch.next() > found.log_start && batch.next() <= found.end;
    let expected: Vec<&Batch> = branch.batches.iter().filter(visible).collect();
    let end = expected.last().map_or(found.log_start.max(floor), |batch| batch.next()).max(found.log_start);
    let visible = compacted::fits(&found.batches, &expected, missing)
        .map_err(|reason| format!("expected {expected:?}: {reason}"))?;
    // Those below the start may still come back.
    let hidden = branch.batches.iter().filter(|batch| batch.next() <= found.log_start);
    let batches = hidden.cloned().chain(visible).collect();
    // Behind a hole it may be where an empty segment begins.
    let is_base = || {
        let bases = branch.batches.iter().map(Batch::base).chain([branch.end]);
        missing.from < i64::MAX && found.end >= end && bases.into_iter().any(|base| base == found.end)
    };
    if found.end != end && !is_base() {
        return Err(format!("the end is not {end}"));
    }
    Ok(Contents { batches, log_start: found.log_start, end: found.end })
}
