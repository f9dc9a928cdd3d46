//! What a crash or a bad disk leaves: torn tails, zeros, flipped bits, failing writes.

mod support;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use klamm_log::disk::{Disk, DiskOperation, Fault, MemoryDisk};
use klamm_log::{AppendError, AppendOrigin, Limits, Log, LogConfig, Tail, trusted_batch};
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::{BatchBuilder, check_crc};
use klamm_protocol::time::WallMs;
use support::*;

fn filled(disk: &MemoryDisk, batches: i64) -> (Log, Model) {
    let config = LogConfig { segment_bytes: 1 << 20, ..small_config() };
    let mut log = create(disk, config);
    let mut model = Model::default();
    for n in 0..batches {
        let batch = idempotent(1, 0, n as i32, &[n]);
        append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
        model.append(&batch, &[n]).unwrap();
    }
    (log, model)
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 1 << 20, ..small_config() }
}

#[test]
fn a_kill_at_every_byte_of_the_tail_keeps_every_whole_batch() {
    let disk = MemoryDisk::new();
    let (log, model) = filled(&disk, 12);
    let size = log.view().limits().end.position;
    drop(log);
    let batch_bytes = size / 12;
    for len in size - 3 * batch_bytes..=size {
        let disk = disk.fork();
        disk.tamper(&file(0, ".log"), |bytes| bytes.truncate(len as usize)).unwrap();
        let (mut log, report) = reopen_unclean(&disk, config(), Offset(0));
        let mut kept = model.clone();
        kept.truncate(i64::from(len / batch_bytes));
        check_reads(&log, &kept, 1);
        check_producers(&log, &kept);
        assert_eq!(report.truncations.len(), usize::from(len % batch_bytes != 0), "{report:?}");
        let next = kept.end;
        let placed = append(&mut log, &[idempotent(1, 0, next as i32, &[7])]);
        assert_eq!(placed[0].as_ref().unwrap().base_offset.0, next);
    }
}

