//! The quorum as a metadata log describes it: its layout, and who votes.
//!
//! A static quorum (`kraft.version` 0) is named in configuration; the log repeats its voters
//! only in LeaderChange, `quorum-state` in `currentVoters`. A dynamic one (`kraft.version` 1,
//! KIP-853) stands in control records of the log and its snapshots. A layout is kept as it is
//! found.

use klamm_protocol::ids::NodeId;

use super::checkpoint::Checkpoint;
use super::control::{ControlRecord, Voter};

/// A quorum, as far as its control records were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// The level of `kraft.version`; none says as much as 0.
    pub kraft_version: Option<i16>,
    /// The voters of a dynamic quorum.
    pub voters: Option<Vec<Voter>>,
    /// Who could vote when the latest leader was elected.
    pub electorate: Vec<NodeId>,
}

impl Quorum {
    /// As a snapshot has it.
    #[must_use]
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Self {
        Self {
            kraft_version: checkpoint.kraft_version,
            voters: checkpoint.voters.clone(),
            electorate: Vec::new(),
        }
    }

    /// A dynamic quorum of one, as a directory of our own begins (docs/adr/0001).
    #[must_use]
    pub fn dynamic(voter: Voter) -> Self {
        Self { kraft_version: Some(1), voters: Some(vec![voter]), electorate: Vec::new() }
    }

    /// Takes in a control record of the log.
    pub fn take_in(&mut self, record: &ControlRecord) {
        match record {
            ControlRecord::KraftVersion(version) => self.kraft_version = Some(*version),
            ControlRecord::KraftVoters(voters) => self.voters = Some(voters.clone()),
            ControlRecord::LeaderChange(change) => self.electorate.clone_from(&change.voters),
            ControlRecord::SnapshotHeader { .. }
            | ControlRecord::SnapshotFooter
            | ControlRecord::Other(_) => {}
        }
    }

    /// Whether the voters stand in the log (KIP-853).
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.kraft_version.unwrap_or(0) >= 1
    }
}
