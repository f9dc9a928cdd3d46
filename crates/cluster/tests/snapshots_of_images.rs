//! Whatever an image holds, its snapshot gives an equal image; whatever a record holds, its
//! bytes give an equal record.

use bytes::Bytes;
use klamm_cluster::features::MetadataVersion;
use klamm_cluster::image::{MetadataDelta, MetadataImage};
use klamm_cluster::metadata_log::checkpoint::Checkpoint;
use klamm_cluster::record::MetadataRecord;
use klamm_cluster::replay::Replay;
use klamm_cluster::snapshot::{image_of, records_of};
use klamm_protocol::ids::{LeaderEpoch, Offset, Uuid};
use klamm_protocol::messages::metadata_records::*;
use klamm_protocol::time::WallMs;
use klamm_protocol::wire::arbitrary::arbitrary;
use klamm_protocol::wire::{Message, WireStr};
use proptest::prelude::*;

/// Few ids and names, so that records meet.
fn few(seed: u64) -> (i32, Uuid, WireStr) {
    let small = seed % 4;
    (small as i32, Uuid(u128::from(small) + 1_000), WireStr::from(format!("name-{small}")))
}

/// A record of any kind. Values are invented; ids and names are few, versions the newest.
fn any_record() -> impl Strategy<Value = MetadataRecord> {
    (0..26u8, any::<u64>(), any::<u64>()).prop_map(|(kind, seed, other)| {
        let (id, uuid, name) = few(seed);
        let (other_id, ..) = few(other);
        fn new<M: Message>(seed: u64, version: i16) -> M {
            arbitrary(seed, version)
        }
        match kind {
            0 => RegisterBrokerRecord { broker_id: id, broker_epoch: 5, ..new(other, 4) }.into(),
            1 => UnregisterBrokerRecord { broker_id: id, broker_epoch: 5 }.into(),
            2 => TopicRecord { name, topic_id: uuid }.into(),
            3 => PartitionRecord { partition_id: other_id, topic_id: uuid, ..new(other, 2) }.into(),
            4 => ConfigRecord { resource_name: name.clone(), name, ..new(other, 0) }.into(),
            5 => PartitionChangeRecord { partition_id: other_id, topic_id: uuid, ..new(other, 2) }.into(),
            6 => FenceBrokerRecord { id, epoch: 5 }.into(),
            7 => UnfenceBrokerRecord { id, epoch: 5 }.into(),
            8 => RemoveTopicRecord { topic_id: uuid }.into(),
            9 => DelegationTokenRecord { token_id: name, ..new(other, 0) }.into(),
            10 => UserScramCredentialRecord { name, ..new(other, 0) }.into(),
            11 => FeatureLevelRecord { name, ..new(other, 0) }.into(),
            12 => {
                let value = f64::from(other_id);
                ClientQuotaRecord { key: name, value, ..new(other, 0) }.into()
            }
            13 => ProducerIdsRecord { next_producer_id: i64::from(other_id) * 1_000, ..new(other, 0) }.into(),
            14 => BrokerRegistrationChangeRecord { broker_id: id, broker_epoch: 5, ..new(other, 3) }.into(),
            15 => AccessControlEntryRecord { id: uuid, ..new(other, 0) }.into(),
            16 => RemoveAccessControlEntryRecord { id: uuid }.into(),
            17 => NoOpRecord::default().into(),
            18 => ZkMigrationStateRecord { zk_migration_state: 0 }.into(),
            19 => RemoveUserScramCredentialRecord { name, mechanism: 1 }.into(),
            20 => BeginTransactionRecord { name: Some(name) }.into(),
            21 => EndTransactionRecord::default().into(),
            22 => AbortTransactionRecord { reason: None }.into(),
            23 => RemoveDelegationTokenRecord { token_id: name }.into(),
            24 => RegisterControllerRecord { controller_id: id, ..new(other, 0) }.into(),
            _ => ClearElrRecord { topic_name: name }.into(),
        }
    })
}

fn applied(records: &[MetadataRecord]) -> MetadataImage {
    let mut image = MetadataImage::default();
    let mut delta = MetadataDelta::default();
    for (at, record) in (0..).map(Offset).zip(records) {
        image.apply(at, record, &mut delta);
    }
    image
}

