//! Transaction markers as a coordinator sends them, into topics and into `__consumer_offsets`.

use klamm_protocol::messages::describe_producers::{
    DescribeProducersRequest, PartitionResponse, TopicRequest,
};
use klamm_protocol::messages::describe_transactions::DescribeTransactionsRequest;
use klamm_protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
};
use klamm_protocol::wire::WireStr;

use super::groups::{commit, committed, few_partitions, prepare};
use super::*;

const UNKNOWN_PARTITION: i16 = 3;
const INVALID_TOPIC: i16 = 17;
const INVALID_REQUEST: i16 = 42;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const COORDINATOR_FENCED: i16 = 52;

/// Of producer 7: for these partitions of a topic.
fn marker(topic: &str, partitions: &[i32], epoch: i16, coordinator_epoch: i32) -> WritableTxnMarker {
    let topic = WritableTxnMarkerTopic {
        name: topic.to_owned().into(),
        partition_indexes: partitions.to_vec(),
        ..Default::default()
    };
    WritableTxnMarker {
        producer_id: 7,
        producer_epoch: epoch,
        transaction_result: true,
        topics: vec![topic],
        coordinator_epoch,
        ..Default::default()
    }
}

/// The errors of all partitions, in order.
async fn write(client: &mut Client, markers: Vec<WritableTxnMarker>) -> Vec<i16> {
    let request = WriteTxnMarkersRequest { markers, ..Default::default() };
    let response = client.call(&request, 2).await;
    let topics = response.markers.iter().flat_map(|marker| &marker.topics);
    topics.flat_map(|topic| &topic.partitions).map(|partition| partition.error_code).collect()
}

/// A record of producer 8 in `t-0`; its offset.
async fn produce(client: &mut Client, sequence: i32) -> i64 {
    let mut builder = BatchBuilder::new().producer(ProducerId(8), ProducerEpoch(1), sequence);
    builder.push(sim::WALL_START_MS, None, Some(b"v"), &[]);
    base_offset(&client.call(&produce_request("t", 0, builder.build()), 9).await)
}

async fn describe(client: &mut Client, topic: &str, partition: i32) -> PartitionResponse {
    let topic = TopicRequest {
        name: topic.to_owned().into(),
        partition_indexes: vec![partition],
        ..Default::default()
    };
    let request = DescribeProducersRequest { topics: vec![topic], ..Default::default() };
    client.call(&request, 0).await.topics.remove(0).partitions.remove(0)
}

#[test]
fn markers_are_written_each_for_itself_and_producers_are_described() {
    sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 2).await;
        let written =
            write(&mut client, vec![marker("t", &[0, 5, 1], 3, 9), marker("none", &[0], 3, 9)]).await;
        assert_eq!(written, [0, 0, UNKNOWN_PARTITION, UNKNOWN_PARTITION]);
        assert_eq!(write(&mut client, vec![marker("t", &[0], 2, 9)]).await, [INVALID_PRODUCER_EPOCH]);
        assert_eq!(write(&mut client, vec![marker("t", &[0], 3, 8)]).await, [COORDINATOR_FENCED]);
        let impossible = [
            WritableTxnMarker { producer_id: -1, ..marker("t", &[0, 1], 3, 9) },
            marker("t", &[0], -1, 9),
            WritableTxnMarker { transaction_version: -1, ..marker("t", &[0], 3, 9) },
        ];
        assert_eq!(write(&mut client, impossible.into()).await, [INVALID_REQUEST; 4]);
        let internal = vec![marker("__transaction_state", &[0], 3, 9)];
        assert_eq!(write(&mut client, internal).await, [UNKNOWN_PARTITION], "until it is created");
        assert_eq!(produce(&mut client, 40).await, 1, "behind the marker");
        let described = describe(&mut client, "t", 0).await;
        let told = |at: usize| {
            let producer = &described.active_producers[at];
            (
                producer.producer_id,
                producer.producer_epoch,
                producer.last_sequence,
                producer.coordinator_epoch,
            )
        };
        assert_eq!((described.error_code, told(0), told(1)), (0, (7, 3, -1, 9), (8, 1, 40, -1)));
        assert_eq!(described.active_producers[1].last_timestamp, sim::WALL_START_MS);
        assert!(described.active_producers.iter().all(|producer| producer.current_txn_start_offset == -1));
        assert_eq!(describe(&mut client, "t", 2).await.error_code, UNKNOWN_PARTITION);
        assert_eq!(describe(&mut client, "no/name", 0).await.error_code, INVALID_TOPIC);
    });
}

