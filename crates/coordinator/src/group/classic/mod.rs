//! Classic groups: the members' leader assigns.
//!
//! Members join ([`join`]); when all have, or time is up, a generation begins ([`rebalance`]): the leader is
//! told of everybody and hands in what each gets ([`sync`]), which is written down. Then members send
//! heartbeats until somebody leaves or fails ([`session`]), and join again.
//!
//! What is written is a group at the end of a rebalance, and that it became empty. Everything between is soft: after a
//! reload the group is as it was before the rebalance, and members that try to go on are told to join again.
//!
//! What this module deliberately does not do: understand what members tell each other, but for the topics of
//! consumers, whose offsets must stay.
//!
//! Invariants: the state is `Stable` or `Empty` only by a record; all members of a generation have a protocol in common;
//! a member that goes while it waits is answered.

mod describe;
mod join;
mod member;
mod membership;
mod migration;
mod rebalance;
mod record;
mod session;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::group_records::{GroupMetadataKey, GroupMetadataValue};
use klamm_protocol::time::MonoMs;

use super::offsets::{Committer, Expiration};
use super::record::GroupRecord;
use super::{Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupTimer};
pub(super) use migration::Takeover;

use member::{Member, text, unsigned};
use rebalance::InitialRebalance;

/// Until a group that has lost its last member is written once more, after a log that did not take it.
const EMPTY_RETRY_MS: u64 = 1_000;
/// The protocol type of consumers.
const CONSUMER: &str = "consumer";

/// A timer of a classic group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassicTimer {
    /// Members may join until then.
    Join,
    /// Members may ask for their assignment until then.
    Sync,
    /// The member must have shown itself by then.
    Session(Arc<str>),
}

/// What a group is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It has no members; there may be offsets.
    #[default]
    Empty,
    /// Members join.
    PreparingRebalance,
    /// All have joined; the leader assigns.
    CompletingRebalance,
    /// Members have their assignments.
    Stable,
}

impl State {
    /// As Kafka's tools show it.
    fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A classic group. The default is one that nobody has joined: whoever commits offsets without joining has such.
#[derive(Debug, Default)]
pub struct ClassicGroup {
    state: State,
    /// When it came into its state (wall clock, ms); `None` if what was written does not say.
    state_since: Option<i64>,
    generation: i32,
    /// `None` until somebody joins.
    protocol_type: Option<Arc<str>>,
    /// The one that the generation agreed on.
    protocol: Option<Arc<str>>,
    /// One of the members, if there are any.
    leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// Member ids by instance id.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// How many members name a protocol.
    supporters: BTreeMap<Arc<str>, usize>,
    awaiting_join_count: usize,
    /// Ids that were given out; their clients have not joined with them yet.
    pending_join: BTreeSet<Arc<str>>,
    /// Who has not asked for its assignment in this generation.
    pending_sync: BTreeSet<Arc<str>>,
    /// While the first members join.
    initial_rebalance: Option<InitialRebalance>,
    /// What consumers read; `None` if it is not known.
    subscribed_topics: Option<BTreeSet<Box<str>>>,
}

/// One call of the machine, on one group.
struct Turn<'a, 'cx> {
    cx: &'a GroupCtx<'cx>,
    /// The group's id.
    id: &'a Arc<str>,
    out: &'a mut GroupOutcome,
}

impl Turn<'_, '_> {
    fn set_timer(&mut self, timer: ClassicTimer, at: MonoMs) {
        self.out.set_timer(GroupTimer::Classic(self.id.clone(), timer), at);
    }

    fn set_timer_in(&mut self, timer: ClassicTimer, ms: u64) {
        self.set_timer(timer, self.cx.mono.plus_ms(ms));
    }

    fn cancel_timer(&mut self, timer: ClassicTimer) {
        self.out.cancel_timer(GroupTimer::Classic(self.id.clone(), timer));
    }
}

impl ClassicGroup {
    pub(super) fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    pub(super) fn state_name(&self) -> &'static str {
        self.state.name()
    }

    /// The sessions of all members begin anew. A group that has become too large since gets smaller: all are asked to
    /// join again, and the last ones are refused.
    pub(super) fn loaded(&mut self, cx: &GroupCtx<'_>, id: &Arc<str>, out: &mut GroupOutcome) {
        let mut turn = Turn { cx, id, out };
        for (member_id, member) in &mut self.members {
            member.renew(&mut turn, member_id);
        }
        if self.members.len() > cx.settings.max_size {
            self.prepare_rebalance(&mut turn);
        }
    }

    /// # Errors
    /// It has members.
    pub(super) fn validate_delete(&self) -> Result<(), ErrorCode> {
        if self.is_empty() { Ok(()) } else { Err(ErrorCode::NonEmptyGroup) }
    }