proptest! {
    #[test]
    fn a_snapshot_gives_its_image(records in prop::collection::vec(any_record(), 0..80)) {
        let image = applied(&records);
        let of_image = records_of(&image);
        prop_assert_eq!(&image_of(image.next_offset(), &of_image), &image);

        let checkpoint = Checkpoint { records: of_image, ..Checkpoint::default() };
        let parts = checkpoint.encode(LeaderEpoch(1), WallMs(1), MetadataVersion::LATEST).unwrap();
        let read = Checkpoint::decode(&Bytes::from(parts.concat())).unwrap();
        prop_assert_eq!(image_of(image.next_offset(), &read.records), image);
    }

    #[test]
    fn a_record_gives_its_bytes_and_back(record in any_record()) {
        let bytes = record.encode(MetadataVersion::LATEST).unwrap();
        prop_assert_eq!(MetadataRecord::decode(Some(Bytes::from(bytes))).unwrap(), record);
    }

    #[test]
    fn an_aborted_transaction_leaves_no_trace(
        before in prop::collection::vec(any_record(), 0..30),
        within in prop::collection::vec(any_record(), 0..30),
        ends_with_abort: bool,
    ) {
        let plain = |records: Vec<MetadataRecord>| -> Vec<MetadataRecord> {
            records.into_iter().filter(|record| !matches!(record.api_key(), 23..=25)).collect()
        };
        let (before, within) = (plain(before), plain(within));
        let mut replay = Replay::default();
        let mut at = Offset(0);
        let mut apply = |replay: &mut Replay, record: &MetadataRecord| {
            replay.apply(at, record);
            at = at.plus(1);
        };
        before.iter().for_each(|record| apply(&mut replay, record));
        let expected = records_of(replay.image());
        replay.take_delta();
        apply(&mut replay, &BeginTransactionRecord::default().into());
        within.iter().for_each(|record| apply(&mut replay, record));
        prop_assert_eq!(records_of(replay.stable_image()), expected.clone());
        if ends_with_abort {
            let abort = replay.abort_open_transaction().unwrap();
            apply(&mut replay, &abort);
            prop_assert_eq!(records_of(replay.image()), expected);
            prop_assert!(replay.take_delta().is_empty());
        } else {
            apply(&mut replay, &EndTransactionRecord::default().into());
            let all: Vec<MetadataRecord> = before.iter().chain(&within).cloned().collect();
            prop_assert_eq!(records_of(replay.image()), records_of(&applied(&all)));
        }
        prop_assert!(!replay.is_in_transaction());
        prop_assert_eq!(replay.image().next_offset().0 as usize, before.len() + within.len() + 2);
    }

    /// What the delta does not name did not change.
    #[test]
    fn a_delta_names_every_change(
        before in prop::collection::vec(any_record(), 0..40),
        after in prop::collection::vec(any_record(), 0..10),
    ) {
        let old = applied(&before);
        let mut new = old.clone();
        let mut delta = MetadataDelta::default();
        for record in &after {
            new.apply(new.next_offset(), record, &mut delta);
        }
        for (id, topic) in new.topics() {
            prop_assert_eq!(
                old.topic(*id).is_none() || delta.topics_deleted.contains_key(id),
                delta.topics_created.contains(id)
            );
            for (index, partition) in &topic.partitions {
                if !delta.partitions_changed.contains(&(*id, *index)) {
                    prop_assert_eq!(old.partition(*id, *index), Some(partition));
                }
            }
        }
        for id in old.topics().keys().filter(|id| new.topic(**id).is_none()) {
            prop_assert!(delta.topics_deleted.contains_key(id));
        }
        for resource in old.configs().keys().chain(new.configs().keys()) {
            if !delta.configs_changed.contains(resource) {
                prop_assert_eq!(old.config(resource), new.config(resource));
            }
        }
        for node in old.brokers().keys().chain(new.brokers().keys()) {
            if !delta.brokers_changed.contains(node) {
                prop_assert_eq!(old.broker(*node), new.broker(*node));
            }
        }
        prop_assert!(delta.features_changed || old.features() == new.features());
        prop_assert!(delta.acls_changed || old.acls() == new.acls());
        prop_assert!(delta.scram_changed || old.scram() == new.scram());
        prop_assert!(delta.tokens_changed || old.tokens() == new.tokens());
        prop_assert!(delta.quotas_changed || old.quotas() == new.quotas());
    }
}
