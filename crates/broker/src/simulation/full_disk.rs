//! Coordinators while the disk has no room: what groups must write is refused, and nobody else notices; the
//! coordinator of transactions does not wear itself out.

use std::collections::BTreeMap;

use klamm_protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use klamm_protocol::messages::delete_groups::DeleteGroupsRequest;
use klamm_protocol::messages::find_coordinator::FindCoordinatorRequest;
use klamm_protocol::messages::heartbeat::HeartbeatRequest;
use klamm_protocol::messages::init_producer_id::InitProducerIdRequest;
use klamm_protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use klamm_protocol::messages::sync_group::SyncGroupRequest;

use super::groups::{commit, committed, few_partitions, find};
use super::*;

const UNKNOWN_SERVER_ERROR: i16 = -1;
const LOADING: i16 = 14;
const NOT_COORDINATOR: i16 = 16;
const MEMBER_ID_REQUIRED: i16 = 79;
const MINUTE_MS: u64 = 60_000;

/// Of the consumer protocol, in group `new`.
async fn beat(client: &mut Client, epoch: i32) -> (i16, i32) {
    let is_joining = epoch == 0;
    let request = ConsumerGroupHeartbeatRequest {
        group_id: "new".into(),
        member_id: "m".into(),
        member_epoch: epoch,
        rebalance_timeout_ms: if is_joining { 10_000 } else { -1 },
        subscribed_topic_names: is_joining.then(|| vec!["t".into()]),
        topic_partitions: is_joining.then(Vec::new),
        ..Default::default()
    };
    let answer = client.call(&request, 1).await;
    (answer.error_code, answer.member_epoch)
}

async fn join(client: &mut Client, group: &str, member_id: &str) -> JoinGroupResponse {
    let protocol =
        JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"anything") };
    let request = JoinGroupRequest {
        group_id: group.to_owned().into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member_id.to_owned().into(),
        protocol_type: "other".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    client.call(&request, 9).await
}

async fn sync(client: &mut Client, group: &str, member_id: &str, generation_id: i32) -> i16 {
    let request = SyncGroupRequest {
        group_id: group.to_owned().into(),
        generation_id,
        member_id: member_id.to_owned().into(),
        ..Default::default()
    };
    client.call(&request, 4).await.error_code
}

async fn heartbeat(client: &mut Client, group: &str, member_id: &str, generation_id: i32) -> i16 {
    let request = HeartbeatRequest {
        group_id: group.to_owned().into(),
        generation_id,
        member_id: member_id.to_owned().into(),
        ..Default::default()
    };
    client.call(&request, 4).await.error_code
}

/// A member that is alone in its group, and its group's generation.
async fn stable(client: &mut Client, group: &str) -> (String, i32) {
    let asked = join(client, group, "").await;
    assert_eq!(asked.error_code, MEMBER_ID_REQUIRED);
    let joined = join(client, group, &asked.member_id).await;
    assert_eq!(sync(client, group, &joined.member_id, joined.generation_id).await, 0);
    (joined.member_id.to_string(), joined.generation_id)
}

