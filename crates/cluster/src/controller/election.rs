//! How a partition changes when a broker comes or goes: leader, ISR, ELR (KIP-966).
//!
//! Invariants: the leader is in the ISR or there is none; the ISR and the ELR are disjoint;
//! without ELR the last in-sync replica stays in the ISR, so that it is known who may lead.

use std::collections::BTreeSet;

use klamm_protocol::ids::{DirectoryId, NodeId, PartitionIndex, TopicId};
use klamm_protocol::messages::metadata_records::PartitionChangeRecord;

use crate::image::{MetadataImage, NO_LEADER_CHANGE, PartitionImage, RecoveryState, TopicImage};
use crate::record::MetadataRecord;

/// What happens to the partitions of one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeEvent {
    /// It may lead again.
    Activated,
    /// It leaves the ISR and leads nothing.
    Deactivated,
    /// It stopped without saying so: what it had not flushed may be gone, so it is no longer
    /// eligible to lead.
    StoppedUncleanly,
}

/// The records by which every partition with a replica on `node` follows `event`.
pub(super) fn partition_changes(
    image: &MetadataImage,
    node: NodeId,
    event: NodeEvent,
) -> Vec<MetadataRecord> {
    partition_changes_where(image, node, event, |_| true)
}

/// The same for those of the partitions that `is_meant` picks.
pub(super) fn partition_changes_where(
    image: &MetadataImage,
    node: NodeId,
    event: NodeEvent,
    is_meant: impl Fn(&PartitionImage) -> bool,
) -> Vec<MetadataRecord> {
    let mut records = Vec::new();
    for topic in image.topics().values() {
        let mut elector = None;
        for (index, partition) in &topic.partitions {
            if partition.replicas.contains(&node) && is_meant(partition) {
                let elector = elector.get_or_insert_with(|| Elector::new(image, topic));
                let target = elector.target(partition, node, event);
                records
                    .extend(elector.record(topic.id, *index, partition, &target).map(MetadataRecord::from));
            }
        }
    }
    records
}

/// The record by which a replica on `node` lies in `directory` from now on; a partition without a leader
/// gets one if that directory is online. `None` if it lies there already.
pub(super) fn assignment_change(
    image: &MetadataImage,
    node: NodeId,
    topic: &TopicImage,
    index: PartitionIndex,
    directory: DirectoryId,
) -> Option<PartitionChangeRecord> {
    let partition = topic.partitions.get(&index)?;
    let at = partition.replicas.iter().position(|replica| *replica == node)?;
    if partition.directories[at] == directory {
        return None;
    }
    let mut placed = PartitionImage::clone(partition);
    placed.directories[at] = directory;
    let mut record =
        PartitionChangeRecord { topic_id: topic.id.0, partition_id: index.0, ..Default::default() };
    if !partition.has_leader() {
        let elector = Elector::new(image, topic);
        let target = elector.target(&placed, node, NodeEvent::Activated);
        record = elector.record(topic.id, index, &placed, &target).unwrap_or(record);
    }
    record.directories = Some(placed.directories.iter().map(|directory| directory.0).collect());
    Some(record)
}

struct Elector<'a> {
    image: &'a MetadataImage,
    keeps_elr: bool,
    min_insync_replicas: usize,
    is_unclean_allowed: bool,
}

/// What a partition shall be; the ELR follows from it.
#[derive(Clone)]
struct Target {
    leader: NodeId,
    isr: Vec<NodeId>,
    recovery_state: RecoveryState,
    /// Writes the leader although it stays, so that its epoch rises.
    raises_epoch: bool,
    /// Must not stay in the ELR.
    unclean: Option<NodeId>,
}

impl<'a> Elector<'a> {
    fn new(image: &'a MetadataImage, topic: &TopicImage) -> Self {
        let unclean = image.topic_setting(&topic.name, "unclean.leader.election.enable");
        Self {
            image,
            keeps_elr: image.has_eligible_leader_replicas(),
            min_insync_replicas: image.min_insync_replicas(&topic.name),
            is_unclean_allowed: unclean.is_some_and(|value| value.eq_ignore_ascii_case("true")),
        }
    }

