//! May a producer's records join its transaction in these partitions? (KIP-890)
//!
//! The log is asked first, and the transaction coordinator only where the log knows of no open transaction:
//! before Produce 12 and TxnOffsetCommit 5 whether the partition was added, from then on to add it. What it
//! deliberately does not do: append.
//!
//! **Invariant:** whoever is admitted was known to the coordinator after the log's last marker, or the log
//! itself refuses the records.

use std::sync::Arc;

use klamm_coordinator::transaction::{EPOCH_BUMP_LEVEL, Partitions, Producer};
use klamm_log::{AppendError, TransactionClaim, VerificationTicket};
use klamm_protocol::error_code::ErrorCode;

use super::{add, are_verified, verify};
use crate::broker::Broker;
use crate::host::Host;
use crate::partition::Partition;

/// What a client knows of transactions, by the version of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientLevel {
    /// Partitions were added before; it does not know TRANSACTION_ABORTABLE.
    Old,
    /// It knows.
    KnowsAbortable,
    /// Its records add their partitions (transaction version 2).
    AddsPartitions,
}

impl ClientLevel {
    pub(crate) fn of_produce(version: i16) -> Self {
        match version {
            ..11 => Self::Old,
            11 => Self::KnowsAbortable,
            _ => Self::AddsPartitions,
        }
    }

    pub(crate) fn of_txn_offset_commit(version: i16) -> Self {
        match version {
            ..4 => Self::Old,
            4 => Self::KnowsAbortable,
            _ => Self::AddsPartitions,
        }
    }

    /// Whether anybody is asked at all.
    pub(crate) fn asks<H: Host>(self, broker: &Broker<H>) -> bool {
        self == Self::AddsPartitions || are_verified(&broker.layers.load())
    }
}

/// Records that want to join.
pub(crate) struct Claim {
    pub(crate) partition: Arc<Partition>,
    /// -1 for a coordinator's.
    pub(crate) base_sequence: i32,
}

/// Whether each claim may go on to its log, or the error that its client is told.
pub(crate) async fn admit<H: Host>(
    broker: &Broker<H>,
    transactional_id: &str,
    producer: Producer,
    claims: &[Claim],
    level: ClientLevel,
) -> Vec<Result<(), ErrorCode>> {
    if !level.asks(broker) {
        return claims.iter().map(|_| Ok(())).collect();
    }
    let mut begun = Vec::with_capacity(claims.len());
    let mut asked = Partitions::default();
    for claim in claims {
        let ticket = begin(broker, producer, claim, level).await;
        if let Ok(Some(_)) = ticket {
            asked.insert(&claim.partition.topic, claim.partition.index);
        }
        begun.push(ticket);
    }
    if asked.is_empty() {
        return begun.into_iter().map(|ticket| ticket.map(drop)).collect();
    }
    let answer = if level == ClientLevel::AddsPartitions {
        let added = add(broker, transactional_id, producer, asked, EPOCH_BUMP_LEVEL).await;
        added.map(|()| Partitions::default())
    } else {
        verify(broker, transactional_id, producer, asked).await
    };
    let mut admitted = Vec::with_capacity(claims.len());
    for (claim, ticket) in claims.iter().zip(begun) {
        let Partition { topic, index, .. } = &*claim.partition;
        let said = match (&ticket, &answer) {
            (Ok(Some(_)), Err(error)) => Err(*error),
            (Ok(Some(_)), Ok(missing)) if missing.contains(topic, *index) => {
                Err(ErrorCode::TransactionAbortable)
            }
            (Ok(_), _) => Ok(()),
            (Err(error), _) => Err(*error),
        };
        if let Ok(Some(ticket)) = ticket {
            note(broker, producer, &claim.partition, ticket, said).await;
        }
        admitted.push(said.map_err(|error| for_client(error, level)));
    }
    admitted
}

async fn begin<H: Host>(
    broker: &Broker<H>,
    producer: Producer,
    claim: &Claim,
    level: ClientLevel,
) -> Result<Option<VerificationTicket>, ErrorCode> {
    let asked = TransactionClaim {
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        base_sequence: claim.base_sequence,
        bumps_epoch: level == ClientLevel::AddsPartitions,
    };
    let now = broker.host.wall();
    let begun = claim.partition.with_log(&broker.host, move |log| log.begin_verification(&asked, now));
    match begun.await {
        None => Err(ErrorCode::NotLeaderOrFollower),
        Some(Err(AppendError::InvalidProducerEpoch(_))) => Err(ErrorCode::InvalidProducerEpoch),
        Some(Err(error)) => unreachable!("{error} where only an epoch is compared"),
        Some(Ok(ticket)) => Ok(ticket),
    }
}

async fn note<H: Host>(
    broker: &Broker<H>,
    producer: Producer,
    partition: &Arc<Partition>,
    ticket: VerificationTicket,
    said: Result<(), ErrorCode>,
) {
    let Producer { id, epoch } = producer;
    let noted = partition.with_log(&broker.host, move |log| match said {
        Ok(()) => log.confirm_verification(id, epoch, ticket),
        Err(error) if may_change(error) => {}
        Err(_) => log.refuse_verification(id, epoch, ticket),
    });
    // Without a log there is nothing to append to, as the append will say.
    let _ = noted.await;
}

/// True if the same question may soon have another answer.
fn may_change(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::NetworkException
            | ErrorCode::ConcurrentTransactions
    )
}

/// A producer expects other errors here than from its coordinator.
fn for_client(error: ErrorCode, level: ClientLevel) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if level == ClientLevel::Old => ErrorCode::InvalidTxnState,
        error => error,
    }
}
