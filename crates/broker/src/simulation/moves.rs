//! Partitions that move to another log directory while they are written, and what a power cut leaves of it.

use std::path::Path;

use klamm_log::disk::Fault;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use klamm_protocol::messages::describe_log_dirs::DescribeLogDirsRequest;

use super::*;

async fn start_on(host: &SimHost) -> Running<SimHost> {
    let more = ["log.dirs=/a,/b", "log.segment.bytes=1048576"].map(str::to_owned);
    start_with(host, &more).await.expect("starts")
}

async fn ask(client: &mut Client, partition: i32, path: &str) -> i16 {
    let topic = AlterReplicaLogDirTopic { name: "t".into(), partitions: vec![partition] };
    let dir = AlterReplicaLogDir { path: path.to_owned().into(), topics: vec![topic] };
    let response = client.call(&AlterReplicaLogDirsRequest { dirs: vec![dir] }, 2).await;
    response.results[0].partitions[0].error_code
}

async fn produce(client: &mut Client, value: &str) -> bool {
    let response = client.call(&produce_request("t", 0, batch(&[value])), 9).await;
    response.responses[0].partition_responses[0].error_code == 0
}

/// The directories that list `t-0`, and whether as a copy on its way.
async fn places(client: &mut Client) -> Vec<(String, bool)> {
    let described = client.call(&DescribeLogDirsRequest { topics: None }, 5).await;
    let mut found = Vec::new();
    for dir in &described.results {
        let listed = dir.topics.iter().flat_map(|topic| &topic.partitions);
        found.extend(listed.map(|one| (dir.log_dir.to_string(), one.is_future_key)));
    }
    found
}

async fn all_values(client: &mut Client) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let offset = i64::try_from(all.len()).expect("few");
        let response = client.call(&fetch_request("t", 0, offset, 0), 11).await;
        assert_eq!(response.responses[0].partitions[0].error_code, 0);
        let found = values(&response);
        if found.is_empty() {
            return all;
        }
        all.extend(found);
    }
}

async fn wait_ms(host: &SimHost, ms: u64) {
    host.sleep_until(MonoMs(host.mono().0 + ms)).await;
}

#[test]
fn a_partition_moves_with_all_its_segments_while_it_is_written() {
    let disk = Arc::new(MemoryDisk::default());
    let names = disk.clone();
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start_on(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        let big = "x".repeat(300_000);
        let mut expected = Vec::new();
        for _ in 0..40 {
            assert!(produce(&mut client, &big).await);
            expected.push(big.clone());
        }
        assert_eq!(ask(&mut client, 0, "/b").await, 0);
        let (mut number, mut was_seen_moving) = (0, false);
        while places(&mut client).await != [("/b".to_owned(), false)] {
            number += 1;
            was_seen_moving |= places(&mut client).await.contains(&("/b".to_owned(), true));
            let value = number.to_string();
            if produce(&mut client, &value).await {
                expected.push(value);
            }
            wait_ms(&host, 1).await;
            assert!(number < 1_000, "the move ends");
        }
        assert!(was_seen_moving && number > 1);
        assert!(produce(&mut client, "last").await);
        expected.push("last".to_owned());
        assert!(all_values(&mut client).await == expected, "everything is there, once and in order");
        wait_ms(&host, 20).await;
        let left: Vec<_> = names.list_dir(Path::new("/a")).unwrap();
        assert!(left.iter().all(|entry| !entry.name.starts_with("t-0")), "{left:?}");
        let image = running.broker().image.load();
        let partition = &image.topic_by_name("t").unwrap().partitions[&PartitionIndex(0)];
        assert_eq!(partition.directories, [running.broker().dirs.online()[1]]);
        drop(client);
        assert!(running.stop().await);
        expected.len()
    });
    sim::run_on(2, disk, |host| async move {
        let running = start_on(&host).await;
        let mut client = Client::connect(&host, &running);
        assert_eq!(places(&mut client).await, [("/b".to_owned(), false)]);
        assert_eq!(all_values(&mut client).await.last().map(String::as_str), Some("last"));
        assert!(produce(&mut client, "more").await);
    });
}

