//! ListTransactions: which transactional ids there are, and where their transactions stand.

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_protocol::ids::ProducerId;
use regex::Regex;

use super::state::TransactionState;
use super::{Remembered, TransactionCoordinator, TransactionCtx};

/// Which ones are wanted.
#[derive(Clone, Debug, Default)]
pub struct TransactionFilter {
    /// Only those of these producers; all if empty.
    pub producer_ids: BTreeSet<ProducerId>,
    /// Only those in one of these states.
    pub states: Option<BTreeSet<TransactionState>>,
    /// Only those that began longer ago.
    pub longer_than_ms: Option<i64>,
    /// Only those whose id as a whole matches.
    pub pattern: Option<Regex>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTransaction {
    /// Its id.
    pub transactional_id: Arc<str>,
    /// Its producer's.
    pub producer_id: ProducerId,
    /// Where it stands.
    pub state: TransactionState,
}

impl TransactionFilter {
    /// The expression that matches a whole id where `pattern` does.
    ///
    /// # Errors
    /// `pattern` is no expression.
    pub fn whole(pattern: &str) -> Result<Regex, regex::Error> {
        Regex::new(&format!("^(?:{pattern})$"))
    }
}

impl TransactionCoordinator {
    pub(super) fn list(&self, cx: &TransactionCtx<'_>, filter: &TransactionFilter) -> Vec<ListedTransaction> {
        let TransactionFilter { producer_ids, states, longer_than_ms, pattern } = filter;
        self.transactions
            .iter()
            .filter(|(id, Remembered { transaction, .. })| {
                (producer_ids.is_empty() || producer_ids.contains(&transaction.producer.id))
                    && states.as_ref().is_none_or(|states| states.contains(&transaction.state))
                    && longer_than_ms.is_none_or(|ms| cx.wall.0.saturating_sub(transaction.start_ms) > ms)
                    && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
            })
            .map(|(id, Remembered { transaction, .. })| ListedTransaction {
                transactional_id: id.clone(),
                producer_id: transaction.producer.id,
                state: transaction.state,
            })
            .collect()
    }
}
