//! The offsets that groups committed, by group, topic and partition.
//!
//! An offset that was committed within a transaction waits beside the others until the
//! transaction's marker comes. What this module deliberately does not do: decide who may
//! commit (the group does), or look up topic ids.
//!
//! Invariant: of two commits the one with the higher offset in the log counts, also when a marker
//! comes late: compaction may have taken what lay between them.

mod commit;
mod expiration;
mod fetch;
mod partition_map;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::ids::{Offset, ProducerId, TopicId};
use klamm_protocol::messages::group_records::{OffsetCommitKey, OffsetCommitValue};
use klamm_protocol::wire::WireStr;

use super::record::GroupRecord;
use super::{Group, GroupCoordinator, GroupOutcome};
use crate::contract::At;
use partition_map::PartitionMap;

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
    /// From the time when the group lost its last member (wall clock, ms).
    SinceEmpty(i64),
}

/// What was committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CommittedOffset {
    /// Where the commit lies in the log.
    record_offset: Offset,
    offset: i64,
    /// -1 if unknown.
    leader_epoch: i32,
    metadata: Box<str>,
    commit_timestamp: i64,
    /// -1 if the broker's retention says when.
    expire_timestamp: i64,
    /// Zero in what Kafka wrote before version 4.1.
    topic_id: TopicId,
}

/// The offsets of one group.
#[derive(Debug, Default)]
struct GroupOffsets {
    committed: PartitionMap<CommittedOffset>,
    /// Whose open transactions may replace an offset.
    open: PartitionMap<BTreeSet<ProducerId>>,
}

impl GroupOffsets {
    fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.open.is_empty()
    }

    fn close(&mut self, topic: &str, partition: i32, producer: ProducerId) {
        let producers = self.open.or_default(topic, partition);
        producers.remove(&producer);
        if producers.is_empty() {
            self.open.remove(topic, partition);
        }
    }
}

/// All offsets of a partition's groups.
#[derive(Debug, Default)]
pub struct Offsets {
    by_group: BTreeMap<Arc<str>, GroupOffsets>,
    /// What open transactions would commit, by producer and group.
    pending: BTreeMap<ProducerId, BTreeMap<Arc<str>, PartitionMap<CommittedOffset>>>,
}

impl Offsets {
    fn group(&self, id: &str) -> Option<&GroupOffsets> {
        self.by_group.get(id)
    }

    fn put(&mut self, at: At, key: &OffsetCommitKey, value: &OffsetCommitValue) {
        let committed = CommittedOffset {
            record_offset: at.offset,
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.as_str().into(),
            commit_timestamp: value.commit_timestamp,
            expire_timestamp: value.expire_timestamp,
            topic_id: TopicId(value.topic_id),
        };
        let of_group = or_default(&mut self.by_group, &key.group);
        match at.transaction {
            None => of_group.committed.insert(&key.topic, key.partition, committed),
            Some(producer) => {
                of_group.open.or_default(&key.topic, key.partition).insert(producer);
                let of_producer = self.pending.entry(producer).or_default();
                or_default(of_producer, &key.group).insert(&key.topic, key.partition, committed);
            }
        }
    }

    /// A tombstone takes what open transactions would commit, too.
    fn remove(&mut self, key: &OffsetCommitKey) {
        let Some(of_group) = self.by_group.get_mut(&*key.group) else { return };
        of_group.committed.remove(&key.topic, key.partition);
        for producer in of_group.open.remove(&key.topic, key.partition).into_iter().flatten() {
            if let Some(pending) = self.pending.get_mut(&producer).and_then(|of| of.get_mut(&*key.group)) {
                pending.remove(&key.topic, key.partition);
            }
        }
        if of_group.is_empty() {
            self.by_group.remove(&*key.group);
        }
    }

    /// A transaction's marker is in the log.
    pub(super) fn end_transaction(&mut self, producer: ProducerId, is_committed: bool) {
        for (group, pending) in self.pending.remove(&producer).into_iter().flatten() {
            let of_group = self.by_group.entry(group.clone()).or_default();
            for (topic, partition, offset) in pending.iter() {
                of_group.close(topic, partition, producer);
                let known = of_group.committed.get(topic, partition);
                if is_committed && known.is_none_or(|known| known.record_offset < offset.record_offset) {
                    of_group.committed.insert(topic, partition, offset.clone());
                }
            }
            if of_group.is_empty() {
                self.by_group.remove(&group);
            }
        }
    }

