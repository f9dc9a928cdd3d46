//! OffsetForLeaderEpoch, versions 2 to 4 (KIP-101, KIP-279, KIP-320).
//!
//! Where the largest known epoch not above the requested one ends; the current epoch
//! ends at the log's end (for consumers: at the high watermark, which with one replica
//! is the same).

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{LeaderEpoch, PartitionIndex};
use klamm_protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::fetch::plan::check_leader_epoch;
use crate::host::Host;
use crate::partition::registry::{Missing, TopicIndex};

pub(crate) fn handle<H: Host>(broker: &Broker<H>, mut frame: Frame) -> Handled {
    let request: OffsetForLeaderEpochRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let index = broker.topics.load();
    let topics = request
        .topics
        .iter()
        .map(|topic| OffsetForLeaderTopicResult {
            topic: topic.topic.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|partition| look_up(&index, &topic.topic, partition))
                .collect(),
            ..Default::default()
        })
        .collect();
    frame.meta().reply(&OffsetForLeaderEpochResponse { topics, ..Default::default() })
}

fn look_up(index: &TopicIndex, topic: &str, wanted: &OffsetForLeaderPartition) -> EpochEndOffset {
    let found = index
        .by_name(topic)
        .ok_or(Missing::Unknown)
        .and_then(|topic| topic.partition(PartitionIndex(wanted.partition)));
    let mut end = EpochEndOffset {
        partition: wanted.partition,
        leader_epoch: -1,
        end_offset: -1,
        ..Default::default()
    };
    let error = match found {
        Err(Missing::Unknown) => ErrorCode::UnknownTopicOrPartition,
        Err(Missing::Offline) => ErrorCode::KafkaStorageError,
        Ok(partition) => match check_leader_epoch(&partition, wanted.current_leader_epoch) {
            Err(error) => error,
            Ok(()) => {
                let known = partition.view.end_offset_for_epoch(LeaderEpoch(wanted.leader_epoch));
                end.leader_epoch = known.leader_epoch.0;
                end.end_offset = known.end_offset.0;
                ErrorCode::None
            }
        },
    };
    end.error_code = error.code();
    end
}
