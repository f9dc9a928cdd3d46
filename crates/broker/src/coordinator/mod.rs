//! The coordinator host: every partition of an internal topic that this broker leads, with its machine.
//!
//! It knows partitions, commits, timers and loads; the machines ([`klamm_coordinator`]) know what the
//! records mean: groups and transactions now; share groups will be further machines on the same host. What it deliberately does not do: decode requests (the handlers do), replicate.
//!
//! **Invariants:** one shard a partition; a group's shard is the one that its id hashes to, as in
//! Kafka.

mod commits;
mod effects;
#[cfg(test)]
mod full_disk;
mod loader;
mod shard;
#[cfg(test)]
mod stress;
mod timers;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use klamm_cluster::config::{ConfigLayers, TopicConfig};
use klamm_cluster::image::{MetadataDelta, MetadataImage};
use klamm_coordinator::contract::Coordinator;
use klamm_coordinator::group::GroupCoordinator;
use klamm_coordinator::transaction::TransactionCoordinator;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::PartitionIndex;
use klamm_protocol::records::{Attributes, Codec};
use tokio::sync::watch;

use effects::Effects;
pub(crate) use shard::{Asked, Shard};

use crate::host::Host;
use crate::partition::Partition;
use crate::partition::registry::TopicIndex;

/// The topic of groups and their offsets.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The topic of transactional ids and their transactions.
pub(crate) const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";

/// The group coordinator of this broker.
pub(crate) type GroupCoordinators<H> = Coordinators<H, GroupCoordinator>;
/// The transaction coordinator of this broker.
pub(crate) type TransactionCoordinators<H> = Coordinators<H, TransactionCoordinator>;

/// The coordinators of this broker.
pub(crate) struct BrokerCoordinators<H: Host> {
    pub(crate) groups: GroupCoordinators<H>,
    pub(crate) transactions: TransactionCoordinators<H>,
}

impl<H: Host> BrokerCoordinators<H> {
    /// Both follow to what was just published.
    pub(crate) fn follow(&self, topics: &TopicIndex, layers: &ConfigLayers, delta: &MetadataDelta) {
        self.groups.follow(topics, layers, delta);
        self.transactions.follow(topics, layers, delta);
    }

    /// Lets everybody go who waits for a later answer.
    pub(crate) fn stop(&self) {
        self.groups.stop();
        self.transactions.stop();
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    /// Its partition is being loaded.
    #[error("the coordinator is loading")]
    Loading,
    /// Its partition is not here, or what was decided could not be written.
    #[error("the coordinator is not here")]
    Lost,
    /// What was decided is more than its partition takes in one batch; it has not happened.
    #[error("what follows is too large for the coordinator's partition")]
    TooLarge,
}

impl Unavailable {
    pub(crate) fn error_code(self) -> ErrorCode {
        match self {
            Self::Loading => ErrorCode::CoordinatorLoadInProgress,
            Self::Lost => ErrorCode::NotCoordinator,
            // What Kafka's coordinator answers for a batch that its log does not take.
            Self::TooLarge => ErrorCode::UnknownServerError,
        }
    }
}

/// What the shards of one kind share.
struct World<H: Host, C: Coordinator> {
    host: H,
    image: Arc<ArcSwap<MetadataImage>>,
    settings: ArcSwap<C::Settings>,
    effects: Arc<Effects<C::Effect>>,
    codec: Codec,
    load_buffer_bytes: u32,
    /// What the topic takes in one batch.
    batch_bytes_max: AtomicUsize,
}

/// The internal topic that a kind of machine keeps its records in.
pub(crate) struct Memory {
    topic: &'static str,
    codec: Codec,
    load_buffer_bytes: u32,
}

impl Memory {
    pub(crate) fn of_groups(layers: &ConfigLayers) -> Self {
        // Numbered as in a batch's attributes.
        let codec = layers.integer("offsets.topic.compression.codec").unwrap_or(0);
        let codec = i16::try_from(codec).map(Attributes);
        let codec = codec.ok().and_then(|numbered| numbered.compression().ok()).unwrap_or_default();
        Self { topic: OFFSETS_TOPIC, codec, load_buffer_bytes: buffer(layers, "offsets.load.buffer.size") }
    }

