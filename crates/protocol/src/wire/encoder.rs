//! Values become bytes: one buffer of exact size, records beside it.

use bytes::Bytes;

use super::sizer::Sizer;
use super::{EncodeError, MessageSize, Records, Sink, Value};

/// Records up to here are copied into the buffer: cheaper than one more part in a writev.
pub const INLINE_RECORDS_BYTES_MAX: usize = 1024;

/// A stretch of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// In memory.
    Bytes(Bytes),
    /// To be sent from where [`Records::External`] said.
    External {
        /// How many bytes.
        len_bytes: u32,
        /// As in the records.
        tag: u32,
    },
}

impl Part {
    /// How many bytes go to the wire.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::External { len_bytes, .. } => *len_bytes as usize,
        }
    }
}

pub(super) fn goes_beside(records: &Records) -> bool {
    match records {
        Records::Inline(bytes) => bytes.len() > INLINE_RECORDS_BYTES_MAX,
        Records::External { len_bytes, .. } => *len_bytes > 0,
    }
}

/// The sink that writes.
#[derive(Debug)]
pub struct Encoder {
    buffer: Vec<u8>,
    /// Where in the buffer a part goes between.
    beside: Vec<(usize, Part)>,
    splits: bool,
}

impl Encoder {
    /// Large records become parts of their own; see [`Encoder::into_parts`].
    #[must_use]
    pub fn with_parts(header_bytes: usize, size: MessageSize) -> Self {
        let buffer = Vec::with_capacity(header_bytes + size.inline_bytes);
        Self { buffer, beside: Vec::with_capacity(size.beside_count), splits: true }
    }

    /// Everything goes into one buffer; see [`Encoder::into_bytes`].
    ///
    /// # Errors
    /// [`EncodeError::ExternalRecords`] when some bytes are not in memory.
    pub fn in_one_buffer(header_bytes: usize, size: MessageSize) -> Result<Self, EncodeError> {
        if size.has_external {
            return Err(EncodeError::ExternalRecords);
        }
        let buffer = Vec::with_capacity(header_bytes + size.total_bytes());
        Ok(Self { buffer, beside: Vec::new(), splits: false })
    }

    /// What was written, in order, none of it empty.
    #[must_use]
    pub fn into_parts(self) -> Vec<Part> {
        let buffer = Bytes::from(self.buffer);
        let mut parts = Vec::with_capacity(2 * self.beside.len() + 1);
        let mut start = 0;
        for (end, part) in self.beside {
            if end > start {
                parts.push(Part::Bytes(buffer.slice(start..end)));
            }
            parts.push(part);
            start = end;
        }
        if start < buffer.len() {
            parts.push(Part::Bytes(buffer.slice(start..)));
        }
        parts
    }

    /// What was written.
    ///
    /// # Panics
    /// When the encoder was made for parts and has some.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        assert!(self.beside.is_empty(), "an encoder for one buffer");
        Bytes::from(self.buffer)
    }
}

impl Sink for Encoder {
    #[inline]
    fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        self.buffer.extend_from_slice(&bytes);
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    #[inline]
    fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }

    #[inline]
    fn i32_many(&mut self, all: &[i32]) {
        self.buffer.extend(all.iter().flat_map(|value| value.to_be_bytes()));
    }

    #[inline]
    fn records_content(&mut self, records: &Records) {
        if !(self.splits && goes_beside(records)) {
            // External ones are of zero bytes here, or `in_one_buffer` had refused them.
            self.buffer.extend_from_slice(records.as_inline().map_or(&[], |bytes| bytes));
            return;
        }
        let part = match records {
            Records::Inline(bytes) => Part::Bytes(bytes.clone()),
            Records::External { len_bytes, tag } => Part::External { len_bytes: *len_bytes, tag: *tag },
        };
        self.beside.push((self.buffer.len(), part));
    }

    #[inline]
    fn tagged<T: Value>(&mut self, tag: u32, value: &T, version: i16) -> Result<(), EncodeError> {
        self.uvarint(tag);
        self.uvarint(Sizer::tagged_size(value, version)?);
        value.put(self, true, version)
    }
}
