//! Walks the batches of a region without copying: a log segment, or the records of a request.
//!
//! Structure only: sizes, magic and that each batch lies whole within the region. No CRC,
//! no order of offsets, no records: the caller knows which of them it needs. Entries of
//! magic 0 and 1 may lie in old segments; they are told apart and sized, not decoded.

use std::ops::Range;

use super::header::{BYTES_UP_TO_MAGIC, BatchError, BatchHeader, LOG_OVERHEAD_BYTES, i32_at, i64_at};
use crate::ids::Offset;

/// Smallest length field of an entry of magic 0: CRC, magic, attributes, key and value length.
const LEGACY_V0_LENGTH_MIN: i32 = 14;
/// Magic 1 adds a timestamp.
const LEGACY_V1_LENGTH_MIN: i32 = 22;

/// One entry of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned<'a> {
    /// A batch of magic 2.
    Batch(BatchSlice<'a>),
    /// An entry of magic 0 or 1.
    Legacy(LegacyEntry),
}

/// A batch of magic 2 within a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSlice<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// Where it lies in the region.
    pub range: Range<usize>,
    /// The whole batch, header included.
    pub bytes: &'a [u8],
}

/// An entry of the formats before Kafka 0.11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyEntry {
    /// The offset field: of the record, or of the last one in a compressed set.
    pub offset: Offset,
    /// 0 or 1.
    pub magic: i8,
    /// Where it lies in the region.
    pub range: Range<usize>,
}

/// The bytes at `position` are no whole entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The region ends within an entry; what is there of it may be right.
    #[error("the entry at byte {position} is cut: {needed_bytes} bytes needed, {available_bytes} there")]
    Torn {
        /// Where the entry begins.
        position: usize,
        /// What it needs, as far as is known.
        needed_bytes: usize,
        /// What is there.
        available_bytes: usize,
    },
    /// These bytes cannot begin an entry.
    #[error("no entry begins at byte {position}: {error}")]
    Invalid {
        /// Where an entry should begin.
        position: usize,
        /// What is wrong.
        error: BatchError,
    },
}

impl ScanError {
    /// Where the first byte lies that is no part of a whole entry.
    #[must_use]
    pub fn position(&self) -> usize {
        match self {
            Self::Torn { position, .. } | Self::Invalid { position, .. } => *position,
        }
    }
}

/// Iterates over the entries of a region; ends at its end or behind the first error.
#[derive(Clone, Debug)]
pub struct BatchIter<'a> {
    region: &'a [u8],
    position: usize,
    is_done: bool,
}

/// The entries of `region`, from its first byte.
#[must_use]
pub fn scan_batches(region: &[u8]) -> BatchIter<'_> {
    BatchIter { region, position: 0, is_done: false }
}

impl BatchIter<'_> {
    /// Where the next entry begins; behind an error, where the bad one does.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<Scanned<'a>, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done || self.position == self.region.len() {
            return None;
        }
        let entry = entry_at(self.region, self.position);
        match &entry {
            Ok(Scanned::Batch(batch)) => self.position = batch.range.end,
            Ok(Scanned::Legacy(legacy)) => self.position = legacy.range.end,
            Err(_) => self.is_done = true,
        }
        Some(entry)
    }
}

