//! JoinGroup: a process becomes a member, or a member takes part in the next rebalance.
//!
//! - From version 4 on a dynamic member first gets an id and joins again with it (KIP-394), so that a client that
//!   gives up leaves nothing behind.
//! - A static member (KIP-345, from version 5) is known by its instance id: a new process takes the old one's place
//!   and assignment, without a rebalance if that changes nothing for the others. If it leads, it is told from version 9
//!   on not to assign (KIP-814); before, it is not told that it leads.
//! - Version 8 has a reason, which nobody here reads.
//!
//! What it deliberately does not do: end a rebalance ([`super::rebalance`]).

use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};

use super::member::{Member, protocols_of, text, unsigned};
use super::record::{empty_value, fits_a_batch, group_record};
use super::{ClassicGroup, ClassicTimer, State, Turn};
use crate::contract::ReplyKey;
use crate::group::{Client, Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupReply};

/// From this version on a dynamic member needs an id before it joins (KIP-394).
const MEMBER_ID_REQUIRED_VERSION_MIN: i16 = 4;
/// From this version on a leader can be told not to assign (KIP-814).
const SKIP_ASSIGNMENT_VERSION_MIN: i16 = 9;
/// How long a new member may wait for the end of a rebalance: it cannot send heartbeats. Kafka's constant.
const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 5 * 60 * 1000;

/// Who joins.
struct Joiner<'a> {
    key: ReplyKey,
    request: &'a JoinGroupRequest,
    version: i16,
    client: &'a Client,
}

impl Joiner<'_> {
    fn instance_id(&self) -> Option<&str> {
        self.request.group_instance_id.as_deref()
    }

    /// For the rebalance and for the session. Version 0 has one for both.
    fn timeouts_ms(&self) -> (i32, i32) {
        let session_timeout_ms = self.request.session_timeout_ms;
        let rebalance_timeout_ms =
            if self.version == 0 { session_timeout_ms } else { self.request.rebalance_timeout_ms };
        (rebalance_timeout_ms, session_timeout_ms)
    }

    /// What it calls itself, and random bits.
    fn new_member_id(&self, cx: &GroupCtx<'_>) -> Arc<str> {
        let name = self.instance_id().unwrap_or(&self.client.id);
        format!("{name}-{}", uuid((cx.random)())).into()
    }
}

impl GroupCoordinator {
    pub(in crate::group) fn join_group(
        &mut self,
        cx: &GroupCtx<'_>,
        key: ReplyKey,
        request: &JoinGroupRequest,
        version: i16,
        client: &Client,
        out: &mut GroupOutcome,
    ) {
        let mut refuse = |member_id: &str, error: ErrorCode| {
            let response = JoinGroupResponse {
                error_code: error.code(),
                member_id: text(member_id),
                ..Default::default()
            };
            out.reply(key, GroupReply::JoinGroup(response));
        };
        let id: &str = &request.group_id;
        let session_timeouts_ms = cx.settings.min_session_timeout_ms..=cx.settings.max_session_timeout_ms;
        if id.is_empty() {
            return refuse(&request.member_id, ErrorCode::InvalidGroupId);
        }
        if !session_timeouts_ms.contains(&request.session_timeout_ms) {
            return refuse(&request.member_id, ErrorCode::InvalidSessionTimeout);
        }
        match self.groups.get(id) {
            Some(Group::Classic(_)) => {}
            Some(Group::Consumer(group)) if !group.is_empty() => {
                return self.join_consumer_group(cx, key, request, version, client, out);
            }
            Some(Group::Share | Group::Streams) => return refuse("", ErrorCode::InconsistentGroupProtocol),
            // Whoever has an id got it from a group that is not there any more.
            None | Some(Group::Consumer(_)) if !request.member_id.is_empty() => {
                return refuse(&request.member_id, ErrorCode::UnknownMemberId);
            }
            empty => {
                if let Some(Group::Consumer(group)) = empty {
                    group.write_tombstones(id, out);
                }
                out.write(group_record(id, empty_value("", 0, cx.wall)));
                self.groups.insert(id.into(), Group::Classic(Box::default()));
            }
        }
        if let Some((id, group)) = self.classic(id) {
            let mut turn = Turn { cx, id: &id, out };
            group.join(&mut turn, &Joiner { key, request, version, client });
        }
    }
}

impl ClassicGroup {
    fn join(&mut self, turn: &mut Turn<'_, '_>, joiner: &Joiner<'_>) {
        let request = joiner.request;
        let member_id: &str = &request.member_id;
        let is_too_large =
            |listed: &JoinGroupRequestProtocol| listed.metadata.len() > turn.cx.batch_bytes_max;
        if !request.protocols.is_empty() && request.protocols.iter().all(is_too_large) {
            // Whichever is chosen could never be written: no assignment would be. Kafka says so at the assignment.
            turn.refuse_join(joiner.key, member_id, ErrorCode::UnknownServerError);
        } else if !self.has_room_for(member_id, turn.cx.settings.max_size) {
            self.remove(member_id);
            turn.refuse_join(joiner.key, "", ErrorCode::GroupMaxSizeReached);
        } else if !self.is_compatible(&request.protocol_type, &request.protocols) {
            turn.refuse_join(joiner.key, member_id, ErrorCode::InconsistentGroupProtocol);
        } else if member_id.is_empty() {
            self.join_as_new(turn, joiner);
        } else if self.pending_join.contains(member_id) {
            // No static member is told to join again, so this is none of ours; Kafka has no name for it.
            if joiner.instance_id().is_some() {
                turn.refuse_join(joiner.key, "", ErrorCode::UnknownServerError);
            } else {
                self.add(turn, joiner, &member_id.into());
            }
        } else {
            self.join_again(turn, joiner);
        }
    }

