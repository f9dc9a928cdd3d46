//! Feature levels (KIP-584): their names, what this build supports, and what a finalized
//! `metadata.version` allows to be written.
//!
//! The facts are those of Kafka 4.3.1. Deliberately absent: raising a level in a running
//! cluster.

use std::ops::RangeInclusive;

/// Gates the versions of metadata records.
pub const METADATA_VERSION: &str = "metadata.version";
/// Gates eligible leader replicas (KIP-966).
pub const ELIGIBLE_LEADER_REPLICAS_VERSION: &str = "eligible.leader.replicas.version";
/// Gates the consumer group protocol (KIP-848).
pub const GROUP_VERSION: &str = "group.version";
/// Gates share groups (KIP-932).
pub const SHARE_VERSION: &str = "share.version";
/// Gates streams groups (KIP-1071).
pub const STREAMS_VERSION: &str = "streams.version";
/// Gates transactions, version 2 (KIP-890).
pub const TRANSACTION_VERSION: &str = "transaction.version";
/// The quorum's own feature; it lives in control records, never in a `FeatureLevelRecord`.
pub const KRAFT_VERSION: &str = "kraft.version";

/// The finalized level of [`METADATA_VERSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetadataVersion(pub i16);

impl MetadataVersion {
    /// 3.3-IV3, the oldest that Kafka 4 reads; also the level of a log that names none.
    pub const MIN: Self = Self(7);
    /// 4.3-IV0.
    pub const LATEST: Self = Self(30);

    /// Metadata transactions exist from 3.6-IV1 (KIP-866).
    #[must_use]
    pub fn has_transactions(self) -> bool {
        self.0 >= 13
    }

    /// Controllers register from 3.7-IV0 (KIP-919).
    #[must_use]
    pub fn has_controller_registration(self) -> bool {
        self.0 >= 15
    }

    /// Partitions and brokers name log directories from 3.7-IV2 (KIP-858).
    #[must_use]
    pub fn has_directories(self) -> bool {
        self.0 >= 17
    }

    /// Eligible leader replicas may be enabled from 4.0-IV1 (KIP-966).
    #[must_use]
    pub fn has_eligible_leader_replicas(self) -> bool {
        self.0 >= 23
    }

    /// Log directories may be cordoned from 4.3-IV0 (KIP-1066).
    #[must_use]
    pub fn has_cordoned_directories(self) -> bool {
        self.0 >= 30
    }

    /// Version of `RegisterBrokerRecord`.
    #[must_use]
    pub fn register_broker_record_version(self) -> i16 {
        match self.0 {
            ..=7 => 1,
            8..=16 => 2,
            17..=29 => 3,
            30.. => 4,
        }
    }

    /// Version of `PartitionRecord` and of `PartitionChangeRecord`.
    #[must_use]
    pub fn partition_record_version(self) -> i16 {
        match self.0 {
            ..=16 => 0,
            17..=22 => 1,
            23.. => 2,
        }
    }
}

/// A level or a range of levels per feature, as a fresh directory and a registration name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureDefinition {
    /// The feature's name.
    pub name: &'static str,
    /// Lowest level that is understood; 0 is "off".
    pub level_min: i16,
    /// Highest level that is understood.
    pub level_max: i16,
}

/// What this build understands, as Kafka 4.3.1 registers it.
pub const SUPPORTED_FEATURES: &[FeatureDefinition] = &[
    FeatureDefinition {
        name: METADATA_VERSION,
        level_min: MetadataVersion::MIN.0,
        level_max: MetadataVersion::LATEST.0,
    },
    FeatureDefinition { name: ELIGIBLE_LEADER_REPLICAS_VERSION, level_min: 0, level_max: 1 },
    FeatureDefinition { name: GROUP_VERSION, level_min: 0, level_max: 1 },
    FeatureDefinition { name: KRAFT_VERSION, level_min: 0, level_max: 1 },
    FeatureDefinition { name: SHARE_VERSION, level_min: 0, level_max: 1 },
    FeatureDefinition { name: STREAMS_VERSION, level_min: 0, level_max: 1 },
    FeatureDefinition { name: TRANSACTION_VERSION, level_min: 0, level_max: 2 },
];

/// The levels which formatting a directory finalizes, in the order Kafka 4.3.1 writes them.
pub const BOOTSTRAP_FEATURE_LEVELS: &[(&str, i16)] = &[
    (METADATA_VERSION, MetadataVersion::LATEST.0),
    (ELIGIBLE_LEADER_REPLICAS_VERSION, 1),
    (GROUP_VERSION, 1),
    (SHARE_VERSION, 1),
    (STREAMS_VERSION, 1),
    (TRANSACTION_VERSION, 2),
];

/// A finalized feature or level which this build does not know: a start refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// The feature itself is unknown.
    #[error("the directory finalizes the feature {name} at level {level}, which this build does not know")]
    Unknown {
        /// The feature's name.
        name: String,
        /// Its finalized level.
        level: i16,
    },
    /// The level lies outside the supported range.
    #[error(
        "the directory finalizes the feature {name} at level {level}; this build supports {} to {}",
        .supported.start(), .supported.end()
    )]
    Unsupported {
        /// The feature's name.
        name: String,
        /// Its finalized level.
        level: i16,
        /// What would be accepted.
        supported: RangeInclusive<i16>,
    },
}

/// Accepts a finalized level, as a start must before its first write.
///
/// # Errors
/// [`FeatureError`] if the feature or its level is unknown.
pub fn check_level(name: &str, level: i16) -> Result<(), FeatureError> {
    let Some(known) = SUPPORTED_FEATURES.iter().find(|feature| feature.name == name) else {
        // Level 0 is "off": nothing of it can matter.
        return if level == 0 { Ok(()) } else { Err(FeatureError::Unknown { name: name.to_owned(), level }) };
    };
    let supported = known.level_min..=known.level_max;
    if supported.contains(&level) {
        Ok(())
    } else {
        Err(FeatureError::Unsupported { name: name.to_owned(), level, supported })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_versions_follow_the_finalized_level() {
        for (level, register, partition) in
            [(7, 1, 0), (8, 2, 0), (16, 2, 0), (17, 3, 1), (22, 3, 1), (23, 3, 2), (29, 3, 2), (30, 4, 2)]
        {
            let version = MetadataVersion(level);
            assert_eq!(version.register_broker_record_version(), register, "{level}");
            assert_eq!(version.partition_record_version(), partition, "{level}");
        }
    }

    #[test]
    fn every_bootstrap_level_is_supported() {
        for (name, level) in BOOTSTRAP_FEATURE_LEVELS {
            assert_eq!(check_level(name, *level), Ok(()));
        }
        assert!(check_level(METADATA_VERSION, 31).is_err());
        assert!(check_level("later.version", 1).is_err());
        assert_eq!(check_level("later.version", 0), Ok(()));
    }
}
