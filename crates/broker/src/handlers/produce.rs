//! Produce, versions 3 to 13.
//!
//! Decoded and validated on the connection's thread; batches of one group of requests
//! for one partition go into one append. acks=1 answers once the batch is in the log, acks=all once
//! it counts (`klamm.durability`); acks=0 has no answer, and a failure closes the connection,
//! as in Kafka.
//!
//! - 3: record batches of magic 2 (KIP-98); lower versions are advertised for an old
//!   librdkafka (KAFKA-18659) and refused.
//! - 7: zstd (KIP-110). 8: record errors (KIP-467). 9: flexible. 13: topic ids (KIP-516).
//!
//! | error | when |
//! |---|---|
//! | UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID | no such topic or partition |
//! | INVALID_TOPIC_EXCEPTION | an internal topic, except from `__admin_client` |
//! | INVALID_REQUIRED_ACKS | acks is none of 0, 1, -1 |
//! | TRANSACTIONAL_ID_AUTHORIZATION_FAILED | a transactional batch without a transactional id |
//! | INVALID_PRODUCER_ID_MAPPING | transactional batches of several producers |
//! | INVALID_TXN_STATE | a transactional batch of no open transaction, or another one within it |
//! | what the transaction coordinator says | see `transactional` |
//! | what the checks of record batches say | see `klamm_protocol::records` |
//! | OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH | idempotence (KIP-98) |
//! | KAFKA_STORAGE_ERROR | the log directory failed |

mod transactional;

use std::sync::Arc;

use klamm_coordinator::transaction::Producer;
use klamm_log::{AppendError, AppendOrigin};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{PartitionIndex, TopicId};
use klamm_protocol::messages::produce::{
    BatchIndexAndErrorMessage, PartitionProduceData, PartitionProduceResponse, ProduceRequest,
    ProduceResponse, TopicProduceResponse,
};
use klamm_protocol::records::{ProduceReject, Scratch, ValidatedBatch, validate_produce};
use klamm_protocol::wire::{Records, WireStr};

use super::{Frame, Meta, Response};
use crate::broker::Broker;
use crate::host::Host;
use crate::log_dirs::DirState;
use crate::net::CloseReason;
use crate::net::slots::Slots;
use crate::net::waker::{Completion, ConnWaker};
use crate::partition::acks::AppendOwner;
use crate::partition::registry::{Missing, Topic};
use crate::partition::{Append, AppendFailure, AppendGroup, AppendResult, Partition, Ticket};

pub(crate) use transactional::UnverifiedProduce;
use transactional::may_begin;

/// The client id that may write internal topics: Kafka's `__admin_client`.
const ADMIN_CLIENT_ID: &str = "__admin_client";
/// The slot of a batch that nobody waits for (acks=0).
const NO_SLOT: u64 = u64::MAX;

/// How an append that was left to another thread is answered.
pub(crate) type ProduceWaker = ConnWaker<AppendResult>;

/// A produce request that waits for its batches.
#[derive(Debug)]
pub(crate) struct ParkedProduce {
    meta: Meta,
    response: ProduceResponse,
    waiting_count: u32,
}

/// The batches of the produce requests that one read brought.
#[derive(Default)]
pub(crate) struct ProduceGroup {
    entries: Vec<Entry>,
    slots: Vec<u64>,
    scratch: Scratch,
    /// A request with acks=0 was refused in part; the connection closes once the rest is in the log.
    has_unacknowledged_failure: bool,
}

struct Entry {
    partition: Arc<Partition>,
    batch: ValidatedBatch,
    ticket: Ticket,
}

/// What became of a request.
pub(crate) enum Collected {
    /// Its batches are in the group.
    Parked(ParkedProduce),
    /// They are, and nobody waits for an answer.
    Unanswered,
    /// A transaction coordinator must be asked first: a barrier, as all APIs but Produce.
    Unverified(UnverifiedProduce),
}

