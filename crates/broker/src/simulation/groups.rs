//! Offsets of groups through the whole broker: committed, fetched, lost by nothing.

use klamm_protocol::messages::delete_topics::DeleteTopicsRequest;
use klamm_protocol::messages::find_coordinator::FindCoordinatorRequest;
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};

use super::*;

const UNKNOWN_SERVER_ERROR: i16 = -1;
const LOADING: i16 = 14;

pub(super) fn few_partitions() -> [String; 1] {
    ["offsets.topic.num.partitions=3".to_owned()]
}

pub(super) async fn find(client: &mut Client, group: &str) -> (i16, i32) {
    let request =
        FindCoordinatorRequest { coordinator_keys: vec![group.to_owned().into()], ..Default::default() };
    let found = client.call(&request, 4).await.coordinators.remove(0);
    (found.error_code, found.node_id)
}

/// Commits without being a member.
pub(super) async fn commit(client: &mut Client, group: &str, offset: i64) -> i16 {
    let partition = OffsetCommitRequestPartition {
        partition_index: 0,
        committed_offset: offset,
        committed_metadata: Some("why".into()),
        ..Default::default()
    };
    let topic =
        OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: group.to_owned().into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    client.call(&request, 8).await.topics[0].partitions[0].error_code
}

/// Of `t-0`.
pub(super) fn offset_request(group: &str, require_stable: bool) -> OffsetFetchRequest {
    let topic =
        OffsetFetchRequestTopics { name: "t".into(), partition_indexes: vec![0], ..Default::default() };
    let asked = OffsetFetchRequestGroup {
        group_id: group.to_owned().into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    OffsetFetchRequest { groups: vec![asked], require_stable, ..Default::default() }
}

/// The committed offset, asked for until its coordinator has loaded.
pub(super) async fn committed(host: &SimHost, client: &mut Client, group: &str) -> Result<i64, i16> {
    let request = offset_request(group, false);
    loop {
        let response = client.call(&request, 8).await;
        match response.groups[0].error_code {
            0 => return Ok(response.groups[0].topics[0].partitions[0].committed_offset),
            LOADING => host.sleep_until(host.mono().plus_ms(10)).await,
            error => return Err(error),
        }
    }
}

/// Topic `t`, and group `g` with a coordinator that has loaded.
pub(super) async fn prepare(host: &SimHost, client: &mut Client) {
    client.create_topic("t", 1).await;
    assert_eq!(find(client, "g").await, (0, 1));
    assert_eq!(committed(host, client, "g").await, Ok(-1));
}

#[test]
fn the_first_question_creates_the_topic_and_is_answered() {
    sim::run(1, |host| async move {
        let running = start_with(&host, &few_partitions()).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        assert_eq!(find(&mut client, "g").await, (0, 1));
        let topic = MetadataRequestTopic { name: Some("__consumer_offsets".into()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        let topic = client.call(&request, 9).await.topics.remove(0);
        assert_eq!((topic.partitions.len(), topic.is_internal), (3, true));
    });
}

#[test]
fn a_committed_offset_survives_a_power_cut_and_a_clean_stop() {
    for is_clean in [false, true] {
        let disk = Arc::new(MemoryDisk::default());
        sim::run_on(1, disk.clone(), move |host| async move {
            let running = start_with(&host, &few_partitions()).await.expect("starts");
            let mut client = Client::connect(&host, &running);
            prepare(&host, &mut client).await;
            for offset in [5, 7, 6] {
                assert_eq!(commit(&mut client, "g", offset).await, 0);
            }
            assert_eq!(committed(&host, &mut client, "g").await, Ok(6), "the last one counts");
            if is_clean {
                drop(client);
                assert!(running.stop().await);
            }
        });
        for seed in 0..10 {
            let (left, _) = sim::run_on(2, Arc::new(disk.after_power_cut(seed)), |host| async move {
                let running = start_with(&host, &few_partitions()).await.expect("starts");
                let mut client = Client::connect(&host, &running);
                committed(&host, &mut client, "g").await
            });
            assert_eq!(left, Ok(6));
        }
    }
}

#[test]
fn an_unknown_partition_is_refused_and_the_group_of_nobody_has_no_offsets() {
    sim::run(1, |host| async move {
        let running = start_with(&host, &few_partitions()).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        assert_eq!(find(&mut client, "g").await, (0, 1));
        assert_eq!(commit(&mut client, "g", 1).await, 3, "no such topic");
        assert_eq!(committed(&host, &mut client, "other").await, Ok(-1));
    });
}

#[test]
fn a_deleted_topic_takes_its_offsets_with_it() {
    sim::run(1, |host| async move {
        let running = start_with(&host, &few_partitions()).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        prepare(&host, &mut client).await;
        assert_eq!(commit(&mut client, "g", 5).await, 0);
        let request =
            DeleteTopicsRequest { topic_names: vec!["t".into()], timeout_ms: 1_000, ..Default::default() };
        assert_eq!(client.call(&request, 5).await.responses[0].error_code, 0);
        client.create_topic("t", 1).await;
        assert_eq!(committed(&host, &mut client, "g").await, Ok(-1));
    });
}

#[test]
fn a_commit_that_the_disk_has_no_room_for_is_refused_and_later_ones_go_on() {
    let disk = Arc::new(MemoryDisk::default());
    let small = disk.clone();
    sim::run_on(1, disk, move |host| async move {
        let running = start_with(&host, &few_partitions()).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        prepare(&host, &mut client).await;
        assert_eq!(commit(&mut client, "g", 5).await, 0);
        small.set_capacity_bytes(Some(0));
        assert_ne!(commit(&mut client, "g", 6).await, 0);
        small.set_capacity_bytes(None);
        host.sleep_until(host.mono().plus_ms(1_000)).await;
        assert_eq!(committed(&host, &mut client, "g").await, Ok(5));
        assert_eq!(commit(&mut client, "g", 7).await, 0);
        assert_eq!(committed(&host, &mut client, "g").await, Ok(7));
    });
}

/// A request names a partition as often as it likes; each time costs a record with all the names.
#[test]
fn a_commit_that_is_too_large_is_refused_and_costs_no_group_its_coordinator() {
    sim::run(1, |host| async move {
        let configs = [&few_partitions()[..], &["message.max.bytes=1000".to_owned()]].concat();
        let running = start_with(&host, &configs).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        prepare(&host, &mut client).await;
        for (count, error) in [(11, 0), (12, UNKNOWN_SERVER_ERROR), (100_000, UNKNOWN_SERVER_ERROR)] {
            let partition = OffsetCommitRequestPartition { committed_offset: count, ..Default::default() };
            let partitions = vec![partition; count as usize];
            let topic = OffsetCommitRequestTopic { name: "t".into(), partitions, ..Default::default() };
            let request = OffsetCommitRequest {
                group_id: "g".into(),
                generation_id_or_member_epoch: -1,
                topics: vec![topic],
                ..Default::default()
            };
            let answered = client.call(&request, 8).await.topics.remove(0).partitions;
            assert_eq!(answered.len(), count as usize);
            assert!(answered.iter().all(|partition| partition.error_code == error), "{count} times");
            // A coordinator that loads again would say so.
            assert_eq!(commit(&mut client, "other", 1).await, 0);
        }
        assert_eq!(committed(&host, &mut client, "g").await, Ok(11));
    });
}

/// Topics that are not there, by the ten thousand: quick, and each answered once. All offsets of a group and its
/// partitions' metadata are told once however often they are asked for.
#[test]
fn what_is_named_again_and_again_is_told_once() {
    sim::run(1, |host| async move {
        let running = start_with(&host, &few_partitions()).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        assert_eq!(find(&mut client, "g").await, (0, 1));
        assert_eq!(committed(&host, &mut client, "g").await, Ok(-1));
        assert_eq!(commit(&mut client, "g", 5).await, 0);
        let topic = |index: usize| OffsetCommitRequestTopic {
            name: format!("missing-{}", index % 20_000).into(),
            partitions: vec![OffsetCommitRequestPartition::default()],
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: -1,
            topics: (0..40_000).map(topic).collect(),
            ..Default::default()
        };
        let answered = client.call(&request, 8).await.topics;
        assert_eq!(answered.len(), 20_000);
        assert!(answered.iter().all(|topic| topic.partitions.len() == 2));

        let topic = |name: &'static str, indexes: &[i32]| OffsetFetchRequestTopics {
            name: name.into(),
            partition_indexes: indexes.to_vec(),
            ..Default::default()
        };
        let asked = |topics| OffsetFetchRequestGroup { group_id: "g".into(), topics, ..Default::default() };
        let some = asked(Some(vec![topic("t", &[0; 100]), topic("u", &[1]), topic("t", &[0, 1])]));
        let request = OffsetFetchRequest { groups: vec![some; 100], ..Default::default() };
        let told = client.call(&request, 8).await.groups;
        let told: Vec<(&str, Vec<i64>)> = told
            .iter()
            .flat_map(|group| &group.topics)
            .map(|topic| {
                (&*topic.name, topic.partitions.iter().map(|partition| partition.committed_offset).collect())
            })
            .collect();
        assert_eq!(told, [("t", vec![5]), ("u", vec![-1]), ("t", vec![-1])]);
    });
}
