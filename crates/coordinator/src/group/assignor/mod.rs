//! The server's assignors of consumer groups (KIP-848): which member shall read which partition.
//!
//! An assignment is a function of the [`GroupSpec`] alone: equal groups give equal assignments. It
//! deliberately does not know names of topics, epochs or records. Racks play no part, as in Kafka 4.3.
//!
//! Invariants, whatever the members had before:
//! - every member of the group is in the result; an entry of a topic is never empty;
//! - every partition of a topic that somebody subscribes to has exactly one member, a subscriber;
//! - partitions that do not exist (any more) are dropped.

mod heterogeneous;
mod homogeneous;
mod range;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::ids::TopicId;

/// Partitions by topic.
pub type Assignment = BTreeMap<TopicId, BTreeSet<i32>>;

/// What an assignor looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSpec {
    /// By member id.
    pub members: BTreeMap<Arc<str>, MemberSpec>,
    /// Of every topic that exists; what is not in here has no partitions.
    pub partition_counts: BTreeMap<TopicId, u32>,
}

/// A member as assignors see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSpec {
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// Members that share one set cost next to nothing to compare.
    pub subscribed: Arc<BTreeSet<TopicId>>,
    /// Its target assignment until now.
    pub assigned: Assignment,
}

/// An assignor by the name that `group.consumer.assignors` and ConsumerGroupHeartbeat have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Balances the number of partitions, and then moves as few as it can.
    Uniform,
    /// Cuts each topic into ranges, in an order of members that is the same for all topics.
    Range,
}

impl Assignor {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// The one that `group.consumer.assignors` means: by its name, or by Kafka's class for it.
    #[must_use]
    pub fn from_config(text: &str) -> Option<Self> {
        match text {
            "org.apache.kafka.coordinator.group.assignor.UniformAssignor" => Some(Self::Uniform),
            "org.apache.kafka.coordinator.group.assignor.RangeAssignor" => Some(Self::Range),
            name => Self::from_name(name),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// What every member shall have.
    #[must_use]
    pub fn assign(self, group: &GroupSpec) -> BTreeMap<Arc<str>, Assignment> {
        match self {
            Self::Range => range::assign(group),
            Self::Uniform => match group.common_subscription() {
                Some(subscribed) => homogeneous::assign(group, subscribed),
                None => heterogeneous::assign(group),
            },
        }
    }
}

impl GroupSpec {
    /// What all members subscribe to, if it is the same.
    fn common_subscription(&self) -> Option<&BTreeSet<TopicId>> {
        let mut members = self.members.values();
        let first = &members.next()?.subscribed;
        // Comparing two `Arc`s of an `Eq` looks at the pointers first.
        members.all(|member| member.subscribed == *first).then_some(first)
    }

    /// The partitions that the member had and may keep: it subscribes to them and they exist.
    fn retained<'a>(&'a self, member: &'a MemberSpec) -> impl Iterator<Item = (TopicId, u32)> + 'a {
        member.assigned.iter().filter(|(topic, _)| member.subscribed.contains(topic)).flat_map(
            |(topic, partitions)| {
                let count = self.partition_count(*topic);
                let exists = move |partition: &u32| *partition < count;
                let partitions = partitions.iter().filter_map(|partition| u32::try_from(*partition).ok());
                partitions.filter(exists).map(|partition| (*topic, partition))
            },
        )
    }

    /// How many partitions the topic has; none if it does not exist.
    fn partition_count(&self, topic: TopicId) -> u32 {
        self.partition_counts.get(&topic).copied().unwrap_or(0)
    }
}

/// A partition's number as records and messages have it.
fn partition_id(index: usize) -> i32 {
    i32::try_from(index).expect("a topic has less than 2^31 partitions")
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