/// Decodes and validates a request into `group`.
pub(crate) fn collect<H: Host>(
    broker: &Broker<H>,
    group: &mut ProduceGroup,
    mut frame: Frame,
    slot: u64,
) -> Result<Collected, CloseReason> {
    let request: ProduceRequest = frame.decode()?;
    let meta = frame.meta();
    let is_answered = request.acks != 0;
    let slot = if is_answered { slot } else { NO_SLOT };
    let may_write_internal = frame.header.client_id.as_deref() == Some(ADMIN_CLIENT_ID);
    let are_acks_valid = (-1..=1).contains(&request.acks);
    let index = broker.topics.load();
    let first_entry = group.entries.len();
    let mut has_failed = false;
    let mut transaction = Transaction::default();
    let mut responses = Vec::with_capacity(request.topic_data.len());
    for (topic_place, data) in request.topic_data.into_iter().enumerate() {
        let topic = match meta.version {
            ..13 => index.by_name(&data.name).ok_or(ErrorCode::UnknownTopicOrPartition),
            _ => index.by_id(TopicId(data.topic_id)).ok_or(ErrorCode::UnknownTopicId),
        };
        let topic = topic.and_then(|topic| match topic.is_internal && !may_write_internal {
            true => Err(ErrorCode::InvalidTopicException),
            false => Ok(topic),
        });
        let topic = if are_acks_valid { topic } else { Err(ErrorCode::InvalidRequiredAcks) };
        let mut partition_responses = Vec::with_capacity(data.partition_data.len());
        for (partition_place, partition_data) in data.partition_data.into_iter().enumerate() {
            let mut response = failed(partition_data.index, ErrorCode::None);
            match topic {
                Err(error) => response.error_code = error.code(),
                Ok(topic) => match accept(broker, &mut group.scratch, topic, partition_data, meta.version) {
                    Err(refused) => refused.put_into(&mut response),
                    Ok((partition, batch)) => {
                        let place = (topic_place as u32, partition_place as u32);
                        let ticket = Ticket { slot, place, waits_for_commit: request.acks == -1 };
                        let entry = Entry { partition, batch, ticket };
                        transaction.note(broker, &entry, meta.version);
                        group.entries.push(entry);
                    }
                },
            }
            has_failed |= response.error_code != ErrorCode::None.code();
            partition_responses.push(response);
        }
        responses.push(TopicProduceResponse {
            name: data.name,
            topic_id: data.topic_id,
            partition_responses,
            ..Default::default()
        });
    }
    if let Some(error) = transaction.error(request.transactional_id.is_some()) {
        group.entries.truncate(first_entry);
        has_failed = true;
        let partitions = responses.iter_mut().flat_map(|topic| &mut topic.partition_responses);
        partitions.for_each(|response| *response = failed(response.index, error));
    } else if let Transaction { producer: Some(producer), may_begin: true, .. } = transaction
        && let Some(transactional_id) = request.transactional_id
    {
        let entries = group.entries.drain(first_entry..).collect();
        let response = ProduceResponse { responses, ..Default::default() };
        let produce = UnverifiedProduce {
            meta,
            response,
            entries,
            transactional_id,
            producer,
            is_answered,
            has_failed,
        };
        return Ok(Collected::Unverified(produce));
    }
    if !is_answered {
        group.has_unacknowledged_failure |= has_failed;
        return Ok(Collected::Unanswered);
    }
    let waiting_count = (group.entries.len() - first_entry) as u32;
    group.slots.push(slot);
    let response = ProduceResponse { responses, ..Default::default() };
    Ok(Collected::Parked(ParkedProduce { meta, response, waiting_count }))
}

/// What the transactional batches of one request have in common.
#[derive(Default)]
struct Transaction {
    producer: Option<Producer>,
    has_several_producers: bool,
    /// One of them may begin its transaction in its partition.
    may_begin: bool,
}

