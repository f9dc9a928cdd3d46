//! Consumer groups (KIP-848): the coordinator assigns.

use std::sync::Arc;

use klamm_cluster::image::MetadataDelta;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_describe;
use klamm_protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};

use super::offsets::{Committer, Expiration};
use super::record::GroupRecord;
use super::{Client, GroupCoordinator, GroupCtx, GroupOutcome};

/// A timer of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConsumerTimer {
    /// The member must have sent a heartbeat by then.
    Session(Arc<str>),
}

/// A consumer group.
#[derive(Debug, Default)]
pub struct ConsumerGroup {}

impl ConsumerGroup {
    pub(super) fn state_name(&self) -> &'static str {
        "Empty"
    }

    pub(super) fn loaded(&mut self, _cx: &GroupCtx<'_>, _id: &Arc<str>, _out: &mut GroupOutcome) {}

    pub(super) fn validate_delete(&self) -> Result<(), ErrorCode> {
        Ok(())
    }

    pub(super) fn write_tombstones(&self, _id: &str, _out: &mut GroupOutcome) {}

    /// Whether `committer` may commit offsets of these partitions.
    pub(super) fn validate_commit(
        &self,
        _committer: &Committer<'_>,
        _partitions: impl Iterator<Item = (TopicId, i32)>,
    ) -> Result<(), ErrorCode> {
        Ok(())
    }

    /// Whether a member, if one is named, may fetch offsets.
    pub(super) fn validate_fetch(&self, _member_id: Option<&str>, _epoch: i32) -> Result<(), ErrorCode> {
        Ok(())
    }

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
    pub(super) fn consumer_group_heartbeat(
        &mut self,
        _cx: &GroupCtx<'_>,
        _request: &ConsumerGroupHeartbeatRequest,
        _version: i16,
        _client: &Client,
        _out: &mut GroupOutcome,
    ) -> ConsumerGroupHeartbeatResponse {
        ConsumerGroupHeartbeatResponse::default()
    }

    pub(super) fn describe_consumer(
        &self,
        _cx: &GroupCtx<'_>,
        _id: &str,
    ) -> consumer_group_describe::DescribedGroup {
        consumer_group_describe::DescribedGroup::default()
    }

    pub(super) fn expire_consumer(
        &mut self,
        _cx: &GroupCtx<'_>,
        _group: &Arc<str>,
        _timer: ConsumerTimer,
        _out: &mut GroupOutcome,
    ) {
    }

    pub(super) fn apply_consumer(&mut self, _record: &GroupRecord) {}

    /// Topics came, went or grew.
    pub(super) fn follow_topics(
        &mut self,
        _cx: &GroupCtx<'_>,
        _delta: &MetadataDelta,
        _out: &mut GroupOutcome,
    ) {
    }
}
