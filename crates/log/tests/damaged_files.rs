//! Every kind of file in a partition's directory, damaged in every way: the log opens, serves
//! what was written, and says what it met.
//!
//! | file | missing | empty | truncated | garbage | stale |
//! |---|---|---|---|---|---|
//! | `.index`, `.timeindex` of a closed segment | rebuilt | walked | a proposal | a proposal | a proposal |
//! | `.index`, `.timeindex` of the active segment | rebuilt | rebuilt | continued | rebuilt | continued |
//! | `.snapshot` | an older one | passed over | passed over | passed over | passed over or replayed |
//! | `leader-epoch-checkpoint` | as none | as none | ignored | ignored | as it is, or ignored |
//! | `.txnindex` | as none | as none | up to the cut | up to the garbage | rebuilt behind the snapshot |
//!
//! The directory's own files (recovery points, log starts, the clean stop's mark) are the
//! broker's tests'.

mod support;

use klamm_log::disk::{Disk, MemoryDisk};
use klamm_log::{Log, LogConfig, OpenLog, ReadError, RecoveryReport, Tail};
use klamm_protocol::ids::Offset;
use support::*;

const DAMAGES: [&str; 5] = ["missing", "empty", "truncated", "garbage", "stale"];

fn config() -> LogConfig {
    LogConfig { index_interval_bytes: 300, ..small_config() }
}

/// Idempotent batches in several segments; closed or killed. The stale state of each file is that
/// of half the batches.
struct Stored {
    disk: MemoryDisk,
    earlier: MemoryDisk,
    model: Model,
    bases: Vec<i64>,
}

fn stored(is_killed: bool) -> Stored {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    let mut model = Model::default();
    let mut earlier = None;
    for n in 0..34 {
        let batch = idempotent(7, 0, n, &[i64::from(n)]);
        append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
        model.append(&batch, &[i64::from(n)]).unwrap();
        if n == 31 {
            log.prepare_recovery_point().unwrap();
            log.snapshot_producers().unwrap();
            log.flush().unwrap();
            earlier = Some(disk.fork());
        }
    }
    let bases: Vec<i64> = log.view().load().1.iter().map(|segment| segment.base_offset().0).collect();
    log.prepare_recovery_point().unwrap();
    log.flush().unwrap();
    if is_killed {
        drop(log);
    } else {
        log.close().unwrap();
    }
    Stored { disk, earlier: earlier.unwrap(), model, bases }
}

fn damage(stored: &Stored, disk: &MemoryDisk, name: &std::path::Path, how: &str) {
    match how {
        "missing" => disk.remove_file(name).unwrap(),
        "stale" => {
            let before = stored.earlier.read_file(name, 1 << 20).unwrap_or_default();
            disk.write_file_atomically(name, &before).unwrap();
        }
        _ => disk
            .tamper(name, |bytes| match how {
                "empty" => bytes.clear(),
                "truncated" => bytes.truncate((bytes.len() * 2 / 3).max(1)),
                _ => {
                    let mut x = 7u8;
                    bytes.iter_mut().for_each(|byte| {
                        x = x.wrapping_mul(73).wrapping_add(41);
                        *byte = x;
                    });
                }
            })
            .unwrap(),
    }
}

fn reopened(stored: &Stored, disk: &MemoryDisk, is_killed: bool) -> (Log, RecoveryReport) {
    let open = OpenLog {
        was_clean: !is_killed,
        recovery_point: Offset(stored.model.end),
        ..open_with(disk, config())
    };
    Log::open(open).unwrap()
}

/// Whatever is damaged but the batches, all of them are served, and by their timestamps too.
fn check(what: &str, log: &Log, stored: &Stored, report: &RecoveryReport) {
    println!("{what}: {report:?}");
    assert_eq!((&report.truncations[..], &report.corrupt[..]), (&[][..], &[][..]), "{what}");
    check_reads(log, &stored.model, 300);
    for asked in [0, 5, 17, 33, 34] {
        check_timestamps(log, &stored.model, asked);
    }
    check_producers(log, &stored.model);
    let view = log.view();
    let mut found = Vec::new();
    for offset in 0..stored.model.end {
        view.read_checked(Offset(offset), view.limits().end, 1, true, &mut found).unwrap().unwrap();
    }
    assert_eq!(found, [], "{what}");
}

