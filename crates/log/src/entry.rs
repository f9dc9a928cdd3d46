//! Walks the batches of a segment's file by their headers.
//!
//! Sizes and offsets, and the CRC where somebody asks for it; no records. Entries of magic 0
//! and 1 are sized and stepped over. Invariants: nothing beyond the given limit is looked at,
//! nothing in a quarantined range is parsed, and a size on disk moves the walk but never
//! allocates.

use std::io;
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchHeader};

use crate::disk::{ReadAt, read_full_at};
use crate::error::{LogError, ReadError};
use crate::limits::OFFSET_MAX;
use crate::quarantine::Ranges;

/// Offset, size, CRC and magic: what every format begins with.
const PREFIX_BYTES: usize = 17;
/// Prefix, attributes, key length, value length.
const LEGACY_V0_BYTES_MIN: u32 = 26;
/// Where the bytes begin that the CRC of magic 2 covers, and of the older formats.
const CRC_START: u64 = 21;
const LEGACY_CRC_START: u64 = 16;
/// What is read at once to check a batch that no buffer holds.
const CRC_BUFFER_BYTES: usize = 64 << 10;
/// Magic 1 adds a timestamp.
const LEGACY_V1_BYTES_MIN: u32 = 34;
/// What a walk that looks for one place reads at once: the index interval's default and a header.
pub(crate) const LOOKUP_BUFFER_BYTES: usize = 4096 + BATCH_HEADER_BYTES;
/// What a walk over a whole segment reads at once.
pub(crate) const SCAN_BUFFER_BYTES: usize = 256 << 10;

/// A batch (or an entry of an older format) in a segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub position: u32,
    pub size_bytes: u32,
    /// For a compressed set of an older format this is the last offset too.
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp: i64,
    /// As stored.
    pub crc: u32,
    /// `None` for magic 0 and 1.
    pub header: Option<BatchHeader>,
}

/// The walk cannot go on.
#[derive(Debug)]
pub(crate) enum WalkError {
    Io {
        position: u64,
        source: io::Error,
    },
    /// The limit lies within this entry.
    Torn {
        position: u64,
    },
    /// No entry begins here.
    Invalid {
        position: u64,
        reason: String,
    },
}

impl Entry {
    pub(crate) fn end(&self) -> u32 {
        self.position + self.size_bytes
    }

    pub(crate) fn next_offset(&self) -> Offset {
        Offset(self.last_offset.0.saturating_add(1))
    }

    /// True if `bytes`, all of the entry, have its CRC.
    pub(crate) fn is_intact(&self, bytes: &[u8]) -> bool {
        let mut crc = self.digest();
        crc.update(&bytes[self.crc_start() as usize..]);
        crc.finalize() as u32 == self.crc
    }

    /// Where the bytes begin that the checksum covers, from the entry's position.
    fn crc_start(&self) -> u64 {
        if self.header.is_some() { CRC_START } else { LEGACY_CRC_START }
    }

    fn digest(&self) -> Digest {
        Digest::new(match self.header {
            Some(_) => CrcAlgorithm::Crc32Iscsi,
            None => CrcAlgorithm::Crc32IsoHdlc,
        })
    }

    /// The entry whose first bytes are `bytes`; `available` counts those that follow in all.
    pub(crate) fn parse(bytes: &[u8], position: u64, available: u64) -> Result<Self, WalkError> {
        let invalid = |reason: String| WalkError::Invalid { position, reason };
        if bytes.len() < PREFIX_BYTES {
            return Err(WalkError::Torn { position });
        }
        let base_offset = Offset(i64_at(bytes, 0));
        if base_offset.0 < 0 || base_offset > OFFSET_MAX {
            return Err(invalid(format!("offset {base_offset}")));
        }
        let magic = bytes[16] as i8;
        let (entry, bytes_min) = match magic {
            2 => {
                if bytes.len() < BATCH_HEADER_BYTES {
                    return Err(WalkError::Torn { position });
                }
                let header = BatchHeader::parse(bytes).map_err(|error| invalid(error.to_string()))?;
                if header.last_offset_delta < 0 {
                    return Err(invalid(format!("last offset delta {}", header.last_offset_delta)));
                }
                if header.record_count < 0 || header.record_count > header.last_offset_delta.saturating_add(1)
                {
                    return Err(invalid(format!("record count {}", header.record_count)));
                }
                (
                    Self {
                        position: 0,
                        size_bytes: header.batch_bytes,
                        base_offset,
                        last_offset: header.last_offset(),
                        max_timestamp: header.max_timestamp,
                        crc: i32_at(bytes, 17) as u32,
                        header: Some(header),
                    },
                    BATCH_HEADER_BYTES as u32,
                )
            }
            0 | 1 => {
                let length = i32_at(bytes, 8);
                let size_bytes = u32::try_from(length).map_err(|_| invalid(format!("length {length}")))? + 12;
                let max_timestamp = match magic {
                    1 if bytes.len() < 26 => return Err(WalkError::Torn { position }),
                    1 => i64_at(bytes, 18),
                    _ => -1,
                };
                let last_offset = base_offset;
                let bytes_min = if magic == 0 { LEGACY_V0_BYTES_MIN } else { LEGACY_V1_BYTES_MIN };
                let crc = i32_at(bytes, 12) as u32;
                (
                    Self {
                        position: 0,
                        size_bytes,
                        base_offset,
                        last_offset,
                        max_timestamp,
                        crc,
                        header: None,
                    },
                    bytes_min,
                )
            }
            _ => return Err(invalid(format!("magic {magic}"))),
        };
        if entry.size_bytes < bytes_min {
            return Err(invalid(format!("{} bytes for magic {magic}", entry.size_bytes)));
        }
        if u64::from(entry.size_bytes) > available {
            return Err(WalkError::Torn { position });
        }
        let position = u32::try_from(position).map_err(|_| invalid("a segment beyond 4 GiB".to_owned()))?;
        if position.checked_add(entry.size_bytes).is_none() {
            return Err(invalid("a segment beyond 4 GiB".to_owned()));
        }
        Ok(Self { position, ..entry })
    }
}

