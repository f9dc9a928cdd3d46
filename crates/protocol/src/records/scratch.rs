//! Buffers and codec contexts that outlive one batch.
//!
//! One per thread or connection. What a batch may leave behind is bounded: a buffer
//! or context that grew past [`KEPT_BYTES_MAX`] is given back after use.

use super::codec::Contexts;

/// What one buffer or codec context may keep between two batches.
pub(super) const KEPT_BYTES_MAX: usize = 1 << 20;

/// Reused memory of decompression and compression; starts empty.
#[derive(Default)]
pub struct Scratch {
    pub(super) window: Window,
    pub(super) contexts: Contexts,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("window_bytes", &self.window.buffer.len()).finish_non_exhaustive()
    }
}

impl Scratch {
    /// Holds nothing until a compressed batch comes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives back what grew too large.
    pub(super) fn trim(&mut self) {
        self.window.clear();
        if self.window.buffer.len() > KEPT_BYTES_MAX {
            self.window.buffer = Vec::new();
        }
        self.contexts.trim();
    }
}

/// Decompressed bytes that wait to be read. Grows with what arrives, never ahead of it
/// by more than the space asked for.
#[derive(Default)]
pub(super) struct Window {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Window {
    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn consume(&mut self, len: usize) {
        assert!(len <= self.end - self.start, "only what is there can be read");
        self.start += len;
    }

    /// Room for at least `len` bytes behind the unread ones.
    pub(super) fn space(&mut self, len: usize) -> &mut [u8] {
        if self.buffer.len() - self.end < len {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let needed = self.end + len;
            if self.buffer.len() < needed {
                self.buffer.resize(needed.max(self.end * 2), 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// The first `len` bytes of the space are filled.
    pub(super) fn commit(&mut self, len: usize) {
        assert!(len <= self.buffer.len() - self.end, "only the space can be filled");
        self.end += len;
    }
}
