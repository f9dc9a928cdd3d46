//! A member of a consumer group (KIP-848), as consumers are: what it is assigned it has at once, and what it has it tells
//! in the next heartbeat.

use anyhow::Result;
use klamm_protocol::ids::Uuid;
use klamm_protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, RequestTopicPartitions,
};
use klamm_protocol::wire::WireStr;

use super::connection::{Connection, expect_success, is_coordinator_coming};

const VERSION: i16 = 1;
/// A consumer's `max.poll.interval.ms`.
const REBALANCE_TIMEOUT_MS: i32 = 300_000;

pub struct ConsumerMember {
    topic_id: Uuid,
    /// What it says next.
    request: ConsumerGroupHeartbeatRequest,
    pub owned: Vec<i32>,
}

/// What a heartbeat brought.
pub struct Beat {
    pub epoch: i32,
    /// An assignment, which is acknowledged at once.
    pub has_news: bool,
    pub interval_ms: u64,
}

impl ConsumerMember {
    /// `member_id`: any text will do; consumers take a UUID.
    pub fn new(group_id: WireStr, member_id: String, topic: &str, topic_id: Uuid) -> Self {
        let request = ConsumerGroupHeartbeatRequest {
            group_id,
            member_id: WireStr::from(member_id),
            member_epoch: 0,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            subscribed_topic_names: Some(vec![WireStr::from(topic.to_owned())]),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        Self { topic_id, request, owned: Vec::new() }
    }

    pub fn epoch(&self) -> i32 {
        self.request.member_epoch
    }

    /// `None` while the coordinator is coming.
    pub async fn heartbeat(&mut self, connection: &mut Connection) -> Result<Option<Beat>> {
        let answer = connection.call(VERSION, &self.request).await?;
        if is_coordinator_coming(answer.error_code) {
            return Ok(None);
        }
        expect_success("heartbeat", answer.error_code)?;
        let request = &mut self.request;
        // What did not change is not said again.
        (request.member_epoch, request.rebalance_timeout_ms) = (answer.member_epoch, -1);
        (request.subscribed_topic_names, request.topic_partitions) = (None, None);
        let has_news = answer.assignment.is_some();
        if let Some(assignment) = answer.assignment {
            self.owned = assignment.topic_partitions.into_iter().flat_map(|topic| topic.partitions).collect();
            let of_topic = RequestTopicPartitions {
                topic_id: self.topic_id,
                partitions: self.owned.clone(),
                ..Default::default()
            };
            request.topic_partitions = Some(if self.owned.is_empty() { Vec::new() } else { vec![of_topic] });
        }
        let interval_ms = u64::try_from(answer.heartbeat_interval_ms)?;
        Ok(Some(Beat { epoch: answer.member_epoch, has_news, interval_ms }))
    }
}
