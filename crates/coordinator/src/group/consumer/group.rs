//! A consumer group's state: what its records say, indexes over that, and what only lives here.
//!
//! Invariants:
//! - Indexes follow from members, targets and resolved expressions; [`ConsumerGroup::put_member`],
//!   [`ConsumerGroup::remove_member`] and [`ConsumerGroup::put_resolved`] keep them so.
//! - A partition has one holder at most; the last record that names one wins.
//! - Soft state ([`Soft`]) is optional: a group without it asks for a check or sets a timer once too often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::ids::TopicId;
use klamm_protocol::time::MonoMs;

use super::super::assignor::Assignment;
use super::member::Member;

/// The topics that a regular expression stood for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvedRegex {
    /// Their names.
    pub topics: BTreeSet<Arc<str>>,
    /// The version of the metadata.
    pub version: i64,
    /// When, wall clock.
    pub timestamp: i64,
}

/// A consumer group.
#[derive(Debug)]
pub struct ConsumerGroup {
    /// Rises whenever the target assignment must be computed again.
    pub(super) epoch: i32,
    pub(super) metadata_hash: i64,
    /// The group epoch that the target assignment was computed for.
    pub(super) assignment_epoch: i32,
    /// When it was, wall clock; 0 if that is not known.
    pub(super) assignment_timestamp: i64,
    /// Kafka 4.0 wrote a record that has to go.
    pub(super) has_partition_metadata: bool,
    pub(super) soft: Soft,
    members: BTreeMap<Arc<str>, Member>,
    targets: BTreeMap<Arc<str>, Assignment>,
    resolved: BTreeMap<Arc<str>, ResolvedRegex>,
    /// Member ids by instance id.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Who has a partition, or has not given it up yet.
    holders: BTreeMap<(TopicId, i32), Arc<str>>,
    topic_names: Counts,
    regexes: Counts,
    assignors: Counts,
    classic_protocols: Counts,
    classic_count: usize,
    /// Equal subscriptions are one allocation, so that comparing them looks at pointers.
    subscriptions: BTreeSet<Arc<BTreeSet<Arc<str>>>>,
}

/// What a reload forgets.
#[derive(Debug, Default)]
pub(super) struct Soft {
    /// The version of the topics' metadata that the hash was last compared with.
    pub checked_topics: Option<u64>,
    /// By member id.
    pub sessions: BTreeMap<Arc<str>, Session>,
    /// Classic members that were told to join again.
    pub joining: BTreeSet<Arc<str>>,
}

/// When a member must have been heard of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub deadline: MonoMs,
    /// When the timer fires; it moves on to the deadline then.
    pub timer_at: MonoMs,
}

impl Session {
    /// Moves the deadline, if the timer does not fire too late for it.
    pub fn prolong(&mut self, deadline: MonoMs) -> bool {
        let is_in_time = self.timer_at <= deadline;
        if is_in_time {
            self.deadline = deadline;
        }
        is_in_time
    }
}

/// How often each thing is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts(BTreeMap<Arc<str>, usize>);

impl Counts {
    pub fn add(&mut self, key: &Arc<str>) {
        *self.0.entry(key.clone()).or_default() += 1;
    }

    pub fn remove(&mut self, key: &str) {
        if let Some(count) = self.0.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(key);
            }
        }
    }

    pub fn of(&self, key: &str) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }
}

impl Default for ConsumerGroup {
    fn default() -> Self {
        Self {
            // Where Kafka's groups begin: there is an assignment, of nothing, to nobody.
            epoch: 1,
            metadata_hash: 0,
            assignment_epoch: 1,
            assignment_timestamp: 0,
            has_partition_metadata: false,
            soft: Soft::default(),
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            resolved: BTreeMap::new(),
            static_members: BTreeMap::new(),
            holders: BTreeMap::new(),
            topic_names: Counts::default(),
            regexes: Counts::default(),
            assignors: Counts::default(),
            classic_protocols: Counts::default(),
            classic_count: 0,
            subscriptions: BTreeSet::new(),
        }
    }
}

impl ConsumerGroup {
    pub(super) fn members(&self) -> &BTreeMap<Arc<str>, Member> {
        &self.members
    }

    pub(super) fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    /// The id as it is kept, and the member.
    pub(super) fn member_entry(&self, id: &str) -> Option<(&Arc<str>, &Member)> {
        self.members.get_key_value(id)
    }

    /// Who has this `group.instance.id`.
    pub(super) fn static_member(&self, instance_id: &str) -> Option<(&Arc<str>, &Member)> {
        self.member_entry(self.static_members.get(instance_id)?)
    }

    /// What a member shall have. One that is about to replace another has what that one had.
    pub(super) fn target(&self, member_id: &str, instance_id: Option<&str>) -> Option<&Assignment> {
        match instance_id {
            None => self.targets.get(member_id),
            Some(instance_id) => self.targets.get(self.static_members.get(instance_id)?),
        }
    }

    pub(super) fn targets(&self) -> &BTreeMap<Arc<str>, Assignment> {
        &self.targets
    }

