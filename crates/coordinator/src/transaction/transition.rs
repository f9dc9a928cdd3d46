//! What may become of a transaction: each request against what is remembered, as a pure function.
//!
//! The refusals are Kafka's (KIP-98, KIP-360, KIP-890). What this module deliberately does not do:
//! answer, write, wait.
//!
//! Invariants: an epoch that was bumped to end a transaction is no client's before the transaction is
//! complete; a producer id whose epochs are used up gets a successor.

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{ProducerEpoch, ProducerId};

use super::state::{
    EPOCH_BUMP_LEVEL, Ending, PRODUCER_EPOCH_LAST, Partitions, Producer, Transaction, TransactionState,
};
use super::{AddPartitions, EndTxn, InitProducerId};

const NO_ID: ProducerId = ProducerId(-1);

/// Why nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It never will.
    Error(ErrorCode),
    /// Not before the markers of the transaction are written.
    NotYet,
    /// A producer id is needed that nobody had before.
    NeedsProducerId,
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Self::Error(error)
    }
}

/// What InitProducerId leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Initialization {
    /// The producer may begin; beside it the epoch that a retry of the request would name.
    Ready(Transaction, Option<ProducerEpoch>),
    /// An open transaction is aborted first.
    AbortFirst,
}

/// A producer begins, or begins anew. `last_epoch` is the one before the last bump.
pub(super) fn initialize(
    current: Option<&Transaction>,
    last_epoch: Option<ProducerEpoch>,
    request: &InitProducerId,
    now_ms: i64,
) -> Result<Initialization, Refusal> {
    let InitProducerId { timeout_ms, expected, fresh, .. } = *request;
    let Some(current) = current else {
        let producer = Producer { id: fresh.ok_or(Refusal::NeedsProducerId)?, epoch: ProducerEpoch(0) };
        let new = Transaction {
            producer,
            previous_producer_id: producer.id,
            next_producer_id: NO_ID,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: Partitions::default(),
            start_ms: -1,
            last_update_ms: now_ms,
            client_version: 0,
        };
        return Ok(Initialization::Ready(new, None));
    };
    refuse_while_prepared(current)?;
    let now = current.producer;
    let is_known = |expected: Producer| {
        expected.id == now.id
            || expected.id == current.previous_producer_id && expected.epoch >= PRODUCER_EPOCH_LAST
    };
    if !expected.is_none_or(is_known) {
        return Err(ErrorCode::ProducerFenced.into());
    }
    if current.state == TransactionState::Ongoing {
        return Ok(Initialization::AbortFirst);
    }
    let (producer, last) = match expected {
        _ if current.is_epoch_exhausted() && expected.is_none_or(|expected| expected.epoch == now.epoch) => {
            let id = fresh.ok_or(Refusal::NeedsProducerId)?;
            (Producer { id, epoch: ProducerEpoch(0) }, expected.map(|_| now.epoch))
        }
        None => (bumped(now), None),
        Some(expected) if expected.epoch == now.epoch => (bumped(now), Some(now.epoch)),
        // Its answer got lost: nobody else has begun since, or there would be no last epoch.
        Some(expected) if Some(expected.epoch) == last_epoch => (now, last_epoch),
        Some(_) => return Err(ErrorCode::ProducerFenced.into()),
    };
    let next = Transaction {
        producer,
        state: TransactionState::Empty,
        timeout_ms,
        partitions: Partitions::default(),
        start_ms: -1,
        last_update_ms: now_ms,
        ..changed(current)
    };
    Ok(Initialization::Ready(next, last))
}

/// While markers are on their way nothing else is looked at: the producer may have its next id already.
fn refuse_while_prepared(current: &Transaction) -> Result<(), Refusal> {
    match current.state.prepared() {
        Some(_) => Err(Refusal::NotYet),
        None => Ok(()),
    }
}

/// Whether the transaction is `producer`'s.
pub(super) fn check_producer(current: &Transaction, producer: Producer) -> Result<(), Refusal> {
    if current.producer.id != producer.id {
        return Err(ErrorCode::InvalidProducerIdMapping.into());
    }
    if current.producer.epoch != producer.epoch {
        return Err(ErrorCode::ProducerFenced.into());
    }
    Ok(())
}

/// The transaction with more partitions; `None` if it has them.
pub(super) fn add_partitions(
    current: &Transaction,
    request: &AddPartitions,
    now_ms: i64,
) -> Result<Option<Transaction>, Refusal> {
    let AddPartitions { producer, partitions, client_version, .. } = request;
    refuse_while_prepared(current)?;
    check_producer(current, *producer)?;
    let is_ongoing = current.state == TransactionState::Ongoing;
    if is_ongoing && current.partitions.contains_all(partitions) {
        return Ok(None);
    }
    let mut next = Transaction {
        state: TransactionState::Ongoing,
        start_ms: if is_ongoing { current.start_ms } else { now_ms },
        last_update_ms: now_ms,
        client_version: *client_version,
        ..changed(current)
    };
    next.partitions.extend(partitions);
    Ok(Some(next))
}

