//! Groups that live: members join, leave and change their minds, topics come, grow and go. After
//! each step the assignment is held against naive models.

use klamm_protocol::ids::Uuid;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const TOPICS: u128 = 6;

/// A subscription: one bit a topic.
type Topics = u8;

#[derive(Clone, Debug)]
enum Step {
    Join {
        id: u16,
        is_static: bool,
        topics: Topics,
    },
    Leave(Index),
    Subscribe(Index, Topics),
    Resize {
        topic: u128,
        count: u32,
    },
    /// What no coordinator writes, but a log might say.
    Confuse(Index, Vec<(u128, i32)>),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        4 => (any::<u16>(), any::<bool>(), any::<Topics>())
            .prop_map(|(id, is_static, topics)| Step::Join { id, is_static, topics }),
        2 => index().prop_map(Step::Leave),
        1 => (index(), any::<Topics>()).prop_map(|(member, topics)| Step::Subscribe(member, topics)),
        2 => (0..TOPICS, 0..14_u32).prop_map(|(topic, count)| Step::Resize { topic, count }),
    ]
}

fn confusion() -> impl Strategy<Value = Step> {
    let partitions = prop::collection::vec((0..TOPICS, -1..14), 0..20);
    prop_oneof![step(), (any::<Index>(), partitions).prop_map(|(member, had)| Step::Confuse(member, had))]
}

fn topics(bits: Topics) -> Arc<BTreeSet<TopicId>> {
    Arc::new((0..TOPICS).filter(|topic| bits >> topic & 1 == 1).map(|topic| TopicId(Uuid(topic))).collect())
}

fn pick<'a>(group: &'a mut GroupSpec, index: &Index) -> Option<(Arc<str>, &'a mut MemberSpec)> {
    let at = index.index(group.members.len().max(1));
    group.members.iter_mut().nth(at).map(|(id, member)| (id.clone(), member))
}

fn take(group: &mut GroupSpec, step: &Step) {
    match step {
        Step::Join { id, is_static, topics: bits } => {
            let member = MemberSpec {
                instance_id: is_static.then(|| Arc::from(format!("i{}", id.wrapping_mul(7919)))),
                subscribed: topics(*bits),
                assigned: Assignment::new(),
            };
            group.members.insert(Arc::from(format!("m{id}")), member);
        }
        Step::Leave(index) => {
            if let Some((id, _)) = pick(group, index) {
                group.members.remove(&id);
            }
        }
        Step::Subscribe(index, bits) => {
            if let Some((_, member)) = pick(group, index) {
                member.subscribed = topics(*bits);
            }
        }
        Step::Resize { topic, count } => {
            group.partition_counts.insert(TopicId(Uuid(*topic)), *count);
        }
        Step::Confuse(index, partitions) => {
            if let Some((_, member)) = pick(group, index) {
                member.assigned.clear();
                for (topic, partition) in partitions {
                    member.assigned.entry(TopicId(Uuid(*topic))).or_default().insert(*partition);
                }
            }
        }
    }
}

fn partitions(assignment: &Assignment) -> impl Iterator<Item = (TopicId, i32)> {
    assignment.iter().flat_map(|(topic, all)| all.iter().map(|partition| (*topic, *partition)))
}

fn load(assignment: &Assignment) -> usize {
    assignment.values().map(BTreeSet::len).sum()
}

/// The first of the members that had the partition, and may have it.
fn former(group: &GroupSpec, topic: TopicId, partition: i32) -> Option<&Arc<str>> {
    let had = |member: &MemberSpec| {
        let had = member.assigned.get(&topic).is_some_and(|partitions| partitions.contains(&partition));
        had && member.subscribed.contains(&topic)
    };
    group.members.iter().find(|(_, member)| had(member)).map(|(id, _)| id)
}

type Assignments = BTreeMap<Arc<str>, Assignment>;

fn check_validity(group: &GroupSpec, assigned: &Assignments) {
    assert!(assigned.keys().eq(group.members.keys()));
    assert!(assigned.values().flat_map(BTreeMap::values).all(|partitions| !partitions.is_empty()));
    let mut expected = Vec::new();
    for (topic, count) in &group.partition_counts {
        if group.members.values().any(|member| member.subscribed.contains(topic)) {
            expected.extend((0..*count).map(|partition| (*topic, i32::try_from(partition).unwrap())));
        }
    }
    let mut all: Vec<(TopicId, i32)> = assigned.values().flat_map(partitions).collect();
    all.sort_unstable();
    assert_eq!(all, expected, "each partition once");
    for (id, assignment) in assigned {
        assert!(assignment.keys().all(|topic| group.members[id].subscribed.contains(topic)));
    }
}

/// No member could take a partition from another that has more than one more.
fn check_balance(group: &GroupSpec, assigned: &Assignments) {
    for (rich, has) in assigned {
        for (poor, member) in &group.members {
            if has.keys().any(|topic| member.subscribed.contains(topic)) {
                let (most, least) = (load(has), load(&assigned[poor]));
                assert!(most <= least + 1, "{poor} has {least}, {rich} {most}: {assigned:?}");
            }
        }
    }
}

