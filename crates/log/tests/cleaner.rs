//! A cleaning leaves what the plain rules leave: the last record of each key, tombstones and
//! markers until their horizon, living producers' last sequences, nothing aborted.

#[path = "support/cleaning.rs"]
mod cleaning;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cleaning::*;
use klamm_log::disk::{Disk, MemoryDisk};
use klamm_log::{AppendOrigin, Log, LogConfig, trusted_batch};
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::{BatchBuilder, BatchHeader, Codec, ValidatedBatch};
use klamm_protocol::time::WallMs;
use proptest::prelude::*;
use support::*;

fn config() -> LogConfig {
    LogConfig { is_compacted: true, segment_bytes: 700, index_interval_bytes: 100, ..small_config() }
}

fn key(n: u8) -> Vec<u8> {
    vec![b'k', n]
}

/// One appended batch, and what the model must know of it.
#[derive(Clone, Debug)]
struct Appended {
    header: BatchHeader,
    records: Vec<Read>,
    is_aborted: bool,
    marker_is_commit: Option<bool>,
}

/// The log, and the list of everything that was appended.
struct World {
    disk: MemoryDisk,
    log: Option<Log>,
    appended: Vec<Appended>,
    sequences: BTreeMap<i64, i32>,
    open: BTreeSet<i64>,
    checkpoint: Option<i64>,
    /// Set when a batch with a tombstone, or a marker without records, was first cleaned.
    horizons: BTreeMap<i64, i64>,
    /// Offsets that a cleaning of the model has taken.
    gone: BTreeSet<i64>,
    gone_batches: BTreeSet<i64>,
    now_ms: i64,
}

const RETENTION_MS: i64 = 100;

#[derive(Clone, Debug)]
enum Op {
    Append { records: Vec<(u8, Option<u8>)>, producer: u8, is_transactional: bool, codec: u8 },
    End { producer: u8, is_commit: bool },
    Clean { map_keys: u8 },
    Pass(u8),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let records = proptest::collection::vec((0u8..12, proptest::option::weighted(0.8, any::<u8>())), 1..6);
    prop_oneof![
        14 => (records, 0u8..4, any::<bool>(), 0u8..5).prop_map(|(records, producer, is_transactional, codec)| {
            Op::Append { records, producer, is_transactional, codec }
        }),
        4 => (1u8..4, any::<bool>()).prop_map(|(producer, is_commit)| Op::End { producer, is_commit }),
        3 => (1u8..16).prop_map(|map_keys| Op::Clean { map_keys }),
        1 => any::<u8>().prop_map(Op::Pass),
        1 => Just(Op::Reopen),
    ]
}

