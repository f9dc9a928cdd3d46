//! What each assignor does, on small groups that a reader can check. A member is written as its id,
//! what it subscribes to, and what it has: `A [1 2] 1:0,1 2:0`.

use klamm_protocol::ids::Uuid;

use super::*;

fn topic(number: &str) -> TopicId {
    TopicId(Uuid(number.parse().unwrap()))
}

fn assignment(text: &str) -> Assignment {
    let entry = |entry: &str| {
        let (number, partitions) = entry.split_once(':').unwrap();
        (topic(number), partitions.split(',').map(|partition| partition.parse().unwrap()).collect())
    };
    text.split_whitespace().map(entry).collect()
}

/// Counts are `1:3 2:3`; a static member is `A@instance [1 2] 1:0,1`.
fn group(counts: &str, members: &[&str]) -> GroupSpec {
    let partition_counts = counts
        .split_whitespace()
        .map(|count| count.split_once(':').unwrap())
        .map(|(id, count)| (topic(id), count.parse().unwrap()));
    let member = |text: &&str| {
        let (id, rest) = text.split_once(" [").unwrap();
        let (subscribed, assigned) = rest.split_once(']').unwrap();
        let (id, instance_id) = id.split_once('@').map_or((id, None), |(id, instance)| (id, Some(instance)));
        let spec = MemberSpec {
            instance_id: instance_id.map(Arc::from),
            subscribed: Arc::new(subscribed.split_whitespace().map(topic).collect()),
            assigned: assignment(assigned),
        };
        (Arc::from(id), spec)
    };
    GroupSpec { members: members.iter().map(member).collect(), partition_counts: partition_counts.collect() }
}

#[track_caller]
fn check(assignor: Assignor, group: &GroupSpec, expected: &[(&str, &str)]) {
    let expected: BTreeMap<Arc<str>, Assignment> =
        expected.iter().map(|(id, text)| (Arc::from(*id), assignment(text))).collect();
    assert_eq!(assignor.assign(group), expected);
}

#[test]
fn names_are_those_of_the_configuration() {
    for assignor in Assignor::ALL {
        assert_eq!(Assignor::from_name(assignor.name()), Some(assignor));
    }
    assert_eq!(Assignor::from_name("Uniform"), None);
}

#[test]
fn every_member_has_an_entry_even_without_topics() {
    for assignor in Assignor::ALL {
        check(assignor, &group("", &[]), &[]);
        check(assignor, &group("1:3", &["A [] 1:0"]), &[("A", "")]);
        check(assignor, &group("1:3", &["A [2] 2:0"]), &[("A", "")]);
        check(assignor, &group("1:2", &["A [1 2] 2:0", "B [3]"]), &[("A", "1:0,1"), ("B", "")]);
    }
}

mod range {
    use super::*;

    #[test]
    fn the_first_members_get_the_longer_ranges_and_topics_are_co_partitioned() {
        let group = group("1:3 2:3", &["A [1 2]", "B [1 2]"]);
        check(Assignor::Range, &group, &[("A", "1:0,1 2:0,1"), ("B", "1:2 2:2")]);
    }

    #[test]
    fn each_topic_is_cut_among_its_own_subscribers() {
        let group = group("1:3 2:3 3:2", &["A [1 2]", "B [3]", "C [2 3]"]);
        check(Assignor::Range, &group, &[("A", "1:0,1,2 2:0,1"), ("B", "3:0"), ("C", "2:2 3:1")]);
    }

    #[test]
    fn who_comes_after_the_last_partition_gets_none() {
        let group = group("1:2 2:3", &["A [1 2]", "B [1 2]", "C [1 2]"]);
        check(Assignor::Range, &group, &[("A", "1:0 2:0"), ("B", "1:1 2:1"), ("C", "2:2")]);
    }

    #[test]
    fn static_members_come_first_by_instance_id() {
        let group = group("1:3", &["A [1]", "X@i2 [1]", "Y@i1 [1]"]);
        check(Assignor::Range, &group, &[("A", "1:2"), ("X", "1:1"), ("Y", "1:0")]);
    }

