//! What a kill at a bad moment leaves behind, and what the next start makes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_log::directory::partition_metadata;
use klamm_log::disk::{Disk, Fault, MemoryDisk};
use klamm_protocol::ids::{PartitionIndex, TopicId, Uuid};
use klamm_protocol::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use klamm_protocol::messages::delete_topics::DeleteTopicsRequest;
use klamm_protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use klamm_protocol::time::MonoMs;

use crate::Running;
use crate::boot::StartError;
use crate::host::Host;
use crate::host::sim::{self, SimHost};
use crate::log_dirs::LogDirsError;
use crate::simulation::{Client, batch, fetch_request, produce_request, start, try_start, values};

const OTHER: TopicId = TopicId(Uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
const MARKER: &str = "/data/.kafka_cleanshutdown";

async fn delete_records(client: &mut Client, offset: i64) {
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset, ..Default::default() }];
    let topics = vec![DeleteRecordsTopic { name: "t".into(), partitions, ..Default::default() }];
    let response = client.call(&DeleteRecordsRequest { topics, ..Default::default() }, 1).await;
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
}

async fn delete_topic(client: &mut Client) {
    let request = DeleteTopicsRequest { topic_names: vec!["t".into()], ..Default::default() };
    assert_eq!(client.call(&request, 5).await.responses[0].error_code, 0);
}

async fn produce(client: &mut Client, value: &str) -> i16 {
    let response = client.call(&produce_request("t", 0, batch(&[value])), 9).await;
    response.responses[0].partition_responses[0].error_code
}

async fn log_start(client: &mut Client) -> i64 {
    let partitions = vec![ListOffsetsPartition { timestamp: -2, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: "t".into(), partitions, ..Default::default() }];
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    client.call(&request, 4).await.topics[0].partitions[0].offset
}

async fn started(host: &SimHost) -> (Running<SimHost>, Client) {
    let running = start(host).await;
    let client = Client::connect(host, &running);
    (running, client)
}

fn names(disk: &MemoryDisk) -> Vec<String> {
    disk.list_dir(Path::new("/data")).unwrap().into_iter().map(|entry| entry.name).collect()
}

#[test]
fn a_new_topic_does_not_inherit_the_log_start_of_its_name() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let (_running, mut client) = started(&host).await;
        client.create_topic("t", 1).await;
        for value in ["a", "b", "c"] {
            assert_eq!(produce(&mut client, value).await, 0);
        }
        delete_records(&mut client, 3).await;
        delete_topic(&mut client).await;
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, "x").await, 0);
        // Killed.
    });
    sim::run_on(2, disk, |host| async move {
        let (_running, mut client) = started(&host).await;
        assert_eq!(values(&client.call(&fetch_request("t", 0, 0, 0), 11).await), ["x"]);
    });
}

#[test]
fn what_an_interrupted_deletion_left_is_set_aside_and_the_name_is_free() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let (running, mut client) = started(&host).await;
        client.create_topic("other", 1).await;
        drop(client);
        assert!(running.stop().await);
    });
    // The metadata has let go of the topic, its directory was not renamed yet.
    let stray = |disk: &MemoryDisk| {
        disk.create_dir_all(Path::new("/data/t-0")).unwrap();
        partition_metadata::write(disk, Path::new("/data/t-0"), OTHER).unwrap();
    };
    stray(&disk);
    let second = disk.clone();
    sim::run_on(2, disk.clone(), |host| async move {
        let (running, mut client) = started(&host).await;
        assert!(!second.exists(Path::new("/data/t-0")).unwrap());
        assert!(names(&second).iter().any(|name| name.starts_with("t-0.") && name.ends_with("-stray")));
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, "x").await, 0);
        delete_topic(&mut client).await;
        // The same while running: a removal that failed.
        second
            .remove_dir_all(
                &PathBuf::from("/data")
                    .join(names(&second).into_iter().find(|name| name.ends_with("-stray")).unwrap()),
            )
            .unwrap();
        stray(&second);
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, "y").await, 0);
        drop(client);
        assert!(running.stop().await);
    });
}