/// Damages one file in every way after either kind of stop.
fn every_damage(
    name: impl Fn(&Stored) -> std::path::PathBuf,
    is_told: impl Fn(&RecoveryReport, &str) -> bool,
) {
    for is_killed in [false, true] {
        let stored = stored(is_killed);
        let name = name(&stored);
        assert!(stored.disk.exists(&name).unwrap(), "{}", name.display());
        for how in DAMAGES {
            let disk = stored.disk.fork();
            damage(&stored, &disk, &name, how);
            let what = format!("{} {how}, killed: {is_killed}", name.display());
            let (mut log, report) = reopened(&stored, &disk, is_killed);
            check(&what, &log, &stored, &report);
            assert!(is_told(&report, how), "{what}: {report:?}");
            let next = stored.model.end;
            let placed = append(&mut log, &[idempotent(7, 0, next as i32, &[99])]);
            assert_eq!(placed[0].as_ref().unwrap().base_offset.0, next, "{what}");
            log.close().unwrap();
            let mut second =
                Stored { disk: disk.clone(), earlier: stored.earlier.fork(), ..stored_like(&stored) };
            second.model.append(&idempotent(7, 0, next as i32, &[99]), &[99]).unwrap();
            let (log, report) = reopened(&second, &disk, false);
            check_reads(&log, &second.model, 300);
            assert_eq!(report.rebuilt_indexes, [] as [std::path::PathBuf; 0], "healed: {what}");
        }
    }
}

fn stored_like(stored: &Stored) -> Stored {
    Stored {
        disk: stored.disk.clone(),
        earlier: stored.earlier.clone(),
        model: stored.model.clone(),
        bases: stored.bases.clone(),
    }
}

#[test]
fn a_closed_segments_offset_index() {
    every_damage(
        |s| file(s.bases[1], ".index"),
        |report, how| (how == "missing") != report.rebuilt_indexes.is_empty(),
    );
}

#[test]
fn a_closed_segments_time_index() {
    every_damage(
        |s| file(s.bases[1], ".timeindex"),
        |report, how| (how == "missing") != report.rebuilt_indexes.is_empty(),
    );
}

#[test]
fn the_active_segments_indexes() {
    for suffix in [".index", ".timeindex"] {
        every_damage(|s| file(*s.bases.last().unwrap(), suffix), |_, _| true);
    }
}

#[test]
fn the_newest_producer_snapshot() {
    let newest = |s: &Stored| {
        let names = s.disk.list_dir(&dir()).unwrap();
        dir().join(&names.iter().rfind(|entry| entry.name.ends_with(".snapshot")).unwrap().name)
    };
    every_damage(newest, |report, how| {
        ["missing", "stale"].contains(&how) || !report.bad_snapshots.is_empty()
    });
}

#[test]
fn the_leader_epochs() {
    every_damage(
        |_| dir().join("leader-epoch-checkpoint"),
        |report, how| (["truncated", "garbage"].contains(&how)) != report.ignored.is_empty(),
    );
}

#[test]
fn epochs_that_contradict_the_batches_are_left_out_of_account() {
    let stored = stored(false);
    let disk = stored.disk.fork();
    disk.write_file_atomically(&dir().join("leader-epoch-checkpoint"), b"0\n2\n0 0\n5 3\n").unwrap();
    let (log, report) = reopened(&stored, &disk, false);
    assert_eq!(report.ignored, [dir().join("leader-epoch-checkpoint")]);
    check("wrong epochs", &log, &stored, &report);
}

