//! InitProducerId, versions 0 to 5: who a producer is.
//!
//! Without a transactional id: a producer id that nobody had before (KIP-98). With one, the transaction
//! coordinator's answer: an epoch above all earlier producers of that id, whose open transaction is
//! aborted first.
//!
//! - 3: what the producer had before (KIP-360). 4: PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH
//!   (KIP-588). 5: TRANSACTION_ABORTABLE (KIP-890), which is not answered here.
//!
//! | error | when |
//! |---|---|
//! | INVALID_REQUEST | an empty transactional id; only one of producer id and epoch |
//! | INVALID_TRANSACTION_TIMEOUT | not above 0, or above `transaction.max.timeout.ms` |
//! | CONCURRENT_TRANSACTIONS | the markers of the last transaction take their time |
//! | PRODUCER_FENCED | another producer has begun since |
//! | COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR | there is no answer now |

use std::sync::Arc;

use klamm_coordinator::transaction::{InitProducerId, Producer, TransactionCommand, TransactionReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::transactions::ask_with_fresh_id;

/// From here on a client knows PRODUCER_FENCED.
const FENCED_VERSION_MIN: i16 = 4;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: InitProducerIdRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let response = match init(&broker, &request).await {
            Ok(producer) => InitProducerIdResponse {
                producer_id: producer.id.0,
                producer_epoch: producer.epoch.0,
                ..Default::default()
            },
            Err(error) => InitProducerIdResponse {
                error_code: error.or_before_fencing(meta.version < FENCED_VERSION_MIN).code(),
                producer_id: -1,
                producer_epoch: -1,
                ..Default::default()
            },
        };
        meta.reply(&response)
    }))
}

async fn init<H: Host>(broker: &Broker<H>, request: &InitProducerIdRequest) -> Result<Producer, ErrorCode> {
    let before =
        Producer { id: ProducerId(request.producer_id), epoch: ProducerEpoch(request.producer_epoch) };
    let none = Producer::default();
    if (before.id == none.id) != (before.epoch == none.epoch) {
        return Err(ErrorCode::InvalidRequest);
    }
    let Some(transactional_id) = &request.transactional_id else {
        // What an idempotent producer had before is not looked at, as in Kafka.
        let id = broker.producer_ids.next(&broker.controller).await;
        // The client asks again.
        let id = id.map_err(|_| ErrorCode::CoordinatorLoadInProgress)?;
        return Ok(Producer { id, epoch: ProducerEpoch(0) });
    };
    if transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let command = |fresh| {
        TransactionCommand::InitProducerId(InitProducerId {
            transactional_id: (**transactional_id).into(),
            timeout_ms: request.transaction_timeout_ms,
            expected: (before != none).then_some(before),
            fresh,
        })
    };
    match ask_with_fresh_id(broker, transactional_id, command).await? {
        TransactionReply::InitProducerId(result) => result,
        other => unreachable!("{other:?} answers InitProducerId"),
    }
}
