//! What a client of the classic protocol sends, in few words.

#![allow(dead_code, reason = "each test binary uses a part")]

use bytes::Bytes;
use klamm_coordinator::contract::ReplyKey;
use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::consumer_protocol::ConsumerProtocolSubscription;
use klamm_protocol::messages::describe_groups::DescribedGroup;
use klamm_protocol::messages::heartbeat::HeartbeatRequest;
use klamm_protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use klamm_protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity};
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};
use klamm_protocol::wire::{WireStr, encode_versioned};

use super::world::{World, client};

pub const SESSION_TIMEOUT_MS: i32 = 10_000;
pub const REBALANCE_TIMEOUT_MS: i32 = 60_000;

pub fn text(text: &str) -> WireStr {
    WireStr::from(text.to_owned())
}

/// What a consumer of these topics tells the others.
pub fn subscription(topics: &[&str]) -> Bytes {
    let topics = topics.iter().map(|topic| text(topic)).collect();
    encode_versioned(&ConsumerProtocolSubscription { topics, ..Default::default() }, 1).unwrap()
}

/// A consumer of topic `t` that can `range`; group `g`, no member id yet.
pub fn consumer() -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: text("g"),
        session_timeout_ms: SESSION_TIMEOUT_MS,
        rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
        protocol_type: text("consumer"),
        protocols: protocols(&[("range", subscription(&["t"]))]),
        ..Default::default()
    }
}

pub fn protocols(listed: &[(&str, Bytes)]) -> Vec<JoinGroupRequestProtocol> {
    let protocol = |(name, metadata): &(&str, Bytes)| JoinGroupRequestProtocol {
        name: text(name),
        metadata: metadata.clone(),
    };
    listed.iter().map(protocol).collect()
}

/// The same consumer, with its id.
pub fn member(id: &str) -> JoinGroupRequest {
    JoinGroupRequest { member_id: text(id), ..consumer() }
}

/// A new process of a static consumer.
pub fn instance(instance_id: &str) -> JoinGroupRequest {
    JoinGroupRequest { group_instance_id: Some(text(instance_id)), ..consumer() }
}

impl World {
    pub fn join(&mut self, client_id: &str, request: JoinGroupRequest) -> ReplyKey {
        self.join_by(client_id, request, 9)
    }

    pub fn join_by(&mut self, client_id: &str, request: JoinGroupRequest, version: i16) -> ReplyKey {
        self.ask(GroupCommand::JoinGroup { request, version, client: client(client_id) })
    }

    /// Asks for a member id.
    pub fn new_id(&mut self, client_id: &str) -> String {
        let key = self.join(client_id, consumer());
        let response = self.joined(key);
        assert_eq!(response.error_code, ErrorCode::MemberIdRequired.code());
        response.member_id.as_str().to_owned()
    }

    pub fn joined(&mut self, key: ReplyKey) -> JoinGroupResponse {
        match self.take_reply(key) {
            Some(GroupReply::JoinGroup(response)) => response,
            other => panic!("not joined: {other:?}"),
        }
    }

