//! Makes this broker's partitions and configurations follow the metadata.
//!
//! Called by the controller's host with each new image and what changed in it. File
//! work runs where it may block; the index of topics is published at the end, so that
//! a client which was told of a topic finds it.
//!
//! **Invariants:** one task calls it; a partition's directory exists durably before the
//! partition is published; a topic that cannot be opened is published as offline.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use klamm_cluster::config::{ConfigLayers, Durability, TopicConfig};
use klamm_cluster::image::{
    ConfigResource, ConfigResourceType, MetadataDelta, MetadataImage, PartitionImage, TopicImage,
};
use klamm_log::{AppendError, LogConfig};
use klamm_protocol::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicId, Uuid};

use super::error::MetadataError;
use crate::coordinator::BrokerCoordinators;
use crate::host::{Host, Pool};
use crate::log_dirs::{LogDirs, Marked, Wanted};
use crate::partition::registry::{Topic, TopicIndex};
use crate::partition::{FlushPolicy, Partition};
use crate::topic_names::is_internal;
use crate::transactions;

/// What every part of the broker reads, and only the applier writes.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) image: Arc<ArcSwap<MetadataImage>>,
    pub(crate) topics: Arc<ArcSwap<TopicIndex>>,
    pub(crate) layers: Arc<ArcSwap<ConfigLayers>>,
}

/// The applier.
pub(crate) struct Applier<H: Host> {
    host: H,
    node: NodeId,
    dirs: Arc<LogDirs>,
    published: Published,
    coordinators: Arc<BrokerCoordinators<H>>,
}

impl<H: Host> Applier<H> {
    pub(crate) fn new(
        host: H,
        node: NodeId,
        dirs: Arc<LogDirs>,
        published: Published,
        coordinators: Arc<BrokerCoordinators<H>>,
    ) -> Self {
        Self { host, node, dirs, published, coordinators }
    }

    /// Follows from nothing to `image`: at start.
    pub(crate) async fn load(&self, image: &MetadataImage) {
        let delta = MetadataDelta {
            topics_created: image.topics().keys().copied().collect(),
            configs_changed: image.configs().keys().cloned().collect(),
            ..Default::default()
        };
        self.apply(image, &delta).await;
    }

    /// The metadata log could not be written: its directory may have failed.
    pub(crate) fn metadata_failed(&self, error: &MetadataError) {
        match error {
            MetadataError::Log(error) => self.dirs.note_metadata_error(error),
            MetadataError::Append(AppendError::Storage(error)) => self.dirs.note_metadata_error(error),
            _ => {}
        }
    }

    /// Follows to `image`, in which `delta` changed.
    pub(crate) async fn apply(&self, image: &MetadataImage, delta: &MetadataDelta) {
        self.apply_configs(image, delta).await;
        let mut index = TopicIndex::clone(&self.published.topics.load());
        for id in delta.topics_deleted.keys() {
            if let Some(topic) = index.remove(*id) {
                // Out of sight first: nobody finds it while its files go.
                self.published.topics.store(Arc::new(index.clone()));
                self.delete(&topic).await;
            }
        }
        let mut by_topic: BTreeMap<TopicId, Vec<PartitionIndex>> = BTreeMap::new();
        for (topic, partition) in &delta.partitions_changed {
            by_topic.entry(*topic).or_default().push(*partition);
        }
        for id in &delta.topics_created {
            by_topic.remove(id);
        }
        let created: Vec<&TopicImage> =
            delta.topics_created.iter().filter_map(|id| image.topic(*id)).map(|topic| &**topic).collect();
        self.create(image, &mut index, &created).await;
        for (id, partitions) in by_topic {
            if let (Some(topic), Some(of)) = (index.by_id(id).cloned(), image.topic(id)) {
                self.change(&topic, of, &partitions).await;
            }
        }
        for (id, partition) in self.dirs.take_to_reopen() {
            if let (Some(topic), Some(of)) = (index.by_id(id).cloned(), image.topic(id)) {
                self.reopen(&topic, of, partition).await;
            } else {
                self.dirs.forget_unopened(id, partition);
            }
        }
        self.published.topics.store(Arc::new(index));
        self.published.image.store(Arc::new(image.clone()));
        self.coordinators.follow(&self.published.topics.load(), &self.published.layers.load(), delta);
    }

