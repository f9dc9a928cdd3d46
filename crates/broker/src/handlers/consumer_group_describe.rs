//! ConsumerGroupDescribe, versions 0 and 1: consumer groups (KIP-848) with their members.
//!
//! - 1: whether a member speaks the classic protocol.
//!
//! UNSUPPORTED_VERSION where consumer groups are switched off, INVALID_GROUP_ID for an empty id.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribedGroup,
};

use super::coordinated::{ask, serves_consumer_groups};
use super::distinct::distinct_groups;
use super::{Frame, Handled, authorized};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: ConsumerGroupDescribeRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    Handled::Later(Box::pin(async move {
        let is_served = serves_consumer_groups(&broker);
        let group_ids = distinct_groups(request.group_ids);
        let mut groups = Vec::with_capacity(group_ids.len());
        for group_id in group_ids {
            let answer = if !is_served {
                Err(ErrorCode::UnsupportedVersion)
            } else if group_id.is_empty() {
                Err(ErrorCode::InvalidGroupId)
            } else {
                ask(&broker, &group_id, GroupCommand::ConsumerGroupDescribe(group_id.clone())).await
            };
            match answer {
                Ok(GroupReply::ConsumerGroupDescribe(described)) => groups.push(described),
                Ok(other) => unreachable!("{other:?} answers ConsumerGroupDescribe"),
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
        meta.reply(&ConsumerGroupDescribeResponse { groups, ..Default::default() })
    }))
}
