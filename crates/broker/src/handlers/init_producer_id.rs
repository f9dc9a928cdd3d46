//! InitProducerId, versions 0 to 5, for idempotent producers (KIP-98): an id that nobody had before.
//!
//! An id given in the request by an idempotent producer is not looked at: it gets a new
//! one, as in Kafka. A transactional id is refused with INVALID_REQUEST: transactions are not
//! served yet.

use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: InitProducerIdRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    if request.transactional_id.is_some() {
        return meta.reply(&failed(ErrorCode::InvalidRequest));
    }
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        match broker.producer_ids.next(&broker.controller).await {
            Ok(producer_id) => meta.reply(&InitProducerIdResponse {
                producer_id: producer_id.0,
                producer_epoch: 0,
                ..Default::default()
            }),
            // The client asks again.
            Err(_) => meta.reply(&failed(ErrorCode::CoordinatorLoadInProgress)),
        }
    }))
}

fn failed(error: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse {
        error_code: error.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    }
}
