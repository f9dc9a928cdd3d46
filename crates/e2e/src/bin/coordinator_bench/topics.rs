//! The topics whose offsets are committed, and the topic of offsets itself.

use std::time::Duration;

use anyhow::{Result, bail};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::Uuid;
use klamm_protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use klamm_protocol::messages::find_coordinator::FindCoordinatorRequest;
use klamm_protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use klamm_protocol::wire::WireStr;

use super::connection::{Connection, expect_success, is_coordinator_coming};

const RETRY: Duration = Duration::from_millis(50);

/// Creates `name` unless it is there; gives its id once all its partitions have a leader.
pub async fn create(connection: &mut Connection, name: &str, partition_count: i32) -> Result<Uuid> {
    let topic = CreatableTopic {
        name: WireStr::from(name.to_owned()),
        num_partitions: partition_count,
        replication_factor: -1,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 60_000, ..Default::default() };
    for created in connection.call(7, &request).await?.topics {
        if created.error_code != ErrorCode::TopicAlreadyExists.code() {
            expect_success("create the topic", created.error_code)?;
        }
    }
    loop {
        let topic = MetadataRequestTopic { name: Some(WireStr::from(name.to_owned())), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        for topic in connection.call(12, &request).await?.topics {
            let led = topic.partitions.iter().filter(|partition| partition.leader_id >= 0).count();
            if topic.error_code == ErrorCode::None.code() && led == usize::try_from(partition_count)? {
                return Ok(topic.topic_id);
            }
            if led > usize::try_from(partition_count)? {
                bail!("topic {name} has {led} partitions, not {partition_count}: choose another --topic");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Waits until the coordinators of all `groups` are there.
pub async fn wait_for_coordinators(connection: &mut Connection, groups: &[WireStr]) -> Result<()> {
    const GROUPS_PER_REQUEST: usize = 500;
    for keys in groups.chunks(GROUPS_PER_REQUEST) {
        let request = FindCoordinatorRequest { coordinator_keys: keys.to_vec(), ..Default::default() };
        loop {
            let answer = connection.call(4, &request).await?;
            let Some(refused) = answer.coordinators.iter().find(|one| one.error_code != 0) else { break };
            if !is_coordinator_coming(refused.error_code) {
                expect_success("find a coordinator", refused.error_code)?;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
    Ok(())
}

/// Names of groups that no earlier run used.
pub fn group_ids(prefix: &str, count: usize) -> Vec<WireStr> {
    let run = std::process::id();
    (0..count).map(|index| WireStr::from(format!("{prefix}-{run}-{index}"))).collect()
}
