//! Producers with transactions: who may begin one, what a marker may end, what is known after a start.

mod support;

use klamm_log::disk::MemoryDisk;
use klamm_log::{AppendOrigin, Log, LogConfig, OpenLog};
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::time::WallMs;
use support::transactions::*;
use support::*;

#[test]
fn nobody_begins_a_transaction_that_the_coordinator_was_not_asked_about() {
    let mut log = create(&MemoryDisk::new(), config());
    assert_eq!(code(&put(&mut log, data(1, 0, 0, true)).unwrap_err()), "transaction");
    let ticket = begin(&mut log, 1, 0, 0).unwrap();
    assert_eq!(code(&put(&mut log, data(1, 0, 0, true)).unwrap_err()), "transaction", "no answer yet");
    log.confirm_verification(ProducerId(1), ProducerEpoch(0), ticket);
    put(&mut log, data(1, 0, 0, true)).unwrap();
    assert_eq!(begin(&mut log, 1, 0, 1), None, "it is open");
    put(&mut log, data(1, 0, 1, true)).unwrap();
    end(&mut log, 1, 0, 1).unwrap();
    assert_eq!(code(&put(&mut log, data(1, 0, 2, true)).unwrap_err()), "transaction", "each one anew");
    log.set_config(LogConfig { verifies_transactions: false, ..config() });
    put(&mut log, data(1, 0, 2, true)).unwrap();
}

#[test]
fn a_coordinators_records_need_a_transaction_too_and_a_refusal_can_be_foreseen() {
    let mut log = create(&MemoryDisk::new(), config());
    let (id, epoch) = (ProducerId(1), ProducerEpoch(3));
    let offsets = |log: &mut Log, epoch| {
        let plan = log.plan(&context(AppendOrigin::Coordinator), &[data(1, epoch, -1, true)]);
        log.write(plan).remove(0)
    };
    assert_eq!(code(&log.check_transaction(id, epoch).unwrap_err()), "transaction");
    assert_eq!(code(&offsets(&mut log, 3).unwrap_err()), "transaction");
    let ticket = begin(&mut log, 1, 3, -1).unwrap();
    log.confirm_verification(id, epoch, ticket);
    log.check_transaction(id, epoch).unwrap();
    offsets(&mut log, 3).unwrap();
    offsets(&mut log, 3).unwrap();
    assert_eq!(code(&log.check_transaction(id, ProducerEpoch(2)).unwrap_err()), "epoch");
    assert_eq!(code(&offsets(&mut log, 2).unwrap_err()), "epoch");
}

#[test]
fn an_answer_from_before_a_marker_is_worth_nothing() {
    let mut log = create(&MemoryDisk::new(), config());
    let (id, epoch) = (ProducerId(1), ProducerEpoch(0));
    let late = begin(&mut log, 1, 0, 0).unwrap();
    end(&mut log, 1, 0, 1).unwrap();
    log.confirm_verification(id, epoch, late);
    assert_eq!(code(&put(&mut log, data(1, 0, 0, true)).unwrap_err()), "transaction");
    let next = begin(&mut log, 1, 0, 0).unwrap();
    log.confirm_verification(id, epoch, late);
    assert_eq!(code(&put(&mut log, data(1, 0, 0, true)).unwrap_err()), "transaction");
    log.confirm_verification(id, epoch, next);
    end(&mut log, 1, 0, 1).unwrap();
    assert_eq!(code(&put(&mut log, data(1, 0, 0, true)).unwrap_err()), "transaction", "confirmed too early");
}

#[test]
fn a_marker_leaves_the_next_transaction_alone_where_each_has_its_epoch() {
    let mut log = create(&MemoryDisk::new(), config());
    put_verified(&mut log, 1, 4, 0).unwrap();
    // The client knows its next epoch before the markers are written.
    let ticket = log.begin_verification(&claim(1, 5, 0, true), NOW).unwrap().unwrap();
    end(&mut log, 1, 5, 2).unwrap();
    end(&mut log, 1, 5, 2).unwrap();
    log.confirm_verification(ProducerId(1), ProducerEpoch(5), ticket);
    put(&mut log, data(1, 5, 0, true)).unwrap();
    assert_eq!(code(&end(&mut log, 1, 5, 2).unwrap_err()), "epoch", "the marker of the one before, late");
    end(&mut log, 1, 6, 2).unwrap();
}

#[test]
fn the_last_epoch_ends_by_a_marker_of_its_own() {
    let mut log = create(&MemoryDisk::new(), config());
    put_verified(&mut log, 1, i16::MAX, 0).unwrap();
    end(&mut log, 1, i16::MAX, 2).unwrap();
    assert_eq!(log.view().limits().last_stable.offset, Offset(2));
}

