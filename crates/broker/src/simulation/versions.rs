//! Every API in every version that is served: what succeeds and what fails is answered.
//!
//! A field that a version does not have must keep its default in the answer, else the
//! connection would be closed; and errors set other fields than successes do.

use klamm_protocol::ids::Uuid;
use klamm_protocol::messages::alter_configs::{AlterConfigsRequest, AlterConfigsResource};
use klamm_protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use klamm_protocol::messages::api_versions::ApiVersionsRequest;
use klamm_protocol::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use klamm_protocol::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use klamm_protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use klamm_protocol::messages::describe_cluster::DescribeClusterRequest;
use klamm_protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use klamm_protocol::messages::describe_log_dirs::{DescribableLogDirTopic, DescribeLogDirsRequest};
use klamm_protocol::messages::describe_topic_partitions::{DescribeTopicPartitionsRequest, TopicRequest};
use klamm_protocol::messages::incremental_alter_configs as incremental;
use klamm_protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use klamm_protocol::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};

use super::group_versions::groups;
use super::transaction_versions::transactions;
use super::*;
use crate::handlers::SERVED;

/// One topic that exists, one that does not, one that cannot.
pub(super) const NAMES: [&str; 3] = ["t", "missing", "bad name"];

/// Sends `make(version)` in all versions; what does not decode or is not answered panics.
pub(super) async fn all_versions<R: Request>(
    client: &mut Client,
    tried: &mut Vec<i16>,
    make: impl Fn(i16) -> R,
) {
    for version in R::API_KEY.versions() {
        client.call(&make(version), version).await;
    }
    tried.push(R::API_KEY.code());
}

#[test]
fn every_version_of_every_api_answers_successes_and_failures() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        let id = topic_id(&mut client).await;
        let mut tried = Vec::new();
        records(&mut client, id, &mut tried).await;
        topics(&mut client, &mut tried).await;
        configs(&mut client, &mut tried).await;
        cluster(&mut client, &mut tried).await;
        groups(&host, &mut client, id, &mut tried).await;
        transactions(&host, &running, &mut client, &mut tried).await;
        let untried: Vec<_> = SERVED.iter().filter(|api| !tried.contains(&api.code())).collect();
        assert!(untried.is_empty(), "not tried: {untried:?}");
    });
}

async fn topic_id(client: &mut Client) -> Uuid {
    let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    client.call(&request, 13).await.topics[0].topic_id
}

async fn records(client: &mut Client, id: Uuid, tried: &mut Vec<i16>) {
    let mut corrupt = batch(&["a"]).to_vec();
    *corrupt.last_mut().expect("not empty") ^= 1;
    for records in [batch(&["a", "b"]), corrupt.into(), Bytes::new()] {
        all_versions(client, tried, |version| {
            let mut request = produce_request("t", 0, records.clone());
            request.topic_data.extend(produce_request("missing", 0, records.clone()).topic_data);
            if version >= 13 {
                for (topic, id) in request.topic_data.iter_mut().zip([id, Uuid::from_bytes([1; 16])]) {
                    topic.name = Default::default();
                    topic.topic_id = id;
                }
            }
            request
        })
        .await;
    }
    for offset in [0, 1_000, -1] {
        all_versions(client, tried, |version| {
            let mut request = fetch_request("t", 0, offset, 0);
            request.topics.extend(fetch_request("missing", 3, offset, 0).topics);
            if version >= 13 {
                for (topic, id) in request.topics.iter_mut().zip([id, Uuid::from_bytes([1; 16])]) {
                    topic.topic = Default::default();
                    topic.topic_id = id;
                }
            }
            request
        })
        .await;
    }
    for timestamp in [0, i64::MAX, -1, -2, -3, -4, -5, -6, -7] {
        all_versions(client, tried, |_| ListOffsetsRequest {
            replica_id: -1,
            topics: NAMES.map(|name| list_offsets(name, timestamp)).into(),
            ..Default::default()
        })
        .await;
    }
    all_versions(client, tried, |version| OffsetForLeaderEpochRequest {
        replica_id: if version >= 3 { -1 } else { OffsetForLeaderEpochRequest::default().replica_id },
        topics: NAMES.map(offset_for_leader_epoch).into(),
        ..Default::default()
    })
    .await;
    for offset in [0, 1_000_000, -1, -2] {
        all_versions(client, tried, |_| DeleteRecordsRequest {
            topics: NAMES.map(|name| delete_records(name, offset)).into(),
            ..Default::default()
        })
        .await;
    }
    for transactional_id in [None, Some("x".into())] {
        all_versions(client, tried, |_| InitProducerIdRequest {
            transactional_id: transactional_id.clone(),
            ..Default::default()
        })
        .await;
    }
}

fn list_offsets(name: &str, timestamp: i64) -> ListOffsetsTopic {
    let partitions = [0, 1].map(|partition_index| ListOffsetsPartition {
        partition_index,
        timestamp,
        ..Default::default()
    });
    ListOffsetsTopic { name: name.to_owned().into(), partitions: partitions.into(), ..Default::default() }
}

fn offset_for_leader_epoch(name: &str) -> OffsetForLeaderTopic {
    let partitions = vec![
        OffsetForLeaderPartition { current_leader_epoch: -1, ..Default::default() },
        OffsetForLeaderPartition { current_leader_epoch: 9, leader_epoch: 9, ..Default::default() },
    ];
    OffsetForLeaderTopic { topic: name.to_owned().into(), partitions, ..Default::default() }
}

