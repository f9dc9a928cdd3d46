//! Who is in a classic group: adding, changing and removing members, and what follows from all of them.
//!
//! What it deliberately does not do: begin or end a rebalance, set timers.
//!
//! Invariants: the counts of protocols and of those that wait fit the members; the leader is a member;
//! instance ids name members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::join_group::{JoinGroupRequestProtocol, JoinGroupResponse};
use klamm_protocol::messages::sync_group::SyncGroupResponse;

use super::member::{Member, Protocol, text};
use super::{ClassicGroup, ClassicTimer, State, Turn};
use crate::contract::ReplyKey;
use crate::group::GroupReply;

impl ClassicGroup {
    /// # Errors
    /// There is no such member, or another process has taken its instance id.
    pub(super) fn validate_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(known) if &**known != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// A member, and its id as the group keeps it.
    pub(super) fn member_mut(&mut self, id: &str) -> Option<(Arc<str>, &mut Member)> {
        let key = self.members.get_key_value(id)?.0.clone();
        Some((key, self.members.get_mut(id)?))
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub(super) fn have_all_joined(&self) -> bool {
        self.members.len() == self.awaiting_join_count && self.pending_join.is_empty()
    }

    /// The longest that a member asks the others to wait for it.
    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self.members.values().map(|member| member.rebalance_timeout_ms).max();
        super::unsigned(longest.unwrap_or(0))
    }

