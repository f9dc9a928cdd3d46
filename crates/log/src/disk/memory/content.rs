//! One file's bytes twice: as everybody reads them, and as the device has them.
//!
//! Between two flushes the device may have written any of the changes, sector by sector and
//! in any order; the length follows the changes in order, and a sector that a shortening
//! took away does not come back with what it held before. A failed flush forgets what it
//! should have written: reads still show it, a later flush succeeds, the device never has it.

use super::draw::Draw;

/// What a device writes as a whole.
const SECTOR_BYTES: usize = 512;

#[derive(Clone, Default)]
pub(super) struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write {
        position: usize,
        bytes: Vec<u8>,
        /// A failed flush dropped it: the file has the length, the device never the bytes.
        is_lost: bool,
    },
    SetLen(usize),
}

impl Content {
    /// As it lies on the device.
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), bytes, pending: Vec::new() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn write(&mut self, position: usize, bytes: Vec<u8>) {
        let change = Change::Write { position, bytes, is_lost: false };
        change.apply(&mut self.bytes);
        self.pending.push(change);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.bytes.resize(len, 0);
        self.pending.push(Change::SetLen(len));
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }

    pub(super) fn fail_sync(&mut self) {
        for change in &mut self.pending {
            if let Change::Write { is_lost, .. } = change {
                *is_lost = true;
            }
        }
    }

    /// What the device has after the power went: nothing but the flushed bytes is certain.
    pub(super) fn after_power_cut(&self, draw: &mut Draw) -> Vec<u8> {
        let count = self.pending.len();
        if count == 0 {
            return self.durable.clone();
        }
        let fate = draw.below(4);
        let versions = |draw: &mut Draw, low: usize, high: usize| match fate {
            0 => low,
            1 => high,
            _ => low + draw.below((high - low + 1) as u64) as usize,
        };
        // Version k of anything is what the first k changes make of it.
        let len_version = versions(draw, 0, count);
        let mut len = self.durable.len();
        let mut longest = len;
        for (index, change) in self.pending.iter().enumerate() {
            longest = longest.max(change.len_after(longest));
            if index < len_version {
                len = change.len_after(len);
            }
        }
        let mut bytes = self.durable.clone();
        bytes.resize(longest, 0);
        let chosen: Vec<usize> = (0..longest.div_ceil(SECTOR_BYTES))
            .map(|sector| {
                let start = sector * SECTOR_BYTES;
                let takes_away = |change: &Change| matches!(change, Change::SetLen(len) if *len <= start);
                let low = self.pending[..len_version].iter().rposition(takes_away).map_or(0, |at| at + 1);
                let high = self.pending[len_version..].iter().position(takes_away);
                versions(draw, low, high.map_or(count, |at| len_version + at))
            })
            .collect();
        for (index, change) in self.pending.iter().enumerate() {
            change.apply_where(&mut bytes, |sector| index < chosen[sector]);
        }
        bytes.truncate(len);
        bytes
    }
}

impl Change {
    fn len_after(&self, len: usize) -> usize {
        match self {
            Self::Write { position, bytes, .. } => len.max(position + bytes.len()),
            Self::SetLen(len) => *len,
        }
    }

    fn apply(&self, target: &mut Vec<u8>) {
        target.resize(self.len_after(target.len()), 0);
        if let Self::Write { position, bytes, is_lost: false } = self {
            target[*position..position + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Changes only the chosen sectors; `target` is as long as the file ever was.
    fn apply_where(&self, target: &mut [u8], is_chosen: impl Fn(usize) -> bool) {
        let (start, end) = match self {
            Self::Write { is_lost: true, .. } => return,
            Self::Write { position, bytes, .. } => (*position, position + bytes.len()),
            Self::SetLen(len) => (*len, target.len()),
        };
        let mut at = start;
        while at < end {
            let sector = at / SECTOR_BYTES;
            let next = end.min((sector + 1) * SECTOR_BYTES);
            if is_chosen(sector) {
                match self {
                    Self::Write { position, bytes, .. } => {
                        target[at..next].copy_from_slice(&bytes[at - position..next - position]);
                    }
                    Self::SetLen(_) => target[at..next].fill(0),
                }
            }
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(content: &Content) -> Vec<Vec<u8>> {
        let mut seen: Vec<Vec<u8>> =
            (0..400).map(|seed| content.after_power_cut(&mut Draw::new(seed))).collect();
        seen.sort();
        seen.dedup();
        seen
    }

    #[test]
    fn only_what_was_flushed_is_certain_and_sectors_tear() {
        let mut content = Content::default();
        content.write(0, vec![1; 600]);
        content.sync();
        assert_eq!(cuts(&content), [vec![1; 600]]);
        content.write(600, vec![2; 600]);
        let seen = cuts(&content);
        assert!(seen.contains(&vec![1; 600]));
        assert!(seen.contains(&content.bytes().to_vec()));
        assert!(seen.iter().any(|bytes| bytes.len() == 1200 && bytes[600] == 2 && bytes[1199] == 0));
        assert!(seen.iter().any(|bytes| bytes.len() == 1200 && bytes[600] == 0 && bytes[1199] == 2));
        assert!(seen.iter().all(|bytes| bytes[..600] == [1; 600]));
    }

    #[test]
    fn what_a_shortening_took_away_does_not_come_back() {
        let mut content = Content::durable(vec![1; 2048]);
        content.set_len(0);
        content.write(0, vec![2; 1024]);
        for bytes in cuts(&content) {
            let is_old = bytes == [1; 2048];
            assert!(is_old || bytes.iter().all(|byte| *byte != 1), "{bytes:?}");
        }
        content.sync();
        assert_eq!(cuts(&content), [vec![2; 1024]]);
    }

    #[test]
    fn after_a_failed_flush_the_next_one_succeeds_without_the_bytes() {
        let mut content = Content::durable(vec![1; 4]);
        content.write(4, vec![2; 4]);
        content.fail_sync();
        content.write(8, vec![3; 4]);
        content.sync();
        assert_eq!(content.bytes(), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        assert_eq!(cuts(&content), [[1, 1, 1, 1, 0, 0, 0, 0, 3, 3, 3, 3]]);
    }
}