impl World {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let log = Some(create(&disk, config()));
        Self {
            disk,
            log,
            appended: Vec::new(),
            sequences: BTreeMap::new(),
            open: BTreeSet::new(),
            checkpoint: None,
            horizons: BTreeMap::new(),
            gone: BTreeSet::new(),
            gone_batches: BTreeSet::new(),
            now_ms: 10_000,
        }
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn put(&mut self, batch: ValidatedBatch, origin: AppendOrigin, marker_is_commit: Option<bool>) {
        let log = self.log.as_mut().unwrap();
        let plan = log.plan(&context(origin), std::slice::from_ref(&batch));
        let placed = log.write(plan).remove(0).unwrap();
        log.view().raise_high_watermark_to_end();
        let header = BatchHeader { base_offset: placed.base_offset, leader_epoch: EPOCH, ..batch.header };
        let records = records_of(&header, &batch.bytes);
        self.appended.push(Appended { header, records, is_aborted: false, marker_is_commit });
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append { records, producer, is_transactional, codec } => {
                let id = i64::from(*producer);
                let mut builder = BatchBuilder::new().codec(Codec::from_id(*codec).unwrap());
                if id > 0 {
                    let sequence = self.sequences.entry(id).or_default();
                    builder = builder.producer(ProducerId(id), ProducerEpoch(0), *sequence);
                    *sequence += records.len() as i32;
                    // Within a transaction there is nothing else.
                    if *is_transactional || self.open.contains(&id) {
                        builder = builder.transactional();
                        self.open.insert(id);
                    }
                }
                for (n, value) in records {
                    let value = value.map(|v| vec![v; 40]);
                    builder.push(1000 + i64::from(*n), Some(&key(*n)), value.as_deref(), &[]);
                }
                self.put(trusted_batch(builder.build()).unwrap(), AppendOrigin::Client, None);
            }
            Op::End { producer, is_commit } => {
                let id = i64::from(*producer);
                if !self.open.remove(&id) {
                    return;
                }
                let (id, epoch) = (ProducerId(id), ProducerEpoch(0));
                let marker = BatchBuilder::end_transaction_marker(*is_commit, 0, id, epoch, 1000).build();
                if !is_commit {
                    let mine = |a: &&mut Appended| a.header.producer_id == id;
                    let since = self.appended.iter_mut().rev().filter(mine);
                    let in_it = since.take_while(|a| {
                        a.marker_is_commit.is_none() && a.header.attributes.is_transactional()
                    });
                    in_it.for_each(|appended| appended.is_aborted = true);
                }
                self.put(trusted_batch(marker).unwrap(), AppendOrigin::Coordinator, Some(*is_commit));
            }
            Op::Clean { map_keys } => self.clean(*map_keys),
            Op::Pass(ms) => self.now_ms += i64::from(*ms),
            Op::Reopen => {
                self.log.take().unwrap().close().unwrap();
                let mut log = Log::open(open_with(&self.disk, config())).unwrap().0;
                log.assign_leader_epoch(EPOCH).unwrap();
                self.log = Some(log);
            }
        }
    }

    fn clean(&mut self, map_keys: u8) {
        let now_ms = self.now_ms;
        let checkpoint = self.checkpoint;
        let found = range(self.log(), checkpoint, now_ms);
        if found.cleanable_bytes == 0 {
            return;
        }
        let settings = klamm_log::cleaner::CleanSettings {
            map_bytes: u64::from(map_keys) * 20,
            ..settings(now_ms, RETENTION_MS)
        };
        let (end, _) = clean(self.log(), checkpoint, settings).unwrap();
        assert!(end > found.first_dirty.0 && end <= found.first_uncleanable.0, "{end} {found:?}");
        self.clean_model(found.first_dirty.0, end, found.first_uncleanable.0);
        self.checkpoint = Some(end);
    }

    /// Kafka's rules, over the list of what was appended. `end` is how far the map went.
    fn clean_model(&mut self, first_dirty: i64, end: i64, first_uncleanable: i64) {
        let segments = self.log.as_ref().unwrap().view().load().1;
        // Whole segments are filtered, up to the one that the map ended in.
        let behind = segments.iter().map(|s| s.base_offset().0).find(|base| *base >= end);
        let filtered_below = behind.unwrap_or(first_uncleanable).min(first_uncleanable);
        let mut last: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        for appended in self.appended.iter().filter(|a| !a.is_aborted && a.marker_is_commit.is_none()) {
            for record in &appended.records {
                let is_there = !self.gone.contains(&record.offset);
                if is_there && record.offset >= first_dirty && record.offset < end {
                    last.insert(record.key.clone().unwrap(), record.offset);
                }
            }
        }
        let log = self.log.as_ref().unwrap();
        let last_of = |id: i64| {
            let entry = log.producers().get(ProducerId(id))?;
            Some((entry.batches().last().map(|b| b.last_offset.0), entry.producer_epoch))
        };
        let watermark = log.view().limits().high_watermark.offset;
        let mut has_batches: BTreeSet<i64> = BTreeSet::new();
        for appended in &self.appended {
            let header = &appended.header;
            let base = header.base_offset.0;
            if base >= filtered_below || self.gone_batches.contains(&base) {
                continue;
            }
            let horizon = self.horizons.get(&base).copied();
            let must_stay = header.next_offset() == watermark
                || header.has_producer_id()
                    && last_of(header.producer_id.0).is_some_and(|(offset, epoch)| match offset {
                        Some(offset) => header.last_offset().0 == offset,
                        None => appended.marker_is_commit.is_some() && header.producer_epoch == epoch,
                    });
            let kept: Vec<&Read> = if appended.marker_is_commit.is_some() {
                let is_empty = !has_batches.remove(&header.producer_id.0);
                let stays = !is_empty || horizon.is_none_or(|horizon| horizon > self.now_ms);
                if is_empty && horizon.is_none() && !self.gone.contains(&base) {
                    self.horizons.insert(base, self.now_ms + RETENTION_MS);
                }
                appended.records.iter().filter(|r| stays && !self.gone.contains(&r.offset)).collect()
            } else {
                if header.attributes.is_transactional() {
                    has_batches.insert(header.producer_id.0);
                }
                let stays = |r: &&Read| {
                    !self.gone.contains(&r.offset)
                        && !appended.is_aborted
                        && (r.offset >= end
                            || last.get(r.key.as_ref().unwrap()).is_none_or(|last| r.offset >= *last)
                                && (r.value.is_some() || horizon.is_none_or(|h| self.now_ms < h)))
                };
                appended.records.iter().filter(stays).collect()
            };
            let is_tombstone = |r: &&Read| r.value.is_none();
            if appended.marker_is_commit.is_none() && horizon.is_none() && kept.iter().any(is_tombstone) {
                self.horizons.insert(base, self.now_ms + RETENTION_MS);
            }
            let kept: BTreeSet<i64> = kept.iter().map(|r| r.offset).collect();
            self.gone.extend(appended.records.iter().map(|r| r.offset).filter(|o| !kept.contains(o)));
            if kept.is_empty() && !must_stay {
                self.gone_batches.insert(base);
            }
        }
    }

    fn check(&self) {
        let log = self.log.as_ref().unwrap();
        let (headers, records) = read_all(log);
        let expected: Vec<&Read> = self
            .appended
            .iter()
            .flat_map(|a| &a.records)
            .filter(|r| !self.gone.contains(&r.offset))
            .collect();
        assert_eq!(records.iter().collect::<Vec<_>>(), expected);
        let there: Vec<&Appended> =
            self.appended.iter().filter(|a| !self.gone_batches.contains(&a.header.base_offset.0)).collect();
        assert_eq!(headers.len(), there.len(), "batches");
        for (header, appended) in headers.iter().zip(there) {
            let before = &appended.header;
            assert_eq!(header.base_offset, before.base_offset);
            assert_eq!(header.last_offset(), before.last_offset());
            assert_eq!(header.producer_id, before.producer_id);
            assert_eq!(header.last_sequence(), before.last_sequence());
            assert_eq!(header.leader_epoch, before.leader_epoch);
            let horizon = header.attributes.has_delete_horizon().then_some(header.base_timestamp);
            if header.record_count > 0 {
                let known = self.horizons.get(&header.base_offset.0).copied();
                assert_eq!(horizon, known, "horizon of {}", header.base_offset);
                assert_eq!(header.attributes.compression(), before.attributes.compression());
            }
            let is_whole = appended.records.iter().all(|r| !self.gone.contains(&r.offset));
            if is_whole && horizon.is_none() {
                assert_eq!(header.crc, before.crc, "untouched bytes stay");
            }
        }
        let names = self.disk.list_dir(&dir()).unwrap();
        let is_leftover = |name: &str| [".cleaned", ".swap", ".deleted"].iter().any(|s| name.ends_with(s));
        assert!(!names.iter().any(|entry| is_leftover(&entry.name)), "{names:?}");
    }

    /// Any offset that was ever written leads to the first batch at or behind it.
    fn check_lookups(&self) {
        let log = self.log.as_ref().unwrap();
        let view = log.view();
        let limits = view.limits();
        let (headers, _) = read_all(log);
        for offset in limits.log_start.0..limits.end.offset.0 {
            let found = view.read(Offset(offset), limits.end, 1, true).unwrap().map(|r| r.base_offset);
            let expected = headers.iter().find(|h| h.last_offset().0 >= offset).map(|h| h.base_offset);
            assert_eq!(found, expected, "offset {offset}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_cleaning_leaves_what_the_rules_leave(ops in proptest::collection::vec(op(), 1..70)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            world.check();
        }
        let producers = world.log().producers().clone();
        world.check_lookups();
        world.apply(&Op::Reopen);
        world.check();
        world.check_lookups();
        let ids = |state: &klamm_log::ProducerState| {
            state.iter().map(|(id, e)| (id, e.producer_epoch, e.last_sequence())).collect::<Vec<_>>()
        };
        prop_assert_eq!(ids(world.log().producers()), ids(&producers));
    }
}