    pub(crate) fn of_transactions(layers: &ConfigLayers) -> Self {
        let load_buffer_bytes = buffer(layers, "transaction.state.log.load.buffer.size");
        Self { topic: TRANSACTION_STATE_TOPIC, codec: Codec::None, load_buffer_bytes }
    }
}

fn buffer(layers: &ConfigLayers, name: &str) -> u32 {
    u32::try_from(layers.integer(name).unwrap_or(0)).unwrap_or(u32::MAX)
}

/// `None` for a partition that is not led here.
type Shards<H, C> = Vec<Option<Arc<Shard<H, C>>>>;

/// All shards of one internal topic.
pub(crate) struct Coordinators<H: Host, C: Coordinator> {
    topic: &'static str,
    world: Arc<World<H, C>>,
    /// By partition; written by who follows the metadata.
    shards: ArcSwap<Shards<H, C>>,
    stop: watch::Sender<bool>,
}

impl<H: Host, C: Coordinator + Default> Coordinators<H, C>
where
    C::Settings: for<'a> From<&'a ConfigLayers>,
{
    pub(crate) fn new(
        host: H,
        memory: &Memory,
        image: Arc<ArcSwap<MetadataImage>>,
        layers: &ConfigLayers,
    ) -> Self {
        let settings = ArcSwap::from_pointee(C::Settings::from(layers));
        let Memory { topic, codec, load_buffer_bytes } = *memory;
        let effects = Arc::new(Effects::new());
        let batch_bytes_max = AtomicUsize::new(batch_bytes_max(&TopicConfig::default()));
        let world =
            Arc::new(World { host, image, settings, effects, codec, load_buffer_bytes, batch_bytes_max });
        Self { topic, world, shards: ArcSwap::default(), stop: watch::channel(false).0 }
    }

    /// Follows to what was just published: shards for new partitions, none for those that went,
    /// and what changed for all.
    fn follow(&self, topics: &TopicIndex, layers: &ConfigLayers, delta: &MetadataDelta) {
        if !delta.configs_changed.is_empty() {
            self.world.settings.store(Arc::new(C::Settings::from(layers)));
        }
        let topic = topics.by_name(self.topic);
        if let Some(topic) = topic {
            let bytes_max = batch_bytes_max(&topic.config.load());
            self.world.batch_bytes_max.store(bytes_max, Ordering::Relaxed);
        }
        let partitions = topic.map(|topic| topic.partitions.load_full());
        let before = self.shards.load_full();
        let stays = |index: usize, partition: &Arc<Partition>| {
            let shard = before.get(index)?.as_ref()?;
            Arc::ptr_eq(partition, &shard.partition).then(|| shard.clone())
        };
        let mut known = Vec::new();
        let shards: Shards<H, C> = partitions
            .iter()
            .flat_map(|partitions| partitions.iter())
            .enumerate()
            .map(|(index, partition)| {
                let partition = partition.as_ref()?;
                let shard = stays(index, partition);
                known.extend(shard.clone());
                Some(shard.unwrap_or_else(|| {
                    Shard::start(self.world.clone(), partition.clone(), self.stop.subscribe())
                }))
            })
            .collect();
        for (index, shard) in before.iter().enumerate() {
            let now = shards.get(index).and_then(Option::as_ref);
            if let Some(gone) = shard
                && !now.is_some_and(|now| Arc::ptr_eq(now, gone))
            {
                gone.close();
            }
        }
        self.shards.store(Arc::new(shards));
        let delta = Arc::new(delta.clone());
        for shard in known {
            shard.follow_image(delta.clone());
        }
    }

    /// The shard that `key` belongs to, if its partition is led here.
    pub(crate) fn of_key(&self, key: &str) -> Option<Arc<Shard<H, C>>> {
        self.of_partition(self.partition_of(key)?)
    }

    /// The shard of a partition that is led here.
    pub(crate) fn of_partition(&self, partition: PartitionIndex) -> Option<Arc<Shard<H, C>>> {
        self.shards.load().get(usize::try_from(partition.0).ok()?)?.clone()
    }

    /// All shards.
    pub(crate) fn all(&self) -> Vec<Arc<Shard<H, C>>> {
        self.shards.load().iter().flatten().cloned().collect()
    }

    /// The partition that `key` belongs to; `None` while there is no topic.
    pub(crate) fn partition_of(&self, key: &str) -> Option<PartitionIndex> {
        let image = self.world.image.load();
        let count = i32::try_from(image.topic_by_name(self.topic)?.partitions.len()).ok()?;
        (count > 0).then(|| PartitionIndex(java_hash_not_negative(key) % count))
    }

    /// What the machines want done.
    pub(crate) fn effects(&self) -> &Effects<C::Effect> {
        &self.world.effects
    }

    /// The configuration now.
    pub(crate) fn settings(&self) -> Arc<C::Settings> {
        self.world.settings.load_full()
    }

    fn stop(&self) {
        let _ = self.stop.send(true);
        self.all().iter().for_each(|shard| shard.close());
    }
}

fn batch_bytes_max(config: &TopicConfig) -> usize {
    usize::try_from(config.max_message_bytes.min(config.segment_bytes)).unwrap_or(0)
}

/// Java's `String.hashCode`, as `Utils.abs` makes it a number from 0 on.
fn java_hash_not_negative(text: &str) -> i32 {
    let hash =
        text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    if hash == i32::MIN { 0 } else { hash.abs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hash_as_in_java() {
        assert_eq!(java_hash_not_negative(""), 0);
        assert_eq!(java_hash_not_negative("group"), 98_629_247);
        assert_eq!(java_hash_not_negative("my-consumer-group"), java_hash_not_negative("my-consumer-group"));
        // Its hash is the smallest number there is.
        assert_eq!(java_hash_not_negative("polygenelubricants"), 0);
    }
}
