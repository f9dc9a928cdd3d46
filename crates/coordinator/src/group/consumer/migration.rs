//! A classic group becomes a consumer group, and back, while its members go on.
//!
//! The first member of the new protocol upgrades a classic group of consumers; when the last one goes, what
//! is left is a classic group again. Nobody loses what it reads: the assignment is taken over.
//!
//! Invariant: one batch holds the old group's tombstones and the new group's records. `apply` makes
//! the change; a timer that fires at once gives the members of a downgraded group their deadlines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::group_records::{GroupMetadataKey, GroupMetadataValue, MemberMetadata};
use klamm_protocol::wire::DecodeError;

use super::super::assignor::Assignment;
use super::super::classic::{ClassicGroup, Takeover};
use super::super::record::GroupRecord;
use super::super::{Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupTimer};
use super::group::ConsumerGroup;
use super::heartbeat::cancel_timers;
use super::member::{ClassicMember, Member};
use super::{ConsumerTimer, Refusal, embedded, records, set_timer};

impl GroupCoordinator {
    /// The consumer group that a joining member makes: a new one, or one that takes over from a classic
    /// group. `None` if there is one already.
    pub(super) fn become_consumer_group(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &str,
        out: &mut GroupOutcome,
    ) -> Result<Option<Box<ConsumerGroup>>, Refusal> {
        match self.groups.get_key_value(id) {
            None => Ok(Some(Box::default())),
            Some((_, Group::Consumer(_))) => Ok(None),
            Some((_, Group::Classic(group))) if group.is_empty() => {
                group.write_tombstones(id, out);
                Ok(Some(Box::default()))
            }
            Some((id, Group::Classic(group))) => {
                let members = self.taken_over(cx, id, group)?;
                let id = id.clone();
                group.write_tombstones(&id, out);
                Ok(Some(self.upgrade(cx, &id, members, out)))
            }
            Some((_, Group::Share | Group::Streams)) => Err(Refusal::not_a_consumer_group(id)),
        }
    }

    /// The members of a classic group as those of a consumer group, and the epoch they are at.
    fn taken_over(
        &self,
        cx: &GroupCtx<'_>,
        id: &str,
        group: &ClassicGroup,
    ) -> Result<(i32, BTreeMap<Arc<str>, Member>), Refusal> {
        let refuse = |because: &str| {
            let message = format!("Cannot upgrade classic group {id} to consumer group because {because}");
            Refusal::new(ErrorCode::GroupIdNotFound, message)
        };
        let Takeover { generation, protocol, members } = group.takeover();
        if !cx.settings.consumer.migration_policy.allows_upgrade() {
            return Err(refuse("online upgrade is disabled."));
        }
        if group.protocol_type() != embedded::PROTOCOL_TYPE {
            return Err(refuse("the group does not use the consumer embedded protocol."));
        }
        if members.len() > cx.settings.consumer.max_size {
            return Err(refuse("the group size exceeds the consumer group maximum size."));
        }
        let malformed = |_: DecodeError| refuse("the embedded consumer protocol is malformed.");
        let mut upgraded = BTreeMap::new();
        for member in members {
            let chosen = member.protocols.iter().find(|(name, _)| Some(name) == protocol.as_ref());
            let Some((_, metadata)) = chosen.or(member.protocols.first()) else {
                return Err(refuse("the embedded consumer protocol is malformed."));
            };
            let subscription = embedded::subscription(metadata).map_err(malformed)?;
            // Who has not fetched an assignment yet has none.
            let assigned = if member.assignment.is_empty() {
                Assignment::new()
            } else {
                let assignment = embedded::assignment(&member.assignment).map_err(malformed)?;
                if assignment.user_data.as_ref().is_some_and(|data| !data.is_empty()) {
                    return Err(refuse(
                        "an unsupported custom assignor is in use. Please refer to the documentation or switch \
                         to a default assignor before re-attempting the upgrade.",
                    ));
                }
                embedded::with_ids(cx.image, &assignment)
            };
            let with_epoch =
                |partitions: &BTreeSet<i32>| partitions.iter().map(|one| (*one, generation)).collect();
            let rack_id = subscription.rack_id.as_deref().filter(|rack| !rack.is_empty());
            upgraded.insert(
                member.member_id,
                Member {
                    member_epoch: generation,
                    previous_member_epoch: generation,
                    instance_id: member.instance_id,
                    rack_id: rack_id.map(Arc::from),
                    rebalance_timeout_ms: member.rebalance_timeout_ms,
                    client_id: member.client_id,
                    client_host: member.client_host,
                    subscribed: Arc::new(embedded::names(&subscription)),
                    assigned: Arc::new(assigned.iter().map(|(id, of)| (*id, with_epoch(of))).collect()),
                    classic: Some(Arc::new(ClassicMember {
                        session_timeout_ms: member.session_timeout_ms,
                        protocols: member.protocols,
                    })),
                    ..Member::default()
                },
            );
        }
        Ok((generation, upgraded))
    }