fn keyed(log: &mut Log, key: &[u8], value: Option<&[u8]>) {
    let mut builder = BatchBuilder::new();
    builder.push(1000, Some(key), value, &[]);
    append(log, &[trusted_batch(builder.build()).unwrap()]).remove(0).unwrap();
}

fn filled(disk: &MemoryDisk) -> Log {
    let mut log = create(disk, config());
    for n in 0..60 {
        keyed(&mut log, &key(n % 7), Some(&[n; 60]));
    }
    log
}

#[test]
fn segments_are_joined_and_readers_of_the_old_ones_go_on() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    let view = log.view();
    // Never said again: the first segment keeps it.
    keyed(&mut log, b"once", Some(b"v"));
    for n in 0..60 {
        keyed(&mut log, &key(n % 7), Some(&[n; 60]));
    }
    let before = view.load().1.len();
    let limits = view.limits();
    let region = view.read(Offset(0), limits.end, 1 << 20, true).unwrap().unwrap();
    let bytes = region.read().unwrap();
    // A reader's limit from before may lie in a segment that is gone.
    let old = view.position_of(Offset(4)).unwrap();
    assert_eq!(old.segment_base.0, 0);
    let (end, stats) = clean(&mut log, None, settings(5000, 100)).unwrap();
    assert_eq!(end, view.load().1.active().base_offset().0);
    assert_eq!(stats.key_count, 8);
    assert!(stats.written_bytes < stats.read_bytes && stats.kept_records == 8, "{stats:?}");
    assert_eq!(region.read().unwrap(), bytes, "an open file is still there");
    assert!(view.read(Offset(0), old, 1 << 20, true).unwrap().unwrap().read().is_ok());
    assert_eq!(committed_view(&log).len(), 8);
    // Nothing is dirty any more; what was made small is joined when it is cleaned again.
    let ratio = range(&log, Some(end), 5000).dirty_ratio();
    assert!(ratio < f64::EPSILON, "{ratio}");
    let (_, stats) = clean(&mut log, Some(end), settings(5000, 100)).unwrap();
    assert_eq!(stats.written_bytes, stats.read_bytes);
    assert!(view.load().1.len() < before / 2, "of {before} segments {} are left", view.load().1.len());
    assert_eq!(committed_view(&log).len(), 8);
}