    fn target(&self, partition: &PartitionImage, node: NodeId, event: NodeEvent) -> Target {
        let mut target = Target {
            leader: partition.leader,
            isr: partition.isr.clone(),
            recovery_state: partition.recovery_state,
            raises_epoch: false,
            unclean: None,
        };
        let is_online = |node| self.is_online(partition, node);
        // What lies in a directory that is offline is not there, whatever its broker does.
        let event = match event {
            NodeEvent::Activated if !is_online(node) => NodeEvent::Deactivated,
            event => event,
        };
        match event {
            NodeEvent::Activated => {
                if partition.leader == node {
                    // It led before it stopped. Another term, or (offset, epoch) pairs would
                    // repeat with other data after a power cut.
                    target.raises_epoch = true;
                } else if !partition.has_leader() {
                    let may_lead = |other| (other == node || self.image.is_active(other)) && is_online(other);
                    self.elect(partition, &may_lead, &mut target);
                }
            }
            NodeEvent::Deactivated | NodeEvent::StoppedUncleanly => {
                if event == NodeEvent::StoppedUncleanly {
                    target.unclean = Some(node);
                }
                target.isr.retain(|replica| *replica != node);
                if target.isr.is_empty() && !self.keeps_elr {
                    target.isr.clone_from(&partition.isr);
                }
                if partition.leader == node {
                    target.leader = NodeId(-1);
                    let may_lead = |other| other != node && self.image.is_active(other) && is_online(other);
                    self.elect(partition, &may_lead, &mut target);
                }
            }
        }
        target
    }

    fn is_online(&self, partition: &PartitionImage, node: NodeId) -> bool {
        let directory = partition.directory_of(node);
        self.image.broker(node).is_none_or(|broker| broker.has_online(directory))
    }

    /// Elects in the order of KIP-966: ISR, ELR, the last known leader when nothing else is
    /// known, then any live replica under the unclean policy.
    fn elect(&self, partition: &PartitionImage, may_lead: &dyn Fn(NodeId) -> bool, target: &mut Target) {
        let first = |among: &[NodeId]| {
            partition.replicas.iter().copied().find(|node| among.contains(node) && may_lead(*node))
        };
        if let Some(leader) = first(&target.isr) {
            target.leader = leader;
            return;
        }
        if let Some(leader) = first(&partition.elr) {
            target.leader = leader;
            target.isr = vec![leader];
            target.recovery_state = RecoveryState::Recovered;
            return;
        }
        let last_known = match partition.last_known_elr[..] {
            [last] if target.isr.is_empty() && partition.elr.is_empty() => Some(last),
            _ => None,
        };
        let last_known = last_known.filter(|node| may_lead(*node));
        let any = || self.is_unclean_allowed.then(|| first(&partition.replicas)).flatten();
        if let Some(leader) = last_known.or_else(any) {
            target.leader = leader;
            target.isr = vec![leader];
            target.recovery_state = RecoveryState::Recovering;
        }
    }

    fn record(
        &self,
        topic: TopicId,
        index: PartitionIndex,
        partition: &PartitionImage,
        target: &Target,
    ) -> Option<PartitionChangeRecord> {
        let (elr, last_known_elr) = self.eligible(partition, target);
        let changed =
            |from: &[NodeId], to: &[NodeId]| (from != to).then(|| to.iter().map(|id| id.0).collect());
        let is_leader_written = target.raises_epoch || partition.leader != target.leader;
        let record = PartitionChangeRecord {
            isr: changed(&partition.isr, &target.isr),
            leader: if is_leader_written { target.leader.0 } else { NO_LEADER_CHANGE },
            leader_recovery_state: if partition.recovery_state == target.recovery_state {
                -1
            } else {
                target.recovery_state.code()
            },
            eligible_leader_replicas: changed(&partition.elr, &elr),
            last_known_elr: changed(&partition.last_known_elr, &last_known_elr),
            ..PartitionChangeRecord::default()
        };
        let is_change = record != PartitionChangeRecord::default();
        is_change.then_some(PartitionChangeRecord { topic_id: topic.0, partition_id: index.0, ..record })
    }

    /// The ELR and the last known leader that belong to the target.
    fn eligible(&self, partition: &PartitionImage, target: &Target) -> (Vec<NodeId>, Vec<NodeId>) {
        if !self.keeps_elr {
            return (partition.elr.clone(), partition.last_known_elr.clone());
        }
        if target.isr.len() >= self.min_insync_replicas.min(partition.replicas.len()) {
            return (Vec::new(), Vec::new());
        }
        let isr: BTreeSet<NodeId> = target.isr.iter().copied().collect();
        let mut elr: Vec<NodeId> = partition.elr.clone();
        elr.extend(partition.isr.iter().filter(|node| !partition.elr.contains(node)));
        elr.retain(|node| !isr.contains(node) && target.unclean != Some(*node));
        // Only the moment of losing the leader says who it was.
        let lost_leader = target.isr.is_empty() && partition.has_leader();
        let last_known = if lost_leader { vec![partition.leader] } else { partition.last_known_elr.clone() };
        (elr, last_known)
    }
}
