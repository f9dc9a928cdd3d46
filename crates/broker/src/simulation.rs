//! The whole broker on one thread, with simulated time, network and disk.
//!
//! Same seed, same trace: that is what makes a failure found here repeatable.

mod cold_reads;
mod compaction;
mod configs;
mod damaged_files;
mod directories;
mod durability;
mod exactly_once;
mod full_disk;
mod group_versions;
mod groups;
mod markers;
mod moves;
mod retention;
mod transaction_versions;
mod transactional_client;
mod transactions;
mod versions;

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use klamm_log::disk::{Disk, MemoryDisk};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{PartitionIndex, ProducerEpoch, ProducerId};
use klamm_protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use klamm_protocol::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use klamm_protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use klamm_protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use klamm_protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use klamm_protocol::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchBuilder, RecordIter, Scanned, scan_batches};
use klamm_protocol::time::MonoMs;
use klamm_protocol::wire::{self, Records, Request};

use crate::boot::StartError;
use crate::config::{self, Sources};
use crate::host::sim::{self, SimHost, SimTransport};
use crate::host::{Host, Interest, OutPart, OutQueue, Transport};
use crate::{Broker, Running};

/// A client of a simulated broker.
pub(crate) struct Client {
    transport: SimTransport,
    inbox: BytesMut,
    next_correlation_id: i32,
}

impl Client {
    pub(crate) fn connect(host: &SimHost, running: &Running<SimHost>) -> Self {
        let transport = host.connect(running.addresses()[0].1).expect("the broker listens");
        Self { transport, inbox: BytesMut::new(), next_correlation_id: 1 }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: Bytes) {
        let mut queue = OutQueue::default();
        queue.push(OutPart::Bytes(bytes));
        while !queue.is_empty() {
            if self.transport.try_send(&mut queue, usize::MAX).expect("connected").is_full {
                self.transport.ready(Interest { read: false, write: true }).await.expect("connected");
            }
        }
    }

    pub(crate) async fn send<R: Request>(&mut self, request: &R, version: i16) -> i32 {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let frame = wire::encode_request(request, version, correlation_id, Some("sim")).expect("encodes");
        self.send_bytes(frame).await;
        correlation_id
    }

    /// The next frame, or `None` when the broker has closed.
    pub(crate) async fn receive(&mut self) -> Option<Bytes> {
        loop {
            if let Some(length) = self.inbox.first_chunk::<4>().map(|head| u32::from_be_bytes(*head) as usize)
                && self.inbox.len() >= 4 + length
            {
                self.inbox.advance(4);
                return Some(self.inbox.split_to(length).freeze());
            }
            self.inbox.reserve(64 * 1024);
            match self.transport.try_read(&mut self.inbox) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(_) => {
                    self.transport.ready(Interest { read: true, write: false }).await.expect("connected")
                }
            }
        }
    }

    pub(crate) async fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let correlation_id = self.send(request, version).await;
        let frame = self.receive().await.expect("answered");
        let (answered, body) = wire::decode_response(frame, R::API_KEY, version).expect("decodes");
        assert_eq!(answered, correlation_id);
        body
    }

    pub(crate) async fn create_topic(&mut self, name: &str, partition_count: i32) {
        let topic = CreatableTopic {
            name: name.to_owned().into(),
            num_partitions: partition_count,
            replication_factor: 1,
            ..Default::default()
        };
        let response = self.call(&CreateTopicsRequest { topics: vec![topic], ..Default::default() }, 5).await;
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    }

    pub(crate) async fn create_topic_unless_there(&mut self, name: &str, partition_count: i32) {
        let topic = MetadataRequestTopic { name: Some(name.to_owned().into()), ..Default::default() };
        let request = MetadataRequest {
            topics: Some(vec![topic]),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        if self.call(&request, 9).await.topics[0].error_code != 0 {
            self.create_topic(name, partition_count).await;
        }
    }
}