fn delete_records(name: &str, offset: i64) -> DeleteRecordsTopic {
    let partitions = vec![DeleteRecordsPartition { offset, ..Default::default() }];
    DeleteRecordsTopic { name: name.to_owned().into(), partitions, ..Default::default() }
}

async fn topics(client: &mut Client, tried: &mut Vec<i16>) {
    for wanted in [Some(NAMES.as_slice()), Some(&[]), None] {
        all_versions(client, tried, |version| MetadataRequest {
            topics: wanted.map(|names| names.iter().map(|name| metadata_topic(name)).collect()).or_else(
                || {
                    // Version 0 has no null.
                    (version == 0).then(Vec::new)
                },
            ),
            ..Default::default()
        })
        .await;
    }
    all_versions(client, tried, |_| DescribeTopicPartitionsRequest {
        topics: NAMES.map(|name| TopicRequest { name: name.to_owned().into() }).into(),
        response_partition_limit: 2_000,
        ..Default::default()
    })
    .await;
    all_versions(client, tried, |version| {
        let names = ["t".to_owned(), "bad name".to_owned(), format!("new-{version}")];
        let topic = |name: String| CreatableTopic {
            name: name.into(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        CreateTopicsRequest { topics: names.map(topic).into(), ..Default::default() }
    })
    .await;
    for count in [1, 2, 2_000_000] {
        all_versions(client, tried, |_| CreatePartitionsRequest {
            topics: NAMES
                .map(|name| CreatePartitionsTopic {
                    name: name.to_owned().into(),
                    count,
                    ..Default::default()
                })
                .into(),
            ..Default::default()
        })
        .await;
    }
    all_versions(client, tried, |version| {
        let names = ["missing".to_owned(), "bad name".to_owned(), format!("new-{}", version.min(7))];
        match version {
            ..6 => DeleteTopicsRequest { topic_names: names.map(Into::into).into(), ..Default::default() },
            _ => DeleteTopicsRequest {
                topics: names
                    .map(|name| DeleteTopicState { name: Some(name.into()), ..Default::default() })
                    .into_iter()
                    .chain([DeleteTopicState { topic_id: Uuid::from_bytes([1; 16]), ..Default::default() }])
                    .collect(),
                ..Default::default()
            },
        }
    })
    .await;
}

fn metadata_topic(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic { name: Some(name.to_owned().into()), ..Default::default() }
}

async fn configs(client: &mut Client, tried: &mut Vec<i16>) {
    // Topic, broker, broker logger, client metrics, group, none at all.
    let resources = [2, 4, 8, 16, 32, 99].map(|kind| NAMES.map(|name| (kind, name)));
    let resources = || resources.iter().flatten().copied().chain([(4, "1"), (4, "")]);
    all_versions(client, tried, |_| DescribeConfigsRequest {
        resources: resources()
            .map(|(resource_type, name)| DescribeConfigsResource {
                resource_type,
                resource_name: name.to_owned().into(),
                configuration_keys: None,
                ..Default::default()
            })
            .collect(),
        include_synonyms: true,
        ..Default::default()
    })
    .await;
    all_versions(client, tried, |_| AlterConfigsRequest {
        resources: resources()
            .map(|(resource_type, name)| AlterConfigsResource {
                resource_type,
                resource_name: name.to_owned().into(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    })
    .await;
    for (name, value) in [("retention.ms", "1000"), ("retention.ms", "soon"), ("none", "1")] {
        all_versions(client, tried, |_| incremental::IncrementalAlterConfigsRequest {
            resources: resources()
                .map(|(resource_type, resource_name)| incremental::AlterConfigsResource {
                    resource_type,
                    resource_name: resource_name.to_owned().into(),
                    configs: vec![incremental::AlterableConfig {
                        name: name.into(),
                        value: Some(value.into()),
                        ..Default::default()
                    }],
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })
        .await;
    }
}

async fn cluster(client: &mut Client, tried: &mut Vec<i16>) {
    all_versions(client, tried, |_| DescribeClusterRequest::default()).await;
    all_versions(client, tried, |_| DescribeLogDirsRequest { topics: None }).await;
    all_versions(client, tried, |_| {
        let topics =
            ["t", "absent"].map(|name| AlterReplicaLogDirTopic { name: name.into(), partitions: vec![0, 9] });
        let dir = |path: &'static str| AlterReplicaLogDir { path: path.into(), topics: topics.to_vec() };
        AlterReplicaLogDirsRequest { dirs: vec![dir("/data"), dir("/nowhere")] }
    })
    .await;
    all_versions(client, tried, |_| {
        let wanted =
            |topic: &'static str| DescribableLogDirTopic { topic: topic.into(), partitions: vec![0, 9] };
        DescribeLogDirsRequest { topics: Some(vec![wanted("t"), wanted("absent")]) }
    })
    .await;
    for endpoint_type in [2, 9] {
        let request = DescribeClusterRequest { endpoint_type, ..Default::default() };
        for version in 1..=2 {
            assert_ne!(client.call(&request, version).await.error_code, 0);
        }
    }
    for name in ["sim", "not a name"] {
        all_versions(client, tried, |version| match version {
            ..3 => ApiVersionsRequest::default(),
            _ => ApiVersionsRequest {
                client_software_name: name.into(),
                client_software_version: "1".into(),
                ..Default::default()
            },
        })
        .await;
    }
}
