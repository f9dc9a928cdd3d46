//! Transactions on the way through a log: what was aborted, which markers are of no use any
//! more (KIP-98, KIP-534). Pure.
//!
//! Aborted transactions come from the transaction indexes, of which those that matter to
//! what is left go into the cleaned one. A marker is done once no batch of its transaction
//! was met; a batch that was emptied to keep its producer's sequence counts as one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use klamm_protocol::ids::{Offset, ProducerId};
use klamm_protocol::records::BatchHeader;

use crate::producer::EndMarker;
use crate::transaction_index::AbortedTransaction;

#[derive(Clone, Debug)]
pub(super) struct Transactions {
    /// Those that have not begun yet, by first offset.
    ahead: VecDeque<AbortedTransaction>,
    aborted: BTreeMap<ProducerId, Aborted>,
    /// Producers of whose committed transaction a batch was met.
    committed: BTreeSet<ProducerId>,
}

#[derive(Clone, Copy, Debug)]
struct Aborted {
    transaction: AbortedTransaction,
    has_batches: bool,
}

/// What a control batch is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marked {
    /// Nothing of its transaction is left.
    pub is_done: bool,
    /// The entry that the cleaned transaction index needs.
    pub aborted: Option<AbortedTransaction>,
}

impl Transactions {
    pub(super) fn new(mut aborted: Vec<AbortedTransaction>) -> Self {
        aborted.sort_by_key(|transaction| transaction.first_offset);
        Self { ahead: aborted.into(), aborted: BTreeMap::new(), committed: BTreeSet::new() }
    }

    /// A data batch; true if it was aborted.
    pub(super) fn on_batch(&mut self, header: &BatchHeader) -> bool {
        self.begin_up_to(header.base_offset, header.last_offset());
        if !header.attributes.is_transactional() {
            return false;
        }
        match self.aborted.get_mut(&header.producer_id) {
            Some(aborted) if aborted.transaction.last_offset > header.base_offset => {
                aborted.has_batches = true;
                true
            }
            _ => {
                self.committed.insert(header.producer_id);
                false
            }
        }
    }

    /// A control batch; `marker` is what it says, if it is a transaction's end.
    pub(super) fn on_control(&mut self, header: &BatchHeader, marker: Option<&EndMarker>) -> Marked {
        self.begin_up_to(header.base_offset, header.last_offset());
        match marker {
            // Emptied by an earlier cleaning: its transaction was gone then.
            None => Marked { is_done: header.record_count == 0, aborted: None },
            Some(EndMarker { is_commit: true, .. }) => {
                Marked { is_done: !self.committed.remove(&header.producer_id), aborted: None }
            }
            Some(EndMarker { is_commit: false, .. }) => {
                let ends_here = |known: &Aborted| known.transaction.last_offset >= header.base_offset;
                let ended = self.aborted.remove(&header.producer_id);
                let ended = ended.filter(|known| known.has_batches && ends_here(known));
                // Batches that no index knows to be aborted: their marker must stay all the same.
                let has_batches = self.committed.remove(&header.producer_id);
                Marked {
                    is_done: ended.is_none() && !has_batches,
                    aborted: ended.map(|aborted| aborted.transaction),
                }
            }
        }
    }

    fn begin_up_to(&mut self, base: Offset, last: Offset) {
        while self.ahead.front().is_some_and(|next| next.first_offset <= last) {
            let Some(next) = self.ahead.pop_front() else { break };
            let begun = Aborted { transaction: next, has_batches: false };
            // One whose marker was passed over, because it is gone, is over.
            let is_open = |known: &Aborted| known.transaction.last_offset >= base;
            if next.last_offset >= base && !self.aborted.get(&next.producer_id).is_some_and(is_open) {
                self.aborted.insert(next.producer_id, begun);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use klamm_protocol::ids::ProducerEpoch;
    use klamm_protocol::records::BatchBuilder;

    fn header(offset: i64, producer: i64, is_control: bool) -> BatchHeader {
        let builder = BatchBuilder::new()
            .base_offset(Offset(offset))
            .producer(ProducerId(producer), ProducerEpoch(0), 0)
            .transactional();
        let mut builder = if is_control { builder.control() } else { builder };
        builder.push(1, Some(b"k"), None, &[]);
        BatchHeader::parse(&builder.build()).unwrap()
    }

    fn aborted(producer: i64, first: i64, last: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(producer),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(last),
        }
    }

    fn end(is_commit: bool) -> EndMarker {
        EndMarker { is_commit, coordinator_epoch: 0 }
    }

    #[test]
    fn batches_of_aborted_transactions_go_and_their_marker_waits_for_them() {
        let listed = vec![aborted(1, 12, 14), aborted(1, 2, 5)];
        let mut transactions = Transactions::new(listed.clone());
        assert!(!transactions.on_batch(&header(1, 1, false)), "before the transaction");
        assert!(!transactions.on_batch(&header(2, 2, false)), "of another producer");
        assert!(transactions.on_batch(&header(2, 1, false)));
        let marked = transactions.on_control(&header(5, 1, true), Some(&end(false)));
        assert_eq!(marked, Marked { is_done: false, aborted: Some(listed[1]) });
        // The second one's batches are gone.
        let marked = transactions.on_control(&header(14, 1, true), Some(&end(false)));
        assert_eq!(marked, Marked { is_done: true, aborted: None });
        assert!(!transactions.on_batch(&header(15, 1, false)));
    }

    #[test]
    fn a_commit_marker_is_done_when_no_batch_was_met() {
        let mut transactions = Transactions::new(Vec::new());
        transactions.on_batch(&header(1, 1, false));
        assert!(!transactions.on_control(&header(2, 1, true), Some(&end(true))).is_done);
        assert!(transactions.on_control(&header(3, 1, true), Some(&end(true))).is_done);
        assert!(!transactions.on_control(&header(4, 1, true), None).is_done, "of another kind");
        let empty = BatchHeader { record_count: 0, ..header(5, 1, true) };
        assert!(transactions.on_control(&empty, None).is_done);
    }

    #[test]
    fn an_entry_whose_marker_is_gone_aborts_nothing_later() {
        let mut transactions = Transactions::new(vec![aborted(1, 2, 5), aborted(1, 9, 20)]);
        assert!(!transactions.on_batch(&header(7, 1, false)));
        assert!(transactions.on_batch(&header(9, 1, false)));
        let mut transactions = Transactions::new(vec![aborted(1, 2, 5)]);
        assert!(transactions.on_batch(&header(3, 1, false)));
        assert!(!transactions.on_batch(&header(7, 1, false)), "its marker was passed over");
        assert!(
            !transactions.on_control(&header(8, 1, true), Some(&end(false))).is_done,
            "no index knows it"
        );
    }
}
