//! A log on a memory disk, and the plainest model of one: a list of batches.

#![allow(dead_code, reason = "each test uses its part")]

pub mod transactions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_log::disk::MemoryDisk;
use klamm_log::{
    AppendContext, AppendError, AppendOrigin, BatchPlaced, Log, LogConfig, OpenLog, RecoveryReport,
    trusted_batch,
};
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId, Uuid};
use klamm_protocol::records::{BatchBuilder, BatchHeader, ValidatedBatch};
use klamm_protocol::time::WallMs;

pub const NOW: WallMs = WallMs(1_000);
pub const EPOCH: LeaderEpoch = LeaderEpoch(1);

pub fn dir() -> PathBuf {
    PathBuf::from("/logs/t-0")
}

/// Nobody is asked about transactions: `tests/transactions.rs` is about that.
pub fn small_config() -> LogConfig {
    let config = LogConfig { verifies_transactions: false, ..LogConfig::default() };
    LogConfig { segment_bytes: 1500, index_interval_bytes: 250, ..config }
}

pub fn open_with(disk: &MemoryDisk, config: LogConfig) -> OpenLog {
    OpenLog {
        disk: Arc::new(disk.clone()),
        dir: dir(),
        topic_id: TopicId(Uuid(5000)),
        config,
        recovery_point: Offset(0),
        log_start: Offset(0),
        high_watermark: None,
        was_clean: true,
        now: NOW,
    }
}

pub fn create(disk: &MemoryDisk, config: LogConfig) -> Log {
    let mut log = Log::create(open_with(disk, config)).unwrap();
    log.assign_leader_epoch(EPOCH).unwrap();
    log
}

pub fn reopen_unclean(disk: &MemoryDisk, config: LogConfig, recovery_point: Offset) -> (Log, RecoveryReport) {
    let open = OpenLog { was_clean: false, recovery_point, ..open_with(disk, config) };
    let (mut log, report) = Log::open(open).unwrap();
    log.assign_leader_epoch(EPOCH).unwrap();
    (log, report)
}

pub fn context(origin: AppendOrigin) -> AppendContext {
    AppendContext { now: NOW, leader_epoch: EPOCH, origin }
}

pub fn append(log: &mut Log, batches: &[ValidatedBatch]) -> Vec<Result<BatchPlaced, AppendError>> {
    let plan = log.plan(&context(AppendOrigin::Client), batches);
    let results = log.write(plan);
    log.view().raise_high_watermark_to_end();
    results
}

/// Records with the given timestamps, each of about 100 bytes.
pub fn plain(timestamps: &[i64]) -> ValidatedBatch {
    build(BatchBuilder::new(), timestamps)
}

pub fn idempotent(id: i64, epoch: i16, sequence: i32, timestamps: &[i64]) -> ValidatedBatch {
    build(BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(epoch), sequence), timestamps)
}

pub fn build(mut builder: BatchBuilder, timestamps: &[i64]) -> ValidatedBatch {
    for timestamp in timestamps {
        builder.push(*timestamp, Some(b"k"), Some(&[b'v'; 88]), &[]);
    }
    trusted_batch(builder.build()).unwrap()
}

/// A batch as the model knows it.
#[derive(Clone, Debug)]
pub struct ModelBatch {
    pub header: BatchHeader,
    pub timestamps: Vec<i64>,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub batches: Vec<ModelBatch>,
    pub log_start: i64,
    pub end: i64,
}

/// Epoch, and first sequence, last sequence, base offset, timestamp of the last five batches.
pub type NaiveProducer = (i16, Vec<(i32, i32, i64, i64)>);

