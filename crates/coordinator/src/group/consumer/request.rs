//! What a ConsumerGroupHeartbeat says by itself: whether it makes sense, which epoch it has, what the
//! member becomes by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, RequestTopicPartitions,
};

use super::super::{Client, GroupCtx};
use super::Refusal;
use super::member::{LEAVE_EPOCH, Member, Partitions, STATIC_LEAVE_EPOCH};

/// From this version on the member chooses its id.
const MEMBER_ID_VERSION_MIN: i16 = 1;
/// No timeout is given.
pub(super) const NO_TIMEOUT: i32 = -1;

/// What can be said without looking at the group.
pub(super) fn validate(
    cx: &GroupCtx<'_>,
    request: &ConsumerGroupHeartbeatRequest,
    version: i16,
) -> Result<(), Refusal> {
    if !cx.settings.serves_consumer_groups {
        let message = "The version of API is not supported.";
        return Err(Refusal::new(ErrorCode::UnsupportedVersion, message));
    }
    let refuse = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let is_blank = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
    let needs_member_id =
        version >= MEMBER_ID_VERSION_MIN || request.member_epoch > 0 || request.member_epoch == LEAVE_EPOCH;
    if needs_member_id && is_blank(Some(&*request.member_id)) {
        return refuse("MemberId can't be empty.");
    }
    if is_blank(Some(&*request.group_id)) {
        return refuse("GroupId can't be empty.");
    }
    if is_blank(request.instance_id.as_deref()) {
        return refuse("InstanceId can't be empty.");
    }
    if is_blank(request.rack_id.as_deref()) {
        return refuse("RackId can't be empty.");
    }
    if request.member_epoch == 0 {
        if request.rebalance_timeout_ms == NO_TIMEOUT {
            return refuse("RebalanceTimeoutMs must be provided in first request.");
        }
        if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return refuse("TopicPartitions must be empty when (re-)joining.");
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            return refuse(
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
            );
        }
    } else if request.member_epoch == STATIC_LEAVE_EPOCH {
        if request.instance_id.is_none() {
            return refuse("InstanceId can't be null.");
        }
    } else if request.member_epoch < STATIC_LEAVE_EPOCH {
        return refuse("MemberEpoch is invalid.");
    }
    let supported = &cx.settings.consumer.assignors;
    match request.server_assignor.as_deref() {
        Some(assignor) if !supported.iter().any(|one| one == assignor) => {
            let message = format!(
                "ServerAssignor {assignor} is not supported. Supported assignors: {}.",
                supported.join(", ")
            );
            Err(Refusal::new(ErrorCode::UnsupportedAssignor, message))
        }
        _ => Ok(()),
    }
}

/// Whether the epoch is the member's, or the one before it, whose answer may have been lost.
pub(super) fn check_epoch(member: &Member, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Refusal> {
    let (received, known) = (request.member_epoch, member.member_epoch);
    if received == 0 || received == known {
        return Ok(());
    }
    let owned = request.topic_partitions.as_deref();
    if received < known && received == member.previous_member_epoch && owns_no_more(owned, &member.assigned) {
        return Ok(());
    }
    let relation = if received > known { "greater" } else { "smaller" };
    let message = format!(
        "The consumer group member has a {relation} member epoch ({received}) than the one known by the group \
         coordinator ({known}). The member must abandon all its partitions and rejoin."
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
}

/// A member that does not say what it has may have more.
fn owns_no_more(owned: Option<&[RequestTopicPartitions]>, assigned: &Partitions) -> bool {
    owned.is_some_and(|owned| {
        owned.iter().all(|topic| {
            let of_topic = assigned.get(&TopicId(topic.topic_id));
            of_topic.is_some_and(|of_topic| topic.partitions.iter().all(|one| of_topic.contains_key(one)))
        })
    })
}

/// The member as the request makes it, but for its assignment.
pub(super) fn updated_member(
    old: &Member,
    request: &ConsumerGroupHeartbeatRequest,
    client: &Client,
) -> Member {
    let mut member = old.clone();
    let replace = |old: &mut Option<Arc<str>>, new: Option<&str>| {
        if new.is_some() && old.as_deref() != new {
            *old = new.map(Arc::from);
        }
    };
    replace(&mut member.instance_id, request.instance_id.as_deref());
    replace(&mut member.rack_id, request.rack_id.as_deref());
    replace(&mut member.assignor, request.server_assignor.as_deref());
    replace(&mut member.regex, request.subscribed_topic_regex.as_deref());
    if request.rebalance_timeout_ms != NO_TIMEOUT {
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(names) = &request.subscribed_topic_names {
        let names: BTreeSet<Arc<str>> = names.iter().map(|name| Arc::from(&**name)).collect();
        if names != *member.subscribed {
            member.subscribed = Arc::new(names);
        }
    }
    member.set_client(client);
    member.classic = None;
    member
}
