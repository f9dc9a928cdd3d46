//! A thousand members and ten thousand partitions: from nothing, and when one more member joins.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use klamm_coordinator::group::assignor::{Assignment, Assignor, GroupSpec, MemberSpec};
use klamm_protocol::ids::{TopicId, Uuid};

const MEMBERS: u128 = 1_000;
const TOPICS: u128 = 100;
const PARTITIONS: u32 = 100;

fn group(mut subscription: impl FnMut(u128) -> Arc<BTreeSet<TopicId>>) -> GroupSpec {
    let member = |id: u128| {
        let spec = MemberSpec { subscribed: subscription(id), ..MemberSpec::default() };
        (Arc::from(format!("{:032x}", id.wrapping_mul(0x9e37_79b9_7f4a_7c15))), spec)
    };
    GroupSpec {
        members: (0..MEMBERS).map(member).collect(),
        partition_counts: (0..TOPICS).map(|topic| (TopicId(Uuid(topic)), PARTITIONS)).collect(),
    }
}

fn topics(wanted: impl Fn(u128) -> bool) -> Arc<BTreeSet<TopicId>> {
    Arc::new((0..TOPICS).filter(|topic| wanted(*topic)).map(|topic| TopicId(Uuid(topic))).collect())
}

/// The group once it has this assignment, and one more member that wants what its first member wants.
fn joined(mut group: GroupSpec, assigned: BTreeMap<Arc<str>, Assignment>) -> GroupSpec {
    for (id, assigned) in assigned {
        group.members.entry(id).or_default().assigned = assigned;
    }
    let (_, first) = group.members.first_key_value().expect("a thousand members");
    let newcomer = MemberSpec { subscribed: first.subscribed.clone(), ..MemberSpec::default() };
    group.members.insert("a newcomer".into(), newcomer);
    group
}

fn assignors(c: &mut Criterion) {
    let all = topics(|_| true);
    let homogeneous = group(|_| all.clone());
    // About a tenth of the topics each, scattered.
    let heterogeneous =
        group(|id| topics(|topic| (id * 2_654_435_761 + topic * (2 * id + 40_503)) % TOPICS < TOPICS / 10));
    for (name, assignor, group) in [
        ("range", Assignor::Range, &homogeneous),
        ("uniform, equal subscriptions", Assignor::Uniform, &homogeneous),
        ("uniform, different subscriptions", Assignor::Uniform, &heterogeneous),
    ] {
        c.bench_function(&format!("{name}: from nothing"), |b| b.iter(|| black_box(assignor.assign(group))));
        let joined = joined(group.clone(), assignor.assign(group));
        c.bench_function(&format!("{name}: one joins"), |b| b.iter(|| black_box(assignor.assign(&joined))));
    }
}

criterion_group!(benches, assignors);
criterion_main!(benches);
