//! A member of a classic group: what a consumer sends, without the consumer.

use std::ops::Range;

use anyhow::Result;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::consumer_protocol::{
    ConsumerProtocolAssignment, ConsumerProtocolAssignmentTopicPartition, ConsumerProtocolSubscription,
};
use klamm_protocol::messages::heartbeat::HeartbeatRequest;
use klamm_protocol::messages::join_group::{
    JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse, JoinGroupResponseMember,
};
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use klamm_protocol::wire::{WireStr, encode_versioned};

use super::connection::{Connection, expect_success, is_coordinator_coming};

const JOIN_VERSION: i16 = 9;
const SYNC_VERSION: i16 = 5;
const HEARTBEAT_VERSION: i16 = 4;
/// Of the bytes that members tell each other.
const CONSUMER_PROTOCOL_VERSION: i16 = 3;
const PROTOCOL: &str = "range";
const PROTOCOL_TYPE: &str = "consumer";
/// A consumer's `max.poll.interval.ms`.
const REBALANCE_TIMEOUT_MS: i32 = 300_000;

/// Knows what the coordinator told it.
pub struct Member {
    pub member_id: WireStr,
    pub generation_id: i32,
    group_id: WireStr,
    topic: String,
    session_timeout_ms: i32,
}

/// What a join came to.
pub struct Joined {
    /// Everybody, if this member leads.
    pub members: Vec<JoinGroupResponseMember>,
    pub is_leader: bool,
}

impl Member {
    pub fn new(group_id: WireStr, topic: &str, session_timeout_ms: i32) -> Self {
        Self {
            member_id: WireStr::default(),
            generation_id: -1,
            group_id,
            topic: topic.to_owned(),
            session_timeout_ms,
        }
    }

    /// Asks for a member id, which comes at once.
    pub async fn introduce(&mut self, connection: &mut Connection) -> Result<()> {
        loop {
            let answer = self.call_join(connection).await?;
            if is_coordinator_coming(answer.error_code) {
                tokio::task::yield_now().await;
                continue;
            }
            if answer.error_code != ErrorCode::MemberIdRequired.code() {
                expect_success("ask for a member id", answer.error_code)?;
            }
            self.member_id = answer.member_id;
            return Ok(());
        }
    }

    /// Joins; the answer comes when the others have joined, too.
    pub async fn join(&mut self, connection: &mut Connection) -> Result<Joined> {
        let answer = self.call_join(connection).await?;
        expect_success("join a group", answer.error_code)?;
        self.member_id = answer.member_id;
        self.generation_id = answer.generation_id;
        Ok(Joined { is_leader: answer.leader == self.member_id, members: answer.members })
    }

    async fn call_join(&self, connection: &mut Connection) -> Result<JoinGroupResponse> {
        let subscription = ConsumerProtocolSubscription {
            topics: vec![WireStr::from(self.topic.clone())],
            generation_id: self.generation_id,
            ..Default::default()
        };
        let protocol = JoinGroupRequestProtocol {
            name: WireStr::from_static(PROTOCOL),
            metadata: encode_versioned(&subscription, CONSUMER_PROTOCOL_VERSION)?,
            ..Default::default()
        };
        let request = JoinGroupRequest {
            group_id: self.group_id.clone(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: self.member_id.clone(),
            protocol_type: WireStr::from_static(PROTOCOL_TYPE),
            protocols: vec![protocol],
            ..Default::default()
        };
        connection.call(JOIN_VERSION, &request).await
    }

    /// Waits for the assignment, which the leader hands in here. False if the group rebalances again.
    pub async fn sync(
        &self,
        connection: &mut Connection,
        joined: &Joined,
        partition_count: usize,
    ) -> Result<bool> {
        let assignments = if joined.is_leader {
            assign(&self.topic, &joined.members, partition_count)?
        } else {
            Vec::new()
        };
        let request = SyncGroupRequest {
            group_id: self.group_id.clone(),
            generation_id: self.generation_id,
            member_id: self.member_id.clone(),
            protocol_type: Some(WireStr::from_static(PROTOCOL_TYPE)),
            protocol_name: Some(WireStr::from_static(PROTOCOL)),
            assignments,
            ..Default::default()
        };
        let answer = connection.call(SYNC_VERSION, &request).await?;
        stays("sync a group", answer.error_code)
    }

    /// False if the group rebalances.
    pub async fn heartbeat(&self, connection: &mut Connection) -> Result<bool> {
        let request = HeartbeatRequest {
            group_id: self.group_id.clone(),
            generation_id: self.generation_id,
            member_id: self.member_id.clone(),
            ..Default::default()
        };
        let answer = connection.call(HEARTBEAT_VERSION, &request).await?;
        stays("heartbeat", answer.error_code)
    }
}

fn stays(what: &str, code: i16) -> Result<bool> {
    let is_over = [ErrorCode::RebalanceInProgress, ErrorCode::IllegalGeneration].map(ErrorCode::code);
    if is_over.contains(&code) {
        return Ok(false);
    }
    expect_success(what, code)?;
    Ok(true)
}

/// Consecutive partitions for each.
fn assign(
    topic: &str,
    members: &[JoinGroupResponseMember],
    partition_count: usize,
) -> Result<Vec<SyncGroupRequestAssignment>> {
    let share = |index: usize| -> Range<usize> {
        index * partition_count / members.len()..(index + 1) * partition_count / members.len()
    };
    let mut assignments = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        let partitions = share(index).map(i32::try_from).collect::<Result<_, _>>()?;
        let of_topic = ConsumerProtocolAssignmentTopicPartition {
            topic: WireStr::from(topic.to_owned()),
            partitions,
            ..Default::default()
        };
        let assignment =
            ConsumerProtocolAssignment { assigned_partitions: vec![of_topic], ..Default::default() };
        assignments.push(SyncGroupRequestAssignment {
            member_id: member.member_id.clone(),
            assignment: encode_versioned(&assignment, CONSUMER_PROTOCOL_VERSION)?,
            ..Default::default()
        });
    }
    Ok(assignments)
}