    async fn create(&self, image: &MetadataImage, index: &mut TopicIndex, topics: &[&TopicImage]) {
        let mut wanted = Vec::new();
        for topic in topics {
            let config = self.config_of(image, &topic.name);
            for (partition, state) in &topic.partitions {
                if state.replicas.contains(&self.node) {
                    wanted.push(self.wanted(topic, *partition, state, &config));
                }
            }
        }
        let mut opened = self.open(wanted).await;
        for topic in topics {
            let count = topic.partitions.keys().next_back().map_or(0, |last| last.0 + 1);
            let partitions = (0..count)
                .map(|partition| opened.remove(&(topic.id, PartitionIndex(partition))).flatten())
                .collect();
            index.insert(Arc::new(Topic {
                name: topic.name.clone(),
                id: topic.id,
                is_internal: is_internal(&topic.name),
                config: ArcSwap::from_pointee(self.config_of(image, &topic.name)),
                partitions: ArcSwap::from_pointee(partitions),
            }));
        }
    }

    /// New partitions of a known topic, and new leader epochs of known partitions.
    async fn change(&self, topic: &Topic, image: &TopicImage, changed: &[PartitionIndex]) {
        let mut partitions = Vec::clone(&topic.partitions.load());
        let config = TopicConfig::clone(&topic.config.load());
        let mut wanted = Vec::new();
        for index in changed {
            let Some(state) = image.partitions.get(index) else { continue };
            match topic.partition(*index) {
                Ok(partition)
                    if state.leader == self.node && state.leader_epoch > partition.leader_epoch() =>
                {
                    partition.lead(&self.host, state.leader_epoch).await;
                }
                Ok(_) => {}
                Err(_) if state.replicas.contains(&self.node) => {
                    wanted.push(self.wanted(image, *index, state, &config));
                }
                Err(_) => {}
            }
        }
        for ((_, index), partition) in self.open(wanted).await {
            let place = usize::try_from(index.0).unwrap_or(0);
            if partitions.len() <= place {
                partitions.resize(place + 1, None);
            }
            partitions[place] = partition;
        }
        topic.partitions.store(Arc::new(partitions));
    }

    /// A partition that was closed to be moved, wherever it lies now.
    async fn reopen(&self, topic: &Topic, image: &TopicImage, index: PartitionIndex) {
        let Some(state) = image.partitions.get(&index) else { return };
        let config = TopicConfig::clone(&topic.config.load());
        let mut opened = self.open(vec![self.wanted(image, index, state, &config)]).await;
        let mut partitions = Vec::clone(&topic.partitions.load());
        if let Some(place) = usize::try_from(index.0).ok().and_then(|place| partitions.get_mut(place)) {
            *place = opened.remove(&(topic.id, index)).flatten();
        }
        topic.partitions.store(Arc::new(partitions));
    }

    fn wanted(
        &self,
        topic: &TopicImage,
        index: PartitionIndex,
        state: &PartitionImage,
        config: &TopicConfig,
    ) -> Wanted {
        Wanted {
            topic: topic.name.clone(),
            topic_id: topic.id,
            index,
            leader_epoch: state.leader_epoch,
            directory: state.directory_of(self.node),
            is_new: state.leader_epoch == LeaderEpoch(0) && state.partition_epoch == 0,
            config: self.log_config(config),
            flush_policy: FlushPolicy::from(config),
        }
    }

    async fn open(&self, wanted: Vec<Wanted>) -> BTreeMap<(TopicId, PartitionIndex), Option<Arc<Partition>>> {
        if wanted.is_empty() {
            return BTreeMap::new();
        }
        let now = self.host.wall();
        let dirs = self.dirs.clone();
        let opened = {
            let host = self.host.clone();
            self.host
                .offload(Pool::Flush, move || {
                    dirs.open_all(wanted, now, |work, count| host.run_parallel(work, count))
                })
                .await
        };
        opened.into_iter().collect()
    }

