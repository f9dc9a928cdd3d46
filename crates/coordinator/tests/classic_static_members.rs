//! Conversations of static members (KIP-345) with the coordinator of a classic group.

mod classic_client;
mod world;

use classic_client::{instance, prompt_world, protocols, subscription, text};
use insta::assert_snapshot;
use klamm_coordinator::group::GroupCommand;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::join_group::JoinGroupRequest;
use klamm_protocol::messages::sync_group::SyncGroupRequest;
use world::World;

/// A stable group of the static members `a`, who leads, and `b`.
fn static_world() -> (World, String, String) {
    let mut world = prompt_world();
    let joined_a = world.join("c", instance("a"));
    let joined_b = world.join("c", instance("b"));
    world.advance(0);
    let (a, b) = (world.joined(joined_a), world.joined(joined_b));
    assert_eq!(a.leader, a.member_id);
    let (a, b) = (a.member_id.as_str().to_owned(), b.member_id.as_str().to_owned());
    world.sync(&a, 1, &[(&a, "for a"), (&b, "for b")]);
    world.sync(&b, 1, &[]);
    world.take_transcript();
    (world, a, b)
}

fn same_instance(instance_id: &str, id: &str) -> JoinGroupRequest {
    JoinGroupRequest { member_id: text(id), ..instance(instance_id) }
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let (mut world, a, b) = static_world();
    let joined = world.join("c", instance("b"));
    let again = world.joined(joined);
    assert_eq!((again.generation_id, again.leader.as_str()), (1, &*a));
    let synced = world.sync(&again.member_id, 1, &[]);
    assert_eq!(&*world.synced(synced).assignment, b"for b");
    // The process that was there before is fenced, whatever it asks by its instance id.
    let joined = world.join("c", same_instance("b", &b));
    assert_eq!(world.joined(joined).error_code, ErrorCode::FencedInstanceId.code());
    let request = SyncGroupRequest {
        group_id: text("g"),
        generation_id: 1,
        member_id: text(&b),
        group_instance_id: Some(text("b")),
        ..Default::default()
    };
    world.call(GroupCommand::SyncGroup(request));
    assert_eq!(world.leave(&[(&b, Some("b"))]).members[0].error_code, ErrorCode::FencedInstanceId.code());
    assert_eq!(world.heartbeat(&b, 1), ErrorCode::UnknownMemberId);
    assert_eq!(world.state(), "Stable");
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_static_leader_comes_back_and_does_not_assign() {
    let (mut world, a, _) = static_world();
    let joined = world.join_by("c", instance("a"), 8);
    let old = world.joined(joined);
    assert_eq!((old.leader.as_str(), old.members.len()), (&*a, 0), "it believes that its predecessor leads");
    let joined = world.join_by("c", instance("a"), 9);
    let new = world.joined(joined);
    assert!(new.skip_assignment && new.leader == new.member_id && new.members.len() == 2);
    // If it finds that it must, it asks for a rebalance.
    world.join("c", same_instance("a", &new.member_id));
    assert_eq!(world.state(), "PreparingRebalance");
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_static_member_that_comes_back_with_another_protocol_is_a_rebalance() {
    let mut world = prompt_world();
    let both = |first, second| {
        let metadata = subscription(&["t"]);
        protocols(&[(first, metadata.clone()), (second, metadata)])
    };
    let joined = world.join("c", JoinGroupRequest { protocols: both("range", "sticky"), ..instance("a") });
    world.advance(0);
    let id = world.joined(joined).member_id;
    world.sync(&id, 1, &[(&id, "t-0")]);
    world.take_transcript();
    let joined = world.join("c", JoinGroupRequest { protocols: both("sticky", "range"), ..instance("a") });
    let again = world.joined(joined);
    assert_eq!((again.generation_id, again.protocol_name.as_deref()), (2, Some("sticky")));
    assert_snapshot!(world.take_transcript());
}

#[test]
fn a_static_member_comes_back_during_a_rebalance() {
    let (mut world, a, b) = static_world();
    // While members join: the old process is fenced where it waits.
    let fenced = world.join("c", JoinGroupRequest { member_id: text(&a), ..instance("a") });
    let joined = world.join("c", instance("a"));
    assert_eq!(world.joined(fenced).error_code, ErrorCode::FencedInstanceId.code());
    assert!(world.is_parked(joined));
    world.join("c", JoinGroupRequest { member_id: text(&b), ..instance("b") });
    let a = world.joined(joined).member_id;
    assert_eq!(world.state(), "CompletingRebalance");
    // While the leader assigns: it does so for an id that is gone, so all join again.
    let waits = world.sync(&b, 2, &[]);
    let joined = world.join("c", instance("b"));
    assert_eq!(world.synced(waits).error_code, ErrorCode::FencedInstanceId.code());
    assert!(world.is_parked(joined));
    assert_eq!(world.heartbeat(&a, 2), ErrorCode::RebalanceInProgress);
    assert_snapshot!(world.take_transcript());
}

/// Whoever administers a group knows instance ids, not member ids.
#[test]
fn static_members_are_removed_by_their_instance_ids() {
    let (mut world, _, _) = static_world();
    world.leave(&[("", Some("b")), ("", Some("nobody")), ("", None)]);
    assert_eq!(world.describe().members.len(), 1);
    assert_snapshot!(world.take_transcript());
}

/// A static member that is away keeps its place for its session, through a rebalance, too.
#[test]
fn a_static_member_that_does_not_come_back_fails() {
    let (mut world, a, b) = static_world();
    world.join("c", same_instance("a", &a));
    for _ in 0..7 {
        world.advance(8_000);
        world.heartbeat(&b, 1);
    }
    world.advance(4_000);
    // Time was up for joining, and `b` is in the generation all the same.
    assert_eq!(world.describe().members.len(), 2);
    world.sync(&a, 2, &[(&a, "for a"), (&b, "for b")]);
    for _ in 0..3 {
        world.heartbeat(&a, 2);
        world.advance(5_000);
    }
    assert_eq!(world.state(), "PreparingRebalance");
    assert_snapshot!(world.take_transcript());
}
