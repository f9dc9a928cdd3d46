//! Record batches against `kafka-protocol`: what either writes, the other reads, in every codec.

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, Codec, ProduceRules, RecordIter, Scratch, TimestampType,
    TopicCompression, check_crc, decompress, validate_produce,
};
use klamm_protocol::time::WallMs;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq)]
struct Plain {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    // Keys differ: the other crate keeps headers in a map.
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn plain() -> impl Strategy<Value = Plain> {
    let bytes = || proptest::option::of(vec(0u8..8, 0..300));
    (
        -2_000_000_000_000i64..2_000_000_000_000,
        bytes(),
        bytes(),
        vec(proptest::option::of(vec(any::<u8>(), 0..9)), 0..4),
    )
        .prop_map(|(timestamp, key, value, headers)| {
            let headers =
                headers.into_iter().enumerate().map(|(i, value)| (format!("h{i}"), value)).collect();
            Plain { timestamp, key, value, headers }
        })
}

fn their_codec(codec: Codec) -> theirs::Compression {
    match codec {
        Codec::None => theirs::Compression::None,
        Codec::Gzip => theirs::Compression::Gzip,
        Codec::Snappy => theirs::Compression::Snappy,
        Codec::Lz4 => theirs::Compression::Lz4,
        Codec::Zstd => theirs::Compression::Zstd,
    }
}

fn their_bytes(records: &[Plain], codec: Codec) -> Bytes {
    let records: Vec<theirs::Record> = records
        .iter()
        .enumerate()
        .map(|(index, record)| theirs::Record {
            transactional: true,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 6,
            producer_id: 12,
            producer_epoch: 3,
            timestamp_type: theirs::TimestampType::Creation,
            offset: index as i64,
            sequence: 40 + index as i32,
            timestamp: record.timestamp,
            key: record.key.clone().map(Bytes::from),
            value: record.value.clone().map(Bytes::from),
            headers: record
                .headers
                .iter()
                .map(|(key, value)| (StrBytes::from(key.clone()), value.clone().map(Bytes::from)))
                .collect::<IndexMap<_, _>>(),
        })
        .collect();
    let mut bytes = BytesMut::new();
    let options = theirs::RecordEncodeOptions { version: 2, compression: their_codec(codec) };
    theirs::RecordBatchEncoder::encode(&mut bytes, records.iter(), &options).unwrap();
    bytes.freeze()
}

fn our_bytes(records: &[Plain], codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new()
        .base_offset(Offset(500))
        .leader_epoch(LeaderEpoch(6))
        .producer(ProducerId(12), ProducerEpoch(3), 40)
        .transactional()
        .codec(codec);
    for record in records {
        let headers: Vec<_> =
            record.headers.iter().map(|(key, value)| (key.as_bytes(), value.as_deref())).collect();
        builder.push(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build()
}

fn our_reading(batch: &Bytes) -> Vec<Plain> {
    let header = BatchHeader::parse(batch).unwrap();
    let codec = header.attributes.compression().unwrap();
    let body = batch.slice(BATCH_HEADER_BYTES..);
    let payload = decompress(codec, &body, 1 << 20, &mut Scratch::new()).unwrap();
    RecordIter::new(&header, &payload)
        .map(|record| {
            let record = record.unwrap();
            Plain {
                timestamp: record.timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record
                    .headers
                    .map(|(k, v)| (String::from_utf8(k.to_vec()).unwrap(), v.map(<[u8]>::to_vec)))
                    .collect(),
            }
        })
        .collect()
}

fn rules(compression: TopicCompression) -> ProduceRules {
    ProduceRules {
        max_message_bytes: 1 << 20,
        is_compacted: false,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        compression,
        now: WallMs(1_700_000_000_000),
        decompressed_bytes_max: 1 << 20,
        api_version: 13,
    }
}

proptest! {
    #[test]
    fn we_read_what_they_write(records in vec(plain(), 1..30), codec in 0u8..5, to in 0u8..5) {
        let codec = Codec::from_id(codec).unwrap();
        let bytes = their_bytes(&records, codec);
        prop_assert!(check_crc(&bytes));
        prop_assert_eq!(our_reading(&bytes), records.clone());
        let header = BatchHeader::parse(&bytes).unwrap();
        prop_assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(12), ProducerEpoch(3)));
        prop_assert_eq!((header.base_sequence, header.last_sequence()), (40, 39 + records.len() as i32));
        prop_assert!(header.attributes.is_transactional());

        let to = Codec::from_id(to).unwrap();
        let recoded = TopicCompression::To(to, to.level_default());
        let validated = validate_produce(&bytes, &rules(recoded), &mut Scratch::new()).unwrap();
        prop_assert_eq!(our_reading(&validated.bytes), records);
    }

    #[test]
    fn they_read_what_we_write(records in vec(plain(), 1..30), codec in 0u8..5) {
        let codec = Codec::from_id(codec).unwrap();
        let mut bytes = our_bytes(&records, codec);
        prop_assert_eq!(our_reading(&bytes), records.clone());
        let set = theirs::RecordBatchDecoder::decode(&mut bytes).unwrap();
        prop_assert_eq!(set.compression, their_codec(codec));
        prop_assert_eq!(set.records.len(), records.len());
        for (index, (found, expected)) in set.records.iter().zip(&records).enumerate() {
            let headers: Vec<_> =
                found.headers.iter().map(|(k, v)| (k.to_string(), v.as_ref().map(|v| v.to_vec()))).collect();
            let read = Plain {
                timestamp: found.timestamp,
                key: found.key.as_ref().map(|key| key.to_vec()),
                value: found.value.as_ref().map(|value| value.to_vec()),
                headers,
            };
            prop_assert_eq!(&read, expected);
            prop_assert_eq!((found.offset, found.sequence), (500 + index as i64, 40 + index as i32));
            prop_assert_eq!((found.producer_id, found.partition_leader_epoch), (12, 6));
            prop_assert!(found.transactional && !found.control);
        }
    }
}
