//! The uniform assignor for members that all subscribe to the same topics.
//!
//! With `P` partitions and `M` members everybody gets `P / M`, and `P % M` members one more. Members
//! keep what they had up to that; those that had more than `P / M` come first for the one more, and then
//! the last members by id. What is free goes to who lacks some, in order. No assignment with these
//! sizes moves fewer partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::ids::TopicId;

use super::{Assignment, GroupSpec, partition_id};

/// A member on the way to its new assignment.
struct Draft<'a> {
    id: &'a Arc<str>,
    /// Indexes into all partitions.
    partitions: Vec<usize>,
    quota: usize,
}

pub(super) fn assign(group: &GroupSpec, subscribed: &BTreeSet<TopicId>) -> BTreeMap<Arc<str>, Assignment> {
    // All partitions, and where each topic's first one lies among them.
    let mut partitions: Vec<(TopicId, i32)> = Vec::new();
    let mut starts: BTreeMap<TopicId, usize> = BTreeMap::new();
    for topic in subscribed {
        starts.insert(*topic, partitions.len());
        let count = group.partition_count(*topic) as usize;
        partitions.extend((0..count).map(|index| (*topic, partition_id(index))));
    }
    let least = partitions.len() / group.members.len();
    let mut extras = partitions.len() % group.members.len();

    let mut is_free = vec![true; partitions.len()];
    let mut drafts: Vec<Draft<'_>> = Vec::with_capacity(group.members.len());
    for (id, member) in &group.members {
        let limit = least + usize::from(extras > 0);
        let kept: Vec<usize> = group
            .retained(member)
            .map(|(topic, partition)| starts[&topic] + partition as usize)
            // Two members never have one partition, but if a log says so, the first keeps it.
            .filter(|index| is_free[*index])
            .take(limit)
            .collect();
        for index in &kept {
            is_free[*index] = false;
        }
        let quota = kept.len().max(least);
        extras -= quota - least;
        drafts.push(Draft { id, partitions: kept, quota });
    }
    for draft in drafts.iter_mut().rev().filter(|draft| draft.quota == least).take(extras) {
        draft.quota += 1;
    }

    let mut free = (0..partitions.len()).filter(|index| is_free[*index]);
    let mut finish = |mut draft: Draft<'_>| {
        let lacking = draft.quota - draft.partitions.len();
        draft.partitions.extend(free.by_ref().take(lacking));
        let mut assignment = Assignment::new();
        for (topic, partition) in draft.partitions.into_iter().map(|index| partitions[index]) {
            assignment.entry(topic).or_default().insert(partition);
        }
        (draft.id.clone(), assignment)
    };
    drafts.into_iter().map(&mut finish).collect()
}
