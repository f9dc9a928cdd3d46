//! Every version of every API of transactions is answered: a part of the test in `versions`.

use klamm_protocol::messages::describe_producers::{DescribeProducersRequest, TopicRequest};
use klamm_protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
};

use super::versions::{NAMES, all_versions};
use super::*;

pub(super) async fn transactions(client: &mut Client, tried: &mut Vec<i16>) {
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
