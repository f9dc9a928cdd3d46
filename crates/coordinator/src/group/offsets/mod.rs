//! The offsets that groups committed.

use klamm_protocol::ids::{Offset, ProducerId};
use klamm_protocol::messages::group_records::{OffsetCommitKey, OffsetCommitValue};
use klamm_protocol::messages::offset_commit::{OffsetCommitRequest, OffsetCommitResponse};
use klamm_protocol::messages::offset_delete::{OffsetDeleteRequest, OffsetDeleteResponse};
use klamm_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchResponseGroup};
use klamm_protocol::messages::txn_offset_commit::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::{GroupCoordinator, GroupCtx, GroupOutcome};
use crate::contract::At;

/// Who commits, as the request says.
#[derive(Clone, Copy, Debug)]
pub struct Committer<'a> {
    /// Empty for an admin client or a consumer that assigns itself.
    pub member_id: &'a str,
    /// Of a static member.
    pub instance_id: Option<&'a str>,
    /// The generation of a classic member, the epoch of another; negative without one.
    pub generation: i32,
    /// By TxnOffsetCommit.
    pub is_transactional: bool,
    /// Of the request.
    pub version: i16,
}

/// From when on offsets that nobody renews grow old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    /// From each offset's commit.
    SinceCommit,
    /// From the commit, but not before the group lost its last member, at this time (wall clock, ms).
    SinceEmpty(i64),
}

/// All offsets of a partition's groups.
#[derive(Debug, Default)]
pub struct Offsets {}

impl Offsets {
    pub(super) fn apply(&mut self, _at: At, _key: &OffsetCommitKey, _value: Option<&OffsetCommitValue>) {}

    pub(super) fn end_transaction(&mut self, _at: Offset, _producer: ProducerId, _is_committed: bool) {}

    pub(super) fn write_tombstones(&self, _group: &str, _out: &mut GroupOutcome) {}
}

impl GroupCoordinator {
    pub(super) fn commit_offsets(
        &mut self,
        _cx: &GroupCtx<'_>,
        _request: &OffsetCommitRequest,
        _version: i16,
        _out: &mut GroupOutcome,
    ) -> OffsetCommitResponse {
        OffsetCommitResponse::default()
    }

    pub(super) fn commit_transactional_offsets(
        &mut self,
        _cx: &GroupCtx<'_>,
        _request: &TxnOffsetCommitRequest,
        _version: i16,
        _out: &mut GroupOutcome,
    ) -> TxnOffsetCommitResponse {
        TxnOffsetCommitResponse::default()
    }

    pub(super) fn fetch_offsets(
        &self,
        _group: &OffsetFetchRequestGroup,
        _require_stable: bool,
    ) -> OffsetFetchResponseGroup {
        OffsetFetchResponseGroup::default()
    }

    pub(super) fn delete_offsets(
        &mut self,
        _request: &OffsetDeleteRequest,
        _out: &mut GroupOutcome,
    ) -> OffsetDeleteResponse {
        OffsetDeleteResponse::default()
    }

    pub(super) fn expire_offsets(&mut self, _cx: &GroupCtx<'_>, _out: &mut GroupOutcome) {}

    pub(super) fn delete_offsets_of_deleted_topics(&mut self, _cx: &GroupCtx<'_>, _out: &mut GroupOutcome) {}
}
