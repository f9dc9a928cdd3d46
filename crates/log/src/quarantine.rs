//! Ranges of a segment's file that were found corrupt: never served, never copied, never cut.
//!
//! Remembered in memory only, for as long as the segment is open: whoever reads the range
//! after a restart finds it again. Invariants: ranges do not overlap and are sorted; each
//! begins where a batch should begin and ends where one does, or at the end of the segment.

use std::sync::{Arc, Mutex, OnceLock};

use klamm_protocol::ids::Offset;

/// Bytes of one segment that cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Where the bad batch begins in the file.
    pub position: u32,
    /// Where the next good one begins.
    pub end_position: u32,
    /// The first offset that is lost.
    pub offset: Offset,
    /// The first offset behind it that can be read.
    pub end_offset: Offset,
    /// What is wrong.
    pub cause: String,
}

impl Quarantined {
    /// How many bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        self.end_position - self.position
    }
}

/// The ranges of one file.
pub(crate) type Ranges = Arc<[Quarantined]>;

#[derive(Default)]
pub(crate) struct Quarantine(OnceLock<Box<Mutex<Ranges>>>);

impl Quarantine {
    /// `None` while nothing was found: nearly always.
    pub(crate) fn ranges(&self) -> Option<Ranges> {
        Some(Arc::clone(&self.0.get()?.lock().expect("no holder panics")))
    }

    /// Adds a range, unless it meets one that is known. True if it was new.
    pub(crate) fn add(&self, found: Quarantined) -> bool {
        let slot = self.0.get_or_init(|| Box::new(Mutex::new(Ranges::default())));
        let mut ranges = slot.lock().expect("no holder panics");
        let at = ranges.partition_point(|known| known.end_position <= found.position);
        if ranges.get(at).is_some_and(|known| known.position < found.end_position) {
            return false;
        }
        let mut list = ranges.to_vec();
        list.insert(at, found);
        *ranges = list.into();
        true
    }

    /// The range with `offset`.
    pub(crate) fn at_offset(&self, offset: Offset) -> Option<Quarantined> {
        let ranges = self.ranges()?;
        ranges.iter().find(|range| range.offset <= offset && offset < range.end_offset).cloned()
    }

    /// The first range that begins behind `position`.
    pub(crate) fn behind(&self, position: u32) -> Option<u32> {
        let ranges = self.ranges()?;
        ranges.iter().map(|range| range.position).find(|start| *start > position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kept_in_order_and_only_once() {
        let quarantine = Quarantine::default();
        let range = |position: u32| Quarantined {
            position,
            end_position: position + 10,
            offset: Offset(i64::from(position)),
            end_offset: Offset(i64::from(position) + 10),
            cause: "a test".to_owned(),
        };
        assert!(quarantine.ranges().is_none() && quarantine.at_offset(Offset(0)).is_none());
        assert!(quarantine.add(range(50)) && quarantine.add(range(10)));
        assert!(!quarantine.add(range(15)) && !quarantine.add(range(50)));
        assert_eq!(*quarantine.ranges().unwrap(), [range(10), range(50)]);
        assert_eq!(quarantine.at_offset(Offset(59)), Some(range(50)));
        assert_eq!(quarantine.at_offset(Offset(60)), None);
        assert_eq!(
            (quarantine.behind(9), quarantine.behind(10), quarantine.behind(50)),
            (Some(10), Some(50), None)
        );
    }
}
