//! Classic groups: the members' leader assigns.

use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_groups;
use klamm_protocol::messages::group_records::GroupMetadataValue;
use klamm_protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use klamm_protocol::messages::join_group::JoinGroupRequest;
use klamm_protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse};
use klamm_protocol::messages::sync_group::SyncGroupRequest;

use super::offsets::{Committer, Expiration};
use super::{Client, GroupCoordinator, GroupCtx, GroupOutcome};
use crate::contract::ReplyKey;

/// A timer of a classic group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassicTimer {
    /// Members may join until then.
    Join,
}

/// A classic group.
#[derive(Debug, Default)]
pub struct ClassicGroup {}

impl ClassicGroup {
    pub(super) fn protocol_type(&self) -> &str {
        ""
    }

    pub(super) fn state_name(&self) -> &'static str {
        "Empty"
    }

    pub(super) fn loaded(&mut self, _cx: &GroupCtx<'_>, _id: &Arc<str>, _out: &mut GroupOutcome) {}

    pub(super) fn validate_delete(&self) -> Result<(), ErrorCode> {
        Ok(())
    }

    pub(super) fn write_tombstones(&self, _id: &str, _out: &mut GroupOutcome) {}

    /// Whether `committer` may commit offsets.
    pub(super) fn validate_commit(&self, _committer: &Committer<'_>) -> Result<(), ErrorCode> {
        Ok(())
    }

    /// A member that commits lives.
    pub(super) fn note_commit(&mut self, _cx: &GroupCtx<'_>, _member_id: &str) {}

    /// When offsets of topics that nobody reads expire; `None` while none do.
    pub(super) fn expiration(&self) -> Option<Expiration> {
        None
    }

    /// Whether a member reads it; offsets of such topics do not expire and are not deleted.
    pub(super) fn is_subscribed_to(&self, _topic: &str) -> bool {
        false
    }

    /// Whether the group has no members.
    pub(super) fn is_empty(&self) -> bool {
        true
    }
}

impl GroupCoordinator {
    pub(super) fn join_group(
        &mut self,
        _cx: &GroupCtx<'_>,
        _key: ReplyKey,
        _request: &JoinGroupRequest,
        _version: i16,
        _client: &Client,
        _out: &mut GroupOutcome,
    ) {
    }

    pub(super) fn sync_group(
        &mut self,
        _cx: &GroupCtx<'_>,
        _key: ReplyKey,
        _request: &SyncGroupRequest,
        _out: &mut GroupOutcome,
    ) {
    }

    pub(super) fn heartbeat(
        &mut self,
        _cx: &GroupCtx<'_>,
        _request: &HeartbeatRequest,
        _out: &mut GroupOutcome,
    ) -> HeartbeatResponse {
        HeartbeatResponse::default()
    }

    pub(super) fn leave_group(
        &mut self,
        _cx: &GroupCtx<'_>,
        _request: &LeaveGroupRequest,
        _out: &mut GroupOutcome,
    ) -> LeaveGroupResponse {
        LeaveGroupResponse::default()
    }

    pub(super) fn describe_classic(&self, _id: &str, _version: i16) -> describe_groups::DescribedGroup {
        describe_groups::DescribedGroup::default()
    }

    pub(super) fn expire_classic(
        &mut self,
        _cx: &GroupCtx<'_>,
        _group: &Arc<str>,
        _timer: ClassicTimer,
        _out: &mut GroupOutcome,
    ) {
    }

    pub(super) fn apply_classic(&mut self, _id: &str, _value: Option<&GroupMetadataValue>) {}
}