#[test]
fn a_log_that_cannot_be_opened_keeps_its_log_start_and_the_stop_from_being_clean() {
    let disk = Arc::new(MemoryDisk::default());
    let metadata = Path::new("/data/t-0/partition.metadata");
    sim::run_on(1, disk.clone(), |host| async move {
        let (running, mut client) = started(&host).await;
        client.create_topic("t", 1).await;
        for value in ["a", "b", "c"] {
            assert_eq!(produce(&mut client, value).await, 0);
        }
        delete_records(&mut client, 2).await;
        drop(client);
        assert!(running.stop().await);
    });
    assert!(disk.exists(Path::new(MARKER)).unwrap());
    let right = disk.read_file(metadata, 999).unwrap();
    // A file that cannot be read at all; one with nonsense in it would be written anew.
    disk.remove_file(metadata).unwrap();
    disk.create_dir_all(metadata).unwrap();
    sim::run_on(2, disk.clone(), |host| async move {
        let (running, mut client) = started(&host).await;
        assert_eq!(produce(&mut client, "x").await, 56, "KAFKA_STORAGE_ERROR");
        drop(client);
        assert!(!running.stop().await);
    });
    assert!(!disk.exists(Path::new(MARKER)).unwrap());
    disk.remove_dir_all(metadata).unwrap();
    disk.write_file_atomically(metadata, &right).unwrap();
    sim::run_on(3, disk.clone(), |host| async move {
        let (running, mut client) = started(&host).await;
        assert_eq!(log_start(&mut client).await, 2);
        assert_eq!(produce(&mut client, "d").await, 0);
        drop(client);
        assert!(running.stop().await);
    });
    assert!(disk.exists(Path::new(MARKER)).unwrap());
}

#[test]
fn a_failed_flush_keeps_the_stop_from_being_clean() {
    let disk = Arc::new(MemoryDisk::default());
    let faulty = disk.clone();
    sim::run_on(1, disk.clone(), |host| async move {
        let (running, mut client) = started(&host).await;
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, "a").await, 0);
        faulty.inject(Fault::Sync(std::io::ErrorKind::Other));
        assert_eq!(produce(&mut client, "b").await, 56, "KAFKA_STORAGE_ERROR");
        // The directory is offline: no flush is tried again, however well it would go.
        assert_eq!(produce(&mut client, "c").await, 56, "KAFKA_STORAGE_ERROR");
        drop(client);
        assert!(!running.stop().await);
    });
    assert!(!disk.exists(Path::new(MARKER)).unwrap());
}

#[test]
fn a_panic_with_the_log_closes_the_partition_and_nobody_waits_for_it() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let (running, mut client) = started(&host).await;
        client.create_topic("t", 1).await;
        let partition = {
            let topics = running.broker().topics.load();
            topics.by_name("t").unwrap().partition(PartitionIndex(0)).unwrap()
        };
        let (culprit, culprits_host) = (partition.clone(), host.clone());
        host.spawn("panics", async move {
            culprit.with_log(&culprits_host, |_| panic!("as this test wants it")).await;
        });
        host.sleep_until(MonoMs(host.mono().0 + 10)).await;
        assert_eq!(produce(&mut client, "a").await, 6, "NOT_LEADER_OR_FOLLOWER");
        delete_records_of_closed(&mut client).await;
        drop(client);
        assert!(!running.stop().await);
    });
    assert!(!disk.exists(Path::new(MARKER)).unwrap());
}

async fn delete_records_of_closed(client: &mut Client) {
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: 0, ..Default::default() }];
    let topics = vec![DeleteRecordsTopic { name: "t".into(), partitions, ..Default::default() }];
    let response = client.call(&DeleteRecordsRequest { topics, ..Default::default() }, 1).await;
    assert_ne!(response.topics[0].partitions[0].error_code, 0, "answered");
}

#[test]
fn a_topic_that_is_offline_can_be_deleted_with_its_files() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let (_running, mut client) = started(&host).await;
        client.create_topic("t", 1).await;
    });
    disk.write_file_atomically(Path::new("/data/t-0/partition.metadata"), b"nonsense").unwrap();
    sim::run_on(2, disk.clone(), |host| async move {
        let (_running, mut client) = started(&host).await;
        delete_topic(&mut client).await;
        assert!(!names(&disk).contains(&"t-0".to_owned()), "the name is free at once");
        host.sleep_until(MonoMs(host.mono().0 + 10)).await;
        assert!(names(&disk).iter().all(|name| !name.starts_with("t-0")), "the files go soon after");
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, "x").await, 0);
    });
}

#[test]
fn partitions_without_metadata_do_not_become_a_new_cluster() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let (_running, mut client) = started(&host).await;
        client.create_topic("t", 1).await;
    });
    disk.rename(Path::new("/data/__cluster_metadata-0"), Path::new("/elsewhere")).unwrap();
    sim::run_on(2, disk.clone(), |host| async move {
        let refused = try_start(&host).await.err();
        assert!(matches!(refused, Some(StartError::LogDirs(LogDirsError::NoMetadata { .. }))), "{refused:?}");
    });
    assert!(names(&disk).contains(&"t-0".to_owned()), "nothing was touched");
}

#[test]
fn a_first_start_that_was_killed_is_tried_again() {
    let disk = Arc::new(MemoryDisk::default());
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.write_file_atomically(Path::new("/data/meta.properties"), b"half").unwrap();
    disk.rename(Path::new("/data/meta.properties"), Path::new("/data/meta.properties.tmp")).unwrap();
    sim::run_on(1, disk, |host| async move {
        start(&host).await;
    });
}
