//! Opening what another process left: leftovers, lost index files, a foreign directory.

mod support;

use klamm_log::disk::{Disk, DiskOperation, MemoryDisk};
use klamm_log::{AppendError, Log, LogConfig, LogError, OpenLog};
use klamm_protocol::ids::{LeaderEpoch, Offset, TopicId, Uuid};
use support::*;

fn filled(disk: &MemoryDisk) -> (Model, Vec<i64>) {
    let mut log = create(disk, small_config());
    let mut model = Model::default();
    for n in 0..40 {
        let batch = plain(&[n, n + 3]);
        append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
        model.append(&batch, &[n, n + 3]).unwrap();
    }
    let bases = log.view().load().1.iter().map(|segment| segment.base_offset().0).collect();
    log.close().unwrap();
    (model, bases)
}

fn put(disk: &MemoryDisk, base: i64, suffix: &str, bytes: &[u8]) {
    disk.write_file_atomically(&file(base, suffix), bytes).unwrap();
}

fn check(disk: &MemoryDisk, model: &Model) -> klamm_log::RecoveryReport {
    let (log, report) = Log::open(open_with(disk, small_config())).unwrap();
    check_reads(&log, model, 300);
    for asked in [0, 5, 21, 42, 43] {
        check_timestamps(&log, model, asked);
    }
    log.close().unwrap();
    report
}

#[test]
fn lost_and_wrong_index_files_cost_time_and_nothing_else() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    let written = disk.read_file(&file(bases[0], ".index"), 1 << 20).unwrap();
    let times = disk.read_file(&file(bases[0], ".timeindex"), 1 << 20).unwrap();
    disk.remove_file(&file(bases[0], ".index")).unwrap();
    put(&disk, bases[1], ".index", &[0, 0, 0, 1, 0, 0, 2, 200]);
    let last = *bases.last().unwrap();
    put(&disk, last, ".index", &[0, 0, 0, 1, 0, 0, 0, 9]);
    let report = check(&disk, &model);
    assert_eq!(report.rebuilt_indexes, [file(bases[0], ".index"), file(last, ".index")]);
    assert_eq!(disk.read_file(&file(bases[0], ".index"), 1 << 20).unwrap(), written);
    assert_eq!(disk.read_file(&file(bases[0], ".timeindex"), 1 << 20).unwrap(), times);
}

#[test]
fn a_recovered_index_is_the_one_that_was_written() {
    let disk = MemoryDisk::new();
    let (_, bases) = filled(&disk);
    let index = |base, suffix| disk.read_file(&file(base, suffix), 1 << 20).unwrap();
    let all = || bases.iter().map(|b| (index(*b, ".index"), index(*b, ".timeindex"))).collect::<Vec<_>>();
    let written = all();
    for base in &bases {
        put(&disk, *base, ".index", &[]);
        disk.remove_file(&file(*base, ".timeindex")).unwrap();
    }
    let (log, _) = reopen_unclean(&disk, small_config(), Offset(0));
    log.close().unwrap();
    assert_eq!(all(), written);
}

#[test]
fn leftovers_are_finished_as_kafka_finishes_them() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    // A swap of the first two segments that was complete but for the renaming.
    let joined: Vec<u8> =
        bases[..2].iter().flat_map(|b| disk.read_file(&file(*b, ".log"), 1 << 20).unwrap()).collect();
    put(&disk, bases[0], ".log.swap", &joined);
    put(&disk, 7, ".log.deleted", b"old");
    put(&disk, 999, ".index", b"nobody's");
    disk.remove_file(&file(bases[0], ".index")).unwrap();
    disk.remove_file(&file(bases[0], ".timeindex")).unwrap();
    let report = check(&disk, &model);
    assert_eq!(report.leftovers.len(), 2, "{report:?}");
    for gone in
        [file(bases[1], ".log"), file(7, ".log.deleted"), file(999, ".index"), file(bases[0], ".log.swap")]
    {
        assert!(!disk.exists(&gone).unwrap(), "{}", gone.display());
    }
    // A swap beside something that was still being cleaned was not complete.
    put(&disk, bases[0], ".log.cleaned", b"half");
    put(&disk, bases[2], ".log.swap", b"half");
    assert_eq!(check(&disk, &model).leftovers.len(), 2);
}