    /// What each member gets is said by the leader alone.
    pub fn sync(&mut self, id: &str, generation_id: i32, assignments: &[(&str, &'static str)]) -> ReplyKey {
        let assignments = assignments.iter().map(|(id, assignment)| SyncGroupRequestAssignment {
            member_id: text(id),
            assignment: Bytes::from_static(assignment.as_bytes()),
        });
        self.ask(GroupCommand::SyncGroup(SyncGroupRequest {
            group_id: text("g"),
            generation_id,
            member_id: text(id),
            protocol_type: Some(text("consumer")),
            protocol_name: Some(text("range")),
            assignments: assignments.collect(),
            ..Default::default()
        }))
    }

    pub fn synced(&mut self, key: ReplyKey) -> SyncGroupResponse {
        match self.take_reply(key) {
            Some(GroupReply::SyncGroup(response)) => response,
            other => panic!("not synced: {other:?}"),
        }
    }

    pub fn heartbeat(&mut self, id: &str, generation_id: i32) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: text("g"),
            generation_id,
            member_id: text(id),
            ..Default::default()
        };
        match self.call(GroupCommand::Heartbeat(request)) {
            GroupReply::Heartbeat(response) => ErrorCode::from_code(response.error_code).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Members by their ids and instance ids.
    pub fn leave(&mut self, members: &[(&str, Option<&str>)]) -> LeaveGroupResponse {
        let members = members.iter().map(|(id, instance_id)| MemberIdentity {
            member_id: text(id),
            group_instance_id: instance_id.map(text),
            reason: None,
        });
        let request =
            LeaveGroupRequest { group_id: text("g"), members: members.collect(), ..Default::default() };
        match self.call(GroupCommand::LeaveGroup(request)) {
            GroupReply::LeaveGroup(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// Commits an offset of `t-0`.
    pub fn commit(&mut self, id: &str, generation: i32, offset: i64) -> ErrorCode {
        self.commit_of(id, generation, (TopicId::default(), 0), offset)
    }

    /// Commits an offset of a partition of `t`, whose id may be left out.
    pub fn commit_of(
        &mut self,
        id: &str,
        generation: i32,
        (topic_id, partition_index): (TopicId, i32),
        offset: i64,
    ) -> ErrorCode {
        let partition =
            OffsetCommitRequestPartition { partition_index, committed_offset: offset, ..Default::default() };
        let topic = OffsetCommitRequestTopic {
            name: text("t"),
            topic_id: topic_id.0,
            partitions: vec![partition],
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: text("g"),
            generation_id_or_member_epoch: generation,
            member_id: text(id),
            topics: vec![topic],
            ..Default::default()
        };
        match self.call(GroupCommand::OffsetCommit { request, version: 9 }) {
            GroupReply::OffsetCommit(response) => {
                ErrorCode::from_code(response.topics[0].partitions[0].error_code).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn describe(&mut self) -> DescribedGroup {
        let command = GroupCommand::DescribeGroup { group_id: text("g"), version: 6 };
        match self.call(command) {
            GroupReply::DescribeGroup(described) => described,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&mut self) -> String {
        self.describe().group_state.as_str().to_owned()
    }

    /// A group of consumers that is stable in its first generation; the first one leads. Needs a world without an
    /// initial delay.
    pub fn stable(&mut self, client_ids: &[&str]) -> Vec<String> {
        let ids: Vec<String> = client_ids.iter().map(|id| self.new_id(id)).collect();
        let keys: Vec<ReplyKey> =
            ids.iter().zip(client_ids).map(|(id, client_id)| self.join(client_id, member(id))).collect();
        self.advance(0);
        let leader =
            ids.iter().zip(keys).find_map(|(id, key)| (self.joined(key).leader == **id).then(|| id.clone()));
        let leader = leader.expect("somebody leads");
        let keys: Vec<ReplyKey> = ids.iter().map(|id| self.sync_as(id, 1, &leader, &ids)).collect();
        for key in keys {
            assert_eq!(self.synced(key).error_code, 0);
        }
        ids
    }

    /// Asks for the assignment; whoever leads gives every member its own id.
    pub fn sync_as(&mut self, id: &str, generation_id: i32, leader: &str, members: &[String]) -> ReplyKey {
        let all: &[String] = if id == leader { members } else { &[] };
        let assignments = all.iter().map(|id| SyncGroupRequestAssignment {
            member_id: text(id),
            assignment: Bytes::copy_from_slice(id.as_bytes()),
        });
        self.ask(GroupCommand::SyncGroup(SyncGroupRequest {
            group_id: text("g"),
            generation_id,
            member_id: text(id),
            assignments: assignments.collect(),
            ..Default::default()
        }))
    }
}

/// A world whose groups do not wait for more first members.
pub fn prompt_world() -> World {
    World::with_configs(&[("group.initial.rebalance.delay.ms", "0")])
}
