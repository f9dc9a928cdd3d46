//! Which brokers get a partition's replicas.
//!
//! Deliberately absent: spreading over racks. Replicas go round the brokers in order of id,
//! from a random start, the second replica of each round one further than in the last.

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{DirectoryId, LeaderEpoch, NodeId};

use super::ApiError;
use crate::image::{BrokerRegistration, MetadataImage, PartitionImage, RecoveryState};

/// Replica lists for `partition_count` partitions.
pub(super) fn place(
    image: &MetadataImage,
    partition_count: usize,
    replication_factor: usize,
    start: u64,
) -> Result<Vec<Vec<NodeId>>, ApiError> {
    let refuse = |why: &str| {
        let message = format!("Unable to replicate the partition {replication_factor} time(s): {why}");
        Err(ApiError::new(ErrorCode::InvalidReplicationFactor, message))
    };
    let usable: Vec<NodeId> =
        image.brokers().values().filter(|broker| !is_cordoned(broker)).map(|broker| broker.id).collect();
    if replication_factor > usable.len() {
        return refuse(&format!(
            "The target replication factor of {replication_factor} cannot be reached because only {} broker(s) \
             are registered or some brokers have all their log directories cordoned.",
            usable.len()
        ));
    }
    if !usable.iter().any(|node| image.is_active(*node)) {
        return refuse("All brokers are currently fenced, or have all their log directories cordoned.");
    }
    // Active ones first: a partition needs a leader at once.
    let (mut brokers, inactive): (Vec<NodeId>, Vec<NodeId>) =
        usable.iter().partition(|node| image.is_active(**node));
    let active_count = brokers.len();
    brokers.extend(inactive);
    let start = (start % active_count as u64) as usize;
    let replicas_of = |partition: usize| {
        let first = (start + partition) % active_count;
        let round = partition / active_count;
        let others: Vec<NodeId> =
            (0..brokers.len()).filter(|at| *at != first).map(|at| brokers[at]).collect();
        let mut replicas = vec![brokers[first]];
        replicas.extend((1..replication_factor).map(|nth| others[(first + round + nth - 1) % others.len()]));
        replicas
    };
    Ok((0..partition_count).map(replicas_of).collect())
}

/// Accepts replicas that a client chose.
pub(super) fn check_assignment(image: &MetadataImage, replicas: &[NodeId]) -> Result<(), ApiError> {
    let refuse = |why: String| {
        let message = format!("The manual partition assignment includes {why}");
        Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message))
    };
    if replicas.is_empty() {
        return refuse("an empty replica list.".to_owned());
    }
    let mut sorted = replicas.to_vec();
    sorted.sort_unstable();
    for (at, node) in sorted.iter().enumerate() {
        if image.broker(*node).is_none() {
            return refuse(format!("broker {node}, but no such broker is registered."));
        }
        if at > 0 && sorted[at - 1] == *node {
            return refuse(format!("the broker {node} more than once."));
        }
    }
    Ok(())
}

/// A new partition on `replicas`: led by the first that is active.
pub(super) fn new_partition(
    image: &MetadataImage,
    partition_id: usize,
    replicas: Vec<NodeId>,
) -> Result<PartitionImage, ApiError> {
    let isr: Vec<NodeId> = replicas.iter().copied().filter(|node| image.is_active(*node)).collect();
    let Some(leader) = isr.first().copied() else {
        let message = format!(
            "All brokers specified in the manual partition assignment for partition {partition_id} are fenced or in \
             controlled shutdown."
        );
        return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    };
    let directory = |node: &NodeId| {
        image.broker(*node).map_or(DirectoryId::UNASSIGNED, |broker| broker.default_directory())
    };
    Ok(PartitionImage {
        directories: replicas.iter().map(directory).collect(),
        replicas,
        isr,
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        removing_replicas: Vec::new(),
        adding_replicas: Vec::new(),
        leader,
        recovery_state: RecoveryState::Recovered,
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
    })
}

fn is_cordoned(broker: &BrokerRegistration) -> bool {
    let Some(cordoned) = &broker.cordoned_directories else { return false };
    !broker.directories.is_empty() && broker.directories.iter().all(|directory| cordoned.contains(directory))
}