pub(crate) fn produce_request(topic: &str, partition: i32, records: Bytes) -> ProduceRequest {
    let partition_data = vec![PartitionProduceData {
        index: partition,
        records: Some(Records::Inline(records)),
        ..Default::default()
    }];
    ProduceRequest {
        acks: -1,
        timeout_ms: 1_000,
        topic_data: vec![TopicProduceData {
            name: topic.to_owned().into(),
            partition_data,
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(sim::WALL_START_MS, None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

pub(crate) fn fetch_request(topic: &str, partition: i32, offset: i64, max_wait_ms: i32) -> FetchRequest {
    FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic {
            topic: topic.to_owned().into(),
            partitions: vec![FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn values(response: &FetchResponse) -> Vec<String> {
    let Some(Records::Inline(bytes)) = &response.responses[0].partitions[0].records else {
        return Vec::new();
    };
    let mut values = Vec::new();
    for scanned in scan_batches(bytes) {
        let Ok(Scanned::Batch(batch)) = scanned else { panic!("a whole batch of magic 2") };
        for record in RecordIter::new(&batch.header, &batch.bytes[BATCH_HEADER_BYTES..]) {
            let record = record.expect("a valid record");
            values.push(String::from_utf8(record.value.expect("a value").to_vec()).expect("text"));
        }
    }
    values
}

pub(crate) async fn start(host: &SimHost) -> Running<SimHost> {
    try_start(host).await.expect("starts")
}

pub(crate) async fn try_start(host: &SimHost) -> Result<Running<SimHost>, StartError> {
    start_with(host, &[]).await
}

/// Starts with these properties over those of every simulation.
pub(crate) async fn start_with(host: &SimHost, more: &[String]) -> Result<Running<SimHost>, StartError> {
    let mut set = vec!["klamm.http.listener=".to_owned(), "log.dirs=/data".to_owned()];
    set.extend_from_slice(more);
    let sources = Sources { set, ..Default::default() };
    let loaded = config::load(&sources, None).expect("a valid configuration");
    Broker::start(host.clone(), loaded.config).await
}

async fn scenario(host: SimHost) -> Vec<String> {
    let running = start(&host).await;
    let mut producer = Client::connect(&host, &running);
    producer.create_topic("t", 2).await;
    let mut consumer = Client::connect(&host, &running);
    // Parks: nothing is there yet.
    consumer.send(&fetch_request("t", 0, 0, 10_000), 11).await;
    host.sleep_until(MonoMs(host.mono().0 + 50)).await;
    let response = producer.call(&produce_request("t", 0, batch(&["a", "b"])), 9).await;
    assert_eq!(base_offset(&response), 0);
    let frame = consumer.receive().await.expect("woken");
    let (_, fetched) =
        wire::decode_response::<FetchResponse>(frame, FetchRequest::API_KEY, 11).expect("decodes");
    let mut seen = values(&fetched);
    // Pipelined: two appends and a fetch behind them, answered in order.
    producer.send(&produce_request("t", 0, batch(&["c"])), 9).await;
    producer.send(&produce_request("t", 0, batch(&["d"])), 9).await;
    producer.send(&fetch_request("t", 0, 2, 0), 11).await;
    for expected in [2, 3] {
        let frame = producer.receive().await.expect("answered");
        let (_, body) = wire::decode_response(frame, ProduceRequest::API_KEY, 9).expect("decodes");
        assert_eq!(base_offset(&body), expected);
    }
    let frame = producer.receive().await.expect("answered");
    let (_, fetched) =
        wire::decode_response::<FetchResponse>(frame, FetchRequest::API_KEY, 11).expect("decodes");
    seen.extend(values(&fetched));
    drop((producer, consumer));
    assert!(running.stop().await, "stops cleanly");
    seen
}

fn base_offset(response: &ProduceResponse) -> i64 {
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, 0, "{:?}", partition.error_message);
    partition.base_offset
}

#[test]
fn one_seed_gives_one_trace_and_another_seed_another() {
    let (seen, trace) = sim::run(7, scenario);
    assert_eq!(seen, ["a", "b", "c", "d"]);
    let (again, trace_again) = sim::run(7, scenario);
    assert_eq!(seen, again);
    assert_eq!(trace, trace_again);
    let (_, other) = sim::run(8, scenario);
    assert_ne!(trace, other, "the seed decides delays");
}

#[test]
fn what_was_acknowledged_is_there_after_a_stop_and_after_a_kill() {
    let disk = Arc::new(MemoryDisk::default());
    let first = |host: SimHost| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        client.call(&produce_request("t", 0, batch(&["a"])), 9).await;
        let id = new_producer_id(&mut client).await.producer_id;
        drop(client);
        assert!(running.stop().await);
        id
    };
    let (first_id, _) = sim::run_on(1, disk.clone(), first);
    let second = |host: SimHost| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.call(&produce_request("t", 0, batch(&["b"])), 9).await;
        new_producer_id(&mut client).await.producer_id
        // Dropped here: as a kill, nothing is closed.
    };
    let (second_id, _) = sim::run_on(2, disk.clone(), second);
    assert!(second_id > first_id, "a producer id is never given twice");
    let third = |host: SimHost| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        let fetched = client.call(&fetch_request("t", 0, 0, 0), 11).await;
        (values(&fetched), leader_epoch(&mut client).await)
    };
    let ((seen, epoch), _) = sim::run_on(3, disk, third);
    assert_eq!(seen, ["a", "b"]);
    assert!(epoch >= 2, "every start raises the leader epoch, {epoch} after two restarts");
}

#[test]
fn a_waiting_fetch_is_answered_when_the_broker_stops() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        client.send(&fetch_request("t", 0, 0, 60_000), 11).await;
        host.sleep_until(host.mono().plus_ms(50)).await;
        let begun = host.mono();
        assert!(running.stop().await);
        assert!(host.mono().since_ms(begun) < 1_000, "the stop waited for the fetch");
        assert!(client.receive().await.is_some(), "an answer without records");
    });
}

async fn new_producer_id(client: &mut Client) -> InitProducerIdResponse {
    let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
    let response = client.call(&request, 1).await;
    assert_eq!(response.error_code, 0);
    response
}

async fn leader_epoch(client: &mut Client) -> i32 {
    let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    client.call(&request, 9).await.topics[0].partitions[0].leader_epoch
}

/// Clients ask again, and one that gives a record less time than that must see it expire, as with Kafka.
#[test]
fn a_topic_created_on_the_way_is_there_for_the_second_question() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        let topic = || MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
        let request = || MetadataRequest { topics: Some(vec![topic()]), ..Default::default() };
        let mut seen = Vec::new();
        for _ in 0..2 {
            let answer = client.call(&request(), 9).await;
            seen.push((answer.topics[0].error_code, answer.topics[0].partitions.len()));
        }
        assert_eq!(seen, [(ErrorCode::UnknownTopicOrPartition.code(), 0), (0, 1)]);
    });
}

