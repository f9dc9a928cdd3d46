//! A member of a consumer group: what its records say.
//!
//! Deliberately absent: deadlines, which are soft state of the group, and the target assignment, which
//! has records of its own.
//!
//! Invariant: all that grows is shared, so that a copy of a member costs the same whatever it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::group_records::{
    ConsumerGroupCurrentMemberAssignmentValue, ConsumerGroupMemberMetadataValue, TopicPartitions,
};

use super::super::Client;

/// A member leaves.
pub(super) const LEAVE_EPOCH: i32 = -1;
/// A static member leaves and will come back.
pub(super) const STATIC_LEAVE_EPOCH: i32 = -2;

/// The epoch at which each partition was assigned (KIP-1251), by topic.
pub(super) type Partitions = BTreeMap<TopicId, BTreeMap<i32, i32>>;

/// How far a member is on the way to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberState {
    /// It has what its epoch's target says.
    Stable,
    /// It must give up partitions before it may go on to a newer epoch.
    UnrevokedPartitions,
    /// It waits for partitions that others still have.
    UnreleasedPartitions,
    /// A later version knows it.
    Unknown(i8),
}

impl MemberState {
    fn code(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown(code) => code,
        }
    }

    fn from_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            other => Self::Unknown(other),
        }
    }
}

/// What a member that speaks the classic protocol told when it joined.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClassicMember {
    /// Its own session timeout.
    pub session_timeout_ms: i32,
    /// Names and subscriptions, the preferred first.
    pub protocols: Vec<(Arc<str>, Box<[u8]>)>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub member_epoch: i32,
    pub previous_member_epoch: i32,
    pub state: MemberState,
    pub instance_id: Option<Arc<str>>,
    pub rack_id: Option<Arc<str>>,
    pub rebalance_timeout_ms: i32,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub subscribed: Arc<BTreeSet<Arc<str>>>,
    /// Empty without one; Kafka's records may have null, which means the same.
    pub regex: Option<Arc<str>>,
    pub assignor: Option<Arc<str>>,
    pub assigned: Arc<Partitions>,
    pub pending_revocation: Arc<Partitions>,
    pub classic: Option<Arc<ClassicMember>>,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            member_epoch: 0,
            previous_member_epoch: -1,
            state: MemberState::Stable,
            instance_id: None,
            rack_id: None,
            rebalance_timeout_ms: -1,
            client_id: Arc::default(),
            client_host: Arc::default(),
            subscribed: Arc::default(),
            regex: Some(Arc::default()),
            assignor: None,
            assigned: Arc::default(),
            pending_revocation: Arc::default(),
            classic: None,
        }
    }
}

