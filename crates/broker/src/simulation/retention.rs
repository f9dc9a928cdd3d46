//! Retention and DeleteRecords on simulated time: what goes, when, and what a kill leaves.

use std::path::Path;

use klamm_log::disk::Fault;
use klamm_protocol::messages::create_topics::CreatableTopicConfig;
use klamm_protocol::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use klamm_protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};

use super::*;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const OFFSET_OUT_OF_RANGE: i16 = 1;
const POLICY_VIOLATION: i16 = 44;
const KAFKA_STORAGE_ERROR: i16 = 56;
/// Room for two batches of one record.
const SEGMENT_BYTES: (&str, &str) = ("internal.segment.bytes", "150");
const FOR_EVER: (&str, &str) = ("retention.ms", "-1");

async fn started(host: &SimHost) -> (Running<SimHost>, Client) {
    let often = ["log.retention.check.interval.ms=1000".to_owned(), "log.initial.task.delay.ms=0".to_owned()];
    let running = start_with(host, &often).await.expect("starts");
    let client = Client::connect(host, &running);
    (running, client)
}

async fn create(client: &mut Client, configs: &[(&str, &str)]) {
    let configs = configs.iter().map(|(name, value)| CreatableTopicConfig {
        name: (*name).to_owned().into(),
        value: Some((*value).to_owned().into()),
        ..Default::default()
    });
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: 1,
        replication_factor: 1,
        configs: configs.collect(),
        ..Default::default()
    };
    let response = client.call(&CreateTopicsRequest { topics: vec![topic], ..Default::default() }, 5).await;
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
}

async fn alter(client: &mut Client, resource_type: i8, resource: &str, name: &str, value: &str) {
    let config = AlterableConfig {
        name: name.to_owned().into(),
        value: Some(value.to_owned().into()),
        ..Default::default()
    };
    let resource = AlterConfigsResource {
        resource_type,
        resource_name: resource.to_owned().into(),
        configs: vec![config],
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let response = client.call(&request, 1).await;
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
}

async fn produce(client: &mut Client, count: usize) {
    for _ in 0..count {
        base_offset(&client.call(&produce_request("t", 0, batch(&["x"])), 9).await);
    }
}

async fn offset(client: &mut Client, timestamp: i64) -> i64 {
    let partitions = vec![ListOffsetsPartition { timestamp, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: "t".into(), partitions, ..Default::default() }];
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    client.call(&request, 4).await.topics[0].partitions[0].offset
}

async fn log_start(client: &mut Client) -> i64 {
    offset(client, -2).await
}

async fn delete_records(client: &mut Client, offset: i64) -> (i16, i64) {
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset, ..Default::default() }];
    let topics = vec![DeleteRecordsTopic { name: "t".into(), partitions, ..Default::default() }];
    let response = client.call(&DeleteRecordsRequest { topics, ..Default::default() }, 1).await;
    let partition = &response.topics[0].partitions[0];
    (partition.error_code, partition.low_watermark)
}

async fn pass(host: &SimHost, ms: u64) {
    host.sleep_until(host.mono().plus_ms(ms)).await;
}

fn names(disk: &MemoryDisk, suffix: &str) -> Vec<String> {
    let found = disk.list_dir(Path::new("/data/t-0")).expect("is there");
    found.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(suffix)).collect()
}

fn log_starts(disk: &MemoryDisk) -> String {
    let file = disk.read_file(Path::new("/data/log-start-offset-checkpoint"), 1_000).unwrap_or_default();
    String::from_utf8(file).expect("text")
}

