//! DescribeGroups, versions 0 to 6: classic groups with their members.
//!
//! - 3: authorized operations (KIP-430). 4: static members. 6: GROUP_ID_NOT_FOUND for a group that is not there; before,
//!   it is shown as dead.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup,
};

use super::coordinated::ask;
use super::distinct::distinct_groups;
use super::{Frame, Handled, authorized};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: DescribeGroupsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    Handled::Later(Box::pin(async move {
        let group_ids = distinct_groups(request.groups);
        let mut groups = Vec::with_capacity(group_ids.len());
        for group_id in group_ids {
            let command = GroupCommand::DescribeGroup { group_id: group_id.clone(), version: meta.version };
            match ask(&broker, &group_id, command).await {
                Ok(GroupReply::DescribeGroup(described)) => groups.push(described),
                Ok(other) => unreachable!("{other:?} answers DescribeGroups"),
                Err(error) => {
                    groups.push(DescribedGroup { error_code: error.code(), group_id, ..Default::default() });
                }
            }
        }
        if request.include_authorized_operations {
            let is_told = |group: &&mut DescribedGroup| group.error_code == ErrorCode::None.code();
            groups
                .iter_mut()
                .filter(is_told)
                .for_each(|group| group.authorized_operations = authorized::GROUP);
        }
        meta.reply(&DescribeGroupsResponse { groups, ..Default::default() })
    }))
}
