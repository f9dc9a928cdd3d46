//! DeleteRecords, versions 0 to 2 (KIP-107): raises the log start offset; whole segments below it go.
//!
//! | error | when |
//! |---|---|
//! | OFFSET_OUT_OF_RANGE | above the high watermark, or negative and not -1 ("up to the high watermark") |
//! | POLICY_VIOLATION | the topic's `cleanup.policy` does not contain `delete` |
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
use crate::host::Host;
use crate::partition::registry::Missing;

/// Asks for everything up to the high watermark.
const HIGH_WATERMARK: i64 = -1;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: DeleteRecordsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let index = PartitionIndex(partition.partition_index);
                let done = delete(&broker, &topic.name, index, partition.offset).await;
                partitions.push(DeleteRecordsPartitionResult {
                    partition_index: index.0,
                    low_watermark: done.as_ref().map_or(-1, |start| start.0),
                    error_code: done.err().unwrap_or(ErrorCode::None).code(),
                    ..Default::default()
                });
            }
            topics.push(DeleteRecordsTopicResult {
                name: topic.name.clone(),
                partitions,
                ..Default::default()
            });
        }
        meta.reply(&DeleteRecordsResponse { topics, ..Default::default() })
    }))
}

async fn delete<H: Host>(
    broker: &Arc<Broker<H>>,
    topic: &str,
    index: PartitionIndex,
    offset: i64,
) -> Result<Offset, ErrorCode> {
    let topic = broker.topics.load().by_name(topic).cloned().ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if topic.is_internal {
        return Err(ErrorCode::InvalidTopicException);
    }
    let partition = topic.partition(index).map_err(|missing| match missing {
        Missing::Unknown => ErrorCode::UnknownTopicOrPartition,
        Missing::Offline => ErrorCode::KafkaStorageError,
    })?;
    if !topic.config.load().cleanup_policy.delete {
        return Err(ErrorCode::PolicyViolation);
    }
    let limits = partition.view.limits();
    let to = if offset == HIGH_WATERMARK { limits.high_watermark.offset } else { Offset(offset) };
    if to.0 < 0 || to > limits.high_watermark.offset {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let moved = partition.with_log(&broker.host, move |log| log.advance_log_start(to)).await;
    let result = match moved {
        None => Err(ErrorCode::UnknownTopicOrPartition),
        Some(Ok(_)) => Ok(partition.view.limits().log_start),
        Some(Err(LogError::OffsetOutOfRange { .. })) => Err(ErrorCode::OffsetOutOfRange),
        Some(Err(error)) => {
            tracing::error!(topic = %partition.topic, partition = %index, %error, "cannot delete records");
            Err(ErrorCode::KafkaStorageError)
        }
    };
    if result.is_ok() {
        broker.checkpoint_log_starts(&partition).await;
    }
    result
}
