//! Each check of a produce, both sides of it, and what is rewritten; expectations are what
//! Kafka 4.3.1 answers, save where the module says otherwise.

use super::*;
use crate::ids::{Offset, ProducerEpoch, ProducerId};
use crate::records::{BatchBuilder, RecordIter, crc32c, decompress};

const NOW: i64 = 1_700_000_000_000;

fn rules() -> ProduceRules {
    ProduceRules {
        max_message_bytes: 1_048_588,
        is_compacted: false,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        compression: TopicCompression::Producer,
        now: WallMs(NOW),
        decompressed_bytes_max: 16 << 20,
        api_version: 13,
    }
}

fn batch(codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new().codec(codec);
    builder.push(NOW - 5, Some(b"a"), Some(b"one"), &[(b"h", None)]);
    builder.push(NOW + 7, Some(b"b"), Some(b"two"), &[]);
    builder.push(NOW + 7, None, None, &[]);
    builder.build()
}

/// `batch` with its header changed and the CRC made right again.
fn altered(batch: &Bytes, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = BatchHeader::parse(batch).unwrap();
    change(&mut header);
    let mut bytes = batch.to_vec();
    header.crc = header.crc_of(&bytes[BATCH_HEADER_BYTES..]);
    header.write_to(bytes.first_chunk_mut().unwrap());
    Bytes::from(bytes)
}

fn validate(bytes: &Bytes, rules: &ProduceRules) -> Result<ValidatedBatch, ProduceReject> {
    validate_produce(bytes, rules, &mut Scratch::new())
}

#[track_caller]
fn refused(bytes: &Bytes, rules: &ProduceRules, kind: Kind) -> ProduceReject {
    let reject = validate(bytes, rules).unwrap_err();
    assert_eq!(reject.kind, kind, "{reject}");
    reject
}

type Plain = (Option<Vec<u8>>, Option<Vec<u8>>, i64, i64);

fn records(validated: &ValidatedBatch) -> Vec<Plain> {
    let codec = validated.header.attributes.compression().unwrap();
    let body = validated.bytes.slice(BATCH_HEADER_BYTES..);
    let plain = decompress(codec, &body, 1 << 20, &mut Scratch::new()).unwrap();
    RecordIter::new(&validated.header, &plain)
        .map(|record| {
            let record = record.unwrap();
            (
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
                record.timestamp,
                record.offset.0,
            )
        })
        .collect()
}

#[test]
fn a_good_batch_stays_the_bytes_it_came_as() {
    for codec in Codec::ALL {
        let bytes = batch(codec);
        let validated = validate(&bytes, &rules()).unwrap();
        assert_eq!(validated.bytes.as_ptr(), bytes.as_ptr(), "{codec:?}: a slice, not a copy");
        assert_eq!(validated.header, BatchHeader::parse(&bytes).unwrap());
        assert_eq!((validated.max_timestamp, validated.offset_delta_of_max_timestamp), (NOW + 7, 1));
    }
}

#[test]
fn exactly_one_batch_of_magic_two() {
    let one = batch(Codec::None);
    refused(&Bytes::new(), &rules(), Kind::InvalidRecord);
    refused(&Bytes::from([&one[..], &one[..]].concat()), &rules(), Kind::InvalidRecord);
    for cut in 0..one.len() {
        refused(&one.slice(..cut), &rules(), Kind::InvalidRecord);
    }
    for (magic, kind) in [
        (0, Kind::InvalidRecord),
        (1, Kind::InvalidRecord),
        (3, Kind::CorruptMessage),
        (-1, Kind::CorruptMessage),
    ] {
        refused(&altered(&one, |h| h.magic = magic), &rules(), kind);
    }
    for batch_bytes in [12, 25, 26, 60] {
        refused(&altered(&one, |h| h.batch_bytes = batch_bytes), &rules(), Kind::CorruptMessage);
    }
}

#[test]
fn the_start_of_another_batch_is_dropped() {
    let one = batch(Codec::None);
    for extra in [1, 11, 60, one.len() - 1] {
        let longer = Bytes::from([&one[..], &one[..extra]].concat());
        assert_eq!(validate(&longer, &rules()).unwrap().bytes, one);
    }
}