#[test]
fn moves_that_cannot_be_are_refused_and_one_is_taken_back() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start_on(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        assert_eq!(ask(&mut client, 0, "/c").await, ErrorCode::LogDirNotFound.code());
        assert_eq!(ask(&mut client, 7, "/b").await, ErrorCode::UnknownTopicOrPartition.code());
        assert_eq!(ask(&mut client, 0, "/b").await, 0);
        assert_eq!(ask(&mut client, 0, "/a").await, 0);
        wait_ms(&host, 100).await;
        assert_eq!(places(&mut client).await, [("/a".to_owned(), false)]);
        assert!(produce(&mut client, "v").await);
    });
}

#[test]
fn a_move_that_fails_leaves_the_partition_where_it_was() {
    for calls in 0..12 {
        let disk = Arc::new(MemoryDisk::default());
        let faulty = disk.clone();
        sim::run_on(1, disk, |host| async move {
            let running = start_on(&host).await;
            let mut client = Client::connect(&host, &running);
            client.create_topic("t", 1).await;
            assert!(produce(&mut client, "a").await);
            wait_ms(&host, 2_000).await;
            faulty.inject_after(calls, Fault::Write(std::io::ErrorKind::StorageFull));
            assert_eq!(ask(&mut client, 0, "/b").await, 0);
            wait_ms(&host, 200).await;
            faulty.clear_faults();
            assert_eq!(all_values(&mut client).await, ["a"], "{calls}");
            assert!(produce(&mut client, "b").await, "{calls}");
            assert_eq!(places(&mut client).await.len(), 1);
        });
    }
}

/// Produces while a move goes on, until the power goes or the move is over; what was acknowledged.
async fn move_under_load(host: SimHost, disk: Arc<MemoryDisk>, cut_after: Option<u64>) -> (Vec<String>, u64) {
    let running = start_on(&host).await;
    let mut client = Client::connect(&host, &running);
    client.create_topic("t", 1).await;
    let mut acknowledged = Vec::new();
    for value in ["a", "b", "c"] {
        assert!(produce(&mut client, value).await);
        acknowledged.push(value.to_owned());
    }
    wait_ms(&host, 50).await;
    let began = disk.steps_done();
    if let Some(steps) = cut_after {
        disk.cut_power_after(steps);
    }
    ask(&mut client, 0, "/b").await;
    for number in 0..30 {
        let value = number.to_string();
        if produce(&mut client, &value).await {
            acknowledged.push(value);
        }
        if disk.is_off() {
            break;
        }
        wait_ms(&host, 2).await;
    }
    (acknowledged, disk.steps_done() - began)
}

#[test]
fn a_power_cut_at_any_step_of_a_move_loses_nothing_that_was_acknowledged() {
    let disk = Arc::new(MemoryDisk::default());
    let of_run = disk.clone();
    let ((_, steps), _) = sim::run_on(1, disk, |host| move_under_load(host, of_run, None));
    assert!(steps > 30, "{steps}");
    for cut in 0..steps {
        let disk = Arc::new(MemoryDisk::default());
        let of_run = disk.clone();
        let ((acknowledged, _), _) =
            sim::run_on(1, disk.clone(), |host| move_under_load(host, of_run, Some(cut)));
        let found = Arc::new(disk.after_power_cut(cut));
        sim::run_on(2, found, |host| async move {
            let running = start_on(&host).await;
            let mut client = Client::connect(&host, &running);
            let all = all_values(&mut client).await;
            let is_there = |value: &String| all.contains(value);
            assert!(acknowledged.iter().all(is_there), "cut at {cut}: {acknowledged:?} in {all:?}");
            // The move that was interrupted begins anew, unless it was over or not begun.
            wait_ms(&host, 200).await;
            assert!(produce(&mut client, "after").await, "cut at {cut}");
            assert_eq!(places(&mut client).await.len(), 1, "cut at {cut}");
            assert_eq!(all_values(&mut client).await.len(), all.len() + 1, "cut at {cut}");
        });
    }
}
