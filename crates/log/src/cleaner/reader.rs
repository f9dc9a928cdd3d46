//! Reads a segment for the cleaner: whole batches, those that begin in one buffer.
//!
//! Every batch's CRC is checked: what is corrupt must neither decide about other records
//! nor be written again with a right CRC. The buffer stays from read to read: memory that is
//! given back and taken anew costs as much as the reading.

use std::io;

use klamm_protocol::records::BATCH_HEADER_BYTES;

use crate::disk::{ReadAt, read_full_at};
use crate::entry::{Entry, WalkError};

/// Room for a header; the rest of a batch that does not end in the buffer is read behind it.
const BUFFER_BYTES_MIN: usize = BATCH_HEADER_BYTES;
/// What the buffer may keep when a larger batch was read: `max.message.bytes`' default and some room.
const KEPT_BYTES_MAX: usize = 2 << 20;

pub(super) struct Reader {
    /// As long as the longest read so far, so that no byte is zeroed twice.
    buffer: Vec<u8>,
    /// What the last read put into the buffer.
    filled: usize,
    buffer_bytes: usize,
}

impl Reader {
    pub(super) fn new(buffer_bytes: usize) -> Self {
        Self { buffer: Vec::new(), filled: 0, buffer_bytes: buffer_bytes.max(BUFFER_BYTES_MIN) }
    }

    /// Calls `each` for the batches from `position` on that begin in one buffer, at least one,
    /// until it says false. Gives the position behind the last one that was taken.
    pub(super) fn read(
        &mut self,
        file: &dyn ReadAt,
        position: u32,
        limit: u32,
        mut each: impl FnMut(&Entry, &[u8]) -> Result<bool, WalkError>,
    ) -> Result<u32, WalkError> {
        let io = |source: io::Error| WalkError::Io { position: u64::from(position), source };
        let left = (limit - position) as usize;
        self.filled = 0;
        self.fill(file, position, left.min(self.buffer_bytes)).map_err(io)?;
        let mut at = position;
        while at < limit {
            let start = (at - position) as usize;
            if at > position && self.filled < start + BATCH_HEADER_BYTES.min((limit - at) as usize) {
                break;
            }
            let head = &self.buffer[start..self.filled];
            let entry = Entry::parse(head, u64::from(at), u64::from(limit - at))?;
            let end = start + entry.size_bytes as usize;
            if self.filled < end {
                // The header was checked against what the file holds.
                self.fill(file, position, end).map_err(io)?;
            }
            if self.filled < end {
                return Err(WalkError::Torn { position: u64::from(at) });
            }
            let bytes = &self.buffer[start..end];
            if !entry.is_intact(bytes) {
                let reason = "a wrong CRC".to_owned();
                return Err(WalkError::Invalid { position: u64::from(at), reason });
            }
            if !each(&entry, bytes)? {
                break;
            }
            at = entry.end();
        }
        if self.buffer.len() > self.buffer_bytes.max(KEPT_BYTES_MAX) {
            self.buffer = Vec::new();
        }
        Ok(at)
    }

    /// Reads on behind what is there, until `len` bytes from `position` are.
    fn fill(&mut self, file: &dyn ReadAt, position: u32, len: usize) -> io::Result<()> {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let behind = u64::from(position) + self.filled as u64;
        self.filled += read_full_at(file, &mut self.buffer[self.filled..len], behind)?;
        Ok(())
    }
}