#[test]
fn zstd_needs_version_seven() {
    let bytes = batch(Codec::Zstd);
    refused(&bytes, &ProduceRules { api_version: 6, ..rules() }, Kind::UnsupportedCompressionType);
    assert!(validate(&bytes, &ProduceRules { api_version: 7, ..rules() }).is_ok());
    let unknown = altered(&batch(Codec::None), |h| h.attributes.0 |= 5);
    refused(&unknown, &rules(), Kind::UnsupportedCompressionType);
}

#[test]
fn the_header_must_be_a_producers() {
    let one = batch(Codec::None);
    refused(&altered(&one, |h| h.base_offset = Offset(1)), &rules(), Kind::InvalidRecord);
    for delta in [-1, 0, 1, 3, i32::MAX, i32::MIN] {
        refused(&altered(&one, |h| h.last_offset_delta = delta), &rules(), Kind::InvalidRecord);
    }
    for count in [0, -1, 2, 4, i32::MAX] {
        refused(&altered(&one, |h| h.record_count = count), &rules(), Kind::InvalidRecord);
    }
    refused(
        &altered(&one, |h| h.attributes = h.attributes.with_control(true)),
        &rules(),
        Kind::InvalidRecord,
    );
    let idempotent = |sequence| {
        altered(&one, |h| {
            (h.producer_id, h.producer_epoch, h.base_sequence) = (ProducerId(4), ProducerEpoch(0), sequence);
        })
    };
    refused(&idempotent(-1), &rules(), Kind::InvalidRecord);
    assert!(validate(&idempotent(0), &rules()).is_ok());
    let small = ProduceRules { max_message_bytes: one.len() as u32 - 1, ..rules() };
    refused(&one, &small, Kind::MessageTooLarge);
    assert!(validate(&one, &ProduceRules { max_message_bytes: one.len() as u32, ..rules() }).is_ok());
}

#[test]
fn count_and_records_must_agree() {
    for codec in Codec::ALL {
        let one = batch(codec);
        for count in [1, 2, 4, 1_000_000] {
            let other = altered(&one, |h| (h.record_count, h.last_offset_delta) = (count, count - 1));
            refused(&other, &rules(), Kind::InvalidRecord);
        }
    }
}

#[test]
fn every_flipped_bit_behind_the_crc_is_found_and_none_panics() {
    for codec in Codec::ALL {
        let one = batch(codec);
        let mut scratch = Scratch::new();
        for bit in 0..one.len() * 8 {
            let mut flipped = one.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = Bytes::from(flipped);
            let result = validate_produce(&flipped, &rules(), &mut scratch);
            match bit / 8 {
                // The leader writes its own epoch over it.
                12..=15 => assert!(result.is_ok()),
                17.. => assert_eq!(result.unwrap_err().kind, Kind::CorruptMessage, "{codec:?} bit {bit}"),
                _ => assert!(result.is_err(), "{codec:?} bit {bit}"),
            }
            // With a matching CRC the bytes behind it are read: whatever they say, nothing panics.
            if bit / 8 >= 21 {
                let _ = validate_produce(&altered(&flipped, |_| ()), &rules(), &mut scratch);
            }
        }
    }
}

#[test]
fn a_compacted_topic_wants_keys_and_names_the_records() {
    let compacted = ProduceRules { is_compacted: true, ..rules() };
    for codec in Codec::ALL {
        let reject = refused(&batch(codec), &compacted, Kind::InvalidRecord);
        assert_eq!(reject.record_errors.len(), 1);
        assert_eq!(reject.record_errors[0].0, 2);
    }
    let mut builder = BatchBuilder::new();
    for _ in 0..2_000 {
        builder.push(NOW, None, None, &[]);
    }
    let reject = refused(&builder.build(), &compacted, Kind::InvalidRecord);
    assert_eq!(reject.record_errors.len(), ProduceReject::RECORD_ERRORS_MAX);
    assert!(reject.message.contains("2000 of 2000"), "{reject}");
}

