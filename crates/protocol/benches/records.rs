//! What validating a produced batch and iterating over it costs, per batch of about 64 KiB.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use klamm_protocol::records::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, Codec, ProduceRules, RecordIter, Scratch, TimestampType,
    TopicCompression, validate_produce,
};
use klamm_protocol::time::WallMs;
use std::hint::black_box;

const NOW_MS: i64 = 1_700_000_000_000;

/// Records of `record_bytes`, of words that compress to about a third.
fn batch(codec: Codec, record_bytes: usize) -> (Bytes, u64) {
    let mut state = 1u32;
    let mut builder = BatchBuilder::new().codec(codec);
    let count = (64 << 10) / record_bytes;
    for index in 0..count {
        let mut value = Vec::new();
        while value.len() < record_bytes - 20 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            value.extend_from_slice(format!("word{} ", state >> 24).as_bytes());
        }
        value.truncate(record_bytes - 20);
        builder.push(NOW_MS + index as i64, Some(b"key-0123"), Some(&value), &[]);
    }
    (builder.build(), count as u64)
}

fn rules() -> ProduceRules {
    ProduceRules {
        max_message_bytes: 1_048_588,
        is_compacted: true,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        compression: TopicCompression::Producer,
        now: WallMs(NOW_MS),
        decompressed_bytes_max: 16 << 20,
        api_version: 13,
    }
}

fn validate(c: &mut Criterion) {
    let mut group = c.benchmark_group("validate_produce");
    for record_bytes in [100, 1024] {
        for codec in Codec::ALL {
            let (bytes, count) = batch(codec, record_bytes);
            let (rules, mut scratch) = (rules(), Scratch::new());
            group.throughput(Throughput::Elements(count));
            group.bench_function(BenchmarkId::new(codec.name(), record_bytes), |b| {
                b.iter(|| validate_produce(black_box(&bytes), &rules, &mut scratch).unwrap());
            });
        }
    }
    // One record per batch, as producers without batching send them.
    let mut single = BatchBuilder::new();
    single.push(NOW_MS, Some(b"key"), Some(&[7; 80]), &[]);
    let single = single.build();
    let (rules, mut scratch) = (rules(), Scratch::new());
    group.throughput(Throughput::Elements(1));
    group.bench_function("none/one record", |b| {
        b.iter(|| validate_produce(black_box(&single), &rules, &mut scratch).unwrap());
    });
    group.finish();
}

fn iterate(c: &mut Criterion) {
    let mut group = c.benchmark_group("iterate");
    for record_bytes in [100, 1024] {
        let (bytes, count) = batch(Codec::None, record_bytes);
        let header = BatchHeader::parse(&bytes).unwrap();
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(record_bytes), |b| {
            b.iter(|| {
                RecordIter::new(&header, black_box(&bytes[BATCH_HEADER_BYTES..]))
                    .map(|record| record.unwrap().value.map_or(0, <[u8]>::len))
                    .sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, validate, iterate);
criterion_main!(benches);
