//! DeleteRecords, versions 0 to 2 (KIP-107): raises the log start offset; whole segments below it go.
//!
//! | error | when |
//! |---|---|
//! | OFFSET_OUT_OF_RANGE | above the high watermark, or negative and not -1 ("up to the high watermark") |
//! | POLICY_VIOLATION | the topic is only compacted; one that keeps everything may be cut all the same |
//! | INVALID_TOPIC_EXCEPTION | an internal topic |

use std::sync::Arc;

use klamm_log::LogError;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{Offset, PartitionIndex};
use klamm_protocol::messages::delete_records::{
    DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopicResult,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::{Host, Pool};
use crate::log_manager::delete_delay_ms;
use crate::partition::Partition;
use crate::partition::registry::Missing;

/// Asks for everything up to the high watermark.
const HIGH_WATERMARK: i64 = -1;

type Deleted = Result<(Arc<Partition>, Offset), ErrorCode>;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: DeleteRecordsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let mut done = Vec::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                let index = PartitionIndex(partition.partition_index);
                done.push(delete(&broker, &topic.name, index, partition.offset).await);
            }
        }
        let mut done = write_down(&broker, done).await.into_iter();
        let mut answer = |partition_index: i32| {
            let done = done.next().expect("one result a partition");
            DeleteRecordsPartitionResult {
                partition_index,
                low_watermark: done.as_ref().map_or(-1, |(_, start)| start.0),
                error_code: done.err().unwrap_or(ErrorCode::None).code(),
                ..Default::default()
            }
        };
        let topics = request.topics.iter().map(|topic| DeleteRecordsTopicResult {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(|partition| answer(partition.partition_index)).collect(),
            ..Default::default()
        });
        meta.reply(&DeleteRecordsResponse { topics: topics.collect(), ..Default::default() })
    }))
}

/// Moves the start and takes the segments below it out of sight; their files are the log manager's.
async fn delete<H: Host>(
    broker: &Arc<Broker<H>>,
    topic: &str,
    index: PartitionIndex,
    offset: i64,
) -> Deleted {
    let topic = broker.topics.load().by_name(topic).cloned().ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if topic.is_internal {
        return Err(ErrorCode::InvalidTopicException);
    }
    let partition = topic.partition(index).map_err(|missing| match missing {
        Missing::Unknown => ErrorCode::UnknownTopicOrPartition,
        Missing::Offline => ErrorCode::KafkaStorageError,
    })?;
    let config = topic.config.load_full();
    if config.cleanup_policy.compact && !config.cleanup_policy.delete {
        return Err(ErrorCode::PolicyViolation);
    }
    let limits = partition.view.limits();
    let to = if offset == HIGH_WATERMARK { limits.high_watermark.offset } else { Offset(offset) };
    if to.0 < 0 || to > limits.high_watermark.offset {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let (of, removals) = (partition.clone(), broker.removals.clone());
    let moved = partition.with_log(&broker.host, move |log| {
        let removal = log.advance_log_start(to)?;
        // In the partition's turn, so that a request that is given up leaves no file behind.
        removals.leave(of, removal, delete_delay_ms(&config));
        Ok::<_, LogError>(())
    });
    match moved.await {
        None => Err(ErrorCode::UnknownTopicOrPartition),
        Some(Ok(())) => {
            let start = partition.view.limits().log_start;
            Ok((partition, start))
        }
        Some(Err(LogError::OffsetOutOfRange { .. })) => Err(ErrorCode::OffsetOutOfRange),
        Some(Err(error)) => {
            partition.dir().note(&error);
            tracing::error!(topic = %partition.topic, partition = %index, %error, "cannot delete records");
            Err(ErrorCode::KafkaStorageError)
        }
    }
}

/// What was deleted is answered once no start brings it back: one write a log directory.
async fn write_down<H: Host>(broker: &Arc<Broker<H>>, mut done: Vec<Deleted>) -> Vec<Deleted> {
    let moved: Vec<_> = done.iter().flatten().map(|(partition, _)| partition.clone()).collect();
    if moved.is_empty() {
        return done;
    }
    let dirs = broker.dirs.clone();
    let is_durable = broker.host.offload(Pool::Flush, move || dirs.checkpoint_log_starts(&moved)).await;
    for (one, is_durable) in done.iter_mut().filter(|one| one.is_ok()).zip(is_durable) {
        if !is_durable {
            *one = Err(ErrorCode::KafkaStorageError);
        }
    }
    done
}
