//! ConsumerGroupHeartbeat, versions 0 and 1 (KIP-848): a member of a consumer group joins, lives, reports and leaves.
//!
//! - 1: a regular expression for topics, ids by the client.
//!
//! UNSUPPORTED_VERSION where consumer groups are switched off; else the errors of the group
//! (`klamm_coordinator::group::consumer`), and NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};

use super::coordinated::{ask_now, client, serves_consumer_groups};
use super::{ConnectionContext, Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(
    broker: &Arc<Broker<H>>,
    context: &ConnectionContext,
    mut frame: Frame,
) -> Handled {
    let request: ConsumerGroupHeartbeatRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, client) = (frame.meta(), client(context, &frame));
    let failed =
        |error: ErrorCode| ConsumerGroupHeartbeatResponse { error_code: error.code(), ..Default::default() };
    if !serves_consumer_groups(broker) {
        return meta.reply(&failed(ErrorCode::UnsupportedVersion));
    }
    let group_id = request.group_id.clone();
    let command = GroupCommand::ConsumerGroupHeartbeat { request, version: meta.version, client };
    ask_now(broker, &group_id, command, move |answer| {
        meta.reply(&match answer {
            Ok(GroupReply::ConsumerGroupHeartbeat(response)) => response,
            Ok(other) => unreachable!("{other:?} answers ConsumerGroupHeartbeat"),
            Err(error) => failed(error),
        })
    })
}
