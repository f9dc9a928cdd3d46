//! No mutation of a log has an I/O step at which a power cut takes what was acknowledged.

use klamm_sim::every_step::{Mutation, Thoroughness, cut_at_every_step};

/// `cargo run --release -p klamm-sim -- --every-step 20` tries more.
const THOROUGHNESS: Thoroughness = Thoroughness { draws: 3, start_stride: 5 };

fn check(mutation: Mutation, steps_min: u64) {
    let found = cut_at_every_step(mutation, THOROUGHNESS).unwrap_or_else(|wrong| panic!("{wrong}"));
    println!("{mutation:?}: {found:?}");
    assert!(found.steps >= steps_min, "{mutation:?} takes only {} steps", found.steps);
}

#[test]
fn an_append_with_a_roll() {
    check(Mutation::AppendAndRoll, 4);
}

#[test]
fn the_end_of_a_transaction() {
    check(Mutation::EndOfTransaction, 2);
}

#[test]
fn a_flush() {
    check(Mutation::Flush, 2);
}

#[test]
fn a_roll() {
    check(Mutation::Roll, 4);
}

#[test]
fn a_truncation() {
    check(Mutation::Truncation, 10);
}

#[test]
fn a_log_that_begins_anew() {
    check(Mutation::StartAnew, 10);
}

#[test]
fn deleted_records() {
    check(Mutation::DeleteRecords, 10);
}

#[test]
fn retention() {
    check(Mutation::Retention, 10);
}

#[test]
fn a_checkpoint() {
    check(Mutation::Checkpoint, 10);
}

#[test]
fn a_snapshot() {
    check(Mutation::Snapshot, 4);
}

#[test]
fn a_clean_stop() {
    check(Mutation::CleanStop, 10);
}

#[test]
fn a_compaction() {
    check(Mutation::Compaction, 20);
}

#[test]
fn a_second_compaction() {
    check(Mutation::SecondCompaction, 20);
}

#[test]
fn a_move() {
    check(Mutation::Move, 20);
}

#[test]
fn a_log_with_quarantined_batches() {
    check(Mutation::Quarantine, 20);
}

#[test]
fn a_start_that_sets_a_tail_aside() {
    check(Mutation::SettingAside, 10);
}