#[test]
fn a_log_that_changed_meanwhile_is_left_alone() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk);
    let cleanable = range(&log, None, 5000);
    let mut cleaning = log.begin_cleaning(cleanable, settings(5000, 100)).unwrap();
    let group = loop {
        match cleaning.step().unwrap() {
            klamm_log::cleaner::Step::Swap(group) => break group,
            klamm_log::cleaner::Step::Working { .. } => {}
            _ => panic!("there is a group"),
        }
    };
    drop(log.advance_log_start(Offset(30)).unwrap());
    assert!(log.replace_segments(&group).unwrap().is_none());
    cleaning.abandon().unwrap();
    let names = disk.list_dir(&dir()).unwrap();
    assert!(!names.iter().any(|entry| entry.name.contains("cleaned")), "{names:?}");
    assert_eq!(read_all(&log).1.len(), 30);
}

#[test]
fn a_cleaning_whose_segments_go_with_their_files_is_abandoned_and_not_a_failure() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk);
    log.flush().unwrap();
    let cleanable = range(&log, None, 5000);
    let mut cleaning = log.begin_cleaning(cleanable, settings(5000, 100)).unwrap();
    cleaning.step().unwrap();
    // Files that nobody uses are closed, and opened by their names again.
    (0..3).for_each(|_| log.close_idle_files());
    let removal = log.advance_log_start(Offset(30)).unwrap();
    removal.mark(true).unwrap();
    removal.unlink().unwrap();
    let last = loop {
        match cleaning.step().unwrap() {
            klamm_log::cleaner::Step::Working { .. } | klamm_log::cleaner::Step::Swap(_) => {}
            last => break last,
        }
    };
    assert!(matches!(last, klamm_log::cleaner::Step::Overtaken));
    cleaning.abandon().unwrap();
}

