//! How a member moves from what it has to what it shall have (KIP-848): one step.
//!
//! A member that must give up partitions keeps its epoch until it has; then it gets at once all
//! partitions of its target that nobody holds, and the others when they become free.
//!
//! A pure function: who holds what, and what the member subscribes to, are arguments.
//!
//! Invariant: a partition is only assigned when nobody else holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_group_heartbeat::RequestTopicPartitions;

use super::super::assignor::Assignment;
use super::Refusal;
use super::member::{Member, MemberState, Partitions};

/// What a step depends on beside the member.
pub(super) struct Step<'a> {
    /// The epoch of the target assignment.
    pub target_epoch: i32,
    /// What the member shall have.
    pub target: &'a Assignment,
    /// The member changed its subscription just now.
    pub has_subscription_changed: bool,
    /// What the member says it has; `None` if it does not say.
    pub owned: Option<&'a [RequestTopicPartitions]>,
    /// Whether the member subscribes to the topic.
    pub is_subscribed: &'a dyn Fn(TopicId) -> bool,
    /// Whether some member holds the partition.
    pub is_held: &'a dyn Fn(TopicId, i32) -> bool,
}

impl Step<'_> {
    /// The member after the step; the same if there is nothing to do.
    pub fn take(&self, member: &Member) -> Result<Member, Refusal> {
        match member.state {
            MemberState::Stable if member.member_epoch != self.target_epoch => {
                Ok(self.advance(member, member.member_epoch))
            }
            MemberState::Stable => Ok(self.unsubscribe_if_changed(member)),
            MemberState::UnrevokedPartitions if self.owns_any_of(&member.pending_revocation) => {
                Ok(self.unsubscribe_if_changed(member))
            }
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                Ok(self.advance(member, member.member_epoch))
            }
            // Nothing is known of it, so it begins again, with nothing.
            MemberState::Unknown(_) if self.owned.is_some_and(<[_]>::is_empty) => {
                Ok(self.advance(member, self.target_epoch))
            }
            MemberState::Unknown(_) => Err(Refusal::new(
                ErrorCode::FencedMemberEpoch,
                "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin.",
            )),
        }
    }

    /// A member that does not say what it has may have all.
    fn owns_any_of(&self, partitions: &Partitions) -> bool {
        let Some(owned) = self.owned else { return true };
        owned.iter().any(|topic| {
            let of_topic = partitions.get(&TopicId(topic.topic_id));
            of_topic.is_some_and(|of_topic| topic.partitions.iter().any(|one| of_topic.contains_key(one)))
        })
    }

    /// Takes topics from the member that it does not subscribe to any more, without a new target.
    fn unsubscribe_if_changed(&self, member: &Member) -> Member {
        let is_gone = |topic: &TopicId| !(self.is_subscribed)(*topic);
        if !self.has_subscription_changed || !member.assigned.keys().any(is_gone) {
            return member.clone();
        }
        let mut assigned = Partitions::clone(&member.assigned);
        let mut pending = Partitions::clone(&member.pending_revocation);
        for topic in member.assigned.keys().filter(|topic| is_gone(topic)) {
            if let Some(partitions) = assigned.remove(topic) {
                pending.entry(*topic).or_default().extend(partitions);
            }
        }
        let must_revoke = self.owns_any_of(&pending);
        let mut member = member.clone();
        if must_revoke {
            member.state = MemberState::UnrevokedPartitions;
            member.pending_revocation = Arc::new(pending);
        }
        member.assigned = Arc::new(assigned);
        let epoch = member.member_epoch;
        member.at_epoch(epoch)
    }

    /// Towards the target. A member that has to revoke stays at `epoch`.
    fn advance(&self, member: &Member, epoch: i32) -> Member {
        let mut assigned = Partitions::new();
        let mut revoked = Partitions::new();
        let mut added = BTreeMap::<TopicId, BTreeSet<i32>>::new();
        let mut has_unreleased = false;
        let nothing = (BTreeSet::new(), BTreeMap::new());
        let topics: BTreeSet<TopicId> = self.target.keys().chain(member.assigned.keys()).copied().collect();
        for topic in topics {
            let target =
                self.target.get(&topic).filter(|_| (self.is_subscribed)(topic)).unwrap_or(&nothing.0);
            let current = member.assigned.get(&topic).unwrap_or(&nothing.1);
            for (partition, epoch) in current {
                let stays = target.contains(partition);
                let of = if stays { &mut assigned } else { &mut revoked };
                of.entry(topic).or_default().insert(*partition, *epoch);
            }
            let pending = member.pending_revocation.get(&topic).unwrap_or(&nothing.1);
            for partition in target.iter().filter(|partition| !current.contains_key(partition)) {
                // What the member itself was to revoke is its own to have again.
                if (self.is_held)(topic, *partition) && !pending.contains_key(partition) {
                    has_unreleased = true;
                } else {
                    added.entry(topic).or_default().insert(*partition);
                }
            }
        }
        let mut member = member.clone();
        if !revoked.is_empty() && self.owns_any_of(&revoked) {
            member.state = MemberState::UnrevokedPartitions;
            member.assigned = Arc::new(assigned);
            member.pending_revocation = Arc::new(revoked);
            return member.at_epoch(epoch);
        }
        for (topic, partitions) in added {
            let with_epoch = partitions.into_iter().map(|partition| (partition, self.target_epoch));
            assigned.entry(topic).or_default().extend(with_epoch);
        }
        member.state = if has_unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        member.assigned = Arc::new(assigned);
        member.pending_revocation = Arc::default();
        member.at_epoch(self.target_epoch)
    }
}

