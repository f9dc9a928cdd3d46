//! The records of `__consumer_offsets`, as Kafka 4.3 writes and reads them.
//!
//! A key's version is the kind of record. Kinds 0 and 1 are both an offset commit (0 is what Kafka
//! 0.8 wrote). Of share and streams groups only the group's own record is told apart: its id is
//! taken. All others of theirs stay in the log and say nothing here.

use bytes::{Buf, Bytes};
use klamm_protocol::messages::group_records::{
    ConsumerGroupCurrentMemberAssignmentKey, ConsumerGroupCurrentMemberAssignmentValue,
    ConsumerGroupMemberMetadataKey, ConsumerGroupMemberMetadataValue, ConsumerGroupMetadataKey,
    ConsumerGroupMetadataValue, ConsumerGroupPartitionMetadataKey, ConsumerGroupPartitionMetadataValue,
    ConsumerGroupRegularExpressionKey, ConsumerGroupRegularExpressionValue,
    ConsumerGroupTargetAssignmentMemberKey, ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMetadataKey, ConsumerGroupTargetAssignmentMetadataValue, GroupMetadataKey,
    GroupMetadataValue, OffsetCommitKey, OffsetCommitValue,
};
use klamm_protocol::messages::share_group_records::{ShareGroupMetadataKey, ShareGroupMetadataValue};
use klamm_protocol::messages::streams_group_records::{StreamsGroupMetadataKey, StreamsGroupMetadataValue};
use klamm_protocol::wire::{self, DecodeError, EncodeError, Message};

use crate::record::{Codec, RecordError};

/// What Kafka 0.8 called an offset commit; the same fields.
const LEGACY_OFFSET_COMMIT: i16 = 0;
const VERSION_BYTES: usize = 2;

