//! Conversations with a transaction coordinator: what producers ask, which records follow, what they are
//! told, which markers are asked for.

mod transaction_world;

use insta::assert_snapshot;
use klamm_coordinator::transaction::{
    AddPartitions, EndTxn, Ending, InitProducerId, Markers, Partitions, Producer, TransactionCommand,
    TransactionEffect, TransactionReply,
};
use klamm_protocol::error_code::ErrorCode;
use transaction_world::{World, partitions, producer};

const ID: &str = "id";

fn init(expected: Option<Producer>) -> TransactionCommand {
    TransactionCommand::InitProducerId(InitProducerId {
        transactional_id: ID.into(),
        timeout_ms: 60_000,
        expected,
        fresh: None,
    })
}

fn add(producer: Producer, partitions: Partitions, client_version: i16) -> TransactionCommand {
    let transactional_id = ID.into();
    TransactionCommand::AddPartitions(AddPartitions {
        transactional_id,
        producer,
        partitions,
        client_version,
    })
}

fn end(producer: Producer, ending: Ending, client_version: i16) -> TransactionCommand {
    let transactional_id = ID.into();
    TransactionCommand::EndTxn(EndTxn { transactional_id, producer, ending, client_version, fresh: None })
}

fn verify(producer: Producer, partitions: Partitions) -> TransactionCommand {
    TransactionCommand::VerifyPartitions { transactional_id: ID.into(), producer, partitions }
}

/// Asks, and once more with a fresh id if one is needed, as the handlers do.
fn say(world: &mut World, command: TransactionCommand) -> Option<TransactionReply> {
    let key = world.ask(command.clone());
    let reply = world.take_reply(key);
    if reply != Some(TransactionReply::NeedsProducerId) {
        return reply;
    }
    let id = Some(world.fresh_id());
    let command = match command {
        TransactionCommand::InitProducerId(request) => {
            TransactionCommand::InitProducerId(InitProducerId { fresh: id, ..request })
        }
        TransactionCommand::EndTxn(request) => TransactionCommand::EndTxn(EndTxn { fresh: id, ..request }),
        other => panic!("{other:?} needs no producer id"),
    };
    let key = world.ask(command);
    world.take_reply(key)
}

/// Performs all effects.
fn perform(world: &mut World) {
    while let Some(effect) = world.effects.pop_front() {
        let command = match effect {
            TransactionEffect::WriteMarkers(id) => {
                let TransactionReply::Markers(Some(markers)) = world.call(TransactionCommand::Markers(id))
                else {
                    continue;
                };
                let Markers { transactional_id, prepared_at, .. } = markers;
                TransactionCommand::MarkersWritten { transactional_id, prepared_at }
            }
            TransactionEffect::FetchProducerId { transactional_id, producer } => {
                let fresh = world.fresh_id();
                TransactionCommand::AbortTimedOut { transactional_id, producer, fresh }
            }
        };
        world.ask(command);
    }
}

fn begun(level: i16) -> World {
    let mut world = World::new(level);
    say(&mut world, init(None));
    world.take_transcript();
    world
}

/// The transactional id's producer has come to its last epoch.
fn worn_out() -> World {
    let mut world = begun(2);
    for epoch in 0..i16::MAX - 1 {
        say(&mut world, init(Some(producer(1000, epoch))));
    }
    world.take_transcript();
    world
}

#[test]
fn two_transactions_of_the_first_version() {
    let mut world = World::new(2);
    say(&mut world, init(None));
    say(&mut world, add(producer(1000, 0), partitions(&[0]), 0));
    say(&mut world, add(producer(1000, 0), partitions(&[0, 1]), 0));
    // They are there already: nothing is written.
    say(&mut world, add(producer(1000, 0), partitions(&[1]), 0));
    say(&mut world, verify(producer(1000, 0), partitions(&[1, 2])));
    say(&mut world, end(producer(1000, 0), Ending::Commit, 0));
    perform(&mut world);
    // The answer got lost; the other end is no retry.
    say(&mut world, end(producer(1000, 0), Ending::Commit, 0));
    say(&mut world, end(producer(1000, 0), Ending::Abort, 0));
    say(&mut world, add(producer(1000, 0), partitions(&[2]), 0));
    say(&mut world, end(producer(1000, 0), Ending::Abort, 0));
    perform(&mut world);
    assert_snapshot!(world.take_transcript());
}

