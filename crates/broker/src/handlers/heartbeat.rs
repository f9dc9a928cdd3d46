//! Heartbeat, versions 0 to 4: a member of a classic group lives, and hears of a rebalance.
//!
//! - 3: static members.
//!
//! While its group is being loaded a member is told that all is well, as in Kafka: a rebalance would be for nothing.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};

use super::coordinated::ask;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: HeartbeatRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, group_id, broker) = (frame.meta(), request.group_id.clone(), broker.clone());
    Handled::Later(Box::pin(async move {
        meta.reply(&match ask(&broker, &group_id, GroupCommand::Heartbeat(request)).await {
            Ok(GroupReply::Heartbeat(response)) => response,
            Ok(other) => unreachable!("{other:?} answers Heartbeat"),
            Err(ErrorCode::CoordinatorLoadInProgress) => HeartbeatResponse::default(),
            Err(error) => HeartbeatResponse { error_code: error.code(), ..Default::default() },
        })
    }))
}
