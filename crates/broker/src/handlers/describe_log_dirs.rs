//! DescribeLogDirs, versions 1 to 5 (KIP-113): what lies in which log directory, and how much room there is.
//!
//! - A directory that is offline is listed with KAFKA_STORAGE_ERROR and no partitions.
//! - Version 4 adds the size of the file system and its free room (KIP-827), version 5 whether the directory takes
//!   new partitions (KIP-1066).
//! - A partition on its way to another directory is listed in both; the copy has `is_future_key`, and as its lag the
//!   offsets it has yet to copy, estimated from the bytes.
//! - The metadata log is not listed, as in Kafka.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_log::Limits;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::{Host, Pool};
use crate::log_dirs::{Described, LogDirs};
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
            None => topics.topics().for_each(|topic| list(&broker.dirs, &mut results, topic, None)),
            Some(wanted) => {
                for wanted in wanted {
                    if let Some(topic) = topics.by_name(&wanted.topic) {
                        list(&broker.dirs, &mut results, topic, Some(&wanted.partitions));
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

/// What a copy of `copied` bytes has yet to copy of a log of `size` bytes: in offsets, as near as bytes tell.
fn lag(limits: &Limits, size: u64, copied: u64) -> i64 {
    let count = i128::from(limits.end.offset.0 - limits.log_start.0);
    let left = i128::from(size.saturating_sub(copied));
    i64::try_from(count * left / i128::from(size.max(1))).unwrap_or(0)
}

/// Adds a topic's partitions, or some of them, to the directories that they lie in.
fn list(dirs: &LogDirs, results: &mut [DescribeLogDirsResult], topic: &Topic, wanted: Option<&[i32]>) {
    let mut by_dir: BTreeMap<PathBuf, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for partition in topic.partitions.load().iter().flatten() {
        let index = partition.index.0;
        if partition.is_offline() || wanted.is_some_and(|wanted| !wanted.contains(&index)) {
            continue;
        }
        let (limits, segments) = partition.view.load();
        let size: u64 = segments.iter().map(|segment| u64::from(segment.size_bytes())).sum();
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let described = |partition_size, offset_lag, is_future_key| DescribeLogDirsPartition {
            partition_index: index,
            partition_size,
            offset_lag,
            is_future_key,
            ..Default::default()
        };
        // How far the end is behind the high watermark: never, in the log of a leader.
        let here = described(bytes(size), 0, false);
        by_dir.entry(partition.dir().path.clone()).or_default().push(here);
        if let Some((to, copied)) = dirs.moving_to(&topic.name, partition.index) {
            let lag = lag(&limits, size, copied);
            by_dir.entry(to.to_owned()).or_default().push(described(bytes(copied), lag, true));
        }
    }
    for result in results.iter_mut().filter(|result| result.error_code == ErrorCode::None.code()) {
        if let Some(partitions) = by_dir.remove(Path::new(&*result.log_dir)) {
            let name = topic.name.to_string().into();
            result.topics.push(DescribeLogDirsTopic { name, partitions, ..Default::default() });
        }
    }
}
