//! `klamm.durability` and the flush settings, as a power cut sees them.

use klamm_log::disk::Fault;
use klamm_protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};

use super::*;

const KAFKA_STORAGE_ERROR: i16 = 56;
const LATEST: i64 = -1;

async fn started(host: &SimHost, properties: &[&str]) -> (Running<SimHost>, Client) {
    let properties: Vec<_> = properties.iter().map(|property| (*property).to_owned()).collect();
    let running = start_with(host, &properties).await.expect("starts");
    let client = Client::connect(host, &running);
    (running, client)
}

async fn produce(client: &mut Client, acks: i16, value: &str) -> i16 {
    let request = ProduceRequest { acks, ..produce_request("t", 0, batch(&[value])) };
    client.call(&request, 9).await.responses[0].partition_responses[0].error_code
}

async fn latest(client: &mut Client) -> i64 {
    let partitions = vec![ListOffsetsPartition { timestamp: LATEST, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: "t".into(), partitions, ..Default::default() }];
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    client.call(&request, 4).await.topics[0].partitions[0].offset
}

/// What the topic holds after `scenario` and a power cut that takes all that was not flushed.
fn left_by<F: Future<Output = ()>>(scenario: impl FnOnce(SimHost) -> F) -> Vec<String> {
    let disk = Arc::new(MemoryDisk::default());
    let ((), _) = sim::run_on(1, disk.clone(), scenario);
    // Of what was not flushed a cut may leave some; the least of ten cuts is what can be relied on.
    let left = (0..10).map(|seed| {
        let after = Arc::new(disk.after_power_cut(seed));
        let read = |host: SimHost| async move {
            let (_running, mut client) = started(&host, &[]).await;
            values(&client.call(&fetch_request("t", 0, 0, 0), 11).await)
        };
        sim::run_on(2, after, read).0
    });
    left.min_by_key(Vec::len).expect("ten cuts")
}

#[test]
fn what_acks_all_acknowledged_survives_a_power_cut() {
    let left = left_by(|host| async move {
        let (_running, mut client) = started(&host, &[]).await;
        client.create_topic("t", 1).await;
        for value in ["a", "b", "c"] {
            assert_eq!(produce(&mut client, -1, value).await, 0);
        }
    });
    assert_eq!(left, ["a", "b", "c"]);
}

#[test]
fn with_page_cache_durability_the_last_second_does_not() {
    let left = left_by(|host| async move {
        let (_running, mut client) = started(&host, &["klamm.durability=page_cache"]).await;
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, -1, "a").await, 0);
        host.sleep_until(host.mono().plus_ms(1_100)).await;
        assert_eq!(produce(&mut client, -1, "b").await, 0);
    });
    assert_eq!(left, ["a"]);
}

#[test]
fn flush_messages_makes_every_answer_wait_and_flush_ms_bounds_the_wait() {
    let by_count = left_by(|host| async move {
        let properties = ["klamm.durability=page_cache", "log.flush.interval.messages=2"];
        let (_running, mut client) = started(&host, &properties).await;
        client.create_topic("t", 1).await;
        for value in ["a", "b", "c"] {
            assert_eq!(produce(&mut client, 1, value).await, 0);
        }
    });
    assert_eq!(by_count, ["a", "b"]);
    let by_time = left_by(|host| async move {
        let properties = ["klamm.durability=page_cache", "log.flush.interval.ms=100"];
        let (_running, mut client) = started(&host, &properties).await;
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, 1, "a").await, 0);
        host.sleep_until(host.mono().plus_ms(120)).await;
        assert_eq!(produce(&mut client, 1, "b").await, 0);
    });
    assert_eq!(by_time, ["a"]);
}

#[test]
fn whoever_was_told_of_a_record_sees_it_at_the_end_and_nobody_sees_what_a_cut_may_take() {
    sim::run(1, |host| async move {
        let (running, mut client) = started(&host, &[]).await;
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, 1, "a").await, 0);
        // Not flushed yet: invisible, until somebody asks for the end and waits for it.
        let mut other = Client::connect(&host, &running);
        assert!(values(&other.call(&fetch_request("t", 0, 0, 0), 11).await).is_empty());
        assert_eq!(latest(&mut client).await, 1);
        assert_eq!(values(&other.call(&fetch_request("t", 0, 0, 0), 11).await), ["a"]);
    });
}

#[test]
fn a_waiting_fetch_hears_of_a_flush_that_nobody_asked_for() {
    sim::run(1, |host| async move {
        let (running, mut client) = started(&host, &[]).await;
        client.create_topic("t", 1).await;
        let mut consumer = Client::connect(&host, &running);
        consumer.send(&fetch_request("t", 0, 0, 10_000), 11).await;
        host.sleep_until(host.mono().plus_ms(50)).await;
        let begun = host.mono();
        assert_eq!(produce(&mut client, 1, "a").await, 0);
        consumer.receive().await.expect("answered");
        assert!(host.mono().since_ms(begun) < 100, "within a few milliseconds, not at the end of the wait");
    });
}

#[test]
fn a_failed_flush_is_answered_as_one_and_shows_nothing() {
    let disk = Arc::new(MemoryDisk::default());
    let faulty = disk.clone();
    sim::run_on(1, disk, |host| async move {
        let (running, mut client) = started(&host, &[]).await;
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, -1, "a").await, 0);
        faulty.inject(Fault::Sync(std::io::ErrorKind::Other));
        let mut other = Client::connect(&host, &running);
        other.send(&produce_request("t", 0, batch(&["b"])), 9).await;
        assert_eq!(produce(&mut client, -1, "c").await, KAFKA_STORAGE_ERROR);
        let frame = other.receive().await.expect("answered");
        let (_, body): (_, ProduceResponse) =
            wire::decode_response(frame, ProduceRequest::API_KEY, 9).expect("decodes");
        assert_eq!(body.responses[0].partition_responses[0].error_code, KAFKA_STORAGE_ERROR);
    });
}