    pub(super) fn write_tombstones(&self, id: &str, out: &mut GroupOutcome) {
        out.write(GroupRecord::GroupMetadata(GroupMetadataKey { group: text(id) }, None));
    }

    /// Whether `committer` may commit offsets.
    ///
    /// # Errors
    /// It is no member, one of another generation, or a rebalance is under way.
    pub(super) fn validate_commit(&self, committer: &Committer<'_>) -> Result<(), ErrorCode> {
        // An administrator, or a consumer that assigns itself.
        if committer.generation < 0 && self.is_empty() {
            return Ok(());
        }
        let is_member =
            committer.generation >= 0 || !committer.member_id.is_empty() || committer.instance_id.is_some();
        if is_member {
            self.validate_member(committer.member_id, committer.instance_id)?;
            if committer.generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if !committer.is_transactional && !self.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        // Its generation is the newest, so it knows of the rebalance.
        if !committer.is_transactional && self.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// A member that commits lives.
    pub(super) fn note_commit(&mut self, cx: &GroupCtx<'_>, member_id: &str) {
        if matches!(self.state, State::Stable | State::PreparingRebalance)
            && let Some(member) = self.members.get_mut(member_id)
        {
            member.note_life(cx.mono, unsigned(member.session_timeout_ms));
        }
    }

    /// When offsets of topics that nobody reads expire; `None` while none do.
    pub(super) fn expiration(&self) -> Option<Expiration> {
        match self.state {
            _ if self.protocol_type.is_none() => Some(Expiration::SinceCommit),
            State::Empty => Some(self.state_since.map_or(Expiration::SinceCommit, Expiration::SinceEmpty)),
            State::Stable if self.is_of_consumers() && self.subscribed_topics.is_some() => {
                Some(Expiration::SinceCommit)
            }
            _ => None,
        }
    }

    /// Whether a member reads it; offsets of such topics do not expire and are not deleted. Consumers whose topics are
    /// not known read all.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.is_of_consumers(),
        }
    }

    /// Whether the group has no members.
    pub(super) fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// It is in `state` from now on.
    fn enter(&mut self, cx: &GroupCtx<'_>, state: State) {
        self.state = state;
        self.state_since = Some(cx.wall.0);
    }
}

impl GroupCoordinator {
    /// A classic group, and its id as the machine keeps it.
    fn classic(&mut self, id: &str) -> Option<(Arc<str>, &mut ClassicGroup)> {
        let key = self.groups.get_key_value(id)?.0.clone();
        match self.groups.get_mut(id) {
            Some(Group::Classic(group)) => Some((key, group)),
            _ => None,
        }
    }

    pub(super) fn expire_classic(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &Arc<str>,
        timer: ClassicTimer,
        out: &mut GroupOutcome,
    ) {
        // A timer may outlive its group.
        let Some((_, group)) = self.classic(id) else { return };
        let mut turn = Turn { cx, id, out };
        match timer {
            ClassicTimer::Join => group.end_join(&mut turn),
            ClassicTimer::Sync => group.expire_sync(&mut turn),
            ClassicTimer::Session(member_id) => group.expire_session(&mut turn, &member_id),
        }
    }

    /// The group as it is was not written. Its members have not heard of it, or are refused, and join again.
    pub(super) fn refused_classic(&mut self, cx: &GroupCtx<'_>, id: &str, out: &mut GroupOutcome) {
        let Some((id, group)) = self.classic(id) else { return };
        let mut turn = Turn { cx, id: &id, out };
        match group.state {
            State::CompletingRebalance | State::Stable => group.prepare_rebalance(&mut turn),
            // That nobody is left is written by the next try.
            State::PreparingRebalance if group.members.is_empty() => {
                turn.set_timer_in(ClassicTimer::Join, EMPTY_RETRY_MS);
            }
            // Its first member joins, whom the end of the rebalance will write.
            State::Empty | State::PreparingRebalance => {}
        }
    }

    pub(super) fn apply_classic(&mut self, id: &str, value: Option<&GroupMetadataValue>) {
        match value {
            Some(value) => match self.groups.get_mut(id) {
                Some(Group::Classic(group)) => group.apply(value),
                _ => {
                    let mut group = Box::<ClassicGroup>::default();
                    group.apply(value);
                    self.groups.insert(id.into(), Group::Classic(group));
                }
            },
            // Another kind of group may have taken the id since.
            None if matches!(self.groups.get(id), Some(Group::Classic(_))) => {
                self.groups.remove(id);
            }
            None => {}
        }
    }
}