    /// Writes a consumer group of these members. Its state is what the records say.
    fn upgrade(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &Arc<str>,
        (epoch, members): (i32, BTreeMap<Arc<str>, Member>),
        out: &mut GroupOutcome,
    ) -> Box<ConsumerGroup> {
        let names: BTreeSet<Arc<str>> =
            members.values().flat_map(|member| member.subscribed.iter().cloned()).collect();
        let hash = self.topics.hash(cx.image, names.iter());
        let start = out.records.len();
        for (member_id, member) in &members {
            out.write(records::subscription(id, member_id, member));
        }
        out.write(records::epoch(id, epoch, hash));
        for (member_id, member) in &members {
            let assigned = member.assigned.iter();
            let target = assigned.map(|(id, of)| (*id, of.keys().copied().collect())).collect();
            out.write(records::target(id, member_id, &target));
        }
        out.write(records::target_epoch(id, epoch, 0));
        for (member_id, member) in &members {
            out.write(records::current(id, member_id, member));
            if let Some(classic) = &member.classic {
                let timer = ConsumerTimer::Session(member_id.clone());
                set_timer(cx, id, timer, classic.session_timeout_ms, out);
            }
        }
        let mut apart = Self::default();
        out.records[start..].iter().for_each(|record| apart.apply_consumer(record));
        match apart.groups.remove(id) {
            Some(Group::Consumer(group)) => group,
            _ => Box::default(),
        }
    }
}

/// Makes a group a classic one when those who leave are its last members of the new protocol. False if it
/// stays as it is, and nothing is written.
pub(super) fn downgrade_without(
    cx: &GroupCtx<'_>,
    id: &Arc<str>,
    group: &ConsumerGroup,
    leaving: &BTreeSet<Arc<str>>,
    out: &mut GroupOutcome,
) -> bool {
    let stay = || group.members().iter().filter(|(member_id, _)| !leaving.contains(*member_id));
    let is_possible = stay().next().is_some()
        && stay().all(|(_, member)| member.is_classic())
        && cx.settings.consumer.migration_policy.allows_downgrade()
        && stay().count() <= cx.settings.max_size;
    if !is_possible {
        return false;
    }
    let members = stay().map(|(member_id, member)| (&**member_id, member, group.targets().get(member_id)));
    // Members whose subscriptions cannot be read stay where they are.
    let Ok(record) = classic_group(cx, id, group, members.collect()) else { return false };
    out.records.extend(records::group_tombstones(id, group, None));
    out.write(record);
    finish(cx, id, group, true, out);
    true
}

/// Whether a classic member in the place of this static one would be the last that the group waited for.
pub(super) fn may_downgrade_with(cx: &GroupCtx<'_>, group: &ConsumerGroup, replaced: &Member) -> bool {
    !replaced.is_classic()
        && group.classic_count() + 1 == group.members().len()
        && cx.settings.consumer.migration_policy.allows_downgrade()
        && group.members().len() <= cx.settings.max_size
}

