//! Newtypes for the ids, offsets and epochs that cross module borders.
//!
//! Wire structs carry the raw integers; everything behind a handler carries these.

use std::fmt;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty) = $default:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype!(
    /// The position of a record in its partition, counted in records from 0.
    Offset(i64) = 0
);
newtype!(
    /// The number of a partition within its topic, from 0.
    PartitionIndex(i32) = 0
);
newtype!(
    /// How often a partition's leadership has changed; -1 is "unknown".
    LeaderEpoch(i32) = -1
);
newtype!(
    /// `node.id` of a broker or controller; -1 is "none".
    NodeId(i32) = -1
);
newtype!(
    /// The offset of a broker's registration record (KIP-903); -1 is "none".
    BrokerEpoch(i64) = -1
);
newtype!(
    /// Identifies an idempotent or transactional producer (KIP-98); -1 is "none".
    ProducerId(i64) = -1
);
newtype!(
    /// Fences older incarnations of one producer id; -1 is "none".
    ProducerEpoch(i16) = -1
);
newtype!(
    /// A topic's identity (KIP-516).
    TopicId(Uuid) = Uuid::ZERO
);
newtype!(
    /// A log directory's identity (KIP-858).
    DirectoryId(Uuid) = Uuid::ZERO
);

impl Offset {
    /// The offset `count` records further.
    #[must_use]
    pub const fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}

impl DirectoryId {
    /// The replica's directory is not known yet (KIP-858).
    pub const UNASSIGNED: Self = Self(Uuid(0));
    /// The replica lies in a directory that is offline (KIP-858).
    pub const LOST: Self = Self(Uuid(1));
    /// The broker predates directory ids (KIP-858).
    pub const MIGRATING: Self = Self(Uuid(2));
}

/// 128 bits, shown as Kafka shows them: URL-safe base64 without padding, 22 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub u128);

/// A text that is not a [`Uuid`] in Kafka's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a Kafka uuid: 22 characters of URL-safe base64 are expected")]
pub struct InvalidUuid(pub String);

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Uuid {
    /// All bits zero: "no id" everywhere in the protocol.
    pub const ZERO: Self = Self(0);

    /// From the 16 bytes of the wire, most significant first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The 16 bytes of the wire, most significant first.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// A version 4 id from 128 random bits. As in Kafka, the caller draws again
    /// while [`Uuid::is_reserved`] or the text would begin with a dash.
    #[must_use]
    pub const fn from_random(bits: u128) -> Self {
        let versioned = (bits & !(0xf << 76)) | (0x4 << 76);
        Self((versioned & !(0x3 << 62)) | (0x2 << 62))
    }

    /// True for the first 100 values, which Kafka keeps for itself (KIP-858).
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.0 < 100
    }

    /// From Kafka's text form.
    ///
    /// # Errors
    /// [`InvalidUuid`] unless `text` is 22 characters of URL-safe base64.
    pub fn parse(text: &str) -> Result<Self, InvalidUuid> {
        let invalid = || InvalidUuid(text.chars().take(64).collect());
        // Padding is what Kafka's own decoder takes too.
        let digits = text.trim_end_matches('=').as_bytes();
        if digits.len() != 22 {
            return Err(invalid());
        }
        let mut bits = 0u128;
        for (index, digit) in digits.iter().enumerate() {
            let value = BASE64_URL.iter().position(|c| c == digit).ok_or_else(invalid)? as u128;
            // 22 digits hold 132 bits; the last digit brings only its upper 2.
            bits = if index < 21 { bits << 6 | value } else { bits << 2 | value >> 4 };
        }
        Ok(Self(bits))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 22];
        for (index, digit) in text.iter_mut().enumerate() {
            let value = if index < 21 { self.0 >> (122 - 6 * index) } else { self.0 << 4 };
            *digit = BASE64_URL[(value & 0x3f) as usize];
        }
        f.pad(std::str::from_utf8(&text).expect("base64 is ASCII"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_of_a_known_id_is_kafkas() {
        // Uuid.METADATA_TOPIC_ID and ONE_UUID in Kafka.
        assert_eq!(Uuid(1).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        let id = Uuid::parse("kLaMmPeErKaFkA0000000A").unwrap();
        assert_eq!(id.to_string(), "kLaMmPeErKaFkA0000000A");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "A", "AAAAAAAAAAAAAAAAAAAAA!", "AAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(Uuid::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(bits: u128) {
            prop_assert_eq!(Uuid::parse(&Uuid(bits).to_string()), Ok(Uuid(bits)));
        }
    }
}
