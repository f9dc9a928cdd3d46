//! AlterReplicaLogDirs, versions 1 to 2 (KIP-113): asks for partitions to be moved to other log directories.
//!
//! Answered at once; the move goes on in the background (DescribeLogDirs shows it). Asking again with another
//! directory takes the earlier move back, asking for the directory that it lies in only that.
//!
//! | error | when |
//! |---|---|
//! | LOG_DIR_NOT_FOUND | the path is none of `log.dirs` |
//! | INVALID_REPLICA_ASSIGNMENT | the directory is cordoned (KIP-1066) |
//! | KAFKA_STORAGE_ERROR | the directory, or the one that the partition lies in, is offline |
//! | UNKNOWN_TOPIC_OR_PARTITION | it is not here |

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::PartitionIndex;
use klamm_protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::log_dirs::MoveRefused;
use crate::partition::registry::Missing;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: AlterReplicaLogDirsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let mut results: Vec<AlterReplicaLogDirTopicResult> = Vec::new();
    // A request may name very many, and one topic in several directories.
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for dir in &request.dirs {
        for topic in &dir.topics {
            let partitions = topic.partitions.iter().map(|index| AlterReplicaLogDirPartitionResult {
                partition_index: *index,
                error_code: ask(broker, &dir.path, &topic.name, PartitionIndex(*index)).code(),
                ..Default::default()
            });
            let place = *places.entry(&*topic.name).or_insert_with(|| {
                let topic_name = topic.name.clone();
                results.push(AlterReplicaLogDirTopicResult { topic_name, ..Default::default() });
                results.len() - 1
            });
            results[place].partitions.extend(partitions);
        }
    }
    frame.meta().reply(&AlterReplicaLogDirsResponse { results, ..Default::default() })
}

fn ask<H: Host>(broker: &Arc<Broker<H>>, path: &str, topic: &str, index: PartitionIndex) -> ErrorCode {
    let to = match broker.dirs.move_target(path) {
        Ok(to) => to,
        Err(MoveRefused::NoSuchDirectory) => return ErrorCode::LogDirNotFound,
        Err(MoveRefused::Cordoned) => return ErrorCode::InvalidReplicaAssignment,
        Err(MoveRefused::Offline) => return ErrorCode::KafkaStorageError,
    };
    let topic = broker.topics.load().by_name(topic).cloned();
    match topic.ok_or(Missing::Unknown).and_then(|topic| topic.partition(index)) {
        Ok(partition) => {
            broker.dirs.request_move(&partition, to);
            ErrorCode::None
        }
        Err(Missing::Unknown) => ErrorCode::UnknownTopicOrPartition,
        Err(Missing::Offline) => ErrorCode::KafkaStorageError,
    }
}
