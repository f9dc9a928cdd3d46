//! The 61 bytes in front of a batch's records, and the CRC over them.
//!
//! Parsing checks structure only: the magic byte and that the length can hold the
//! header. It never looks behind the header, so `batch_bytes` may exceed what is there.

use crc_fast::{CrcAlgorithm, Digest};

use super::attributes::Attributes;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Base offset and length: what comes before the bytes that the length field counts.
pub const LOG_OVERHEAD_BYTES: usize = 12;
/// The header of a batch of magic 2; its records follow.
pub const BATCH_HEADER_BYTES: usize = 61;
/// The only magic that producers may send and this crate decodes.
pub const MAGIC_V2: i8 = 2;
/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;
/// The base sequence of a batch without one.
pub const NO_SEQUENCE: i32 = -1;

/// The CRC covers everything from here on.
const CRC_START: usize = 21;
/// Size, base offset and magic can be read once this many bytes are there.
pub(super) const BYTES_UP_TO_MAGIC: usize = 17;

/// Bytes that are no batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header has.
    #[error("{available} bytes cannot hold a batch header")]
    Truncated {
        /// Bytes that were there.
        available: usize,
    },
    /// The length field cannot be true for this magic.
    #[error("a batch of magic {magic} cannot have the length {length}")]
    InvalidLength {
        /// The length field.
        length: i32,
        /// The magic byte.
        magic: i8,
    },
    /// A magic byte other than 0, 1 and 2; 0 and 1 too where only batches may be.
    #[error("magic {0} is not supported")]
    UnsupportedMagic(i8),
}

/// A batch's header, magic 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; not covered by the CRC.
    pub base_offset: Offset,
    /// Bytes of the whole batch, this header included: the length field + 12.
    pub batch_bytes: u32,
    /// Epoch of the leader that appended it; not covered by the CRC.
    pub leader_epoch: LeaderEpoch,
    /// Always 2 after [`BatchHeader::parse`].
    pub magic: i8,
    /// CRC-32C of everything behind it.
    pub crc: u32,
    /// Codec, timestamp type and flags.
    pub attributes: Attributes,
    /// Offset of the last record, counted from `base_offset`; the cleaner keeps it when that record goes.
    pub last_offset_delta: i32,
    /// What the records' timestamps count from; the delete horizon where the attributes say so.
    pub base_timestamp: i64,
    /// The largest timestamp; the append time for LogAppendTime.
    pub max_timestamp: i64,
    /// The idempotent producer, or -1 (KIP-98).
    pub producer_id: ProducerId,
    /// The producer's epoch, or -1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may end anywhere behind it.
    ///
    /// # Errors
    /// [`BatchError`] if `bytes` is too short, the magic is not 2, or the length is
    /// less than the header's.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(head) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Truncated { available: bytes.len() });
        };
        let magic = head[16] as i8;
        if magic != MAGIC_V2 {
            return Err(BatchError::UnsupportedMagic(magic));
        }
        let length = i32_at(head, 8);
        if length < (BATCH_HEADER_BYTES - LOG_OVERHEAD_BYTES) as i32 {
            return Err(BatchError::InvalidLength { length, magic });
        }
        Ok(Self {
            base_offset: Offset(i64_at(head, 0)),
            batch_bytes: length as u32 + LOG_OVERHEAD_BYTES as u32,
            leader_epoch: LeaderEpoch(i32_at(head, 12)),
            magic,
            crc: i32_at(head, 17) as u32,
            attributes: Attributes(i16_at(head, 21)),
            last_offset_delta: i32_at(head, 23),
            base_timestamp: i64_at(head, 27),
            max_timestamp: i64_at(head, 35),
            producer_id: ProducerId(i64_at(head, 43)),
            producer_epoch: ProducerEpoch(i16_at(head, 51)),
            base_sequence: i32_at(head, 53),
            record_count: i32_at(head, 57),
        })
    }

    /// Writes every field, `crc` as it stands.
    pub fn write_to(&self, out: &mut [u8; BATCH_HEADER_BYTES]) {
        out[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        let length = self.batch_bytes.saturating_sub(LOG_OVERHEAD_BYTES as u32);
        out[8..12].copy_from_slice(&length.to_be_bytes());
        out[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        out[16] = self.magic as u8;
        out[17..21].copy_from_slice(&self.crc.to_be_bytes());
        out[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        out[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        out[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        out[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        out[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[57..61].copy_from_slice(&self.record_count.to_be_bytes());
    }

    /// Offset of the last record; the largest offset there is if a hostile header overflows.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)))
    }

    /// Offset that follows the batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    /// Sequence number of the last record, which wraps to 0 behind `i32::MAX` (KIP-98); -1 without one.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            return NO_SEQUENCE;
        }
        (i64::from(self.base_sequence) + i64::from(self.last_offset_delta)).rem_euclid(1 << 31) as i32
    }

    /// True for a batch of an idempotent or transactional producer.
    #[must_use]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id.0 >= 0
    }

    /// The CRC that this header needs in front of `body`, the bytes behind the header.
    #[must_use]
    pub fn crc_of(&self, body: &[u8]) -> u32 {
        let mut head = [0; BATCH_HEADER_BYTES];
        self.write_to(&mut head);
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&head[CRC_START..]);
        digest.update(body);
        digest.finalize() as u32
    }
}

/// True if `batch`, one whole batch of magic 2, has the CRC that its bytes give.
#[must_use]
pub fn check_crc(batch: &[u8]) -> bool {
    batch.len() >= BATCH_HEADER_BYTES && i32_at(batch, 17) as u32 == crc32c(&batch[CRC_START..])
}

/// CRC-32C (Castagnoli) of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

// The callers have checked that the bytes are there.
fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from(i32_at(bytes, at)) << 32 | i64::from(i32_at(bytes, at + 4) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_crc_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn sequences_wrap_behind_the_largest() {
        let mut head = [0; BATCH_HEADER_BYTES];
        head[8..12].copy_from_slice(&49i32.to_be_bytes());
        head[16] = 2;
        let mut header = BatchHeader::parse(&head).unwrap();
        header.base_sequence = i32::MAX - 1;
        header.last_offset_delta = 1;
        assert_eq!(header.last_sequence(), i32::MAX);
        header.last_offset_delta = 3;
        assert_eq!(header.last_sequence(), 1);
        header.base_sequence = NO_SEQUENCE;
        assert_eq!(header.last_sequence(), NO_SEQUENCE);
    }

    proptest! {
        #[test]
        fn headers_round_trip_byte_for_byte(
            mut head in proptest::array::uniform32(any::<u8>()),
            tail in proptest::array::uniform29(any::<u8>()),
            length in 49..=i32::MAX,
        ) {
            head[8..12].copy_from_slice(&length.to_be_bytes());
            head[16] = 2;
            let mut bytes = [0; BATCH_HEADER_BYTES];
            bytes[..32].copy_from_slice(&head);
            bytes[32..].copy_from_slice(&tail);
            let header = BatchHeader::parse(&bytes).unwrap();
            let mut written = [0xee; BATCH_HEADER_BYTES];
            header.write_to(&mut written);
            prop_assert_eq!(written, bytes);
            prop_assert_eq!(header.crc_of(b"abc"), crc32c(&[&bytes[21..], b"abc"].concat()));
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = BatchHeader::parse(&bytes);
            let _ = check_crc(&bytes);
        }
    }
}
