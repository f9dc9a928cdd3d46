//! Members of the classic protocol in a consumer group: what JoinGroup, SyncGroup, Heartbeat and LeaveGroup
//! mean there (KIP-848, online migration).
//!
//! A classic member joins to say what it has and to learn its epoch, which it takes for a generation;
//! syncs to learn what it shall have; and is told to join again whenever there is a step to take.
//!
//! What it deliberately does not do: park a request. There is nobody to wait for.

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::consumer_protocol::ConsumerProtocolSubscription;
use klamm_protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use klamm_protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use klamm_protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberResponse};
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use klamm_protocol::wire::WireStr;

use super::super::settings::MigrationPolicy;
use super::super::{Client, Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupReply, GroupTimer};
use super::configs::Configs;
use super::group::ConsumerGroup;
use super::heartbeat::Visit;
use super::member::{ClassicMember, Member, MemberState};
use super::request::NO_TIMEOUT;
use super::target::Updated;
use super::{ConsumerTimer, Refusal, embedded, migration, new_member_id, records, set_timer};
use crate::contract::ReplyKey;

/// From this version of JoinGroup on a dynamic member joins with the id that it was given.
const MEMBER_ID_REQUIRED_VERSION_MIN: i16 = 4;

impl GroupCoordinator {
    /// JoinGroup of a classic member to a consumer group that has members.
    pub(in super::super) fn join_consumer_group(
        &mut self,
        cx: &GroupCtx<'_>,
        key: ReplyKey,
        request: &JoinGroupRequest,
        version: i16,
        client: &Client,
        out: &mut GroupOutcome,
    ) {
        let (records, timers) = (out.records.len(), out.timers.len());
        let joined = self.join_classic_member(cx, request, version, client, out);
        let response = joined.unwrap_or_else(|refusal| {
            out.records.truncate(records);
            out.timers.truncate(timers);
            self.forget_checked_topics(&request.group_id);
            JoinGroupResponse { error_code: refusal.error.code(), ..Default::default() }
        });
        out.reply(key, GroupReply::JoinGroup(response));
    }

    /// SyncGroup of a classic member of a consumer group.
    pub(in super::super) fn sync_consumer_group(
        &mut self,
        cx: &GroupCtx<'_>,
        key: ReplyKey,
        request: &SyncGroupRequest,
        out: &mut GroupOutcome,
    ) {
        let synced = self.sync_classic_member(cx, request, out);
        let response = synced
            .unwrap_or_else(|error| SyncGroupResponse { error_code: error.code(), ..Default::default() });
        out.reply(key, GroupReply::SyncGroup(response));
    }

    /// Heartbeat of a classic member of a consumer group.
    pub(in super::super) fn heartbeat_consumer_group(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &HeartbeatRequest,
        out: &mut GroupOutcome,
    ) -> HeartbeatResponse {
        let error = self.beat_classic_member(cx, request, out).err().unwrap_or_default();
        HeartbeatResponse { error_code: error.code(), ..Default::default() }
    }

    /// LeaveGroup to a consumer group, of members of either protocol.
    pub(in super::super) fn leave_consumer_group(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &LeaveGroupRequest,
        out: &mut GroupOutcome,
    ) -> LeaveGroupResponse {
        let Some((id, Group::Consumer(group))) = self.groups.get_key_value(&*request.group_id) else {
            return LeaveGroupResponse {
                error_code: ErrorCode::UnknownMemberId.code(),
                ..Default::default()
            };
        };
        let id = id.clone();
        let mut leaving = BTreeSet::new();
        let mut members = Vec::with_capacity(request.members.len());
        for identity in &request.members {
            let found = match identity.group_instance_id.as_deref() {
                None => group.member_entry(&identity.member_id).ok_or(ErrorCode::UnknownMemberId),
                // An operator names a static member without its id.
                Some(instance_id) => match group.static_member(instance_id) {
                    None => Err(ErrorCode::UnknownMemberId),
                    Some((owner, _)) if !identity.member_id.is_empty() && **owner != *identity.member_id => {
                        Err(ErrorCode::FencedInstanceId)
                    }
                    Some(found) => Ok(found),
                },
            };
            members.push(MemberResponse {
                member_id: records::wire(&identity.member_id),
                group_instance_id: identity.group_instance_id.as_deref().map(records::wire),
                error_code: found.err().unwrap_or_default().code(),
                ..Default::default()
            });
            leaving.extend(found.ok().map(|(member_id, _)| member_id.clone()));
        }
        self.fence_members(cx, &id, &leaving, out);
        LeaveGroupResponse { members, ..Default::default() }
    }

