//! Heartbeat and LeaveGroup: members that live, go, and fail.
//!
//! An administrator may remove static members by their instance ids alone (KIP-345). Version 3 of LeaveGroup made it a
//! batch; its answers are one by one.

use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use klamm_protocol::messages::leave_group::{
    LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse,
};

use super::{ClassicGroup, State, Turn};
use crate::group::{Group, GroupCoordinator, GroupCtx, GroupOutcome};

impl GroupCoordinator {
    pub(in crate::group) fn heartbeat(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &HeartbeatRequest,
        out: &mut GroupOutcome,
    ) -> HeartbeatResponse {
        let error = if request.group_id.is_empty() {
            ErrorCode::InvalidGroupId
        } else if let Some(Group::Consumer(_)) = self.groups.get(&*request.group_id) {
            return self.heartbeat_consumer_group(cx, request, out);
        } else if let Some((id, group)) = self.classic(&request.group_id) {
            group.heartbeat(&mut Turn { cx, id: &id, out }, request)
        } else {
            ErrorCode::UnknownMemberId
        };
        HeartbeatResponse { error_code: error.code(), ..Default::default() }
    }

    pub(in crate::group) fn leave_group(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &LeaveGroupRequest,
        out: &mut GroupOutcome,
    ) -> LeaveGroupResponse {
        if request.group_id.is_empty() {
            let error_code = ErrorCode::InvalidGroupId.code();
            return LeaveGroupResponse { error_code, ..Default::default() };
        }
        if let Some(Group::Consumer(_)) = self.groups.get(&*request.group_id) {
            return self.leave_consumer_group(cx, request, out);
        }
        let errors = match self.classic(&request.group_id) {
            Some((id, group)) => group.leave(&mut Turn { cx, id: &id, out }, &request.members),
            None => vec![ErrorCode::UnknownMemberId; request.members.len()],
        };
        let members = request.members.iter().zip(errors).map(|(member, error)| MemberResponse {
            member_id: member.member_id.clone(),
            group_instance_id: member.group_instance_id.clone(),
            error_code: error.code(),
        });
        LeaveGroupResponse { members: members.collect(), ..Default::default() }
    }
}

impl ClassicGroup {
    fn heartbeat(&mut self, turn: &mut Turn<'_, '_>, request: &HeartbeatRequest) -> ErrorCode {
        let id: &str = &request.member_id;
        if let Err(error) = self.validate_member(id, request.group_instance_id.as_deref()) {
            return error;
        }
        if request.generation_id != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        if let Some((id, member)) = self.member_mut(id) {
            member.renew(turn, &id);
        }
        match self.state {
            State::PreparingRebalance => ErrorCode::RebalanceInProgress,
            State::Empty | State::CompletingRebalance | State::Stable => ErrorCode::None,
        }
    }

    fn leave(&mut self, turn: &mut Turn<'_, '_>, members: &[MemberIdentity]) -> Vec<ErrorCode> {
        let results: Vec<_> = members.iter().map(|member| self.leave_one(turn, member)).collect();
        if results.iter().any(Result::is_ok) && self.state != State::Empty {
            self.rebalance_or_complete(turn);
        }
        results.into_iter().map(|result| result.err().unwrap_or(ErrorCode::None)).collect()
    }

    fn leave_one(&mut self, turn: &mut Turn<'_, '_>, member: &MemberIdentity) -> Result<(), ErrorCode> {
        let instance_id = member.group_instance_id.as_deref();
        let id: Arc<str> = if member.member_id.is_empty() {
            let known = instance_id.and_then(|instance_id| self.static_members.get(instance_id));
            known.ok_or(ErrorCode::UnknownMemberId)?.clone()
        } else {
            if !self.pending_join.contains(&*member.member_id) {
                self.validate_member(&member.member_id, instance_id)?;
            }
            member.member_id.as_str().into()
        };
        self.dismiss(turn, &id);
        Ok(())
    }

    /// The timer of a member, or of an id that was given out, has fired.
    pub(super) fn expire_session(&mut self, turn: &mut Turn<'_, '_>, id: &Arc<str>) {
        let is_over = match self.members.get_mut(id) {
            Some(member) => member.is_expired(turn, id),
            None => self.pending_join.contains(id),
        };
        if !is_over {
            return;
        }
        let was_member = self.members.contains_key(id);
        self.dismiss(turn, id);
        match self.state {
            State::PreparingRebalance => self.complete_join_if_all_have_joined(turn),
            State::CompletingRebalance | State::Stable if was_member => self.prepare_rebalance(turn),
            _ => {}
        }
    }
}
