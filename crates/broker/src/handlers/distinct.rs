//! What a request names, each once: one that repeats a partition millions of times gets one answer.

use std::collections::{BTreeMap, BTreeSet};

use klamm_protocol::wire::WireStr;

/// Partitions by topic, in ascending order. Takes no memory for what is named again.
pub(super) fn distinct_partitions(
    topics: impl IntoIterator<Item = (WireStr, Vec<i32>)>,
) -> BTreeMap<WireStr, Vec<i32>> {
    let mut distinct = BTreeMap::<WireStr, Vec<i32>>::new();
    for (name, mut partitions) in topics {
        let of_topic = distinct.entry(name).or_default();
        if of_topic.is_empty() {
            *of_topic = partitions;
        } else {
            of_topic.append(&mut partitions);
        }
    }
    for partitions in distinct.values_mut() {
        partitions.sort_unstable();
        partitions.dedup();
    }
    distinct
}

/// Groups, each once, in the order of their first mention.
pub(super) fn distinct_groups(mut ids: Vec<WireStr>) -> Vec<WireStr> {
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_comes_once_however_often_it_is_named() {
        let topic = |name: &str, partitions: &[i32]| (WireStr::from(name.to_owned()), partitions.to_vec());
        let named = [topic("u", &[2, 0, 2]), topic("t", &[1; 1_000]), topic("u", &[1, 0]), topic("v", &[])];
        let distinct = distinct_partitions(named);
        let expected = [topic("t", &[1]), topic("u", &[0, 1, 2]), topic("v", &[])];
        assert_eq!(distinct, BTreeMap::from(expected));
    }

    #[test]
    fn each_group_comes_once_in_the_order_of_the_request() {
        let ids = |ids: &[&str]| ids.iter().map(|id| WireStr::from((*id).to_owned())).collect::<Vec<_>>();
        assert_eq!(distinct_groups(ids(&["b", "a", "b", "", "a"])), ids(&["b", "a", ""]));
    }
}