#[test]
fn an_idle_topic_empties_and_its_files_go_after_the_delay() {
    let disk = Arc::new(MemoryDisk::default());
    let seen = disk.clone();
    sim::run_on(1, disk.clone(), |host| async move {
        let (running, mut client) = started(&host).await;
        create(&mut client, &[("retention.ms", "60000"), ("file.delete.delay.ms", "20000")]).await;
        produce(&mut client, 3).await;
        pass(&host, 58_000).await;
        assert_eq!(log_start(&mut client).await, 0);
        pass(&host, 6_000).await;
        assert_eq!((log_start(&mut client).await, offset(&mut client, -1).await), (3, 3));
        assert_eq!(log_starts(&seen), "0\n1\nt 0 3\n");
        assert_eq!(names(&seen, ".log"), ["00000000000000000003.log"]);
        assert_eq!(names(&seen, ".log.deleted"), ["00000000000000000000.log.deleted"]);
        let fetched = client.call(&fetch_request("t", 0, 0, 0), 11).await;
        assert_eq!(fetched.responses[0].partitions[0].error_code, OFFSET_OUT_OF_RANGE);
        pass(&host, 12_000).await;
        assert!(!names(&seen, ".deleted").is_empty(), "not before the delay");
        pass(&host, 10_000).await;
        assert!(names(&seen, ".deleted").is_empty());
        let response = client.call(&produce_request("t", 0, batch(&["next"])), 9).await;
        assert_eq!(base_offset(&response), 3);
        drop(client);
        assert!(running.stop().await, "stops cleanly");
    });
    sim::run_on(2, disk, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        assert_eq!((log_start(&mut client).await, offset(&mut client, -1).await), (3, 4));
    });
}

#[test]
fn changed_limits_of_size_and_age_have_their_effect() {
    let ((), _) = sim::run(1, |host| async move {
        let (_running, mut client) = started(&host).await;
        create(&mut client, &[SEGMENT_BYTES]).await;
        produce(&mut client, 10).await;
        pass(&host, 3_000).await;
        assert_eq!(log_start(&mut client).await, 0, "nothing is beyond a week");
        alter(&mut client, TOPIC, "t", "retention.bytes", "400").await;
        pass(&host, 3_000).await;
        let start = log_start(&mut client).await;
        assert!((2..10).contains(&start), "{start}");
        // The broker's own default reaches topics that do not say otherwise.
        alter(&mut client, BROKER, "", "log.retention.ms", "1").await;
        pass(&host, 3_000).await;
        assert_eq!(log_start(&mut client).await, 10);
    });
}

#[test]
fn only_a_policy_that_deletes_deletes() {
    for policy in ["compact", ""] {
        let ((), _) = sim::run(1, |host| async move {
            let (_running, mut client) = started(&host).await;
            let limits = [("retention.ms", "1"), ("retention.bytes", "0")];
            create(&mut client, &[SEGMENT_BYTES, limits[0], limits[1], ("cleanup.policy", policy)]).await;
            let mut keyed = BatchBuilder::new();
            keyed.push(sim::WALL_START_MS, Some(b"k"), Some(b"v"), &[]);
            let keyed = keyed.build();
            for _ in 0..10 {
                base_offset(&client.call(&produce_request("t", 0, keyed.clone()), 9).await);
            }
            pass(&host, 5_000).await;
            assert_eq!(log_start(&mut client).await, 0, "{policy:?}");
            // As Kafka: who keeps everything may still delete by hand.
            let by_hand = if policy == "compact" { (POLICY_VIOLATION, -1) } else { (0, 1) };
            assert_eq!(delete_records(&mut client, 1).await, by_hand);
            alter(&mut client, TOPIC, "t", "cleanup.policy", "compact,delete").await;
            pass(&host, 3_000).await;
            assert_eq!(log_start(&mut client).await, 10, "{policy:?}");
        });
    }
}

#[test]
fn a_timestamp_of_the_future_keeps_its_segment() {
    let ((), _) = sim::run(1, |host| async move {
        let (_running, mut client) = started(&host).await;
        create(&mut client, &[SEGMENT_BYTES, ("retention.ms", "1000")]).await;
        let mut builder = BatchBuilder::new();
        builder.push(sim::WALL_START_MS + 50_000, None, Some(b"ahead"), &[]);
        base_offset(&client.call(&produce_request("t", 0, builder.build()), 9).await);
        produce(&mut client, 10).await;
        pass(&host, 49_000).await;
        assert_eq!(log_start(&mut client).await, 0);
        pass(&host, 5_000).await;
        assert_eq!(log_start(&mut client).await, 11);
    });
}

