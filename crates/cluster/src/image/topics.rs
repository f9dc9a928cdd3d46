//! Topics and the state of their partitions.

use std::sync::Arc;

use imbl::OrdMap;
use klamm_protocol::ids::{DirectoryId, LeaderEpoch, NodeId, PartitionIndex, TopicId, Uuid};
use klamm_protocol::messages::metadata_records::{PartitionChangeRecord, PartitionRecord};

/// `PartitionChangeRecord::leader` when the leader stays and keeps its epoch.
pub(crate) const NO_LEADER_CHANGE: i32 = -2;

/// One topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicImage {
    /// Its identity (KIP-516).
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions, numbered from 0 without a gap.
    pub partitions: OrdMap<PartitionIndex, Arc<PartitionImage>>,
}

/// One partition. Replica sets are vectors, because their order is preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// All replicas, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// The log directory of each replica, in the order of `replicas` (KIP-858).
    pub directories: Vec<DirectoryId>,
    /// In-sync replicas.
    pub isr: Vec<NodeId>,
    /// Eligible leader replicas (KIP-966).
    pub elr: Vec<NodeId>,
    /// The last leader before the partition lost all of them (KIP-966).
    pub last_known_elr: Vec<NodeId>,
    /// Replicas which a reassignment removes.
    pub removing_replicas: Vec<NodeId>,
    /// Replicas which a reassignment adds.
    pub adding_replicas: Vec<NodeId>,
    /// The leader; -1 is "none".
    pub leader: NodeId,
    /// Whether the leader was elected uncleanly and has not yet recovered (KIP-704).
    pub recovery_state: RecoveryState,
    /// Rises whenever a leader is written, even the same.
    pub leader_epoch: LeaderEpoch,
    /// Rises with every change.
    pub partition_epoch: i32,
}

/// A leader's recovery after an unclean election (KIP-704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryState {
    /// Elected from the in-sync or eligible replicas, or recovered since.
    #[default]
    Recovered,
    /// Elected uncleanly.
    Recovering,
}

impl RecoveryState {
    /// Kafka's number.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            Self::Recovered => 0,
            Self::Recovering => 1,
        }
    }

    fn from_code(code: i8) -> Self {
        if code == 1 { Self::Recovering } else { Self::Recovered }
    }
}

impl PartitionImage {
    /// Whether a leader is elected.
    #[must_use]
    pub fn has_leader(&self) -> bool {
        self.leader.0 >= 0
    }

    /// The directory of a replica's log; unassigned if it is none or has none.
    #[must_use]
    pub fn directory_of(&self, node: NodeId) -> DirectoryId {
        let at = self.replicas.iter().position(|replica| *replica == node);
        at.and_then(|at| self.directories.get(at)).copied().unwrap_or(DirectoryId::UNASSIGNED)
    }

    pub(super) fn from_record(record: &PartitionRecord) -> Self {
        let replicas = nodes(&record.replicas);
        Self {
            directories: directories_for(&replicas, &record.directories),
            replicas,
            isr: nodes(&record.isr),
            elr: nodes(record.eligible_leader_replicas.as_deref().unwrap_or_default()),
            last_known_elr: nodes(record.last_known_elr.as_deref().unwrap_or_default()),
            removing_replicas: nodes(&record.removing_replicas),
            adding_replicas: nodes(&record.adding_replicas),
            leader: NodeId(record.leader),
            recovery_state: RecoveryState::from_code(record.leader_recovery_state),
            leader_epoch: LeaderEpoch(record.leader_epoch),
            partition_epoch: record.partition_epoch,
        }
    }

    pub(super) fn changed_by(&self, record: &PartitionChangeRecord) -> Self {
        let mut changed = self.clone();
        if let Some(replicas) = &record.replicas {
            changed.replicas = nodes(replicas);
            changed.directories = directories_for(&changed.replicas, &[]);
            for (replica, directory) in changed.replicas.iter().zip(&mut changed.directories) {
                *directory = self.directory_of(*replica);
            }
        }
        if let Some(directories) = &record.directories {
            changed.directories = directories_for(&changed.replicas, directories);
        }
        let set = |of: &mut Vec<NodeId>, to: &Option<Vec<i32>>| {
            if let Some(to) = to {
                *of = nodes(to);
            }
        };
        set(&mut changed.isr, &record.isr);
        set(&mut changed.elr, &record.eligible_leader_replicas);
        set(&mut changed.last_known_elr, &record.last_known_elr);
        set(&mut changed.removing_replicas, &record.removing_replicas);
        set(&mut changed.adding_replicas, &record.adding_replicas);
        if record.leader != NO_LEADER_CHANGE {
            changed.leader = NodeId(record.leader);
            changed.leader_epoch = LeaderEpoch(self.leader_epoch.0.saturating_add(1));
        }
        if record.leader_recovery_state >= 0 {
            changed.recovery_state = RecoveryState::from_code(record.leader_recovery_state);
        }
        changed.partition_epoch = self.partition_epoch.saturating_add(1);
        changed
    }
}

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// One directory per replica: those of a record before KIP-858 are unknown.
fn directories_for(replicas: &[NodeId], ids: &[Uuid]) -> Vec<DirectoryId> {
    if ids.len() == replicas.len() {
        ids.iter().copied().map(DirectoryId).collect()
    } else {
        vec![DirectoryId::MIGRATING; replicas.len()]
    }
}
