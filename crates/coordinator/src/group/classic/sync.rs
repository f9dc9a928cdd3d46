//! SyncGroup: the leader hands in what each member gets, and everybody gets it.
//!
//! Those who ask before the leader wait. Whoever has not asked within the rebalance timeout is no member any more.
//! From version 5 on a member says which protocol it believes in (KIP-559).
//!
//! Invariant: what a member is given is what was written for its generation.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};
use klamm_protocol::wire::WireStr;

use super::record::{fits_a_batch, group_record};
use super::{ClassicGroup, ClassicTimer, State, Turn};
use crate::contract::ReplyKey;
use crate::group::{Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupReply};

impl GroupCoordinator {
    pub(in crate::group) fn sync_group(
        &mut self,
        cx: &GroupCtx<'_>,
        key: ReplyKey,
        request: &SyncGroupRequest,
        out: &mut GroupOutcome,
    ) {
        let result = if request.group_id.is_empty() {
            Err(ErrorCode::InvalidGroupId)
        } else if let Some(Group::Consumer(_)) = self.groups.get(&*request.group_id) {
            return self.sync_consumer_group(cx, key, request, out);
        } else if let Some((id, group)) = self.classic(&request.group_id) {
            group.sync(&mut Turn { cx, id: &id, out }, key, request)
        } else {
            Err(ErrorCode::UnknownMemberId)
        };
        if let Err(error) = result {
            let response = SyncGroupResponse { error_code: error.code(), ..Default::default() };
            out.reply(key, GroupReply::SyncGroup(response));
        }
    }
}

impl ClassicGroup {
    fn sync(
        &mut self,
        turn: &mut Turn<'_, '_>,
        key: ReplyKey,
        request: &SyncGroupRequest,
    ) -> Result<(), ErrorCode> {
        let id: &str = &request.member_id;
        self.validate_member(id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |said: &Option<WireStr>, known: &Option<Arc<str>>| {
            said.as_deref().zip(known.as_deref()).is_some_and(|(said, known)| said != known)
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match self.state {
            State::Empty => Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            State::CompletingRebalance => {
                self.note_sync(turn, id);
                let member = self.members.get_mut(id).ok_or(ErrorCode::UnknownMemberId)?;
                if let Some(earlier) = member.awaiting_sync.replace(key) {
                    turn.refuse_sync(earlier, ErrorCode::RebalanceInProgress);
                }
                if self.is_leader(id) {
                    self.assign(turn, &request.assignments);
                }
                Ok(())
            }
            State::Stable => {
                self.note_sync(turn, id);
                let member = self.members.get(id).ok_or(ErrorCode::UnknownMemberId)?;
                turn.out.reply(key, GroupReply::SyncGroup(self.sync_response(&member.assignment)));
                Ok(())
            }
        }
    }

    /// Writes down what each member gets, and answers those who wait. Whom the leader did not name gets nothing.
    fn assign(&mut self, turn: &mut Turn<'_, '_>, assignments: &[SyncGroupRequestAssignment]) {
        let by_member: BTreeMap<&str, &[u8]> = assignments
            .iter()
            .map(|assignment| (assignment.member_id.as_str(), &*assignment.assignment))
            .collect();
        let record = group_record(turn.id, self.to_value(&by_member));
        if !fits_a_batch(&record, turn.cx.batch_bytes_max) {
            return self.refuse_assignments(turn);
        }
        turn.out.write(record);
        let waiting: Vec<_> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| member.awaiting_sync.take().map(|key| (id.clone(), key)))
            .collect();
        for (id, key) in waiting {
            let assignment = by_member.get(&*id).copied().unwrap_or_default();
            turn.out.reply(key, GroupReply::SyncGroup(self.sync_response(assignment)));
            if let Some(member) = self.members.get_mut(&id) {
                member.renew(turn, &id);
            }
        }
    }

    /// What the leader said, with what members said of themselves, is more than the topic takes: another round.
    fn refuse_assignments(&mut self, turn: &mut Turn<'_, '_>) {
        for (id, member) in &mut self.members {
            if let Some(key) = member.awaiting_sync.take() {
                turn.refuse_sync(key, ErrorCode::UnknownServerError);
                member.renew(turn, id);
            }
        }
        self.prepare_rebalance(turn);
    }

    fn note_sync(&mut self, turn: &mut Turn<'_, '_>, id: &str) {
        if self.pending_sync.remove(id) && self.pending_sync.is_empty() {
            turn.cancel_timer(ClassicTimer::Sync);
        }
    }

    /// Who has not asked for its assignment by now does not live.
    pub(super) fn expire_sync(&mut self, turn: &mut Turn<'_, '_>) {
        let is_awaited = matches!(self.state, State::CompletingRebalance | State::Stable);
        if !is_awaited || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.dismiss(turn, &id);
        }
        self.prepare_rebalance(turn);
    }
}
