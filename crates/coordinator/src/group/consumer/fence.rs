//! Members that go: they left, they were silent for too long, or they did not do in time what they had to.
//!
//! Invariant: a timer that fires late, or for a member that is gone, does nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::{Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupTimer};
use super::heartbeat::cancel_timers;
use super::member::{Member, MemberState};
use super::{ConsumerTimer, migration, records};

impl GroupCoordinator {
    pub(in super::super) fn expire_consumer(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &Arc<str>,
        timer: ConsumerTimer,
        out: &mut GroupOutcome,
    ) {
        let member_id = match timer {
            ConsumerTimer::Session(member_id) => {
                if self.has_session(cx, id, &member_id, out) {
                    return;
                }
                member_id
            }
            ConsumerTimer::Rebalance(member_id) => {
                let is_revoking = |member: &Member| {
                    // Who left for a while has epoch -2 and nothing to revoke.
                    member.state == MemberState::UnrevokedPartitions && member.member_epoch >= 0
                };
                if !self.consumer_member(id, &member_id).is_some_and(is_revoking) {
                    return;
                }
                member_id
            }
            ConsumerTimer::Join(member_id) | ConsumerTimer::Sync(member_id) => member_id,
            ConsumerTimer::Regex => return self.resolve_regexes(cx, id, out),
            ConsumerTimer::Downgraded { must_rebalance } => {
                return self.start_downgraded(cx, id, must_rebalance, out);
            }
        };
        if self.consumer_member(id, &member_id).is_some() {
            self.fence_members(cx, id, &BTreeSet::from([member_id]), out);
        }
    }

    /// Takes members out of a group, which may become a classic one by that.
    pub(super) fn fence_members(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &Arc<str>,
        leaving: &BTreeSet<Arc<str>>,
        out: &mut GroupOutcome,
    ) {
        let Some(Group::Consumer(group)) = self.groups.get_mut(id) else { return };
        if leaving.is_empty() || migration::downgrade_without(cx, id, group, leaving, out) {
            return;
        }
        let members = || leaving.iter().filter_map(|member_id| group.member(member_id));
        let mut names = group.topic_names().clone();
        for member_id in leaving {
            out.records.extend(records::member_tombstones(id, member_id));
        }
        members().flat_map(|member| member.subscribed.iter()).for_each(|name| names.remove(name));
        let regexes: BTreeSet<&Arc<str>> = members().filter_map(Member::regex).collect();
        for regex in regexes {
            let leaving_count = members().filter(|member| member.regex() == Some(regex)).count();
            if group.regexes().of(regex) == leaving_count {
                out.write(records::regex_tombstone(id, regex));
                group.forget_resolved(&mut names, regex);
            }
        }
        let hash = self.topics.hash(cx.image, names.keys());
        out.write(records::epoch(id, group.epoch + 1, hash));
        for member_id in leaving {
            cancel_timers(id, member_id, out);
        }
    }

    fn consumer_member(&self, id: &str, member_id: &str) -> Option<&Member> {
        match self.groups.get(id) {
            Some(Group::Consumer(group)) => group.member(member_id),
            _ => None,
        }
    }

    /// Whether the member was heard of since its timer was set, which goes on then. Of one that was not
    /// seen since it joined nothing is noted.
    fn has_session(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &Arc<str>,
        member_id: &Arc<str>,
        out: &mut GroupOutcome,
    ) -> bool {
        let Some(Group::Consumer(group)) = self.groups.get_mut(id) else { return false };
        let Some(session) = group.soft.sessions.get_mut(member_id) else { return false };
        if session.deadline <= cx.mono {
            group.soft.sessions.remove(member_id);
            return false;
        }
        session.timer_at = session.deadline;
        let timer = ConsumerTimer::Session(member_id.clone());
        out.set_timer(GroupTimer::Consumer(id.clone(), timer), session.deadline);
        true
    }
}
