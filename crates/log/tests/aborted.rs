//! A transaction index that is damaged or lost: no reader of committed records sees what was aborted.

#[path = "support/cleaning.rs"]
mod cleaning;
mod support;

use klamm_log::disk::{Disk, MemoryDisk};
use klamm_log::{AppendOrigin, Log, LogConfig, OpenLog, trusted_batch};
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::BatchBuilder;
use support::*;

fn config() -> LogConfig {
    LogConfig { segment_bytes: 700, index_interval_bytes: 100, ..small_config() }
}

/// Transactions of two producers, one of which spans segments, and where the segments begin.
fn filled() -> (MemoryDisk, Vec<i64>) {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    let mut sequences = [0; 2];
    for n in 0..40i64 {
        // The second one ends seldom: its transactions span segments.
        let producer = usize::from(n % 3 == 0);
        let id = ProducerId(1 + producer as i64);
        let ends = if producer == 1 { n % 15 == 12 } else { n % 4 == 1 };
        let batch = if ends {
            BatchBuilder::end_transaction_marker(n % 8 == 5, 0, id, ProducerEpoch(0), n).build()
        } else {
            let builder = BatchBuilder::new().producer(id, ProducerEpoch(0), sequences[producer]);
            sequences[producer] += 1;
            let mut builder = builder.transactional();
            builder.push(n, Some(b"k"), Some(&[b'v'; 60]), &[]);
            builder.build()
        };
        let plan = log.plan(&context(AppendOrigin::Coordinator), &[trusted_batch(batch).unwrap()]);
        log.write(plan).remove(0).unwrap();
        log.view().raise_high_watermark_to_end();
    }
    let bases = log.view().load().1.iter().map(|segment| segment.base_offset().0).collect();
    log.close().unwrap();
    (disk, bases)
}

type Damage = fn(&mut Vec<u8>);

/// Producer, first offset and marker's offset, as a reader from `from` is told.
type Listed = Vec<(i64, i64, i64)>;

/// What readers of a small region at each offset are told, and how many lists had to be made anew.
fn listed(log: &Log) -> (Vec<Listed>, usize) {
    let view = log.view();
    let end = view.limits().end;
    let mut repaired = Vec::new();
    let mut all = Vec::new();
    for from in 0..end.offset.0 {
        let region = view.read(Offset(from), end, 150, true).unwrap().unwrap();
        if !view.knows_aborted(&region) {
            view.check_aborted(&region, None, &mut repaired).unwrap();
        }
        assert!(view.knows_aborted(&region));
        let told = view.aborted_transactions(Offset(from), &region, end).unwrap();
        let mut told: Listed =
            told.iter().map(|one| (one.producer_id.0, one.first_offset.0, one.last_offset.0)).collect();
        told.sort_unstable();
        all.push(told);
    }
    (all, repaired.len())
}

fn open(disk: &MemoryDisk, was_clean: bool, point: i64) -> Log {
    let recovery_point = Offset(point);
    Log::open(OpenLog { was_clean, recovery_point, ..open_with(disk, config()) }).unwrap().0
}

#[test]
fn a_damaged_or_lost_index_hides_no_abort() {
    let (origin, bases) = filled();
    let end = 40;
    let (right, repaired) = listed(&open(&origin.fork(), true, end));
    assert_eq!(repaired, 0);
    assert!(right.iter().any(|told| !told.is_empty()), "{right:?}");
    let damages: [(&str, Damage); 5] = [
        ("empty", Vec::clear),
        ("cut", |bytes| bytes.truncate(bytes.len().saturating_sub(20))),
        ("cut by an entry", |bytes| bytes.truncate(bytes.len().saturating_sub(34))),
        ("garbage", |bytes| bytes.fill(0xa5)),
        ("zeros", |bytes| bytes.fill(0)),
    ];
    let mut damaged = 0;
    for base in &bases {
        let path = file(*base, ".txnindex");
        if !origin.exists(&path).unwrap() {
            continue;
        }
        for (what, damage) in
            damages.iter().map(|(what, damage)| (*what, Some(*damage))).chain([("lost", None)])
        {
            // A clean stop, and a kill with everything below the recovery point.
            for was_clean in [true, false] {
                let disk = origin.fork();
                match damage {
                    Some(damage) => disk.tamper(&path, damage).unwrap(),
                    None => disk.remove_file(&path).unwrap(),
                }
                damaged += 1;
                let log = open(&disk, was_clean, end);
                let (told, repaired) = listed(&log);
                assert_eq!(told, right, "{what} {}", path.display());
                assert_eq!(repaired, 1, "{what} {}", path.display());
                // It is written down with the next stop.
                log.close().unwrap();
                let (told, repaired) = listed(&open(&disk, true, end));
                assert_eq!((told, repaired), (right.clone(), 0), "{what} {}", path.display());
            }
        }
    }
    assert!(damaged > 30, "{damaged}");
}

#[test]
fn all_of_them_lost_with_all_snapshots() {
    let (disk, bases) = filled();
    let (right, _) = listed(&open(&disk.fork(), true, 40));
    for base in bases {
        for suffix in [".txnindex", ".snapshot"] {
            drop(disk.remove_file(&file(base, suffix)));
        }
    }
    let (told, repaired) = listed(&open(&disk, true, 40));
    assert_eq!(told, right);
    assert!(repaired > 1, "{repaired}");
}
