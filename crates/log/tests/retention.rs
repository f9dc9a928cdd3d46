//! Segments that leave the head of a log: what readers see, what a stop leaves, whose files go.

mod support;

use std::path::Path;
use std::sync::Arc;

use klamm_log::disk::{Disk, MemoryDisk, RealDisk};
use klamm_log::{AppendOrigin, Log, LogConfig, OpenLog, ReadError, Removal, RetentionLimits, trusted_batch};
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::BatchBuilder;
use klamm_protocol::time::WallMs;
use support::*;

const BY_AGE: RetentionLimits = RetentionLimits { bytes_max: None, age_ms_max: Some(100) };

fn filled(disk: &MemoryDisk, batches: i64) -> Log {
    let mut log = create(disk, small_config());
    for n in 0..batches {
        append(&mut log, &[plain(&[n])])[0].as_ref().unwrap();
    }
    log
}

fn retain(log: &mut Log, limits: RetentionLimits, now: WallMs) -> Removal {
    let cut = log.view().decide_retention(&limits, now).unwrap();
    log.cut_head(&cut, now).unwrap()
}

fn is_out_of_range<T>(result: Result<T, ReadError>) -> bool {
    matches!(result, Err(ReadError::OffsetOutOfRange { .. }))
}

fn names_of(disk: &MemoryDisk, suffix: &str) -> Vec<String> {
    let names = disk.list_dir(&dir()).unwrap().into_iter().map(|entry| entry.name);
    names.filter(|name| name.ends_with(suffix)).collect()
}

#[test]
fn an_idle_log_empties_and_goes_on_at_its_end() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, 30);
    let segments = log.view().load().1.len();
    assert!(retain(&mut log, BY_AGE, WallMs(100)).is_empty(), "the first segment has a record of 1");
    let removal = retain(&mut log, BY_AGE, WallMs(1000));
    assert_eq!(removal.segment_count(), segments);
    let view = log.view();
    let limits = view.limits();
    assert_eq!((limits.log_start, limits.end.offset), (Offset(30), Offset(30)));
    assert_eq!(log.size_bytes(), 0);
    assert!(view.read(Offset(30), limits.end, 100, true).unwrap().is_none());
    assert!(is_out_of_range(view.read(Offset(29), limits.end, 100, true)));
    assert!(view.offset_for_timestamp(0, limits.end).unwrap().is_none());
    assert!(retain(&mut log, BY_AGE, WallMs(9000)).is_empty(), "an empty segment stays");
    assert_eq!(append(&mut log, &[plain(&[1000])])[0].as_ref().unwrap().base_offset.0, 30);

    removal.mark(true).unwrap();
    assert_eq!(names_of(&disk, ".log"), ["00000000000000000030.log"]);
    assert_eq!(names_of(&disk, ".log.deleted").len(), segments);
    drop(log);
    let (log, report) = reopen_unclean(&disk, small_config(), Offset(0));
    assert!(names_of(&disk, ".deleted").is_empty());
    assert_eq!(report.leftovers.iter().filter(|path| path.ends_with(".deleted")).count(), 0);
    let limits = log.view().limits();
    assert_eq!((limits.log_start, limits.end.offset), (Offset(30), Offset(31)));
}

#[test]
fn a_batch_that_comes_between_the_decision_and_its_turn_stays() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, 30);
    let active = log.view().limits().end.segment_base;
    let cut = log.view().decide_retention(&BY_AGE, WallMs(1000)).unwrap();
    assert!(cut.rolls_active);
    append(&mut log, &[plain(&[1000])])[0].as_ref().unwrap();
    let removal = log.cut_head(&cut, WallMs(1000)).unwrap();
    assert_eq!(removal.segment_count() + 1, cut.segment_count());
    assert_eq!(log.view().limits().log_start, active);
    drop(removal);
    let by_size = RetentionLimits { bytes_max: Some(0), ..RetentionLimits::default() };
    let cut = log.view().decide_retention(&by_size, WallMs(1000)).unwrap();
    log.truncate_fully_and_start_at(Offset(0), NOW).unwrap();
    assert_eq!(names_of(&disk, ".log"), ["00000000000000000000.log"], "nothing old has a name of use");
    for n in 0..40 {
        append(&mut log, &[plain(&[n])])[0].as_ref().unwrap();
    }
    assert!(log.cut_head(&cut, WallMs(1000)).unwrap().is_empty(), "decided for another log");
    assert_eq!(log.view().limits().log_start, Offset(0));
}

#[test]
fn what_the_watermark_has_not_reached_stays() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, small_config());
    let batches: Vec<_> = (0..30).map(|n| plain(&[n])).collect();
    let plan = log.plan(&context(AppendOrigin::Client), &batches);
    assert!(log.write(plan).iter().all(Result::is_ok));
    assert!(retain(&mut log, BY_AGE, WallMs(1000)).is_empty());
    let second = log.view().load().1[1].base_offset();
    let at = log.view().position_of(Offset(second.0 + 1)).unwrap();
    log.view().raise_high_watermark(at);
    assert_eq!(retain(&mut log, BY_AGE, WallMs(1000)).segment_count(), 1);
    assert_eq!(log.view().limits().log_start, second);
}

