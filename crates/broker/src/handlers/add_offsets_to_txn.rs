//! AddOffsetsToTxn, versions 0 to 4: a group's offsets join a transaction, which is to say the partition
//! of `__consumer_offsets` that the group belongs to.
//!
//! - 2: PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH (KIP-588). 4: TRANSACTION_ABORTABLE (KIP-890).
//!
//! The errors are those of AddPartitionsToTxn; COORDINATOR_NOT_AVAILABLE while there is no such topic.

use std::sync::Arc;

use klamm_coordinator::transaction::{Partitions, Producer};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::messages::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::coordinator::OFFSETS_TOPIC;
use crate::host::Host;
use crate::transactions;

/// From here on a client knows PRODUCER_FENCED.
const FENCED_VERSION_MIN: i16 = 2;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: AddOffsetsToTxnRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    Handled::Later(Box::pin(async move {
        let error = add(&broker, &request).await.err().unwrap_or(ErrorCode::None);
        let error_code = error.or_before_fencing(meta.version < FENCED_VERSION_MIN).code();
        meta.reply(&AddOffsetsToTxnResponse { error_code, ..Default::default() })
    }))
}

async fn add<H: Host>(broker: &Broker<H>, request: &AddOffsetsToTxnRequest) -> Result<(), ErrorCode> {
    let partition = broker.coordinators.groups.partition_of(&request.group_id);
    let mut partitions = Partitions::default();
    partitions.insert(OFFSETS_TOPIC, partition.ok_or(ErrorCode::CoordinatorNotAvailable)?);
    let producer =
        Producer { id: ProducerId(request.producer_id), epoch: ProducerEpoch(request.producer_epoch) };
    // Whoever sends this has no epoch for each transaction.
    transactions::add(broker, &request.transactional_id, producer, partitions, 0).await
}
