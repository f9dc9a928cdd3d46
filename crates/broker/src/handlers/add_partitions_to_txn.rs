//! AddPartitionsToTxn, versions 0 to 5: partitions join a transaction, or are verified to be in it.
//!
//! Up to version 3 one transaction of a client; from 4 on several, as brokers ask for the partitions they
//! lead (KIP-890). If one partition does not exist, none joins: the others get OPERATION_NOT_ATTEMPTED.
//!
//! - 2: PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH (KIP-588). 4: batches, `VerifyOnly`.
//!   5: TRANSACTION_ABORTABLE.
//!
//! | error | when |
//! |---|---|
//! | INVALID_REQUEST | an empty transactional id |
//! | UNKNOWN_TOPIC_OR_PARTITION, OPERATION_NOT_ATTEMPTED | a partition does not exist; another does not |
//! | INVALID_PRODUCER_ID_MAPPING | the transactional id is unknown, or another producer's |
//! | PRODUCER_FENCED | another epoch |
//! | CONCURRENT_TRANSACTIONS | the markers of the last transaction take their time |
//! | TRANSACTION_ABORTABLE | only verified, and not in the transaction |
//! | COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR | there is no answer now |

use std::sync::Arc;

use klamm_coordinator::transaction::{
    AddPartitions, EPOCH_BUMP_LEVEL, Partitions, Producer, TransactionCommand, TransactionReply,
};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{PartitionIndex, ProducerEpoch, ProducerId};
use klamm_protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult, AddPartitionsToTxnTopic, AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::transactions::{VerifyMode, ask, verify};

/// From here on a client knows PRODUCER_FENCED.
const FENCED_VERSION_MIN: i16 = 2;
/// From here on a request has several transactions.
const BATCH_VERSION_MIN: i16 = 4;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: AddPartitionsToTxnRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    Handled::Later(Box::pin(async move {
        if meta.version >= BATCH_VERSION_MIN {
            let mut results_by_transaction = Vec::with_capacity(request.transactions.len());
            for transaction in &request.transactions {
                results_by_transaction.push(AddPartitionsToTxnResult {
                    transactional_id: transaction.transactional_id.clone(),
                    topic_results: add(&broker, transaction, meta.version).await,
                    ..Default::default()
                });
            }
            return meta.reply(&AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() });
        }
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: request.v3_and_below_transactional_id,
            producer_id: request.v3_and_below_producer_id,
            producer_epoch: request.v3_and_below_producer_epoch,
            verify_only: false,
            topics: request.v3_and_below_topics,
            ..Default::default()
        };
        let results_by_topic_v3_and_below = add(&broker, &transaction, meta.version).await;
        meta.reply(&AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() })
    }))
}

async fn add<H: Host>(
    broker: &Broker<H>,
    transaction: &AddPartitionsToTxnTransaction,
    version: i16,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let topics = &transaction.topics;
    let image = broker.image.load();
    let is_there = |topic: &str, partition: i32| {
        let known = image.topic_by_name(topic);
        known.is_some_and(|known| known.partitions.contains_key(&PartitionIndex(partition)))
    };
    let are_all_there =
        topics.iter().all(|topic| topic.partitions.iter().all(|partition| is_there(&topic.name, *partition)));
    if !are_all_there {
        return results(topics, |topic, partition| match is_there(topic, partition) {
            true => ErrorCode::OperationNotAttempted,
            false => ErrorCode::UnknownTopicOrPartition,
        });
    }
    drop(image);
    match ask_coordinator(broker, transaction, version).await {
        Ok(missing) => results(topics, |topic, partition| {
            let is_missing = missing.iter().any(|(of, index)| **of == *topic && index.0 == partition);
            if is_missing { ErrorCode::TransactionAbortable } else { ErrorCode::None }
        }),
        Err(error) => {
            let error = error.or_before_fencing(version < FENCED_VERSION_MIN);
            results(topics, |_, _| error)
        }
    }
}

/// Those that were to be verified and are not in the transaction.
async fn ask_coordinator<H: Host>(
    broker: &Broker<H>,
    transaction: &AddPartitionsToTxnTransaction,
    version: i16,
) -> Result<Vec<(Arc<str>, PartitionIndex)>, ErrorCode> {
    let transactional_id = &*transaction.transactional_id;
    let producer = Producer {
        id: ProducerId(transaction.producer_id),
        epoch: ProducerEpoch(transaction.producer_epoch),
    };
    let mut partitions = Partitions::default();
    for topic in &transaction.topics {
        topic
            .partitions
            .iter()
            .for_each(|partition| partitions.insert(&topic.name, PartitionIndex(*partition)));
    }
    if transaction.verify_only {
        return verify(broker, transactional_id, producer, partitions, VerifyMode::Verify).await;
    }
    add_to(broker, transactional_id, producer, partitions, version >= BATCH_VERSION_MIN).await?;
    Ok(Vec::new())
}

/// Lets partitions join; also for AddOffsetsToTxn.
pub(super) async fn add_to<H: Host>(
    broker: &Broker<H>,
    transactional_id: &str,
    producer: Producer,
    partitions: Partitions,
    has_epoch_bump: bool,
) -> Result<(), ErrorCode> {
    if transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let command = TransactionCommand::AddPartitions(AddPartitions {
        transactional_id: transactional_id.into(),
        producer,
        partitions,
        client_version: if has_epoch_bump { EPOCH_BUMP_LEVEL } else { 0 },
    });
    match ask(broker, transactional_id, command).await? {
        TransactionReply::AddPartitions(result) => result,
        other => unreachable!("{other:?} answers AddPartitions"),
    }
}

fn results(
    topics: &[AddPartitionsToTxnTopic],
    of: impl Fn(&str, i32) -> ErrorCode,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let result = |topic: &str, partition: i32| AddPartitionsToTxnPartitionResult {
        partition_index: partition,
        partition_error_code: of(topic, partition).code(),
        ..Default::default()
    };
    topics
        .iter()
        .map(|topic| AddPartitionsToTxnTopicResult {
            name: topic.name.clone(),
            results_by_partition: topic
                .partitions
                .iter()
                .map(|partition| result(&topic.name, *partition))
                .collect(),
            ..Default::default()
        })
        .collect()
}
