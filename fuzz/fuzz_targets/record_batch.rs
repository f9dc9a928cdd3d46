//! Record bytes of a producer or a disk: scanning, validating, decompressing and iterating
//! never panic, and what is accepted stays acceptable and keeps its records.
//!
//! The first byte chooses the rules. The CRC is made right, so that the fuzzer gets past it.
#![no_main]

use bytes::Bytes;
use klamm_protocol::ids::Offset;
use klamm_protocol::records::{
    BATCH_HEADER_BYTES, BatchHeader, Codec, ProduceRules, RecordIter, Scratch, TimestampType,
    TopicCompression, ValidatedBatch, check_crc, decompress, decompressed_bytes_hint, scan_batches,
    validate_produce,
};
use klamm_protocol::time::WallMs;
use libfuzzer_sys::fuzz_target;

const CAP_BYTES: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, input)) = data.split_first() else { return };
    for entry in scan_batches(input) {
        let _ = std::hint::black_box(entry);
    }
    let mut bytes = input.to_vec();
    if let Ok(mut header) = BatchHeader::parse(&bytes) {
        header.base_offset = Offset(0);
        header.batch_bytes = bytes.len() as u32;
        header.crc = header.crc_of(&bytes[BATCH_HEADER_BYTES..]);
        header.write_to(bytes.first_chunk_mut().expect("a header was parsed"));
    }
    let bytes = Bytes::from(bytes);
    let mut scratch = Scratch::new();
    let rules = rules(choice);
    let Ok(first) = validate_produce(&bytes, &rules, &mut scratch) else { return };
    let records = records(&first, &mut scratch);

    // As the log stores it: valid, and validating it again changes nothing.
    let mut stored = first.bytes.to_vec();
    first.header.write_to(stored.first_chunk_mut().expect("a batch has a header"));
    assert!(check_crc(&stored));
    if rules.timestamp_type == TimestampType::CreateTime {
        let again = validate_produce(&Bytes::from(stored.clone()), &rules, &mut scratch)
            .expect("what was accepted is acceptable");
        assert_eq!(again.header, first.header);
        assert_eq!(again.bytes, stored);
    }

    // The topic's codec changes the bytes, never the records.
    let to = Codec::from_id(choice % 5).expect("five codecs");
    let recoded = ProduceRules { compression: TopicCompression::To(to, to.level_default()), ..rules };
    if let Ok(second) = validate_produce(&bytes, &recoded, &mut scratch) {
        assert_eq!(self::records(&second, &mut scratch), records);
    }
});

type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

fn records(batch: &ValidatedBatch, scratch: &mut Scratch) -> Vec<Plain> {
    let codec = batch.header.attributes.compression().expect("the codec was validated");
    let body = batch.bytes.slice(BATCH_HEADER_BYTES..);
    let plain = decompress(codec, &body, CAP_BYTES, scratch).expect("the stream was validated");
    if codec != Codec::Gzip {
        assert!(decompressed_bytes_hint(codec, &body) >= plain.len() as u64);
    }
    let records: Vec<Plain> = RecordIter::new(&batch.header, &plain)
        .map(|record| {
            let record = record.expect("the records were validated");
            let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
            (record.timestamp, key, value, record.headers.count())
        })
        .collect();
    assert_eq!(records.len() as i32, batch.header.record_count);
    records
}

fn rules(choice: u8) -> ProduceRules {
    ProduceRules {
        max_message_bytes: CAP_BYTES as u32,
        is_compacted: choice & 0x80 != 0,
        timestamp_type: if choice & 0x40 != 0 {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        },
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        compression: TopicCompression::Producer,
        now: WallMs(1_700_000_000_000),
        decompressed_bytes_max: CAP_BYTES,
        api_version: 13,
    }
}
