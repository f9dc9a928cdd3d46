//! TxnOffsetCommit, versions 0 to 5: a group's offsets that count once the producer's transaction commits.
//!
//! The group's partition of `__consumer_offsets` must be in the transaction, as any that is written.
//!
//! - 2: COORDINATOR_LOAD_IN_PROGRESS; before COORDINATOR_NOT_AVAILABLE. 3: members (KIP-447).
//! - 4: TRANSACTION_ABORTABLE. 5: adds the group's partition to the transaction by itself (KIP-890).
//!
//! | error | when |
//! |---|---|
//! | UNKNOWN_TOPIC_OR_PARTITION | no such partition; the others are committed |
//! | INVALID_GROUP_ID | an empty group id |
//! | OFFSET_METADATA_TOO_LARGE | longer than `offset.metadata.max.bytes` |
//! | UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID | what the group says of the member |
//! | INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING | the producer was replaced; is another one, or none |
//! | TRANSACTION_ABORTABLE, before version 4 INVALID_TXN_STATE | the offsets were not added to the transaction |
//! | INVALID_TXN_STATE | the transaction ended meanwhile |
//! | CONCURRENT_TRANSACTIONS | the one before is not wholly ended |
//! | UNKNOWN_SERVER_ERROR | all of it, with metadata and names, is more than `max.message.bytes` of the internal topic |
//! | NOT_COORDINATOR, COORDINATOR_NOT_AVAILABLE, COORDINATOR_LOAD_IN_PROGRESS | not here, or not yet |

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_cluster::image::MetadataImage;
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_coordinator::transaction::Producer;
use klamm_log::AppendError;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{PartitionIndex, ProducerEpoch, ProducerId};
use klamm_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestTopic, TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::transactions::admission::{Claim, ClientLevel, admit};

/// From here on a client knows COORDINATOR_LOAD_IN_PROGRESS.
const LOADING_VERSION_MIN: i16 = 2;
/// A coordinator's records have none.
const NO_SEQUENCE: i32 = -1;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let mut request: TxnOffsetCommitRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let asked = request.topics.clone();
    take_unknown(&broker.image.load(), &mut request);
    if request.topics.is_empty() {
        return meta.reply(&response(&asked, &[], ErrorCode::UnknownTopicOrPartition));
    }
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let known = request.topics.clone();
        let answered = match commit(&broker, request, meta.version).await {
            Ok(topics) => topics,
            Err(ErrorCode::CoordinatorLoadInProgress) if meta.version < LOADING_VERSION_MIN => {
                all_failed(&known, ErrorCode::CoordinatorNotAvailable)
            }
            Err(error) => all_failed(&known, error),
        };
        meta.reply(&response(&asked, &answered, ErrorCode::UnknownTopicOrPartition))
    }))
}

async fn commit<H: Host>(
    broker: &Broker<H>,
    request: TxnOffsetCommitRequest,
    version: i16,
) -> Result<Vec<TxnOffsetCommitResponseTopic>, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    if request.producer_id < 0 || request.producer_epoch < 0 {
        // Nobody could end its transaction, and nobody else is asked while verification is off.
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    let shard = broker.coordinators.groups.of_key(&request.group_id).ok_or(ErrorCode::NotCoordinator)?;
    let producer =
        Producer { id: ProducerId(request.producer_id), epoch: ProducerEpoch(request.producer_epoch) };
    let claim = Claim { partition: shard.partition().clone(), base_sequence: NO_SEQUENCE };
    let level = ClientLevel::of_txn_offset_commit(version);
    let admitted = admit(broker, &request.transactional_id, producer, &[claim], level).await;
    admitted.into_iter().collect::<Result<Vec<()>, _>>().map_err(for_client)?;
    let command = GroupCommand::TxnOffsetCommit { request, version };
    match shard.ask_in_transaction(command, producer.id, producer.epoch).await {
        Ok(Ok(GroupReply::TxnOffsetCommit(response))) => Ok(response.topics),
        Ok(Ok(other)) => unreachable!("{other:?} answers TxnOffsetCommit"),
        Ok(Err(AppendError::InvalidProducerEpoch(_))) => Err(ErrorCode::InvalidProducerEpoch),
        Ok(Err(AppendError::InvalidTxnState(_))) => Err(ErrorCode::InvalidTxnState),
        Ok(Err(error)) => unreachable!("{error} where only transactions are looked at"),
        Err(unavailable) => Err(unavailable.error_code()),
    }
}

/// What a group's coordinator says of errors of the log and of the network.
fn for_client(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::NetworkException => ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
        error => error,
    }
}

/// Takes out what is not there.
fn take_unknown(image: &MetadataImage, request: &mut TxnOffsetCommitRequest) {
    request.topics.retain_mut(|topic| {
        let Some(known) = image.topic_by_name(&topic.name) else { return false };
        let is_there = |index: i32| known.partitions.contains_key(&PartitionIndex(index));
        topic.partitions.retain(|partition| is_there(partition.partition_index));
        !topic.partitions.is_empty()
    });
}

fn all_failed(topics: &[TxnOffsetCommitRequestTopic], error: ErrorCode) -> Vec<TxnOffsetCommitResponseTopic> {
    response(topics, &[], error).topics
}

/// Every partition that was asked for, in order: with its answer, or else with `otherwise`.
fn response(
    asked: &[TxnOffsetCommitRequestTopic],
    answered: &[TxnOffsetCommitResponseTopic],
    otherwise: ErrorCode,
) -> TxnOffsetCommitResponse {
    let errors: BTreeMap<(&str, i32), i16> = answered
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(move |partition| (&*topic.name, partition)))
        .map(|(topic, partition)| ((topic, partition.partition_index), partition.error_code))
        .collect();
    let error_of = |topic, index| errors.get(&(topic, index)).copied().unwrap_or(otherwise.code());
    let topics = asked.iter().map(|topic| TxnOffsetCommitResponseTopic {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| TxnOffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error_of(&topic.name, partition.partition_index),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}
