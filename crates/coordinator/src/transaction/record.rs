//! The records of `__transaction_state`, as Kafka 4.3 writes and reads them: one kind, keyed by the
//! transactional id; the last one of a key counts.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use klamm_protocol::ids::{PartitionIndex, ProducerEpoch, ProducerId};
use klamm_protocol::messages::transaction_records::{
    PartitionsSchema, TransactionLogKey, TransactionLogValue,
};
use klamm_protocol::wire::{self, DecodeError, EncodeError, Message, WireStr};

use super::state::{Partitions, Producer, Transaction, TransactionState};
use crate::record::{Codec, RecordError};

const KIND: i16 = TransactionLogKey::API_KEY;

/// A transactional id with its transaction; without one it is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRecord {
    /// The key.
    pub transactional_id: Arc<str>,
    /// The value.
    pub transaction: Option<Transaction>,
    /// Of the value: 0, or 1 once `transaction.version` is at least 1.
    pub version: i16,
}

impl TransactionRecord {
    /// As the feature level of `transaction.version` has it.
    #[must_use]
    pub fn new(transactional_id: Arc<str>, mut transaction: Option<Transaction>, level: i16) -> Self {
        let version = level.clamp(0, 1);
        // Version 0 has no place for these: what is not written must not be remembered either.
        if let Some(transaction) = transaction.as_mut().filter(|_| version == 0) {
            transaction.previous_producer_id = ProducerId::default();
            transaction.next_producer_id = ProducerId::default();
            transaction.client_version = 0;
        }
        Self { transactional_id, transaction, version }
    }
}

impl Codec for TransactionRecord {
    fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<Option<Self>, RecordError> {
        let mut key = key.filter(|key| key.len() >= size_of::<i16>()).ok_or(RecordError::NoKey)?;
        let kind = key.get_i16();
        if kind != KIND {
            return Ok(None);
        }
        let key: TransactionLogKey =
            wire::decode_data(key, 0).map_err(|source| RecordError::Key { kind, source })?;
        let mut record = Self {
            transactional_id: (*key.transactional_id).into(),
            transaction: None,
            version: *TransactionLogValue::VERSIONS.end(),
        };
        if let Some(value) = value {
            let in_value = |source: DecodeError| RecordError::Value { kind, source };
            let (version, value) = wire::decode_versioned::<TransactionLogValue>(value).map_err(in_value)?;
            record.version = version;
            record.transaction = Some(transaction_of(&value)?);
        }
        Ok(Some(record))
    }

    fn encode(&self) -> Result<(Bytes, Option<Bytes>), EncodeError> {
        let key = TransactionLogKey {
            transactional_id: WireStr::from(self.transactional_id.to_string()),
            ..Default::default()
        };
        let key = [&KIND.to_be_bytes()[..], &wire::encode_data(&key, 0)?].concat();
        let value = self
            .transaction
            .as_ref()
            .map(|transaction| wire::encode_versioned(&value_of(transaction), self.version))
            .transpose()?;
        Ok((key.into(), value))
    }
}

fn transaction_of(value: &TransactionLogValue) -> Result<Transaction, RecordError> {
    let state = TransactionState::of_id(value.transaction_status)
        .ok_or(RecordError::TransactionStatus(value.transaction_status))?;
    let mut partitions = Partitions::default();
    for of_topic in value.transaction_partitions.iter().flatten() {
        for partition in &of_topic.partition_ids {
            partitions.insert(&of_topic.topic, PartitionIndex(*partition));
        }
    }
    Ok(Transaction {
        producer: Producer { id: ProducerId(value.producer_id), epoch: ProducerEpoch(value.producer_epoch) },
        previous_producer_id: ProducerId(value.previous_producer_id),
        next_producer_id: ProducerId(value.next_producer_id),
        timeout_ms: value.transaction_timeout_ms,
        state,
        partitions,
        start_ms: value.transaction_start_timestamp_ms,
        last_update_ms: value.transaction_last_update_timestamp_ms,
        client_version: value.client_transaction_version,
    })
}

fn value_of(transaction: &Transaction) -> TransactionLogValue {
    let of_topic =
        |(topic, partitions): (&Arc<str>, &std::collections::BTreeSet<PartitionIndex>)| PartitionsSchema {
            topic: WireStr::from(topic.to_string()),
            partition_ids: partitions.iter().map(|partition| partition.0).collect(),
            ..Default::default()
        };
    TransactionLogValue {
        producer_id: transaction.producer.id.0,
        previous_producer_id: transaction.previous_producer_id.0,
        next_producer_id: transaction.next_producer_id.0,
        producer_epoch: transaction.producer.epoch.0,
        transaction_timeout_ms: transaction.timeout_ms,
        transaction_status: transaction.state as i8,
        transaction_partitions: (transaction.state != TransactionState::Empty)
            .then(|| transaction.partitions.topics().map(of_topic).collect()),
        transaction_last_update_timestamp_ms: transaction.last_update_ms,
        transaction_start_timestamp_ms: transaction.start_ms,
        client_transaction_version: transaction.client_version,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(state: TransactionState) -> Transaction {
        let mut partitions = Partitions::default();
        if state != TransactionState::Empty {
            partitions.insert("a", PartitionIndex(0));
            partitions.insert("a", PartitionIndex(7));
            partitions.insert("b", PartitionIndex(1));
        }
        Transaction {
            producer: Producer { id: ProducerId(1000), epoch: ProducerEpoch(3) },
            previous_producer_id: ProducerId(999),
            next_producer_id: ProducerId(-1),
            timeout_ms: 60_000,
            state,
            partitions,
            start_ms: 10,
            last_update_ms: 20,
            client_version: 2,
        }
    }

    #[test]
    fn records_round_trip_and_version_0_leaves_out_what_it_cannot_say() {
        for state in TransactionState::ALL {
            for level in 0..=2 {
                let record = TransactionRecord::new("id".into(), Some(transaction(state)), level);
                let (key, value) = record.encode().unwrap();
                let read = TransactionRecord::decode(Some(key), value).unwrap().unwrap();
                assert_eq!(read, record);
                let previous = read.transaction.unwrap().previous_producer_id;
                assert_eq!(previous, ProducerId(if level == 0 { -1 } else { 999 }));
            }
        }
    }

    #[test]
    fn a_tombstone_forgets_an_unknown_kind_is_passed_over_and_an_unknown_status_is_an_error() {
        let forgotten = TransactionRecord::new("id".into(), None, 2);
        let (key, value) = forgotten.encode().unwrap();
        assert_eq!(value, None);
        assert_eq!(TransactionRecord::decode(Some(key.clone()), None).unwrap(), Some(forgotten));
        assert_eq!(TransactionRecord::decode(Some(Bytes::from_static(&[0, 9, 1])), None).unwrap(), None);
        assert!(matches!(TransactionRecord::decode(None, None), Err(RecordError::NoKey)));
        let dead = TransactionLogValue { transaction_status: 6, ..Default::default() };
        let value = wire::encode_versioned(&dead, 1).unwrap();
        let read = TransactionRecord::decode(Some(key), Some(value));
        assert!(matches!(read, Err(RecordError::TransactionStatus(6))), "{read:?}");
    }
}
