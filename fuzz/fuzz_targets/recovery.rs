//! A partition's directory with anything in it: opening it neither panics nor hangs nor takes
//! memory without end; what opens is read, appended to and stopped, and opens again with
//! nothing new to complain about.
//!
//! The input is how to open it, then edits of a log that is intact or of an empty directory:
//! bytes changed, files cut, filled with zeros, removed, renamed, made with any name, and
//! checksums made right so that the fuzzer gets past them.
#![no_main]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use klamm_log::disk::{Disk, MemoryDisk, OpenMode, write_all_at};
use klamm_log::{
    AppendContext, AppendOrigin, Log, LogConfig, OpenLog, ReadError, RecoveryReport, TransactionClaim,
    trusted_batch,
};
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId, Uuid};
use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchBuilder, BatchHeader};
use klamm_protocol::time::WallMs;
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/logs/t-0";
const NOW: WallMs = WallMs(1_000);
const EDITS_MAX: usize = 16;
/// More reads than any input has batches.
const READS_MAX: usize = 100_000;
const SUFFIXES: [&str; 12] = [
    ".log", ".index", ".timeindex", ".txnindex", ".snapshot", ".log.swap", ".log.cleaned", ".index.swap",
    ".txnindex.swap", ".log.deleted", ".txnindex.cleaned", ".log.corrupt-0",
];
const NAMES: [&str; 3] = ["leader-epoch-checkpoint", "partition.metadata", "leader-epoch-checkpoint.tmp"];

/// What is left of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// Mostly within the log, sometimes anywhere.
    fn offset(&mut self) -> i64 {
        match self.byte() {
            // As far as a checkpoint file is believed.
            255 => self.take(8).iter().fold(0, |sum, byte| sum << 8 | i64::from(*byte)) & (i64::MAX >> 1),
            small => i64::from(small),
        }
    }

    fn name(&mut self, known: &[String]) -> String {
        let pick = |list: &[String], at: u8| list.get(usize::from(at) % list.len().max(1)).cloned();
        match self.byte() {
            kind @ 0..120 => {
                let suffix = SUFFIXES[usize::from(kind) % SUFFIXES.len()];
                format!("{:020}{suffix}", self.offset())
            }
            kind @ 120..160 => NAMES[usize::from(kind) % NAMES.len()].to_owned(),
            at @ 160..240 => pick(known, at).unwrap_or_else(|| "x".to_owned()),
            _ => {
                let count = usize::from(self.byte() % 40);
                let name = String::from_utf8_lossy(self.take(count)).replace(['/', '\0'], "_");
                if name.is_empty() || name == "." || name == ".." { "x".to_owned() } else { name }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let disk = if flags & 1 == 0 { intact().fork() } else { empty() };
    let open = OpenLog {
        recovery_point: Offset(input.offset()),
        log_start: Offset(input.offset()),
        high_watermark: (flags & 2 != 0).then(|| Offset(input.offset())),
        was_clean: flags & 4 != 0,
        config: LogConfig { is_compacted: flags & 8 != 0, ..config() },
        ..options(&disk)
    };
    for _ in 0..EDITS_MAX {
        if input.0.is_empty() {
            break;
        }
        edit(&disk, &mut input);
    }
    let Ok((log, first)) = Log::open(open.clone()) else {
        // Refused: it may not be worse the next time.
        let _ = Log::open(open);
        return;
    };
    let mut bad: BTreeSet<PathBuf> = first.corrupt.iter().map(|place| place.path.clone()).collect();
    read(&log, &mut bad);
    let Some(end) = append_and_close(log, &mut bad) else { return };
    for was_clean in [true, false] {
        let recovery_point = Offset(end);
        let again = OpenLog { recovery_point, was_clean, high_watermark: None, ..open.clone() };
        let (log, report) = Log::open(again).expect("what was closed can be opened");
        check_again(&report, &bad, open.log_start);
        assert_eq!(log.view().limits().end.offset.0, end, "the end stays");
        read(&log, &mut bad);
    }
});

fn config() -> LogConfig {
    LogConfig { segment_bytes: 1_500, index_interval_bytes: 250, ..LogConfig::default() }
}

fn options(disk: &MemoryDisk) -> OpenLog {
    OpenLog {
        disk: Arc::new(disk.clone()),
        dir: PathBuf::from(DIR),
        topic_id: TopicId(Uuid(5000)),
        config: config(),
        recovery_point: Offset(0),
        log_start: Offset(0),
        high_watermark: None,
        was_clean: true,
        now: NOW,
    }
}

fn empty() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("a directory");
    disk
}

/// A stopped log of a few segments in two epochs, with producers and transactions.
fn intact() -> &'static MemoryDisk {
    static INTACT: OnceLock<MemoryDisk> = OnceLock::new();
    INTACT.get_or_init(|| {
        let disk = MemoryDisk::new();
        let mut log = Log::create(options(&disk)).expect("a log");
        let mut sequence = 0;
        for n in 0..20 {
            let epoch = LeaderEpoch(n / 10);
            log.assign_leader_epoch(epoch).expect("an epoch");
            let mut batch = BatchBuilder::new();
            if n % 3 == 1 {
                let (producer_id, producer_epoch) = (ProducerId(7), ProducerEpoch(0));
                let claim = TransactionClaim {
                    producer_id,
                    producer_epoch,
                    base_sequence: sequence,
                    bumps_epoch: false,
                };
                if let Some(ticket) = log.begin_verification(&claim, NOW).expect("a new epoch") {
                    log.confirm_verification(producer_id, producer_epoch, ticket);
                }
                batch = batch.producer(producer_id, producer_epoch, sequence).transactional();
                sequence += 2;
            }
            for record in 0..2 {
                batch.push(i64::from(n), Some(&[b'a' + record]), Some(&[b'v'; 90]), &[]);
            }
            let bytes = if n % 6 == 5 {
                let (id, epoch) = (ProducerId(7), ProducerEpoch(0));
                BatchBuilder::end_transaction_marker(n % 12 == 5, 0, id, epoch, 1).build()
            } else {
                batch.build()
            };
            append(&mut log, epoch, bytes).expect("appended");
        }
        log.close().expect("closed");
        disk
    })
}

