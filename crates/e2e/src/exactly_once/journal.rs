//! What all clients of a round share: its clock, what they wrote down, how far it is, and when it must be over.

use super::history::{Transaction, TransactionId};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A round that takes longer hangs: what waits in it waits for a broker that does not answer.
const ROUND_LIMIT: Duration = Duration::from_secs(180);

/// Shared by the threads of a round.
pub struct Journal {
    clock: AtomicU64,
    transactions: Mutex<BTreeMap<TransactionId, Transaction>>,
    finished: AtomicU64,
    faults_over: AtomicBool,
    has_failed: AtomicBool,
    deadline: Instant,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            clock: AtomicU64::new(0),
            transactions: Mutex::default(),
            finished: AtomicU64::new(0),
            faults_over: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            deadline: Instant::now() + ROUND_LIMIT,
        }
    }
}

impl Journal {
    /// A moment of its own: what ended before another thing began has the lower one.
    pub fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Writes a transaction down.
    ///
    /// # Panics
    /// When it was written down before.
    pub fn note(&self, id: TransactionId, transaction: Transaction) {
        let before = self.transactions.lock().expect("transactions").insert(id, transaction);
        assert_eq!(before, None, "one transaction, one entry");
        self.finished.fetch_add(1, Ordering::SeqCst);
    }

    /// How many transactions have ended.
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::SeqCst)
    }

    /// From now on the broker is left in peace, and clients come to an end.
    pub fn end_faults(&self) {
        self.faults_over.store(true, Ordering::SeqCst);
    }

    /// Whether the broker is left in peace.
    pub fn are_faults_over(&self) -> bool {
        self.faults_over.load(Ordering::SeqCst)
    }

    /// Nobody need wait any longer.
    pub fn fail(&self) {
        self.has_failed.store(true, Ordering::SeqCst);
        self.end_faults();
    }

    /// When the round must be over.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// For loops that try until they succeed.
    ///
    /// # Panics
    /// Once the round should be over or has failed, saying what `who` waits for.
    pub fn check_time(&self, who: &str, what: &dyn std::fmt::Debug) {
        assert!(!self.has_failed.load(Ordering::SeqCst), "{who}: the round failed: {what:?}");
        assert!(Instant::now() < self.deadline, "{who}: the round hangs: {what:?}");
    }

    /// Everything written down.
    ///
    /// # Panics
    /// When a client panicked.
    pub fn into_transactions(self) -> BTreeMap<TransactionId, Transaction> {
        self.transactions.into_inner().expect("transactions")
    }
}