    #[test]
    fn what_members_had_plays_no_part() {
        let group = group("1:4", &["A [1] 1:2,3", "B [1] 1:0,1"]);
        check(Assignor::Range, &group, &[("A", "1:0,1"), ("B", "1:2,3")]);
    }
}

mod uniform_homogeneous {
    use super::*;

    #[test]
    fn the_last_members_get_one_more() {
        let group = group("1:3 2:2", &["A [1 2]", "B [1 2]"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,1"), ("B", "1:2 2:0,1")]);
    }

    #[test]
    fn with_more_members_than_partitions_some_get_none() {
        let group = group("1:2", &["A [1]", "B [1]", "C [1]"]);
        check(Assignor::Uniform, &group, &[("A", ""), ("B", "1:0"), ("C", "1:1")]);
    }

    #[test]
    fn who_has_too_many_gives_the_last_ones() {
        let group = group("1:3 2:3", &["A [1 2] 1:0,1 2:0,1", "B [1 2] 1:2 2:2"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,1 2:0"), ("B", "1:2 2:1,2")]);
    }

    #[test]
    fn new_partitions_leave_the_old_ones_where_they_are() {
        let group = group("1:6 2:5", &["A [1 2] 1:0,2 2:0", "B [1 2] 1:1 2:1,2"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,2,3,4 2:0"), ("B", "1:1,5 2:1,2,3,4")]);
    }

    #[test]
    fn a_joining_member_gets_what_balance_needs() {
        let group = group("1:3 2:3", &["A [1 2] 1:0,2 2:0", "B [1 2] 1:1 2:1,2", "C [1 2]"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,2"), ("B", "1:1 2:1"), ("C", "2:0,2")]);
    }

    #[test]
    fn a_leaving_members_partitions_are_all_that_moves() {
        let group = group("1:3 2:3", &["A [1 2] 1:0 2:0", "B [1 2] 1:1 2:1"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,2 2:0"), ("B", "1:1 2:1,2")]);
    }

    #[test]
    fn who_had_one_more_keeps_it() {
        let group = group("1:5", &["A [1] 1:0,4", "B [1] 1:1", "C [1] 1:2,3"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,4"), ("B", "1:1"), ("C", "1:2,3")]);
    }

    #[test]
    fn topics_that_nobody_wants_any_more_and_lost_partitions_are_dropped() {
        let group = group("1:2 2:2", &["A [2] 1:0 2:0,7", "B [2] 1:1 2:1"]);
        check(Assignor::Uniform, &group, &[("A", "2:0"), ("B", "2:1")]);
    }

    #[test]
    fn of_two_owners_the_first_keeps_a_partition() {
        let group = group("1:4", &["A [1] 1:0,1", "B [1] 1:1,2"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,1"), ("B", "1:2,3")]);
    }
}

mod uniform_heterogeneous {
    use super::*;

    #[test]
    fn members_without_a_choice_count() {
        let group = group("1:3 2:2", &["A [1 2]", "B [1]"]);
        check(Assignor::Uniform, &group, &[("A", "1:2 2:0,1"), ("B", "1:0,1")]);
    }

    #[test]
    fn a_topic_that_only_one_member_wants_is_all_its_own() {
        let group = group("1:5 2:2", &["A [1]", "B [2]"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,1,2,3,4"), ("B", "2:0,1")]);
    }

    #[test]
    fn what_a_member_does_not_subscribe_to_any_more_moves_and_nothing_else() {
        let group = group("1:2 2:3", &["A [1] 1:0 2:0", "B [1 2] 1:1 2:1,2"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,1"), ("B", "2:0,1,2")]);
    }

    #[test]
    fn of_two_owners_the_first_keeps_a_partition() {
        let group = group("1:4 2:1", &["A [1] 1:0,1", "B [1] 1:1,2", "C [2]"]);
        check(Assignor::Uniform, &group, &[("A", "1:0,1"), ("B", "1:2,3"), ("C", "2:0")]);
    }
}