#[test]
fn with_an_epoch_for_each_transaction_its_first_sequence_is_zero() {
    let mut log = create(&MemoryDisk::new(), config());
    let ticket = log.begin_verification(&claim(1, 0, 3, true), NOW).unwrap().unwrap();
    log.confirm_verification(ProducerId(1), ProducerEpoch(0), ticket);
    assert_eq!(code(&put(&mut log, data(1, 0, 3, true)).unwrap_err()), "sequence");
    put_verified(&mut log, 2, 0, 3).expect("records of before may be gone");
}

#[test]
fn a_later_batch_does_not_overtake_one_that_waits_to_be_verified() {
    let mut log = create(&MemoryDisk::new(), config());
    // The coordinator had no answer for the first one; the client sends it again.
    begin(&mut log, 1, 0, 7).unwrap();
    assert_eq!(code(&put_verified(&mut log, 1, 0, 8).unwrap_err()), "sequence");
    put_verified(&mut log, 1, 0, 7).unwrap();
    put_verified(&mut log, 1, 0, 8).unwrap();
}

#[test]
fn verifications_grow_old_with_producers_and_do_not_survive_a_truncation_or_a_start() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    put(&mut log, plain(&[1])).unwrap();
    let verified = |log: &mut Log| {
        let ticket = begin(log, 1, 0, 0).unwrap();
        log.confirm_verification(ProducerId(1), ProducerEpoch(0), ticket);
        log.check_transaction(ProducerId(1), ProducerEpoch(0)).unwrap();
    };
    let is_known = |log: &Log| log.check_transaction(ProducerId(1), ProducerEpoch(0)).is_ok();
    verified(&mut log);
    log.expire_producers(WallMs(NOW.0 + config().producer_id_expiration_ms - 1));
    assert!(is_known(&log));
    log.expire_producers(WallMs(NOW.0 + config().producer_id_expiration_ms));
    assert!(!is_known(&log));
    verified(&mut log);
    log.truncate_to(Offset(0), NOW).unwrap();
    assert!(!is_known(&log));
    verified(&mut log);
    log.close().unwrap();
    assert!(!is_known(&Log::open(open_with(&disk, config())).unwrap().0));
}

#[test]
fn five_batches_in_flight_are_known_after_a_stop_and_a_kill() {
    for was_clean in [true, false] {
        let disk = MemoryDisk::new();
        let mut log = create(&disk, config());
        for sequence in 0..7 {
            put(&mut log, data(1, 0, sequence, false)).unwrap();
        }
        if was_clean {
            log.close().unwrap();
        } else {
            drop(log);
        }
        let (mut log, _) = Log::open(OpenLog { was_clean, ..open_with(&disk, config()) }).unwrap();
        assert_eq!(code(&put(&mut log, data(1, 0, 1, false)).unwrap_err()), "sequence");
        for sequence in 2..7 {
            let placed = put(&mut log, data(1, 0, sequence, false)).unwrap();
            assert_eq!((placed.base_offset.0, placed.is_duplicate), (i64::from(sequence), true));
        }
        assert!(!put(&mut log, data(1, 0, 7, false)).unwrap().is_duplicate);
    }
}

#[test]
fn an_answer_from_before_a_start_is_worth_nothing() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    let late = begin(&mut log, 1, 0, 0).unwrap();
    log.close().unwrap();
    let (mut log, _) = Log::open(open_with(&disk, config())).unwrap();
    log.assign_leader_epoch(EPOCH).unwrap();
    begin(&mut log, 1, 0, 0).unwrap();
    log.confirm_verification(ProducerId(1), ProducerEpoch(0), late);
    assert_eq!(code(&put(&mut log, data(1, 0, 0, true)).unwrap_err()), "transaction");
}

/// What makes the log read its producers anew.
#[derive(Clone, Copy, Debug)]
enum Anew {
    Stop,
    Kill,
    Truncation,
}

fn anew(log: Log, disk: &MemoryDisk, how: Anew, recovery_point: i64) -> Log {
    let log_start = log.view().limits().log_start;
    let mut log = log;
    match how {
        Anew::Truncation => {
            put(&mut log, plain(&[1])).unwrap();
            let end = log.view().limits().end.offset;
            log.truncate_to(Offset(end.0 - 1), NOW).unwrap();
        }
        Anew::Stop | Anew::Kill => {
            let was_clean = matches!(how, Anew::Stop);
            if was_clean {
                log.close().unwrap();
            } else {
                drop(log);
            }
            let recovery_point = Offset(recovery_point);
            let open = OpenLog { log_start, was_clean, recovery_point, ..open_with(disk, config()) };
            log = Log::open(open).unwrap().0;
        }
    }
    log.assign_leader_epoch(EPOCH).unwrap();
    log.view().raise_high_watermark_to_end();
    log
}