/// No partition is elsewhere without need: its former owner would have more than the owner then, and
/// gained nothing that the owner could have had instead.
fn check_stickiness(group: &GroupSpec, assigned: &Assignments) {
    for (owner, assignment) in assigned {
        for (topic, partition) in partitions(assignment) {
            let Some(former_owner) = former(group, topic, partition).filter(|former| *former != owner) else {
                continue;
            };
            let (here, there) = (load(assignment), load(&assigned[former_owner]));
            assert!(there >= here, "{topic}:{partition} left {former_owner} ({there}) for {owner} ({here})");
            let gained = |&(topic, partition): &(TopicId, i32)| {
                former(group, topic, partition) != Some(former_owner)
                    && group.members[owner].subscribed.contains(&topic)
            };
            let instead = partitions(&assigned[former_owner]).find(gained);
            assert_eq!(instead, None, "{topic}:{partition} left {former_owner} for {owner}: {assigned:?}");
        }
    }
}

/// With one subscription for all: sizes differ by one at most, and no assignment with such sizes moves less.
fn check_optimum(group: &GroupSpec, assigned: &Assignments) {
    let total: usize = assigned.values().map(load).sum();
    let (least, extras) = (total / assigned.len(), total % assigned.len());
    let had = |id: &Arc<str>| {
        let has_it = |&(topic, partition): &(TopicId, i32)| former(group, topic, partition) == Some(id);
        assigned.values().flat_map(partitions).filter(has_it).count()
    };
    let had: Vec<usize> = assigned.keys().map(had).collect();
    let with_more = had.iter().filter(|had| **had > least).count();
    let could_keep = had.iter().map(|had| *had.min(&least)).sum::<usize>() + with_more.min(extras);

    let is_kept = |id: &Arc<str>, (topic, partition)| former(group, topic, partition) == Some(id);
    let kept = |(id, has): (&Arc<str>, &Assignment)| partitions(has).filter(|one| is_kept(id, *one)).count();
    assert_eq!(assigned.iter().map(kept).sum::<usize>(), could_keep);
    assert!(assigned.values().map(load).all(|load| load == least || load == least + 1));
}

/// Ranges by arithmetic.
fn check_ranges(group: &GroupSpec, assigned: &Assignments) {
    for (topic, count) in &group.partition_counts {
        let subscribers = group.members.iter().filter(|(_, member)| member.subscribed.contains(topic));
        let (mut ordered, dynamic): (Vec<_>, Vec<_>) =
            subscribers.partition(|(_, member)| member.instance_id.is_some());
        ordered.sort_by_key(|(_, member)| member.instance_id.clone());
        ordered.extend(dynamic);
        let (count, members) = (*count as usize, ordered.len());
        for (at, (id, _)) in ordered.into_iter().enumerate() {
            let start = at * (count / members) + at.min(count % members);
            let length = count / members + usize::from(at < count % members);
            let expected: BTreeSet<i32> = (start..start + length).map(partition_id).collect();
            assert_eq!(assigned[id].get(topic).cloned().unwrap_or_default(), expected);
        }
    }
}

/// Equal, but with nothing shared.
fn unshared(group: &GroupSpec) -> GroupSpec {
    let mut copy = group.clone();
    for member in copy.members.values_mut() {
        member.subscribed = Arc::new((*member.subscribed).clone());
    }
    copy
}

/// Assigns, checks, and takes the assignment over.
fn assign(group: &mut GroupSpec) {
    let ranges = Assignor::Range.assign(group);
    check_validity(group, &ranges);
    check_ranges(group, &ranges);

    let assigned = Assignor::Uniform.assign(group);
    check_validity(group, &assigned);
    check_balance(group, &assigned);
    check_stickiness(group, &assigned);
    if group.common_subscription().is_some() {
        check_optimum(group, &assigned);
        // The other way must come to as good a balance; it may move one more in rare cases.
        let other = heterogeneous::assign(group);
        check_validity(group, &other);
        check_balance(group, &other);
        check_stickiness(group, &other);
    }
    assert_eq!(Assignor::Uniform.assign(&unshared(group)), assigned);
    for work in [0, 50] {
        check_validity(group, &heterogeneous::assign_within(group, work));
    }

    for (id, member) in &mut group.members {
        member.assigned = assigned[id].clone();
    }
    assert_eq!(Assignor::Uniform.assign(group), assigned, "nothing changed, nothing moves");
}

fn run(steps: &[Step]) {
    let mut group = GroupSpec::default();
    group
        .partition_counts
        .extend((0..TOPICS - 1).zip([4, 9, 1, 7, 2]).map(|(id, count)| (TopicId(Uuid(id)), count)));
    for step in steps {
        take(&mut group, step);
        assign(&mut group);
    }
}

proptest! {
    #[test]
    fn members_with_equal_subscriptions(bits: Topics, steps in prop::collection::vec(step(), 1..16)) {
        let common = |step| match step {
            Step::Join { id, is_static, .. } => Step::Join { id, is_static, topics: bits },
            Step::Subscribe(member, _) => Step::Leave(member),
            other => other,
        };
        run(&steps.into_iter().map(common).collect::<Vec<_>>());
    }

    #[test]
    fn members_with_subscriptions_of_their_own(steps in prop::collection::vec(step(), 1..16)) {
        run(&steps);
    }

    #[test]
    fn members_whose_assignments_are_confused(steps in prop::collection::vec(confusion(), 1..16)) {
        run(&steps);
    }
}
