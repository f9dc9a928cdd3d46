//! JoinGroup, versions 0 to 9: a process becomes a member of a classic group, or takes part in its next rebalance.
//!
//! - 1: a rebalance timeout. 4: an id is required (KIP-394). 5: static members (KIP-345). 7: the protocol's type.
//!   8: a reason. 9: a leader may be told not to assign (KIP-814).
//!
//! The answer waits for the end of the rebalance. Its errors are those of the group
//! (`klamm_coordinator::group::classic`), and NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use klamm_protocol::wire::WireStr;

use super::coordinated::{ask, client};
use super::{ConnectionContext, Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

/// Before, the protocol that was chosen cannot be null.
const NULL_PROTOCOL_VERSION_MIN: i16 = 7;

pub(crate) fn handle<H: Host>(
    broker: &Arc<Broker<H>>,
    context: &ConnectionContext,
    mut frame: Frame,
) -> Handled {
    let request: JoinGroupRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, client, broker) = (frame.meta(), client(context, &frame), broker.clone());
    // It may wait for long, and a slice would keep the whole frame.
    let group_id = String::from(&request.group_id);
    Handled::Later(Box::pin(async move {
        let command = GroupCommand::JoinGroup { request, version: meta.version, client };
        let mut response = match ask(&broker, &group_id, command).await {
            Ok(GroupReply::JoinGroup(response)) => response,
            Ok(other) => unreachable!("{other:?} answers JoinGroup"),
            Err(error) => JoinGroupResponse { error_code: error.code(), ..Default::default() },
        };
        if meta.version < NULL_PROTOCOL_VERSION_MIN {
            response.protocol_name.get_or_insert_with(WireStr::default);
        }
        meta.reply(&response)
    }))
}
