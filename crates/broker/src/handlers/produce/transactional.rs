//! A produce request whose records would begin a transaction in some partition: its coordinator is asked
//! first, and meanwhile nothing else of the connection is handled.
//!
//! Batches that go on with an open transaction never come here.
//!
//! | error of the coordinator | what the producer is told |
//! |---|---|
//! | PRODUCER_FENCED | INVALID_PRODUCER_EPOCH |
//! | the partition was not added | TRANSACTION_ABORTABLE, before version 11 INVALID_TXN_STATE |
//! | COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR | NOT_ENOUGH_REPLICAS, which old clients try again |
//! | CONCURRENT_TRANSACTIONS | the same; from version 12 on as it is |

use std::sync::Arc;

use klamm_coordinator::transaction::Producer;
use klamm_log::AppendOrigin;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::produce::{PartitionProduceResponse, ProduceResponse};
use klamm_protocol::records::ValidatedBatch;
use klamm_protocol::wire::WireStr;

use super::{Entry, put_result};
use crate::broker::Broker;
use crate::handlers::{Handled, Meta, Response};
use crate::host::Host;
use crate::net::CloseReason;
use crate::transactions::admission::{Claim, ClientLevel, admit};
use crate::transactions::chunks::in_chunks;

/// A request that waits for a transaction coordinator.
pub(crate) struct UnverifiedProduce {
    pub(super) meta: Meta,
    pub(super) response: ProduceResponse,
    pub(super) entries: Vec<Entry>,
    pub(super) transactional_id: WireStr,
    pub(super) producer: Producer,
    /// By acks.
    pub(super) is_answered: bool,
    /// A partition was refused before.
    pub(super) has_failed: bool,
}

impl UnverifiedProduce {
    /// Asks, appends what may be appended, and answers.
    pub(crate) async fn run<H: Host>(mut self, broker: Arc<Broker<H>>) -> Handled {
        let level = ClientLevel::of_produce(self.meta.version);
        // A plain batch in the same request joins nothing.
        let (joining, plain): (Vec<Entry>, Vec<Entry>) =
            self.entries.drain(..).partition(|entry| is_transactional(&entry.batch));
        let claims: Vec<Claim> = joining
            .iter()
            .map(|entry| Claim {
                partition: entry.partition.clone(),
                base_sequence: entry.batch.header.base_sequence,
            })
            .collect();
        let admitted = admit(&broker, &self.transactional_id, self.producer, &claims, level).await;
        let mut appended = plain;
        let mut has_failed = self.has_failed;
        for (entry, admitted) in joining.into_iter().zip(admitted) {
            match admitted {
                Ok(()) => appended.push(entry),
                Err(error) => {
                    has_failed = true;
                    refuse(self.place(entry.ticket.place), error, level);
                }
            }
        }
        let batches = appended.iter().map(|entry| &entry.batch);
        broker.metrics.note_batches(batches);
        let places: Vec<_> = appended.iter().map(|entry| entry.ticket.place).collect();
        let broker_of_appends = &broker;
        let appends = appended.into_iter().map(|Entry { partition, batch, ticket }| async move {
            let host = &broker_of_appends.host;
            partition.append_one(host, batch, AppendOrigin::Client, ticket.waits_for_commit).await
        });
        for (place, result) in places.into_iter().zip(in_chunks(appends).await) {
            has_failed |= result.is_err();
            put_result(self.place(place), result);
        }
        match self.is_answered {
            true => self.meta.reply(&self.response),
            false if has_failed => Handled::Close(CloseReason::UnacknowledgedFailure),
            false => Handled::Reply(Response { parts: Vec::new() }),
        }
    }

    fn place(&mut self, (topic, partition): (u32, u32)) -> &mut PartitionProduceResponse {
        &mut self.response.responses[topic as usize].partition_responses[partition as usize]
    }
}

/// True if a batch may begin a transaction in its partition, as far as can be seen without the log.
pub(super) fn may_begin<H: Host>(broker: &Broker<H>, entry: &Entry, version: i16) -> bool {
    let header = &entry.batch.header;
    is_transactional(&entry.batch)
        && !entry.partition.view.has_open_transaction(header.producer_id, header.producer_epoch)
        && ClientLevel::of_produce(version).asks(broker)
}

fn is_transactional(batch: &ValidatedBatch) -> bool {
    batch.header.attributes.is_transactional()
}

fn refuse(response: &mut PartitionProduceResponse, error: ErrorCode, level: ClientLevel) {
    let is_old = level != ClientLevel::AddsPartitions;
    let (code, message) = match error {
        ErrorCode::InvalidTxnState => (error, Some("Partition was not added to the transaction".to_owned())),
        ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator
        | ErrorCode::NetworkException => (ErrorCode::NotEnoughReplicas, Some(cannot_verify(error))),
        ErrorCode::ConcurrentTransactions if is_old => {
            (ErrorCode::NotEnoughReplicas, Some(cannot_verify(error)))
        }
        error => (error, None),
    };
    response.error_code = code.code();
    response.error_message = message.map(WireStr::from);
}

fn cannot_verify(error: ErrorCode) -> String {
    format!("Unable to verify the partition has been added to the transaction. Underlying error: {error}")
}
