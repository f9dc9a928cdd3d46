//! What a log is asked and told about transactions before their first batch comes (KIP-890).
//!
//! Begin, ask the coordinator, confirm or refuse, append: each step in the log's turn. What it
//! deliberately does not do: ask; who appends knows where the coordinator is.

use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::time::WallMs;

use crate::error::AppendError;
use crate::log::Log;
use crate::producer::{ProducerEntry, TransactionClaim, Verification, VerificationTicket};

impl Log {
    /// Whether the coordinator must be asked before a batch is appended: `None` if the batch goes on with a
    /// transaction that is open.
    ///
    /// # Errors
    /// [`AppendError::InvalidProducerEpoch`] for a producer that was replaced.
    pub fn begin_verification(
        &mut self,
        claim: &TransactionClaim,
        now: WallMs,
    ) -> Result<Option<VerificationTicket>, AppendError> {
        let (id, epoch) = (claim.producer_id, claim.producer_epoch);
        let known = self.producers.get(id);
        known.map_or(Ok(()), |entry| refuse_stale(entry, id, epoch))?;
        if known.is_some_and(|entry| entry.has_open_transaction(epoch)) {
            return Ok(None);
        }
        Ok(Some(self.verifications.begin(claim, now.0)))
    }

    /// The coordinator knows the transaction: its first batch may come, unless a marker came first.
    pub fn confirm_verification(&mut self, id: ProducerId, epoch: ProducerEpoch, ticket: VerificationTicket) {
        self.verifications.confirm(id, epoch, ticket);
    }

    /// The coordinator knows of no such transaction. Not for an answer that may be another one soon: until
    /// then no later batch may overtake this one.
    pub fn refuse_verification(&mut self, id: ProducerId, epoch: ProducerEpoch, ticket: VerificationTicket) {
        self.verifications.refuse(id, epoch, ticket);
    }

    /// What an append of a coordinator's records in a producer's transaction would be told now.
    ///
    /// # Errors
    /// [`AppendError::InvalidProducerEpoch`], [`AppendError::InvalidTxnState`].
    pub fn check_transaction(&self, id: ProducerId, epoch: ProducerEpoch) -> Result<(), AppendError> {
        let unknown = ProducerEntry::default();
        let entry = self.producers.get(id).unwrap_or(&unknown);
        self.check_begun(entry, id, epoch, self.verifications.get(id, epoch))
    }

    /// A batch of a transaction goes on with one that is open, or begins one that the coordinator knows.
    pub(crate) fn check_begun(
        &self,
        entry: &ProducerEntry,
        id: ProducerId,
        epoch: ProducerEpoch,
        verification: Option<&Verification>,
    ) -> Result<(), AppendError> {
        refuse_stale(entry, id, epoch)?;
        let is_begun = entry.has_open_transaction(epoch)
            || verification.is_some_and(|asked| asked.is_verified)
            || !self.config.verifies_transactions;
        if is_begun {
            return Ok(());
        }
        Err(AppendError::InvalidTxnState(format!(
            "The record of producer {id} with epoch {epoch} is not part of an ongoing transaction in {}",
            self.name
        )))
    }
}

fn refuse_stale(entry: &ProducerEntry, id: ProducerId, epoch: ProducerEpoch) -> Result<(), AppendError> {
    if epoch >= entry.producer_epoch {
        return Ok(());
    }
    Err(AppendError::InvalidProducerEpoch(format!(
        "Epoch of producer {id} is {epoch}, which is smaller than the last seen epoch {}",
        entry.producer_epoch
    )))
}
