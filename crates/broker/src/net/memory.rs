//! One budget for all the bytes that connections hold of requests.
//!
//! **Invariant:** what is claimed is given back when the claim is dropped; a
//! connection that gets no room stops reading until another gives some back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The budget; shared by every connection.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    bytes_max: usize,
    used_bytes: AtomicUsize,
}

impl MemoryBudget {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, used_bytes: AtomicUsize::new(0) })
    }

    /// Bytes claimed now.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

/// What one connection holds of the budget.
#[derive(Debug)]
pub(crate) struct Claim {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Claim {
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Grows or shrinks the claim to `bytes`; false, and nothing changed, without room.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            let freed = self.bytes - bytes;
            if freed > 0 {
                self.budget.used_bytes.fetch_sub(freed, Ordering::Relaxed);
            }
            self.bytes = bytes;
            return true;
        }
        let more = bytes - self.bytes;
        let within = |used: usize| used.checked_add(more).filter(|sum| *sum <= self.budget.bytes_max);
        let claimed = self.budget.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        if claimed.is_ok() {
            self.bytes = bytes;
        }
        claimed.is_ok()
    }

    /// All of the claim, for another holder of what it stands for; nothing is left here.
    pub(crate) fn take(&mut self) -> Self {
        let rest = Self::new(self.budget.clone());
        std::mem::replace(self, rest)
    }

    /// Grows the claim to `bytes` whether there is room or not: for the few bytes that every
    /// connection may hold, so that one which sends small requests is served under any pressure.
    pub(crate) fn force(&mut self, bytes: usize) {
        if !self.resize(bytes) {
            self.budget.used_bytes.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_share_one_budget() {
        let budget = MemoryBudget::new(100);
        let mut first = Claim::new(budget.clone());
        let mut second = Claim::new(budget.clone());
        assert!(first.resize(60));
        assert!(!second.resize(41));
        assert!(second.resize(40));
        assert_eq!(budget.used_bytes(), 100);
        drop(first);
        assert!(second.resize(100));
        drop(second);
        assert_eq!(budget.used_bytes(), 0);
    }
}
