//! Bytes: what Kafka 4.3.1 wrote is read and written the same, and damage is refused.

use bytes::Bytes;
use klamm_cluster::features::{BOOTSTRAP_FEATURE_LEVELS, MetadataVersion};
use klamm_cluster::metadata_log::batches::{
    BatchContent, DecodedBatch, decode_batches, encode_control, encode_records,
};
use klamm_cluster::metadata_log::checkpoint::Checkpoint;
use klamm_cluster::record::{MetadataRecord, RecordError};
use klamm_cluster::replay::Replay;
use klamm_cluster::snapshot::{image_of, records_of};
use klamm_protocol::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex};
use klamm_protocol::messages::metadata_records::{ConfigRecord, NoOpRecord};
use klamm_protocol::time::WallMs;
use proptest::prelude::*;

const BOOTSTRAP: &[u8] = include_bytes!("kafka-4.3.1/bootstrap.checkpoint");
const STANDALONE: &[u8] = include_bytes!("kafka-4.3.1/00000000000000000000-0000000000.checkpoint");

/// A log that Kafka wrote: formatted, started, asked to create a topic and alter configuration,
/// and stopped cleanly.
const STATIC_LOG: &[u8] = include_bytes!("kafka-4.3.1/static-quorum.log");

/// Encodes what was decoded. All records of one batch of these files carry one timestamp.
fn encoded(batch: &DecodedBatch) -> Bytes {
    let now = WallMs(batch.max_timestamp_ms);
    match &batch.content {
        BatchContent::Records(records) => {
            let records: Vec<MetadataRecord> = records.iter().map(|(_, record)| record.clone()).collect();
            let batches =
                encode_records(batch.base_offset, batch.epoch, now, MetadataVersion::LATEST, &records)
                    .unwrap();
            assert_eq!(batches.len(), 1);
            batches[0].bytes.clone()
        }
        BatchContent::Control(records) => {
            let records: Vec<_> = records.iter().map(|(_, record)| record.clone()).collect();
            encode_control(batch.base_offset, batch.epoch, now, &records).unwrap().bytes
        }
    }
}

#[test]
fn kafkas_snapshots_come_out_byte_for_byte() {
    for file in [BOOTSTRAP, STANDALONE] {
        let again: Vec<u8> = decode_batches(&Bytes::from_static(file))
            .flat_map(|batch| encoded(&batch.unwrap()).to_vec())
            .collect();
        assert_eq!(again, file);
    }
}

#[test]
fn kafkas_bootstrap_snapshot_names_the_levels_that_we_bootstrap() {
    let checkpoint = Checkpoint::decode(&Bytes::from_static(BOOTSTRAP)).unwrap();
    assert_eq!(checkpoint.kraft_version, None);
    let levels: Vec<(String, i16)> = checkpoint
        .records
        .iter()
        .map(|record| match record {
            MetadataRecord::FeatureLevel(level) => (level.name.to_string(), level.feature_level),
            other => panic!("{other:?}"),
        })
        .collect();
    let ours: Vec<(String, i16)> =
        BOOTSTRAP_FEATURE_LEVELS.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect();
    assert_eq!(levels, ours);
}

#[test]
fn kafkas_standalone_snapshot_names_its_voter() {
    let checkpoint = Checkpoint::decode(&Bytes::from_static(STANDALONE)).unwrap();
    assert_eq!(checkpoint.kraft_version, Some(1));
    let voters = checkpoint.voters.unwrap();
    assert_eq!(voters.len(), 1);
    assert_eq!(voters[0].node, NodeId(1));
    assert_eq!(voters[0].directory.to_string(), "WMSyVKI2SYaD2Uv1DuDT1Q");
    assert_eq!(voters[0].endpoints, [("CONTROLLER".to_owned(), "127.0.0.1".to_owned(), 21093)]);
}