macro_rules! group_records {
    ($($(#[$doc:meta])* $variant:ident($key:ident, $value:ident, $version:expr),)*) => {
        /// A record: its key, and its value unless it is a tombstone.
        #[derive(Clone, Debug, PartialEq)]
        pub enum GroupRecord {
            $($(#[$doc])* $variant($key, Option<$value>),)*
        }

        $(impl From<($key, Option<$value>)> for GroupRecord {
            fn from((key, value): ($key, Option<$value>)) -> Self {
                Self::$variant(key, value)
            }
        })*

        impl Codec for GroupRecord {
            fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<Option<Self>, RecordError> {
                let mut key = key.filter(|key| key.len() >= VERSION_BYTES).ok_or(RecordError::NoKey)?;
                let kind = match key.get_i16() {
                    LEGACY_OFFSET_COMMIT => OffsetCommitKey::API_KEY,
                    kind => kind,
                };
                let in_key = |source| RecordError::Key { kind, source };
                let in_value = |source| RecordError::Value { kind, source };
                Ok(match kind {
                    $($key::API_KEY => Some(Self::$variant(
                        wire::decode_data(key, 0).map_err(in_key)?,
                        value.map(decode_value).transpose().map_err(in_value)?,
                    )),)*
                    _ => None,
                })
            }

            fn encode(&self) -> Result<(Bytes, Option<Bytes>), EncodeError> {
                match self {
                    $(Self::$variant(key, value) => {
                        let encoded_key = [&$key::API_KEY.to_be_bytes()[..], &wire::encode_data(key, 0)?].concat();
                        let version = $version;
                        let encoded = value
                            .as_ref()
                            .map(|value| wire::encode_versioned(value, version(value)))
                            .transpose()?;
                        Ok((encoded_key.into(), encoded))
                    })*
                }
            }
        }
    };
}

group_records! {
    /// An offset that a group committed for a partition.
    OffsetCommit(OffsetCommitKey, OffsetCommitValue, offset_commit_version),
    /// A classic group as it is after a rebalance.
    GroupMetadata(GroupMetadataKey, GroupMetadataValue, group_metadata_version),
    /// A consumer group (KIP-848): its epoch.
    ConsumerGroupMetadata(ConsumerGroupMetadataKey, ConsumerGroupMetadataValue, newest),
    /// What Kafka 4.0 wrote of the topics that a consumer group reads; since then a tombstone.
    ConsumerGroupPartitionMetadata(
        ConsumerGroupPartitionMetadataKey, ConsumerGroupPartitionMetadataValue, newest
    ),
    /// A member of a consumer group.
    ConsumerGroupMemberMetadata(ConsumerGroupMemberMetadataKey, ConsumerGroupMemberMetadataValue, newest),
    /// The epoch of a consumer group's target assignment.
    ConsumerGroupTargetAssignmentMetadata(
        ConsumerGroupTargetAssignmentMetadataKey, ConsumerGroupTargetAssignmentMetadataValue, newest
    ),
    /// What one member shall have.
    ConsumerGroupTargetAssignmentMember(
        ConsumerGroupTargetAssignmentMemberKey, ConsumerGroupTargetAssignmentMemberValue, newest
    ),
    /// What one member has.
    ConsumerGroupCurrentMemberAssignment(
        ConsumerGroupCurrentMemberAssignmentKey, ConsumerGroupCurrentMemberAssignmentValue, newest
    ),
    /// The topics that a regular expression stands for.
    ConsumerGroupRegularExpression(
        ConsumerGroupRegularExpressionKey, ConsumerGroupRegularExpressionValue, newest
    ),
    /// A share group; this version does not serve them.
    ShareGroupMetadata(ShareGroupMetadataKey, ShareGroupMetadataValue, newest),
    /// A streams group; this version does not serve them.
    StreamsGroupMetadata(StreamsGroupMetadataKey, StreamsGroupMetadataValue, newest),
}

fn decode_value<M: Message>(bytes: Bytes) -> Result<M, DecodeError> {
    wire::decode_versioned(bytes).map(|(_, value)| value)
}

fn newest<M: Message>(_: &M) -> i16 {
    *M::VERSIONS.end()
}

/// Version 1 alone has a time of expiry (OffsetCommit before version 5 could ask for one).
fn offset_commit_version(value: &OffsetCommitValue) -> i16 {
    if value.expire_timestamp == -1 { newest(value) } else { 1 }
}

/// What Kafka 4.3 writes; it reads 4 as well.
fn group_metadata_version(_: &GroupMetadataValue) -> i16 {
    3
}

#[cfg(test)]
mod tests {
    use klamm_protocol::wire::WireStr;

    use super::*;

    fn commit(expire_timestamp: i64) -> GroupRecord {
        let key = OffsetCommitKey {
            group: WireStr::from_static("g"),
            topic: WireStr::from_static("t"),
            partition: 3,
        };
        let value = OffsetCommitValue { offset: 7, expire_timestamp, ..Default::default() };
        GroupRecord::OffsetCommit(key, Some(value))
    }

    #[test]
    fn records_survive_as_bytes() {
        for record in [commit(-1), commit(50)] {
            let (key, value) = record.encode().unwrap();
            assert_eq!(GroupRecord::decode(Some(key), value).unwrap(), Some(record));
        }
    }

    #[test]
    fn a_commit_with_an_expiry_has_the_version_that_knows_it() {
        for (expire_timestamp, version) in [(-1, 4), (50, 1)] {
            let (key, value) = commit(expire_timestamp).encode().unwrap();
            assert_eq!((&key[..2], &value.unwrap()[..2]), (&[0, 1][..], &[0, version][..]));
        }
    }

    #[test]
    fn a_tombstone_has_no_value() {
        let GroupRecord::OffsetCommit(key, _) = commit(-1) else { unreachable!() };
        let tombstone = GroupRecord::from((key, None::<OffsetCommitValue>));
        let (key, value) = tombstone.encode().unwrap();
        assert_eq!(value, None);
        assert_eq!(GroupRecord::decode(Some(key), None).unwrap(), Some(tombstone));
    }

    #[test]
    fn a_legacy_commit_is_a_commit() {
        let (key, value) = commit(-1).encode().unwrap();
        let legacy: Bytes = [&[0, 0][..], &key[2..]].concat().into();
        assert_eq!(GroupRecord::decode(Some(legacy), value).unwrap(), Some(commit(-1)));
    }

    #[test]
    fn unknown_kinds_say_nothing_and_broken_ones_are_errors() {
        assert!(GroupRecord::decode(Some(Bytes::from_static(&[0, 99, 1])), None).unwrap().is_none());
        assert!(matches!(GroupRecord::decode(None, None), Err(RecordError::NoKey)));
        let broken = GroupRecord::decode(Some(Bytes::from_static(&[0, 1, 1])), None);
        assert!(matches!(broken, Err(RecordError::Key { kind: 1, .. })));
        let (key, _) = commit(-1).encode().unwrap();
        let broken = GroupRecord::decode(Some(key), Some(Bytes::from_static(&[0, 3])));
        assert!(matches!(broken, Err(RecordError::Value { kind: 1, .. })));
    }
}