/// As a read_committed Fetch does: the transactions to leave out, by their first offsets.
fn aborted_from(log: &Log, from: i64) -> Vec<i64> {
    let view = log.view();
    let up_to = view.limits().last_stable;
    let region = view.read(Offset(from), up_to, 1 << 20, true).unwrap().unwrap();
    if !view.knows_aborted(&region) {
        view.check_aborted(&region, None, &mut Vec::new()).unwrap();
    }
    let aborted = view.aborted_transactions(Offset(from), &region, up_to).unwrap();
    aborted.iter().map(|one| one.first_offset.0).collect()
}

fn stable(log: &Log) -> i64 {
    log.view().limits().last_stable.offset.0
}

/// DeleteRecords, or retention, takes the head of a transaction that is open.
#[test]
fn a_transaction_that_lost_its_head_is_open_after_a_start_too() {
    for how in [Anew::Stop, Anew::Kill, Anew::Truncation] {
        let disk = MemoryDisk::new();
        let mut log = create(&disk, config());
        put_verified(&mut log, 1, 0, 0).unwrap(); // offset 0
        put(&mut log, plain(&[1])).unwrap(); // 1
        put(&mut log, plain(&[1])).unwrap(); // 2
        put(&mut log, data(1, 0, 1, true)).unwrap(); // 3, same transaction
        drop(log.advance_log_start(Offset(1)).unwrap());
        assert_eq!(stable(&log), 1, "held back before {how:?}");
        let mut log = anew(log, &disk, how, 0);
        assert_eq!(begin(&mut log, 1, 0, 2), None, "it is open after {how:?}");
        assert_eq!(log.view().unstable_transactions()[0].first.offset, Offset(0), "{how:?}");
        assert_eq!(stable(&log), 1, "{how:?}");
        drop(log.advance_log_start(Offset(2)).unwrap());
        assert_eq!(stable(&log), 2, "{how:?}");
        let marker = Marker { id: 1, epoch: 0, coordinator_epoch: 0, version: 1, is_commit: false };
        write_marker(&mut log, marker).unwrap(); // 4
        assert_eq!((stable(&log), aborted_from(&log, 2)), (5, vec![0]), "{how:?}");
        let log = anew(log, &disk, how, 0);
        assert_eq!((stable(&log), aborted_from(&log, 2)), (5, vec![0]), "{how:?}");
    }
}

#[test]
fn a_transaction_whose_records_are_all_deleted_is_open_until_its_marker() {
    for how in [Anew::Stop, Anew::Kill, Anew::Truncation] {
        let disk = MemoryDisk::new();
        let mut log = create(&disk, config());
        put_verified(&mut log, 1, 0, 0).unwrap();
        put(&mut log, plain(&[1])).unwrap();
        drop(log.advance_log_start(Offset(2)).unwrap());
        let mut log = anew(log, &disk, how, 0);
        put(&mut log, plain(&[1])).unwrap();
        assert_eq!((stable(&log), begin(&mut log, 1, 0, 1)), (2, None), "{how:?}");
        end(&mut log, 1, 0, 1).unwrap();
        assert_eq!(stable(&log), 4, "{how:?}");
    }
}

#[test]
fn a_marker_that_is_deleted_has_ended_its_transaction() {
    // The newest snapshot has the transaction open.
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    put_verified(&mut log, 1, 0, 0).unwrap();
    log.snapshot_producers().unwrap();
    end(&mut log, 1, 0, 1).unwrap();
    put(&mut log, plain(&[1])).unwrap();
    drop(log.advance_log_start(Offset(2)).unwrap());
    let log = anew(log, &disk, Anew::Kill, 1);
    assert_eq!(stable(&log), 3);
    // And the file with the marker is gone.
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    put_verified(&mut log, 1, 0, 0).unwrap();
    log.snapshot_producers().unwrap();
    end(&mut log, 1, 0, 1).unwrap();
    while log.view().load().1.len() < 2 {
        put(&mut log, plain(&[1])).unwrap();
    }
    let log_end = log.view().limits().end.offset;
    let removal = log.advance_log_start(log_end).unwrap();
    removal.mark(true).unwrap();
    removal.unlink().unwrap();
    let mut log = anew(log, &disk, Anew::Kill, 1);
    put(&mut log, plain(&[1])).unwrap();
    assert_eq!(stable(&log), log_end.0 + 1);
}

#[test]
fn a_transaction_whose_head_cannot_be_read_stops_no_start() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    put(&mut log, plain(&[1])).unwrap();
    let at = log.view().limits().end;
    put_verified(&mut log, 1, 0, 0).unwrap();
    while log.view().load().1.len() < 2 {
        put(&mut log, plain(&[1])).unwrap();
    }
    log.close().unwrap();
    let path = dir().join("00000000000000000000.log");
    disk.tamper(&path, |bytes| bytes[at.position as usize + 16] = 9).unwrap();
    let (log, _) = Log::open(open_with(&disk, config())).unwrap();
    let limits = log.view().limits();
    assert_eq!(limits.last_stable, at);
}
