//! ConsumerGroupHeartbeat, versions 0-1: joining, changing a subscription, being led to the target, leaving.
//!
//! Version 1 has the member choose its id (KIP-1082) and knows regular expressions (KIP-848).
//!
//! Invariant: a heartbeat that changes nothing writes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_cluster::image::MetadataImage;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_heartbeat::{
    Assignment as WireAssignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    RequestTopicPartitions, ResponseTopicPartitions,
};
use klamm_protocol::wire::WireStr;

use super::super::{Client, Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupTimer};
use super::configs::Configs;
use super::group::{ConsumerGroup, Session, Soft};
use super::member::{LEAVE_EPOCH, Member, MemberState, Partitions, STATIC_LEAVE_EPOCH};
use super::reconcile::Step;
use super::request::{NO_TIMEOUT, check_epoch, updated_member, validate};
use super::target::{Computation, Target, Updated};
use super::topics::Topics;
use super::{ConsumerTimer, Refusal, new_member_id, records, set_timer};

impl GroupCoordinator {
    pub(in super::super) fn consumer_group_heartbeat(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        version: i16,
        client: &Client,
        out: &mut GroupOutcome,
    ) -> ConsumerGroupHeartbeatResponse {
        let (records, timers) = (out.records.len(), out.timers.len());
        let answered = validate(cx, request, version).and_then(|()| match request.member_epoch {
            LEAVE_EPOCH | STATIC_LEAVE_EPOCH => self.leave(cx, request, out),
            _ => match self.steady_beat(cx, request, client) {
                Some(answer) => {
                    debug_assert_eq!(self.beat(cx, request, client, out).ok().as_ref(), Some(&answer));
                    debug_assert_eq!((out.records.len(), out.timers.len()), (records, timers));
                    Ok(answer)
                }
                None => self.beat(cx, request, client, out),
            },
        });
        answered.unwrap_or_else(|refusal| {
            out.records.truncate(records);
            out.timers.truncate(timers);
            self.forget_checked_topics(&request.group_id);
            ConsumerGroupHeartbeatResponse {
                error_code: refusal.error.code(),
                error_message: Some(WireStr::from(refusal.message)),
                ..Default::default()
            }
        })
    }

