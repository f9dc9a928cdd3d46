//! What every member shall have: asks the assignor when it is time.
//!
//! Invariant: the target assignment's epoch never passes the group's, and its members are the group's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_cluster::image::MetadataImage;
use klamm_protocol::ids::TopicId;
use klamm_protocol::time::WallMs;

use super::super::assignor::{Assignment, Assignor, GroupSpec, MemberSpec};
use super::super::record::GroupRecord;
use super::group::ConsumerGroup;
use super::member::Member;
use super::records;

/// The target of one member.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    /// Of the assignment.
    pub epoch: i32,
    /// What it shall have.
    pub assignment: Assignment,
}

/// The one who sent a heartbeat, as the heartbeat made it; it may not be in the group yet.
#[derive(Clone, Copy)]
pub(super) struct Updated<'a> {
    /// Its id.
    pub id: &'a Arc<str>,
    /// What the group has of it.
    pub old: Option<&'a Member>,
    /// What becomes of it.
    pub member: &'a Member,
}

/// Why and when a target assignment is computed.
pub(super) struct Computation<'a> {
    pub image: &'a MetadataImage,
    pub group_id: &'a str,
    /// As it is after this heartbeat.
    pub group_epoch: i32,
    pub assignors: &'a [String],
    pub interval_ms: i32,
    pub now: WallMs,
}

impl Computation<'_> {
    /// The target of the member, computed for the whole group if it is time to.
    pub fn target_of(
        &self,
        group: &ConsumerGroup,
        updated: Updated<'_>,
        out: &mut Vec<GroupRecord>,
    ) -> Target {
        let last = group.target(updated.id, updated.member.instance_id.as_deref());
        if group.assignment_epoch >= self.group_epoch || !self.is_due(group) {
            return Target { epoch: group.assignment_epoch, assignment: last.cloned().unwrap_or_default() };
        }
        let replaced = updated.member.instance_id.as_deref().and_then(|id| group.static_member(id));
        let replaced = replaced.map(|(id, _)| id).filter(|id| *id != updated.id);
        let mut spec = GroupSpec::default();
        let mut subscriptions = Subscriptions { image: self.image, group, known: BTreeMap::new() };
        for (id, member) in group.members() {
            if id != updated.id && Some(id) != replaced {
                let assigned = group.targets().get(id).cloned().unwrap_or_default();
                spec.members
                    .insert(id.clone(), subscriptions.spec(member, assigned, &mut spec.partition_counts));
            }
        }
        let assigned = last.cloned().unwrap_or_default();
        let own = subscriptions.spec(updated.member, assigned, &mut spec.partition_counts);
        spec.members.insert(updated.id.clone(), own);

        let mut assignment = self.assignor(group, updated).assign(&spec);
        for (id, member) in &spec.members {
            let new = assignment.get(id);
            let is_known = group.targets().contains_key(id) || (id == updated.id && replaced.is_some());
            if !is_known || new.unwrap_or(&Assignment::new()) != &member.assigned {
                out.push(records::target(self.group_id, id, new.unwrap_or(&Assignment::new())));
            }
        }
        out.push(records::target_epoch(self.group_id, self.group_epoch, self.now.0));
        Target { epoch: self.group_epoch, assignment: assignment.remove(updated.id).unwrap_or_default() }
    }

    /// Not sooner than the interval after the last one; changes gather until then.
    fn is_due(&self, group: &ConsumerGroup) -> bool {
        let since = group.assignment_timestamp;
        // Without an interval also when the clock was set back.
        since == 0 || self.interval_ms == 0 || self.now.0 >= since.saturating_add(i64::from(self.interval_ms))
    }

    /// The one that most members ask for; the first of the configuration without any.
    fn assignor(&self, group: &ConsumerGroup, updated: Updated<'_>) -> Assignor {
        let mut counts = group.assignors().clone();
        if let Some(name) = updated.old.and_then(|old| old.assignor.as_ref()) {
            counts.remove(name);
        }
        if let Some(name) = &updated.member.assignor {
            counts.add(name);
        }
        Assignor::from_name(preferred(self.assignors, |name| counts.of(name))).unwrap_or(Assignor::ALL[0])
    }
}

/// The assignor with the most votes; among equals the one that is configured first.
pub(super) fn preferred(assignors: &[String], votes: impl Fn(&str) -> usize) -> &str {
    let mut best = assignors.first().map_or(Assignor::ALL[0].name(), String::as_str);
    for name in assignors {
        if votes(name) > votes(best) {
            best = name;
        }
    }
    best
}

/// Topic ids of subscriptions, each looked up once.
struct Subscriptions<'a> {
    image: &'a MetadataImage,
    group: &'a ConsumerGroup,
    /// By the address of the shared names, and the expression.
    known: BTreeMap<(usize, Option<Arc<str>>), TopicIds>,
}

/// As assignors take them.
type TopicIds = Arc<BTreeSet<TopicId>>;

impl Subscriptions<'_> {
    fn spec(
        &mut self,
        member: &Member,
        assigned: Assignment,
        partition_counts: &mut BTreeMap<TopicId, u32>,
    ) -> MemberSpec {
        let key = (Arc::as_ptr(&member.subscribed).addr(), member.regex().cloned());
        let subscribed = match self.known.get(&key) {
            Some(known) => known.clone(),
            None => {
                let of_regex = member.regex().and_then(|regex| self.group.resolved().get(regex));
                let names = member.subscribed.iter().chain(of_regex.iter().flat_map(|one| &one.topics));
                let topics = names.filter_map(|name| self.image.topic_by_name(name));
                let ids = topics.map(|topic| {
                    let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
                    partition_counts.insert(topic.id, count);
                    topic.id
                });
                let ids = Arc::new(ids.collect());
                self.known.insert(key, Arc::clone(&ids));
                ids
            }
        };
        MemberSpec { instance_id: member.instance_id.clone(), subscribed, assigned }
    }
}
