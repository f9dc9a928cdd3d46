//! Values by topic and partition, looked up by the names that requests and records have.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Invariant: no topic without a partition.
#[derive(Debug)]
pub(super) struct PartitionMap<T>(BTreeMap<Arc<str>, BTreeMap<i32, T>>);

impl<T> Default for PartitionMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> PartitionMap<T> {
    pub(super) fn get(&self, topic: &str, partition: i32) -> Option<&T> {
        self.0.get(topic)?.get(&partition)
    }

    pub(super) fn contains(&self, topic: &str, partition: i32) -> bool {
        self.get(topic, partition).is_some()
    }

    pub(super) fn insert(&mut self, topic: &str, partition: i32, value: T) {
        self.of_topic(topic).insert(partition, value);
    }

    pub(super) fn remove(&mut self, topic: &str, partition: i32) -> Option<T> {
        let of_topic = self.0.get_mut(topic)?;
        let removed = of_topic.remove(&partition);
        if of_topic.is_empty() {
            self.0.remove(topic);
        }
        removed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = (&str, &BTreeMap<i32, T>)> {
        self.0.iter().map(|(topic, partitions)| (&**topic, partitions))
    }

    pub(super) fn topic(&self, topic: &str) -> Option<&BTreeMap<i32, T>> {
        self.0.get(topic)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, i32, &T)> {
        self.topics().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, value)| (topic, *partition, value))
        })
    }

    fn of_topic(&mut self, topic: &str) -> &mut BTreeMap<i32, T> {
        if !self.0.contains_key(topic) {
            self.0.insert(topic.into(), BTreeMap::new());
        }
        self.0.get_mut(topic).expect("it is there")
    }
}

impl<T: Default> PartitionMap<T> {
    pub(super) fn or_default(&mut self, topic: &str, partition: i32) -> &mut T {
        self.of_topic(topic).entry(partition).or_default()
    }
}
