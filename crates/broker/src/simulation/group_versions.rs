//! The APIs of groups for [`super::versions`]: members that are and are not, topics that are and are not.

use klamm_protocol::api_key::ApiKey;
use klamm_protocol::ids::Uuid;
use klamm_protocol::messages::consumer_group_describe::ConsumerGroupDescribeRequest;
use klamm_protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use klamm_protocol::messages::delete_groups::DeleteGroupsRequest;
use klamm_protocol::messages::describe_groups::DescribeGroupsRequest;
use klamm_protocol::messages::find_coordinator::FindCoordinatorRequest;
use klamm_protocol::messages::heartbeat::HeartbeatRequest;
use klamm_protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use klamm_protocol::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use klamm_protocol::messages::list_groups::ListGroupsRequest;
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use klamm_protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};

use super::versions::all_versions;
use super::*;

const TOPICS: [&str; 2] = ["t", "missing"];
/// A group that is there, one that is not, and none.
const GROUPS: [&str; 3] = ["g", "other", ""];

/// Tries all of them. `id` is topic `t`'s.
pub(super) async fn groups(host: &SimHost, client: &mut Client, id: Uuid, tried: &mut Vec<i16>) {
    for key_type in [0, 1, 2, 7] {
        all_versions(client, tried, |version| FindCoordinatorRequest {
            key: if version < 4 { "g".into() } else { Default::default() },
            key_type: if version < 1 { 0 } else { key_type },
            coordinator_keys: if version < 4 { Vec::new() } else { GROUPS.map(Into::into).into() },
        })
        .await;
    }
    // The first question made the topic, whose coordinators load.
    while client.call(&ListGroupsRequest::default(), 4).await.error_code != 0 {
        host.sleep_until(host.mono().plus_ms(10)).await;
    }
    offsets(client, id, tried).await;
    members(client, tried).await;
    all_versions(client, tried, |version| DescribeGroupsRequest {
        groups: GROUPS.map(Into::into).into(),
        include_authorized_operations: version >= 3,
    })
    .await;
    all_versions(client, tried, |_| ConsumerGroupDescribeRequest {
        group_ids: GROUPS.map(Into::into).into(),
        include_authorized_operations: true,
    })
    .await;
    all_versions(client, tried, |version| ListGroupsRequest {
        states_filter: if version < 4 { Vec::new() } else { vec!["Stable".into()] },
        types_filter: if version < 5 { Vec::new() } else { vec!["classic".into()] },
    })
    .await;
    all_versions(client, tried, |_| DeleteGroupsRequest { groups_names: GROUPS.map(Into::into).into() })
        .await;
}

async fn offsets(client: &mut Client, id: Uuid, tried: &mut Vec<i16>) {
    let ids = [id, Uuid::from_bytes([1; 16])];
    let name =
        |topic: &'static str, version: i16| if version < 10 { topic.into() } else { Default::default() };
    let id_of = |n: usize, version: i16| if version < 10 { Uuid::ZERO } else { ids[n] };
    for group in GROUPS {
        all_versions(client, tried, |version| OffsetCommitRequest {
            group_id: group.into(),
            generation_id_or_member_epoch: -1,
            topics: TOPICS
                .into_iter()
                .enumerate()
                .map(|(n, topic)| OffsetCommitRequestTopic {
                    name: name(topic, version),
                    topic_id: id_of(n, version),
                    partitions: vec![OffsetCommitRequestPartition::default()],
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })
        .await;
        all_versions(client, tried, |version| {
            let of_one = OffsetFetchRequest {
                group_id: group.into(),
                topics: Some(
                    TOPICS
                        .map(|topic| OffsetFetchRequestTopic {
                            name: topic.into(),
                            partition_indexes: vec![0, 1],
                        })
                        .into(),
                ),
                ..Default::default()
            };
            let of_many = OffsetFetchRequestGroup {
                group_id: group.into(),
                topics: Some(
                    TOPICS
                        .into_iter()
                        .enumerate()
                        .map(|(n, topic)| OffsetFetchRequestTopics {
                            name: name(topic, version),
                            topic_id: id_of(n, version),
                            partition_indexes: vec![0, 1],
                        })
                        .collect(),
                ),
                ..Default::default()
            };
            let all = OffsetFetchRequestGroup { group_id: group.into(), topics: None, ..Default::default() };
            match version {
                ..8 => of_one,
                _ => OffsetFetchRequest { groups: vec![of_many, all], ..Default::default() },
            }
        })
        .await;
    }
    for group in ["other", ""] {
        all_versions(client, tried, |_| OffsetDeleteRequest {
            group_id: group.into(),
            topics: TOPICS
                .map(|topic| OffsetDeleteRequestTopic {
                    name: topic.into(),
                    partitions: vec![OffsetDeleteRequestPartition::default()],
                })
                .into(),
        })
        .await;
    }
}

async fn members(client: &mut Client, tried: &mut Vec<i16>) {
    for version in ApiKey::JoinGroup.versions() {
        let group = format!("joined-{version}");
        let join = |member_id: &str| JoinGroupRequest {
            group_id: group.clone().into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: if version < 1 { -1 } else { 10_000 },
            member_id: member_id.to_owned().into(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
            ..Default::default()
        };
        let mut joined = client.call(&join(""), version).await;
        if version >= 4 {
            joined = client.call(&join(&joined.member_id), version).await;
        }
        assert_eq!(joined.error_code, 0, "version {version}");
        let assignments = vec![SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: Bytes::from_static(b"x"),
        }];
        all_versions(client, tried, |version| SyncGroupRequest {
            group_id: group.clone().into(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            protocol_type: (version >= 5).then(|| "consumer".into()),
            protocol_name: (version >= 5).then(|| "range".into()),
            assignments: assignments.clone(),
            ..Default::default()
        })
        .await;
        for generation_id in [joined.generation_id, 77] {
            all_versions(client, tried, |_| HeartbeatRequest {
                group_id: group.clone().into(),
                generation_id,
                member_id: joined.member_id.clone(),
                ..Default::default()
            })
            .await;
        }
        let described = client
            .call(&DescribeGroupsRequest { groups: vec![group.clone().into()], ..Default::default() }, 5)
            .await;
        assert_eq!(&*described.groups[0].group_state, "Stable");
        all_versions(client, tried, |version| LeaveGroupRequest {
            group_id: group.clone().into(),
            member_id: if version < 3 { joined.member_id.clone() } else { Default::default() },
            members: match version {
                ..3 => Vec::new(),
                _ => vec![MemberIdentity { member_id: joined.member_id.clone(), ..Default::default() }],
            },
        })
        .await;
    }
    // The same from somebody whom no group knows.
    all_versions(client, tried, |version| JoinGroupRequest {
        group_id: Default::default(),
        session_timeout_ms: 1,
        rebalance_timeout_ms: if version < 1 { -1 } else { 1 },
        ..Default::default()
    })
    .await;
    for (member_epoch, group) in [(0, "k"), (5, "k"), (-1, "nobody")] {
        all_versions(client, tried, |_| ConsumerGroupHeartbeatRequest {
            group_id: group.into(),
            member_id: "m".into(),
            member_epoch,
            rebalance_timeout_ms: 10_000,
            subscribed_topic_names: Some(TOPICS.map(Into::into).into()),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        })
        .await;
    }
}
