//! Bytes from outside become values, or a typed error.
//!
//! **Invariants:** never a panic; memory grows by at most the budget given to
//! [`Decoder::new`] plus the slices' own headers; a slice shares the frame.

use bytes::Bytes;

use super::{Message, Source, Value, WireStr};
use crate::ids::Uuid;

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes were promised than there are.
    #[error("{wanted_bytes} bytes are needed, {left_bytes} are left")]
    Truncated {
        /// What the next value needs.
        wanted_bytes: usize,
        /// What is there.
        left_bytes: usize,
    },
    /// More than 32 bits.
    #[error("a varint has more than 32 bits")]
    InvalidVarint,
    /// Negative, and not the -1 of null.
    #[error("{0} is not a length")]
    InvalidLength(i32),
    /// Kafka's strings end at 32767 bytes.
    #[error("a string of {0} bytes")]
    StringTooLong(usize),
    /// The array's elements cannot fit into what is left.
    #[error("an array of {count} elements does not fit into {left_bytes} bytes")]
    ArrayTooLong {
        /// As the wire says.
        count: usize,
        /// What is there.
        left_bytes: usize,
    },
    /// The message would expand to more memory than it is worth.
    #[error("decoding needs {wanted_bytes} more bytes of memory, {left_bytes} are left of the budget")]
    BudgetExceeded {
        /// For the array at hand.
        wanted_bytes: usize,
        /// Of the budget.
        left_bytes: usize,
    },
    /// A string that is none.
    #[error("a string is not UTF-8")]
    InvalidUtf8,
    /// Null where this version does not have it.
    #[error("null is not allowed here")]
    NullNotAllowed,
    /// A tag that does not rise above the one before.
    #[error("tag {0} comes twice or out of order")]
    DuplicateTag(u32),
    /// A known tagged field that does not fill its size.
    #[error("tagged field {tag} leaves {left_bytes} bytes of its size unread")]
    TagSizeMismatch {
        /// Which.
        tag: u32,
        /// How many.
        left_bytes: usize,
    },
    /// Bytes behind the end of the message.
    #[error("{0} bytes are left behind the message")]
    TrailingBytes(usize),
    /// The schema does not know this version.
    #[error("{message} has no version {version}")]
    UnsupportedVersion {
        /// Kafka's name.
        message: &'static str,
        /// As asked for.
        version: i16,
    },
}

/// Reads from one frame, front to back.
#[derive(Debug, Clone)]
pub struct Decoder {
    frame: Bytes,
    position: usize,
    end: usize,
    budget_bytes: usize,
}

impl Decoder {
    /// Decoding may build up to `budget_bytes` of structures out of `frame`; slices of it are free.
    #[must_use]
    pub fn new(frame: Bytes, budget_bytes: usize) -> Self {
        let end = frame.len();
        Self { frame, position: 0, end, budget_bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub fn left_bytes(&self) -> usize {
        self.end - self.position
    }

    /// What is left of the budget.
    #[must_use]
    pub fn budget_left_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// # Errors
    /// [`DecodeError::TrailingBytes`] unless everything has been read.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.left_bytes() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes(left)),
        }
    }

    /// # Errors
    /// [`DecodeError::UnsupportedVersion`] unless `M` has that version.
    pub fn check_version<M: Message>(&self, version: i16) -> Result<(), DecodeError> {
        if M::VERSIONS.contains(&version) {
            return Ok(());
        }
        Err(DecodeError::UnsupportedVersion { message: M::NAME, version })
    }

    /// An unsigned varint of at most 32 bits. Padded ones pass, as in Kafka.
    ///
    /// # Errors
    /// Truncated, or bits beyond the 32nd.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let first = self.fixed::<1>()?[0];
        if first < 0x80 {
            return Ok(u32::from(first));
        }
        let mut value = u32::from(first & 0x7f);
        for shift in [7, 14, 21] {
            let byte = self.fixed::<1>()?[0];
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        let last = self.fixed::<1>()?[0];
        if last > 0x0f {
            return Err(DecodeError::InvalidVarint);
        }
        Ok(value | u32::from(last) << 28)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.frame[self.position..self.end].first_chunk::<N>() {
            Some(bytes) => {
                self.position += N;
                Ok(*bytes)
            }
            None => Err(self.truncated(N)),
        }
    }