#[test]
fn kafkas_log_is_read_and_written_the_same() {
    let mut replay = Replay::default();
    let mut again = Vec::new();
    for batch in decode_batches(&Bytes::from_static(STATIC_LOG)) {
        let batch = batch.unwrap();
        again.extend_from_slice(&encoded(&batch));
        replay.advance_to(batch.end_offset);
        let BatchContent::Records(records) = &batch.content else { continue };
        records.iter().for_each(|(at, record)| replay.apply(*at, record));
    }
    assert_eq!(again, STATIC_LOG);

    let image = replay.image();
    assert!(!replay.is_in_transaction());
    assert_eq!(image.metadata_version(), MetadataVersion::LATEST);
    let broker = image.broker(NodeId(1)).unwrap();
    assert!(broker.is_fenced && broker.in_controlled_shutdown);
    let topic = image.topic_by_name("as").unwrap();
    let partition = &topic.partitions[&PartitionIndex(0)];
    assert_eq!((partition.leader, &partition.isr[..]), (NodeId(-1), &[][..]));
    assert_eq!((&partition.elr[..], &partition.last_known_elr[..]), (&[NodeId(1)][..], &[NodeId(1)][..]));
    assert_eq!(image_of(image.next_offset(), &records_of(image)), *image);
}

#[test]
fn unknown_records_are_refused() {
    let decode = |value: &'static [u8]| MetadataRecord::decode(Some(Bytes::from_static(value)));
    assert!(matches!(MetadataRecord::decode(None), Err(RecordError::NoValue)));
    assert!(matches!(decode(&[2, 12, 0]), Err(RecordError::UnknownFrameVersion(2))));
    assert!(matches!(decode(&[1, 99, 0]), Err(RecordError::UnknownKind { api_key: 99, version: 0 })));
    assert!(matches!(decode(&[1, 20, 1]), Err(RecordError::UnknownVersion { version: 1, .. })));
    assert!(matches!(decode(&[1, 12, 0]), Err(RecordError::Body { .. })));
    assert!(matches!(decode(&[1, 0x80]), Err(RecordError::MalformedFrame)));
    assert!(matches!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff]), Err(RecordError::MalformedFrame)));
    assert_eq!(decode(&[1, 20, 0, 0]).unwrap(), NoOpRecord::default().into());
    assert!(matches!(decode(&[1, 20, 0, 0, 0]), Err(RecordError::Body { .. })));
}

#[test]
fn more_records_than_a_batch_holds_become_several() {
    let records = vec![MetadataRecord::from(NoOpRecord::default()); 10_001];
    let batches =
        encode_records(Offset(5), LeaderEpoch(2), WallMs(1), MetadataVersion::LATEST, &records).unwrap();
    let ranges: Vec<_> = batches.iter().map(|batch| (batch.base_offset.0, batch.end_offset.0)).collect();
    assert_eq!(ranges, [(5, 10_005), (10_005, 10_006)]);
}

#[test]
fn secrets_are_not_shown() {
    let record = MetadataRecord::from(ConfigRecord {
        resource_type: 4,
        resource_name: "1".into(),
        name: "ssl.key.password".into(),
        value: Some("hunter2".into()),
    });
    assert!(!format!("{record:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = MetadataRecord::decode(Some(Bytes::from(bytes.clone())));
        decode_batches(&Bytes::from(bytes)).for_each(drop);
    }

    #[test]
    fn a_flipped_byte_is_noticed_or_harmless(at in 0..BOOTSTRAP.len(), bit in 0..8u8) {
        let mut bytes = BOOTSTRAP.to_vec();
        bytes[at] ^= 1 << bit;
        let whole = Checkpoint::decode(&Bytes::from_static(BOOTSTRAP)).unwrap();
        if let Ok(read) = Checkpoint::decode(&Bytes::from(bytes)) {
            // Base offset and leader epoch lie outside the checksum, and a snapshot ignores both.
            prop_assert_eq!(read, whole);
        }
    }
}