    fn join_classic_member(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &JoinGroupRequest,
        version: i16,
        client: &Client,
        out: &mut GroupOutcome,
    ) -> Result<JoinGroupResponse, Refusal> {
        let Some((id, Group::Consumer(_))) = self.groups.get_key_value(&*request.group_id) else {
            return Err(Refusal::not_a_consumer_group(&request.group_id));
        };
        let id = id.clone();
        let Some(Group::Consumer(group)) = self.groups.get_mut(&id) else {
            return Err(Refusal::not_a_consumer_group(&id));
        };
        let inconsistent = |message: &str| Refusal::new(ErrorCode::InconsistentGroupProtocol, message);
        if cx.settings.consumer.migration_policy == MigrationPolicy::Disabled {
            return Err(inconsistent("The group migration is disabled."));
        }
        let is_unknown = request.member_id.is_empty();
        let member_id = match group.member_entry(&request.member_id) {
            Some((known, _)) => known.clone(),
            None if is_unknown => new_member_id(cx),
            None => Arc::from(&*request.member_id),
        };
        let configs = Configs::of(cx, &id);
        let mut visit = Visit { cx, id: &id, configs: &configs, topics: &mut self.topics, out };
        visit.throw_if_full(group, &member_id)?;
        if !knows_common_protocol(group, request) {
            return Err(inconsistent("The member's protocols are not supported."));
        }
        let instance_id = request.group_instance_id.as_deref();
        if version >= MEMBER_ID_REQUIRED_VERSION_MIN && is_unknown && instance_id.is_none() {
            return Ok(JoinGroupResponse {
                error_code: ErrorCode::MemberIdRequired.code(),
                member_id: records::wire(&member_id),
                ..Default::default()
            });
        }
        let owner = instance_id.and_then(|id| group.static_member(id));
        let (old, is_new) = match (instance_id, owner) {
            (Some(instance_id), None) if !is_unknown => return Err(Refusal::unknown_instance(instance_id)),
            (Some(instance_id), Some((owner, _))) if !is_unknown && *owner != member_id => {
                return Err(Refusal::fenced_instance(&member_id, instance_id, owner));
            }
            (Some(_), Some((owner_id, owner))) if is_unknown => {
                (visit.replace(group, owner_id, owner, &member_id), false)
            }
            _ => (group.member(&member_id).cloned().unwrap_or_default(), group.member(&member_id).is_none()),
        };
        let downgraded = owner
            .filter(|(_, owner)| migration::may_downgrade_with(cx, group, owner))
            .map(|(owner_id, _)| owner_id.clone());
        let subscription = embedded::subscription(&request.protocols[0].metadata).map_err(|_| {
            inconsistent("Malformed embedded consumer protocol in subscription deserialization.")
        })?;
        // Version 0 has one timeout for both.
        let rebalance_timeout_ms =
            if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms };
        let updated = updated_member(&old, request, &subscription, rebalance_timeout_ms, client);
        let seen = (!is_new).then_some(&old);
        let (epoch, has_changed) = visit.subscribe(group, &member_id, &old, seen, &updated)?;
        let owned = embedded::owned(cx.image, &subscription);
        let updated = match &downgraded {
            None => {
                let now = Updated { id: &member_id, old: seen, member: &updated };
                let target = visit.target(group, now, epoch);
                visit.lead(group, &member_id, updated, &target, has_changed, Some(&owned))?
            }
            // Who has to join again anyway is not led anywhere before.
            Some(_) if group.assignment_epoch < epoch => updated,
            Some(_) => {
                let now = Updated { id: &member_id, old: seen, member: &updated };
                let target = visit.target(group, now, group.assignment_epoch);
                visit.lead(group, &member_id, updated, &target, has_changed, Some(&owned))?
            }
        };
        let response = JoinGroupResponse {
            member_id: records::wire(&member_id),
            generation_id: updated.member_epoch,
            protocol_type: Some(WireStr::from_static(embedded::PROTOCOL_TYPE)),
            protocol_name: Some(records::wire(&request.protocols[0].name)),
            ..Default::default()
        };
        group.soft.joining.remove(&member_id);
        out.cancel_timer(GroupTimer::Consumer(id.clone(), ConsumerTimer::Join(member_id.clone())));
        match downgraded {
            Some(old_id) => {
                let must_rebalance = group.assignment_epoch < epoch;
                let replaced = (&*old_id, &*member_id, &updated);
                migration::downgrade_with(cx, &id, group, replaced, must_rebalance, out)?;
            }
            None => {
                let session_timeout_ms = u64::try_from(request.session_timeout_ms).unwrap_or(0);
                group.soft.touch(cx, &id, &member_id, session_timeout_ms, out);
                set_timer(cx, &id, ConsumerTimer::Sync(member_id), rebalance_timeout_ms, out);
            }
        }
        Ok(response)
    }

    fn sync_classic_member(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &SyncGroupRequest,
        out: &mut GroupOutcome,
    ) -> Result<SyncGroupResponse, ErrorCode> {
        let instance_id = request.group_instance_id.as_deref();
        let mut found = self.classic_member(&request.group_id, &request.member_id, instance_id)?;
        if found.member.member_epoch != request.generation_id {
            return Err(ErrorCode::IllegalGeneration);
        }
        let (protocol, metadata) =
            found.classic.protocols.first().ok_or(ErrorCode::InconsistentGroupProtocol)?;
        let is_other = |said: Option<&str>, known: &str| said.is_some_and(|said| said != known);
        if is_other(request.protocol_type.as_deref(), embedded::PROTOCOL_TYPE)
            || is_other(request.protocol_name.as_deref(), protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        // Who still has to revoke has joined already, and is asked again when that is done.
        let is_behind = found.group.assignment_epoch > found.member.member_epoch;
        if is_behind && found.member.state != MemberState::UnrevokedPartitions {
            found.ask_to_join(cx, out);
            return Err(ErrorCode::RebalanceInProgress);
        }
        let assigned = found.member.assigned.iter();
        let assigned = assigned.map(|(id, of)| (*id, of.keys().copied().collect())).collect();
        let assignment = embedded::assignment_for(cx.image, metadata, &assigned)
            .map_err(|_| ErrorCode::UnknownServerError)?;
        let timer = ConsumerTimer::Sync(found.member_id.clone());
        out.cancel_timer(GroupTimer::Consumer(found.id.clone(), timer));
        found.touch(cx, out);
        Ok(SyncGroupResponse {
            protocol_type: request.protocol_type.as_deref().map(records::wire),
            protocol_name: request.protocol_name.as_deref().map(records::wire),
            assignment,
            ..Default::default()
        })
    }

    fn beat_classic_member(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &HeartbeatRequest,
        out: &mut GroupOutcome,
    ) -> Result<(), ErrorCode> {
        let instance_id = request.group_instance_id.as_deref();
        let mut found = self.classic_member(&request.group_id, &request.member_id, instance_id)?;
        if found.member.member_epoch != request.generation_id {
            return Err(ErrorCode::IllegalGeneration);
        }
        found.touch(cx, out);
        let has_step = found.member.member_epoch < found.group.assignment_epoch
            || match found.member.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !found.waits_for_others(),
                MemberState::Stable | MemberState::Unknown(_) => false,
            };
        if has_step {
            found.ask_to_join(cx, out);
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    fn classic_member(
        &mut self,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<Found<'_>, ErrorCode> {
        let id = self.groups.get_key_value(group_id).ok_or(ErrorCode::UnknownMemberId)?.0.clone();
        let Some(Group::Consumer(group)) = self.groups.get_mut(group_id) else {
            return Err(ErrorCode::UnknownMemberId);
        };
        let found = match instance_id {
            None => group.member_entry(member_id),
            Some(instance_id) => group.static_member(instance_id),
        };
        let (owner_id, member) = found.ok_or(ErrorCode::UnknownMemberId)?;
        if **owner_id != *member_id {
            return Err(ErrorCode::FencedInstanceId);
        }
        let (member_id, member) = (owner_id.clone(), member.clone());
        let classic = member.classic.clone().ok_or(ErrorCode::UnknownMemberId)?;
        Ok(Found { id, group, member_id, member, classic })
    }
}

/// A classic member, and where it is.
struct Found<'a> {
    id: Arc<str>,
    group: &'a mut ConsumerGroup,
    member_id: Arc<str>,
    member: Member,
    classic: Arc<ClassicMember>,
}