#[test]
fn timestamps_lie_within_the_topics_limits() {
    let strict = ProduceRules { timestamp_before_max_ms: 5, timestamp_after_max_ms: 7, ..rules() };
    assert!(validate(&batch(Codec::Lz4), &strict).is_ok());
    let early = ProduceRules { timestamp_before_max_ms: 4, ..strict.clone() };
    assert_eq!(refused(&batch(Codec::Lz4), &early, Kind::InvalidTimestamp).record_errors[0].0, 0);
    let late = ProduceRules { timestamp_after_max_ms: 6, is_compacted: true, ..strict.clone() };
    let places: Vec<i32> = refused(&batch(Codec::None), &late, Kind::InvalidTimestamp)
        .record_errors
        .iter()
        .map(|e| e.0)
        .collect();
    assert_eq!(places, [1, 2], "the third record lacks a key");
    // No timestamp is not checked, and neither is any under LogAppendTime.
    let mut builder = BatchBuilder::new();
    builder.push(NO_TIMESTAMP, None, None, &[]);
    let none = validate(&builder.build(), &strict).unwrap();
    assert_eq!((none.max_timestamp, none.offset_delta_of_max_timestamp), (NO_TIMESTAMP, 0));
    let append = ProduceRules { timestamp_type: TimestampType::LogAppendTime, ..late };
    assert!(validate(&batch(Codec::None), &ProduceRules { is_compacted: false, ..append }).is_ok());
    // Sums that overflow.
    let huge = altered(&batch(Codec::None), |h| (h.base_timestamp, h.max_timestamp) = (i64::MAX, 0));
    refused(&huge, &strict, Kind::InvalidTimestamp);
}

#[test]
fn a_wrong_max_timestamp_is_put_right_with_its_crc() {
    for codec in Codec::ALL {
        let wrong = altered(&batch(codec), |h| h.max_timestamp = NOW + 1_000);
        let validated = validate(&wrong, &rules()).unwrap();
        assert_eq!(validated.header.max_timestamp, NOW + 7);
        assert_eq!(validated.bytes, wrong, "the bytes stay");
        assert_eq!(validated.header.crc, validated.header.crc_of(&wrong[BATCH_HEADER_BYTES..]));
        assert_ne!(validated.header.crc, BatchHeader::parse(&wrong).unwrap().crc);
    }
}