#[test]
fn corrupt_bytes_end_a_cleaning_and_are_not_written_again() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk);
    log.flush().unwrap();
    let size = log.view().load().1[0].size_bytes();
    disk.tamper(&file(0, ".log"), |bytes| bytes[size as usize - 5] ^= 1).unwrap();
    let error = clean(&mut log, None, settings(5000, 100)).unwrap_err().to_string();
    assert!(error.contains("00000000000000000000.log is corrupt at byte"), "{error}");
    assert!(error.contains("a wrong CRC"), "{error}");
    assert!(!log.is_poisoned());
}

#[test]
fn entries_of_older_formats_stay_as_they_are() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk);
    log.flush().unwrap();
    drop(log);
    // Magic 1, offset 0, key "k\0", value "old": in the place of the first batch.
    let mut entry = vec![0; 8];
    let body_bytes = 4 + 1 + 1 + 8 + 4 + 2 + 4 + 3;
    entry.extend(i32::to_be_bytes(body_bytes));
    entry.extend([0; 4]);
    entry.extend([1, 0]);
    entry.extend(5i64.to_be_bytes());
    entry.extend(2i32.to_be_bytes());
    entry.extend(key(0));
    entry.extend(3i32.to_be_bytes());
    entry.extend(b"old");
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &entry[16..]) as u32;
    entry[12..16].copy_from_slice(&crc.to_be_bytes());
    disk.tamper(&file(0, ".log"), |bytes| {
        let first = BatchHeader::parse(bytes).unwrap().batch_bytes as usize;
        bytes.splice(..first, entry.iter().copied());
    })
    .unwrap();
    for suffix in [".index", ".timeindex"] {
        disk.remove_file(&file(0, suffix)).unwrap();
    }
    let (mut log, _) = Log::open(open_with(&disk, config())).unwrap();
    clean(&mut log, None, settings(5000, 100)).unwrap();
    let bytes = disk.read_file(&file(0, ".log"), 1 << 20).unwrap();
    assert_eq!(bytes, entry, "all else in the segment is said again later");
}

#[test]
fn a_lost_transaction_index_makes_no_aborted_record_the_last_of_its_key() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    keyed(&mut log, b"a", Some(b"committed"));
    let (id, epoch) = (ProducerId(3), ProducerEpoch(0));
    let mut data = BatchBuilder::new().producer(id, epoch, 0).transactional();
    data.push(1, Some(b"a"), Some(b"aborted"), &[]);
    append(&mut log, &[trusted_batch(data.build()).unwrap()]).remove(0).unwrap();
    let marker: Bytes = BatchBuilder::end_transaction_marker(false, 0, id, epoch, 1).build();
    let plan = log.plan(&context(AppendOrigin::Coordinator), &[trusted_batch(marker).unwrap()]);
    log.write(plan).remove(0).unwrap();
    for n in 0..20u8 {
        keyed(&mut log, &key(n % 3), Some(&[n; 60]));
    }
    let before = committed_view(&log);
    assert_eq!(before[&b"a"[..]], b"committed");
    log.close().unwrap();
    disk.remove_file(&file(0, ".txnindex")).unwrap();
    let (mut log, _) = Log::open(open_with(&disk, config())).unwrap();
    log.expire_producers(WallMs(i64::MAX));
    for now_ms in [5000, 6000, 7000] {
        clean(&mut log, None, settings(now_ms, 100)).unwrap();
        assert_eq!(committed_view(&log), before);
    }
}
