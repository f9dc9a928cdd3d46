//! Several log directories: which gets what, what a failed one takes with it, and what the others go on with.

use std::io;
use std::path::Path;

use klamm_log::disk::Fault;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_log_dirs::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use super::*;
use crate::log_dirs::LogDirsError;

const BROKER: i8 = 4;
const DIRS: &str = "log.dirs=/a,/b";
const STORAGE_ERROR: i16 = 56;

async fn start_on(host: &SimHost, more: &[&str]) -> Running<SimHost> {
    try_start_on(host, more).await.expect("starts")
}

async fn try_start_on(host: &SimHost, more: &[&str]) -> Result<Running<SimHost>, StartError> {
    let more: Vec<String> = [DIRS].iter().chain(more).map(|&property| property.to_owned()).collect();
    start_with(host, &more).await
}

async fn produce(client: &mut Client, partition: i32) -> i16 {
    let response = client.call(&produce_request("t", partition, batch(&["v"])), 9).await;
    response.responses[0].partition_responses[0].error_code
}

async fn describe(client: &mut Client) -> DescribeLogDirsResponse {
    client.call(&DescribeLogDirsRequest { topics: None }, 5).await
}

/// Which partitions of `t` lie where; an error in place of a directory's.
async fn places(client: &mut Client) -> Vec<(String, Result<Vec<i32>, i16>)> {
    let of = |result: &klamm_protocol::messages::describe_log_dirs::DescribeLogDirsResult| {
        let listed = result.topics.iter().flat_map(|topic| &topic.partitions);
        let found = listed.map(|partition| partition.partition_index).collect();
        (result.log_dir.to_string(), if result.error_code == 0 { Ok(found) } else { Err(result.error_code) })
    };
    describe(client).await.results.iter().map(of).collect()
}

async fn leaders(client: &mut Client) -> Vec<(i32, Vec<i32>)> {
    let topics = Some(vec![MetadataRequestTopic { name: Some("t".into()), ..Default::default() }]);
    let response = client.call(&MetadataRequest { topics, ..Default::default() }, 9).await;
    let mut leaders: Vec<_> = response.topics[0].partitions.iter().collect();
    leaders.sort_by_key(|partition| partition.partition_index);
    leaders.iter().map(|partition| (partition.leader_id, partition.offline_replicas.clone())).collect()
}

async fn wait_ms(host: &SimHost, ms: u64) {
    host.sleep_until(MonoMs(host.mono().0 + ms)).await;
}

async fn cordon(client: &mut Client, dirs: &str) -> i16 {
    let config = AlterableConfig {
        name: "cordoned.log.dirs".into(),
        value: Some(dirs.to_owned().into()),
        ..Default::default()
    };
    let resource =
        AlterConfigsResource { resource_type: BROKER, resource_name: "1".into(), configs: vec![config] };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    client.call(&request, 1).await.responses[0].error_code
}