    /// Whether some member has the partition, or has not given it up yet.
    pub(super) fn is_held(&self, topic: TopicId, partition: i32) -> bool {
        self.holders.contains_key(&(topic, partition))
    }

    /// Topics that members name, and those that their expressions stood for.
    pub(super) fn topic_names(&self) -> &Counts {
        &self.topic_names
    }

    /// Regular expressions that members subscribe to.
    pub(super) fn regexes(&self) -> &Counts {
        &self.regexes
    }

    pub(super) fn resolved(&self) -> &BTreeMap<Arc<str>, ResolvedRegex> {
        &self.resolved
    }

    pub(super) fn assignors(&self) -> &Counts {
        &self.assignors
    }

    /// How many classic members know each protocol.
    pub(super) fn classic_protocols(&self) -> &Counts {
        &self.classic_protocols
    }

    pub(super) fn classic_count(&self) -> usize {
        self.classic_count
    }

    /// The topics of `names`, and of `old` replaced by `new`.
    pub(super) fn topic_names_with(&self, old: Option<&Member>, new: Option<&Member>) -> Counts {
        let mut names = self.topic_names.clone();
        for name in old.iter().flat_map(|member| member.subscribed.iter()) {
            names.remove(name);
        }
        for name in new.iter().flat_map(|member| member.subscribed.iter()) {
            names.add(name);
        }
        let old_regex = old.and_then(Member::regex);
        if let Some(regex) = old_regex
            && old_regex != new.and_then(Member::regex)
            && self.regexes.of(regex) == 1
        {
            self.forget_resolved(&mut names, regex);
        }
        names
    }

    /// Takes the topics of a resolved expression out of `names`.
    pub(super) fn forget_resolved(&self, names: &mut Counts, regex: &str) {
        for name in self.resolved.get(regex).iter().flat_map(|resolved| &resolved.topics) {
            names.remove(name);
        }
    }

    /// Sets a member, new or not.
    pub(super) fn put_member(&mut self, id: &str, mut member: Member) {
        let id = self.unindex(id).unwrap_or_else(|| Arc::from(id));
        member.subscribed = self.interned(member.subscribed);
        for name in member.subscribed.iter() {
            self.topic_names.add(name);
        }
        if let Some(regex) = member.regex() {
            self.regexes.add(regex);
        }
        if let Some(assignor) = &member.assignor {
            self.assignors.add(assignor);
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
        if let Some(classic) = &member.classic {
            self.classic_count += 1;
            classic.protocols.iter().for_each(|(name, _)| self.classic_protocols.add(name));
        }
        for partition in member.held() {
            self.holders.insert(partition, id.clone());
        }
        self.members.insert(id, member);
    }

    pub(super) fn remove_member(&mut self, id: &str) {
        self.unindex(id);
        self.members.remove(id);
        self.soft.sessions.remove(id);
        self.soft.joining.remove(id);
    }

    pub(super) fn put_target(&mut self, member_id: &str, target: Option<Assignment>) {
        match target {
            Some(target) => {
                let id = self.members.get_key_value(member_id);
                let id = id.map_or_else(|| Arc::from(member_id), |(id, _)| id.clone());
                self.targets.insert(id, target);
            }
            None => {
                self.targets.remove(member_id);
            }
        }
    }

    pub(super) fn put_resolved(&mut self, regex: &str, resolved: Option<ResolvedRegex>) {
        if let Some(old) = self.resolved.remove(regex) {
            old.topics.iter().for_each(|name| self.topic_names.remove(name));
        }
        if let Some(resolved) = resolved {
            resolved.topics.iter().for_each(|name| self.topic_names.add(name));
            self.resolved.insert(Arc::from(regex), resolved);
        }
    }

    /// Takes what a member says out of the indexes; its id as it is kept.
    fn unindex(&mut self, id: &str) -> Option<Arc<str>> {
        let (id, member) = self.members.get_key_value(id)?;
        let id = id.clone();
        member.subscribed.iter().for_each(|name| self.topic_names.remove(name));
        if let Some(regex) = member.regex() {
            self.regexes.remove(regex);
        }
        if let Some(assignor) = &member.assignor {
            self.assignors.remove(assignor);
        }
        if let Some(instance_id) = &member.instance_id
            && self.static_members.get(instance_id) == Some(&id)
        {
            self.static_members.remove(instance_id);
        }
        if let Some(classic) = &member.classic {
            self.classic_count -= 1;
            classic.protocols.iter().for_each(|(name, _)| self.classic_protocols.remove(name));
        }
        for partition in member.held() {
            if self.holders.get(&partition) == Some(&id) {
                self.holders.remove(&partition);
            }
        }
        Some(id)
    }

    fn interned(&mut self, subscribed: Arc<BTreeSet<Arc<str>>>) -> Arc<BTreeSet<Arc<str>>> {
        if let Some(known) = self.subscriptions.get(&subscribed) {
            return known.clone();
        }
        // Those that nobody has any more would pile up.
        self.subscriptions.retain(|known| Arc::strong_count(known) > 1);
        self.subscriptions.insert(subscribed.clone());
        subscribed
    }
}
