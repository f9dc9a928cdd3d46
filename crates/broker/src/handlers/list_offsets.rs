//! ListOffsets, versions 1 to 11.
//!
//! | timestamp | gives | since |
//! |---|---|---|
//! | at least 0 | the first record at or after it | 1 |
//! | -1 latest | high watermark, or last stable offset for read committed | 1 |
//! | -2 earliest | log start offset | 1 |
//! | -3 max timestamp | the record with the largest timestamp (KIP-734) | 7 |
//! | -4 earliest local | log start offset: nothing is tiered (KIP-405) | 8 |
//! | -5 latest tiered, -6 earliest pending upload | -1: nothing is tiered (KIP-1005, KIP-1023) | 9, 11 |

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_log::ReadError;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{LeaderEpoch, Offset, PartitionIndex};
use klamm_protocol::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::fetch::plan::check_leader_epoch;
use crate::host::{Host, Pool};
use crate::partition::Partition;
use crate::partition::registry::{Missing, TopicIndex};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: ListOffsetsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    // Looking for a timestamp reads the log, perhaps from the disk: not on a network worker.
    let has_lookup = request
        .topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .any(|partition| partition.timestamp >= 0 || partition.timestamp == MAX_TIMESTAMP);
    // Who wrote with acks=1 and asks where the log ends is not told of an earlier end: the flush
    // under way is waited for.
    let uncommitted: Vec<Arc<Partition>> = {
        let index = broker.topics.load();
        let asked = request.topics.iter().filter_map(|topic| Some((index.by_name(&topic.name)?, topic)));
        let asked = asked.flat_map(|(topic, of)| of.partitions.iter().map(move |asked| (topic, asked)));
        asked
            .filter(|(_, asked)| asked.timestamp != EARLIEST && asked.timestamp != EARLIEST_LOCAL)
            .filter_map(|(topic, asked)| topic.partition(PartitionIndex(asked.partition_index)).ok())
            .filter(|partition| !partition.is_committed())
            .collect()
    };
    if !has_lookup && uncommitted.is_empty() {
        return meta.reply(&answer(&broker.topics.load(), &request, meta.version));
    }
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        for partition in uncommitted {
            partition.committed(&broker.host).await;
        }
        let index = broker.topics.load_full();
        let version = meta.version;
        let response = broker.host.offload(Pool::ColdRead, move || answer(&index, &request, version)).await;
        meta.reply(&response)
    }))
}

fn answer(index: &TopicIndex, request: &ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
    let mut seen = BTreeSet::new();
    let mut doubled = BTreeSet::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let key = (&*topic.name, partition.partition_index);
            if !seen.insert(key) {
                doubled.insert(key);
            }
        }
    }
    let topics = request
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic
                .partitions
                .iter()
                .map(|partition| {
                    let is_doubled = doubled.contains(&(&*topic.name, partition.partition_index));
                    let found = match is_doubled {
                        true => Err(ErrorCode::InvalidRequest),
                        false => look_up(index, &topic.name, partition, request.isolation_level, version),
                    };
                    to_response(partition.partition_index, found, version)
                })
                .collect();
            ListOffsetsTopicResponse { name: topic.name.clone(), partitions, ..Default::default() }
        })
        .collect();
    ListOffsetsResponse { topics, ..Default::default() }
}

/// What was found: timestamp, offset, leader epoch; -1 where there is none.
struct Found {
    timestamp: i64,
    offset: i64,
    leader_epoch: i32,
}

const NOTHING: Found = Found { timestamp: -1, offset: -1, leader_epoch: -1 };

fn look_up(
    index: &TopicIndex,
    name: &str,
    wanted: &ListOffsetsPartition,
    isolation_level: i8,
    version: i16,
) -> Result<Found, ErrorCode> {
    let topic = index.by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition =
        topic.partition(PartitionIndex(wanted.partition_index)).map_err(|missing| match missing {
            Missing::Unknown => ErrorCode::UnknownTopicOrPartition,
            Missing::Offline => ErrorCode::KafkaStorageError,
        })?;
    check_leader_epoch(&partition, wanted.current_leader_epoch)?;
    let limits = partition.view.limits();
    let readable = if isolation_level == 1 { limits.last_stable } else { limits.high_watermark };
    let at =
        |offset: Offset, epoch: LeaderEpoch| Found { timestamp: -1, offset: offset.0, leader_epoch: epoch.0 };
    match wanted.timestamp {
        LATEST => Ok(at(readable.offset, partition.leader_epoch())),
        EARLIEST => Ok(at(limits.log_start, epoch_at(&partition, limits.log_start))),
        EARLIEST_LOCAL if version >= 8 => Ok(at(limits.log_start, epoch_at(&partition, limits.log_start))),
        LATEST_TIERED if version >= 9 => Ok(NOTHING),
        EARLIEST_PENDING_UPLOAD if version >= 11 => Ok(NOTHING),
        MAX_TIMESTAMP if version >= 7 => {
            let found =
                partition.view.max_timestamp(readable).map_err(|error| read_failed(&partition, &error))?;
            Ok(found.map_or(NOTHING, from_log))
        }
        timestamp if timestamp >= 0 => {
            let found = partition
                .view
                .offset_for_timestamp(timestamp, readable)
                .map_err(|error| read_failed(&partition, &error))?;
            Ok(found.map_or(NOTHING, from_log))
        }
        // A special timestamp that this version does not have.
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

fn from_log(found: klamm_log::TimestampOffset) -> Found {
    Found { timestamp: found.timestamp, offset: found.offset.0, leader_epoch: found.leader_epoch.0 }
}

fn epoch_at(partition: &Partition, offset: Offset) -> LeaderEpoch {
    partition.view.epoch_for_offset(offset).unwrap_or_else(|| partition.leader_epoch())
}

fn read_failed(partition: &Partition, error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Truncated { .. } => ErrorCode::OffsetNotAvailable,
        ReadError::Quarantined { .. } => ErrorCode::CorruptMessage,
        ReadError::Io { .. } | ReadError::Corrupt { .. } => {
            tracing::error!(topic = %partition.topic, partition = %partition.index, %error, "cannot look up a timestamp");
            ErrorCode::KafkaStorageError
        }
    }
}

fn to_response(
    partition_index: i32,
    found: Result<Found, ErrorCode>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let (error, found) = match found {
        Ok(found) => (ErrorCode::None, found),
        Err(error) => (error, NOTHING),
    };
    ListOffsetsPartitionResponse {
        partition_index,
        error_code: error.code(),
        timestamp: found.timestamp,
        offset: found.offset,
        leader_epoch: if version >= 4 { found.leader_epoch } else { -1 },
        ..Default::default()
    }
}