#[test]
fn a_minute_without_room_costs_no_group_its_coordinator_and_no_member_its_place() {
    let disk = Arc::new(MemoryDisk::default());
    let small = disk.clone();
    sim::run_on(1, disk.clone(), move |host| async move {
        let configs = [&few_partitions()[..], &["group.initial.rebalance.delay.ms=0".to_owned()]].concat();
        let running = start_with(&host, &configs).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        assert_eq!(find(&mut client, "g").await, (0, 1));
        assert_eq!(committed(&host, &mut client, "g").await, Ok(-1));
        assert_eq!(commit(&mut client, "g", 5).await, 0);
        let (calm, calm_generation) = stable(&mut client, "calm").await;
        let (member, first) = stable(&mut client, "old").await;
        let (error, epoch) = beat(&mut client, 0).await;
        assert_eq!(error, 0);

        small.set_capacity_bytes(Some(0));
        let mut refused = BTreeMap::<i16, u32>::new();
        let full_until = host.mono().plus_ms(MINUTE_MS);
        let mut generation = first;
        while host.mono() < full_until {
            for group in ["a", "b", "c", "g"] {
                *refused.entry(commit(&mut client, group, 6).await).or_default() += 1;
            }
            let deleted = DeleteGroupsRequest { groups_names: vec!["g".into()] };
            let deleted = client.call(&deleted, 2).await.results[0].error_code;
            *refused.entry(deleted).or_default() += 1;
            // Its leader asks for another round, which cannot be written down.
            let joined = join(&mut client, "old", &member).await;
            assert_eq!((joined.error_code, joined.generation_id), (0, generation + 1));
            generation = joined.generation_id;
            *refused.entry(sync(&mut client, "old", &member, generation).await).or_default() += 1;
            // A coordinator that loads again would say so.
            assert_eq!(committed(&host, &mut client, "g").await, Ok(5));
            assert_eq!(beat(&mut client, epoch).await, (0, epoch));
            assert_eq!(heartbeat(&mut client, "calm", &calm, calm_generation).await, 0);
            host.sleep_until(host.mono().plus_ms(1_000)).await;
        }
        assert_eq!(refused.keys().copied().collect::<Vec<_>>(), [NOT_COORDINATOR], "{refused:?}");
        small.set_capacity_bytes(None);

        assert_eq!(beat(&mut client, epoch).await, (0, epoch));
        assert_eq!(heartbeat(&mut client, "calm", &calm, calm_generation).await, 0);
        let joined = join(&mut client, "old", &member).await;
        assert_eq!(sync(&mut client, "old", &member, joined.generation_id).await, 0);
        assert_eq!(commit(&mut client, "g", 7).await, 0);
        assert_eq!(committed(&host, &mut client, "g").await, Ok(7));
    });
    for seed in 0..5 {
        let (left, _) = sim::run_on(2, Arc::new(disk.after_power_cut(seed)), |host| async move {
            let running = start_with(&host, &few_partitions()).await.expect("starts");
            let mut client = Client::connect(&host, &running);
            (committed(&host, &mut client, "g").await, committed(&host, &mut client, "a").await)
        });
        assert_eq!(left, (Ok(7), Ok(-1)), "what was answered counts, and what was refused does not");
    }
}

#[test]
fn a_heartbeat_that_makes_more_than_a_batch_costs_no_group_its_coordinator() {
    sim::run(1, |host| async move {
        let configs = [&few_partitions()[..], &["message.max.bytes=1000".to_owned()]].concat();
        let running = start_with(&host, &configs).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        assert_eq!(find(&mut client, "g").await, (0, 1));
        assert_eq!(committed(&host, &mut client, "new").await, Ok(-1));
        let (error, epoch) = beat(&mut client, 0).await;
        assert_eq!(error, 0);
        let names = (0..100).map(|index| format!("topic-that-is-not-there-{index}").into()).collect();
        let request = ConsumerGroupHeartbeatRequest {
            group_id: "new".into(),
            member_id: "large".into(),
            rebalance_timeout_ms: 10_000,
            subscribed_topic_names: Some(names),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        assert_eq!(client.call(&request, 1).await.error_code, UNKNOWN_SERVER_ERROR);
        assert_eq!(beat(&mut client, epoch).await, (0, epoch));
    });
}

/// Its machine is dropped for what it cannot write; loading it again and again would help nobody.
#[test]
fn the_coordinator_of_transactions_loads_less_and_less_often_without_room_and_serves_soon_with_it() {
    let disk = Arc::new(MemoryDisk::default());
    let small = disk.clone();
    sim::run_on(1, disk, move |host| async move {
        let configs = ["transaction.state.log.num.partitions=1".to_owned()];
        let running = start_with(&host, &configs).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        let find =
            FindCoordinatorRequest { key_type: 1, coordinator_keys: vec!["x".into()], ..Default::default() };
        assert_eq!(client.call(&find, 4).await.coordinators[0].error_code, 0);
        let request = InitProducerIdRequest {
            transactional_id: Some("x".into()),
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        while client.call(&request, 4).await.error_code != 0 {
            host.sleep_until(host.mono().plus_ms(10)).await;
        }
        small.set_capacity_bytes(Some(0));
        let mut refused = BTreeMap::<i16, u32>::new();
        let full_until = host.mono().plus_ms(MINUTE_MS);
        while host.mono() < full_until {
            *refused.entry(client.call(&request, 4).await.error_code).or_default() += 1;
            host.sleep_until(host.mono().plus_ms(100)).await;
        }
        small.set_capacity_bytes(None);
        assert_eq!(refused.keys().copied().collect::<Vec<_>>(), [LOADING, NOT_COORDINATOR], "{refused:?}");
        // Each of these cost a load; without a pause all 600 did.
        assert!(refused[&NOT_COORDINATOR] <= 12, "{refused:?}");
        host.sleep_until(host.mono().plus_ms(8_000)).await;
        assert_eq!(client.call(&request, 4).await.error_code, 0);
    });
}
