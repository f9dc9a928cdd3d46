//! The range assignor: each topic's partitions cut into as many ranges as it has subscribers.
//!
//! Members get their ranges in one order for all topics: static members by instance id, then the
//! others by member id. So topics with equally many partitions and the same subscribers are
//! co-partitioned, and a static member that comes back under another member id gets what it had. What
//! members had before plays no part.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::ids::TopicId;

use super::{Assignment, GroupSpec, MemberSpec, partition_id};

/// The rest of a topic, while it is cut.
#[derive(Default)]
struct Rest {
    /// Who has not had a range yet.
    subscribers: usize,
    /// The first partition that nobody has.
    next: usize,
    end: usize,
}

impl Rest {
    /// Ranges differ by one partition at most; the longer ones come first.
    fn cut(&mut self) -> std::ops::Range<usize> {
        let length = (self.end - self.next).div_ceil(self.subscribers);
        self.subscribers -= 1;
        self.next += length;
        self.next - length..self.next
    }
}

pub(super) fn assign(group: &GroupSpec) -> BTreeMap<Arc<str>, Assignment> {
    let mut members: Vec<(&Arc<str>, &MemberSpec)> = group.members.iter().collect();
    members.sort_by_key(|(id, member)| (member.instance_id.is_none(), &member.instance_id, *id));

    let mut topics: BTreeMap<TopicId, Rest> = BTreeMap::new();
    for topic in group.members.values().flat_map(|member| member.subscribed.iter()) {
        topics.entry(*topic).or_default().subscribers += 1;
    }
    for (topic, rest) in &mut topics {
        rest.end = group.partition_count(*topic) as usize;
    }

    let mut assign = |member: &MemberSpec| {
        let cut = |topic: &TopicId| {
            let range = topics.get_mut(topic)?.cut();
            (!range.is_empty()).then(|| (*topic, range.map(partition_id).collect()))
        };
        member.subscribed.iter().filter_map(cut).collect()
    };
    members.into_iter().map(|(id, member)| (id.clone(), assign(member))).collect()
}
