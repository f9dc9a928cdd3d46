//! OffsetCommit and TxnOffsetCommit: who may, and what is written.
//!
//! A request may name a partition any number of times: each is written and answered, and the last one counts.
//! What does not fit one batch is refused as a whole, before any of it is built: a small request may ask for a
//! lot, since each record says the names of its group and its topic.

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{ProducerEpoch, ProducerId, TopicId, Uuid};
use klamm_protocol::messages::group_records::OffsetCommitValue;
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use klamm_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
};
use klamm_protocol::records::BATCH_HEADER_BYTES;
use klamm_protocol::wire::WireStr;

use super::super::record::GroupRecord;
use super::super::{Group, GroupCoordinator, GroupCtx, GroupOutcome};
use super::{Committer, key};

/// What the record of an offset has beside its group, its topic and its metadata, at most.
const RECORD_BYTES_MAX: usize = 80;
/// The retention of a request that asks for none.
const DEFAULT_RETENTION: i64 = -1;
/// From this version of OffsetCommit on a group that is not there has an error of its own.
const GROUP_NOT_FOUND_VERSION_MIN: i16 = 9;

/// What is committed for one partition.
struct Commit<'a> {
    topic: &'a str,
    topic_id: Uuid,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<&'a WireStr>,
    expire_timestamp: i64,
}

impl GroupCoordinator {
    pub(in super::super) fn commit_offsets(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &OffsetCommitRequest,
        version: i16,
        out: &mut GroupOutcome,
    ) -> OffsetCommitResponse {
        let committer = Committer {
            member_id: &request.member_id,
            instance_id: request.group_instance_id.as_deref(),
            generation: request.generation_id_or_member_epoch,
            is_transactional: false,
            version,
        };
        let partitions = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (TopicId(topic.topic_id), partition.partition_index))
        });
        let refused = self.validate_commit(&request.group_id, &committer, partitions).err();
        if refused.is_none()
            && let Some(Group::Classic(group)) = self.groups.get_mut(&*request.group_id)
        {
            group.note_commit(cx, &request.member_id);
        }
        let wanted = request.topics.iter().flat_map(|topic| {
            let metadata = topic.partitions.iter().map(|partition| partition.committed_metadata.as_ref());
            metadata.map(|metadata| (&*topic.name, metadata))
        });
        let refused = refused.or_else(|| refuse_too_large(cx, &request.group_id, wanted));
        let expire_timestamp = match request.retention_time_ms {
            DEFAULT_RETENTION => -1,
            retention_ms => cx.wall.0.saturating_add(retention_ms),
        };
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let commit = Commit {
                    topic: &topic.name,
                    topic_id: topic.topic_id,
                    partition: partition.partition_index,
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: partition.committed_metadata.as_ref(),
                    expire_timestamp,
                };
                let error = refused.unwrap_or_else(|| write(cx, &request.group_id, &commit, out));
                partitions.push(OffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: error.code(),
                    ..Default::default()
                });
            }
            topics.push(OffsetCommitResponseTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions,
                ..Default::default()
            });
        }
        OffsetCommitResponse { topics, ..Default::default() }
    }

    pub(in super::super) fn commit_transactional_offsets(
        &mut self,
        cx: &GroupCtx<'_>,
        request: &TxnOffsetCommitRequest,
        version: i16,
        out: &mut GroupOutcome,
    ) -> TxnOffsetCommitResponse {
        let committer = Committer {
            member_id: &request.member_id,
            instance_id: request.group_instance_id.as_deref(),
            generation: request.generation_id,
            is_transactional: true,
            version,
        };
        let topic_id = |name: &str| cx.image.topic_by_name(name).map_or(TopicId::default(), |topic| topic.id);
        let partitions = request.topics.iter().flat_map(|topic| {
            let id = topic_id(&topic.name);
            topic.partitions.iter().map(move |partition| (id, partition.partition_index))
        });
        let refused = match self.validate_commit(&request.group_id, &committer, partitions) {
            Ok(()) => None,
            // Its clients know no other.
            Err(ErrorCode::StaleMemberEpoch | ErrorCode::GroupIdNotFound) => {
                Some(ErrorCode::IllegalGeneration)
            }
            Err(error) => Some(error),
        };
        let wanted = request.topics.iter().flat_map(|topic| {
            let metadata = topic.partitions.iter().map(|partition| partition.committed_metadata.as_ref());
            metadata.map(|metadata| (&*topic.name, metadata))
        });
        let refused = refused.or_else(|| refuse_too_large(cx, &request.group_id, wanted));
        out.transaction = Some((ProducerId(request.producer_id), ProducerEpoch(request.producer_epoch)));
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let id = topic_id(&topic.name);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let commit = Commit {
                    topic: &topic.name,
                    topic_id: id.0,
                    partition: partition.partition_index,
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: partition.committed_metadata.as_ref(),
                    expire_timestamp: -1,
                };
                let error = refused.unwrap_or_else(|| write(cx, &request.group_id, &commit, out));
                partitions.push(TxnOffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: error.code(),
                    ..Default::default()
                });
            }
            topics.push(TxnOffsetCommitResponseTopic {
                name: topic.name.clone(),
                partitions,
                ..Default::default()
            });
        }
        TxnOffsetCommitResponse { topics, ..Default::default() }
    }

    fn validate_commit(
        &self,
        group_id: &str,
        committer: &Committer<'_>,
        partitions: impl Iterator<Item = (TopicId, i32)>,
    ) -> Result<(), ErrorCode> {
        match self.groups.get(group_id) {
            // Whoever only commits needs no group.
            None if committer.generation < 0 => Ok(()),
            None if committer.version >= GROUP_NOT_FOUND_VERSION_MIN => Err(ErrorCode::GroupIdNotFound),
            None => Err(ErrorCode::IllegalGeneration),
            Some(Group::Classic(group)) => group.validate_commit(committer),
            Some(Group::Consumer(group)) => group.validate_commit(committer, partitions),
            Some(Group::Share | Group::Streams) => Err(ErrorCode::GroupIdNotFound),
        }
    }
}