#[test]
fn under_log_append_time_the_header_carries_the_brokers_time() {
    let append = ProduceRules { timestamp_type: TimestampType::LogAppendTime, ..rules() };
    let validated = validate(&batch(Codec::Zstd), &append).unwrap();
    assert_eq!(validated.header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!((validated.header.max_timestamp, validated.max_timestamp), (NOW, NOW));
    assert_eq!(validated.offset_delta_of_max_timestamp, 2);
    assert!(records(&validated).iter().all(|record| record.2 == NOW));
    let set = altered(&batch(Codec::None), |h| {
        h.attributes = h.attributes.with_timestamp_type(TimestampType::LogAppendTime);
    });
    assert_eq!(refused(&set, &append, Kind::InvalidTimestamp).record_errors.len(), 3);
    // A CreateTime topic takes the records' own times and clears the type.
    let cleared = validate(&set, &rules()).unwrap();
    assert_eq!(cleared.header.attributes.timestamp_type(), TimestampType::CreateTime);
    assert_eq!(cleared.max_timestamp, NOW + 7);
}

#[test]
fn the_topics_codec_wins() {
    for source in Codec::ALL {
        let bytes = batch(source);
        let expected = records(&validate(&bytes, &rules()).unwrap());
        for target in Codec::ALL {
            let to =
                ProduceRules { compression: TopicCompression::To(target, target.level_default()), ..rules() };
            let validated = validate(&bytes, &to).unwrap();
            assert_eq!(validated.header.attributes.compression(), Ok(target));
            assert_eq!(validated.bytes.as_ptr() == bytes.as_ptr(), source == target);
            assert_eq!(records(&validated), expected, "{source:?} to {target:?}");
            assert!(check_crc(&validated.bytes));
            assert_eq!(BatchHeader::parse(&validated.bytes).unwrap(), validated.header);
        }
    }
}

#[test]
fn a_batch_that_grows_past_the_limit_is_refused() {
    let mut builder = BatchBuilder::new().codec(Codec::Zstd);
    builder.push(NOW, None, Some(&[0; 2_000_000]), &[]);
    let bytes = builder.build();
    let plain = ProduceRules { compression: TopicCompression::To(Codec::None, 0), ..rules() };
    refused(&bytes, &plain, Kind::MessageTooLarge);
    assert!(validate(&bytes, &rules()).is_ok());
}

#[test]
fn inner_offsets_with_gaps_are_made_dense() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new().codec(codec).producer(ProducerId(1), ProducerEpoch(2), 30);
        builder.push_at(0, NOW, Some(b"a"), Some(b"one"), &[(b"h", Some(b"x")), (b"h", None)]);
        builder.push_at(500, NOW + 9, Some(b"b"), None, &[]);
        builder.push_at(500, NOW + 1, None, Some(b"three"), &[]);
        let bytes = altered(&builder.build(), |h| h.last_offset_delta = 2);
        let validated = validate(&bytes, &rules()).unwrap();
        assert_ne!(validated.bytes, bytes);
        assert!(check_crc(&validated.bytes));
        assert_eq!(validated.offset_delta_of_max_timestamp, 1);
        assert_eq!((validated.header.producer_id, validated.header.base_sequence), (ProducerId(1), 30));
        let found = records(&validated);
        let expected: [Plain; 3] = [
            (Some(b"a".to_vec()), Some(b"one".to_vec()), NOW, 0),
            (Some(b"b".to_vec()), None, NOW + 9, 1),
            (None, Some(b"three".to_vec()), NOW + 1, 2),
        ];
        assert_eq!(found, expected, "{codec:?}");
    }
}

#[test]
fn a_bomb_is_refused_with_a_small_window() {
    let mut builder = BatchBuilder::new();
    builder.push(NOW, None, Some(&vec![0; 64 << 20]), &[]);
    let plain = builder.build();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut scratch = Scratch::new();
        let mut bomb = vec![0; BATCH_HEADER_BYTES];
        super::super::compress(
            codec,
            codec.level_default(),
            &plain[BATCH_HEADER_BYTES..],
            &mut bomb,
            &mut scratch,
        );
        bomb[..BATCH_HEADER_BYTES].copy_from_slice(&plain[..BATCH_HEADER_BYTES]);
        let bytes = bomb.len() as u32;
        let bomb = altered(&Bytes::from(bomb), |h| {
            h.attributes = h.attributes.with_compression(codec);
            h.batch_bytes = bytes;
        });
        let roomy = ProduceRules { max_message_bytes: u32::MAX, ..rules() };
        let reject = validate_produce(&bomb, &roomy, &mut scratch).unwrap_err();
        assert_eq!(reject.kind, Kind::DecompressedTooLarge, "{codec:?}: {reject}");
        let enough = ProduceRules { decompressed_bytes_max: 65 << 20, ..roomy };
        assert!(validate_produce(&bomb, &enough, &mut scratch).is_ok(), "{codec:?}");
        assert!(scratch.window.space(0).len() < 1 << 20, "{codec:?}: the value streams past");
    }
}

#[test]
fn garbage_for_compressed_records_is_an_invalid_record() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let garbage = altered(&batch(Codec::None), |h| h.attributes = h.attributes.with_compression(codec));
        refused(&garbage, &rules(), Kind::InvalidRecord);
    }
}

#[test]
fn the_crc_is_looked_at_before_the_rest() {
    let mut bytes = batch(Codec::None).to_vec();
    bytes[59] ^= 0xff;
    assert_ne!(crc32c(&bytes[21..]), BatchHeader::parse(&bytes).unwrap().crc);
    refused(&Bytes::from(bytes), &rules(), Kind::CorruptMessage);
}
