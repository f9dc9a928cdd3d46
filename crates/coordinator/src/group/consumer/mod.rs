//! Consumer groups (KIP-848): the coordinator assigns.
//!
//! A member sends heartbeats. One that joins or changes its subscription raises the *group epoch*; the
//! *target assignment* is computed for it ([`target`]), and each member is led to its part of the target
//! by its own heartbeats ([`reconcile`]). Members of the classic protocol may be in the group, too
//! ([`classic_member`]), and a classic group becomes a consumer group and back ([`migration`]).
//!
//! What it deliberately does not do: authorize (a regular expression finds all topics).
//!
//! Invariants: see [`group`], [`reconcile`], [`target`].

mod classic_member;
mod configs;
mod describe;
mod embedded;
mod fence;
mod group;
mod heartbeat;
mod member;
mod migration;
mod reconcile;
mod records;
mod regex;
mod replay;
mod request;
mod steady;
mod target;
mod topics;

use std::sync::Arc;

use klamm_cluster::image::MetadataDelta;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{TopicId, Uuid};

pub use self::group::ConsumerGroup;
pub(super) use self::records::{group_of, member_of};
pub(super) use self::topics::Topics;

use super::offsets::{Committer, Expiration};
use super::{Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupTimer};
use member::{Member, MemberState};

/// The first version of OffsetCommit that knows member epochs.
const EPOCH_COMMIT_VERSION_MIN: i16 = 9;

/// A timer of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConsumerTimer {
    /// The member must have sent a heartbeat by then.
    Session(Arc<str>),
    /// The member must have given up the partitions that it was to.
    Rebalance(Arc<str>),
    /// The classic member must have joined again.
    Join(Arc<str>),
    /// The classic member must have fetched its assignment.
    Sync(Arc<str>),
    /// The regular expressions are to be resolved.
    Regex,
    /// The group has become a classic one: its members get deadlines.
    Downgraded {
        /// And they have to join again.
        must_rebalance: bool,
    },
}

/// Why a request is refused, in Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    error: ErrorCode,
    message: String,
}

impl Refusal {
    fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }

    fn group_not_found(id: &str) -> Self {
        Self::new(ErrorCode::GroupIdNotFound, format!("Group {id} not found."))
    }

    fn not_a_consumer_group(id: &str) -> Self {
        Self::new(ErrorCode::GroupIdNotFound, format!("Group {id} is not a consumer group."))
    }

    fn unknown_member(member_id: &str, group_id: &str) -> Self {
        let message = format!("Member {member_id} is not a member of group {group_id}.");
        Self::new(ErrorCode::UnknownMemberId, message)
    }

    fn unknown_instance(instance_id: &str) -> Self {
        Self::new(ErrorCode::UnknownMemberId, format!("Instance id {instance_id} is unknown."))
    }

    fn fenced_instance(member_id: &str, instance_id: &str, owner: &str) -> Self {
        let message =
            format!("Static member {member_id} with instance id {instance_id} was fenced by member {owner}.");
        Self::new(ErrorCode::FencedInstanceId, message)
    }
}

impl ConsumerGroup {
    pub(super) fn state_name(&self) -> &'static str {
        if self.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self.members().values().all(|member| member.is_reconciled_to(self.assignment_epoch)) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// Sets the timers of all members: they have a whole session from now on.
    pub(super) fn loaded(&mut self, cx: &GroupCtx<'_>, id: &Arc<str>, out: &mut GroupOutcome) {
        let members: Vec<Arc<str>> = self.members().keys().cloned().collect();
        for member_id in &members {
            self.watch(cx, id, member_id, out);
        }
    }

    /// A member, if there is such a one, has the whole of its timeouts from now on.
    fn watch(&mut self, cx: &GroupCtx<'_>, id: &Arc<str>, member_id: &Arc<str>, out: &mut GroupOutcome) {
        let Some(member) = self.member(member_id) else { return };
        let is_revoking = member.state == MemberState::UnrevokedPartitions && !member.is_classic();
        let rebalance_timeout_ms = is_revoking.then_some(member.rebalance_timeout_ms);
        let session_timeout_ms = configs::Configs::of(cx, id).session_timeout_ms;
        self.soft.touch(cx, id, member_id, session_timeout_ms, out);
        if let Some(timeout_ms) = rebalance_timeout_ms {
            set_timer(cx, id, ConsumerTimer::Rebalance(member_id.clone()), timeout_ms, out);
        }
    }

    pub(super) fn validate_delete(&self) -> Result<(), ErrorCode> {
        if self.is_empty() { Ok(()) } else { Err(ErrorCode::NonEmptyGroup) }
    }