#[test]
fn index_files_that_a_killed_kafka_preallocated() {
    for is_killed in [false, true] {
        let stored = stored(is_killed);
        for base in &stored.bases {
            for suffix in [".index", ".timeindex"] {
                stored.disk.tamper(&file(*base, suffix), |bytes| bytes.resize(10 << 20, 0)).unwrap();
            }
        }
        let (log, report) = reopened(&stored, &stored.disk, is_killed);
        check("10 MiB of zeros", &log, &stored, &report);
        assert_eq!(report.rebuilt_indexes.len(), 0);
        let last = *stored.bases.last().unwrap();
        log.close().unwrap();
        let len = stored.disk.metadata(&file(last, ".index")).unwrap().len_bytes;
        assert!(len < 1000, "cut to what is an index: {len}");
    }
}

#[test]
fn a_corrupt_batch_at_the_end_of_a_cleanly_stopped_log_is_not_cut() {
    // Its length, so that nothing behind can be found by walking; then its base offset.
    for byte in [10, 6] {
        for back in [1, 2] {
            let stored = stored(false);
            let last = *stored.bases.last().unwrap();
            let batch_bytes = stored.model.batches[0].bytes.len();
            let path = file(last, ".log");
            stored
                .disk
                .tamper(&path, |bytes| {
                    let at = bytes.len() - back * batch_bytes;
                    bytes[at + byte] ^= 0x40;
                })
                .unwrap();
            let len = stored.disk.metadata(&path).unwrap().len_bytes;
            for is_killed in [false, true] {
                let disk = stored.disk.fork();
                let (mut log, report) = reopened(&stored, &disk, is_killed);
                let what = format!("byte {byte}, {back} back, killed: {is_killed}: {report:?}");
                assert_eq!(report.truncations, [], "{what}");
                assert_eq!(disk.metadata(&path).unwrap().len_bytes, len, "{what}");
                assert_eq!(log.view().limits().end.offset.0, stored.model.end, "{what}");
                append(&mut log, &[idempotent(7, 0, stored.model.end as i32, &[9])])[0].as_ref().unwrap();
                let view = log.view();
                let mut found = Vec::new();
                for offset in 0..=stored.model.end {
                    let read = view.read_checked(Offset(offset), view.limits().end, 1, true, &mut found);
                    match read {
                        Err(ReadError::Quarantined { .. }) => {
                            assert_eq!(offset, stored.model.end - back as i64, "{what}");
                        }
                        read => assert_eq!(read.unwrap().unwrap().base_offset.0, offset, "{what}"),
                    }
                }
                assert!(
                    view.read_checked(
                        Offset(stored.model.end - back as i64),
                        view.limits().end,
                        1,
                        true,
                        &mut found
                    )
                    .is_err()
                );
            }
        }
    }
}

#[test]
fn a_log_that_lost_its_durable_end_says_so() {
    let stored = stored(true);
    let last = *stored.bases.last().unwrap();
    let batch_bytes = stored.model.batches[0].bytes.len();
    for zeros in [0, 5000] {
        let disk = stored.disk.fork();
        disk.tamper(&file(last, ".log"), |bytes| {
            bytes.truncate(bytes.len() - 2 * batch_bytes);
            bytes.resize(bytes.len() + zeros, 0);
        })
        .unwrap();
        let (log, report) = reopened(&stored, &disk, true);
        assert_eq!(log.view().limits().end.offset.0, stored.model.end - 2);
        let [place] = &report.corrupt[..] else { panic!("{report:?}") };
        assert!(place.reason.contains("durably"), "{place:?}");
        assert!(report.truncations.iter().all(|cut| cut.tail == Tail::Zeros), "{report:?}");
    }
}

#[test]
fn a_batch_with_an_offset_behind_the_end_leads_no_limit_there() {
    let stored = stored(false);
    let disk = stored.disk.fork();
    disk.tamper(&file(0, ".log"), |bytes| bytes[..8].copy_from_slice(&(1i64 << 40).to_be_bytes())).unwrap();
    for high_watermark in (0..stored.model.end).map(Offset) {
        let open = OpenLog { high_watermark: Some(high_watermark), ..open_with(&disk.fork(), config()) };
        let (log, report) = Log::open(open).unwrap();
        // The first batch alone is not where it was.
        let expected = if high_watermark == Offset(0) { Offset(0) } else { high_watermark };
        assert_eq!(log.view().limits().high_watermark.offset, expected, "{report:?}");
    }
}
