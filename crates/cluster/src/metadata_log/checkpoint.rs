//! Snapshot files: `<end offset>-<epoch>.checkpoint`, and `bootstrap.checkpoint`.
//!
//! A header control batch, metadata batches, a footer control batch. Offsets inside count
//! from 0 and mean nothing; the name says what the snapshot stands for. A dynamic quorum's
//! snapshot carries `kraft.version` and the voters beside its header.

use bytes::Bytes;
use klamm_protocol::ids::{LeaderEpoch, Offset};
use klamm_protocol::time::WallMs;
use klamm_protocol::wire::EncodeError;

use super::batches::{BatchContent, BatchDecodeError, decode_batches, encode_control, encode_records};
use super::control::{ControlRecord, Voter};
use crate::features::MetadataVersion;
use crate::record::MetadataRecord;

/// The file that formatting leaves for the first start.
pub const BOOTSTRAP_CHECKPOINT: &str = "bootstrap.checkpoint";

/// What a snapshot stands for: everything below `end_offset`, whose last record is of `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointId {
    /// The offset behind the last record it stands for.
    pub end_offset: Offset,
    /// That record's epoch.
    pub epoch: LeaderEpoch,
}

impl CheckpointId {
    /// The file's name.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{:020}-{:010}.checkpoint", self.end_offset.0, self.epoch.0)
    }

    /// From a file's name; `None` for other files, such as unfinished snapshots.
    #[must_use]
    pub fn parse(file_name: &str) -> Option<Self> {
        let (end_offset, epoch) = file_name.strip_suffix(".checkpoint")?.split_once('-')?;
        let is_number = |text: &str, digits| text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(end_offset, 20) || !is_number(epoch, 10) {
            return None;
        }
        Some(Self { end_offset: Offset(end_offset.parse().ok()?), epoch: LeaderEpoch(epoch.parse().ok()?) })
    }
}

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// The timestamp of the last record it stands for.
    pub last_contained_log_timestamp_ms: i64,
    /// The level of `kraft.version`; `None` in `bootstrap.checkpoint`.
    pub kraft_version: Option<i16>,
    /// The voters of a dynamic quorum.
    pub voters: Option<Vec<Voter>>,
    /// The image's records.
    pub records: Vec<MetadataRecord>,
}

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Its bytes.
    #[error("the snapshot is malformed")]
    Batch(#[from] BatchDecodeError),
    /// It does not begin with its header.
    #[error("the snapshot has no header")]
    NoHeader,
    /// It does not end with its footer.
    #[error("the snapshot has no footer: it was not written to its end")]
    NoFooter,
}

impl Checkpoint {
    /// The file's bytes. Batches carry `epoch`, which is 0 in `bootstrap.checkpoint`.
    ///
    /// # Errors
    /// [`EncodeError`] if a record holds what `metadata_version` cannot carry.
    pub fn encode(
        &self,
        epoch: LeaderEpoch,
        now: WallMs,
        metadata_version: MetadataVersion,
    ) -> Result<Vec<Bytes>, EncodeError> {
        let mut header = vec![ControlRecord::SnapshotHeader {
            last_contained_log_timestamp_ms: self.last_contained_log_timestamp_ms,
        }];
        header.extend(self.kraft_version.map(ControlRecord::KraftVersion));
        header.extend(self.voters.clone().map(ControlRecord::KraftVoters));
        let header = encode_control(Offset(0), epoch, now, &header)?;
        let mut next = header.end_offset;
        let mut bytes = vec![header.bytes];
        for batch in encode_records(next, epoch, now, metadata_version, &self.records)? {
            next = batch.end_offset;
            bytes.push(batch.bytes);
        }
        bytes.push(encode_control(next, epoch, now, &[ControlRecord::SnapshotFooter])?.bytes);
        Ok(bytes)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`CheckpointError`] unless it is whole and every record in it is known.
    pub fn decode(file: &Bytes) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::default();
        let mut has_header = false;
        let mut has_footer = false;
        for batch in decode_batches(file) {
            let batch = batch?;
            if has_footer {
                return Err(CheckpointError::NoFooter);
            }
            match batch.content {
                BatchContent::Control(records) => {
                    for (_, record) in records {
                        match record {
                            ControlRecord::SnapshotHeader { last_contained_log_timestamp_ms } => {
                                has_header = true;
                                checkpoint.last_contained_log_timestamp_ms = last_contained_log_timestamp_ms;
                            }
                            ControlRecord::SnapshotFooter => has_footer = true,
                            ControlRecord::KraftVersion(level) => checkpoint.kraft_version = Some(level),
                            ControlRecord::KraftVoters(voters) => checkpoint.voters = Some(voters),
                            ControlRecord::LeaderChange(_) | ControlRecord::Other(_) => {}
                        }
                    }
                }
                BatchContent::Records(records) => {
                    checkpoint.records.extend(records.into_iter().map(|(_, record)| record));
                }
            }
            if !has_header {
                return Err(CheckpointError::NoHeader);
            }
        }
        match (has_header, has_footer) {
            (false, _) => Err(CheckpointError::NoHeader),
            (true, false) => Err(CheckpointError::NoFooter),
            (true, true) => Ok(checkpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas() {
        let id = CheckpointId { end_offset: Offset(75), epoch: LeaderEpoch(3) };
        assert_eq!(id.file_name(), "00000000000000000075-0000000003.checkpoint");
        assert_eq!(CheckpointId::parse(&id.file_name()), Some(id));
        for other in
            ["bootstrap.checkpoint", "00000000000000000075-0000000003.checkpoint.part", "1-1.checkpoint"]
        {
            assert_eq!(CheckpointId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_snapshot_that_was_cut_is_refused() {
        let whole = Checkpoint { kraft_version: Some(1), ..Checkpoint::default() };
        let parts = whole.encode(LeaderEpoch(1), WallMs(5), MetadataVersion::LATEST).unwrap();
        let file = Bytes::from(parts.concat());
        assert_eq!(Checkpoint::decode(&file).unwrap(), whole);
        let headless = parts.last().unwrap().clone();
        assert!(matches!(Checkpoint::decode(&headless), Err(CheckpointError::NoHeader)));
        assert!(matches!(Checkpoint::decode(&parts[0]), Err(CheckpointError::NoFooter)));
        assert!(Checkpoint::decode(&file.slice(..file.len() - 1)).is_err());
        assert!(matches!(Checkpoint::decode(&Bytes::new()), Err(CheckpointError::NoHeader)));
    }
}