impl Member {
    /// Whether it has all that the target assignment of `epoch` says.
    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.state == MemberState::Stable && self.member_epoch == epoch
    }

    /// Its regular expression, if it has one.
    pub fn regex(&self) -> Option<&Arc<str>> {
        self.regex.as_ref().filter(|regex| !regex.is_empty())
    }

    /// Whether it speaks the classic protocol.
    pub fn is_classic(&self) -> bool {
        self.classic.is_some()
    }

    /// The epoch at which it got the partition; `None` if it has nothing to do with it.
    pub fn assignment_epoch(&self, topic: TopicId, partition: i32) -> Option<i32> {
        let of = |partitions: &Partitions| partitions.get(&topic)?.get(&partition).copied();
        of(&self.assigned).or_else(|| of(&self.pending_revocation))
    }

    /// Partitions that it holds: no other member may have them.
    pub fn held(&self) -> impl Iterator<Item = (TopicId, i32)> + '_ {
        [&self.assigned, &self.pending_revocation].into_iter().flat_map(|partitions| {
            partitions
                .iter()
                .flat_map(|(topic, partitions)| partitions.keys().map(move |partition| (*topic, *partition)))
        })
    }

    /// Notes who speaks for it.
    pub fn set_client(&mut self, client: &Client) {
        if *self.client_id != *client.id {
            self.client_id = Arc::from(&*client.id);
        }
        if *self.client_host != *client.host {
            self.client_host = Arc::from(&*client.host);
        }
    }

    /// Moves on to `epoch`, which may be the same.
    pub fn at_epoch(mut self, epoch: i32) -> Self {
        self.previous_member_epoch = self.member_epoch;
        self.member_epoch = epoch;
        self
    }

    /// Takes in what a record says about its subscription.
    pub fn subscribe(&mut self, value: &ConsumerGroupMemberMetadataValue) {
        self.instance_id = value.instance_id.as_deref().map(Arc::from);
        self.rack_id = value.rack_id.as_deref().map(Arc::from);
        self.client_id = Arc::from(&*value.client_id);
        self.client_host = Arc::from(&*value.client_host);
        self.subscribed =
            Arc::new(value.subscribed_topic_names.iter().map(|name| Arc::from(&**name)).collect());
        self.regex = value.subscribed_topic_regex.as_deref().map(Arc::from);
        self.rebalance_timeout_ms = value.rebalance_timeout_ms;
        self.assignor = value.server_assignor.as_deref().map(Arc::from);
        self.classic = value.classic_member_metadata.as_ref().map(|classic| {
            Arc::new(ClassicMember {
                session_timeout_ms: classic.session_timeout_ms,
                protocols: classic
                    .supported_protocols
                    .iter()
                    .map(|protocol| (Arc::from(&*protocol.name), Box::from(&*protocol.metadata)))
                    .collect(),
            })
        });
    }

    /// Takes in what a record says it has.
    pub fn assign(&mut self, value: &ConsumerGroupCurrentMemberAssignmentValue) {
        self.member_epoch = value.member_epoch;
        self.previous_member_epoch = value.previous_member_epoch;
        self.state = MemberState::from_code(value.state);
        self.assigned = Arc::new(partitions_of(&value.assigned_partitions, value.member_epoch));
        self.pending_revocation =
            Arc::new(partitions_of(&value.partitions_pending_revocation, value.member_epoch));
    }

    /// What its record of current assignment says.
    pub fn current_assignment(&self) -> ConsumerGroupCurrentMemberAssignmentValue {
        ConsumerGroupCurrentMemberAssignmentValue {
            member_epoch: self.member_epoch,
            previous_member_epoch: self.previous_member_epoch,
            state: self.state.code(),
            assigned_partitions: topic_partitions(&self.assigned),
            partitions_pending_revocation: topic_partitions(&self.pending_revocation),
        }
    }
}

/// Before Kafka 4.3 there were no assignment epochs, and -2 of a static member that left is none.
fn partitions_of(topics: &[TopicPartitions], member_epoch: i32) -> Partitions {
    let default = member_epoch.max(0);
    topics
        .iter()
        .map(|topic| {
            let epochs =
                topic.assignment_epochs.as_ref().filter(|epochs| epochs.len() == topic.partitions.len());
            let epoch_at = |index: usize| epochs.map_or(default, |epochs| epochs[index]);
            let partitions = topic.partitions.iter().enumerate();
            (
                TopicId(topic.topic_id),
                partitions.map(|(index, partition)| (*partition, epoch_at(index))).collect(),
            )
        })
        .collect()
}

fn topic_partitions(partitions: &Partitions) -> Vec<TopicPartitions> {
    partitions
        .iter()
        .map(|(topic, partitions)| TopicPartitions {
            topic_id: topic.0,
            partitions: partitions.keys().copied().collect(),
            assignment_epochs: Some(partitions.values().copied().collect()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use klamm_protocol::ids::Uuid;

    use super::*;

    #[test]
    fn without_epochs_of_their_own_partitions_have_the_members() {
        let topic = |assignment_epochs| TopicPartitions {
            topic_id: Uuid(7),
            partitions: vec![0, 1],
            assignment_epochs,
        };
        let read =
            |epochs, member_epoch| partitions_of(&[topic(epochs)], member_epoch)[&TopicId(Uuid(7))].clone();
        assert_eq!(read(Some(vec![3, 4]), 9), [(0, 3), (1, 4)].into());
        assert_eq!(read(None, 9), [(0, 9), (1, 9)].into());
        assert_eq!(read(Some(vec![3]), 9), [(0, 9), (1, 9)].into());
        assert_eq!(read(None, STATIC_LEAVE_EPOCH), [(0, 0), (1, 0)].into());
    }

    #[test]
    fn an_assignment_survives_as_a_record() {
        for state in [MemberState::Stable, MemberState::UnrevokedPartitions, MemberState::Unknown(127)] {
            let member = Member {
                member_epoch: 4,
                previous_member_epoch: 3,
                state,
                assigned: Arc::new([(TopicId(Uuid(7)), [(0, 2), (5, 4)].into())].into()),
                pending_revocation: Arc::new([(TopicId(Uuid(8)), [(1, 3)].into())].into()),
                ..Member::default()
            };
            let mut again = Member::default();
            again.assign(&member.current_assignment());
            assert_eq!(again, member);
        }
    }
}
