//! Reads a segment for the cleaner: whole batches, as many as one buffer holds.
//!
//! Every batch's CRC is checked: what is corrupt must neither decide about other records
//! nor be written again with a right CRC.

use std::io;

use klamm_protocol::records::BATCH_HEADER_BYTES;

use crate::disk::{DiskFile, read_full_at};
use crate::entry::{Entry, WalkError};

/// Room for a header; a batch that is larger is read on its own.
const BUFFER_BYTES_MIN: usize = BATCH_HEADER_BYTES;

pub(super) struct Reader {
    buffer: Vec<u8>,
    buffer_bytes: usize,
}

impl Reader {
    pub(super) fn new(buffer_bytes: usize) -> Self {
        Self { buffer: Vec::new(), buffer_bytes: buffer_bytes.max(BUFFER_BYTES_MIN) }
    }

    /// Calls `each` for the whole batches from `position` on that one buffer holds, at least
    /// one, until it says false. Gives the position behind the last one that was taken.
    pub(super) fn read(
        &mut self,
        file: &dyn DiskFile,
        position: u32,
        limit: u32,
        mut each: impl FnMut(&Entry, &[u8]) -> Result<bool, WalkError>,
    ) -> Result<u32, WalkError> {
        let io = |source: io::Error| WalkError::Io { position: u64::from(position), source };
        let left = (limit - position) as usize;
        let filled = self.fill(file, position, left.min(self.buffer_bytes)).map_err(io)?;
        let first = Entry::parse(&self.buffer, u64::from(position), u64::from(limit - position))?;
        if first.size_bytes as usize > filled {
            // The header was checked against what the file holds.
            self.fill(file, position, first.size_bytes as usize).map_err(io)?;
        }
        let mut at = position;
        while at < limit {
            let start = (at - position) as usize;
            let bytes = &self.buffer[start..];
            if bytes.len() < BATCH_HEADER_BYTES.min((limit - at) as usize) {
                break;
            }
            let entry = Entry::parse(bytes, u64::from(at), u64::from(limit - at))?;
            let Some(bytes) = bytes.get(..entry.size_bytes as usize) else {
                if at == position {
                    return Err(WalkError::Torn { position: u64::from(at) });
                }
                break;
            };
            if !entry.is_intact(bytes) {
                let reason = "a wrong CRC".to_owned();
                return Err(WalkError::Invalid { position: u64::from(at), reason });
            }
            if !each(&entry, bytes)? {
                break;
            }
            at = entry.end();
        }
        if self.buffer.capacity() > self.buffer_bytes {
            self.buffer = Vec::new();
        }
        Ok(at)
    }

    fn fill(&mut self, file: &dyn DiskFile, position: u32, len: usize) -> io::Result<usize> {
        self.buffer.resize(len, 0);
        let read = read_full_at(file, &mut self.buffer, u64::from(position))?;
        self.buffer.truncate(read);
        Ok(read)
    }
}