#[test]
fn two_transactions_of_the_second_version() {
    let mut world = World::new(2);
    say(&mut world, init(None));
    say(&mut world, add(producer(1000, 0), partitions(&[0]), 2));
    say(&mut world, end(producer(1000, 0), Ending::Commit, 2));
    perform(&mut world);
    // The answer got lost; the other end is no retry; and to commit nothing is a mistake.
    say(&mut world, end(producer(1000, 0), Ending::Commit, 2));
    say(&mut world, end(producer(1000, 0), Ending::Abort, 2));
    say(&mut world, end(producer(1000, 1), Ending::Commit, 2));
    say(&mut world, add(producer(1000, 0), partitions(&[0]), 2));
    say(&mut world, add(producer(1000, 1), partitions(&[1]), 2));
    say(&mut world, end(producer(1000, 1), Ending::Abort, 2));
    perform(&mut world);
    // Who is not sure whether anything arrived aborts: there is nothing to mark.
    say(&mut world, end(producer(1000, 2), Ending::Abort, 2));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn who_comes_while_markers_are_on_their_way_waits_a_moment() {
    let mut world = begun(2);
    say(&mut world, add(producer(1000, 0), partitions(&[0]), 2));
    say(&mut world, end(producer(1000, 0), Ending::Commit, 2));
    world.take_transcript();
    // The retry, the next transaction and another producer; a late write is refused at once.
    say(&mut world, end(producer(1000, 0), Ending::Commit, 2));
    say(&mut world, add(producer(1000, 1), partitions(&[0]), 2));
    say(&mut world, verify(producer(1000, 1), partitions(&[0])));
    say(&mut world, verify(producer(1000, 0), partitions(&[0])));
    perform(&mut world);
    say(&mut world, end(producer(1000, 1), Ending::Commit, 2));
    say(&mut world, add(producer(1000, 2), partitions(&[0]), 2));
    world.advance(200);
    perform(&mut world);
    assert_snapshot!(world.take_transcript());
}

#[test]
fn another_producer_begins_and_the_open_transaction_is_aborted_first() {
    for level in [1, 2] {
        let mut world = begun(level);
        say(&mut world, add(producer(1000, 0), partitions(&[0]), level));
        say(&mut world, init(None));
        perform(&mut world);
        say(&mut world, add(producer(1000, 0), partitions(&[0]), level));
        say(&mut world, end(producer(1000, 0), Ending::Commit, level));
        assert_snapshot!(format!("fenced_at_level_{level}"), world.take_transcript());
    }
}

#[test]
fn markers_of_one_transaction_do_not_complete_the_next() {
    let mut world = begun(2);
    let prepare = |world: &mut World, partition: i32| {
        say(world, add(producer(1000, 0), partitions(&[partition]), 0));
        say(world, end(producer(1000, 0), Ending::Commit, 0));
        let markers = world.call(TransactionCommand::Markers(ID.into()));
        let TransactionReply::Markers(Some(markers)) = markers else { panic!("{markers:?}") };
        let Markers { transactional_id, prepared_at, .. } = markers;
        TransactionCommand::MarkersWritten { transactional_id, prepared_at }
    };
    let written = prepare(&mut world, 0);
    world.ask(written.clone());
    // The answer is lost, the record is not.
    world.crash(0);
    prepare(&mut world, 1);
    world.ask(written);
    let left = world.call(TransactionCommand::Markers(ID.into()));
    assert!(matches!(left, TransactionReply::Markers(Some(_))), "{left:?}");
}

#[test]
fn where_the_next_producer_id_cannot_be_written_it_is_not_promised() {
    let mut world = World::new(0);
    say(&mut world, init(None));
    for epoch in 0..i16::MAX - 1 {
        say(&mut world, init(Some(producer(1000, epoch))));
    }
    let last = producer(1000, i16::MAX - 1);
    say(&mut world, add(last, partitions(&[0]), 2));
    let told = Some(TransactionReply::EndTxn(Ok(producer(1000, i16::MAX))));
    assert_eq!(say(&mut world, end(last, Ending::Commit, 2)), told);
}

/// Kafka 4.3 takes this for a repeated end, and gives the fenced producer the epoch of the living one.
#[test]
fn who_is_fenced_does_not_get_the_epoch_of_a_producer_of_the_first_version() {
    let mut world = begun(2);
    say(&mut world, init(None));
    say(&mut world, add(producer(1000, 1), partitions(&[0]), 0));
    say(&mut world, end(producer(1000, 1), Ending::Abort, 0));
    perform(&mut world);
    let fenced = Some(TransactionReply::EndTxn(Err(ErrorCode::ProducerFenced)));
    assert_eq!(say(&mut world, end(producer(1000, 0), Ending::Abort, 2)), fenced);
}

#[test]
fn a_producer_goes_on_after_an_error_and_may_ask_again() {
    let mut world = begun(2);
    say(&mut world, init(Some(producer(1000, 0))));
    say(&mut world, init(Some(producer(1000, 0))));
    say(&mut world, init(Some(producer(1000, 2))));
    say(&mut world, init(Some(producer(999, 1))));
    // Somebody else begins: now the one before is fenced.
    say(&mut world, init(None));
    say(&mut world, init(Some(producer(1000, 1))));
    say(&mut world, init(Some(producer(1000, 0))));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted() {
    for level in [1, 2] {
        let mut world = begun(level);
        say(&mut world, add(producer(1000, 0), partitions(&[0, 1]), level));
        world.advance(60_000);
        world.advance(10_000);
        perform(&mut world);
        say(&mut world, add(producer(1000, 0), partitions(&[0]), level));
        say(&mut world, end(producer(1000, 0), Ending::Abort, 2));
        say(&mut world, init(Some(producer(1000, 0))));
        assert_snapshot!(format!("timed_out_at_level_{level}"), world.take_transcript());
    }
}

#[test]
fn epochs_run_out_and_the_producer_id_changes() {
    let mut world = worn_out();
    let last = i16::MAX - 1;
    say(&mut world, add(producer(1000, last), partitions(&[0]), 2));
    say(&mut world, end(producer(1000, last), Ending::Commit, 2));
    // The client has its next id before the markers are written.
    say(&mut world, add(producer(1001, 0), partitions(&[1]), 2));
    perform(&mut world);
    say(&mut world, end(producer(1001, 0), Ending::Commit, 2));
    perform(&mut world);
    assert_snapshot!(world.take_transcript());
}

#[test]
fn the_end_that_used_up_the_epochs_may_be_asked_for_again() {
    let mut world = worn_out();
    let last = producer(1000, i16::MAX - 1);
    say(&mut world, add(last, partitions(&[0]), 2));
    say(&mut world, end(last, Ending::Commit, 2));
    perform(&mut world);
    assert_eq!(
        say(&mut world, end(last, Ending::Commit, 2)),
        Some(TransactionReply::EndTxn(Ok(producer(1001, 0))))
    );
    let refused = Some(TransactionReply::EndTxn(Err(ErrorCode::InvalidTxnState)));
    assert_eq!(say(&mut world, end(last, Ending::Abort, 2)), refused);
    let ready = |producer| Some(TransactionReply::InitProducerId(Ok(producer)));
    assert_eq!(say(&mut world, init(Some(last))), ready(producer(1001, 0)));
}

#[test]
fn without_an_epoch_left_a_producer_that_begins_or_is_too_slow_gets_another_id() {
    let last = producer(1000, i16::MAX - 1);
    let mut world = worn_out();
    assert_eq!(say(&mut world, init(None)), Some(TransactionReply::InitProducerId(Ok(producer(1001, 0)))));
    let fenced = Some(TransactionReply::InitProducerId(Err(ErrorCode::ProducerFenced)));
    assert_eq!(say(&mut world, init(Some(last))), fenced);

    let mut world = worn_out();
    say(&mut world, add(last, partitions(&[0]), 2));
    world.take_transcript();
    world.advance(70_001);
    perform(&mut world);
    say(&mut world, init(None));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_crash_goes_on_where_the_log_ends() {
    let mut world = begun(2);
    world.commits_at_once = false;
    say(&mut world, add(producer(1000, 0), partitions(&[0]), 2));
    world.commit();
    // Decided, written, and lost: nobody was told.
    say(&mut world, end(producer(1000, 0), Ending::Commit, 2));
    world.crash(0);
    say(&mut world, end(producer(1000, 0), Ending::Abort, 2));
    world.commit();
    // The markers may be written or not: they are asked for again.
    world.effects.clear();
    world.crash(0);
    perform(&mut world);
    world.commit();
    say(&mut world, end(producer(1000, 0), Ending::Abort, 2));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn an_id_that_nobody_uses_is_forgotten_but_never_an_open_transaction() {
    let mut world = begun(2);
    let other = InitProducerId {
        transactional_id: "open".into(),
        timeout_ms: 60_000,
        expected: None,
        fresh: Some(world.fresh_id()),
    };
    world.settings.max_timeout_ms = i32::MAX;
    world.call(TransactionCommand::InitProducerId(InitProducerId { timeout_ms: i32::MAX, ..other }));
    world.call(TransactionCommand::AddPartitions(AddPartitions {
        transactional_id: "open".into(),
        producer: producer(1001, 0),
        partitions: partitions(&[0]),
        client_version: 2,
    }));
    world.take_transcript();
    world.advance(8 * 24 * 3_600_000);
    assert_eq!(
        say(&mut world, end(producer(1000, 0), Ending::Abort, 2)),
        Some(TransactionReply::EndTxn(Err(ErrorCode::InvalidProducerIdMapping)))
    );
    assert_snapshot!(world.take_transcript());
}

#[test]
fn what_may_not_be_is_refused() {
    let mut world = begun(2);
    for timeout_ms in [0, -1, 900_001] {
        let request = InitProducerId { transactional_id: ID.into(), timeout_ms, expected: None, fresh: None };
        world.call(TransactionCommand::InitProducerId(request));
    }
    for wrong in [producer(1000, 1), producer(1000, -1), producer(7, 0)] {
        say(&mut world, add(wrong, partitions(&[0]), 2));
        say(&mut world, verify(wrong, partitions(&[0])));
        say(&mut world, end(wrong, Ending::Commit, 0));
        say(&mut world, end(wrong, Ending::Commit, 2));
    }
    say(&mut world, end(producer(1000, 0), Ending::Commit, 0));
    say(&mut world, end(producer(1000, 0), Ending::Abort, 0));
    say(&mut world, end(producer(1000, 0), Ending::Commit, 2));
    assert_snapshot!(world.take_transcript());
}
