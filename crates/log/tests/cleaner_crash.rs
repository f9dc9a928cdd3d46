//! The power goes at every step of a cleaning and of the recovery behind it: a reader of the
//! last values never sees the difference.

#[path = "support/cleaning.rs"]
mod cleaning;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use cleaning::*;
use klamm_log::disk::{Disk, MemoryDisk};
use klamm_log::{AppendOrigin, Log, LogConfig, OpenLog, trusted_batch};
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::BatchBuilder;
use support::*;

fn config() -> LogConfig {
    LogConfig { is_compacted: true, segment_bytes: 900, index_interval_bytes: 100, ..small_config() }
}

/// Updates, tombstones, an aborted and a committed transaction, several segments.
fn filled() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    disk.sync_dir(Path::new("/")).unwrap();
    let (id, epoch) = (ProducerId(3), ProducerEpoch(0));
    for n in 0..42u8 {
        let mut builder = BatchBuilder::new();
        if n % 10 >= 8 {
            builder = builder.producer(id, epoch, i32::from(n / 10 * 2 + n % 10 - 8)).transactional();
        }
        let value = vec![n; 50];
        builder.push(1000, Some(&[n % 5]), (n % 7 != 3).then_some(&value), &[]);
        append(&mut log, &[trusted_batch(builder.build()).unwrap()]).remove(0).unwrap();
        if n % 10 == 9 {
            let marker = BatchBuilder::end_transaction_marker(n % 20 == 9, 0, id, epoch, 1000).build();
            let plan = log.plan(&context(AppendOrigin::Coordinator), &[trusted_batch(marker).unwrap()]);
            log.write(plan).remove(0).unwrap();
            log.view().raise_high_watermark_to_end();
        }
    }
    log.close().unwrap();
    disk
}

fn open(disk: &MemoryDisk, was_clean: bool) -> Log {
    let open = OpenLog { was_clean, ..open_with(disk, config()) };
    let (mut log, report) = Log::open(open).unwrap();
    assert!(report.truncations.is_empty(), "{report:?}");
    log.assign_leader_epoch(EPOCH).unwrap();
    log
}

type State = BTreeMap<Vec<u8>, Vec<u8>>;

struct Expected {
    state: State,
    before: Vec<Read>,
    after: Vec<Read>,
    end: i64,
    last_sequence: i32,
}

fn check(log: &Log, expected: &Expected, what: &str) {
    assert_eq!(log.view().limits().end.offset.0, expected.end, "{what}: the end");
    assert_eq!(committed_view(log), expected.state, "{what}: the last values");
    let sequence = log.producers().get(ProducerId(3)).unwrap().last_sequence();
    assert_eq!(sequence, expected.last_sequence, "{what}: the producer");
    let (_, records) = read_all(log);
    let was_there = |record: &Read| expected.before.iter().any(|other| other == record);
    assert!(records.iter().all(was_there), "{what}: nothing is new");
    assert!(records.is_sorted_by(|a, b| a.offset < b.offset), "{what}: nothing twice");
    let is_left = |record: &Read| records.iter().any(|other| other == record);
    assert!(expected.after.iter().all(is_left), "{what}: what must stay is there");
}

fn clean_all(log: &mut Log, now_ms: i64) -> Result<(), klamm_log::LogError> {
    clean(log, None, settings(now_ms, 100)).map(drop)
}

