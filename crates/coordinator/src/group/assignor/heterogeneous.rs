//! The uniform assignor for members with different subscriptions.
//!
//! Members keep what they had. What is free goes to the subscriber with the least, topics with the most
//! partitions a subscriber first, because later topics can even out what earlier ones could not. Then
//! partitions move, topic by topic, until no member could take one from another that has more than one
//! more. At last, what turns out to have moved without need moves back.
//!
//! It deliberately does not look for chains: with A and B subscribed to one topic and B and C to
//! another, A 9, B 10 and C 11 is balanced. Kafka's assignor does not, either.
//!
//! Invariants:
//! - Every step either lowers the sum of the squares of all loads, or keeps it and lowers the number of
//!   moved partitions. So it ends; [`WORK_MAX`] bounds when.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use klamm_protocol::ids::TopicId;

use super::{Assignment, GroupSpec, partition_id};

/// How many subscribers and partitions are looked at while balancing: some tenths of a second at most.
/// Usual groups need a few looks at each of them. Only long chains of large topics whose subscribers
/// overlap need more; they stay less balanced than they could be until the next assignment goes on.
const WORK_MAX: usize = 20_000_000;

pub(super) fn assign(group: &GroupSpec) -> BTreeMap<Arc<str>, Assignment> {
    assign_within(group, WORK_MAX)
}

/// The same with another bound.
pub(super) fn assign_within(group: &GroupSpec, mut work: usize) -> BTreeMap<Arc<str>, Assignment> {
    let mut draft = Draft::new(group);
    draft.hand_out();
    loop {
        draft.balance(&mut work);
        let has_moved = draft.move_back() | draft.straighten();
        if work == 0 || !has_moved {
            break;
        }
    }
    draft.finish(group)
}

/// An assignment in the making. Members are indexes into the group's members, in their order.
struct Draft {
    topics: Vec<Topic>,
    /// How many partitions each member has.
    loads: Vec<usize>,
}

struct Topic {
    id: TopicId,
    /// Ascending.
    subscribers: Vec<usize>,
    partitions: Vec<Partition>,
}

#[derive(Clone, Copy, Default)]
struct Partition {
    /// Who had it, if it may keep it.
    former: Option<usize>,
    /// Who shall have it; `None` only until [`Draft::hand_out`].
    owner: Option<usize>,
}

impl Draft {
    fn new(group: &GroupSpec) -> Self {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (member, spec) in group.members.values().enumerate() {
            for topic in spec.subscribed.iter() {
                subscribers.entry(*topic).or_default().push(member);
            }
        }
        let with_partitions = |(id, subscribers)| {
            let count = group.partition_count(id) as usize;
            Topic { id, subscribers, partitions: vec![Partition::default(); count] }
        };
        let mut topics: Vec<Topic> = subscribers.into_iter().map(with_partitions).collect();
        topics.retain(|topic| !topic.partitions.is_empty());

        let at: BTreeMap<TopicId, usize> =
            topics.iter().enumerate().map(|(at, topic)| (topic.id, at)).collect();
        let mut loads = vec![0; group.members.len()];
        for (member, spec) in group.members.values().enumerate() {
            for (topic, partition) in group.retained(spec) {
                let partition = &mut topics[at[&topic]].partitions[partition as usize];
                // Two members never have one partition, but if a log says so, the first keeps it.
                if partition.owner.is_none() {
                    *partition = Partition { former: Some(member), owner: Some(member) };
                    loads[member] += 1;
                }
            }
        }

        topics.sort_by(|a, b| {
            // Partitions by subscribers, both multiplied by both counts of subscribers.
            let a_scaled = a.partitions.len() * b.subscribers.len();
            let b_scaled = b.partitions.len() * a.subscribers.len();
            b_scaled.cmp(&a_scaled).then(a.subscribers.len().cmp(&b.subscribers.len())).then(a.id.cmp(&b.id))
        });
        Self { topics, loads }
    }

    /// Gives what nobody has to the subscribers with the least.
    fn hand_out(&mut self) {
        let Self { topics, loads } = self;
        for topic in topics {
            let mut free =
                topic.partitions.iter_mut().filter(|partition| partition.owner.is_none()).peekable();
            if free.peek().is_none() {
                continue;
            }
            let mut takers: BinaryHeap<Reverse<(usize, usize)>> =
                topic.subscribers.iter().map(|member| Reverse((loads[*member], *member))).collect();
            for partition in free {
                let mut least = takers.peek_mut().expect("a topic is here for its subscribers");
                let Reverse((load, member)) = &mut *least;
                *load += 1;
                loads[*member] = *load;
                partition.owner = Some(*member);
            }
        }
    }

    /// Balances topic after topic until none has anything to move, or `work` is used up.
    fn balance(&mut self, work: &mut usize) {
        let mut balanced = 0;
        for at in (0..self.topics.len()).cycle() {
            let topic = &self.topics[at];
            *work = work.saturating_sub(topic.subscribers.len() + topic.partitions.len());
            if balanced == self.topics.len() || *work == 0 {
                return;
            }
            balanced = if self.balance_topic(at) { 1 } else { balanced + 1 };
        }
    }