    /// Forgets all offsets of a group.
    pub(super) fn write_tombstones(&self, group: &str, out: &mut GroupOutcome) {
        let Some(of_group) = self.group(group) else { return };
        for (topic, partition, _) in of_group.committed.iter() {
            out.write(tombstone(group, topic, partition));
        }
        for (topic, partition, _) in of_group.open.iter() {
            if !of_group.committed.contains(topic, partition) {
                out.write(tombstone(group, topic, partition));
            }
        }
    }
}

impl GroupCoordinator {
    pub(super) fn apply_offset_commit(
        &mut self,
        at: At,
        key: &OffsetCommitKey,
        value: Option<&OffsetCommitValue>,
    ) {
        match value {
            None => self.offsets.remove(key),
            Some(value) => {
                // Whoever only commits makes a group by it.
                if !self.groups.contains_key(&*key.group) {
                    self.groups.insert((&*key.group).into(), Group::Classic(Box::default()));
                }
                self.offsets.put(at, key, value);
            }
        }
    }
}

fn or_default<'a, T: Default>(map: &'a mut BTreeMap<Arc<str>, T>, key: &str) -> &'a mut T {
    if !map.contains_key(key) {
        map.insert(key.into(), T::default());
    }
    map.get_mut(key).expect("it is there")
}

fn tombstone(group: &str, topic: &str, partition: i32) -> GroupRecord {
    GroupRecord::OffsetCommit(key(group, topic, partition), None)
}

fn key(group: &str, topic: &str, partition: i32) -> OffsetCommitKey {
    OffsetCommitKey {
        group: WireStr::from(group.to_owned()),
        topic: WireStr::from(topic.to_owned()),
        partition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: ProducerId = ProducerId(7);

    fn at(offset: i64, transaction: Option<ProducerId>) -> At {
        At { offset: Offset(offset), transaction }
    }

    fn commit(machine: &mut GroupCoordinator, at: At, offset: i64) {
        let value = OffsetCommitValue { offset, ..Default::default() };
        machine.apply_offset_commit(at, &key("g", "t", 0), Some(&value));
    }

    fn committed(machine: &GroupCoordinator) -> Option<i64> {
        Some(machine.offsets.group("g")?.committed.get("t", 0)?.offset)
    }

    #[test]
    fn a_transactional_offset_counts_once_its_transaction_commits() {
        for is_committed in [false, true] {
            let mut machine = GroupCoordinator::default();
            commit(&mut machine, at(0, None), 10);
            commit(&mut machine, at(1, Some(P)), 20);
            assert_eq!(committed(&machine), Some(10));
            assert!(machine.offsets.group("g").unwrap().open.contains("t", 0));
            machine.offsets.end_transaction(P, is_committed);
            assert_eq!(committed(&machine), Some(if is_committed { 20 } else { 10 }));
            assert!(
                machine.offsets.group("g").unwrap().open.is_empty() && machine.offsets.pending.is_empty()
            );
        }
    }

    #[test]
    fn a_later_plain_commit_wins_over_an_earlier_transactional_one() {
        let mut machine = GroupCoordinator::default();
        commit(&mut machine, at(1, Some(P)), 20);
        commit(&mut machine, at(2, None), 30);
        machine.offsets.end_transaction(P, true);
        assert_eq!(committed(&machine), Some(30));
    }

    #[test]
    fn a_tombstone_takes_pending_offsets_too() {
        let mut machine = GroupCoordinator::default();
        commit(&mut machine, at(1, Some(P)), 20);
        machine.apply_offset_commit(at(2, None), &key("g", "t", 0), None);
        machine.offsets.end_transaction(P, true);
        assert_eq!(committed(&machine), None);
        assert!(machine.offsets.by_group.is_empty());
    }

    #[test]
    fn an_aborted_group_without_offsets_leaves_nothing() {
        let mut machine = GroupCoordinator::default();
        commit(&mut machine, at(1, Some(P)), 20);
        machine.offsets.end_transaction(P, false);
        assert!(machine.offsets.by_group.is_empty());
        assert!(machine.groups.contains_key("g"), "until it expires, as in Kafka");
    }
}
