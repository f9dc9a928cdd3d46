//! SyncGroup, versions 0 to 5: the leader hands in what each member of a classic group gets, and everybody gets it.
//!
//! - 3: static members. 5: the protocol's type and name are required (KIP-559).
//!
//! The answer waits for the leader. Its errors are those of the group, INCONSISTENT_GROUP_PROTOCOL for a type or a
//! name that is missing, UNKNOWN_SERVER_ERROR for more than one batch of the internal topic takes, and NOT_COORDINATOR
//! or COORDINATOR_LOAD_IN_PROGRESS.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};

use super::coordinated::ask;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

/// From here on a member says which protocol it believes in.
const PROTOCOL_VERSION_MIN: i16 = 5;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: SyncGroupRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let failed = |error: ErrorCode| SyncGroupResponse { error_code: error.code(), ..Default::default() };
    let lacks_protocol = request.protocol_type.is_none() || request.protocol_name.is_none();
    if meta.version >= PROTOCOL_VERSION_MIN && lacks_protocol {
        return meta.reply(&failed(ErrorCode::InconsistentGroupProtocol));
    }
    // It may wait for long, and a slice would keep the whole frame.
    let (group_id, broker) = (String::from(&request.group_id), broker.clone());
    Handled::Later(Box::pin(async move {
        meta.reply(&match ask(&broker, &group_id, GroupCommand::SyncGroup(request)).await {
            Ok(GroupReply::SyncGroup(response)) => response,
            Ok(other) => unreachable!("{other:?} answers SyncGroup"),
            Err(error) => failed(error),
        })
    }))
}