    #[inline]
    fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.left_bytes() {
            return Err(self.truncated(length));
        }
        if length == 0 {
            return Ok(Bytes::new());
        }
        let start = self.position;
        self.position += length;
        Ok(self.frame.slice(start..self.position))
    }

    #[cold]
    fn truncated(&self, wanted_bytes: usize) -> DecodeError {
        DecodeError::Truncated { wanted_bytes, left_bytes: self.left_bytes() }
    }

    /// A length of four bytes, or a varint that is one more; `None` is null.
    #[inline]
    fn length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        if flexible {
            return Ok((self.uvarint()? as usize).checked_sub(1));
        }
        checked_length(self.i32()?)
    }

    #[inline]
    fn charge(&mut self, count: usize, size_min: usize, size_of: usize) -> Result<(), DecodeError> {
        let left_bytes = self.left_bytes();
        if count > left_bytes / size_min.max(1) {
            return Err(DecodeError::ArrayTooLong { count, left_bytes });
        }
        // The count is at most the frame's length, so the product cannot overflow.
        let wanted_bytes = count * size_of;
        let left = self.budget_bytes.checked_sub(wanted_bytes);
        self.budget_bytes =
            left.ok_or(DecodeError::BudgetExceeded { wanted_bytes, left_bytes: self.budget_bytes })?;
        Ok(())
    }

    fn tagged_field(
        &mut self,
        tag: u32,
        size: usize,
        field: &mut impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        if size > self.left_bytes() {
            return Err(self.truncated(size));
        }
        let outer_end = std::mem::replace(&mut self.end, self.position + size);
        let known = field(self, tag)?;
        let left_bytes = self.left_bytes();
        if known && left_bytes > 0 {
            return Err(DecodeError::TagSizeMismatch { tag, left_bytes });
        }
        self.position = self.end;
        self.end = outer_end;
        Ok(())
    }
}

#[inline]
fn checked_length(length: i32) -> Result<Option<usize>, DecodeError> {
    match length {
        -1 => Ok(None),
        0.. => Ok(Some(length as usize)),
        _ => Err(DecodeError::InvalidLength(length)),
    }
}

macro_rules! fixed_width {
    ($($type:ident)*) => {$(
        #[inline]
        fn $type(&mut self) -> Result<$type, DecodeError> {
            Ok($type::from_be_bytes(self.fixed()?))
        }
    )*};
}

impl Source for Decoder {
    fixed_width! { i8 i16 u16 i32 u32 i64 f64 }

    #[inline]
    fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.fixed::<1>()? != [0])
    }

    #[inline]
    fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Ok(Uuid::from_bytes(self.fixed()?))
    }

    #[inline]
    fn nullable_string(&mut self, flexible: bool) -> Result<Option<WireStr>, DecodeError> {
        let length = if flexible { self.length(true)? } else { checked_length(i32::from(self.i16()?))? };
        let Some(length) = length else { return Ok(None) };
        if length > i16::MAX as usize {
            return Err(DecodeError::StringTooLong(length));
        }
        WireStr::from_utf8(self.slice(length)?).map(Some).ok_or(DecodeError::InvalidUtf8)
    }

    #[inline]
    fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, DecodeError> {
        match self.length(flexible)? {
            Some(length) => self.slice(length).map(Some),
            None => Ok(None),
        }
    }

    #[inline]
    fn nullable_array<T: Value>(
        &mut self,
        flexible: bool,
        version: i16,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(count) = self.length(flexible)? else { return Ok(None) };
        if count == 0 {
            return Ok(Some(Vec::new()));
        }
        self.charge(count, T::SIZE_MIN, size_of::<T>())?;
        T::get_many(self, count, flexible, version).map(Some)
    }

    #[inline]
    fn presence(&mut self, in_tag: bool) -> Result<bool, DecodeError> {
        if in_tag { Ok(self.uvarint()? > 0) } else { Ok(self.i8()? >= 0) }
    }

    #[inline]
    fn i32_many(&mut self, count: usize) -> Result<Vec<i32>, DecodeError> {
        let size = count.saturating_mul(4);
        let Some(bytes) = self.frame[self.position..self.end].get(..size) else {
            return Err(self.truncated(size));
        };
        let (all, _) = bytes.as_chunks::<4>();
        let all = all.iter().map(|bytes| i32::from_be_bytes(*bytes)).collect();
        self.position += size;
        Ok(all)
    }

    #[inline]
    fn tagged_fields(
        &mut self,
        mut field: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.uvarint()?;
        let mut next_tag_min = 0;
        for _ in 0..count {
            let tag = self.uvarint()?;
            if u64::from(tag) < next_tag_min {
                return Err(DecodeError::DuplicateTag(tag));
            }
            next_tag_min = u64::from(tag) + 1;
            let size = self.uvarint()? as usize;
            self.tagged_field(tag, size, &mut field)?;
        }
        Ok(())
    }
}
