//! Which log is cleaned next: of those that are due, the one with the largest dirty share. Pure.

use klamm_log::cleaner::CleanableRange;

/// A compacted log that could be cleaned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub range: CleanableRange,
    /// `min.cleanable.dirty.ratio`.
    pub ratio_min: f64,
}

/// The place of the next one.
pub(super) fn filthiest(candidates: &[Candidate]) -> Option<usize> {
    let due = candidates.iter().enumerate().filter(|(_, one)| one.range.is_due(one.ratio_min));
    due.max_by(|(_, a), (_, b)| a.range.dirty_ratio().total_cmp(&b.range.dirty_ratio())).map(|(at, _)| at)
}

/// The largest dirty share of any, in percent.
pub(super) fn max_dirty_percent(candidates: &[Candidate]) -> i64 {
    candidates.iter().map(|one| (one.range.dirty_ratio() * 100.0) as i64).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use klamm_protocol::ids::Offset;

    fn candidate(clean_bytes: u64, cleanable_bytes: u64, overdue_ms: i64) -> Candidate {
        let range = CleanableRange {
            first_dirty: Offset(0),
            first_uncleanable: Offset(1),
            clean_bytes,
            cleanable_bytes,
            overdue_ms,
            is_checkpoint_invalid: false,
        };
        Candidate { range, ratio_min: 0.5 }
    }

    #[test]
    fn the_filthiest_of_those_that_are_due_is_next() {
        assert_eq!(filthiest(&[]), None);
        let clean = candidate(90, 10, 0);
        assert_eq!(filthiest(&[clean, candidate(50, 50, 0)]), None, "the share must exceed the ratio");
        assert_eq!(filthiest(&[clean, candidate(40, 60, 0), candidate(30, 70, 0)]), Some(2));
        assert_eq!(filthiest(&[clean, candidate(90, 10, 1)]), Some(1), "overdue");
        assert_eq!(filthiest(&[candidate(90, 0, 1)]), None, "there is nothing to clean");
        assert_eq!(max_dirty_percent(&[clean, candidate(75, 25, 0)]), 25);
    }
}
