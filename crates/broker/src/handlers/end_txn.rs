//! EndTxn, versions 0 to 5: a transaction is committed or aborted.
//!
//! Answered once the decision is committed; the markers follow.
//!
//! - 2: PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH (KIP-588). 5: an epoch for each transaction
//!   (KIP-890): the answer says with whom the client goes on.
//!
//! | error | when |
//! |---|---|
//! | INVALID_REQUEST | an empty transactional id |
//! | INVALID_PRODUCER_ID_MAPPING | the transactional id is unknown, or another producer's |
//! | PRODUCER_FENCED | another epoch |
//! | INVALID_TXN_STATE | there is nothing to end, or it ended the other way |
//! | CONCURRENT_TRANSACTIONS | a repeated request while the markers take their time |
//! | COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR | there is no answer now |

use std::sync::Arc;

use klamm_coordinator::transaction::{
    EPOCH_BUMP_LEVEL, EndTxn, Ending, Producer, TransactionCommand, TransactionReply,
};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::messages::end_txn::{EndTxnRequest, EndTxnResponse};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::transactions::ask_with_fresh_id;

/// From here on a client knows PRODUCER_FENCED.
const FENCED_VERSION_MIN: i16 = 2;
/// From here on the epoch is bumped.
const BUMP_VERSION_MIN: i16 = 5;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: EndTxnRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    Handled::Later(Box::pin(async move {
        let response = match end(&broker, &request, meta.version).await {
            Ok(producer) => EndTxnResponse {
                producer_id: producer.id.0,
                producer_epoch: producer.epoch.0,
                ..Default::default()
            },
            Err(error) => EndTxnResponse {
                error_code: error.or_before_fencing(meta.version < FENCED_VERSION_MIN).code(),
                ..Default::default()
            },
        };
        meta.reply(&response)
    }))
}

async fn end<H: Host>(
    broker: &Broker<H>,
    request: &EndTxnRequest,
    version: i16,
) -> Result<Producer, ErrorCode> {
    if request.transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let command = |fresh| {
        TransactionCommand::EndTxn(EndTxn {
            transactional_id: (*request.transactional_id).into(),
            producer: Producer {
                id: ProducerId(request.producer_id),
                epoch: ProducerEpoch(request.producer_epoch),
            },
            ending: if request.committed { Ending::Commit } else { Ending::Abort },
            client_version: if version >= BUMP_VERSION_MIN { EPOCH_BUMP_LEVEL } else { 0 },
            fresh,
        })
    };
    match ask_with_fresh_id(broker, &request.transactional_id, command).await? {
        TransactionReply::EndTxn(result) => result,
        other => unreachable!("{other:?} answers EndTxn"),
    }
}
