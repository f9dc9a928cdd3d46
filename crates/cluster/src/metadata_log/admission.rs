//! Whether this build may lead the cluster that a directory describes.
//!
//! Asked at start, before the first write: what is refused stays as it was. Leading means to
//! decide for the whole cluster, so whoever else might decide, and whatever this build would
//! silently do otherwise than the cluster was told, ends the start.

use klamm_protocol::ids::{DirectoryId, NodeId};

use super::quorum::Quorum;
use crate::features::{FeatureError, KRAFT_VERSION, check_level};
use crate::image::{ConfigResourceType, MetadataImage};

/// The topic setting that moves segments to another store (KIP-405).
const REMOTE_STORAGE: &str = "remote.storage.enable";

/// Why this build does not lead the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Others vote.
    #[error(
        "the quorum has the voters {}; one node alone is served: with Kafka, remove all but node {own} first",
        list(.voters)
    )]
    Voters {
        /// All of them.
        voters: Vec<NodeId>,
        /// This node.
        own: NodeId,
    },
    /// The voter is this node, with another directory.
    #[error(
        "the quorum's voter {own} keeps its metadata in directory {voter}, and this is {found}: \
         name the voter's own directory in metadata.log.dir or first in log.dirs"
    )]
    OtherDirectory {
        /// This node.
        own: NodeId,
        /// As the quorum has it.
        voter: DirectoryId,
        /// As `meta.properties` has it.
        found: DirectoryId,
    },
    /// Another broker belongs to the cluster.
    #[error(
        "broker {other} is registered beside node {own}; one node alone is served: with Kafka, move its \
         partitions away and unregister it (kafka-cluster.sh unregister --id {other})"
    )]
    OtherBroker {
        /// That broker.
        other: NodeId,
        /// This node.
        own: NodeId,
    },
    /// A topic has records elsewhere.
    #[error(
        "the topic {topic} has {REMOTE_STORAGE}=true, and remote storage is not served: with Kafka, bring it \
         back or delete the topic"
    )]
    RemoteStorage {
        /// Its name.
        topic: String,
    },
    /// Rules that nobody would enforce.
    #[error(
        "the cluster has {count} ACLs, and no authorizer is served: everybody could do everything; with Kafka, \
         remove them (kafka-acls.sh --remove) if that is meant"
    )]
    Acls {
        /// How many.
        count: usize,
    },
    /// A feature, or its level.
    #[error("{0}; start the version that wrote it, or a newer one")]
    Feature(#[from] FeatureError),
}