#[test]
fn deleted_records_stay_deleted_after_a_kill_at_once() {
    let disk = Arc::new(MemoryDisk::default());
    let first = disk.clone();
    sim::run_on(1, disk.clone(), |host| async move {
        let (_running, mut client) = started(&host).await;
        create(&mut client, &[SEGMENT_BYTES, FOR_EVER]).await;
        produce(&mut client, 10).await;
        assert_eq!(delete_records(&mut client, 11).await.0, OFFSET_OUT_OF_RANGE);
        assert_eq!(delete_records(&mut client, 5).await, (0, 5));
        assert_eq!(delete_records(&mut client, 3).await, (0, 5), "never back");
        assert_eq!(log_starts(&first), "0\n1\nt 0 5\n", "durable before the answer");
        pass(&host, 100).await;
        assert!(!names(&first, ".log.deleted").is_empty());
        // Killed.
    });
    sim::run_on(2, disk.clone(), |host| async move {
        let (_running, mut client) = started(&host).await;
        assert_eq!(log_start(&mut client).await, 5);
        let fetched = client.call(&fetch_request("t", 0, 5, 0), 11).await;
        assert_eq!(fetched.responses[0].partitions[0].error_code, 0);
        assert!(!values(&fetched).is_empty());
    });
    assert!(names(&disk, ".deleted").is_empty(), "the start removed them");
}

#[test]
fn a_start_that_cannot_be_written_down_is_no_success_and_is_tried_again() {
    let disk = Arc::new(MemoryDisk::default());
    let faulty = disk.clone();
    sim::run_on(1, disk, |host| async move {
        // No pass of retention in between.
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        create(&mut client, &[SEGMENT_BYTES, FOR_EVER]).await;
        produce(&mut client, 10).await;
        // One for the answer, one for the files that go.
        faulty.inject(Fault::Create(std::io::ErrorKind::StorageFull));
        faulty.inject(Fault::Create(std::io::ErrorKind::StorageFull));
        assert_eq!(delete_records(&mut client, 8).await, (KAFKA_STORAGE_ERROR, -1));
        pass(&host, 100).await;
        assert!(!names(&faulty, ".log.deleted").is_empty(), "a full disk is freed all the same");
        assert_eq!(delete_records(&mut client, 8).await, (0, 8));
        assert_eq!(log_starts(&faulty), "0\n1\nt 0 8\n");
    });
}

#[test]
fn who_is_being_sent_a_segment_gets_it_whole_although_it_is_deleted() {
    let disk = Arc::new(MemoryDisk::default());
    let seen = disk.clone();
    sim::run_on(1, disk, |host| async move {
        let (running, mut client) = started(&host).await;
        create(&mut client, &[FOR_EVER, ("file.delete.delay.ms", "0")]).await;
        let long = "y".repeat(400_000);
        base_offset(&client.call(&produce_request("t", 0, batch(&[&long])), 9).await);
        let mut reader = Client::connect(&host, &running);
        reader.send(&fetch_request("t", 0, 0, 0), 11).await;
        pass(&host, 100).await;
        alter(&mut client, TOPIC, "t", "retention.ms", "1").await;
        pass(&host, 5_000).await;
        assert_eq!(log_start(&mut client).await, 1);
        let files = names(&seen, "");
        assert!(!files.iter().any(|name| name.starts_with("00000000000000000000.")), "{files:?}");
        let frame = reader.receive().await.expect("answered");
        let (_, fetched) =
            wire::decode_response::<FetchResponse>(frame, FetchRequest::API_KEY, 11).expect("decodes");
        assert_eq!(values(&fetched), [long]);
    });
}
