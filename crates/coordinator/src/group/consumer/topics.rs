//! Topics as consumer groups see them: hashes that tell whether a group's topics changed.
//!
//! The hashes are Kafka's (KIP-1101): XXH3 over a topic's id, name, partitions and the racks of their
//! replicas; they are written in records, so a directory that moves here or back causes no rebalance.
//!
//! All of it is soft: computed from images, forgotten by a reload.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_cluster::image::{MetadataDelta, MetadataImage, TopicImage};
use klamm_protocol::ids::TopicId;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// Kafka's version of the hash.
const HASH_VERSION: u8 = 0;

/// What was seen of the topics.
#[derive(Debug, Default)]
pub(in crate::group) struct Topics {
    /// Rises whenever some topic or rack may have changed.
    version: u64,
    /// The image's version in which a topic was new; of the first image before that.
    newest_at: Option<i64>,
    hashes: BTreeMap<TopicId, (Arc<TopicImage>, u64)>,
}

impl Topics {
    /// Looks at a new image.
    pub fn follow(&mut self, image: &MetadataImage, delta: &MetadataDelta) {
        let have_brokers_changed = !delta.brokers_changed.is_empty();
        let have_topics_changed = !delta.topics_created.is_empty()
            || !delta.topics_deleted.is_empty()
            || !delta.partitions_changed.is_empty();
        if have_brokers_changed || have_topics_changed {
            self.version += 1;
            self.hashes.retain(|id, (topic, _)| {
                !have_brokers_changed && image.topic(*id).is_some_and(|now| Arc::ptr_eq(now, topic))
            });
        }
        if !delta.topics_created.is_empty() {
            self.newest_at = Some(version_of(image));
        }
    }

    /// Changes whenever a group's topics may have.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version of the last image with new topics.
    pub fn newest_at(&mut self, image: &MetadataImage) -> i64 {
        *self.newest_at.get_or_insert(version_of(image))
    }

    /// The hash of the topics with these names, in their order, as far as they exist.
    pub fn hash<'a>(&mut self, image: &MetadataImage, names: impl Iterator<Item = &'a Arc<str>>) -> i64 {
        let mut bytes = Vec::new();
        for topic in names.filter_map(|name| image.topic_by_name(name)) {
            let known = self.hashes.get(&topic.id).filter(|(hashed, _)| Arc::ptr_eq(hashed, topic));
            let hash = known.map_or_else(|| topic_hash(image, topic), |(_, hash)| *hash);
            if known.is_none() {
                self.hashes.insert(topic.id, (topic.clone(), hash));
            }
            bytes.extend_from_slice(&hash.to_le_bytes());
        }
        if bytes.is_empty() { 0 } else { xxh3_64(&bytes).cast_signed() }
    }
}

/// An image's version as records have it: the offset of the last record in it.
pub(super) fn version_of(image: &MetadataImage) -> i64 {
    image.next_offset().0 - 1
}

fn topic_hash(image: &MetadataImage, topic: &TopicImage) -> u64 {
    let mut hasher = Xxh3Default::new();
    let int = |hasher: &mut Xxh3Default, value: i32| hasher.update(&value.to_le_bytes());
    // Text is hashed as Java's: UTF-16, and its length behind it.
    let text = |hasher: &mut Xxh3Default, text: &str| {
        let mut length = 0;
        for unit in text.encode_utf16() {
            hasher.update(&unit.to_le_bytes());
            length += 1;
        }
        int(hasher, length);
    };
    let bits = topic.id.0.0;
    hasher.update(&[HASH_VERSION]);
    hasher.update(&high_half(bits).to_le_bytes());
    hasher.update(&high_half(bits << 64).to_le_bytes());
    text(&mut hasher, &topic.name);
    int(&mut hasher, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
    for (index, partition) in &topic.partitions {
        int(&mut hasher, index.0);
        let racks = partition.replicas.iter().filter_map(|node| image.broker(*node)?.rack.as_deref());
        let mut racks: Vec<&str> = racks.collect();
        racks.sort_unstable();
        for rack in racks {
            int(&mut hasher, i32::try_from(rack.encode_utf16().count()).unwrap_or(i32::MAX));
            text(&mut hasher, rack);
        }
    }
    hasher.digest()
}

fn high_half(bits: u128) -> u64 {
    u64::try_from(bits >> 64).expect("64 bits")
}

#[cfg(test)]
mod tests {
    use klamm_cluster::record::MetadataRecord;
    use klamm_protocol::ids::Uuid;
    use klamm_protocol::messages::metadata_records::{PartitionRecord, RegisterBrokerRecord, TopicRecord};
    use klamm_protocol::wire::WireStr;

    use super::*;

    fn image(records: Vec<MetadataRecord>) -> MetadataImage {
        let mut image = MetadataImage::default();
        for record in records {
            image.apply(image.next_offset(), &record, &mut MetadataDelta::default());
        }
        image
    }

    fn topic(id: u128, name: &'static str, partition_count: i32) -> Vec<MetadataRecord> {
        let name = WireStr::from_static(name);
        let mut records = vec![MetadataRecord::Topic(TopicRecord { name, topic_id: Uuid(id) })];
        for partition_id in 0..partition_count {
            let replicas = if partition_count > 4 { vec![2, 1] } else { Vec::new() };
            let topic_id = Uuid(id);
            let record = PartitionRecord { partition_id, topic_id, replicas, ..Default::default() };
            records.push(MetadataRecord::Partition(record));
        }
        records
    }

    fn broker(broker_id: i32, rack: &'static str) -> MetadataRecord {
        let rack = Some(WireStr::from_static(rack));
        MetadataRecord::RegisterBroker(RegisterBrokerRecord { broker_id, rack, ..Default::default() })
    }

    fn hash(image: &MetadataImage, names: &[&str]) -> i64 {
        let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        Topics::default().hash(image, names.iter())
    }

    /// Computed with hash4j 0.22, which Kafka 4.3 uses, as Kafka does.
    #[test]
    fn hashes_are_kafkas() {
        let mut records = vec![broker(1, "rack-a"), broker(2, "räck-b")];
        records.extend(topic(1, "t", 4));
        let long = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210;
        records.extend(topic(long, "a-topic.with_a-name", 40));
        let image = image(records);
        assert_eq!(hash(&image, &["t"]), -954_534_464_913_970_981);
        let with_racks = image.topic(TopicId(Uuid(long))).unwrap();
        assert_eq!(topic_hash(&image, with_racks).cast_signed(), -7_054_729_671_944_608_353);
        assert_eq!(hash(&image, &["t", "a-topic.with_a-name"]), -664_266_956_368_730_522);
        assert_eq!(hash(&image, &["gone"]), 0);
    }

    #[test]
    fn another_rack_is_another_hash() {
        let with_rack = |rack| {
            let mut records = vec![broker(1, rack)];
            records.extend(topic(1, "t", 5));
            hash(&image(records), &["t"])
        };
        assert_ne!(with_rack("a"), with_rack("b"));
    }

    #[test]
    fn a_new_image_counts_only_when_topics_or_racks_changed() {
        let mut topics = Topics::default();
        let image = image(topic(1, "t", 1));
        topics.follow(&image, &MetadataDelta::default());
        assert_eq!(topics.version(), 0);
        let delta = MetadataDelta { topics_created: [TopicId(Uuid(1))].into(), ..Default::default() };
        topics.follow(&image, &delta);
        assert_eq!((topics.version(), topics.newest_at(&image)), (1, version_of(&image)));
    }
}
