//! The three messages that set the pace: a produce request in, a fetch response out, and the
//! metadata of a large cluster both ways.

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use klamm_protocol::api_key::ApiKey;
use klamm_protocol::ids::Uuid;
use klamm_protocol::messages::fetch::{FetchResponse, FetchableTopicResponse, PartitionData};
use klamm_protocol::messages::metadata::{
    MetadataResponse, MetadataResponsePartition, MetadataResponseTopic,
};
use klamm_protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use klamm_protocol::wire::{Decoder, decode_request_body, decode_response, encode_data, encode_response};
use klamm_protocol::wire::{Message, Part, RequestHeader, encode_request};
use std::hint::black_box;

fn produce(c: &mut Criterion) {
    let partition = PartitionProduceData { index: 3, records: Some(Bytes::from(vec![1; 1 << 20]).into()) };
    let topic = TopicProduceData {
        name: "a-topic".into(),
        partition_data: vec![partition],
        ..TopicProduceData::default()
    };
    let request =
        ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..ProduceRequest::default() };
    let frame = encode_request(&request, 9, 1, Some("client")).expect("a valid request").slice(4..);
    c.bench_function("decode Produce v9 of 1 MiB", |b| {
        b.iter(|| {
            let mut d = Decoder::new(frame.clone(), 1 << 16);
            let header = RequestHeader::decode(&mut d).expect("a header");
            black_box(decode_request_body::<ProduceRequest>(&mut d, header.api_version).expect("a body"))
        });
    });
}

fn fetch(c: &mut Criterion) {
    let partitions = (0..10)
        .map(|index| PartitionData {
            partition_index: index,
            records: Some(Bytes::from(vec![1; 1 << 20]).into()),
            ..PartitionData::default()
        })
        .collect();
    let topic = FetchableTopicResponse { topic_id: Uuid(7), partitions, ..FetchableTopicResponse::default() };
    let response = FetchResponse { responses: vec![topic], ..FetchResponse::default() };
    c.bench_function("encode Fetch v17 of 10 MiB", |b| {
        b.iter(|| black_box(encode_response(&response, ApiKey::Fetch, 17, 1).expect("a valid response")));
    });
}

fn metadata(c: &mut Criterion) {
    let partition = |index| MetadataResponsePartition {
        partition_index: index,
        leader_id: 1,
        leader_epoch: 5,
        replica_nodes: vec![1, 2, 3],
        isr_nodes: vec![1, 2, 3],
        ..MetadataResponsePartition::default()
    };
    let topic = |index| MetadataResponseTopic {
        name: Some(format!("topic-{index}").into()),
        topic_id: Uuid(index),
        partitions: (0..100).map(partition).collect(),
        ..MetadataResponseTopic::default()
    };
    let response = MetadataResponse { topics: (0..100).map(topic).collect(), ..MetadataResponse::default() };
    c.bench_function("size Metadata v12 of 10,000 partitions", |b| {
        b.iter(|| black_box(black_box(&response).size(12)));
    });
    c.bench_function("encode Metadata v12 of 10,000 partitions", |b| {
        b.iter(|| black_box(encode_response(&response, ApiKey::Metadata, 12, 1).expect("a valid response")));
    });
    let parts = encode_response(&response, ApiKey::Metadata, 12, 1).expect("a valid response");
    let [Part::Bytes(frame)] = &parts[..] else { unreachable!("no records, one part") };
    assert_eq!(frame.len(), encode_data(&response, 12).expect("a valid response").len() + 9);
    c.bench_function("decode Metadata v12 of 10,000 partitions", |b| {
        b.iter(|| decode_response::<MetadataResponse>(frame.slice(4..), ApiKey::Metadata, 12));
    });
}

criterion_group!(benches, produce, fetch, metadata);
criterion_main!(benches);