fn append(log: &mut Log, leader_epoch: LeaderEpoch, bytes: bytes::Bytes) -> Result<(), String> {
    let context = AppendContext { now: NOW, leader_epoch, origin: AppendOrigin::Coordinator };
    let plan = log.plan(&context, &[trusted_batch(bytes).expect("a batch of our own")]);
    let result = log.write(plan).remove(0).map(drop).map_err(|error| error.to_string());
    log.view().raise_high_watermark_to_end();
    result
}

fn edit(disk: &MemoryDisk, input: &mut Input<'_>) {
    let names: Vec<String> =
        disk.list_dir(Path::new(DIR)).expect("a directory").into_iter().map(|entry| entry.name).collect();
    let kind = input.byte() % 8;
    let path = Path::new(DIR).join(input.name(&names));
    match kind {
        0 | 1 => {
            let (at, count) = (input.number(), usize::from(input.byte() % 64));
            let bytes = input.take(count);
            let _ = disk.tamper(&path, |file| {
                let at = at.min(file.len());
                let end = (at + bytes.len()).min(file.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
            });
        }
        2 => {
            let len = input.number();
            let _ = disk.tamper(&path, |file| file.truncate(len));
        }
        3 => {
            let count = input.number();
            let _ = disk.tamper(&path, |file| file.resize(file.len() + count, 0));
        }
        4 => drop(disk.remove_file(&path)),
        5 => {
            let to = Path::new(DIR).join(input.name(&names));
            drop(disk.rename(&path, &to));
        }
        6 => {
            let count = input.number() % 2_048;
            let bytes = input.take(count);
            if let Ok(file) = disk.open(&path, OpenMode::Create) {
                file.set_len(0).and_then(|()| write_all_at(&*file, bytes, 0)).expect("room");
            }
        }
        _ => {
            let batch = input.byte();
            let _ = disk.tamper(&path, |file| seal(file, batch));
        }
    }
}

/// Makes the checksum of a batch right.
fn seal(file: &mut [u8], batch: u8) {
    let mut at = 0;
    for n in 0..=batch {
        let Ok(mut header) = BatchHeader::parse(&file[at..]) else { return };
        let end = at + header.batch_bytes as usize;
        if end > file.len() || header.batch_bytes < BATCH_HEADER_BYTES as u32 {
            return;
        }
        if n == batch {
            header.crc = header.crc_of(&file[at + BATCH_HEADER_BYTES..end]);
            header.write_to(file[at..].first_chunk_mut().expect("a header was parsed"));
        }
        at = end;
    }
}

/// Everything, as a consumer does that steps over what is refused.
fn read(log: &Log, bad: &mut BTreeSet<PathBuf>) {
    let view = log.view();
    let limits = view.limits();
    let mut from = limits.log_start;
    let mut found = Vec::new();
    for reads in 0.. {
        assert!(reads < READS_MAX, "reading does not end");
        match view.read_checked(from, limits.end, 4_096, true, &mut found) {
            Ok(None) => break,
            Ok(Some(region)) => {
                let bytes = region.read().expect("the file is there");
                let _ = view.aborted_transactions(from, &region, limits.end);
                let Ok(header) = BatchHeader::parse(&bytes) else { break };
                assert!(header.next_offset() > from, "a read goes on");
                from = header.next_offset();
            }
            Err(ReadError::Quarantined { path, range }) => {
                bad.insert(path);
                assert!(range.end_offset > from, "what is refused ends");
                from = range.end_offset;
            }
            Err(ReadError::Corrupt { path, .. }) => {
                bad.insert(path);
                break;
            }
            Err(_) => break,
        }
    }
    bad.extend(found.into_iter().map(|corruption| corruption.path));
    for timestamp in [0, 7, i64::MAX] {
        let _ = view.offset_for_timestamp(timestamp, limits.end);
    }
}

/// Where the log ends then; `None` if it says that it cannot go on.
fn append_and_close(mut log: Log, bad: &mut BTreeSet<PathBuf>) -> Option<i64> {
    let epoch = LeaderEpoch(log.view().latest_epoch().map_or(0, |epoch| epoch.0.saturating_add(1)));
    log.assign_leader_epoch(epoch).ok()?;
    for n in 0..12 {
        let mut batch = BatchBuilder::new();
        batch.push(n, Some(b"k"), Some(&[b'w'; 200]), &[]);
        append(&mut log, epoch, batch.build()).ok()?;
    }
    read(&log, bad);
    let end = log.view().limits().end.offset.0;
    log.close().ok()?;
    Some(end)
}

fn check_again(report: &RecoveryReport, bad: &BTreeSet<PathBuf>, log_start: Offset) {
    assert!(report.truncations.is_empty() && report.ignored.is_empty(), "{report:?}");
    // A segment that ended at the log start goes once another one follows it.
    let base = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
    let is_below = |path: &PathBuf| base(path).is_some_and(|base: i64| base < log_start.0);
    assert!(report.leftovers.iter().all(is_below), "{report:?}");
    assert!(report.bad_snapshots.is_empty(), "{report:?}");
    let is_known = |place: &klamm_log::CorruptPlace| bad.contains(&place.path);
    assert!(report.corrupt.iter().all(is_known), "{report:?} after {bad:?}");
}
