//! A producer with a transactional id, as clients of both versions of the protocol speak.

use std::collections::BTreeMap;

use klamm_protocol::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use klamm_protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use klamm_protocol::messages::end_txn::EndTxnRequest;
use klamm_protocol::messages::find_coordinator::FindCoordinatorRequest;
use klamm_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

use super::*;

const OF_TRANSACTIONS: i8 = 1;
/// COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, CONCURRENT_TRANSACTIONS.
const SOON: [i16; 4] = [14, 15, 16, 51];
const RETRY_MS: u64 = 10;

/// Which requests a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Partitions are added first.
    One,
    /// They are added by what is written, and each transaction has an epoch (KIP-890).
    Two,
}

pub(super) struct TransactionalClient {
    pub(super) client: Client,
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
    host: SimHost,
    id: &'static str,
    level: Level,
    sequences: BTreeMap<(String, i32), i32>,
}

/// Small internal topics load fast.
pub(super) fn small_internal_topics() -> Vec<String> {
    ["transaction.state.log.num.partitions=2", "offsets.topic.num.partitions=2"].map(str::to_owned).into()
}

impl TransactionalClient {
    pub(super) async fn begin(
        host: &SimHost,
        running: &Running<SimHost>,
        id: &'static str,
        level: Level,
    ) -> Self {
        let client = Client::connect(host, running);
        let (host, sequences) = (host.clone(), BTreeMap::new());
        let mut this = Self { client, producer_id: -1, epoch: -1, host, id, level, sequences };
        let request = FindCoordinatorRequest {
            key_type: OF_TRANSACTIONS,
            coordinator_keys: vec![id.into()],
            ..Default::default()
        };
        assert_eq!(this.client.call(&request, 4).await.coordinators[0].error_code, 0);
        let request = InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        loop {
            let answer = this.client.call(&request, 5).await;
            if !SOON.contains(&answer.error_code) {
                assert_eq!(answer.error_code, 0);
                (this.producer_id, this.epoch) = (answer.producer_id, answer.producer_epoch);
                return this;
            }
            this.pause().await;
        }
    }

    async fn pause(&self) {
        self.host.sleep_until(self.host.mono().plus_ms(RETRY_MS)).await;
    }

    /// The error of adding a partition, where that is a request of its own.
    pub(super) async fn add(&mut self, topic: &str, partition: i32) -> i16 {
        if self.level == Level::Two {
            return 0;
        }
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.into(),
            v3_and_below_producer_id: self.producer_id,
            v3_and_below_producer_epoch: self.epoch,
            v3_and_below_topics: vec![AddPartitionsToTxnTopic {
                name: topic.to_owned().into(),
                partitions: vec![partition],
                ..Default::default()
            }],
            ..Default::default()
        };
        loop {
            let answer = self.client.call(&request, 3).await;
            let error = answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
            if !SOON.contains(&error) {
                return error;
            }
            self.pause().await;
        }
    }

    pub(super) fn produce_version(&self) -> i16 {
        if self.level == Level::Two { 12 } else { 9 }
    }

    /// The next batch of this transaction for a partition.
    pub(super) fn request(&mut self, topic: &str, partition: i32, values: &[&str]) -> ProduceRequest {
        let sequence = self.sequences.entry((topic.to_owned(), partition)).or_default();
        let (id, epoch) = (ProducerId(self.producer_id), ProducerEpoch(self.epoch));
        let mut builder = BatchBuilder::new().producer(id, epoch, *sequence).transactional();
        *sequence += i32::try_from(values.len()).expect("few");
        for value in values {
            builder.push(sim::WALL_START_MS, None, Some(value.as_bytes()), &[]);
        }
        ProduceRequest {
            transactional_id: Some(self.id.into()),
            ..produce_request(topic, partition, builder.build())
        }
    }

    /// Adds the partition and writes: the error.
    pub(super) async fn write(&mut self, topic: &str, partition: i32, values: &[&str]) -> i16 {
        assert_eq!(self.add(topic, partition).await, 0);
        let request = self.request(topic, partition, values);
        let version = self.produce_version();
        loop {
            let answer = self.client.call(&request, version).await;
            let error = answer.responses[0].partition_responses[0].error_code;
            if !SOON.contains(&error) {
                return error;
            }
            self.pause().await;
        }
    }

    /// Writes, if `is_repeated` twice at once as after a lost answer, until it is in the log: once.
    pub(super) async fn write_again_and_again(
        &mut self,
        topic: &str,
        partition: i32,
        values: &[&str],
        is_repeated: bool,
    ) {
        assert_eq!(self.add(topic, partition).await, 0);
        let request = self.request(topic, partition, values);
        let version = self.produce_version();
        let mut placed = None;
        while placed.is_none() {
            let count = if is_repeated { 2 } else { 1 };
            for _ in 0..count {
                self.client.send(&request, version).await;
            }
            for _ in 0..count {
                let frame = self.client.receive().await.expect("answered");
                let decoded = wire::decode_response(frame, ProduceRequest::API_KEY, version);
                let (_, answer): (_, ProduceResponse) = decoded.expect("decodes");
                let answer = &answer.responses[0].partition_responses[0];
                if !SOON.contains(&answer.error_code) {
                    assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
                    assert_eq!(*placed.get_or_insert(answer.base_offset), answer.base_offset);
                }
            }
            if placed.is_none() {
                self.pause().await;
            }
        }
    }

    /// The error of committing an offset of partition 0 within the transaction.
    pub(super) async fn send_offset(&mut self, group: &str, topic: &str, offset: i64) -> i16 {
        if self.level == Level::One {
            let request = AddOffsetsToTxnRequest {
                transactional_id: self.id.into(),
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                group_id: group.to_owned().into(),
                ..Default::default()
            };
            while SOON.contains(&self.client.call(&request, 3).await.error_code) {
                self.pause().await;
            }
        }
        let request = self.offset_request(group, topic, offset);
        let version = if self.level == Level::Two { 5 } else { 3 };
        loop {
            let answer = self.client.call(&request, version).await;
            let error = answer.topics[0].partitions[0].error_code;
            if !SOON.contains(&error) {
                return error;
            }
            self.pause().await;
        }
    }

    pub(super) fn offset_request(&self, group: &str, topic: &str, offset: i64) -> TxnOffsetCommitRequest {
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: offset,
            ..Default::default()
        };
        let topic = TxnOffsetCommitRequestTopic {
            name: topic.to_owned().into(),
            partitions: vec![partition],
            ..Default::default()
        };
        TxnOffsetCommitRequest {
            transactional_id: self.id.into(),
            group_id: group.to_owned().into(),
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            generation_id: -1,
            topics: vec![topic],
            ..Default::default()
        }
    }

    /// Commits or aborts.
    pub(super) async fn end(&mut self, is_commit: bool) {
        let request = EndTxnRequest {
            transactional_id: self.id.into(),
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            committed: is_commit,
            ..Default::default()
        };
        let version = if self.level == Level::Two { 5 } else { 4 };
        loop {
            let answer = self.client.call(&request, version).await;
            if SOON.contains(&answer.error_code) {
                self.pause().await;
                continue;
            }
            assert_eq!(answer.error_code, 0);
            if self.level == Level::Two {
                assert_eq!((answer.producer_id, answer.producer_epoch), (self.producer_id, self.epoch + 1));
                self.epoch = answer.producer_epoch;
                self.sequences.clear();
            }
            return;
        }
    }
}