    /// Whether somebody who says this fits to the others.
    pub(super) fn is_compatible(&self, protocol_type: &str, protocols: &[JoinGroupRequestProtocol]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let is_common = |name: &str| self.supporters.get(name).copied().unwrap_or(0) == self.members.len();
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|protocol| is_common(&protocol.name))
    }

    /// Adds a member; the first one leads and says what type of protocol it is.
    pub(super) fn insert(&mut self, id: &Arc<str>, member: Member, protocol_type: &str) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.into());
            self.leader = Some(id.clone());
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
        self.pending_join.remove(id);
        self.count(&member.protocols);
        self.awaiting_join_count += usize::from(member.awaiting_join.is_some());
        self.members.insert(id.clone(), member);
    }

    /// Takes a member, or an id that was only given out, from the group. If it was the leader, another one leads.
    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        self.pending_join.remove(id);
        self.pending_sync.remove(id);
        let member = self.members.remove(id)?;
        self.uncount(&member.protocols);
        self.awaiting_join_count -= usize::from(member.awaiting_join.is_some());
        if let Some(instance_id) = &member.instance_id {
            self.static_members.remove(instance_id);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// The same, and answers it if it waits.
    pub(super) fn dismiss(&mut self, turn: &mut Turn<'_, '_>, id: &Arc<str>) {
        turn.cancel_timer(ClassicTimer::Session(id.clone()));
        let Some(member) = self.remove(id) else { return };
        if let Some(key) = member.awaiting_join {
            // Whoever is still there shall join as a new member.
            turn.refuse_join(key, "", ErrorCode::UnknownMemberId);
        }
        if let Some(key) = member.awaiting_sync {
            turn.refuse_sync(key, ErrorCode::UnknownMemberId);
        }
    }

    /// A new process of a static member takes its place. The old one is fenced, also if it waits.
    pub(super) fn replace(&mut self, turn: &mut Turn<'_, '_>, old_id: &Arc<str>, new_id: &Arc<str>) {
        let was_leader = self.is_leader(old_id);
        let was_pending_sync = self.pending_sync.contains(old_id);
        let Some(mut member) = self.remove(old_id) else { return };
        if let Some(key) = member.awaiting_join.take() {
            let fenced = JoinGroupResponse {
                error_code: ErrorCode::FencedInstanceId.code(),
                member_id: text(old_id),
                protocol_name: None,
                ..Default::default()
            };
            turn.out.reply(key, GroupReply::JoinGroup(fenced));
        }
        if let Some(key) = member.awaiting_sync.take() {
            turn.refuse_sync(key, ErrorCode::FencedInstanceId);
        }
        turn.cancel_timer(ClassicTimer::Session(old_id.clone()));
        member.is_new = false;
        member.forget_timer();
        member.renew(turn, new_id);
        let protocol_type = self.protocol_type().to_owned();
        self.insert(new_id, member, &protocol_type);
        if was_leader {
            self.leader = Some(new_id.clone());
        }
        if was_pending_sync {
            self.pending_sync.insert(new_id.clone());
        }
    }

    /// A member says again what it can, and may wait for the others. Who waited for it before asks again.
    pub(super) fn update(
        &mut self,
        turn: &mut Turn<'_, '_>,
        id: &str,
        protocols: Vec<Protocol>,
        (rebalance_timeout_ms, session_timeout_ms): (i32, i32),
        awaiting_join: Option<ReplyKey>,
    ) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        member.session_timeout_ms = session_timeout_ms;
        let old_protocols = std::mem::replace(&mut member.protocols, protocols);
        let old_key = std::mem::replace(&mut member.awaiting_join, awaiting_join);
        if let Some(key) = old_key {
            self.awaiting_join_count -= 1;
            turn.refuse_join(key, id, ErrorCode::RebalanceInProgress);
        }
        self.awaiting_join_count += usize::from(awaiting_join.is_some());
        let new_protocols = member.protocols.clone();
        self.uncount(&old_protocols);
        self.count(&new_protocols);
    }

    /// Who of the waiting members gets the others' metadata: the leader if it waits, else another one. False if
    /// nobody waits.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let is_awaiting = |member: &Member| member.awaiting_join.is_some();
        if self.leader.as_ref().and_then(|leader| self.members.get(leader)).is_some_and(is_awaiting) {
            return true;
        }
        let joined = self.members.iter().find(|(_, member)| is_awaiting(member));
        let Some((id, _)) = joined else { return false };
        self.leader = Some(id.clone());
        true
    }

    /// The protocol that most members like best of those that all support; of equals the first by name. `None` without
    /// members.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let candidates: BTreeSet<&Arc<str>> = self
            .supporters
            .iter()
            .filter_map(|(name, count)| (*count == self.members.len()).then_some(name))
            .collect();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let liked = member.protocols.iter().find(|protocol| candidates.contains(&protocol.name));
            if let Some(protocol) = liked {
                *votes.entry(&protocol.name).or_default() += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone())
    }

    /// As a member is told of the generation that it is in; the leader of everybody.
    pub(super) fn join_response(&self, member_id: &str) -> JoinGroupResponse {
        let protocol = self.protocol.as_deref();
        let members = if self.is_leader(member_id) {
            let all = self.members.iter();
            all.map(|(id, member)| member.to_join_response(id, protocol.unwrap_or_default())).collect()
        } else {
            Vec::new()
        };
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.as_deref().map(text),
            protocol_name: protocol.map(text),
            leader: text(self.leader.as_deref().unwrap_or_default()),
            member_id: text(member_id),
            members,
            ..Default::default()
        }
    }

    /// As a member is told of its assignment.
    pub(super) fn sync_response(&self, assignment: &[u8]) -> SyncGroupResponse {
        SyncGroupResponse {
            protocol_type: self.protocol_type.as_deref().map(text),
            protocol_name: self.protocol.as_deref().map(text),
            assignment: bytes::Bytes::copy_from_slice(assignment),
            ..Default::default()
        }
    }

    fn count(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            *self.supporters.entry(protocol.name.clone()).or_default() += 1;
        }
    }

    fn uncount(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            if let Some(count) = self.supporters.get_mut(&protocol.name) {
                *count -= 1;
                if *count == 0 {
                    self.supporters.remove(&protocol.name);
                }
            }
        }
    }
}

impl Turn<'_, '_> {
    pub(super) fn refuse_join(&mut self, key: ReplyKey, member_id: &str, error: ErrorCode) {
        let response =
            JoinGroupResponse { error_code: error.code(), member_id: text(member_id), ..Default::default() };
        self.out.reply(key, GroupReply::JoinGroup(response));
    }

    pub(super) fn refuse_sync(&mut self, key: ReplyKey, error: ErrorCode) {
        let response = SyncGroupResponse { error_code: error.code(), ..Default::default() };
        self.out.reply(key, GroupReply::SyncGroup(response));
    }
}