impl WalkError {
    pub(crate) fn into_read_error(self, path: &Path) -> ReadError {
        let path = path.to_owned();
        match self {
            Self::Io { position, source } => ReadError::Io { path, position, source },
            Self::Torn { position } => {
                ReadError::Corrupt { path, position, reason: "a batch that does not end".to_owned() }
            }
            Self::Invalid { position, reason } => ReadError::Corrupt { path, position, reason },
        }
    }

    pub(crate) fn into_log_error(self, path: &Path) -> LogError {
        match self {
            Self::Io { source, .. } => LogError::io("read", path)(source),
            Self::Torn { position } => LogError::Corrupt {
                path: path.to_owned(),
                position,
                reason: "a batch that does not end".to_owned(),
            },
            Self::Invalid { position, reason } => {
                LogError::Corrupt { path: path.to_owned(), position, reason }
            }
        }
    }
}

/// Steps from entry to entry between a position and a limit.
pub(crate) struct Walk<'a> {
    file: &'a dyn ReadAt,
    buffer: &'a mut [u8],
    /// The file's bytes from here are those of [`Walk::window`].
    window_position: u64,
    /// In the buffer.
    buffered: usize,
    /// Where the file lies in memory the window is that instead of the buffer.
    held: Option<&'a [u8]>,
    position: u64,
    limit: u64,
    skipped: Option<Ranges>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(file: &'a dyn ReadAt, position: u64, limit: u64, buffer: &'a mut [u8]) -> Self {
        assert!(buffer.len() >= BATCH_HEADER_BYTES);
        Self {
            file,
            buffer,
            window_position: position,
            buffered: 0,
            held: None,
            position,
            limit,
            skipped: None,
        }
    }

    /// Steps over what is quarantined.
    pub(crate) fn skipping(mut self, ranges: Option<Ranges>) -> Self {
        self.skipped = ranges;
        self
    }

    /// Goes on at a later position.
    pub(crate) fn jump_to(&mut self, position: u32) {
        self.position = u64::from(position);
    }

    /// Where the next entry begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next entry; `None` at the limit.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, WalkError> {
        for range in self.skipped.iter().flat_map(|ranges| ranges.iter()) {
            if (u64::from(range.position)..u64::from(range.end_position)).contains(&self.position) {
                self.position = u64::from(range.end_position);
            }
        }
        if self.position >= self.limit {
            return Ok(None);
        }
        let available = self.limit - self.position;
        let wanted = available.min(BATCH_HEADER_BYTES as u64) as usize;
        let mut start = self.position - self.window_position;
        if start.saturating_add(wanted as u64) > self.window().len() as u64 {
            let len = available.min(self.buffer.len() as u64) as usize;
            self.window_position = self.position;
            let held = self.file.held_from(self.position).filter(|held| held.len() >= wanted);
            self.held = held.map(|held| &held[..available.min(held.len() as u64) as usize]);
            if self.held.is_none() {
                self.buffered = read_full_at(self.file, &mut self.buffer[..len], self.position)
                    .map_err(|source| WalkError::Io { position: self.position, source })?;
            }
            start = 0;
        }
        let bytes = &self.window()[start as usize..];
        let entry = Entry::parse(bytes, self.position, available)?;
        self.position = u64::from(entry.end());
        Ok(Some(entry))
    }

    /// The bytes of the entry that `next` gave last, if the buffer happens to hold them all.
    pub(crate) fn buffered_bytes(&self, entry: &Entry) -> Option<&[u8]> {
        let start = usize::try_from(u64::from(entry.position).checked_sub(self.window_position)?).ok()?;
        self.window().get(start..start + entry.size_bytes as usize)
    }

    fn window(&self) -> &[u8] {
        self.held.unwrap_or(&self.buffer[..self.buffered])
    }

    /// True if the checksum of the entry that `next` gave last is right.
    pub(crate) fn is_intact(&self, entry: &Entry) -> io::Result<bool> {
        match self.buffered_bytes(entry) {
            Some(bytes) => Ok(entry.is_intact(bytes)),
            None => is_intact(self.file, entry),
        }
    }

    pub(crate) fn file(&self) -> &'a dyn ReadAt {
        self.file
    }

    /// Nothing at or behind it is looked at.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}

/// True if an entry's checksum is right; reads all of it, a piece at a time.
pub(crate) fn is_intact(file: &dyn ReadAt, entry: &Entry) -> io::Result<bool> {
    let end = u64::from(entry.end());
    let mut position = u64::from(entry.position) + entry.crc_start();
    let mut crc = entry.digest();
    let mut buffer = vec![0; ((end - position) as usize).min(CRC_BUFFER_BYTES)];
    while position < end {
        let wanted = ((end - position) as usize).min(buffer.len());
        let read = read_full_at(file, &mut buffer[..wanted], position)?;
        if read < wanted {
            return Ok(false);
        }
        crc.update(&buffer[..wanted]);
        position += wanted as u64;
    }
    Ok(crc.finalize() as u32 == entry.crc)
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