impl Found<'_> {
    fn touch(&mut self, cx: &GroupCtx<'_>, out: &mut GroupOutcome) {
        let timeout_ms = u64::try_from(self.classic.session_timeout_ms).unwrap_or(0);
        self.group.soft.touch(cx, &self.id, &self.member_id, timeout_ms, out);
    }

    /// It must join again within its rebalance timeout, from the first time it is told so.
    fn ask_to_join(&mut self, cx: &GroupCtx<'_>, out: &mut GroupOutcome) {
        if self.group.soft.joining.insert(self.member_id.clone()) {
            let timer = ConsumerTimer::Join(self.member_id.clone());
            set_timer(cx, &self.id, timer, self.member.rebalance_timeout_ms, out);
        }
    }

    /// Whether others still have what it waits for.
    fn waits_for_others(&self) -> bool {
        let target = self.group.targets().get(&self.member_id);
        target.into_iter().flatten().any(|(topic, partitions)| {
            let own = self.member.assigned.get(topic);
            partitions.iter().any(|partition| {
                !own.is_some_and(|own| own.contains_key(partition)) && self.group.is_held(*topic, *partition)
            })
        })
    }
}

/// Whether all classic members know one of its protocols.
fn knows_common_protocol(group: &ConsumerGroup, request: &JoinGroupRequest) -> bool {
    let is_common = |name: &str| group.classic_protocols().of(name) == group.classic_count();
    request.protocol_type == embedded::PROTOCOL_TYPE
        && request.protocols.iter().any(|protocol| is_common(&protocol.name))
}

fn updated_member(
    old: &Member,
    request: &JoinGroupRequest,
    subscription: &ConsumerProtocolSubscription,
    rebalance_timeout_ms: i32,
    client: &Client,
) -> Member {
    let mut member = old.clone();
    if let Some(instance_id) = request.group_instance_id.as_deref() {
        member.instance_id = Some(Arc::from(instance_id));
    }
    if let Some(rack_id) = subscription.rack_id.as_deref().filter(|rack_id| !rack_id.is_empty()) {
        member.rack_id = Some(Arc::from(rack_id));
    }
    if rebalance_timeout_ms != NO_TIMEOUT {
        member.rebalance_timeout_ms = rebalance_timeout_ms;
    }
    let subscribed = embedded::names(subscription);
    if subscribed != *member.subscribed {
        member.subscribed = Arc::new(subscribed);
    }
    member.regex = Some(Arc::default());
    member.set_client(client);
    member.classic = Some(Arc::new(ClassicMember {
        session_timeout_ms: request.session_timeout_ms,
        protocols: request
            .protocols
            .iter()
            .map(|protocol| (Arc::from(&*protocol.name), Box::from(&*protocol.metadata)))
            .collect(),
    }));
    member
}