#[test]
fn a_flipped_bit_behind_the_recovery_point_is_never_served() {
    let disk = MemoryDisk::new();
    let (log, model) = filled(&disk, 6);
    let size = log.view().limits().end.position as usize;
    drop(log);
    let batch_bytes = size / 6;
    for bit in (size - 2 * batch_bytes) * 8..size * 8 {
        let disk = disk.fork();
        disk.tamper(&file(0, ".log"), |bytes| bytes[bit / 8] ^= 1 << (bit % 8)).unwrap();
        let (log, report) = reopen_unclean(&disk, config(), Offset(0));
        let bad = bit / 8 / batch_bytes;
        let mut kept = model.clone();
        kept.truncate(bad as i64);
        check_reads(&log, &kept, 1);
        let [truncation] = &report.truncations[..] else { panic!("bit {bit}: {report:?}") };
        match (&truncation.tail, bad) {
            (Tail::Corrupt { kept, .. }, 4) => {
                let bytes = disk.read_file(kept, 1 << 20).unwrap();
                assert_eq!(bytes.len() as u64, truncation.removed_bytes);
                assert!(check_crc(&bytes[batch_bytes..]), "the valid batch is kept");
            }
            (Tail::Torn(_), 5) => {}
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_tail_of_zeros_is_cut_without_a_word_of_corruption() {
    let disk = MemoryDisk::new();
    let (log, model) = filled(&disk, 5);
    drop(log);
    disk.tamper(&file(0, ".log"), |bytes| bytes.resize(bytes.len() + 100_000, 0)).unwrap();
    for suffix in [".index", ".timeindex"] {
        let mut zeros = vec![0; 10 << 10];
        let known = disk.read_file(&file(0, suffix), 1 << 20).unwrap_or_default();
        zeros[..known.len()].copy_from_slice(&known);
        disk.write_file_atomically(&file(0, suffix), &zeros).unwrap();
    }
    let (log, report) = reopen_unclean(&disk, config(), Offset(0));
    check_reads(&log, &model, 1);
    assert_eq!(report.truncations[0].tail, Tail::Zeros);
    assert_eq!(report.truncations[0].removed_bytes, 100_000);
}

#[test]
fn corruption_in_a_middle_segment_sets_the_later_ones_aside() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, small_config());
    for n in 0..30 {
        append(&mut log, &[plain(&[n])]);
    }
    let bases: Vec<i64> = log.view().load().1.iter().map(|s| s.base_offset().0).collect();
    assert!(bases.len() >= 3);
    drop(log);
    disk.tamper(&file(bases[1], ".log"), |bytes| bytes[100] ^= 1).unwrap();
    let (log, report) = reopen_unclean(&disk, small_config(), Offset(0));
    assert_eq!(log.view().limits().end.offset.0, bases[1]);
    assert_eq!(report.truncations.len(), bases.len() - 1);
    for (truncation, base) in report.truncations.iter().zip(&bases[1..]) {
        let Tail::Corrupt { kept, .. } = &truncation.tail else { panic!("{truncation:?}") };
        assert_eq!(*kept, file(*base, ".log.corrupt-0"));
        assert_eq!(disk.metadata(kept).unwrap().len_bytes, truncation.removed_bytes);
    }
}

#[test]
fn a_failed_write_publishes_nothing_and_the_next_one_succeeds() {
    let disk = MemoryDisk::new();
    let (mut log, mut model) = filled(&disk, 3);
    for short in [None, Some(10), Some(200)] {
        if let Some(bytes) = short {
            disk.inject(Fault::ShortWrite(bytes));
        }
        disk.inject(Fault::Write(ErrorKind::StorageFull));
        let next = model.end as i32;
        let group =
            [idempotent(1, 0, next, &[5]), idempotent(1, 0, next, &[5]), idempotent(1, 0, next + 1, &[6])];
        let results = append(&mut log, &group);
        assert!(results.iter().all(|r| matches!(r, Err(AppendError::Storage(_)))), "{results:?}");
        check_reads(&log, &model, 1);
        check_producers(&log, &model);
        assert!(!log.is_poisoned());
    }
    let next = model.end as i32;
    let batch = idempotent(1, 0, next, &[5]);
    append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
    model.append(&batch, &[5]).unwrap();
    check_reads(&log, &model, 1);
    drop(log);
    let (log, report) = reopen_unclean(&disk, config(), Offset(0));
    check_reads(&log, &model, 1);
    assert!(report.truncations.is_empty());
}

#[test]
fn a_file_that_a_failed_roll_left_hides_nothing_behind_it() {
    for (is_compacted, is_flushed) in [(false, false), (false, true), (true, false), (true, true)] {
        let config = LogConfig { is_compacted, segment_ms: 10, ..config() };
        let disk = MemoryDisk::new();
        let mut log = create(&disk, config.clone());
        disk.sync_dir(Path::new("/")).unwrap();
        append(&mut log, &[plain(&[1])])[0].as_ref().unwrap();
        log.flush().unwrap();
        // The first roll writes a producer snapshot before, the second one finds it there.
        for calls in [1, 0] {
            disk.inject_after(calls, Fault::SetLen(ErrorKind::Other));
            assert!(log.roll_if_due(WallMs(1_000_000)).is_err());
            if calls == 1 {
                log.flush().unwrap();
            }
        }
        append(&mut log, &[plain(&[2]), plain(&[3])])[1].as_ref().unwrap();
        let mut point = Offset(1);
        if is_flushed {
            log.flush().unwrap();
            point = log.recovery_point();
            assert_eq!(point, Offset(3));
        }
        for seed in 0..64 {
            let (log, _) = reopen_unclean(&disk.after_power_cut(seed), config.clone(), point);
            let view = log.view();
            let end = view.limits().end;
            assert!(end.offset >= point, "seed {seed}: what was flushed is there");
            for offset in 0..end.offset.0 {
                let region = view.read(Offset(offset), end, 1, true).unwrap();
                assert_eq!(region.unwrap().base_offset, Offset(offset), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_log_whose_tail_cannot_be_cut_refuses_to_go_on() {
    let disk = MemoryDisk::new();
    let (mut log, model) = filled(&disk, 3);
    disk.inject(Fault::Write(ErrorKind::Other));
    disk.inject(Fault::SetLen(ErrorKind::Other));
    let next = model.end as i32;
    for _ in 0..2 {
        let results = append(&mut log, &[idempotent(1, 0, next, &[5])]);
        assert!(matches!(results[0], Err(AppendError::Storage(_))));
        assert!(log.is_poisoned());
    }
    check_reads(&log, &model, 1);
    assert!(log.flush().is_err());
}

#[test]
fn a_group_is_one_write_and_a_failed_flush_ends_the_log() {
    let disk = MemoryDisk::new();
    let (mut log, _) = filled(&disk, 1);
    let _ = disk.take_journal();
    let group: Vec<_> = (0..64).map(|n| plain(&[n])).collect();
    append(&mut log, &group);
    let journal = disk.take_journal();
    let is_log_write =
        |op: &&DiskOperation| matches!(op, DiskOperation::Write { path, .. } if *path == file(0, ".log"));
    assert_eq!(journal.iter().filter(is_log_write).count(), 1);
    let before = log.view().limits();
    assert!(before.flushed.offset < before.end.offset);
    disk.inject(Fault::Sync(ErrorKind::Other));
    assert!(log.flush().is_err());
    assert_eq!(log.view().limits().flushed, before.flushed);
    assert!(log.is_poisoned() && log.flush().is_err());
}

#[test]
fn a_flush_publishes_its_own_target_and_nothing_later() {
    let disk = MemoryDisk::new();
    let (mut log, _) = filled(&disk, 2);
    let job = log.begin_flush().unwrap();
    append(&mut log, &[plain(&[1])]);
    assert_eq!(job.run().unwrap().offset, Offset(2));
    assert_eq!(log.view().limits().flushed.offset, Offset(2));
    log.flush().unwrap();
    assert_eq!(log.recovery_point(), Offset(3));
    log.view().raise_high_watermark_to_flushed();
    assert_eq!(log.view().limits().high_watermark.offset, Offset(3));
}

fn transactional(log: &mut Log, id: i64, sequence: i32) -> i64 {
    let builder = BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(0), sequence).transactional();
    append(log, &[build(builder, &[1])])[0].as_ref().unwrap().base_offset.0
}

fn mark(log: &mut Log, id: i64, is_commit: bool) {
    let bytes =
        BatchBuilder::end_transaction_marker(is_commit, 0, ProducerId(id), ProducerEpoch(0), 1).build();
    let plan = log.plan(&context(AppendOrigin::Coordinator), &[trusted_batch(bytes).unwrap()]);
    log.write(plan)[0].as_ref().unwrap();
    log.view().raise_high_watermark_to_end();
}

fn last_stable(log: &Log) -> i64 {
    let Limits { last_stable, .. } = log.view().limits();
    last_stable.offset.0
}

#[test]
fn open_and_aborted_transactions_survive_a_stop_and_a_kill() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, small_config());
    append(&mut log, &[plain(&[1])]);
    transactional(&mut log, 1, 0);
    transactional(&mut log, 2, 0);
    assert_eq!(last_stable(&log), 1);
    mark(&mut log, 1, false);
    assert_eq!(last_stable(&log), 2, "the other one is open");
    for n in 0..20 {
        append(&mut log, &[plain(&[n])]);
    }
    assert!(log.view().load().1.len() > 1);
    let state = log.producers().clone();
    let check = |log: &Log| {
        assert_eq!(last_stable(log), 2);
        let view = log.view();
        let end = view.limits().end;
        let region = view.read(Offset(0), end, 1 << 20, true).unwrap().unwrap();
        let aborted = view.aborted_transactions(Offset(0), &region, end).unwrap();
        assert_eq!(aborted.len(), 1);
        assert_eq!(
            (aborted[0].producer_id.0, aborted[0].first_offset.0, aborted[0].last_offset.0),
            (1, 1, 3)
        );
        assert!(view.aborted_transactions(Offset(4), &region, end).unwrap().is_empty());
    };
    check(&log);
    let killed = disk.fork();
    log.close().unwrap();
    let (mut log, _) = Log::open(open_with(&disk, small_config())).unwrap();
    check(&log);
    assert_eq!(log.producers(), &state);
    mark(&mut log, 2, true);
    assert_eq!(last_stable(&log), log.view().limits().end.offset.0);

    for suffix in [".txnindex", ".snapshot"] {
        let _ = killed.remove_file(&file(0, suffix));
    }
    for offset in 0..40 {
        let _ = killed.remove_file(&file(offset, ".snapshot"));
    }
    let (log, _) = reopen_unclean(&killed, small_config(), Offset(0));
    check(&log);
    assert_eq!(log.producers(), &state);
}

#[test]
fn a_power_cut_behind_a_flush_keeps_what_was_aborted() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, small_config());
    disk.sync_dir(Path::new("/")).unwrap();
    transactional(&mut log, 1, 0);
    mark(&mut log, 1, false);
    // The last append rolls and writes a snapshot where the flushed part ends.
    while log.view().load().1.len() == 1 {
        log.flush().unwrap();
        append(&mut log, &[plain(&[1])])[0].as_ref().unwrap();
    }
    let point = log.recovery_point();
    for seed in 0..64 {
        let cut = disk.after_power_cut(seed);
        // The second start may trust what the first one left.
        for seed in 0..4 {
            let (log, _) = reopen_unclean(&cut, small_config(), point);
            let view = log.view();
            let end = view.limits().end;
            let region = view.read(Offset(0), end, 1 << 20, true).unwrap().unwrap();
            let aborted = view.aborted_transactions(Offset(0), &region, end).unwrap();
            assert_eq!(aborted.len(), 1, "seed {seed}");
            let cut = cut.after_power_cut(seed);
            let (log, _) = reopen_unclean(&cut, small_config(), end.offset);
            let listed = log.view().aborted_transactions(Offset(0), &region, end).unwrap();
            assert_eq!(listed.len(), 1, "seed {seed}, after a second cut");
        }
    }
}

#[test]
fn a_flush_beside_truncations_publishes_nothing_that_was_cut() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    append(&mut log, &[plain(&[1])])[0].as_ref().unwrap();
    let (view, is_over) = (log.view(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                view.begin_flush().run().unwrap();
            }
        });
        for n in 0..2_000 {
            append(&mut log, &[plain(&[n])])[0].as_ref().unwrap();
            match n % 10 {
                0 => log.truncate_fully_and_start_at(Offset(0), NOW).unwrap(),
                _ => log.truncate_to(Offset(0.max(log.view().limits().end.offset.0 - 1)), NOW).unwrap(),
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    log.flush().unwrap();
    assert_eq!(log.view().limits().flushed, log.view().limits().end);
}

#[test]
fn a_torn_snapshot_is_passed_over() {
    let disk = MemoryDisk::new();
    let (log, model) = filled(&disk, 9);
    log.close().unwrap();
    disk.tamper(&file(9, ".snapshot"), |bytes| bytes[12] ^= 1).unwrap();
    let (log, report) = Log::open(open_with(&disk, config())).unwrap();
    assert_eq!(report.bad_snapshots, [file(9, ".snapshot")]);
    check_producers(&log, &model);
}

#[test]
fn idle_producers_are_forgotten() {
    let disk = MemoryDisk::new();
    let (mut log, _) = filled(&disk, 2);
    let expiration_ms = log.config().producer_id_expiration_ms;
    assert_eq!(log.expire_producers(WallMs(expiration_ms)), 0);
    assert_eq!(log.expire_producers(WallMs(1 + expiration_ms)), 1);
    append(&mut log, &[idempotent(1, 0, 77, &[5])])[0].as_ref().unwrap();
}

#[test]
fn sequences_wrap_behind_their_largest_number() {
    let disk = MemoryDisk::new();
    let (mut log, _) = filled(&disk, 0);
    let first = idempotent(9, 0, i32::MAX - 1, &[1, 1]);
    append(&mut log, std::slice::from_ref(&first))[0].as_ref().unwrap();
    let across = idempotent(9, 0, 0, &[1, 1, 1]);
    append(&mut log, &[across])[0].as_ref().unwrap();
    assert!(append(&mut log, &[first])[0].as_ref().unwrap().is_duplicate);
    assert!(append(&mut log, &[idempotent(9, 0, 3, &[1])])[0].is_ok());
}

#[test]
fn a_snapshot_of_batches_that_a_power_cut_took_is_never_believed() {
    let disk = MemoryDisk::new();
    let config = LogConfig { is_compacted: true, segment_bytes: 600, ..small_config() };
    let mut log = create(&disk, config.clone());
    for sequence in 0..12 {
        append(&mut log, &[idempotent(7, 0, sequence, &[1])]).remove(0).unwrap();
    }
    let bases: Vec<Offset> = log.view().load().1.iter().map(|segment| segment.base_offset()).collect();
    let [_, second, .., last] = bases[..] else { panic!("{bases:?}") };
    drop(log);
    // The names reached the device, the bytes from the second segment on did not.
    for base in &bases[1..] {
        disk.tamper(&file(base.0, ".log"), Vec::clear).unwrap();
    }
    // The next start has a recovery point behind the hole.
    for recovery_point in [second, last, last] {
        let (log, _) = reopen_unclean(&disk, config.clone(), recovery_point);
        assert_eq!(log.view().limits().end.offset, last, "where offsets may be missing, a hole is one");
        let known = log.producers().get(ProducerId(7)).unwrap().last_sequence();
        assert_eq!(i64::from(known) + 1, second.0, "recovery point {recovery_point}");
    }
}