    pub(super) fn write_tombstones(&self, id: &str, out: &mut GroupOutcome) {
        out.records.extend(records::group_tombstones(id, self, None));
    }

    /// Whether `committer` may commit offsets of these partitions.
    pub(super) fn validate_commit(
        &self,
        committer: &Committer<'_>,
        mut partitions: impl Iterator<Item = (TopicId, i32)>,
    ) -> Result<(), ErrorCode> {
        if committer.generation < 0 && self.is_empty() {
            return Ok(());
        }
        let is_anonymous = committer.member_id.is_empty() && committer.instance_id.is_none();
        if committer.is_transactional && committer.generation == -1 && is_anonymous {
            return Ok(());
        }
        let member = self.member(committer.member_id).ok_or(ErrorCode::UnknownMemberId)?;
        if !committer.is_transactional && !member.is_classic() && committer.version < EPOCH_COMMIT_VERSION_MIN
        {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if committer.generation == member.member_epoch {
            return Ok(());
        }
        // A commit that was on its way when the epoch rose is good for what the member kept (KIP-1251).
        let is_late = committer.generation < member.member_epoch;
        let keeps = |(topic, partition)| {
            member.assignment_epoch(topic, partition).is_some_and(|epoch| committer.generation >= epoch)
        };
        if is_late && partitions.all(keeps) { Ok(()) } else { Err(stale(member)) }
    }

    /// Whether a member, if one is named, may fetch offsets.
    pub(super) fn validate_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        if member_id.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = member_id.and_then(|id| self.member(id)).ok_or(ErrorCode::UnknownMemberId)?;
        if member.member_epoch == epoch { Ok(()) } else { Err(stale(member)) }
    }

    /// When offsets of topics that nobody reads expire; `None` while none do.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "groups of other kinds look")]
    pub(super) fn expiration(&self) -> Option<Expiration> {
        Some(Expiration::SinceCommit)
    }

    /// Whether a member reads it; offsets of such topics do not expire and are not deleted.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.topic_names().of(topic) > 0
    }

    /// Whether the group has no members.
    pub(super) fn is_empty(&self) -> bool {
        self.members().is_empty()
    }
}

/// What a member with another epoch is told.
fn stale(member: &Member) -> ErrorCode {
    if member.is_classic() { ErrorCode::IllegalGeneration } else { ErrorCode::StaleMemberEpoch }
}

fn set_timer(
    cx: &GroupCtx<'_>,
    group_id: &Arc<str>,
    timer: ConsumerTimer,
    timeout_ms: i32,
    out: &mut GroupOutcome,
) {
    let at = cx.mono.plus_ms(u64::try_from(timeout_ms).unwrap_or(0));
    out.set_timer(GroupTimer::Consumer(group_id.clone(), timer), at);
}

/// A member id as Kafka makes them. It draws again where its own would.
fn new_member_id(cx: &GroupCtx<'_>) -> Arc<str> {
    loop {
        let id = Uuid::from_random((cx.random)());
        let text = id.to_string();
        if !id.is_reserved() && !text.starts_with('-') {
            return text.into();
        }
    }
}

impl GroupCoordinator {
    /// Records of the group, and of `members` in it, were not written. These are watched as after a load: which
    /// of their timers are left nobody knows. Whoever else has fallen silent gets no more time for it.
    pub(super) fn refused_consumer<'a>(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &str,
        members: impl IntoIterator<Item = &'a str>,
        out: &mut GroupOutcome,
    ) {
        let Some((id, _)) = self.groups.get_key_value(id) else { return };
        let id = id.clone();
        if let Some(Group::Consumer(group)) = self.groups.get_mut(&id) {
            group.soft.checked_topics = None;
            for member_id in members {
                let member_id = member_id.into();
                heartbeat::cancel_timers(&id, &member_id, out);
                group.soft.sessions.remove(&member_id);
                group.soft.joining.remove(&member_id);
                group.watch(cx, &id, &member_id, out);
            }
        }
    }

    /// The group's topics are compared again: what followed from the last comparison is not written.
    fn forget_checked_topics(&mut self, id: &str) {
        if let Some(Group::Consumer(group)) = self.groups.get_mut(id) {
            group.soft.checked_topics = None;
        }
    }

    /// Topics came, went or grew.
    pub(super) fn follow_topics(
        &mut self,
        cx: &GroupCtx<'_>,
        delta: &MetadataDelta,
        _out: &mut GroupOutcome,
    ) {
        self.topics.follow(cx.image, delta);
    }
}
