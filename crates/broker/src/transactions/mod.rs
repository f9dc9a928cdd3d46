//! How the broker's other parts reach its transaction coordinator, and what they do for it.
//!
//! `performer` does what the machines want done: the markers of ended transactions. What it deliberately
//! does not do: decide (`klamm_coordinator::transaction` does), keep state.

pub(crate) mod admission;
pub(crate) mod chunks;
pub(crate) mod markers;
pub(crate) mod performer;

use std::sync::Arc;

use klamm_cluster::config::{ConfigLayers, ConfigValue};
use klamm_coordinator::transaction::{
    AddPartitions, Partitions, Producer, TransactionCommand, TransactionReply,
};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::ProducerId;

use crate::broker::Broker;
use crate::host::Host;

/// `transaction.partition.verification.enable`, as the log and who asks for it must read alike.
pub(crate) fn are_verified(layers: &ConfigLayers) -> bool {
    layers.value("transaction.partition.verification.enable") != Some(ConfigValue::Boolean(false))
}

/// The answer of the coordinator of `transactional_id`, or the error that says why there is none.
pub(crate) async fn ask<H: Host>(
    broker: &Broker<H>,
    transactional_id: &str,
    command: TransactionCommand,
) -> Result<TransactionReply, ErrorCode> {
    let shard = broker.coordinators.transactions.of_key(transactional_id).ok_or(ErrorCode::NotCoordinator)?;
    shard.ask(command).await.map_err(|unavailable| unavailable.error_code())
}

/// As [`ask`], with a producer id that nobody had before if the coordinator needs one.
pub(crate) async fn ask_with_fresh_id<H: Host>(
    broker: &Broker<H>,
    transactional_id: &str,
    command: impl Fn(Option<ProducerId>) -> TransactionCommand,
) -> Result<TransactionReply, ErrorCode> {
    match ask(broker, transactional_id, command(None)).await? {
        TransactionReply::NeedsProducerId => {
            let fresh = broker.producer_ids.next(&broker.controller).await;
            // The client asks again.
            let fresh = fresh.map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
            ask(broker, transactional_id, command(Some(fresh))).await
        }
        reply => Ok(reply),
    }
}

/// Which of `partitions` are not in the transaction of `producer`: those may not be written.
///
/// # Errors
/// The coordinator's, for all of them.
pub(crate) async fn verify<H: Host>(
    broker: &Broker<H>,
    transactional_id: &str,
    producer: Producer,
    partitions: Partitions,
) -> Result<Partitions, ErrorCode> {
    let id = not_empty(transactional_id)?;
    let command = TransactionCommand::VerifyPartitions { transactional_id: id, producer, partitions };
    match ask(broker, transactional_id, command).await? {
        TransactionReply::VerifyPartitions(missing) => missing,
        other => unreachable!("{other:?} answers a verification"),
    }
}

/// Lets `partitions` join the transaction of `producer`, whose client follows `client_version`.
///
/// # Errors
/// The coordinator's, for all of them.
pub(crate) async fn add<H: Host>(
    broker: &Broker<H>,
    transactional_id: &str,
    producer: Producer,
    partitions: Partitions,
    client_version: i16,
) -> Result<(), ErrorCode> {
    let id = not_empty(transactional_id)?;
    let request = AddPartitions { transactional_id: id, producer, partitions, client_version };
    match ask(broker, transactional_id, TransactionCommand::AddPartitions(request)).await? {
        TransactionReply::AddPartitions(result) => result,
        other => unreachable!("{other:?} answers AddPartitions"),
    }
}

fn not_empty(transactional_id: &str) -> Result<Arc<str>, ErrorCode> {
    if transactional_id.is_empty() { Err(ErrorCode::InvalidRequest) } else { Ok(transactional_id.into()) }
}