#[test]
fn a_minute_later_recovery_would_begin_behind_what_was_written() {
    let disk = Arc::new(MemoryDisk::default());
    let ((), _) = sim::run_on(1, disk.clone(), |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        client.call(&produce_request("t", 0, batch(&["a", "b", "c"])), 9).await;
        host.sleep_until(MonoMs(host.mono().0 + 61_000)).await;
    });
    let file = disk.read_file("/data/recovery-point-offset-checkpoint".as_ref(), 1_000).expect("is there");
    assert_eq!(String::from_utf8_lossy(&file), "0\n1\nt 0 3\n");
}

#[test]
fn a_snapshot_bounds_the_metadata_that_a_start_replays() {
    let disk = Arc::new(MemoryDisk::default());
    let bounded = ["metadata.log.max.record.bytes.between.snapshots=4000".to_owned()];
    let names = || (0..60).map(|number| format!("topic-{number}"));
    let ((), _) = sim::run_on(1, disk.clone(), |host| async move {
        let running = start_with(&host, &bounded).await.expect("starts");
        let mut client = Client::connect(&host, &running);
        for name in names() {
            client.create_topic(&name, 1).await;
        }
    });
    let found = disk.list_dir("/data/__cluster_metadata-0".as_ref()).expect("is there");
    let snapshots: Vec<_> = found.iter().filter(|entry| entry.name.ends_with(".checkpoint")).collect();
    assert_eq!(snapshots.len(), 2, "the newest and one in reserve: {snapshots:?}");
    let (seen, _) = sim::run_on(2, disk, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        let all = client.call(&MetadataRequest { topics: None, ..Default::default() }, 9).await;
        all.topics
            .iter()
            .map(|topic| topic.name.as_deref().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    });
    let mut expected: Vec<_> = names().collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn the_limit_of_connections_follows_its_configuration() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut first = Client::connect(&host, &running);
        let limit = AlterConfigsResource {
            resource_type: 4,
            resource_name: "1".into(),
            configs: vec![AlterableConfig {
                name: "max.connections".into(),
                value: Some("1".into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![limit], ..Default::default() };
        let response = first.call(&request, 1).await;
        assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
        assert_eq!(Client::connect(&host, &running).receive().await, None, "one too many");
        first.create_topic("t", 1).await;
    });
}

#[test]
fn a_fetch_waits_although_one_of_its_topics_is_unknown() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        let mut request = fetch_request("t", 0, 0, 500);
        request.topics.extend(fetch_request("gone", 0, 0, 500).topics);
        let began = host.mono();
        let both = client.call(&request, 11).await;
        assert!(host.mono().since_ms(began) >= 500, "it would be asked again in a loop");
        assert_eq!(both.responses[1].partitions[0].error_code, 3, "UNKNOWN_TOPIC_OR_PARTITION");
        let began = host.mono();
        let alone = client.call(&fetch_request("gone", 0, 0, 500), 11).await;
        assert!(host.mono().since_ms(began) < 500, "there is nothing to wait for");
        assert_eq!(alone.responses[0].partitions[0].error_code, 3);
    });
}