    /// While members join, those that wait count: the last ones of a group that is too large are refused.
    fn has_room_for(&self, member_id: &str, size_max: usize) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join_count < size_max
            }
            State::CompletingRebalance | State::Stable => member.is_some() || self.members.len() < size_max,
        }
    }

    fn join_as_new(&mut self, turn: &mut Turn<'_, '_>, joiner: &Joiner<'_>) {
        let new_id = joiner.new_member_id(turn.cx);
        let known = joiner.instance_id().and_then(|instance_id| self.static_members.get(instance_id));
        if let Some(old_id) = known.cloned() {
            self.join_in_place_of(turn, joiner, &old_id, &new_id);
        } else if joiner.instance_id().is_none() && joiner.version >= MEMBER_ID_REQUIRED_VERSION_MIN {
            let timeout_ms = unsigned(joiner.request.session_timeout_ms);
            turn.set_timer_in(ClassicTimer::Session(new_id.clone()), timeout_ms);
            turn.refuse_join(joiner.key, &new_id, ErrorCode::MemberIdRequired);
            self.pending_join.insert(new_id);
        } else {
            self.add(turn, joiner, &new_id);
        }
    }

    fn add(&mut self, turn: &mut Turn<'_, '_>, joiner: &Joiner<'_>, id: &Arc<str>) {
        let protocols = protocols_of(&joiner.request.protocols);
        let mut member =
            Member::joining(joiner.client, joiner.instance_id(), protocols, joiner.timeouts_ms());
        member.awaiting_join = Some(joiner.key);
        member.renew_for(turn, id, NEW_MEMBER_JOIN_TIMEOUT_MS);
        if let Some(initial) = &mut self.initial_rebalance {
            initial.has_new_member = true;
        }
        self.insert(id, member, &joiner.request.protocol_type);
        self.rebalance_or_complete(turn);
    }

    /// A member that has an id.
    fn join_again(&mut self, turn: &mut Turn<'_, '_>, joiner: &Joiner<'_>) {
        let id: &str = &joiner.request.member_id;
        if let Err(error) = self.validate_member(id, joiner.instance_id()) {
            let response = JoinGroupResponse {
                error_code: error.code(),
                member_id: text(id),
                protocol_name: None,
                ..Default::default()
            };
            turn.out.reply(joiner.key, GroupReply::JoinGroup(response));
            return;
        }
        let protocols = protocols_of(&joiner.request.protocols);
        let says_the_same = self.members.get(id).is_some_and(|member| member.protocols == protocols);
        let is_told_again = match self.state {
            // It may not have received the answer.
            State::CompletingRebalance => says_the_same,
            // A leader asks for a rebalance by this: something that it assigns by has changed.
            State::Stable => says_the_same && !self.is_leader(id),
            State::Empty | State::PreparingRebalance => false,
        };
        if is_told_again {
            turn.out.reply(joiner.key, GroupReply::JoinGroup(self.join_response(id)));
        } else {
            self.update(turn, id, protocols, joiner.timeouts_ms(), Some(joiner.key));
            self.rebalance_or_complete(turn);
        }
    }

    /// A new process of a static member.
    fn join_in_place_of(
        &mut self,
        turn: &mut Turn<'_, '_>,
        joiner: &Joiner<'_>,
        old_id: &Arc<str>,
        new_id: &Arc<str>,
    ) {
        let old_leader = self.leader.clone();
        let old = self.members.get(old_id).map(|member| {
            (member.protocols.clone(), (member.rebalance_timeout_ms, member.session_timeout_ms))
        });
        self.replace(turn, old_id, new_id);
        let protocols = protocols_of(&joiner.request.protocols);
        let timeouts_ms = joiner.timeouts_ms();
        if self.state != State::Stable {
            // While the leader assigns it does so for the old id, so everybody joins again.
            self.update(turn, new_id, protocols, timeouts_ms, Some(joiner.key));
            return self.rebalance_or_complete(turn);
        }
        self.update(turn, new_id, protocols, timeouts_ms, None);
        if self.select_protocol() != self.protocol {
            let protocols = protocols_of(&joiner.request.protocols);
            self.update(turn, new_id, protocols, timeouts_ms, Some(joiner.key));
            return self.rebalance_or_complete(turn);
        }
        let assignments = self.members.iter().map(|(id, member)| (&**id, &*member.assignment)).collect();
        let record = group_record(turn.id, self.to_value(&assignments));
        if !fits_a_batch(&record, turn.cx.batch_bytes_max) {
            // What it says is more than the topic takes: its predecessor stays.
            self.replace(turn, new_id, old_id);
            if let Some((protocols, timeouts_ms)) = old {
                self.update(turn, old_id, protocols, timeouts_ms, None);
            }
            return turn.refuse_join(joiner.key, "", ErrorCode::UnknownServerError);
        }
        turn.out.write(record);
        let mut response = self.join_response(new_id);
        if joiner.version >= SKIP_ASSIGNMENT_VERSION_MIN {
            response.skip_assignment = self.is_leader(new_id);
        } else {
            // It must not assign, so it is told that its predecessor leads.
            response.members = Vec::new();
            response.leader = text(old_leader.as_deref().unwrap_or_default());
        }
        turn.out.reply(joiner.key, GroupReply::JoinGroup(response));
    }
}

/// A random UUID (version 4) as Java writes it.
fn uuid(bits: u128) -> String {
    let version = 0x4 << 76;
    let variant = 0x2 << 62;
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | version | variant;
    let digits = format!("{bits:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