    /// Moves partitions of one topic from the subscribers with the most to those with the least, until
    /// they differ by one at most. Whether any moved.
    fn balance_topic(&mut self, at: usize) -> bool {
        let Self { topics, loads } = self;
        let Topic { subscribers, partitions, .. } = &mut topics[at];
        let owners = || partitions.iter().filter_map(|partition| partition.owner);
        let most = owners().map(|member| loads[member]).max();
        let least = subscribers.iter().map(|member| loads[*member]).min();
        if most <= least.map(|load| load + 1) {
            return false;
        }

        // By owner; those that the owner did not have before come last, and go first.
        let mut held: Vec<usize> = (0..partitions.len()).collect();
        held.sort_by_key(|index| (partitions[*index].owner, partitions[*index].has_moved()));
        // Who gives stays above all that take, so each heap need only know its own side's changes.
        let mut givers: BinaryHeap<(usize, usize, &[usize])> = held
            .chunk_by(|a, b| partitions[*a].owner == partitions[*b].owner)
            .filter_map(|chunk| {
                let owner = partitions[*chunk.first()?].owner?;
                Some((loads[owner], owner, chunk))
            })
            .collect();
        let mut takers: BinaryHeap<Reverse<(usize, usize)>> =
            subscribers.iter().map(|member| Reverse((loads[*member], *member))).collect();

        while let (Some(mut giver), Some(mut taker)) = (givers.peek_mut(), takers.peek_mut()) {
            let (most, from, chunk) = &mut *giver;
            let Reverse((least, to)) = &mut *taker;
            if *most <= *least + 1 {
                break;
            }
            let Some((moving, rest)) = chunk.split_last() else {
                PeekMut::pop(giver);
                continue;
            };
            *chunk = rest;
            *most -= 1;
            *least += 1;
            loads[*from] = *most;
            loads[*to] = *least;
            partitions[*moving].owner = Some(*to);
        }
        true
    }

    /// Moves partitions back to former owners that have less than the owners. Whether any moved.
    fn move_back(&mut self) -> bool {
        let Self { topics, loads } = self;
        let mut has_moved = false;
        for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            let (Some(former), Some(owner)) = (partition.former, partition.owner) else { continue };
            if loads[former] < loads[owner] {
                loads[former] += 1;
                loads[owner] -= 1;
                partition.owner = Some(former);
                has_moved = true;
            }
        }
        has_moved
    }

    /// A member that lost a partition and gained another takes back the one, and the other goes
    /// straight to who had the one, if it may: all loads stay. Whether any moved.
    fn straighten(&mut self) -> bool {
        let topics = &mut self.topics;
        let mut lost: Vec<(usize, usize, usize)> = Vec::new();
        let mut gained: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (at, topic) in topics.iter().enumerate() {
            for (index, partition) in topic.partitions.iter().enumerate() {
                let Some(owner) = partition.owner.filter(|_| partition.has_moved()) else { continue };
                gained.entry((owner, at)).or_default().push(index);
                lost.extend(partition.former.map(|former| (former, at, index)));
            }
        }

        let mut has_moved = false;
        for (member, at, index) in lost {
            let Some(other) = topics[at].partitions[index].owner.filter(|owner| *owner != member) else {
                continue;
            };
            let mut of_member = gained.range_mut((member, 0)..=(member, usize::MAX));
            let found = of_member.find_map(|((_, gained_at), indexes)| {
                let Topic { subscribers, partitions, .. } = &topics[*gained_at];
                subscribers.binary_search(&other).ok()?;
                // Some may have gone on since.
                indexes.retain(|index| partitions[*index].owner == Some(member));
                Some((*gained_at, indexes.pop()?))
            });
            if let Some((gained_at, gained_index)) = found {
                topics[at].partitions[index].owner = Some(member);
                topics[gained_at].partitions[gained_index].owner = Some(other);
                if topics[gained_at].partitions[gained_index].has_moved() {
                    gained.entry((other, gained_at)).or_default().push(gained_index);
                }
                has_moved = true;
            }
        }
        has_moved
    }

    fn finish(self, group: &GroupSpec) -> BTreeMap<Arc<str>, Assignment> {
        let mut assignments = vec![Assignment::new(); self.loads.len()];
        for topic in &self.topics {
            for (index, partition) in topic.partitions.iter().enumerate() {
                let owner = partition.owner.expect("everything was handed out");
                assignments[owner].entry(topic.id).or_default().insert(partition_id(index));
            }
        }
        group.members.keys().cloned().zip(assignments).collect()
    }
}

impl Partition {
    /// Whether its owner did not have it before.
    fn has_moved(self) -> bool {
        self.owner != self.former
    }
}
