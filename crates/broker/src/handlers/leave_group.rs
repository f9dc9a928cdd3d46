//! LeaveGroup, versions 0 to 5: members of a classic group go, or are removed by an administrator.
//!
//! - 3: several members, static ones too (KIP-345), each with an answer. 5: a reason (KIP-800).

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity};

use super::coordinated::ask;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

/// From here on a request has several members.
const MEMBERS_VERSION_MIN: i16 = 3;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let mut request: LeaveGroupRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    if meta.version < MEMBERS_VERSION_MIN {
        request.members =
            vec![MemberIdentity { member_id: std::mem::take(&mut request.member_id), ..Default::default() }];
    }
    let (group_id, broker) = (request.group_id.clone(), broker.clone());
    Handled::Later(Box::pin(async move {
        let mut response = match ask(&broker, &group_id, GroupCommand::LeaveGroup(request)).await {
            Ok(GroupReply::LeaveGroup(response)) => response,
            Ok(other) => unreachable!("{other:?} answers LeaveGroup"),
            Err(error) => LeaveGroupResponse { error_code: error.code(), ..Default::default() },
        };
        if meta.version < MEMBERS_VERSION_MIN
            && let Some(member) = response.members.pop()
        {
            response.error_code = member.error_code;
        }
        meta.reply(&response)
    }))
}