fn entry_at(region: &[u8], position: usize) -> Result<Scanned<'_>, ScanError> {
    let bytes = &region[position..];
    let torn = |needed_bytes| ScanError::Torn { position, needed_bytes, available_bytes: bytes.len() };
    let invalid = |error| ScanError::Invalid { position, error };
    if bytes.len() < BYTES_UP_TO_MAGIC {
        return Err(torn(BYTES_UP_TO_MAGIC));
    }
    let length = i32_at(bytes, 8);
    let magic = bytes[16] as i8;
    let length_min = match magic {
        0 => LEGACY_V0_LENGTH_MIN,
        1 => LEGACY_V1_LENGTH_MIN,
        2 => 49,
        _ => return Err(invalid(BatchError::UnsupportedMagic(magic))),
    };
    if length < length_min {
        return Err(invalid(BatchError::InvalidLength { length, magic }));
    }
    let entry_bytes = length as usize + LOG_OVERHEAD_BYTES;
    if bytes.len() < entry_bytes {
        return Err(torn(entry_bytes));
    }
    let range = position..position + entry_bytes;
    if magic < 2 {
        return Ok(Scanned::Legacy(LegacyEntry { offset: Offset(i64_at(bytes, 0)), magic, range }));
    }
    let header = BatchHeader::parse(bytes).map_err(invalid)?;
    Ok(Scanned::Batch(BatchSlice { header, range, bytes: &bytes[..entry_bytes] }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, check_crc};
    use proptest::prelude::*;

    fn region() -> Vec<u8> {
        let mut region = Vec::new();
        for base in [7i64, 9, 11] {
            let mut builder = BatchBuilder::new().base_offset(Offset(base));
            builder.push(base, Some(b"key"), Some(b"value"), &[]);
            builder.push(base, None, Some(b"other"), &[]);
            region.extend_from_slice(&builder.build());
        }
        region
    }

    #[test]
    fn entries_of_all_formats_are_told_apart() {
        let mut bytes = vec![0; 12 + 14];
        bytes[..8].copy_from_slice(&3i64.to_be_bytes());
        bytes[8..12].copy_from_slice(&14i32.to_be_bytes());
        let v0_end = bytes.len();
        let mut v1 = vec![0; 12 + 22];
        v1[..8].copy_from_slice(&4i64.to_be_bytes());
        v1[8..12].copy_from_slice(&22i32.to_be_bytes());
        v1[16] = 1;
        bytes.extend_from_slice(&v1);
        let v1_end = bytes.len();
        bytes.extend_from_slice(&region());
        let found: Vec<_> = scan_batches(&bytes).map(Result::unwrap).collect();
        assert_eq!(found.len(), 5);
        assert_eq!(found[0], Scanned::Legacy(LegacyEntry { offset: Offset(3), magic: 0, range: 0..v0_end }));
        assert_eq!(
            found[1],
            Scanned::Legacy(LegacyEntry { offset: Offset(4), magic: 1, range: v0_end..v1_end })
        );
        let Scanned::Batch(last) = &found[4] else { panic!("a batch") };
        assert_eq!((last.header.base_offset, last.header.last_offset()), (Offset(11), Offset(12)));
        assert_eq!(last.range.end, bytes.len());
        assert!(check_crc(last.bytes));
    }

    #[test]
    fn a_cut_at_every_byte_is_torn_behind_the_whole_batches() {
        let region = region();
        let ends: Vec<usize> = scan_batches(&region)
            .map(|e| match e.unwrap() {
                Scanned::Batch(b) => b.range.end,
                _ => 0,
            })
            .collect();
        for cut in 0..region.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let found: Vec<_> = scan_batches(&region[..cut]).collect();
            assert_eq!(found.iter().filter(|e| e.is_ok()).count(), whole);
            let start = if whole == 0 { 0 } else { ends[whole - 1] };
            match found.last() {
                Some(Err(error)) => {
                    assert!(matches!(error, ScanError::Torn { .. }), "{error}");
                    assert_eq!(error.position(), start);
                }
                _ => assert_eq!(cut, start),
            }
        }
    }

    #[test]
    fn a_zeroed_tail_is_invalid() {
        let mut bytes = region();
        let end = bytes.len();
        bytes.resize(end + 100, 0);
        let last = scan_batches(&bytes).last().unwrap();
        let error = BatchError::InvalidLength { length: 0, magic: 0 };
        assert_eq!(last, Err(ScanError::Invalid { position: end, error }));
    }

    proptest! {
        #[test]
        fn any_bytes_scan_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut position = 0;
            for entry in scan_batches(&bytes) {
                match entry {
                    Ok(Scanned::Batch(b)) => { prop_assert_eq!(b.range.start, position); position = b.range.end }
                    Ok(Scanned::Legacy(l)) => { prop_assert_eq!(l.range.start, position); position = l.range.end }
                    Err(e) => prop_assert_eq!(e.position(), position),
                }
            }
        }
    }
}
