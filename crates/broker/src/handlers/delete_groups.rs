//! DeleteGroups, versions 0 to 2: groups without members, and their offsets.
//!
//! NON_EMPTY_GROUP with members, GROUP_ID_NOT_FOUND where there is none. The group with the empty id, which
//! whoever only commits may have, goes like any other.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::messages::delete_groups::{
    DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse,
};

use super::coordinated::ask;
use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let mut request: DeleteGroupsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    request.groups_names.sort();
    request.groups_names.dedup();
    Handled::Later(Box::pin(async move {
        let mut results = Vec::with_capacity(request.groups_names.len());
        for group_id in request.groups_names {
            match ask(&broker, &group_id, GroupCommand::DeleteGroup(group_id.clone())).await {
                Ok(GroupReply::DeleteGroup(deleted)) => results.push(deleted),
                Ok(other) => unreachable!("{other:?} answers DeleteGroups"),
                Err(error) => results.push(DeletableGroupResult {
                    group_id,
                    error_code: error.code(),
                    ..Default::default()
                }),
            }
        }
        meta.reply(&DeleteGroupsResponse { results, ..Default::default() })
    }))
}