impl Model {
    /// What the log must answer, by the rules of KIP-98 told in the plainest way.
    pub fn append(
        &mut self,
        batch: &ValidatedBatch,
        timestamps: &[i64],
    ) -> Result<(i64, bool), &'static str> {
        let mut header = batch.header;
        if header.has_producer_id() {
            let producers = self.producers();
            if let Some((epoch, batches)) = producers.get(&header.producer_id.0) {
                let sequence = header.base_sequence;
                if header.producer_epoch.0 < *epoch {
                    return Err("epoch");
                }
                if header.producer_epoch.0 > *epoch {
                    if sequence != 0 {
                        return Err("sequence");
                    }
                } else {
                    let is_same =
                        |b: &&(i32, i32, i64, i64)| (b.0, b.1) == (sequence, header.last_sequence());
                    if let Some(original) = batches.iter().find(is_same) {
                        return Ok((original.2, true));
                    }
                    if batches
                        .last()
                        .is_some_and(|last| (i64::from(last.1) + 1) % (1 << 31) != i64::from(sequence))
                    {
                        return Err("sequence");
                    }
                }
            }
        }
        header.base_offset = Offset(self.end);
        header.leader_epoch = EPOCH;
        let mut bytes = batch.bytes.to_vec();
        let mut head = [0; 61];
        header.write_to(&mut head);
        bytes[..61].copy_from_slice(&head);
        self.end += timestamps.len() as i64;
        self.batches.push(ModelBatch { header, timestamps: timestamps.to_vec(), bytes });
        Ok((header.base_offset.0, false))
    }

    pub fn producers(&self) -> BTreeMap<i64, NaiveProducer> {
        let mut producers: BTreeMap<i64, NaiveProducer> = BTreeMap::new();
        for ModelBatch { header, .. } in self.batches.iter().filter(|batch| batch.header.has_producer_id()) {
            let entry =
                producers.entry(header.producer_id.0).or_insert((header.producer_epoch.0, Vec::new()));
            if entry.0 != header.producer_epoch.0 {
                *entry = (header.producer_epoch.0, Vec::new());
            }
            let sequences = (header.base_sequence, header.last_sequence());
            entry.1.push((sequences.0, sequences.1, header.base_offset.0, header.max_timestamp));
            if entry.1.len() > 5 {
                entry.1.remove(0);
            }
        }
        producers
    }

    pub fn truncate(&mut self, offset: i64) {
        self.batches.retain(|batch| batch.header.last_offset().0 < offset);
        self.end =
            self.batches.last().map_or(self.log_start.min(offset), |batch| batch.header.next_offset().0);
    }

    pub fn record_for_timestamp(&self, timestamp: i64) -> Option<(i64, i64)> {
        self.records().find(|(_, at)| *at >= timestamp)
    }

    pub fn record_with_max_timestamp(&self) -> Option<(i64, i64)> {
        let max = self.batches.iter().filter(|b| b.header.last_offset().0 >= self.log_start);
        let max = max.flat_map(|batch| &batch.timestamps).max()?;
        self.records().find(|(_, at)| at == max)
    }

    fn records(&self) -> impl Iterator<Item = (i64, i64)> {
        let of = |batch: &ModelBatch| {
            let base = batch.header.base_offset.0;
            batch.timestamps.clone().into_iter().enumerate().map(move |(n, at)| (base + n as i64, at))
        };
        self.batches.iter().flat_map(of).filter(|(offset, _)| *offset >= self.log_start)
    }
}

/// Everything a reader can ask must be as the model says.
pub fn check_reads(log: &Log, model: &Model, max_bytes: u32) {
    let view = log.view();
    let limits = view.limits();
    assert_eq!(limits.end.offset.0, model.end, "end");
    assert_eq!(limits.log_start.0, model.log_start, "log start");
    for batch in &model.batches {
        for offset in batch.header.base_offset.0.max(model.log_start)..=batch.header.last_offset().0 {
            let region = view.read(Offset(offset), limits.end, max_bytes, true).unwrap().unwrap();
            let bytes = region.read().unwrap();
            assert!(bytes.len() >= batch.bytes.len(), "the first batch is whole");
            assert_eq!(&bytes[..batch.bytes.len()], batch.bytes, "at offset {offset}");
            assert!(bytes.len() <= batch.bytes.len().max(max_bytes as usize));
        }
    }
    assert!(view.read(Offset(model.end), limits.end, max_bytes, true).unwrap().is_none());
    assert!(view.read(Offset(model.end + 1), limits.end, max_bytes, true).is_err());
    assert!(view.read(Offset(model.log_start - 1), limits.end, max_bytes, true).is_err());
}

pub fn check_timestamps(log: &Log, model: &Model, asked: i64) {
    let view = log.view();
    let end = view.limits().end;
    let found = view.offset_for_timestamp(asked, end).unwrap().map(|f| (f.offset.0, f.timestamp));
    assert_eq!(found, model.record_for_timestamp(asked), "timestamp {asked}");
}

pub fn check_producers(log: &Log, model: &Model) {
    let known: BTreeMap<i64, NaiveProducer> = log
        .producers()
        .iter()
        .map(|(id, entry)| {
            let batches = entry.batches().iter();
            let batches = batches
                .map(|b| (b.first_sequence(), b.last_sequence, b.first_offset().0, b.timestamp))
                .collect::<Vec<_>>();
            assert_eq!(Some(entry.last_timestamp), batches.last().map(|b| b.3));
            (id.0, (entry.producer_epoch.0, batches))
        })
        .collect();
    assert_eq!(known, model.producers());
}

pub fn file(base: i64, suffix: &str) -> PathBuf {
    Path::new(&dir()).join(format!("{base:020}{suffix}"))
}