#[test]
fn partitions_spread_and_a_failed_directory_goes_offline_alone_until_a_restart() {
    let disk = Arc::new(MemoryDisk::default());
    let faulty = disk.clone();
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 4).await;
        let both = vec![("/a".to_owned(), Ok(vec![0, 2])), ("/b".to_owned(), Ok(vec![1, 3]))];
        assert_eq!(places(&mut client).await, both);
        for partition in 0..4 {
            assert_eq!(produce(&mut client, partition).await, 0);
        }
        faulty.inject(Fault::Write(io::ErrorKind::ReadOnlyFilesystem));
        assert_eq!(produce(&mut client, 1).await, STORAGE_ERROR);
        // The other partition there, which saw no error of its own.
        assert_eq!(produce(&mut client, 3).await, STORAGE_ERROR);
        let fetched = client.call(&fetch_request("t", 3, 0, 0), 11).await;
        assert_eq!(fetched.responses[0].partitions[0].error_code, STORAGE_ERROR);
        assert_eq!((produce(&mut client, 0).await, produce(&mut client, 2).await), (0, 0));
        wait_ms(&host, 20).await;
        let half = vec![("/a".to_owned(), Ok(vec![0, 2])), ("/b".to_owned(), Err(STORAGE_ERROR))];
        assert_eq!(places(&mut client).await, half);
        let led = leaders(&mut client).await;
        assert_eq!(led.iter().map(|(leader, _)| *leader).collect::<Vec<_>>(), [1, -1, 1, -1]);
        assert_eq!(led[1].1, [1], "the replica is offline");
        client.create_topic("later", 2).await;
        assert_eq!(running.broker().topics.load().by_name("later").unwrap().partitions.load().len(), 2);
        drop(client);
        assert!(!running.stop().await, "one directory was not stopped cleanly");
    });
    assert!(disk.exists(Path::new("/a/.kafka_cleanshutdown")).unwrap(), "the other one was");
    assert!(!disk.exists(Path::new("/b/.kafka_cleanshutdown")).unwrap());
    sim::run_on(2, disk, |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        for partition in 0..4 {
            assert_eq!(produce(&mut client, partition).await, 0, "all are back");
        }
        assert!(leaders(&mut client).await.iter().all(|(leader, _)| *leader == 1));
    });
}

#[test]
fn a_failed_directory_with_the_metadata_log_ends_the_broker() {
    let disk = Arc::new(MemoryDisk::default());
    let faulty = disk.clone();
    sim::run_on(1, disk, |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 2).await;
        faulty.inject(Fault::Write(io::ErrorKind::Other));
        assert_eq!(produce(&mut client, 0).await, STORAGE_ERROR);
        let reason = running.lost().await;
        assert_eq!(reason, "the log directory /a with the metadata log has failed");
    });
}

#[test]
fn a_directory_that_cannot_be_read_at_start_is_offline_and_hides_its_partitions() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 2).await;
        assert_eq!((produce(&mut client, 0).await, produce(&mut client, 1).await), (0, 0));
        wait_ms(&host, 20).await;
        drop(client);
        assert!(running.stop().await);
    });
    // Something else has its name: nothing can be read there.
    disk.rename(Path::new("/b"), Path::new("/away")).unwrap();
    disk.open(Path::new("/b"), klamm_log::disk::OpenMode::Create).unwrap();
    sim::run_on(2, disk.clone(), |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        assert_eq!((produce(&mut client, 0).await, produce(&mut client, 1).await), (0, STORAGE_ERROR));
        let seen = vec![("/a".to_owned(), Ok(vec![0])), ("/b".to_owned(), Err(STORAGE_ERROR))];
        assert_eq!(places(&mut client).await, seen);
        assert_eq!(leaders(&mut client).await[1].0, -1);
        client.create_topic("new", 3).await;
        drop(client);
        assert!(running.stop().await);
    });
    disk.remove_file(Path::new("/b")).unwrap();
    disk.rename(Path::new("/away"), Path::new("/b")).unwrap();
    sim::run_on(3, disk, |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        let fetched = client.call(&fetch_request("t", 1, 0, 0), 11).await;
        assert_eq!(values(&fetched), ["v"]);
        assert_eq!(produce(&mut client, 1).await, 0);
    });
}

#[test]
fn the_directory_with_the_metadata_log_must_be_readable_at_start() {
    let disk = Arc::new(MemoryDisk::default());
    disk.open(Path::new("/a"), klamm_log::disk::OpenMode::Create).unwrap();
    sim::run_on(1, disk, |host| async move {
        let refused = try_start_on(&host, &[]).await.err().expect("refused").to_string();
        assert!(refused.contains("/a"), "{refused}");
    });
}

#[test]
fn one_partition_in_two_directories_is_refused() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start_on(&host, &[]).await;
        Client::connect(&host, &running).create_topic("t", 1).await;
    });
    disk.create_dir_all(Path::new("/b/t-0")).unwrap();
    sim::run_on(2, disk, |host| async move {
        let refused = try_start_on(&host, &[]).await.err();
        assert!(matches!(refused, Some(StartError::LogDirs(LogDirsError::Duplicate { .. }))), "{refused:?}");
    });
}

