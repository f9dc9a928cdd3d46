//! The records of the metadata log: every kind of Kafka 4.3.1, and the framing of a value.
//!
//! A record's value is a frame version (1), the record's api key, its version, each an
//! unsigned varint, and the body. Control records (leader changes, snapshot headers,
//! voters) are not metadata records: see [`crate::metadata_log`].
//!
//! Invariants: an unknown kind or version is an error, never skipped, because whoever wrote
//! it relied on it; `Debug` shows no secret.

use std::fmt;

use bytes::{Buf, Bytes};
use klamm_protocol::messages::metadata_records::{
    AbortTransactionRecord, AccessControlEntryRecord, BeginTransactionRecord, BrokerRegistrationChangeRecord,
    ClearElrRecord, ClientQuotaRecord, ConfigRecord, DelegationTokenRecord, EndTransactionRecord,
    FeatureLevelRecord, FenceBrokerRecord, NoOpRecord, PartitionChangeRecord, PartitionRecord,
    ProducerIdsRecord, RegisterBrokerRecord, RegisterControllerRecord, RemoveAccessControlEntryRecord,
    RemoveDelegationTokenRecord, RemoveTopicRecord, RemoveUserScramCredentialRecord, TopicRecord,
    UnfenceBrokerRecord, UnregisterBrokerRecord, UserScramCredentialRecord, ZkMigrationStateRecord,
};
use klamm_protocol::wire::{self, DecodeError, EncodeError, Message};

use crate::features::MetadataVersion;

/// The framing's own version; Kafka writes 1 and nothing else.
pub const FRAME_VERSION: u32 = 1;

/// Why a record's value does not decode.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record has no value.
    #[error("a metadata record without a value")]
    NoValue,
    /// The frame breaks off or a number in it is malformed.
    #[error("a malformed metadata record frame")]
    MalformedFrame,
    /// Another frame version.
    #[error("metadata record frame version {0}; this build reads {FRAME_VERSION}")]
    UnknownFrameVersion(u32),
    /// A kind of record which this build does not know.
    #[error("unknown metadata record: api key {api_key}, version {version}")]
    UnknownKind {
        /// The record's api key.
        api_key: u32,
        /// The record's version.
        version: u32,
    },
    /// A version which this build does not know.
    #[error("{name} version {version} is unknown to this build")]
    UnknownVersion {
        /// The record's name.
        name: &'static str,
        /// The record's version.
        version: u32,
    },
    /// The body is malformed.
    #[error("a malformed {name}")]
    Body {
        /// The record's name.
        name: &'static str,
        /// What is wrong with it.
        source: DecodeError,
    },
}