#[test]
fn a_power_cut_at_any_step_of_a_cleaning_changes_nothing_that_a_reader_sees() {
    let disk = filled();
    let mut log = open(&disk, true);
    let (before, sequence) = (read_all(&log).1, log.producers().get(ProducerId(3)).unwrap().last_sequence());
    let (state, end) = (committed_view(&log), log.view().limits().end.offset.0);
    let first = disk.steps_done();
    // The second cleaning joins segments, the third removes tombstones and markers.
    for now_ms in [2000, 2050, 3000] {
        clean_all(&mut log, now_ms).unwrap();
    }
    let steps = disk.steps_done() - first;
    let after = read_all(&log).1;
    assert!(after.len() * 2 < before.len(), "{} of {}", after.len(), before.len());
    let segments = log.view().load().1.len();
    assert!(segments < 4, "{segments}");
    let expected = Expected { state, before, after, end, last_sequence: sequence };
    check(&log, &expected, "without a cut");
    let origin = filled();
    for step in 0..steps {
        let disk = origin.fork();
        let mut log = open(&disk, true);
        disk.cut_power_after(step);
        let result = [2000, 2050, 3000].into_iter().try_for_each(|now_ms| clean_all(&mut log, now_ms));
        assert!(result.is_err() && disk.is_off(), "step {step} of {steps}");
        drop(log);
        for draw in 0..8 {
            let seed = step * 8 + draw;
            let what = format!("step {step}, seed {seed}");
            let mut found = disk.after_power_cut(seed);
            if draw % 2 == 1 {
                // Recovery is cut too, at one of its steps.
                found.cut_power_after(step % 11);
                drop(Log::open(OpenLog { was_clean: false, ..open_with(&found, config()) }));
                found = found.after_power_cut(seed);
            }
            let mut log = open(&found, false);
            check(&log, &expected, &what);
            let names = found.list_dir(&dir()).unwrap();
            let is_leftover = |name: &str| name.ends_with(".cleaned") || name.ends_with(".swap");
            assert!(!names.iter().any(|entry| is_leftover(&entry.name)), "{what}: {names:?}");
            if draw == 0 {
                [2000, 2050, 3000].into_iter().try_for_each(|now_ms| clean_all(&mut log, now_ms)).unwrap();
                check(&log, &expected, &what);
            }
        }
    }
}

#[test]
fn a_failed_swap_ends_the_log_and_a_failed_rewrite_does_not() {
    let origin = filled();
    let disk = origin.fork();
    let mut log = open(&disk, true);
    disk.inject(klamm_log::disk::Fault::Rename(std::io::ErrorKind::Other));
    clean_all(&mut log, 2000).unwrap_err();
    assert!(log.is_poisoned());
    let disk = origin.fork();
    let mut log = open(&disk, true);
    let state = committed_view(&log);
    disk.inject(klamm_log::disk::Fault::Write(std::io::ErrorKind::StorageFull));
    clean_all(&mut log, 2000).unwrap_err();
    assert!(!log.is_poisoned());
    clean_all(&mut log, 2000).unwrap();
    assert_eq!(committed_view(&log), state);
}

#[test]
fn a_recovery_point_that_lies_in_a_gap_makes_nothing_corrupt() {
    // Without index entries everything is walked from a segment's beginning.
    let config = || LogConfig { index_interval_bytes: 1 << 20, ..config() };
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    for (n, key) in b"xaaaabaaaaccccaaaa".iter().enumerate() {
        let mut builder = BatchBuilder::new();
        builder.push(1000 - n as i64, Some(&[*key]), Some(&[b'v'; 40]), &[]);
        append(&mut log, &[trusted_batch(builder.build()).unwrap()]).remove(0).unwrap();
    }
    clean_all(&mut log, 2000).unwrap();
    let end = log.view().limits().end;
    let offsets: Vec<i64> = read_all(&log).1.iter().map(|record| record.offset).collect();
    assert_eq!(offsets[..2], [0, 5], "there is a gap in the first segment: {offsets:?}");
    drop(log);
    for point in 0..=end.offset.0 {
        let recovery_point = Offset(point);
        let open = OpenLog { was_clean: false, recovery_point, ..open_with(&disk.fork(), config()) };
        let (log, report) = Log::open(open).unwrap();
        assert!(report.corrupt.is_empty() && report.truncations.is_empty(), "{point}: {report:?}");
        assert_eq!(read_all(&log).1.iter().map(|record| record.offset).collect::<Vec<_>>(), offsets);
    }
}