    fn beat(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        client: &Client,
        out: &mut GroupOutcome,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let is_joining = request.member_epoch == 0;
        let converted =
            if is_joining { self.become_consumer_group(cx, &request.group_id, out)? } else { None };
        let mut built;
        let id: Arc<str>;
        let group = match (converted, self.groups.get_key_value(&*request.group_id)) {
            (Some(group), found) => {
                id = found.map_or_else(|| Arc::from(&*request.group_id), |(id, _)| id.clone());
                built = group;
                &mut built
            }
            (None, Some((known, Group::Consumer(_)))) => {
                id = known.clone();
                let Some(Group::Consumer(group)) = self.groups.get_mut(&id) else {
                    unreachable!("just seen")
                };
                group
            }
            (None, Some(_)) => return Err(Refusal::not_a_consumer_group(&request.group_id)),
            (None, None) => {
                let message = format!("Consumer group {} not found.", request.group_id);
                return Err(Refusal::new(ErrorCode::GroupIdNotFound, message));
            }
        };
        let configs = Configs::of(cx, &id);
        let mut visit = Visit { cx, id: &id, configs: &configs, topics: &mut self.topics, out };
        visit.throw_if_full(group, &request.member_id)?;
        let member_id = match group.member_entry(&request.member_id) {
            Some((known, _)) => known.clone(),
            None if request.member_id.is_empty() => new_member_id(cx),
            None => Arc::from(&*request.member_id),
        };
        let (old, is_new) = match request.instance_id.as_deref() {
            None => visit.dynamic_member(group, &member_id, is_joining, request)?,
            Some(instance_id) => visit.static_member(group, &member_id, instance_id, is_joining, request)?,
        };
        let updated = updated_member(&old, request, client);
        let seen = (!is_new).then_some(&old);
        let (epoch, has_changed) = visit.subscribe(group, &member_id, &old, seen, &updated)?;
        let now = Updated { id: &member_id, old: seen, member: &updated };
        let target = visit.target(group, now, epoch);
        let owned = request.topic_partitions.as_deref();
        let updated = visit.lead(group, &member_id, updated, &target, has_changed, owned)?;
        group.soft.touch(cx, &id, &member_id, configs.session_timeout_ms, out);

        if let Some(Group::Classic(upgraded)) = self.groups.get_mut(&id) {
            upgraded.refuse_waiting(cx, &id, out);
        }
        let is_full = request.rebalance_timeout_ms != NO_TIMEOUT
            && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some();
        let shows_assignment = is_joining || is_full || old.assigned != updated.assigned;
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(records::wire(&member_id)),
            member_epoch: updated.member_epoch,
            heartbeat_interval_ms: configs.heartbeat_interval_ms,
            assignment: shows_assignment.then(|| wire_assignment(&updated.assigned)),
            ..Default::default()
        })
    }

    fn leave(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        out: &mut GroupOutcome,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let (id, group) = match self.groups.get_key_value(&*request.group_id) {
            Some((id, Group::Consumer(group))) => (id.clone(), group),
            Some(_) => return Err(Refusal::not_a_consumer_group(&request.group_id)),
            None => return Err(Refusal::group_not_found(&request.group_id)),
        };
        let response = ConsumerGroupHeartbeatResponse {
            member_id: Some(records::wire(&request.member_id)),
            member_epoch: request.member_epoch,
            ..Default::default()
        };
        let member_id = match request.instance_id.as_deref() {
            None => {
                let found = group.member_entry(&request.member_id);
                found.ok_or_else(|| Refusal::unknown_member(&request.member_id, &id))?.0.clone()
            }
            Some(instance_id) => {
                let found = group.static_member(instance_id);
                let (member_id, member) = found.ok_or_else(|| Refusal::unknown_instance(instance_id))?;
                if **member_id != *request.member_id {
                    return Err(Refusal::fenced_instance(&request.member_id, instance_id, member_id));
                }
                if request.member_epoch == STATIC_LEAVE_EPOCH {
                    out.write(records::current(&id, member_id, &left_static(member)));
                    return Ok(response);
                }
                member_id.clone()
            }
        };
        self.fence_members(cx, &id, &BTreeSet::from([member_id]), out);
        Ok(response)
    }
}

/// One request of a member, and what it needs beside the group.
pub(super) struct Visit<'a, 'c> {
    pub cx: &'a GroupCtx<'c>,
    pub id: &'a Arc<str>,
    pub configs: &'a Configs,
    pub topics: &'a mut Topics,
    pub out: &'a mut GroupOutcome,
}

