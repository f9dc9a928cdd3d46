//! Batches written by Kafka's Java client: what every codec and kind of batch must read as.

use bytes::Bytes;
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, Codec, ProduceRules, RecordIter, Scanned, Scratch,
    TimestampType, TopicCompression, check_crc, decompress, scan_batches, validate_produce,
};
use klamm_protocol::time::WallMs;

const FIRST_MS: i64 = 1_700_000_000_000;

type Header = (&'static [u8], Option<&'static [u8]>);

struct Expected {
    timestamp: i64,
    key: Option<String>,
    value: Option<String>,
    headers: &'static [Header],
}

fn expected() -> Vec<Expected> {
    let record = |index: usize| Expected {
        timestamp: FIRST_MS + if index == 4 { -70 } else { index as i64 * 1_000 },
        key: (index != 1).then(|| format!("key-{index}")),
        value: (index != 2).then(|| "a value that compresses, ".repeat(index * 2 + 1)),
        headers: if index == 3 { &[(b"h", Some(b"one")), (b"h", None), (b"other", Some(b""))] } else { &[] },
    };
    (0..5).map(record).collect()
}

fn file(name: &str) -> Bytes {
    let path = format!("{}/tests/data/records/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    Bytes::from(std::fs::read(path).unwrap())
}

fn check_records(batch: &Bytes, base_offset: i64) {
    let header = BatchHeader::parse(batch).unwrap();
    assert!(check_crc(batch));
    assert_eq!(header.batch_bytes as usize, batch.len());
    let codec = header.attributes.compression().unwrap();
    let body = batch.slice(BATCH_HEADER_BYTES..);
    let plain = decompress(codec, &body, 1 << 20, &mut Scratch::new()).unwrap();
    let records: Vec<_> = RecordIter::new(&header, &plain).map(Result::unwrap).collect();
    assert_eq!(records.len(), 5);
    for (index, (record, expected)) in records.iter().zip(expected()).enumerate() {
        assert_eq!(record.offset, Offset(base_offset + index as i64));
        let timestamp = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => expected.timestamp,
            TimestampType::LogAppendTime => header.max_timestamp,
        };
        assert_eq!(record.timestamp, timestamp);
        assert_eq!(record.key, expected.key.as_deref().map(str::as_bytes));
        assert_eq!(record.value, expected.value.as_deref().map(str::as_bytes));
        assert_eq!(record.headers.collect::<Vec<_>>(), expected.headers);
    }
}

fn rules() -> ProduceRules {
    ProduceRules {
        max_message_bytes: 1_048_588,
        is_compacted: false,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        compression: TopicCompression::Producer,
        now: WallMs(FIRST_MS),
        decompressed_bytes_max: 1 << 20,
        api_version: 13,
    }
}

#[test]
fn every_codec_reads_and_is_valid_as_it_came() {
    let files = [
        ("none", Codec::None),
        ("gzip", Codec::Gzip),
        ("snappy", Codec::Snappy),
        ("lz4", Codec::Lz4),
        ("lz4-level-17", Codec::Lz4),
        ("zstd", Codec::Zstd),
    ];
    for (name, codec) in files {
        let batch = file(name);
        check_records(&batch, 0);
        let validated = validate_produce(&batch, &rules(), &mut Scratch::new()).unwrap();
        assert_eq!(validated.header.attributes.compression(), Ok(codec), "{name}");
        assert_eq!(validated.bytes.as_ptr(), batch.as_ptr(), "{name}");
        assert_eq!(validated.header, BatchHeader::parse(&batch).unwrap(), "{name}");
        assert_eq!(validated.max_timestamp, FIRST_MS + 3_000);
        assert_eq!(validated.offset_delta_of_max_timestamp, 3);
    }
}

#[test]
fn our_builder_writes_the_same_bytes() {
    let mut builder = BatchBuilder::new().leader_epoch(LeaderEpoch(-1));
    for record in expected() {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.push(record.timestamp, key.map(str::as_bytes), value.map(str::as_bytes), record.headers);
    }
    assert_eq!(builder.clone().build(), file("none"));
    let transactional =
        builder.producer(ProducerId(4711), ProducerEpoch(3), i32::MAX - 1).transactional().build();
    assert_eq!(transactional, file("transactional"));
    assert_eq!(BatchHeader::parse(&transactional).unwrap().last_sequence(), 2);
}

#[test]
fn a_marker_is_javas_byte_for_byte() {
    let marker = BatchBuilder::end_transaction_marker(true, 9, ProducerId(4711), ProducerEpoch(3), FIRST_MS)
        .base_offset(Offset(77))
        .leader_epoch(LeaderEpoch(5))
        .build();
    assert_eq!(marker, file("commit-marker"));
}

#[test]
fn log_append_time_is_the_batchs() {
    let batch = file("log-append-time");
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    check_records(&batch, 40);
}

#[test]
fn older_formats_are_told_apart() {
    for (name, magic, count) in [("magic-0", 0, 2), ("magic-1", 1, 1)] {
        let bytes = file(name);
        let entries: Vec<_> = scan_batches(&bytes).map(Result::unwrap).collect();
        assert_eq!(entries.len(), count, "{name}");
        for entry in entries {
            let Scanned::Legacy(entry) = entry else { panic!("{name} holds no batch") };
            assert_eq!(entry.magic, magic);
        }
    }
}
