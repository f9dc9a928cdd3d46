//! A heartbeat with nothing new, of a member that has all that its target says: what nearly all of them are.
//!
//! What it deliberately does not do: judge. Whatever is not plainly so goes the long way (`heartbeat`).
//!
//! Invariant: the answer is the one that the long way would give, which would write nothing and set no timer; a build
//! with debug assertions asks both.

use std::ops::Bound;

use klamm_protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};

use super::super::{Client, Group, GroupCoordinator, GroupCtx};
use super::configs::Configs;
use super::group::ConsumerGroup;
use super::member::Member;
use super::request::NO_TIMEOUT;

impl GroupCoordinator {
    pub(super) fn steady_beat(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        client: &Client,
    ) -> Option<ConsumerGroupHeartbeatResponse> {
        if !says_nothing_new(request) {
            return None;
        }
        // One walk gives the key and what may change; an upper bound would be a second one.
        let from = (Bound::Included(&*request.group_id), Bound::Unbounded);
        let (id, Group::Consumer(group)) = self.groups.range_mut::<str, _>(from).next()? else { return None };
        if **id != *request.group_id {
            return None;
        }
        let member = group.member(&request.member_id)?;
        let has_nothing_to_hear = member.member_epoch == request.member_epoch
            && speaks(member, client)
            && is_settled(group, member)
            && group.soft.checked_topics == Some(self.topics.version());
        if !has_nothing_to_hear {
            return None;
        }
        let configs = Configs::of(cx, id);
        let deadline = cx.mono.plus_ms(configs.session_timeout_ms);
        let session = group.soft.sessions.get_mut(&*request.member_id)?;
        if !session.prolong(deadline) {
            return None;
        }
        Some(ConsumerGroupHeartbeatResponse {
            member_id: Some(request.member_id.clone()),
            member_epoch: request.member_epoch,
            heartbeat_interval_ms: configs.heartbeat_interval_ms,
            ..Default::default()
        })
    }
}

fn says_nothing_new(request: &ConsumerGroupHeartbeatRequest) -> bool {
    request.member_epoch > 0
        && request.instance_id.is_none()
        && request.rack_id.is_none()
        && request.rebalance_timeout_ms == NO_TIMEOUT
        && request.subscribed_topic_names.is_none()
        && request.subscribed_topic_regex.is_none()
        && request.server_assignor.is_none()
}

/// Expressions are resolved again now and then, by whoever comes.
fn is_settled(group: &ConsumerGroup, member: &Member) -> bool {
    group.epoch == group.assignment_epoch
        && member.is_reconciled_to(group.assignment_epoch)
        && group.regexes().is_empty()
        && !group.has_partition_metadata
}

fn speaks(member: &Member, client: &Client) -> bool {
    !member.is_classic() && *member.client_id == *client.id && *member.client_host == *client.host
}
