//! Every version of every API of transactions is answered: a part of the test in `versions`.

use klamm_protocol::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use klamm_protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use klamm_protocol::messages::describe_producers::{DescribeProducersRequest, TopicRequest};
use klamm_protocol::messages::describe_transactions::DescribeTransactionsRequest;
use klamm_protocol::messages::end_txn::EndTxnRequest;
use klamm_protocol::messages::list_transactions::ListTransactionsRequest;
use klamm_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use klamm_protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
};

use super::transactional_client::{Level, TransactionalClient};
use super::versions::{NAMES, all_versions};
use super::*;

pub(super) async fn transactions(
    host: &SimHost,
    running: &Running<SimHost>,
    client: &mut Client,
    tried: &mut Vec<i16>,
) {
    let producer = TransactionalClient::begin(host, running, "x", Level::Two).await;
    for producer_id in [producer.producer_id, 77] {
        of_clients(client, tried, producer_id).await;
    }
    all_versions(client, tried, |_| DescribeTransactionsRequest {
        transactional_ids: vec!["x".into(), "y".into(), "".into()],
        ..Default::default()
    })
    .await;
    all_versions(client, tried, |version| ListTransactionsRequest {
        state_filters: vec!["Ongoing".into(), "None".into()],
        transactional_id_pattern: (version >= 2).then(|| "x.*".into()),
        ..Default::default()
    })
    .await;
    all_versions(client, tried, |_| WriteTxnMarkersRequest {
        markers: vec![WritableTxnMarker {
            producer_id: 77,
            topics: NAMES
                .map(|name| WritableTxnMarkerTopic {
                    name: name.into(),
                    partition_indexes: vec![0, 1],
                    ..Default::default()
                })
                .into(),
            ..Default::default()
        }],
        ..Default::default()
    })
    .await;
    all_versions(client, tried, |_| DescribeProducersRequest {
        topics: NAMES
            .map(|name| TopicRequest {
                name: name.into(),
                partition_indexes: vec![0, 1],
                ..Default::default()
            })
            .into(),
        ..Default::default()
    })
    .await;
}

async fn of_clients(client: &mut Client, tried: &mut Vec<i16>, producer_id: i64) {
    let topics = || {
        NAMES.map(|name| AddPartitionsToTxnTopic {
            name: name.into(),
            partitions: vec![0],
            ..Default::default()
        })
    };
    all_versions(client, tried, |version| match version {
        ..4 => AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: "x".into(),
            v3_and_below_producer_id: producer_id,
            v3_and_below_topics: topics().into(),
            ..Default::default()
        },
        _ => AddPartitionsToTxnRequest {
            transactions: vec![AddPartitionsToTxnTransaction {
                transactional_id: "x".into(),
                producer_id,
                verify_only: true,
                topics: topics().into(),
                ..Default::default()
            }],
            ..Default::default()
        },
    })
    .await;
    all_versions(client, tried, |_| AddOffsetsToTxnRequest {
        transactional_id: "x".into(),
        producer_id,
        group_id: "g".into(),
        ..Default::default()
    })
    .await;
    all_versions(client, tried, |_| TxnOffsetCommitRequest {
        transactional_id: "x".into(),
        producer_id,
        group_id: "g".into(),
        topics: NAMES
            .map(|name| TxnOffsetCommitRequestTopic {
                name: name.into(),
                partitions: vec![TxnOffsetCommitRequestPartition::default()],
                ..Default::default()
            })
            .into(),
        ..Default::default()
    })
    .await;
    for committed in [true, false] {
        all_versions(client, tried, |_| EndTxnRequest {
            transactional_id: "x".into(),
            producer_id,
            committed,
            ..Default::default()
        })
        .await;
    }
}