#[test]
fn an_idempotent_retry_is_stored_once() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        let id = new_producer_id(&mut client).await;
        let numbered = |sequence| {
            let mut builder = BatchBuilder::new().producer(
                ProducerId(id.producer_id),
                ProducerEpoch(id.producer_epoch),
                sequence,
            );
            builder.push(1, None, Some(b"x"), &[]);
            produce_request("t", 0, builder.build())
        };
        assert_eq!(base_offset(&client.call(&numbered(0), 9).await), 0);
        assert_eq!(base_offset(&client.call(&numbered(0), 9).await), 0, "a duplicate gets the first answer");
        assert_eq!(base_offset(&client.call(&numbered(1), 9).await), 1);
        let gap = client.call(&numbered(5), 9).await;
        assert_eq!(gap.responses[0].partition_responses[0].error_code, 45, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    });
}

#[test]
fn a_broken_frame_closes_only_its_own_connection() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut good = Client::connect(&host, &running);
        good.create_topic("t", 1).await;
        let frames: [&[u8]; 5] = [
            &[0xff, 0xff, 0xff, 0xff],
            &[0x7f, 0xff, 0xff, 0xff, 0],
            &[0, 0, 0, 3, 1, 2, 3],
            &[0, 0, 0, 10, 0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff],
            b"GET / HTTP/1.1\r\n\r\n",
        ];
        for frame in frames {
            let mut bad = Client::connect(&host, &running);
            bad.send_bytes(Bytes::copy_from_slice(frame)).await;
            assert_eq!(bad.receive().await, None, "{frame:?}");
        }
        assert_eq!(base_offset(&good.call(&produce_request("t", 0, batch(&["a"])), 9).await), 0);
    });
}
