//! One transactional id as `__transaction_state` remembers it.
//!
//! What it deliberately does not hold: who waits, and the epoch before the last bump, which only a
//! retried InitProducerId asks for (see [`super::TransactionCoordinator`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::ids::{PartitionIndex, ProducerEpoch, ProducerId};

/// From this feature level on the epoch is bumped with every transaction (KIP-890).
pub const EPOCH_BUMP_LEVEL: i16 = 2;
/// The last epoch that a client may use: one more is left to fence it.
pub const PRODUCER_EPOCH_LAST: ProducerEpoch = ProducerEpoch(i16::MAX - 1);

/// A producer id with its epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Producer {
    /// -1 for none.
    pub id: ProducerId,
    /// -1 for none.
    pub epoch: ProducerEpoch,
}

/// Partitions by topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitions(BTreeMap<Arc<str>, BTreeSet<PartitionIndex>>);

impl Partitions {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, topic: &str, partition: PartitionIndex) -> bool {
        self.0.get(topic).is_some_and(|of_topic| of_topic.contains(&partition))
    }

    /// Whether all of `others` are among them.
    #[must_use]
    pub fn contains_all(&self, others: &Self) -> bool {
        others
            .0
            .iter()
            .all(|(topic, wanted)| self.0.get(topic).is_some_and(|of_topic| wanted.is_subset(of_topic)))
    }

    /// Adds one.
    pub fn insert(&mut self, topic: &str, partition: PartitionIndex) {
        match self.0.get_mut(topic) {
            Some(of_topic) => {
                of_topic.insert(partition);
            }
            None => {
                self.0.insert(topic.into(), BTreeSet::from([partition]));
            }
        }
    }

    /// Adds all of `others`.
    pub fn extend(&mut self, others: &Self) {
        for (topic, added) in &others.0 {
            self.0.entry(topic.clone()).or_default().extend(added);
        }
    }

    /// By topic.
    pub fn topics(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<PartitionIndex>)> {
        self.0.iter()
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, PartitionIndex)> {
        self.0.iter().flat_map(|(topic, of_topic)| of_topic.iter().map(move |partition| (topic, *partition)))
    }
}

/// Where a transaction stands; the number is what a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransactionState {
    /// A producer has its id, and no transaction yet.
    Empty = 0,
    /// Partitions were added.
    Ongoing = 1,
    /// It will be committed: markers are on their way.
    PrepareCommit = 2,
    /// It will be aborted: markers are on their way.
    PrepareAbort = 3,
    /// Every partition has its marker.
    CompleteCommit = 4,
    /// Every partition has its marker.
    CompleteAbort = 5,
}

impl TransactionState {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
    ];

    /// The state with this number.
    #[must_use]
    pub fn of_id(id: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i8 == id)
    }

    /// As DescribeTransactions and ListTransactions name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }

    /// Whether markers are on their way, and of which kind.
    #[must_use]
    pub fn prepared(self) -> Option<Ending> {
        match self {
            Self::PrepareCommit => Some(Ending::Commit),
            Self::PrepareAbort => Some(Ending::Abort),
            _ => None,
        }
    }

    /// Whether the last transaction is over, and how.
    #[must_use]
    pub fn completed(self) -> Option<Ending> {
        match self {
            Self::CompleteCommit => Some(Ending::Commit),
            Self::CompleteAbort => Some(Ending::Abort),
            _ => None,
        }
    }

    /// Whether the id may be forgotten once it is old.
    #[must_use]
    pub fn may_expire(self) -> bool {
        self == Self::Empty || self.completed().is_some()
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What it wrote counts.
    Commit,
    /// What it wrote never was.
    Abort,
}

impl Ending {
    pub(super) fn prepare(self) -> TransactionState {
        match self {
            Self::Commit => TransactionState::PrepareCommit,
            Self::Abort => TransactionState::PrepareAbort,
        }
    }

    pub(super) fn complete(self) -> TransactionState {
        match self {
            Self::Commit => TransactionState::CompleteCommit,
            Self::Abort => TransactionState::CompleteAbort,
        }
    }
}

/// A transactional id and its present or last transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Who writes.
    pub producer: Producer,
    /// The producer id before the last change of anything.
    pub previous_producer_id: ProducerId,
    /// The producer id once this transaction is complete, if its epochs are used up.
    pub next_producer_id: ProducerId,
    /// How long a transaction may take.
    pub timeout_ms: i32,
    /// Where it stands.
    pub state: TransactionState,
    /// Who gets a marker.
    pub partitions: Partitions,
    /// Wall clock, ms; -1 without a transaction.
    pub start_ms: i64,
    /// Wall clock, ms.
    pub last_update_ms: i64,
    /// The feature level that its client follows.
    pub client_version: i16,
}

impl Transaction {
    /// True if no epoch is left that a client might use.
    #[must_use]
    pub fn is_epoch_exhausted(&self) -> bool {
        self.producer.epoch >= PRODUCER_EPOCH_LAST
    }

    /// True for one that has run longer than it may.
    #[must_use]
    pub fn is_timed_out(&self, now_ms: i64) -> bool {
        self.state == TransactionState::Ongoing
            && self.start_ms.saturating_add(i64::from(self.timeout_ms)) < now_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_numbers_of_their_records() {
        for (id, state) in (0..).zip(TransactionState::ALL) {
            assert_eq!(TransactionState::of_id(id), Some(state), "{}", state.name());
        }
        // Dead and PrepareEpochFence are never written.
        assert_eq!(TransactionState::of_id(6), None);
        assert_eq!(TransactionState::of_id(-1), None);
    }

    #[test]
    fn partitions_are_a_set() {
        let mut some = Partitions::default();
        some.insert("a", PartitionIndex(1));
        let mut more = some.clone();
        more.insert("a", PartitionIndex(0));
        more.insert("b", PartitionIndex(0));
        assert!(more.contains_all(&some) && !some.contains_all(&more));
        some.extend(&more);
        assert_eq!(some, more);
        assert_eq!(some.iter().count(), 3);
    }
}
