//! Control records of the metadata log and its snapshots: key and value.
//!
//! A key is a version (0) and a type, both 16 bits. Unknown types are kept by number and
//! skipped, as Kafka's readers do.

use bytes::Bytes;
use klamm_protocol::ids::{DirectoryId, NodeId};
use klamm_protocol::messages::control_records::{
    Endpoint as EndpointData, KRaftVersionFeature, KRaftVersionRecord, LeaderChangeMessage,
    LeaderChangeMessageVoter, SnapshotFooterRecord, SnapshotHeaderRecord, VotersRecord, VotersRecordVoter,
};
use klamm_protocol::wire::{self, DecodeError, EncodeError, Message};

/// A control record.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlRecord {
    /// Opens a leader's epoch.
    LeaderChange(LeaderChange),
    /// Opens a snapshot.
    SnapshotHeader {
        /// The timestamp of the last record that the snapshot stands for.
        last_contained_log_timestamp_ms: i64,
    },
    /// Ends a snapshot.
    SnapshotFooter,
    /// The quorum's feature level: 0 static, 1 dynamic voters (KIP-853).
    KraftVersion(i16),
    /// The quorum's voters (KIP-853).
    KraftVoters(Vec<Voter>),
    /// A type that does not matter here.
    Other(i16),
}

/// A new leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderChange {
    /// Who leads.
    pub leader: NodeId,
    /// Who may vote.
    pub voters: Vec<NodeId>,
    /// Who did vote for it.
    pub granting_voters: Vec<NodeId>,
}

/// A voter of a dynamic quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its node id.
    pub node: NodeId,
    /// The directory of its metadata log, which is its identity.
    pub directory: DirectoryId,
    /// Its controller listeners: name, host, port.
    pub endpoints: Vec<(String, String, u16)>,
}

/// Bytes that are no control record.
#[derive(Debug, thiserror::Error)]
pub enum ControlRecordError {
    /// The key is not four bytes long.
    #[error("a control record's key is not a version and a type")]
    Key,
    /// The value is malformed.
    #[error("a malformed control record")]
    Value(#[from] DecodeError),
}

/// Levels of `kraft.version` that a voter of Kafka 4.3 supports.
const KRAFT_VERSION_MAX: i16 = 1;

const LEADER_CHANGE: i16 = 2;
const SNAPSHOT_HEADER: i16 = 3;
const SNAPSHOT_FOOTER: i16 = 4;
const KRAFT_VERSION: i16 = 5;
const KRAFT_VOTERS: i16 = 6;

impl ControlRecord {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> [u8; 4] {
        let number = match self {
            Self::LeaderChange(_) => LEADER_CHANGE,
            Self::SnapshotHeader { .. } => SNAPSHOT_HEADER,
            Self::SnapshotFooter => SNAPSHOT_FOOTER,
            Self::KraftVersion(_) => KRAFT_VERSION,
            Self::KraftVoters(_) => KRAFT_VOTERS,
            Self::Other(number) => *number,
        };
        let [high, low] = number.to_be_bytes();
        [0, 0, high, low]
    }

    /// Its value.
    ///
    /// # Errors
    /// [`EncodeError`] if a text is too long for the format.
    pub fn value(&self) -> Result<Bytes, EncodeError> {
        match self {
            Self::LeaderChange(change) => {
                let voters = |nodes: &[NodeId]| {
                    let voter = |node: &NodeId| LeaderChangeMessageVoter {
                        voter_id: node.0,
                        ..LeaderChangeMessageVoter::default()
                    };
                    nodes.iter().map(voter).collect()
                };
                encode(&LeaderChangeMessage {
                    version: 0,
                    leader_id: change.leader.0,
                    voters: voters(&change.voters),
                    granting_voters: voters(&change.granting_voters),
                })
            }
            Self::SnapshotHeader { last_contained_log_timestamp_ms } => encode(&SnapshotHeaderRecord {
                version: 0,
                last_contained_log_timestamp: *last_contained_log_timestamp_ms,
            }),
            Self::SnapshotFooter => encode(&SnapshotFooterRecord { version: 0 }),
            Self::KraftVersion(level) => encode(&KRaftVersionRecord { version: 0, kraft_version: *level }),
            Self::KraftVoters(voters) => {
                encode(&VotersRecord { version: 0, voters: voters.iter().map(Voter::to_data).collect() })
            }
            Self::Other(_) => Ok(Bytes::new()),
        }
    }

    /// Reads key and value.
    ///
    /// # Errors
    /// [`ControlRecordError`] if the bytes are not such a record.
    pub fn decode(key: &[u8], value: Bytes) -> Result<Self, ControlRecordError> {
        let [_, _, high, low] = *key else { return Err(ControlRecordError::Key) };
        let number = i16::from_be_bytes([high, low]);
        Ok(match number {
            LEADER_CHANGE => {
                let data: LeaderChangeMessage = decode(value)?;
                let nodes = |voters: &[LeaderChangeMessageVoter]| {
                    voters.iter().map(|voter| NodeId(voter.voter_id)).collect()
                };
                Self::LeaderChange(LeaderChange {
                    leader: NodeId(data.leader_id),
                    voters: nodes(&data.voters),
                    granting_voters: nodes(&data.granting_voters),
                })
            }
            SNAPSHOT_HEADER => {
                let data: SnapshotHeaderRecord = decode(value)?;
                Self::SnapshotHeader { last_contained_log_timestamp_ms: data.last_contained_log_timestamp }
            }
            SNAPSHOT_FOOTER => {
                decode::<SnapshotFooterRecord>(value)?;
                Self::SnapshotFooter
            }
            KRAFT_VERSION => Self::KraftVersion(decode::<KRaftVersionRecord>(value)?.kraft_version),
            KRAFT_VOTERS => {
                let data: VotersRecord = decode(value)?;
                Self::KraftVoters(data.voters.iter().map(Voter::from_data).collect())
            }
            other => Self::Other(other),
        })
    }
}

impl Voter {
    fn to_data(&self) -> VotersRecordVoter {
        VotersRecordVoter {
            voter_id: self.node.0,
            voter_directory_id: self.directory.0,
            endpoints: self
                .endpoints
                .iter()
                .map(|(name, host, port)| EndpointData {
                    name: name.clone().into(),
                    host: host.clone().into(),
                    port: *port,
                })
                .collect(),
            kraft_version_feature: KRaftVersionFeature {
                min_supported_version: 0,
                max_supported_version: KRAFT_VERSION_MAX,
            },
        }
    }

    fn from_data(data: &VotersRecordVoter) -> Self {
        Self {
            node: NodeId(data.voter_id),
            directory: DirectoryId(data.voter_directory_id),
            endpoints: data
                .endpoints
                .iter()
                .map(|endpoint| (endpoint.name.to_string(), endpoint.host.to_string(), endpoint.port))
                .collect(),
        }
    }
}

fn encode<M: Message>(data: &M) -> Result<Bytes, EncodeError> {
    wire::encode_data(data, 0)
}

/// Reads a control record's value; its first field is the version to read it in.
fn decode<M: Message>(value: Bytes) -> Result<M, DecodeError> {
    let version = value.first_chunk().map_or(0, |bytes| i16::from_be_bytes(*bytes));
    wire::decode_data(value, version)
}
