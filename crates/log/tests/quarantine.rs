//! What is quarantined stops no start and leads no limit where it does not belong; what is set aside stays.

mod support;

use klamm_log::disk::{Disk, MemoryDisk};
use klamm_log::{Log, LogConfig, LogCopy, OpenLog, ReadError, RecoveryReport, Tail};
use klamm_protocol::ids::{Offset, TopicId, Uuid};
use support::*;

/// Every way in which a batch can be broken: offset, length, epoch, magic, CRC, records.
const BYTES: [usize; 7] = [2, 7, 9, 15, 16, 18, 80];

/// Batches of three records, from two producers, in segments of several.
fn stopped(batches: usize, config: &LogConfig) -> (MemoryDisk, Model) {
    stopped_with(batches, 3, config)
}

fn stopped_with(batches: usize, records: usize, config: &LogConfig) -> (MemoryDisk, Model) {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config.clone());
    let mut model = Model::default();
    for n in 0..batches {
        let timestamps = vec![n as i64; records];
        let batch = idempotent(7, 0, (n * records) as i32, &timestamps);
        append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
        model.append(&batch, &timestamps).unwrap();
    }
    log.close().unwrap();
    (disk, model)
}

fn position(model: &Model, index: usize, segment: i64) -> usize {
    let before = model.batches[..index].iter().filter(|one| one.header.base_offset.0 >= segment);
    before.map(|one| one.bytes.len()).sum()
}

/// Everything but the batches at `bad` is served; tells how many of those offsets are refused.
fn check(log: &Log, model: &Model, bad: &[usize], what: &str) -> usize {
    let view = log.view();
    let limits = view.limits();
    assert_eq!(limits.end.offset.0, model.end, "{what}");
    let mut found = Vec::new();
    let mut refused = 0;
    for (index, batch) in model.batches.iter().enumerate() {
        for offset in batch.header.base_offset.0.max(limits.log_start.0)..batch.header.next_offset().0 {
            let read = view.read_checked(Offset(offset), limits.end, 1, true, &mut found);
            match read {
                Err(ReadError::Quarantined { .. }) => {
                    assert!(bad.contains(&index), "offset {offset}, {what}");
                    refused += 1;
                }
                read => {
                    assert!(!bad.contains(&index), "offset {offset}, {what}");
                    assert_eq!(read.unwrap().unwrap().read().unwrap(), batch.bytes, "{what}");
                }
            }
        }
    }
    refused
}

#[test]
fn a_log_start_or_a_watermark_in_what_is_corrupt_stops_no_start() {
    let (disk, model) = stopped(12, &small_config());
    let (bad, segment) = (5, 12);
    assert!(disk.exists(&file(segment, ".log")).unwrap());
    let at = position(&model, bad, segment);
    let first = model.batches[bad].header.base_offset.0;
    for byte in BYTES {
        let disk = disk.fork();
        disk.tamper(&file(segment, ".log"), |bytes| bytes[at + byte] ^= 4).unwrap();
        for offset in first - 1..first + 4 {
            for (was_clean, has_snapshot) in [(true, true), (false, true), (false, false)] {
                let disk = disk.fork();
                if !has_snapshot {
                    for entry in disk.list_dir(&dir()).unwrap() {
                        if entry.name.ends_with(".snapshot") {
                            disk.remove_file(&dir().join(entry.name)).unwrap();
                        }
                    }
                }
                let open = OpenLog {
                    was_clean,
                    recovery_point: Offset(model.end),
                    log_start: Offset(offset),
                    high_watermark: Some(Offset(offset)),
                    ..open_with(&disk, small_config())
                };
                let what = format!("byte {byte}, offset {offset}, clean: {was_clean}, {has_snapshot}");
                let (log, report) = Log::open(open).unwrap_or_else(|error| panic!("{what}: {error}"));
                let what = format!("{what}: {report:?}");
                let limits = log.view().limits();
                assert_eq!((limits.log_start.0, limits.high_watermark.offset.0), (offset, offset), "{what}");
                let expected = (first.max(offset)..first + 3).count();
                assert_eq!(check(&log, &model, &[bad], &what), expected, "{what}");
                assert_eq!(report.truncations, [], "{what}");
            }
        }
    }
}

#[test]
fn a_watermark_never_rises_over_what_is_corrupt() {
    let (disk, model) = stopped(12, &small_config());
    let (bad, segment) = (5, 12);
    let at = position(&model, bad, segment);
    let first = model.batches[bad].header.base_offset.0;
    // No length: only a look finds where the next one begins.
    disk.tamper(&file(segment, ".log"), |bytes| bytes[at + 9] ^= 4).unwrap();
    for asked in first - 3..first + 6 {
        let open = OpenLog { high_watermark: Some(Offset(asked)), ..open_with(&disk, small_config()) };
        let (log, _) = Log::open(open).unwrap();
        let is = log.view().limits().high_watermark.offset.0;
        // Where the batch with that offset begins, or the bad one.
        assert_eq!(is, asked - asked % 3, "asked for {asked}");
    }
}

