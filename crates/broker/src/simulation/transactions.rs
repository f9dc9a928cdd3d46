//! Transactions through the whole broker: what readers of committed records see of them, whatever happens.

use super::groups::{commit, committed, find, offset_request, prepare};
use super::transactional_client::{Level, TransactionalClient, small_internal_topics};
use super::*;

const READ_COMMITTED: i8 = 1;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const INVALID_TXN_STATE: i16 = 48;
const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
const UNSTABLE_OFFSET_COMMIT: i16 = 88;
const TRANSACTION_ABORTABLE: i16 = 120;

/// What a consumer of committed records is given, and the last stable offset.
pub(super) async fn read_committed(client: &mut Client, topic: &str, partition: i32) -> (Vec<String>, i64) {
    let request = FetchRequest { isolation_level: READ_COMMITTED, ..fetch_request(topic, partition, 0, 0) };
    let response = client.call(&request, 11).await;
    let answer = &response.responses[0].partitions[0];
    assert_eq!(answer.error_code, 0);
    let mut aborted: Vec<(i64, i64)> = answer
        .aborted_transactions
        .iter()
        .flatten()
        .map(|transaction| (transaction.first_offset, transaction.producer_id))
        .collect();
    aborted.sort_unstable();
    let mut inside: Vec<i64> = Vec::new();
    let mut values = Vec::new();
    let Some(Records::Inline(bytes)) = &answer.records else {
        return (values, answer.last_stable_offset);
    };
    for scanned in scan_batches(bytes) {
        let Ok(Scanned::Batch(batch)) = scanned else { panic!("a whole batch of magic 2") };
        let (header, id) = (&batch.header, batch.header.producer_id.0);
        while aborted.first().is_some_and(|(first, _)| *first <= header.last_offset().0) {
            inside.push(aborted.remove(0).1);
        }
        if header.attributes.is_control() {
            inside.retain(|other| *other != id);
        } else if !(header.attributes.is_transactional() && inside.contains(&id)) {
            for record in RecordIter::new(header, &batch.bytes[BATCH_HEADER_BYTES..]) {
                let value = record.expect("a valid record").value.expect("a value");
                values.push(String::from_utf8(value.to_vec()).expect("text"));
            }
        }
    }
    (values, answer.last_stable_offset)
}

async fn start_without_verification(host: &SimHost) -> Running<SimHost> {
    let mut configs = small_internal_topics();
    configs.push("transaction.partition.verification.enable=false".to_owned());
    start_with(host, &configs).await.expect("starts")
}

/// The same, once the last stable offset is `stable`.
async fn read_up_to(host: &SimHost, client: &mut Client, partition: i32, stable: i64) -> Vec<String> {
    let (values, found) = read_beyond(host, client, partition, stable).await;
    assert_eq!(found, stable);
    values
}

/// The same, once the last stable offset is at least `stable`.
async fn read_beyond(host: &SimHost, client: &mut Client, partition: i32, stable: i64) -> (Vec<String>, i64) {
    for _ in 0..1_000 {
        let (values, found) = read_committed(client, "t", partition).await;
        if found >= stable {
            return (values, found);
        }
        host.sleep_until(host.mono().plus_ms(10)).await;
    }
    panic!("the last stable offset does not move on");
}

#[test]
fn committed_transactions_are_seen_whole_and_aborted_ones_not_at_all() {
    for level in [Level::One, Level::Two] {
        sim::run(1, move |host| async move {
            let running = start_with(&host, &small_internal_topics()).await.expect("starts");
            let mut reader = Client::connect(&host, &running);
            reader.create_topic("t", 2).await;
            let mut producer = TransactionalClient::begin(&host, &running, "x", level).await;
            assert_eq!(producer.write("t", 0, &["a", "b"]).await, 0);
            assert_eq!(producer.write("t", 1, &["c"]).await, 0);
            assert_eq!(producer.write("t", 0, &["d"]).await, 0);
            assert_eq!(read_committed(&mut reader, "t", 0).await, (Vec::new(), 0), "it is open");
            producer.end(true).await;
            assert_eq!(read_up_to(&host, &mut reader, 0, 4).await, ["a", "b", "d"]);
            assert_eq!(read_up_to(&host, &mut reader, 1, 2).await, ["c"]);
            assert_eq!(producer.write("t", 0, &["e"]).await, 0);
            producer.end(false).await;
            assert_eq!(producer.write("t", 0, &["f"]).await, 0);
            producer.end(true).await;
            assert_eq!(read_up_to(&host, &mut reader, 0, 8).await, ["a", "b", "d", "f"]);
        });
    }
}

