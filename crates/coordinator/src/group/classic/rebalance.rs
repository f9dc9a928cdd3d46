//! A rebalance of a classic group, from the first who joins to the generation that all have joined.
//!
//! The first members of a group are waited for: `group.initial.rebalance.delay.ms`, again and again as long as new ones
//! come, at most for the rebalance timeout. Later the known members are waited for, at most for that timeout;
//! whoever has not come by then is no member any more, unless it is static: that one has its session to come back.
//!
//! What it deliberately does not do: choose members' assignments (the leader does, [`super::sync`]).
//!
//! Invariant: a generation begins with at least one member that knows of it, and that one leads.

use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;

use super::member::{Member, unsigned};
use super::record::{empty_value, group_record};
use super::{ClassicGroup, ClassicTimer, State, Turn};
use crate::group::GroupReply;

/// While the first members join.
#[derive(Debug)]
pub(super) struct InitialRebalance {
    /// What is being waited now.
    delay_ms: u64,
    /// What may be waited after that.
    remaining_ms: u64,
    /// Somebody has joined since the delay began.
    pub(super) has_new_member: bool,
}

impl ClassicGroup {
    /// Somebody has joined or gone: that begins a rebalance, or may have been what one waited for.
    pub(super) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_, '_>) {
        if self.state == State::PreparingRebalance {
            // The first members are waited for although all that are known have joined.
            if self.initial_rebalance.is_none() {
                self.complete_join_if_all_have_joined(turn);
            }
        } else {
            self.prepare_rebalance(turn);
        }
    }

    pub(super) fn complete_join_if_all_have_joined(&mut self, turn: &mut Turn<'_, '_>) {
        if self.have_all_joined() {
            self.complete_join(turn);
        }
    }

    /// Asks all members to join.
    pub(super) fn prepare_rebalance(&mut self, turn: &mut Turn<'_, '_>) {
        if self.state == State::CompletingRebalance {
            for (id, member) in &mut self.members {
                member.assignment = Box::default();
                if let Some(key) = member.awaiting_sync.take() {
                    turn.refuse_sync(key, ErrorCode::RebalanceInProgress);
                    member.renew(turn, id);
                }
            }
        }
        self.pending_sync.clear();
        turn.cancel_timer(ClassicTimer::Sync);
        let is_initial = self.state == State::Empty;
        self.enter(turn.cx, State::PreparingRebalance);
        if is_initial {
            let delay_ms = unsigned(turn.cx.settings.initial_rebalance_delay_ms);
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms);
            self.initial_rebalance = Some(InitialRebalance { delay_ms, remaining_ms, has_new_member: false });
            turn.set_timer_in(ClassicTimer::Join, delay_ms);
        } else if self.have_all_joined() {
            self.complete_join(turn);
        } else {
            turn.set_timer_in(ClassicTimer::Join, self.rebalance_timeout_ms());
        }
    }

    /// Members have been waited for long enough; the first ones a little longer if new ones keep coming.
    pub(super) fn end_join(&mut self, turn: &mut Turn<'_, '_>) {
        if self.state != State::PreparingRebalance {
            return;
        }
        match &mut self.initial_rebalance {
            Some(initial) if initial.has_new_member && initial.remaining_ms > 0 => {
                let delay_ms =
                    unsigned(turn.cx.settings.initial_rebalance_delay_ms).min(initial.remaining_ms);
                let remaining_ms = initial.remaining_ms.saturating_sub(initial.delay_ms);
                *initial = InitialRebalance { delay_ms, remaining_ms, has_new_member: false };
                turn.set_timer_in(ClassicTimer::Join, delay_ms);
            }
            _ => self.complete_join(turn),
        }
    }

    /// Begins the next generation with those who have joined, and static members.
    fn complete_join(&mut self, turn: &mut Turn<'_, '_>) {
        turn.cancel_timer(ClassicTimer::Join);
        let is_absent = |member: &Member| member.awaiting_join.is_none() && member.instance_id.is_none();
        let absent: Vec<Arc<str>> =
            self.members.iter().filter(|(_, member)| is_absent(member)).map(|(id, _)| id.clone()).collect();
        for id in &absent {
            self.dismiss(turn, id);
        }
        if self.members.is_empty() {
            self.initial_rebalance = None;
            let value = empty_value(self.protocol_type(), self.next_generation(), turn.cx.wall);
            turn.out.write(group_record(turn.id, value));
        } else if self.elect_joined_leader() {
            self.initial_rebalance = None;
            self.begin_generation(turn);
        } else {
            // Static members alone, and none has come back yet.
            turn.set_timer_in(ClassicTimer::Join, self.rebalance_timeout_ms());
        }
    }

    fn begin_generation(&mut self, turn: &mut Turn<'_, '_>) {
        self.generation = self.next_generation();
        self.protocol = self.select_protocol();
        self.subscribed_topics = self.read_topics();
        self.enter(turn.cx, State::CompletingRebalance);
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            let response = self.join_response(&id);
            if let Some(member) = self.members.get_mut(&id) {
                if let Some(key) = member.awaiting_join.take() {
                    self.awaiting_join_count -= 1;
                    turn.out.reply(key, GroupReply::JoinGroup(response));
                }
                member.is_new = false;
                member.renew(turn, &id);
            }
            self.pending_sync.insert(id);
        }
        turn.set_timer_in(ClassicTimer::Sync, self.rebalance_timeout_ms());
    }

    fn next_generation(&self) -> i32 {
        self.generation.checked_add(1).unwrap_or(0)
    }
}