#[test]
fn a_closed_logs_removal_leaves_its_successors_files_alone() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, 30);
    let removal = retain(&mut log, BY_AGE, WallMs(1000));
    drop(log);
    disk.remove_dir_all(&dir()).unwrap();
    let log = filled(&disk, 30);
    let before = disk.list_dir(&dir()).unwrap();
    removal.mark(true).unwrap();
    removal.unlink().unwrap();
    assert_eq!(disk.list_dir(&dir()).unwrap(), before);
    assert!(log.view().limits().log_start.0 == 0);
}

#[test]
fn segments_that_a_kill_left_below_the_start_go_with_the_next_start() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, 30);
    let bases: Vec<_> = log.view().load().1.iter().map(|segment| segment.base_offset()).collect();
    drop(retain(&mut log, BY_AGE, WallMs(1000)));
    drop(log);
    // The checkpoint has the start; no file was renamed yet.
    let open = OpenLog { log_start: bases[2], was_clean: false, ..open_with(&disk, small_config()) };
    let (log, report) = Log::open(open).unwrap();
    let end = log.view().limits().end;
    assert!(is_out_of_range(log.view().read(Offset(bases[2].0 - 1), end, 100, true)));
    assert_eq!(report.leftovers, [file(bases[0].0, ".log"), file(bases[1].0, ".log")]);
    assert_eq!(log.view().load().1[0].base_offset(), bases[2]);
}

#[test]
fn without_its_segment_a_list_of_aborted_transactions_is_not_given() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, small_config());
    let transactional = BatchBuilder::new().producer(ProducerId(1), ProducerEpoch(0), 0).transactional();
    append(&mut log, &[build(transactional, &[1])])[0].as_ref().unwrap();
    let marker = BatchBuilder::end_transaction_marker(false, 0, ProducerId(1), ProducerEpoch(0), 1).build();
    let plan = log.plan(&context(AppendOrigin::Coordinator), &[trusted_batch(marker).unwrap()]);
    log.write(plan)[0].as_ref().unwrap();
    for n in 0..20 {
        append(&mut log, &[plain(&[n])])[0].as_ref().unwrap();
    }
    let view = log.view();
    let end = view.limits().end;
    let region = view.read(Offset(0), end, 100, true).unwrap().unwrap();
    assert_eq!(view.aborted_transactions(Offset(0), &region, end).unwrap().len(), 1);
    let removal = retain(&mut log, BY_AGE, WallMs(1000));
    assert!(is_out_of_range(view.aborted_transactions(Offset(0), &region, end)));
    removal.mark(true).unwrap();
    assert!(is_out_of_range(view.aborted_transactions(Offset(0), &region, end)));
}

#[test]
fn without_timestamps_the_files_time_counts() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("t-0");
    let open = OpenLog {
        disk: Arc::new(RealDisk),
        dir: dir.clone(),
        ..open_with(&MemoryDisk::new(), LogConfig::default())
    };
    let mut log = Log::create(open).unwrap();
    append(&mut log, &[plain(&[-1])])[0].as_ref().unwrap();
    let written = RealDisk.metadata(&dir.join("00000000000000000000.log")).unwrap().modified_ms;
    assert!(retain(&mut log, BY_AGE, WallMs(written + 100)).is_empty());
    assert_eq!(retain(&mut log, BY_AGE, WallMs(written + 101)).segment_count(), 1);
    // Nothing is known of a file's age: it is not old.
    let disk = MemoryDisk::new();
    let mut log = create(&disk, small_config());
    append(&mut log, &[plain(&[-1])])[0].as_ref().unwrap();
    assert!(retain(&mut log, BY_AGE, WallMs(i64::MAX)).is_empty());
}

#[test]
fn a_segment_takes_records_of_its_time_less_the_jitter() {
    let disk = MemoryDisk::new();
    let config = LogConfig { segment_ms: 100, segment_jitter_ms: 30, ..LogConfig::default() };
    let mut log = create(&disk, config);
    for timestamp in [0, 70, 60, 71, 141, 142] {
        append(&mut log, &[plain(&[timestamp])])[0].as_ref().unwrap();
    }
    let bases: Vec<_> = log.view().load().1.iter().map(|segment| segment.base_offset().0).collect();
    assert_eq!(bases, [0, 3, 5]);
}

#[test]
fn without_a_durable_start_a_power_cut_takes_no_offset_back() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, LogConfig::default());
    disk.sync_dir(Path::new("/")).unwrap();
    append(&mut log, &[plain(&[1])])[0].as_ref().unwrap();
    log.flush().unwrap();
    // The only segment goes, and nothing was appended to the one behind it yet.
    let removal = retain(&mut log, BY_AGE, WallMs(1000));
    assert_eq!(removal.segment_count(), 1);
    removal.mark(false).unwrap();
    for seed in 0..64 {
        let (log, _) = reopen_unclean(&disk.after_power_cut(seed), LogConfig::default(), Offset(1));
        assert_eq!(log.view().limits().end.offset, Offset(1), "seed {seed}");
    }
}