#[test]
fn the_controller_learns_where_partitions_lie_and_keeps_it() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk, |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 2).await;
        wait_ms(&host, 20).await;
        let image = running.broker().image.load();
        let topic = image.topic_by_name("t").expect("created");
        let assigned: Vec<_> = topic.partitions.values().map(|partition| partition.directories[0]).collect();
        assert_eq!(assigned, running.broker().dirs.online());
    });
}

#[test]
fn a_cordoned_directory_takes_nothing_new_and_says_so() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        assert_eq!(cordon(&mut client, "/nowhere").await, ErrorCode::InvalidRequest.code());
        assert_eq!(cordon(&mut client, "/a").await, 0);
        wait_ms(&host, 20).await;
        client.create_topic("t", 3).await;
        let seen = vec![("/a".to_owned(), Ok(vec![])), ("/b".to_owned(), Ok(vec![0, 1, 2]))];
        assert_eq!(places(&mut client).await, seen);
        let flags: Vec<bool> =
            describe(&mut client).await.results.iter().map(|dir| dir.is_cordoned).collect();
        assert_eq!(flags, [true, false]);
        assert_eq!(cordon(&mut client, "*").await, 0);
        wait_ms(&host, 20).await;
        let topic = CreatableTopic {
            name: "none".into(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let refused = client.call(&request, 5).await;
        assert_eq!(refused.topics[0].error_code, ErrorCode::InvalidReplicationFactor.code());
        drop(client);
        assert!(running.stop().await);
    });
    sim::run_on(2, disk, |host| async move {
        let running = start_on(&host, &[]).await;
        let image = running.broker().image.load();
        let known = image.brokers().values().next().and_then(|broker| broker.cordoned_directories.clone());
        assert_eq!(known, Some(running.broker().dirs.online()), "registered with what is cordoned");
    });
}

#[test]
fn a_topic_that_was_created_on_a_full_disk_gets_its_files_once_there_is_room() {
    let disk = Arc::new(MemoryDisk::default());
    let full = disk.clone();
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start_on(&host, &[]).await;
        let mut client = Client::connect(&host, &running);
        // The first file that is created is one of the topic's.
        full.inject(Fault::Create(io::ErrorKind::StorageFull));
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, 0).await, STORAGE_ERROR);
        wait_ms(&host, 5_100).await;
        assert_eq!(produce(&mut client, 0).await, 0, "there was room when it was tried again");
        drop(client);
        assert!(!running.stop().await, "the next start looks at all logs");
    });
}

#[test]
fn a_full_disk_refuses_appends_keeps_reads_and_heals() {
    for slack_bytes in 0..90 {
        let disk = Arc::new(MemoryDisk::default());
        let full = disk.clone();
        sim::run_on(1, disk.clone(), |host| async move {
            let running = start_on(&host, &[]).await;
            let mut client = Client::connect(&host, &running);
            client.create_topic("t", 1).await;
            assert_eq!(produce(&mut client, 0).await, 0);
            wait_ms(&host, 20).await;
            full.set_capacity_bytes(Some(1 << 40));
            let used_bytes = (1 << 40) - full.available_bytes(Path::new("/a")).unwrap();
            full.set_capacity_bytes(Some(used_bytes + slack_bytes));
            let mut written = 1;
            while produce(&mut client, 0).await == 0 {
                written += 1;
            }
            assert_eq!(produce(&mut client, 0).await, STORAGE_ERROR);
            let fetched = client.call(&fetch_request("t", 0, 0, 0), 11).await;
            assert_eq!(values(&fetched).len(), written, "reads go on");
            full.set_capacity_bytes(None);
            assert_eq!(produce(&mut client, 0).await, 0, "healed without a restart");
            let fetched = client.call(&fetch_request("t", 0, 0, 0), 11).await;
            assert_eq!(values(&fetched).len(), written + 1);
            drop(client);
            assert!(running.stop().await);
        });
    }
}