/// The error for all that is `wanted`, topics and metadata, if one batch may be too small for it.
fn refuse_too_large<'a>(
    cx: &GroupCtx<'_>,
    group: &str,
    wanted: impl Iterator<Item = (&'a str, Option<&'a WireStr>)>,
) -> Option<ErrorCode> {
    let sizes = wanted.filter(|(_, metadata)| !metadata.is_some_and(|text| is_too_long(cx, text))).map(
        |(topic, metadata)| {
            RECORD_BYTES_MAX + group.len() + topic.len() + metadata.map_or(0, |text| text.len())
        },
    );
    // What Kafka's coordinator answers for a batch that its log does not take.
    (BATCH_HEADER_BYTES + sizes.sum::<usize>() > cx.batch_bytes_max).then_some(ErrorCode::UnknownServerError)
}

/// In units of UTF-16, as Java counts.
fn is_too_long(cx: &GroupCtx<'_>, metadata: &WireStr) -> bool {
    metadata.encode_utf16().count() > cx.settings.offset_metadata_bytes_max
}

fn write(cx: &GroupCtx<'_>, group: &str, commit: &Commit<'_>, out: &mut GroupOutcome) -> ErrorCode {
    let metadata = commit.metadata.cloned().unwrap_or_default();
    if is_too_long(cx, &metadata) {
        return ErrorCode::OffsetMetadataTooLarge;
    }
    let value = OffsetCommitValue {
        offset: commit.offset,
        leader_epoch: commit.leader_epoch,
        metadata,
        commit_timestamp: cx.wall.0,
        expire_timestamp: commit.expire_timestamp,
        topic_id: commit.topic_id,
    };
    out.write(GroupRecord::OffsetCommit(key(group, commit.topic, commit.partition), Some(value)));
    ErrorCode::None
}

#[cfg(test)]
mod tests {
    use klamm_protocol::records::BatchBuilder;

    use super::*;
    use crate::record::Codec;

    #[test]
    fn no_record_of_an_offset_is_bigger_than_it_is_taken_for() {
        for (expire_timestamp, names) in [(-1, 0), (5, 0), (-1, 249), (5, 249), (-1, 30_000)] {
            let text = WireStr::from("n".repeat(names));
            let value = OffsetCommitValue {
                offset: i64::MAX,
                leader_epoch: i32::MAX,
                metadata: text.clone(),
                commit_timestamp: i64::MAX,
                expire_timestamp,
                topic_id: Uuid(u128::MAX),
            };
            let record = GroupRecord::OffsetCommit(key(&text, &text, i32::MAX), Some(value));
            let (key, value) = record.encode().expect("encodes");
            let mut batch = BatchBuilder::new();
            (0..1_000).for_each(|_| batch.push(1, Some(&key), value.as_deref(), &[]));
            let (bytes, taken_for) =
                (batch.build().len(), BATCH_HEADER_BYTES + 1_000 * (RECORD_BYTES_MAX + 3 * names));
            assert!(bytes <= taken_for && taken_for - bytes < 40_000, "{bytes} of {taken_for}");
        }
    }
}