#[cfg(test)]
mod tests {
    use klamm_protocol::ids::Uuid;

    use super::*;

    const A: TopicId = TopicId(Uuid(1));
    const B: TopicId = TopicId(Uuid(2));

    fn partitions(of: &[(TopicId, &[(i32, i32)])]) -> Arc<Partitions> {
        Arc::new(
            of.iter().map(|(topic, partitions)| (*topic, partitions.iter().copied().collect())).collect(),
        )
    }

    fn owned(of: &[(TopicId, &[i32])]) -> Vec<RequestTopicPartitions> {
        of.iter()
            .map(|(topic, partitions)| RequestTopicPartitions {
                topic_id: topic.0,
                partitions: partitions.to_vec(),
            })
            .collect()
    }

    fn target(of: &[(TopicId, &[i32])]) -> Assignment {
        of.iter().map(|(topic, partitions)| (*topic, partitions.iter().copied().collect())).collect()
    }

    fn member(epoch: i32, state: MemberState, assigned: &[(TopicId, &[(i32, i32)])]) -> Member {
        let assigned = partitions(assigned);
        Member { member_epoch: epoch, previous_member_epoch: epoch, state, assigned, ..Member::default() }
    }

    struct Case<'a> {
        target_epoch: i32,
        target: Assignment,
        changed: bool,
        owned: Option<Vec<RequestTopicPartitions>>,
        subscribed: &'a [TopicId],
        held: &'a [(TopicId, i32)],
    }

    impl Case<'_> {
        fn take(&self, member: &Member) -> Result<Member, Refusal> {
            Step {
                target_epoch: self.target_epoch,
                target: &self.target,
                has_subscription_changed: self.changed,
                owned: self.owned.as_deref(),
                is_subscribed: &|topic| self.subscribed.contains(&topic),
                is_held: &|topic, partition| self.held.contains(&(topic, partition)),
            }
            .take(member)
        }
    }

    fn case<'a>(target_epoch: i32, of: &[(TopicId, &[i32])]) -> Case<'a> {
        Case { target_epoch, target: target(of), changed: false, owned: None, subscribed: &[A, B], held: &[] }
    }

    #[test]
    fn free_partitions_come_at_once_and_held_ones_later() {
        let fresh = member(0, MemberState::Stable, &[]);
        let mut case = case(5, &[(A, &[0, 1, 2])]);
        case.held = &[(A, 1)];
        let waiting = case.take(&fresh).unwrap();
        assert_eq!(waiting.state, MemberState::UnreleasedPartitions);
        assert_eq!((waiting.member_epoch, waiting.previous_member_epoch), (5, 0));
        assert_eq!(waiting.assigned, partitions(&[(A, &[(0, 5), (2, 5)])]));

        case.held = &[(A, 0), (A, 1), (A, 2)];
        let still_waiting = case.take(&waiting).unwrap();
        assert_eq!(still_waiting.assigned, waiting.assigned);
        assert_eq!(still_waiting.previous_member_epoch, 5);

        case.held = &[(A, 0), (A, 2)];
        case.target_epoch = 6;
        let stable = case.take(&waiting).unwrap();
        assert_eq!(stable.state, MemberState::Stable);
        assert_eq!(stable.assigned, partitions(&[(A, &[(0, 5), (1, 6), (2, 5)])]));
    }

    #[test]
    fn what_is_to_be_revoked_holds_the_member_back() {
        let full = member(5, MemberState::Stable, &[(A, &[(0, 3), (1, 5)]), (B, &[(0, 4)])]);
        let mut case = case(6, &[(A, &[0]), (B, &[1])]);
        let revoking = case.take(&full).unwrap();
        assert_eq!(revoking.state, MemberState::UnrevokedPartitions);
        assert_eq!((revoking.member_epoch, revoking.previous_member_epoch), (5, 5));
        assert_eq!(revoking.assigned, partitions(&[(A, &[(0, 3)])]));
        assert_eq!(revoking.pending_revocation, partitions(&[(A, &[(1, 5)]), (B, &[(0, 4)])]));

        // A heartbeat that says nothing, and one that says it still has one of them.
        assert_eq!(case.take(&revoking).unwrap(), revoking);
        case.owned = Some(owned(&[(A, &[0, 1])]));
        assert_eq!(case.take(&revoking).unwrap(), revoking);

        case.owned = Some(owned(&[(A, &[0])]));
        let stable = case.take(&revoking).unwrap();
        assert_eq!(stable.state, MemberState::Stable);
        assert_eq!(stable.assigned, partitions(&[(A, &[(0, 3)]), (B, &[(1, 6)])]));
        assert!(stable.pending_revocation.is_empty());
        assert_eq!((stable.member_epoch, stable.previous_member_epoch), (6, 5));
    }

    #[test]
    fn a_member_that_owns_nothing_has_nothing_to_revoke() {
        let full = member(5, MemberState::Stable, &[(A, &[(0, 3), (1, 5)])]);
        let mut case = case(6, &[(A, &[0])]);
        case.owned = Some(Vec::new());
        let stable = case.take(&full).unwrap();
        assert_eq!(stable.state, MemberState::Stable);
        assert_eq!(stable.assigned, partitions(&[(A, &[(0, 3)])]));
    }

    #[test]
    fn a_partition_that_comes_back_while_it_is_revoked_is_not_waited_for() {
        let mut revoking = member(5, MemberState::UnrevokedPartitions, &[]);
        revoking.pending_revocation = partitions(&[(A, &[(0, 4)])]);
        let mut case = case(7, &[(A, &[0])]);
        case.held = &[(A, 0)];
        case.owned = Some(Vec::new());
        let stable = case.take(&revoking).unwrap();
        assert_eq!(stable.state, MemberState::Stable);
        assert_eq!(stable.assigned, partitions(&[(A, &[(0, 7)])]));
    }

    #[test]
    fn topics_without_a_subscription_go_before_the_next_target() {
        let full = member(5, MemberState::Stable, &[(A, &[(0, 5)]), (B, &[(0, 5)])]);
        let mut case = case(5, &[(A, &[0]), (B, &[0])]);
        case.subscribed = &[A];
        assert_eq!(case.take(&full).unwrap(), full, "only a heartbeat that changes it is looked at");
        case.changed = true;
        let revoking = case.take(&full).unwrap();
        assert_eq!(revoking.state, MemberState::UnrevokedPartitions);
        assert_eq!(revoking.assigned, partitions(&[(A, &[(0, 5)])]));
        assert_eq!(revoking.pending_revocation, partitions(&[(B, &[(0, 5)])]));
        case.owned = Some(owned(&[(A, &[0])]));
        let shrunk = case.take(&full).unwrap();
        assert_eq!(shrunk.state, MemberState::Stable);
        assert!(shrunk.pending_revocation.is_empty());
    }

    #[test]
    fn an_unknown_state_begins_again_with_nothing() {
        let strange = member(5, MemberState::Unknown(127), &[]);
        let mut case = case(6, &[(A, &[0])]);
        assert_eq!(case.take(&strange).unwrap_err().error, ErrorCode::FencedMemberEpoch);
        case.owned = Some(Vec::new());
        assert_eq!(case.take(&strange).unwrap().state, MemberState::Stable);
    }
}