/// Accepts the cluster of `quorum` and `image` for the node `own`, whose metadata lies in the
/// directory `directory`.
///
/// # Errors
/// [`Refusal`], the first there is.
pub fn admit(
    quorum: &Quorum,
    image: &MetadataImage,
    own: NodeId,
    directory: DirectoryId,
) -> Result<(), Refusal> {
    check_level(KRAFT_VERSION, quorum.kraft_version.unwrap_or(0))?;
    for (name, level) in image.features() {
        check_level(name, *level)?;
    }
    let voters = match &quorum.voters {
        Some(voters) => voters.iter().map(|voter| voter.node).collect(),
        None => quorum.electorate.clone(),
    };
    // Of a static quorum that never elected anybody, only configuration knows the voters.
    let is_alone = voters == [own] || (voters.is_empty() && !quorum.is_dynamic());
    if !is_alone {
        return Err(Refusal::Voters { voters, own });
    }
    if let Some([voter]) = quorum.voters.as_deref()
        && voter.directory != directory
    {
        return Err(Refusal::OtherDirectory { own, voter: voter.directory, found: directory });
    }
    if let Some(other) = image.brokers().keys().copied().find(|broker| *broker != own) {
        return Err(Refusal::OtherBroker { other, own });
    }
    for (resource, values) in image.configs() {
        let is_remote = values.get(REMOTE_STORAGE).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if is_remote && resource.resource_type == ConfigResourceType::Topic {
            return Err(Refusal::RemoteStorage { topic: resource.name.to_string() });
        }
    }
    match image.acls().len() {
        0 => Ok(()),
        count => Err(Refusal::Acls { count }),
    }
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use klamm_protocol::ids::{Offset, Uuid};
    use klamm_protocol::messages::metadata_records::{
        AccessControlEntryRecord, ConfigRecord, FeatureLevelRecord, RegisterBrokerRecord, TopicRecord,
        UnregisterBrokerRecord,
    };

    use super::*;
    use crate::metadata_log::control::Voter;
    use crate::record::MetadataRecord;
    use crate::snapshot::image_of;

    const OWN: NodeId = NodeId(1);
    const DIRECTORY: DirectoryId = DirectoryId(Uuid(100));

    fn voter(node: i32, directory: u128) -> Voter {
        Voter { node: NodeId(node), directory: DirectoryId(Uuid(directory)), endpoints: Vec::new() }
    }

    fn of_records(records: &[MetadataRecord]) -> Result<(), Refusal> {
        admit(&Quorum::dynamic(voter(1, 100)), &image_of(Offset(9), records), OWN, DIRECTORY)
    }

    fn of_quorum(kraft_version: i16, voters: Option<Vec<Voter>>, electorate: &[i32]) -> Result<(), Refusal> {
        let electorate = electorate.iter().copied().map(NodeId).collect();
        let quorum = Quorum { kraft_version: Some(kraft_version), voters, electorate };
        admit(&quorum, &MetadataImage::default(), OWN, DIRECTORY)
    }

    #[test]
    fn one_voter_is_admitted_in_both_layouts() {
        assert_eq!(of_quorum(1, Some(vec![voter(1, 100)]), &[1]), Ok(()));
        assert_eq!(of_quorum(0, None, &[1]), Ok(()));
        assert_eq!(of_quorum(0, None, &[]), Ok(()));
        assert_eq!(of_records(&[]), Ok(()));
    }

    #[test]
    fn another_voter_another_directory_or_an_unknown_layout_is_refused() {
        let both = vec![NodeId(1), NodeId(2)];
        let refused = Err(Refusal::Voters { voters: both, own: OWN });
        assert_eq!(of_quorum(1, Some(vec![voter(1, 100), voter(2, 7)]), &[1]), refused);
        assert_eq!(of_quorum(0, None, &[1, 2]), refused);
        let refused = Err(Refusal::Voters { voters: vec![NodeId(2)], own: OWN });
        assert_eq!(of_quorum(0, None, &[2]), refused);
        assert!(matches!(of_quorum(1, None, &[]), Err(Refusal::Voters { .. })));
        let other = of_quorum(1, Some(vec![voter(1, 7)]), &[1]);
        assert!(matches!(other, Err(Refusal::OtherDirectory { .. })), "{other:?}");
        assert!(matches!(of_quorum(2, None, &[1]), Err(Refusal::Feature(_))));
    }

    #[test]
    fn what_would_be_done_otherwise_than_told_is_refused() {
        let broker = |broker_id| RegisterBrokerRecord { broker_id, ..Default::default() }.into();
        let refused = Err(Refusal::OtherBroker { other: NodeId(2), own: OWN });
        assert_eq!(of_records(&[broker(1)]), Ok(()));
        assert_eq!(of_records(&[broker(1), broker(2)]), refused);
        let gone = UnregisterBrokerRecord { broker_id: 2, ..Default::default() }.into();
        assert_eq!(of_records(&[broker(1), broker(2), gone]), Ok(()));

        let topic = TopicRecord { name: "t".into(), topic_id: Uuid(5) };
        let remote = |value: &str| {
            let config = ConfigRecord {
                resource_type: 2,
                resource_name: "t".into(),
                name: REMOTE_STORAGE.into(),
                value: Some(value.to_owned().into()),
            };
            of_records(&[topic.clone().into(), config.into()])
        };
        assert_eq!(remote("false"), Ok(()));
        assert_eq!(remote("true"), Err(Refusal::RemoteStorage { topic: "t".to_owned() }));

        let acl = AccessControlEntryRecord { id: Uuid(3), ..Default::default() };
        assert_eq!(of_records(&[acl.into()]), Err(Refusal::Acls { count: 1 }));

        let level = |name: &str, feature_level| {
            of_records(&[FeatureLevelRecord { name: name.to_owned().into(), feature_level }.into()])
        };
        assert!(matches!(level("metadata.version", 31), Err(Refusal::Feature(_))));
        assert!(matches!(level("later.version", 1), Err(Refusal::Feature(_))));
        assert_eq!(level("metadata.version", 7), Ok(()));
    }
}