/// Makes a group a classic one, where a classic member has just replaced the last of the new protocol.
pub(super) fn downgrade_with(
    cx: &GroupCtx<'_>,
    id: &Arc<str>,
    group: &ConsumerGroup,
    (old_id, new_id, joining): (&str, &str, &Member),
    must_rebalance: bool,
    out: &mut GroupOutcome,
) -> Result<(), Refusal> {
    let stay = group.members().iter().filter(|(member_id, _)| ***member_id != *old_id);
    let mut members: Vec<_> =
        stay.map(|(member_id, member)| (&**member_id, member, group.targets().get(member_id))).collect();
    members.push((new_id, joining, group.targets().get(old_id)));
    let record = classic_group(cx, id, group, members).map_err(|error| {
        let message = format!("Cannot downgrade the classic group {id}: {error}.");
        Refusal::new(ErrorCode::GroupIdNotFound, message)
    })?;
    out.records.extend(records::group_tombstones(id, group, Some((old_id, new_id))));
    out.write(record);
    finish(cx, id, group, must_rebalance, out);
    Ok(())
}

fn finish(
    cx: &GroupCtx<'_>,
    id: &Arc<str>,
    group: &ConsumerGroup,
    must_rebalance: bool,
    out: &mut GroupOutcome,
) {
    for member_id in group.members().keys() {
        cancel_timers(id, member_id, out);
    }
    out.set_timer(GroupTimer::Consumer(id.clone(), ConsumerTimer::Downgraded { must_rebalance }), cx.mono);
}

/// The record of a classic group of these members, each with its target.
fn classic_group(
    cx: &GroupCtx<'_>,
    id: &str,
    group: &ConsumerGroup,
    members: Vec<(&str, &Member, Option<&Assignment>)>,
) -> Result<GroupRecord, DecodeError> {
    let protocol = select_protocol(&members);
    let nothing = Assignment::new();
    let mut written = Vec::with_capacity(members.len());
    for (member_id, member, target) in &members {
        let Some(classic) = &member.classic else { continue };
        let chosen = classic.protocols.iter().find(|(name, _)| Some(&**name) == protocol);
        let metadata = chosen.map_or(&[][..], |(_, metadata)| metadata);
        written.push(MemberMetadata {
            member_id: records::wire(member_id),
            group_instance_id: member.instance_id.as_deref().map(records::wire),
            client_id: records::wire(&member.client_id),
            client_host: records::wire(&member.client_host),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: classic.session_timeout_ms,
            subscription: Bytes::copy_from_slice(metadata),
            assignment: embedded::assignment_for(cx.image, metadata, target.unwrap_or(&nothing))?,
        });
    }
    let value = GroupMetadataValue {
        protocol_type: records::wire(embedded::PROTOCOL_TYPE),
        generation: group.epoch,
        protocol: protocol.map(records::wire),
        leader: written.first().map(|leader| leader.member_id.clone()),
        current_state_timestamp: cx.wall.0,
        members: written,
    };
    Ok((GroupMetadataKey { group: records::wire(id) }, Some(value)).into())
}

/// Of the protocols that all know, the one that most prefer.
fn select_protocol<'a>(members: &[(&str, &'a Member, Option<&Assignment>)]) -> Option<&'a str> {
    let classic = || members.iter().filter_map(|(_, member, _)| member.classic.as_deref());
    let knows =
        |member: &ClassicMember, name: &str| member.protocols.iter().any(|(known, _)| **known == *name);
    let mut votes = BTreeMap::<&str, usize>::new();
    for member in classic() {
        let names = member.protocols.iter().map(|(name, _)| &**name);
        if let Some(name) = names.into_iter().find(|name| classic().all(|other| knows(other, name))) {
            *votes.entry(name).or_default() += 1;
        }
    }
    votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name)
}