macro_rules! metadata_records {
    ($($(#[$doc:meta])* $variant:ident($record:ident),)*) => {
        /// One record of the metadata log.
        #[derive(Clone, PartialEq)]
        pub enum MetadataRecord {
            $($(#[$doc])* $variant($record),)*
        }

        impl MetadataRecord {
            /// Kafka's number of this kind of record.
            #[must_use]
            pub fn api_key(&self) -> i16 {
                match self { $(Self::$variant(_) => $record::API_KEY,)* }
            }

            /// Kafka's name of this kind of record.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($record),)* }
            }

            fn decode_body(api_key: u32, version: u32, body: Bytes) -> Result<Self, RecordError> {
                match i16::try_from(api_key) {
                    $(Ok($record::API_KEY) => {
                        decode_message::<$record>(stringify!($record), version, body).map(Self::$variant)
                    })*
                    _ => Err(RecordError::UnknownKind { api_key, version }),
                }
            }

            fn fmt_plainly(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$variant(record) => fmt::Debug::fmt(record, f),)* }
            }

            fn encode_body(&self, version: i16) -> Result<Bytes, EncodeError> {
                match self { $(Self::$variant(record) => wire::encode_data(record, version),)* }
            }
        }

        $(impl From<$record> for MetadataRecord {
            fn from(record: $record) -> Self {
                Self::$variant(record)
            }
        })*
    };
}

metadata_records! {
    /// A broker registers; the record's offset is its epoch.
    RegisterBroker(RegisterBrokerRecord),
    /// A broker leaves the cluster for good.
    UnregisterBroker(UnregisterBrokerRecord),
    /// A topic appears, without partitions yet.
    Topic(TopicRecord),
    /// A partition appears.
    Partition(PartitionRecord),
    /// A configuration value is set or, without a value, removed.
    Config(ConfigRecord),
    /// Parts of a partition's state change.
    PartitionChange(PartitionChangeRecord),
    /// A broker is fenced, as written before `BrokerRegistrationChangeRecord` existed.
    FenceBroker(FenceBrokerRecord),
    /// A broker is unfenced, as written before `BrokerRegistrationChangeRecord` existed.
    UnfenceBroker(UnfenceBrokerRecord),
    /// A topic disappears with its partitions and configuration.
    RemoveTopic(RemoveTopicRecord),
    /// A delegation token is issued or renewed (KIP-48).
    DelegationToken(DelegationTokenRecord),
    /// A SCRAM credential is set (KIP-554).
    UserScramCredential(UserScramCredentialRecord),
    /// A feature's level is finalized (KIP-584).
    FeatureLevel(FeatureLevelRecord),
    /// A client quota is set or removed (KIP-546).
    ClientQuota(ClientQuotaRecord),
    /// Producer ids up to a number are given out.
    ProducerIds(ProducerIdsRecord),
    /// A broker's registration changes: fenced, shutting down, log directories.
    BrokerRegistrationChange(BrokerRegistrationChangeRecord),
    /// An ACL appears.
    AccessControlEntry(AccessControlEntryRecord),
    /// An ACL disappears.
    RemoveAccessControlEntry(RemoveAccessControlEntryRecord),
    /// Nothing; Kafka writes it to see the log advance.
    NoOp(NoOpRecord),
    /// The state of a migration from ZooKeeper; read and skipped.
    ZkMigrationState(ZkMigrationStateRecord),
    /// A SCRAM credential is removed.
    RemoveUserScramCredential(RemoveUserScramCredentialRecord),
    /// A metadata transaction begins (KIP-866).
    BeginTransaction(BeginTransactionRecord),
    /// A metadata transaction takes effect.
    EndTransaction(EndTransactionRecord),
    /// A metadata transaction is undone.
    AbortTransaction(AbortTransactionRecord),
    /// A delegation token is removed.
    RemoveDelegationToken(RemoveDelegationTokenRecord),
    /// A controller registers (KIP-919).
    RegisterController(RegisterControllerRecord),
    /// Eligible leader replicas are forgotten, of one topic or of all (KIP-966).
    ClearElr(ClearElrRecord),
}

impl MetadataRecord {
    /// The version to write while `metadata_version` is finalized: the newest that the level
    /// allows, or for a registration change the oldest that carries it, both as Kafka does.
    #[must_use]
    pub fn version(&self, metadata_version: MetadataVersion) -> i16 {
        match self {
            Self::RegisterBroker(_) => metadata_version.register_broker_record_version(),
            Self::Partition(_) | Self::PartitionChange(_) => metadata_version.partition_record_version(),
            Self::BrokerRegistrationChange(change) => registration_change_version(change),
            _ => 0,
        }
    }

    /// The record's value, framed, in the version that `metadata_version` allows.
    ///
    /// # Errors
    /// [`EncodeError`] if the record holds what that version cannot carry.
    pub fn encode(&self, metadata_version: MetadataVersion) -> Result<Vec<u8>, EncodeError> {
        let version = self.version(metadata_version);
        let body = self.encode_body(version)?;
        let mut value = Vec::with_capacity(body.len() + 3);
        write_varint(FRAME_VERSION, &mut value);
        // Both are small and positive.
        write_varint(u32::from(self.api_key().unsigned_abs()), &mut value);
        write_varint(u32::from(version.unsigned_abs()), &mut value);
        value.extend_from_slice(&body);
        Ok(value)
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`RecordError`] if it is malformed or of a kind or version that is unknown.
    pub fn decode(value: Option<Bytes>) -> Result<Self, RecordError> {
        let mut value = value.ok_or(RecordError::NoValue)?;
        let frame_version = read_varint(&mut value)?;
        if frame_version != FRAME_VERSION {
            return Err(RecordError::UnknownFrameVersion(frame_version));
        }
        let api_key = read_varint(&mut value)?;
        let version = read_varint(&mut value)?;
        Self::decode_body(api_key, version, value)
    }
}

impl fmt::Debug for MetadataRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserScramCredential(record) => f
                .debug_struct("UserScramCredentialRecord")
                .field("name", &record.name)
                .field("mechanism", &record.mechanism)
                .finish_non_exhaustive(),
            Self::DelegationToken(record) => f
                .debug_struct("DelegationTokenRecord")
                .field("token_id", &record.token_id)
                .field("owner", &record.owner)
                .finish_non_exhaustive(),
            // Broker configuration holds passwords; which keys do is not this module's business.
            Self::Config(record) if record.resource_type == BROKER_RESOURCE => f
                .debug_struct("ConfigRecord")
                .field("resource_type", &record.resource_type)
                .field("resource_name", &record.resource_name)
                .field("name", &record.name)
                .field("has_value", &record.value.is_some())
                .finish_non_exhaustive(),
            _ => self.fmt_plainly(f),
        }
    }
}

/// `ConfigRecord::resource_type` of a broker.
const BROKER_RESOURCE: i8 = 4;

fn registration_change_version(change: &BrokerRegistrationChangeRecord) -> i16 {
    if change.cordoned_log_dirs.is_some() {
        3
    } else if !change.log_dirs.is_empty() {
        2
    } else if change.in_controlled_shutdown != 0 {
        1
    } else {
        0
    }
}

fn decode_message<M: Message>(name: &'static str, version: u32, body: Bytes) -> Result<M, RecordError> {
    let known = i16::try_from(version).ok().filter(|version| M::VERSIONS.contains(version));
    let version = known.ok_or(RecordError::UnknownVersion { name, version })?;
    wire::decode_data(body, version).map_err(|source| RecordError::Body { name, source })
}

fn write_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(from: &mut Bytes) -> Result<u32, RecordError> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        if from.is_empty() {
            return Err(RecordError::MalformedFrame);
        }
        let byte = from.get_u8();
        if shift == 28 && byte > 0x0f {
            return Err(RecordError::MalformedFrame);
        }
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(RecordError::MalformedFrame)
}