impl Transaction {
    fn note<H: Host>(&mut self, broker: &Broker<H>, entry: &Entry, version: i16) {
        let header = &entry.batch.header;
        if !header.attributes.is_transactional() {
            return;
        }
        let producer = Producer { id: header.producer_id, epoch: header.producer_epoch };
        self.has_several_producers |= *self.producer.get_or_insert(producer) != producer;
        self.may_begin |= may_begin(broker, entry, version);
    }

    /// Why the whole request is refused.
    fn error(&self, has_transactional_id: bool) -> Option<ErrorCode> {
        match self.producer {
            None => None,
            Some(_) if !has_transactional_id => Some(ErrorCode::TransactionalIdAuthorizationFailed),
            Some(_) if self.has_several_producers => Some(ErrorCode::InvalidProducerIdMapping),
            Some(_) => None,
        }
    }
}

/// Why a partition's data was refused before it came to the log.
struct Refused {
    code: ErrorCode,
    message: Option<String>,
    record_errors: Vec<(i32, String)>,
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None, record_errors: Vec::new() }
    }
}

impl From<ProduceReject> for Refused {
    fn from(reject: ProduceReject) -> Self {
        let code = reject.error_code();
        Self { code, message: Some(reject.message), record_errors: reject.record_errors }
    }
}

impl Refused {
    fn put_into(self, response: &mut PartitionProduceResponse) {
        response.error_code = self.code.code();
        response.error_message = self.message.map(WireStr::from);
        response.record_errors = self
            .record_errors
            .into_iter()
            .map(|(batch_index, message)| BatchIndexAndErrorMessage {
                batch_index,
                batch_index_error_message: Some(message.into()),
                ..Default::default()
            })
            .collect();
    }
}

fn accept<H: Host>(
    broker: &Broker<H>,
    scratch: &mut Scratch,
    topic: &Topic,
    data: PartitionProduceData,
    version: i16,
) -> Result<(Arc<Partition>, ValidatedBatch), Refused> {
    let partition = topic.partition(PartitionIndex(data.index)).map_err(|missing| match missing {
        Missing::Unknown => ErrorCode::UnknownTopicOrPartition,
        Missing::Offline => ErrorCode::KafkaStorageError,
    })?;
    let records = match data.records {
        Some(Records::Inline(records)) => records,
        Some(Records::External { .. }) | None => bytes::Bytes::new(),
    };
    let rules = topic.produce_rules(broker.host.wall(), version);
    let batch = validate_produce(&records, &rules, scratch)?;
    Ok((partition, batch))
}

/// Appends what was collected: each partition once. `uncommitted` gets the directories that it waits for.
pub(crate) fn append<H: Host>(
    broker: &Broker<H>,
    group: &mut ProduceGroup,
    slots: &mut Slots<ParkedProduce, Response>,
    waker: &Arc<ProduceWaker>,
    uncommitted: &mut Vec<Arc<DirState>>,
) -> Result<(), CloseReason> {
    let mut has_unacknowledged_failure = std::mem::take(&mut group.has_unacknowledged_failure);
    if group.entries.is_empty() && group.slots.is_empty() {
        return if has_unacknowledged_failure { Err(CloseReason::UnacknowledgedFailure) } else { Ok(()) };
    }
    let mut entries = std::mem::take(&mut group.entries);
    let is_one_partition = entries.windows(2).all(|pair| Arc::ptr_eq(&pair[0].partition, &pair[1].partition));
    if !is_one_partition {
        // Stable: a partition's batches keep their order.
        entries.sort_by_key(|entry| (entry.partition.topic_id, entry.partition.index));
    }
    let owner: Arc<dyn AppendOwner> = waker.clone();
    let mut rest = entries.drain(..).peekable();
    while let Some(first) = rest.next() {
        let partition = first.partition;
        let mut part = AppendGroup {
            batches: vec![first.batch],
            tickets: vec![first.ticket],
            origin: AppendOrigin::Client,
        };
        while let Some(next) = rest.next_if(|entry| Arc::ptr_eq(&entry.partition, &partition)) {
            part.batches.push(next.batch);
            part.tickets.push(next.ticket);
        }
        broker.metrics.note_batches(&part.batches);
        let tickets = part.tickets.clone();
        match partition.append(&broker.host, part, &owner) {
            Append::Queued => {}
            Append::Done(results) => {
                if results.iter().any(Option::is_none) {
                    let dir = partition.want_commit(&broker.host);
                    if !uncommitted.iter().any(|known| Arc::ptr_eq(known, &dir)) {
                        uncommitted.push(dir);
                    }
                }
                for (ticket, result) in tickets.into_iter().zip(results) {
                    let Some(result) = result else { continue };
                    has_unacknowledged_failure |= ticket.slot == NO_SLOT && result.is_err();
                    fill(slots, ticket.slot, ticket.place, result);
                }
            }
        }
    }
    drop(rest);
    group.entries = entries;
    for slot in group.slots.drain(..) {
        if slots.parked(slot).is_some_and(|parked| parked.waiting_count == 0) {
            slots.answer(slot, ParkedProduce::encode);
        }
    }
    if has_unacknowledged_failure { Err(CloseReason::UnacknowledgedFailure) } else { Ok(()) }
}