#[test]
fn a_directory_of_another_topic_is_refused_and_left_alone() {
    let disk = MemoryDisk::new();
    let (model, _) = filled(&disk);
    let before = disk.list_dir(&dir()).unwrap();
    let open = OpenLog { topic_id: TopicId(Uuid(6000)), ..open_with(&disk, small_config()) };
    assert!(matches!(Log::open(open), Err(LogError::TopicIdMismatch { .. })));
    assert_eq!(disk.list_dir(&dir()).unwrap(), before);
    check(&disk, &model);
}

#[test]
fn deleted_records_are_gone_and_the_epochs_follow() {
    let disk = MemoryDisk::new();
    let (mut model, bases) = filled(&disk);
    let (mut log, _) = Log::open(open_with(&disk, small_config())).unwrap();
    log.view().raise_high_watermark_to_end();
    log.assign_leader_epoch(LeaderEpoch(5)).unwrap();
    let view = log.view();
    let (old, end) = (view.load(), view.limits().end);
    let region = view.read(Offset(0), end, 1 << 20, true).unwrap().unwrap();
    let bytes = region.read().unwrap();
    let removal = log.advance_log_start(Offset(bases[2] + 1)).unwrap();
    assert_eq!(removal.segment_count(), 2);
    assert!(matches!(log.advance_log_start(Offset(999)), Err(LogError::OffsetOutOfRange { .. })));
    assert!(log.advance_log_start(Offset(1)).unwrap().is_empty());
    removal.mark(true).unwrap();
    assert!(!disk.exists(&file(bases[1], ".log")).unwrap());
    assert!(disk.exists(&file(bases[1], ".log.deleted")).unwrap());
    assert_eq!(region.read().unwrap(), bytes, "who holds a region may finish");
    removal.unlink().unwrap();
    assert_eq!(region.read().unwrap(), bytes, "who holds a region may finish");
    drop(old);
    model.log_start = bases[2] + 1;
    model.batches.retain(|batch| batch.header.base_offset.0 >= bases[2]);
    check_reads(&log, &model, 1);
    assert_eq!(view.leader_epochs().entries()[0].start_offset.0, bases[2] + 1);
    assert_eq!(view.end_offset_for_epoch(EPOCH).end_offset.0, model.end);
    let names: Vec<_> = disk.list_dir(&dir()).unwrap().into_iter().map(|entry| entry.name).collect();
    let is_of_gone = |name: &String| bases[..2].iter().any(|base| name.starts_with(&format!("{base:020}")));
    assert!(!names.iter().any(is_of_gone), "{names:?}");
}

#[test]
fn a_batch_beyond_the_segment_size_and_a_gap_in_replication_are_refused() {
    use klamm_log::AppendOrigin;
    let disk = MemoryDisk::new();
    let config = LogConfig { segment_bytes: 200, ..small_config() };
    let mut log = create(&disk, config);
    let results = append(&mut log, &[plain(&[1]), plain(&[1, 2]), plain(&[3])]);
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(matches!(results[1], Err(AppendError::RecordBatchTooLarge { .. })));
    let plan = log.plan(&context(AppendOrigin::Replication), &[plain(&[1])]);
    assert!(matches!(log.write(plan)[0], Err(AppendError::UnexpectedOffset { .. })));
    let (first, second) = {
        let one = [plain(&[1])];
        let context = context(AppendOrigin::Client);
        (log.plan(&context, &one), log.plan(&context, &one))
    };
    assert!(log.write(first)[0].is_ok());
    assert!(matches!(log.write(second)[0], Err(AppendError::StalePlan(_))));
}