#[test]
fn however_much_is_corrupt_a_start_goes_on() {
    // So large that a look at one finds no other.
    const RECORDS: usize = 400;
    let config = LogConfig { segment_bytes: 16 << 20, ..small_config() };
    let (disk, model) = stopped_with(40, RECORDS, &config);
    let bad: Vec<usize> = (1..40).step_by(2).collect();
    disk.tamper(&file(0, ".log"), |bytes| {
        for index in &bad {
            bytes[position(&model, *index, 0) + 16] = 9;
        }
    })
    .unwrap();
    for entry in disk.list_dir(&dir()).unwrap() {
        if entry.name.ends_with(".snapshot") {
            disk.remove_file(&dir().join(entry.name)).unwrap();
        }
    }
    for was_clean in [true, false] {
        let disk = disk.fork();
        let open =
            OpenLog { was_clean, recovery_point: Offset(model.end), ..open_with(&disk, config.clone()) };
        let (log, report) = Log::open(open).unwrap();
        let what = format!("clean: {was_clean}, {report:?}");
        assert_eq!(check(&log, &model, &bad, &what), bad.len() * RECORDS);
        assert_eq!(report.truncations, [], "{what}");
    }
}

fn kept(report: &RecoveryReport) -> std::path::PathBuf {
    match &report.truncations[..] {
        [cut] => match &cut.tail {
            Tail::Corrupt { kept, .. } => kept.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_batch_of_a_segment_is_no_torn_write_while_another_segment_follows() {
    let (disk, model) = stopped(12, &small_config());
    let (bad, segment) = (3, 0);
    assert!(disk.exists(&file(12, ".log")).unwrap());
    let at = position(&model, bad, segment);
    disk.tamper(&file(segment, ".log"), |bytes| bytes[at + 80] ^= 4).unwrap();
    let tail = disk.read_file(&file(segment, ".log"), 1 << 20).unwrap().split_off(at);
    let (log, report) = reopen_unclean(&disk, small_config(), Offset(0));
    assert_eq!(log.view().limits().end.offset, Offset(9), "{report:?}");
    let Tail::Corrupt { kept, .. } = &report.truncations[0].tail else { panic!("{report:?}") };
    assert_eq!(disk.read_file(kept, 1 << 20).unwrap(), tail);
}

#[test]
fn a_tail_that_was_set_aside_is_not_written_over_by_the_next_one() {
    let config = LogConfig { segment_bytes: 1 << 20, ..small_config() };
    let (disk, model) = stopped(6, &config);
    let at = position(&model, 2, 0);
    let mut tails = Vec::new();
    for n in 0..3 {
        let batch = idempotent(7, 0, 6, &[2; 3]);
        disk.tamper(&file(0, ".log"), |bytes| bytes[at + 80] ^= 1 << n).unwrap();
        let tail = disk.read_file(&file(0, ".log"), 1 << 20).unwrap().split_off(at);
        let (mut log, report) = reopen_unclean(&disk, config.clone(), Offset(0));
        tails.push((kept(&report), tail));
        for (path, tail) in &tails {
            assert_eq!(disk.read_file(path, 1 << 20).unwrap(), *tail, "{}", path.display());
        }
        for _ in 0..2 {
            append(&mut log, &[plain(&[n, n, n])]);
        }
        drop((log, batch));
    }
    // They go where the log goes.
    let (log, _) = reopen_unclean(&disk, config, Offset(0));
    let to = std::path::Path::new("/logs/t-0.future");
    let copy = LogCopy::begin(std::sync::Arc::new(disk.clone()), &dir(), to, TopicId(Uuid(5000))).unwrap();
    let view = log.view();
    log.close().unwrap();
    copy.finish(&view).unwrap();
    for (path, tail) in tails {
        assert_eq!(disk.read_file(&to.join(path.file_name().unwrap()), 1 << 20).unwrap(), tail);
    }
}

#[test]
fn a_segment_that_was_set_aside_is_not_written_over_by_the_next_one() {
    let config = small_config();
    let (disk, _) = stopped(12, &config);
    let mut kept = Vec::new();
    for n in 0..2i64 {
        // A start behind the end: all segments are set aside.
        let segment = disk.read_file(&file(0, ".log"), 1 << 20).unwrap();
        let open = OpenLog { log_start: Offset(1 << 40), ..open_with(&disk, config.clone()) };
        let (log, report) = Log::open(open).unwrap();
        drop(log);
        disk.remove_file(&file(1 << 40, ".log")).unwrap();
        let Tail::Corrupt { kept: path, .. } = &report.truncations[0].tail else { panic!("{report:?}") };
        kept.push((path.clone(), segment));
        let mut log = Log::open(open_with(&disk, config.clone())).unwrap().0;
        append(&mut log, &[plain(&[n])])[0].as_ref().unwrap();
        log.close().unwrap();
    }
    for (path, bytes) in kept {
        assert_eq!(disk.read_file(&path, 1 << 20).unwrap(), bytes, "{}", path.display());
    }
}

#[test]
fn a_log_that_begins_anew_knows_no_producer_of_before() {
    for begins_at in [3, 100] {
        let disk = MemoryDisk::new();
        let mut log = create(&disk, small_config());
        append(&mut log, &[idempotent(7, 0, 0, &[1])]);
        log.snapshot_producers().unwrap();
        append(&mut log, &[idempotent(7, 0, 1, &[1]), idempotent(8, 0, 0, &[1])]);
        log.snapshot_producers().unwrap();
        log.truncate_fully_and_start_at(Offset(begins_at), NOW).unwrap();
        assert_eq!(log.producers().iter().count(), 0, "from {begins_at}");
        append(&mut log, &[idempotent(8, 0, 0, &[1])])[0].as_ref().unwrap();
        drop(log);
        let (log, _) = reopen_unclean(&disk, small_config(), Offset(0));
        let known: Vec<i64> = log.producers().iter().map(|(id, _)| id.0).collect();
        assert_eq!(known, [8], "from {begins_at}");
    }
}
