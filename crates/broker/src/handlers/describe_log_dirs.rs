//! DescribeLogDirs, versions 1 to 5 (KIP-113): what lies in which log directory, and how much room there is.
//!
//! - A directory that is offline is listed with KAFKA_STORAGE_ERROR and no partitions.
//! - Version 4 adds the size of the file system and its free room (KIP-827), version 5 whether the directory takes
//!   new partitions (KIP-1066).
//! - A partition on its way to another directory is listed in both; the copy has `is_future_key`, and as its lag the
//!   offsets it has yet to copy.
//! - The metadata log is not listed, as in Kafka.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::{Host, Pool};
use crate::log_dirs::Described;
use crate::partition::registry::Topic;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: DescribeLogDirsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let dirs = broker.dirs.clone();
        let described = broker.host.offload(Pool::ColdRead, move || dirs.describe()).await;
        let mut results: Vec<DescribeLogDirsResult> = described.into_iter().map(result).collect();
        let topics = broker.topics.load_full();
        match &request.topics {
            None => topics.topics().for_each(|topic| list(&mut results, topic, None)),
            Some(wanted) => {
                for wanted in wanted {
                    if let Some(topic) = topics.by_name(&wanted.topic) {
                        list(&mut results, topic, Some(&wanted.partitions));
                    }
                }
            }
        }
        meta.reply(&DescribeLogDirsResponse { results, ..Default::default() })
    }))
}

fn result(described: Described) -> DescribeLogDirsResult {
    let error = if described.volume.is_some() { ErrorCode::None } else { ErrorCode::KafkaStorageError };
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    DescribeLogDirsResult {
        error_code: error.code(),
        log_dir: described.path.display().to_string().into(),
        total_bytes: described.volume.as_ref().map_or(-1, |volume| bytes(volume.total_bytes)),
        usable_bytes: described.volume.as_ref().map_or(-1, |volume| bytes(volume.usable_bytes)),
        is_cordoned: described.is_cordoned,
        ..Default::default()
    }
}

/// Adds a topic's partitions, or some of them, to the directories that they lie in.
fn list(results: &mut [DescribeLogDirsResult], topic: &Topic, wanted: Option<&[i32]>) {
    let mut by_dir: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for partition in topic.partitions.load().iter().flatten() {
        let index = partition.index.0;
        if partition.is_offline() || wanted.is_some_and(|wanted| !wanted.contains(&index)) {
            continue;
        }
        let (_, segments) = partition.view.load();
        let size: u64 = segments.iter().map(|segment| u64::from(segment.size_bytes())).sum();
        by_dir.entry(partition.dir().path.display().to_string()).or_default().push(
            DescribeLogDirsPartition {
                partition_index: index,
                partition_size: i64::try_from(size).unwrap_or(i64::MAX),
                // How far the end is behind the high watermark: never, in the log of a leader.
                offset_lag: 0,
                is_future_key: false,
                ..Default::default()
            },
        );
    }
    for result in results.iter_mut().filter(|result| result.error_code == ErrorCode::None.code()) {
        if let Some(partitions) = by_dir.remove(&*result.log_dir) {
            let name = topic.name.to_string().into();
            result.topics.push(DescribeLogDirsTopic { name, partitions, ..Default::default() });
        }
    }
}