/// The first one waits for the coordinator, and the others for it.
#[test]
fn batches_that_come_at_once_keep_their_order_behind_the_first_of_a_transaction() {
    sim::run(1, |host| async move {
        let running = start_with(&host, &small_internal_topics()).await.expect("starts");
        let mut reader = Client::connect(&host, &running);
        reader.create_topic("t", 1).await;
        let mut producer = TransactionalClient::begin(&host, &running, "x", Level::Two).await;
        for round in 0..3 {
            for value in ["a", "b", "c", "d", "e"] {
                let request = producer.request("t", 0, &[value]);
                producer.client.send(&request, 12).await;
            }
            for place in 0..5 {
                let frame = producer.client.receive().await.expect("answered");
                let (_, body) = wire::decode_response(frame, ProduceRequest::API_KEY, 12).expect("decodes");
                assert_eq!(base_offset(&body), round * 6 + place);
            }
            producer.end(true).await;
            let values = read_up_to(&host, &mut reader, 0, (round + 1) * 6).await;
            assert_eq!(values.len() as i64, (round + 1) * 5);
        }
    });
}

#[test]
fn batches_of_no_transaction_are_refused_as_their_versions_know() {
    sim::run(1, |host| async move {
        let running = start_with(&host, &small_internal_topics()).await.expect("starts");
        let mut producer = TransactionalClient::begin(&host, &running, "x", Level::One).await;
        producer.client.create_topic("t", 1).await;
        let request = producer.request("t", 0, &["a"]);
        let error = |response: ProduceResponse| response.responses[0].partition_responses[0].error_code;
        for (version, expected) in
            [(3, INVALID_TXN_STATE), (10, INVALID_TXN_STATE), (11, TRANSACTION_ABORTABLE)]
        {
            assert_eq!(error(producer.client.call(&request, version).await), expected, "version {version}");
        }
        let nameless = ProduceRequest { transactional_id: None, ..request.clone() };
        assert_eq!(error(producer.client.call(&nameless, 9).await), TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
        let other = ProduceRequest { transactional_id: Some("y".into()), ..request.clone() };
        assert_eq!(error(producer.client.call(&other, 12).await), INVALID_PRODUCER_ID_MAPPING);
        // Another instance begins; this one is fenced.
        TransactionalClient::begin(&host, &running, "x", Level::One).await;
        assert_eq!(error(producer.client.call(&request, 12).await), INVALID_PRODUCER_EPOCH);
        let (values, stable) = read_committed(&mut producer.client, "t", 0).await;
        assert_eq!((values, stable), (Vec::new(), 0), "none is in the log");
    });
}

#[test]
fn without_verification_an_old_clients_batch_is_taken_as_it_comes() {
    sim::run(1, |host| async move {
        let running = start_without_verification(&host).await;
        let mut producer = TransactionalClient::begin(&host, &running, "x", Level::One).await;
        producer.client.create_topic("t", 1).await;
        let request = producer.request("t", 0, &["a"]);
        assert_eq!(base_offset(&producer.client.call(&request, 9).await), 0);
    });
}

#[test]
fn offsets_of_a_producer_that_cannot_be_are_refused_even_without_verification() {
    sim::run(1, |host| async move {
        let running = start_without_verification(&host).await;
        let mut producer = TransactionalClient::begin(&host, &running, "x", Level::One).await;
        prepare(&host, &mut producer.client).await;
        (producer.producer_id, producer.epoch) = (-1, -1);
        for version in 0..=5 {
            let request = producer.offset_request("g", "t", 5);
            let answer = producer.client.call(&request, version).await;
            assert_eq!(answer.topics[0].partitions[0].error_code, INVALID_PRODUCER_ID_MAPPING, "{version}");
        }
        assert_eq!(stable_offset(&mut producer.client, "g").await, (0, -1), "nothing is pending");
    });
}

#[test]
fn a_batch_that_waits_for_its_coordinator_stays_within_the_memory_budget() {
    sim::run(1, |host| async move {
        let running = start_with(&host, &small_internal_topics()).await.expect("starts");
        let mut producer = TransactionalClient::begin(&host, &running, "x", Level::Two).await;
        producer.client.create_topic("t", 1).await;
        let value = "x".repeat(300_000);
        let request = producer.request("t", 0, &[&value]);
        let topics = running.broker().topics.load();
        let of_coordinator = topics.by_name("__transaction_state").expect("created");
        let slow: Vec<_> = (0..2)
            .map(|index| of_coordinator.partition(PartitionIndex(index)).expect("open"))
            .map(|partition| (partition.take_role(), partition))
            .collect();
        let version = producer.produce_version();
        producer.client.send(&request, version).await;
        host.sleep_until(host.mono().plus_ms(50)).await;
        let claimed = running.broker().memory.used_bytes();
        assert!(claimed >= value.len(), "{claimed} bytes are claimed");
        slow.into_iter().for_each(|(log, partition)| partition.give_role_back(&host, log));
        producer.client.receive().await.expect("answered");
        host.sleep_until(host.mono().plus_ms(50)).await;
        assert_eq!(running.broker().memory.used_bytes(), 0);
        assert_eq!(read_up_to(&host, &mut producer.client, 0, 0).await, Vec::<String>::new());
    });
}

async fn stable_offset(client: &mut Client, group: &str) -> (i16, i64) {
    let request = offset_request(group, true);
    let response = client.call(&request, 8).await;
    let partition = &response.groups[0].topics[0].partitions[0];
    (partition.error_code, partition.committed_offset)
}

#[test]
fn offsets_of_a_transaction_count_once_it_commits() {
    for level in [Level::One, Level::Two] {
        sim::run(1, move |host| async move {
            let running = start_with(&host, &small_internal_topics()).await.expect("starts");
            let mut reader = Client::connect(&host, &running);
            prepare(&host, &mut reader).await;
            let mut producer = TransactionalClient::begin(&host, &running, "x", level).await;
            // Nobody asked for it to be in the transaction.
            let stray = producer.offset_request("g", "t", 3);
            for (version, expected) in [(0, INVALID_TXN_STATE), (4, TRANSACTION_ABORTABLE)] {
                let answer = producer.client.call(&stray, version).await;
                assert_eq!(answer.topics[0].partitions[0].error_code, expected, "version {version}");
            }
            for (is_commit, offset, left) in [(true, 5, 5), (false, 6, 5), (true, 7, 7)] {
                assert_eq!(producer.send_offset("g", "t", offset).await, 0);
                assert_eq!(stable_offset(&mut reader, "g").await.0, UNSTABLE_OFFSET_COMMIT);
                let before = producer.offset_request("g", "t", 99);
                producer.end(is_commit).await;
                while stable_offset(&mut reader, "g").await.0 == UNSTABLE_OFFSET_COMMIT {
                    host.sleep_until(host.mono().plus_ms(5)).await;
                }
                assert_eq!(stable_offset(&mut reader, "g").await, (0, left));
                // A request that comes late must not cost the group its coordinator.
                let late = producer.client.call(&before, 3).await.topics[0].partitions[0].error_code;
                assert!([INVALID_TXN_STATE, INVALID_PRODUCER_EPOCH].contains(&late), "{late}");
                assert_eq!(stable_offset(&mut reader, "g").await, (0, left));
            }
            assert_eq!(commit(&mut reader, "g", 9).await, 0);
            assert_eq!(stable_offset(&mut reader, "g").await, (0, 9));
        });
    }
}

#[test]
fn what_was_committed_survives_a_power_cut_and_what_was_not_is_never_seen() {
    for level in [Level::One, Level::Two] {
        let disk = Arc::new(MemoryDisk::default());
        sim::run_on(1, disk.clone(), move |host| async move {
            let running = start_with(&host, &small_internal_topics()).await.expect("starts");
            let mut reader = Client::connect(&host, &running);
            reader.create_topic("t", 2).await;
            assert_eq!(find(&mut reader, "g").await, (0, 1));
            let mut producer = TransactionalClient::begin(&host, &running, "x", level).await;
            assert_eq!(producer.write("t", 0, &["a"]).await, 0);
            producer.end(false).await;
            assert_eq!(producer.write("t", 0, &["b"]).await, 0);
            assert_eq!(producer.write("t", 1, &["c"]).await, 0);
            assert_eq!(producer.send_offset("g", "t", 5).await, 0);
            let mut other = TransactionalClient::begin(&host, &running, "y", level).await;
            assert_eq!(other.write("t", 1, &["never"]).await, 0);
            // Decided; the markers are on their way.
            producer.end(true).await;
        });
        for seed in 0..10 {
            sim::run_on(2, Arc::new(disk.after_power_cut(seed)), move |host| async move {
                let running = start_with(&host, &small_internal_topics()).await.expect("starts");
                let mut reader = Client::connect(&host, &running);
                // Nobody knows whether the marker was written before the cut: it comes again.
                assert_eq!(read_beyond(&host, &mut reader, 0, 4).await.0, ["b"]);
                assert_eq!(committed(&host, &mut reader, "g").await, Ok(5));
                // A new instance ends what the other one left open.
                let mut other = TransactionalClient::begin(&host, &running, "y", level).await;
                assert_eq!(other.write("t", 1, &["d"]).await, 0);
                other.end(true).await;
                let mut values = Vec::new();
                while values.len() < 2 {
                    host.sleep_until(host.mono().plus_ms(10)).await;
                    (values, _) = read_committed(&mut reader, "t", 1).await;
                }
                assert_eq!(values, ["c", "d"], "seed {seed}");
            });
        }
    }
}