/// Puts an answer from another thread into its slot.
pub(crate) fn complete(
    slots: &mut Slots<ParkedProduce, Response>,
    completion: Completion<AppendResult>,
) -> Result<(), CloseReason> {
    if completion.slot == NO_SLOT {
        return completion.result.map(drop).map_err(|_| CloseReason::UnacknowledgedFailure);
    }
    fill(slots, completion.slot, completion.place, completion.result);
    if slots.parked(completion.slot).is_some_and(|parked| parked.waiting_count == 0) {
        slots.answer(completion.slot, ParkedProduce::encode);
    }
    Ok(())
}

fn fill(slots: &mut Slots<ParkedProduce, Response>, slot: u64, place: (u32, u32), result: AppendResult) {
    let Some(parked) = slots.parked(slot) else { return };
    let (topic, partition) = (place.0 as usize, place.1 as usize);
    let response = &mut parked.response.responses[topic].partition_responses[partition];
    parked.waiting_count -= 1;
    put_result(response, result);
}

fn put_result(response: &mut PartitionProduceResponse, result: AppendResult) {
    match result {
        Ok(placed) => {
            response.base_offset = placed.base_offset.0;
            response.log_append_time_ms = placed.log_append_time_ms;
            response.log_start_offset = placed.log_start_offset.0;
        }
        Err(error) => {
            let code = error_code(&error);
            response.error_code = code.code();
            if code != ErrorCode::KafkaStorageError {
                // A client need not know the paths of our disks.
                response.error_message = Some(error.to_string().into());
            }
        }
    }
}

impl ParkedProduce {
    fn encode(self) -> Response {
        self.meta.encode(&self.response).unwrap_or(Response { parts: Vec::new() })
    }
}

fn failed(index: i32, error: ErrorCode) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        error_code: error.code(),
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        ..Default::default()
    }
}

fn error_code(failure: &AppendFailure) -> ErrorCode {
    let error = match failure {
        // The client looks the topic up again and finds it gone.
        AppendFailure::Closed => return ErrorCode::NotLeaderOrFollower,
        AppendFailure::Refused(error) => error,
    };
    match error {
        AppendError::InvalidProducerEpoch(_) => ErrorCode::InvalidProducerEpoch,
        AppendError::OutOfOrderSequence(_) => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidTxnState(_) => ErrorCode::InvalidTxnState,
        AppendError::TransactionCoordinatorFenced(_) => ErrorCode::TransactionCoordinatorFenced,
        AppendError::RecordBatchTooLarge { .. } => ErrorCode::RecordListTooLarge,
        AppendError::UnexpectedOffset { .. } | AppendError::StalePlan(_) => ErrorCode::UnknownServerError,
        AppendError::InvalidBatch(_) => ErrorCode::InvalidRecord,
        AppendError::Storage(_) => ErrorCode::KafkaStorageError,
    }
}