#[test]
fn what_is_named_again_and_again_is_done_and_told_once() {
    sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 2).await;
        let mut repeated = marker("t", &[1, 0].repeat(1_000), 3, 9);
        repeated.topics.push(repeated.topics[0].clone());
        assert_eq!(write(&mut client, vec![repeated]).await, [0, 0]);
        assert_eq!(produce(&mut client, 0).await, 1, "behind one marker");
        let topic =
            TopicRequest { name: "t".into(), partition_indexes: [1, 0].repeat(1_000), ..Default::default() };
        let request = DescribeProducersRequest { topics: vec![topic.clone(), topic], ..Default::default() };
        let described = client.call(&request, 0).await;
        let told = described.topics.iter().flat_map(|topic| &topic.partitions);
        let told: Vec<_> =
            told.map(|partition| (partition.partition_index, partition.active_producers.len())).collect();
        assert_eq!(told, [(0, 2), (1, 1)]);
        let ids = ["y", "x", "y"].map(WireStr::from_static);
        let request = DescribeTransactionsRequest {
            transactional_ids: vec![ids; 1_000].concat(),
            ..Default::default()
        };
        let described = client.call(&request, 0).await;
        let told: Vec<_> =
            described.transaction_states.iter().map(|state| &*state.transactional_id).collect();
        assert_eq!(told, ["y", "x"]);
    });
}

#[test]
fn a_marker_that_a_full_disk_does_not_take_costs_no_group_its_coordinator() {
    let disk = Arc::new(MemoryDisk::default());
    let small = disk.clone();
    sim::run_on(1, disk, move |host| async move {
        let running = start_with(&host, &few_partitions()).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        prepare(&host, &mut client).await;
        let all = || vec![marker("__consumer_offsets", &[0, 1, 2], 3, 9)];
        assert_eq!(write(&mut client, all()).await, [0; 3]);
        small.set_capacity_bytes(Some(0));
        assert_eq!(write(&mut client, all()).await, [UNKNOWN_PARTITION; 3], "as Kafka says it");
        small.set_capacity_bytes(None);
        // A coordinator that loads again would say so.
        assert_eq!(commit(&mut client, "g", 9).await, 0);
        assert_eq!(write(&mut client, all()).await, [0; 3]);
        assert_eq!(commit(&mut client, "g", 10).await, 0);
        assert_eq!(committed(&host, &mut client, "g").await, Ok(10));
    });
}

#[test]
fn producers_that_idle_are_forgotten() {
    sim::run(1, |host| async move {
        let expiry = ["producer.id.expiration.ms=60000", "producer.id.expiration.check.interval.ms=5000"];
        let running = start_with(&host, &expiry.map(str::to_owned)).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        assert_eq!(produce(&mut client, 40).await, 0);
        host.sleep_until(MonoMs(59_000)).await;
        assert_eq!(describe(&mut client, "t", 0).await.active_producers.len(), 1);
        host.sleep_until(MonoMs(67_000)).await;
        assert!(describe(&mut client, "t", 0).await.active_producers.is_empty());
    });
}

#[test]
fn a_group_coordinator_takes_markers_in_its_turn_and_outlives_those_that_are_refused() {
    sim::run(1, |host| async move {
        let running = start_with(&host, &few_partitions()).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        prepare(&host, &mut client).await;
        let all =
            |epoch, coordinator_epoch| marker("__consumer_offsets", &[0, 1, 2], epoch, coordinator_epoch);
        for offset in 0..3 {
            // At once: the commits come between the markers, or before, or behind.
            let mut others: Vec<Client> = (0..3).map(|_| Client::connect(&host, &running)).collect();
            for other in &mut others {
                other
                    .send(&WriteTxnMarkersRequest { markers: vec![all(3, 9)], ..Default::default() }, 2)
                    .await;
            }
            assert_eq!(commit(&mut client, "g", offset).await, 0);
            for other in &mut others {
                let frame = other.receive().await.expect("answered");
                let (_, body) =
                    wire::decode_response(frame, WriteTxnMarkersRequest::API_KEY, 2).expect("decodes");
                let body: klamm_protocol::messages::write_txn_markers::WriteTxnMarkersResponse = body;
                assert!(
                    body.markers[0].topics[0].partitions.iter().all(|partition| partition.error_code == 0)
                );
            }
        }
        assert_eq!(write(&mut client, vec![all(2, 9)]).await, [INVALID_PRODUCER_EPOCH; 3]);
        assert_eq!(write(&mut client, vec![all(3, 8)]).await, [COORDINATOR_FENCED; 3]);
        // A coordinator that loads again would say so.
        assert_eq!(commit(&mut client, "g", 9).await, 0);
        assert_eq!(committed(&host, &mut client, "g").await, Ok(9));
    });
}