    async fn delete(&self, topic: &Topic) {
        for (index, partition) in topic.partitions.load().iter().enumerate() {
            let index = PartitionIndex(i32::try_from(index).unwrap_or(i32::MAX));
            let mut log = None;
            // One that could not be opened has files all the same.
            if let Some(partition) = partition {
                log = partition.close(&self.host).await;
                partition.waiters.changed();
            }
            let dirs = self.dirs.clone();
            let name = topic.name.clone();
            // The suffix only has to differ from that of an earlier topic of this name.
            let mark = Uuid(self.host.random());
            let marked =
                self.host.offload(Pool::Flush, move || dirs.mark_deleted(&name, index, log, mark)).await;
            match marked {
                Ok(None) => {}
                Ok(Some(marked)) => self.remove_later(marked),
                Err(error) => {
                    tracing::error!(topic = %topic.name, partition = %index, %error, "cannot delete a partition");
                }
            }
        }
    }

    /// Many gigabytes take a while to unlink: the controller does not wait for it.
    fn remove_later(&self, marked: Marked) {
        let dirs = self.dirs.clone();
        let host = self.host.clone();
        self.host.spawn("deletion", async move {
            let removed = host.offload(Pool::Flush, move || dirs.remove_marked(&marked)).await;
            if let Err(error) = removed {
                tracing::warn!(%error, "cannot remove a deleted partition's files; the next start tries again");
            }
        });
    }

    async fn apply_configs(&self, image: &MetadataImage, delta: &MetadataDelta) {
        let mut is_for_all = false;
        let own = ConfigResource::broker(self.node);
        for changed in &delta.configs_changed {
            is_for_all |= *changed == own || *changed == ConfigResource::broker_default();
        }
        if is_for_all {
            let mut layers = ConfigLayers::clone(&self.published.layers.load());
            layers.cluster = Arc::new(values(image, &ConfigResource::broker_default()));
            layers.broker = Arc::new(values(image, &own));
            self.dirs.follow_cordons(&layers);
            self.published.layers.store(Arc::new(layers));
        }
        let index = self.published.topics.load_full();
        for topic in index.topics() {
            let of_topic = delta.configs_changed.iter().any(|changed| {
                changed.resource_type == ConfigResourceType::Topic && changed.name == topic.name
            });
            if !is_for_all && !of_topic {
                continue;
            }
            let config = self.config_of(image, &topic.name);
            if !is_for_all && config == **topic.config.load() {
                continue;
            }
            for partition in topic.partitions.load().iter().flatten() {
                let log_config = self.log_config(&config);
                partition.with_log(&self.host, move |log| log.set_config(log_config)).await;
                partition.set_flush_policy(&self.host, FlushPolicy::from(&config));
            }
            topic.config.store(Arc::new(config));
        }
    }

    fn config_of(&self, image: &MetadataImage, topic: &str) -> TopicConfig {
        TopicConfig::effective(&values(image, &ConfigResource::topic(topic)), &self.published.layers.load())
    }

    fn producer_id_expiration_ms(&self) -> i64 {
        let configured = self.published.layers.load().integer("producer.id.expiration.ms");
        configured.unwrap_or(LogConfig::default().producer_id_expiration_ms)
    }

    fn log_config(&self, config: &TopicConfig) -> LogConfig {
        let unsigned = |value: i32| u32::try_from(value).unwrap_or(0);
        let jitter_ms_max = config.segment_jitter_ms.min(config.segment_ms).max(0);
        let segment_jitter_ms = match u128::try_from(jitter_ms_max) {
            Ok(0) | Err(_) => 0,
            Ok(max) => i64::try_from(self.host.random() % max).unwrap_or(0),
        };
        LogConfig {
            segment_bytes: unsigned(config.segment_bytes),
            segment_ms: config.max_segment_ms(),
            segment_jitter_ms,
            segment_index_bytes: unsigned(config.segment_index_bytes),
            index_interval_bytes: unsigned(config.index_interval_bytes),
            is_compacted: config.cleanup_policy.compact,
            is_prefilled: config.durability == Durability::Flushed,
            producer_id_expiration_ms: self.producer_id_expiration_ms(),
            verifies_transactions: transactions::are_verified(&self.published.layers.load()),
        }
    }
}

/// The dynamic values of a resource.
pub(crate) fn values(image: &MetadataImage, resource: &ConfigResource) -> BTreeMap<String, String> {
    let values = image.config(resource).into_iter().flatten();
    values.map(|(name, value): (&Arc<str>, &Arc<str>)| (name.to_string(), value.to_string())).collect()
}