/// What EndTxn leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The transaction goes on to its markers.
    Prepared(Transaction),
    /// It was ended before, and the answer got lost.
    WasEnded,
}

/// A client ends its transaction.
pub(super) fn end(current: &Transaction, request: &EndTxn, now_ms: i64) -> Result<End, Refusal> {
    if request.client_version < EPOCH_BUMP_LEVEL {
        end_of_version_1(current, request, now_ms)
    } else {
        end_of_version_2(current, request, now_ms)
    }
}

fn end_of_version_1(current: &Transaction, request: &EndTxn, now_ms: i64) -> Result<End, Refusal> {
    let EndTxn { producer, ending, .. } = *request;
    check_producer(current, producer)?;
    refuse_while_prepared(current)?;
    match current.state {
        TransactionState::Ongoing => Ok(End::Prepared(prepare(current, ending, 0, None, now_ms)?)),
        state if state.completed() == Some(ending) => Ok(End::WasEnded),
        _ => Err(ErrorCode::InvalidTxnState.into()),
    }
}

/// With an epoch for each transaction a retry is told from the next transaction's end by its epoch.
fn end_of_version_2(current: &Transaction, request: &EndTxn, now_ms: i64) -> Result<End, Refusal> {
    let EndTxn { producer, ending, client_version, fresh, .. } = *request;
    refuse_while_prepared(current)?;
    let now = current.producer;
    let is_retry_over_overflow = current.previous_producer_id == producer.id
        && producer.epoch == PRODUCER_EPOCH_LAST
        && now.epoch == ProducerEpoch(0);
    // Where the epoch was not bumped by an end, who has the one before was fenced by another producer.
    let is_retry_over_bump =
        current.client_version >= EPOCH_BUMP_LEVEL && Some(now.epoch.0) == producer.epoch.0.checked_add(1);
    if now.id != producer.id && !is_retry_over_overflow {
        return Err(ErrorCode::InvalidProducerIdMapping.into());
    }
    let is_retry = is_retry_over_bump || is_retry_over_overflow;
    let is_epoch_valid = match current.state {
        TransactionState::Ongoing | TransactionState::Empty => producer.epoch == now.epoch,
        _ => is_retry || producer.epoch == now.epoch,
    };
    if !is_epoch_valid {
        return Err(ErrorCode::ProducerFenced.into());
    }
    match current.state {
        TransactionState::Ongoing => {
            Ok(End::Prepared(prepare(current, ending, client_version, fresh, now_ms)?))
        }
        state if is_retry && state.completed() == Some(ending) => Ok(End::WasEnded),
        // A client that does not know whether anything of its transaction arrived aborts it.
        _ if !is_retry && ending == Ending::Abort => {
            let mut next = prepare(current, ending, client_version, fresh, now_ms)?;
            next.start_ms = now_ms;
            Ok(End::Prepared(next))
        }
        _ => Err(ErrorCode::InvalidTxnState.into()),
    }
}

/// The coordinator itself aborts: after a timeout, or because another producer begins. The old
/// producer is fenced by the epoch.
pub(super) fn fence(
    current: &Transaction,
    level: i16,
    fresh: Option<ProducerId>,
    now_ms: i64,
) -> Result<Transaction, Refusal> {
    if level >= EPOCH_BUMP_LEVEL {
        return prepare(current, Ending::Abort, level, fresh, now_ms);
    }
    let mut next = prepare(current, Ending::Abort, 0, None, now_ms)?;
    next.producer = bumped(current.producer);
    Ok(next)
}

fn prepare(
    current: &Transaction,
    ending: Ending,
    client_version: i16,
    fresh: Option<ProducerId>,
    now_ms: i64,
) -> Result<Transaction, Refusal> {
    let bumps = client_version >= EPOCH_BUMP_LEVEL;
    let next_producer_id = match bumps && current.is_epoch_exhausted() {
        true => fresh.ok_or(Refusal::NeedsProducerId)?,
        false => NO_ID,
    };
    Ok(Transaction {
        producer: if bumps { bumped(current.producer) } else { current.producer },
        next_producer_id,
        state: ending.prepare(),
        last_update_ms: now_ms,
        client_version,
        ..changed(current)
    })
}

/// Every partition has its marker.
pub(super) fn complete(current: &Transaction, ending: Ending, now_ms: i64) -> Transaction {
    let has_successor = current.client_version >= EPOCH_BUMP_LEVEL && current.next_producer_id != NO_ID;
    Transaction {
        producer: match has_successor {
            true => Producer { id: current.next_producer_id, epoch: ProducerEpoch(0) },
            false => current.producer,
        },
        next_producer_id: NO_ID,
        state: ending.complete(),
        partitions: Partitions::default(),
        last_update_ms: now_ms,
        ..changed(current)
    }
}

fn changed(current: &Transaction) -> Transaction {
    Transaction { previous_producer_id: current.producer.id, ..current.clone() }
}

/// One more, and never beyond the last one there is.
fn bumped(producer: Producer) -> Producer {
    Producer { id: producer.id, epoch: ProducerEpoch(producer.epoch.0.saturating_add(1)) }
}