impl Visit<'_, '_> {
    pub fn throw_if_full(&self, group: &ConsumerGroup, member_id: &str) -> Result<(), Refusal> {
        let max = self.cx.settings.consumer.max_size;
        if group.members().len() < max || group.member(member_id).is_some() {
            return Ok(());
        }
        let message = format!("The consumer group has reached its maximum capacity of {max} members.");
        Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message))
    }

    /// The member, and whether it is new.
    fn dynamic_member(
        &self,
        group: &ConsumerGroup,
        member_id: &Arc<str>,
        is_joining: bool,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<(Member, bool), Refusal> {
        match group.member(member_id) {
            Some(member) => {
                check_epoch(member, request)?;
                Ok((member.clone(), false))
            }
            None if is_joining => Ok((Member::default(), true)),
            None => Err(Refusal::unknown_member(member_id, self.id)),
        }
    }

    fn static_member(
        &mut self,
        group: &ConsumerGroup,
        member_id: &Arc<str>,
        instance_id: &str,
        is_joining: bool,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<(Member, bool), Refusal> {
        let owner = group.static_member(instance_id);
        if !is_joining {
            let (owner_id, owner) = owner.ok_or_else(|| Refusal::unknown_instance(instance_id))?;
            if owner_id != member_id {
                return Err(Refusal::fenced_instance(member_id, instance_id, owner_id));
            }
            check_epoch(owner, request)?;
            return Ok((owner.clone(), false));
        }
        match owner {
            None => {
                Ok((group.member(member_id).cloned().unwrap_or_default(), group.member(member_id).is_none()))
            }
            Some((owner_id, owner)) => {
                if !owner.is_classic() && owner.member_epoch != STATIC_LEAVE_EPOCH {
                    let message = format!(
                        "Static member {member_id} with instance id {instance_id} cannot join the group \
                         because the instance id is owned by {owner_id} member."
                    );
                    return Err(Refusal::new(ErrorCode::UnreleasedInstanceId, message));
                }
                Ok((self.replace(group, owner_id, owner, member_id), false))
            }
        }
    }

    /// Gives what a static member had to a new member id.
    pub fn replace(
        &mut self,
        group: &ConsumerGroup,
        old_id: &Arc<str>,
        old: &Member,
        new_id: &Arc<str>,
    ) -> Member {
        let new = Member { member_epoch: 0, previous_member_epoch: 0, ..old.clone() };
        let target = group.targets().get(old_id).cloned().unwrap_or_default();
        self.out.records.extend(records::member_tombstones(self.id, old_id));
        self.out.write(records::subscription(self.id, new_id, &new));
        self.out.write(records::target(self.id, new_id, &target));
        self.out.write(records::current(self.id, new_id, &new));
        self.cancel_timers(old_id);
        new
    }

    /// Writes what changed about a member but for its assignment. Returns the group's epoch after that, and
    /// whether the member's subscription is another one. `seen` is what the group counts already.
    pub fn subscribe(
        &mut self,
        group: &mut ConsumerGroup,
        id: &Arc<str>,
        old: &Member,
        seen: Option<&Member>,
        updated: &Member,
    ) -> Result<(i32, bool), Refusal> {
        if updated != old || seen.is_none() {
            self.out.write(records::subscription(self.id, id, updated));
        }
        let has_topics_changed = updated.subscribed != old.subscribed;
        let regex = self.update_regex(group, old, updated)?;
        // An expression that is not resolved yet will raise the epoch then. A classic member has none.
        let must_bump = has_topics_changed || regex.is_resolved || (regex.is_updated && updated.is_classic());
        let is_checked = group.soft.checked_topics == Some(self.topics.version());
        let epoch = if must_bump || !is_checked {
            self.update_metadata(group, seen, updated, must_bump)
        } else {
            group.epoch
        };
        Ok((epoch, has_topics_changed || regex.is_updated))
    }

    /// The member's target, computed for all if it is time to.
    pub fn target(&mut self, group: &ConsumerGroup, now: Updated<'_>, epoch: i32) -> Target {
        let computation = Computation {
            image: self.cx.image,
            group_id: self.id,
            group_epoch: epoch,
            assignors: &self.cx.settings.consumer.assignors,
            interval_ms: self.configs.assignment_interval_ms,
            now: self.cx.wall,
        };
        computation.target_of(group, now, &mut self.out.records)
    }

    /// Compares the topics' hash with the group's, and raises the group's epoch if it must be.
    fn update_metadata(
        &mut self,
        group: &mut ConsumerGroup,
        seen: Option<&Member>,
        updated: &Member,
        must_bump: bool,
    ) -> i32 {
        let hash = if seen
            .is_some_and(|seen| seen.subscribed == updated.subscribed && seen.regex == updated.regex)
        {
            self.topics.hash(self.cx.image, group.topic_names().keys())
        } else {
            let names = group.topic_names_with(seen, Some(updated));
            self.topics.hash(self.cx.image, names.keys())
        };
        let mut epoch = group.epoch;
        if must_bump || hash != group.metadata_hash {
            epoch += 1;
            self.out.write(records::epoch(self.id, epoch, hash));
        }
        group.soft.checked_topics = Some(self.topics.version());
        if group.has_partition_metadata {
            self.out.write(records::partition_metadata_tombstone(self.id));
        }
        epoch
    }

    /// Leads the member one step towards its target.
    pub fn lead(
        &mut self,
        group: &ConsumerGroup,
        id: &Arc<str>,
        member: Member,
        target: &Target,
        has_subscription_changed: bool,
        owned: Option<&[RequestTopicPartitions]>,
    ) -> Result<Member, Refusal> {
        if !has_subscription_changed && member.is_reconciled_to(target.epoch) {
            return Ok(member);
        }
        let is_subscribed = |topic: TopicId| is_subscribed(self.cx.image, group, &member, topic);
        let step = Step {
            target_epoch: target.epoch,
            target: &target.assignment,
            has_subscription_changed,
            owned,
            is_subscribed: &is_subscribed,
            is_held: &|topic, partition| group.is_held(topic, partition),
        };
        let updated = step.take(&member)?;
        if updated != member {
            self.out.write(records::current(self.id, id, &updated));
            if !updated.is_classic() {
                let timer = ConsumerTimer::Rebalance(id.clone());
                if updated.state == MemberState::UnrevokedPartitions {
                    set_timer(self.cx, self.id, timer, updated.rebalance_timeout_ms, self.out);
                } else if member.state == MemberState::UnrevokedPartitions {
                    self.out.cancel_timer(GroupTimer::Consumer(self.id.clone(), timer));
                }
            }
        }
        Ok(updated)
    }

    pub fn cancel_timers(&mut self, member_id: &Arc<str>) {
        cancel_timers(self.id, member_id, self.out);
    }
}

impl Soft {
    /// The member lives: it has until the timeout from now on. The timer is set only where it would fire too late.
    pub fn touch(
        &mut self,
        cx: &GroupCtx<'_>,
        group_id: &Arc<str>,
        member_id: &Arc<str>,
        timeout_ms: u64,
        out: &mut GroupOutcome,
    ) {
        let deadline = cx.mono.plus_ms(timeout_ms);
        if self.sessions.get_mut(member_id).is_some_and(|session| session.prolong(deadline)) {
            return;
        }
        self.sessions.insert(member_id.clone(), Session { deadline, timer_at: deadline });
        let timer = ConsumerTimer::Session(member_id.clone());
        out.set_timer(GroupTimer::Consumer(group_id.clone(), timer), deadline);
    }
}

/// Cancels all timers of a member.
pub(super) fn cancel_timers(group_id: &Arc<str>, member_id: &Arc<str>, out: &mut GroupOutcome) {
    for timer in [ConsumerTimer::Session, ConsumerTimer::Rebalance, ConsumerTimer::Join, ConsumerTimer::Sync]
    {
        out.cancel_timer(GroupTimer::Consumer(group_id.clone(), timer(member_id.clone())));
    }
}

/// A static member that left keeps its partitions for whoever comes with its instance id.
fn left_static(member: &Member) -> Member {
    let at_zero =
        |partitions: &std::collections::BTreeMap<i32, i32>| partitions.keys().map(|one| (*one, 0)).collect();
    Member {
        member_epoch: STATIC_LEAVE_EPOCH,
        pending_revocation: Arc::default(),
        assigned: Arc::new(
            member.assigned.iter().map(|(topic, partitions)| (*topic, at_zero(partitions))).collect(),
        ),
        ..member.clone()
    }
}

/// Whether the member subscribes to the topic by its name, or by an expression that found it.
fn is_subscribed(image: &MetadataImage, group: &ConsumerGroup, member: &Member, topic: TopicId) -> bool {
    let Some(topic) = image.topic(topic) else { return false };
    let of_regex = || member.regex().and_then(|regex| group.resolved().get(regex));
    member.subscribed.contains(&topic.name) || of_regex().is_some_and(|one| one.topics.contains(&topic.name))
}

fn wire_assignment(assigned: &Partitions) -> WireAssignment {
    let topic_partitions = assigned
        .iter()
        .map(|(topic, partitions)| ResponseTopicPartitions {
            topic_id: topic.0,
            partitions: partitions.keys().copied().collect(),
        })
        .collect();
    WireAssignment { topic_partitions }
}
