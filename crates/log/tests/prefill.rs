//! Room filled with zeros behind the batches: where it is, where it never is, and what a start makes of it.

mod support;

use std::io::ErrorKind;
use std::path::Path;

use klamm_log::disk::{Disk, Fault, MemoryDisk};
use klamm_log::{Log, LogConfig, Tail};
use klamm_protocol::ids::Offset;
use klamm_protocol::time::WallMs;
use support::*;

fn prefilled(segment_bytes: u32) -> LogConfig {
    LogConfig { segment_bytes, is_prefilled: true, ..small_config() }
}

/// Appends one batch and flushes it.
fn append_flushed(log: &mut Log, model: &mut Model, n: i64) {
    let batch = plain(&[n]);
    append(log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
    log.flush().unwrap();
    model.append(&batch, &[n]).unwrap();
}

fn filled(disk: &MemoryDisk, config: LogConfig, batches: i64) -> (Log, Model) {
    let (mut log, mut model) = (create(disk, config), Model::default());
    (0..batches).for_each(|n| append_flushed(&mut log, &mut model, n));
    (log, model)
}

/// How many bytes a segment's file has behind its batches; all of them must be zero.
fn room(disk: &MemoryDisk, log: &Log, index: usize) -> usize {
    let segments = log.view().load().1;
    let bytes = disk.read_file(&file(segments[index].base_offset().0, ".log"), 1 << 20).unwrap();
    let behind = &bytes[segments[index].size_bytes() as usize..];
    assert!(behind.iter().all(|byte| *byte == 0));
    behind.len()
}

/// Until the last segment has room.
fn append_until_room(disk: &MemoryDisk, log: &mut Log, model: &mut Model) {
    while room(disk, log, log.view().load().1.len() - 1) == 0 {
        append_flushed(log, model, model.end);
    }
}

#[test]
fn only_a_log_that_is_flushed_by_itself_gets_room() {
    let disk = MemoryDisk::new();
    let (mut log, mut model) = filled(&disk, prefilled(1 << 20), 50);
    assert!(room(&disk, &log, 0) > 0);
    let mut without = 0;
    for n in 50..500 {
        append_flushed(&mut log, &mut model, n);
        without += usize::from(room(&disk, &log, 0) == 0);
    }
    assert!(without < 10, "{without} of 450 flushes found no room");
    check_reads(&log, &model, 1);

    let not_asked_for = MemoryDisk::new();
    let (log, _) = filled(&not_asked_for, LogConfig { is_prefilled: false, ..prefilled(1 << 20) }, 50);
    assert_eq!(room(&not_asked_for, &log, 0), 0);

    let with_others = MemoryDisk::new();
    let mut log = create(&with_others, prefilled(1 << 20));
    for n in 0..50 {
        append(&mut log, &[plain(&[n])]);
        log.begin_flush().unwrap().covered(&Ok(())).unwrap();
    }
    assert_eq!(room(&with_others, &log, 0), 0);
}

#[test]
fn closed_segments_and_stopped_logs_end_with_their_last_batch() {
    let disk = MemoryDisk::new();
    let (mut log, mut model) = filled(&disk, prefilled(1500), 30);
    let count = log.view().load().1.len();
    assert!(count >= 3);
    for index in 0..count - 1 {
        assert_eq!(room(&disk, &log, index), 0, "segment {index}");
    }
    append_until_room(&disk, &mut log, &mut model);
    let sizes: Vec<(i64, u32)> =
        log.view().load().1.iter().map(|s| (s.base_offset().0, s.size_bytes())).collect();
    disk.sync_dir(Path::new("/")).unwrap();
    log.close().unwrap();
    for seed in 0..50 {
        let disk = disk.after_power_cut(seed);
        for (base, size) in &sizes {
            assert_eq!(disk.metadata(&file(*base, ".log")).unwrap().len_bytes, u64::from(*size));
        }
    }
    let (log, report) = Log::open(open_with(&disk, prefilled(1500))).unwrap();
    assert!(report.truncations.is_empty(), "{report:?}");
    check_reads(&log, &model, 1);
}

#[test]
fn a_kill_leaves_room_and_no_complaint() {
    let disk = MemoryDisk::new();
    let (log, mut model) = filled(&disk, prefilled(1 << 20), 20);
    assert!(room(&disk, &log, 0) > 0);
    drop(log);
    let (mut log, report) = reopen_unclean(&disk, prefilled(1 << 20), Offset(20));
    assert_eq!(report.truncations.iter().map(|cut| &cut.tail).collect::<Vec<_>>(), [&Tail::Zeros]);
    assert!(report.corrupt.is_empty(), "{report:?}");
    assert_eq!(room(&disk, &log, 0), 0);
    (20..40).for_each(|n| append_flushed(&mut log, &mut model, n));
    check_reads(&log, &model, 1);
}

/// The next segment may be durable before the cut of the one before it is.
#[test]
fn room_in_a_rolled_segment_ends_nothing_and_lost_batches_do() {
    for is_compacted in [false, true] {
        let config = LogConfig { is_compacted, ..prefilled(1500) };
        let disk = MemoryDisk::new();
        let (log, model) = filled(&disk, config.clone(), 30);
        let bases: Vec<i64> = log.view().load().1.iter().map(|s| s.base_offset().0).collect();
        assert!(bases.len() >= 3);
        drop(log);
        disk.tamper(&file(bases[1], ".log"), |bytes| bytes.resize(1500, 0)).unwrap();
        let with_loss = disk.fork();
        let (log, report) = reopen_unclean(&disk, config.clone(), Offset(0));
        assert!(report.truncations.iter().all(|cut| cut.tail == Tail::Zeros), "{report:?}");
        check_reads(&log, &model, 1);

        with_loss.tamper(&file(bases[1], ".log"), |bytes| bytes[400..].fill(0)).unwrap();
        let (log, report) = reopen_unclean(&with_loss, config, Offset(0));
        let end = log.view().limits().end.offset.0;
        assert!((bases[1]..bases[2]).contains(&end), "it goes on behind a hole, to {end}");
        let is_set_aside = |cut: &&klamm_log::Truncation| matches!(cut.tail, Tail::Corrupt { .. });
        // The rest of the segment with the hole, and all segments behind it.
        assert_eq!(report.truncations.iter().filter(is_set_aside).count(), bases.len() - 1);
    }
}

#[test]
fn a_write_or_a_truncation_cuts_the_room_with_the_tail() {
    let disk = MemoryDisk::new();
    let (mut log, mut model) = filled(&disk, prefilled(1 << 20), 2);
    append_until_room(&disk, &mut log, &mut model);
    disk.inject(Fault::ShortWrite(100));
    disk.inject(Fault::Write(ErrorKind::StorageFull));
    assert!(append(&mut log, &[plain(&[20])])[0].is_err());
    assert_eq!(room(&disk, &log, 0), 0);
    append_until_room(&disk, &mut log, &mut model);
    log.truncate_to(Offset(2), WallMs(1)).unwrap();
    model.truncate(2);
    assert_eq!(room(&disk, &log, 0), 0);
    append_until_room(&disk, &mut log, &mut model);
    check_reads(&log, &model, 1);
}

#[test]
fn a_disk_with_room_for_the_batches_alone_takes_them() {
    let disk = MemoryDisk::new();
    let (mut log, mut model) = filled(&disk, prefilled(1 << 20), 2);
    let batch_bytes = plain(&[0]).header.batch_bytes;
    for n in 2..100 {
        if room(&disk, &log, 0) == 0 {
            disk.set_capacity_bytes(Some(disk.used_bytes() + u64::from(batch_bytes) + 10));
        }
        append_flushed(&mut log, &mut model, n);
    }
    disk.set_capacity_bytes(None);
    (100..140).for_each(|n| append_flushed(&mut log, &mut model, n));
    check_reads(&log, &model, 1);
    drop(log);
    let (log, _) = reopen_unclean(&disk, prefilled(1 << 20), Offset(140));
    check_reads(&log, &model, 1);
}
