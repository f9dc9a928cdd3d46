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
//! | TOPIC_AUTHORIZATION_FAILED | a client adds an internal topic |
//! | INVALID_PRODUCER_ID_MAPPING | the transactional id is unknown, or another producer's |
//! | PRODUCER_FENCED | another epoch |
//! | CONCURRENT_TRANSACTIONS | the markers of the last transaction take their time |
//! | TRANSACTION_ABORTABLE | only verified, and not in the transaction |
//! | COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR | there is no answer now |

use std::sync::Arc;

use klamm_coordinator::transaction::{EPOCH_BUMP_LEVEL, Partitions, Producer};
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
use crate::topic_names::is_internal;
use crate::transactions::{add, verify};

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
                    topic_results: add_all(&broker, transaction, meta.version).await,
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
        let results_by_topic_v3_and_below = add_all(&broker, &transaction, meta.version).await;
        meta.reply(&AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() })
    }))
}

async fn add_all<H: Host>(
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
    if let Some(refused) = refuse(topics, version < BATCH_VERSION_MIN, is_there) {
        return refused;
    }
    drop(image);
    match ask_coordinator(broker, transaction, version).await {
        Ok(missing) => results(topics, |topic, partition| {
            if missing.contains(topic, PartitionIndex(partition)) {
                ErrorCode::TransactionAbortable
            } else {
                ErrorCode::None
            }
        }),
        Err(error) => {
            let error = error.or_before_fencing(version < FENCED_VERSION_MIN);
            results(topics, |_, _| error)
        }
    }
}

/// One partition that cannot join keeps all out. A client does not add internal topics: offsets join by
/// their own API, which chooses the partition itself.
fn refuse(
    topics: &[AddPartitionsToTxnTopic],
    is_client: bool,
    is_there: impl Fn(&str, i32) -> bool,
) -> Option<Vec<AddPartitionsToTxnTopicResult>> {
    let error = |topic: &str, partition: i32| {
        if is_client && is_internal(topic) {
            Some(ErrorCode::TopicAuthorizationFailed)
        } else if is_there(topic, partition) {
            None
        } else {
            Some(ErrorCode::UnknownTopicOrPartition)
        }
    };
    let can_join = |topic: &AddPartitionsToTxnTopic| {
        topic.partitions.iter().all(|partition| error(&topic.name, *partition).is_none())
    };
    (!topics.iter().all(can_join)).then(|| {
        results(topics, |topic, partition| {
            error(topic, partition).unwrap_or(ErrorCode::OperationNotAttempted)
        })
    })
}

/// Those that were to be verified and are not in the transaction.
async fn ask_coordinator<H: Host>(
    broker: &Broker<H>,
    transaction: &AddPartitionsToTxnTransaction,
    version: i16,
) -> Result<Partitions, ErrorCode> {
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
        return verify(broker, transactional_id, producer, partitions).await;
    }
    let client_version = if version >= BATCH_VERSION_MIN { EPOCH_BUMP_LEVEL } else { 0 };
    add(broker, transactional_id, producer, partitions, client_version).await?;
    Ok(Partitions::default())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(topics: &[(&str, &[i32])], is_client: bool) -> Option<Vec<ErrorCode>> {
        let topic = |(name, partitions): &(&str, &[i32])| AddPartitionsToTxnTopic {
            name: (*name).to_owned().into(),
            partitions: partitions.to_vec(),
            ..Default::default()
        };
        let topics: Vec<_> = topics.iter().map(topic).collect();
        let refused = refuse(&topics, is_client, |topic, partition| topic != "none" && partition < 2)?;
        let partitions = refused.iter().flat_map(|topic| &topic.results_by_partition);
        partitions.map(|partition| ErrorCode::from_code(partition.partition_error_code)).collect()
    }

    #[test]
    fn one_partition_that_cannot_join_keeps_all_out() {
        use ErrorCode::{
            OperationNotAttempted as Other, TopicAuthorizationFailed as Forbidden,
            UnknownTopicOrPartition as Unknown,
        };
        assert_eq!(errors(&[("t", &[0, 1])], true), None);
        assert_eq!(errors(&[("t", &[0, 7]), ("u", &[1])], true), Some(vec![Other, Unknown, Other]));
        assert_eq!(errors(&[("none", &[0])], false), Some(vec![Unknown]));
        let internal = [("t", &[0][..]), ("__consumer_offsets", &[1]), ("__transaction_state", &[0])];
        assert_eq!(errors(&internal, true), Some(vec![Other, Forbidden, Forbidden]));
        assert_eq!(errors(&internal, false), None, "as a group's coordinator asks");
    }
}
