//! Room ahead of a log's end: how many zeros an append leaves behind its batches.
//!
//! A flush that finds its bytes inside the file writes them and nothing else; one that finds the
//! file longer writes the inode too (docs/adr/0002-group-commit.md has the figures). The zeros cost a
//! second write of every byte, so they pay only where little is flushed at a time, file by
//! file, and somebody waits: the caller counts such flushes. Pure; who writes, and who cuts the
//! rest off when the segment is closed, is the log.
//!
//! Invariant: zeros are only ever put where the file had nothing or zeros.

/// The largest window. One flush in so many bytes carries the zeros, about 0.1 ms more: at 1 KiB an append
/// one in 240, which no p99 sees. With 64 KiB it saw it; 1 MiB gained nothing and made that one flush slow.
const WINDOW_BYTES_MAX: u32 = 256 << 10;
/// Above so many bytes a flush the second write costs more than the inode.
const FLUSH_BYTES_MAX: u64 = 32 << 10;
/// So many flushes tell what comes.
const FLUSHES_MIN: u64 = 2;

/// What one growing segment's file has beyond its batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefill {
    /// The file has zeros up to here, or ends before: room that could not be made is not tried again
    /// before the log has come so far.
    end: u32,
    /// Where the last window was decided, and how many flushes there had been.
    decided_at: u32,
    flushes: u64,
}

impl Prefill {
    /// A file that ends with its batches, after so many flushes.
    pub(crate) fn new(size: u32, flushes: u64) -> Self {
        Self { end: size, decided_at: size, flushes }
    }

    /// How many zeros to write behind batches that end at `size`, after so many `flushes`.
    /// Twice what came since the last window, so that a log which hardly grows has little; never
    /// beyond what the segment may hold.
    pub(crate) fn window(&mut self, size: u32, flushes: u64, segment_bytes: u32) -> u32 {
        let since = flushes.saturating_sub(self.flushes);
        if size < self.end || since < FLUSHES_MIN {
            return 0;
        }
        let bytes = size.saturating_sub(self.decided_at);
        (self.decided_at, self.flushes, self.end) = (size, flushes, size);
        if u64::from(bytes) / since > FLUSH_BYTES_MAX {
            return 0;
        }
        let room = segment_bytes.saturating_sub(size);
        let window = bytes.saturating_mul(2).min(WINDOW_BYTES_MAX).min(room);
        self.end = size + window;
        window
    }

    /// True if the file may be longer than its batches, which end at `size`.
    pub(crate) fn is_beyond(&self, size: u32) -> bool {
        self.end > size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u32 = 1 << 10;

    /// Appends of `bytes`, each flushed alone; the windows that were wanted.
    fn windows(bytes: u32, count: u32, segment_bytes: u32) -> Vec<u32> {
        let mut prefill = Prefill::new(0, 0);
        let window = |index: u32| prefill.window((index + 1) * bytes, u64::from(index), segment_bytes);
        (0..count).map(window).filter(|window| *window > 0).collect()
    }

    #[test]
    fn the_window_grows_with_the_log_up_to_its_limit() {
        let found = windows(KIB, 2_000, u32::MAX);
        assert_eq!(found[..3], [6 * KIB, 12 * KIB, 24 * KIB]);
        assert!(found[6..].iter().all(|window| *window == WINDOW_BYTES_MAX), "{found:?}");
        assert!(found.len() > 10, "{found:?}");
    }

    #[test]
    fn large_flushes_and_unflushed_appends_get_none() {
        assert!(windows(40 * KIB, 100, u32::MAX).is_empty());
        let mut prefill = Prefill::new(0, 7);
        assert!((1..100).all(|index| prefill.window(index * KIB, 7, u32::MAX) == 0), "nobody flushed");
        assert!(!prefill.is_beyond(99 * KIB));
    }

    #[test]
    fn nothing_is_wanted_beyond_the_segment_or_while_there_is_room() {
        let mut prefill = Prefill::new(0, 0);
        assert_eq!(prefill.window(2 * KIB, 2, 5 * KIB), 3 * KIB);
        assert_eq!(prefill.window(4 * KIB, 9, 5 * KIB), 0, "there is room");
        assert!(prefill.is_beyond(4 * KIB));
        assert_eq!(prefill.window(5 * KIB, 10, 5 * KIB), 0, "the segment is full");
        assert!(!prefill.is_beyond(5 * KIB));
        assert_eq!(prefill.window(6 * KIB, 20, 5 * KIB), 0, "one batch may be larger than a segment");
    }
}
