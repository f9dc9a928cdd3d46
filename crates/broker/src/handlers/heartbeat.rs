//! Heartbeat, versions 0 to 4: a member of a classic group lives, and hears of a rebalance.
//!
//! - 3: static members.
//!
//! While its group is being loaded a member is told that all is well, as in Kafka: a rebalance would be for nothing.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};

use super::coordinated::ask_now;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: HeartbeatRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, group_id) = (frame.meta(), request.group_id.clone());
    ask_now(broker, &group_id, GroupCommand::Heartbeat(request), move |answer| {
        meta.reply(&match answer {
            Ok(GroupReply::Heartbeat(response)) => response,
            Ok(other) => unreachable!("{other:?} answers Heartbeat"),
            Err(ErrorCode::CoordinatorLoadInProgress) => HeartbeatResponse::default(),
            Err(error) => HeartbeatResponse { error_code: error.code(), ..Default::default() },
        })
    })
}