#[test]
fn a_region_of_a_file_that_somebody_cut_is_an_error_and_no_zeros() {
    let disk = MemoryDisk::new();
    filled(&disk);
    let (log, _) = Log::open(open_with(&disk, small_config())).unwrap();
    let end = log.view().limits().end;
    let region = log.view().read(Offset(0), end, 1 << 20, true).unwrap().unwrap();
    disk.tamper(region.file.path(), |bytes| bytes.truncate(20)).unwrap();
    assert_eq!(region.read().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn opening_an_idle_log_after_a_kill_flushes_and_writes_nothing() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    let _ = disk.take_journal();
    let (mut log, _) = {
        let open = OpenLog {
            was_clean: false,
            recovery_point: Offset(model.end),
            ..open_with(&disk, small_config())
        };
        Log::open(open).unwrap()
    };
    log.assign_leader_epoch(LeaderEpoch(9)).unwrap();
    assert_eq!(log.view().latest_epoch(), Some(LeaderEpoch(9)));
    let journal = disk.take_journal();
    let closed = file(bases[0], ".log");
    for operation in &journal {
        match operation {
            DiskOperation::Read { path, .. } => assert_ne!(*path, closed, "closed segments are not read"),
            other => panic!("{other:?}"),
        }
    }
    // The epoch is durable before its first batch is written.
    append(&mut log, &[plain(&[1])])[0].as_ref().unwrap();
    let journal = disk.take_journal();
    let epochs = dir().join("leader-epoch-checkpoint");
    let stored = journal.iter().position(|op| matches!(op, DiskOperation::Rename(_, to) if *to == epochs));
    let active = log.view().load().1.active().file().path().to_owned();
    let written =
        journal.iter().position(|op| matches!(op, DiskOperation::Write { path, .. } if *path == active));
    assert!(stored.unwrap() < written.unwrap(), "{journal:?}");
}

#[test]
fn a_log_start_behind_the_end_begins_anew_and_removes_nothing() {
    for was_clean in [true, false] {
        let disk = MemoryDisk::new();
        let (_, bases) = filled(&disk);
        let bytes = |suffix: &str| -> u64 {
            let names = disk.list_dir(&dir()).unwrap();
            let names = names.into_iter().filter(|entry| entry.name.ends_with(suffix));
            names.map(|entry| disk.metadata(&dir().join(entry.name)).unwrap().len_bytes).sum()
        };
        let before = bytes(".log");
        let open = OpenLog { was_clean, log_start: Offset(1 << 40), ..open_with(&disk, small_config()) };
        let (mut log, report) = Log::open(open).unwrap();
        assert_eq!(log.view().limits().log_start, Offset(1 << 40));
        assert_eq!(report.truncations.len(), bases.len(), "{report:?}");
        assert_eq!((bytes(".log"), bytes(".log.corrupt-0")), (0, before));
        log.assign_leader_epoch(EPOCH).unwrap();
        assert_eq!(append(&mut log, &[plain(&[1])]).remove(0).unwrap().base_offset, Offset(1 << 40));
    }
}

#[test]
fn offsets_that_cannot_be_counted_on_from_are_none() {
    let disk = MemoryDisk::new();
    filled(&disk);
    // As a batch may say of itself, and as a file may be called.
    disk.tamper(&file(0, ".log"), |bytes| bytes[..8].copy_from_slice(&i64::MAX.to_be_bytes())).unwrap();
    put(&disk, i64::MAX, ".log", &disk.read_file(&file(0, ".log"), 1 << 20).unwrap());
    let (log, report) = reopen_unclean(&disk, small_config(), Offset(0));
    assert_eq!(log.view().limits().end.offset, Offset(0));
    assert!(!report.truncations.is_empty(), "{report:?}");
}

#[test]
fn nothing_is_appended_that_no_start_would_believe() {
    const LAST: i64 = 1 << 62;
    let disk = MemoryDisk::new();
    let mut log = create(&disk, small_config());
    log.truncate_fully_and_start_at(Offset(LAST - 2), NOW).unwrap();
    let results = append(&mut log, &[plain(&[1, 2]), plain(&[3])]);
    assert!(results[0].is_ok());
    assert!(matches!(&results[1], Err(AppendError::InvalidBatch(_))), "{:?}", results[1]);
    log.close().unwrap();
    let open = OpenLog {
        log_start: Offset(LAST - 2),
        recovery_point: Offset(LAST),
        ..open_with(&disk, small_config())
    };
    let (log, report) = Log::open(open).unwrap();
    assert!(report.corrupt.is_empty(), "{report:?}");
    assert_eq!(log.view().limits().end.offset, Offset(LAST));
}
