//! Measures a message before it is written, and refuses what a version cannot carry.

use super::encoder::goes_beside;
use super::{Message, Records, Sink, Value};

/// Why a message cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A value would be lost that the schema does not call ignorable.
    #[error("{field} is set, which version {version} does not have")]
    FieldNotInVersion {
        /// Kafka's name.
        field: &'static str,
        /// Of the message.
        version: i16,
    },
    /// Null where this version does not have it.
    #[error("{field} is null, which this version does not allow")]
    NullNotAllowed {
        /// Kafka's name.
        field: &'static str,
    },
    /// Kafka's strings end at 32767 bytes.
    #[error("a string of {length_bytes} bytes")]
    StringTooLong {
        /// Of its UTF-8.
        length_bytes: usize,
    },
    /// A count or a length beyond 31 bits.
    #[error("a length of {length}")]
    TooLong {
        /// Elements or bytes.
        length: usize,
    },
    /// A frame beyond 31 bits.
    #[error("a frame of {size_bytes} bytes")]
    FrameTooLarge {
        /// Without its length field.
        size_bytes: usize,
    },
    /// The schema does not know this version.
    #[error("{message} has no version {version}")]
    UnsupportedVersion {
        /// Kafka's name.
        message: &'static str,
        /// As asked for.
        version: i16,
    },
    /// Only a response's parts can carry records from outside memory.
    #[error("external records in one buffer")]
    ExternalRecords,
}

impl EncodeError {
    /// For a field that the version lacks: fine unless it is set.
    #[inline]
    pub(crate) fn unless_default(is_set: bool, field: &'static str, version: i16) -> Result<(), Self> {
        if is_set { Err(Self::FieldNotInVersion { field, version }) } else { Ok(()) }
    }

    /// For a field that this version does not allow to be null.
    #[inline]
    pub(crate) fn unless_null<'a, T>(value: &'a Option<T>, field: &'static str) -> Result<&'a T, Self> {
        value.as_ref().ok_or(Self::NullNotAllowed { field })
    }
}

/// The size of a message in one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageSize {
    /// What goes into the buffer of a response.
    pub inline_bytes: usize,
    /// Records that go beside it.
    pub beside_bytes: usize,
    /// In how many parts.
    pub beside_count: usize,
    /// Some of them are not in memory.
    pub has_external: bool,
}

impl MessageSize {
    /// What goes to the wire.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.inline_bytes + self.beside_bytes
    }
}

/// A sink that only counts.
#[derive(Debug, Default)]
pub struct Sizer {
    size: MessageSize,
}

impl Sizer {
    /// The size of `message` in `version`.
    ///
    /// # Errors
    /// When `version` cannot carry it.
    pub fn measure<M: Message>(message: &M, version: i16) -> Result<MessageSize, EncodeError> {
        if !M::VERSIONS.contains(&version) {
            return Err(EncodeError::UnsupportedVersion { message: M::NAME, version });
        }
        let mut sizer = Self::default();
        message.write(&mut sizer, version)?;
        Ok(sizer.size)
    }

    pub(super) fn tagged_size<T: Value>(value: &T, version: i16) -> Result<u32, EncodeError> {
        let mut sizer = Self::default();
        value.put(&mut sizer, true, version)?;
        let length = sizer.size.total_bytes();
        u32::try_from(length).map_err(|_| EncodeError::TooLong { length })
    }
}

pub(super) const fn uvarint_bytes(value: u32) -> usize {
    (31 - (value | 1).leading_zeros() as usize) / 7 + 1
}

impl Sink for Sizer {
    #[inline]
    fn fixed<const N: usize>(&mut self, _: [u8; N]) {
        self.size.inline_bytes += N;
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.size.inline_bytes += bytes.len();
    }

    #[inline]
    fn uvarint(&mut self, value: u32) {
        self.size.inline_bytes += uvarint_bytes(value);
    }

    #[inline]
    fn i32_many(&mut self, all: &[i32]) {
        self.size.inline_bytes += size_of_val(all);
    }

    #[inline]
    fn records_content(&mut self, records: &Records) {
        self.size.has_external |= records.as_inline().is_none();
        if goes_beside(records) {
            self.size.beside_bytes += records.len_bytes();
            self.size.beside_count += 1;
        } else {
            self.size.inline_bytes += records.len_bytes();
        }
    }

    #[inline]
    fn tagged<T: Value>(&mut self, tag: u32, value: &T, version: i16) -> Result<(), EncodeError> {
        let size = Self::tagged_size(value, version)?;
        self.uvarint(tag);
        self.uvarint(size);
        self.size.inline_bytes += size as usize;
        Ok(())
    }
}
