//! What changed between two images, gathered while records are applied.
//!
//! A reader of 20,000 partitions looks at the dozen that changed. The delta names things;
//! their new state is in the image. It may name something whose state ended up the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_protocol::ids::{NodeId, PartitionIndex, TopicId};

use super::{ConfigResource, TopicImage};

/// Names of what changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataDelta {
    /// Topics that exist now and did not before.
    pub topics_created: BTreeSet<TopicId>,
    /// Topics that existed before, as they were when they went.
    pub topics_deleted: BTreeMap<TopicId, Arc<TopicImage>>,
    /// Partitions that are new or changed; those of deleted topics are not listed.
    pub partitions_changed: BTreeSet<(TopicId, PartitionIndex)>,
    /// Resources whose configuration changed.
    pub configs_changed: BTreeSet<ConfigResource>,
    /// Brokers that registered, changed or went.
    pub brokers_changed: BTreeSet<NodeId>,
    /// Controllers that registered.
    pub controllers_changed: BTreeSet<NodeId>,
    /// Some feature's level.
    pub features_changed: bool,
    /// The next block of producer ids.
    pub producer_ids_changed: bool,
    /// Some client quota.
    pub quotas_changed: bool,
    /// Some ACL.
    pub acls_changed: bool,
    /// Some SCRAM credential.
    pub scram_changed: bool,
    /// Some delegation token.
    pub tokens_changed: bool,
}

impl MetadataDelta {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn topic_created(&mut self, id: TopicId) {
        self.topics_created.insert(id);
    }

    pub(super) fn topic_deleted(&mut self, topic: Arc<TopicImage>) {
        let id = topic.id;
        self.partitions_changed.retain(|(topic, _)| *topic != id);
        // Created and deleted within one delta: nobody saw it.
        if !self.topics_created.remove(&id) {
            self.topics_deleted.insert(id, topic);
        }
    }

    /// Appends what changed after this delta.
    pub fn merge(&mut self, later: Self) {
        for topic in later.topics_deleted.into_values() {
            self.topic_deleted(topic);
        }
        self.topics_created.extend(later.topics_created);
        self.partitions_changed.extend(later.partitions_changed);
        self.configs_changed.extend(later.configs_changed);
        self.brokers_changed.extend(later.brokers_changed);
        self.controllers_changed.extend(later.controllers_changed);
        self.features_changed |= later.features_changed;
        self.producer_ids_changed |= later.producer_ids_changed;
        self.quotas_changed |= later.quotas_changed;
        self.acls_changed |= later.acls_changed;
        self.scram_changed |= later.scram_changed;
        self.tokens_changed |= later.tokens_changed;
    }
}
