//! Who may begin a transaction in this log: what the transaction coordinator said of it (KIP-890).
//!
//! A batch that would begin a transaction is taken only once the coordinator was asked, or nobody would
//! ever end it. Asking takes time, in which a marker may come: it takes the entry away, and an answer
//! with a ticket of before says nothing about what comes behind the marker.
//!
//! Soft state: a reopened or truncated log knows nothing, and producers ask again; so does whoever was
//! forgotten because too many ask.
//!
//! Invariants: a ticket never comes again in a process, so that an answer for a log of before, in another
//! directory, fits nothing; a batch or a marker of an epoch takes away what was asked for it and for
//! earlier ones; what is forgotten is not verified.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::records::BatchHeader;

/// Half of all sequence numbers: what is farther ahead lies behind.
const SEQUENCES_AHEAD_MAX: i64 = 1 << 30;

/// How many one log remembers. A coordinator that cannot answer leaves an entry for each producer that tries,
/// for a day: these take half a megabyte at most. So many do not begin at once between question and batch.
const VERIFICATIONS_MAX: usize = 4096;

static LAST_TICKET: AtomicU64 = AtomicU64::new(0);

/// Names one asking of the coordinator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerificationTicket(u64);

impl VerificationTicket {
    /// Later ones are larger; nothing else is to be read from the number, which other logs count on.
    fn next() -> Self {
        Self(LAST_TICKET.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Without the number: it is another one in the next run.
impl fmt::Debug for VerificationTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerificationTicket").finish_non_exhaustive()
    }
}

/// A batch that would begin a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionClaim {
    /// Who writes it.
    pub producer_id: ProducerId,
    /// In which epoch.
    pub producer_epoch: ProducerEpoch,
    /// The batch's first sequence number; -1 for a coordinator's.
    pub base_sequence: i32,
    /// Its transactions have an epoch each (transaction version 2).
    pub bumps_epoch: bool,
}

/// What was asked about one producer in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verification {
    ticket: VerificationTicket,
    began_ms: i64,
    /// Whoever lets a later batch through first makes the earlier one fail for ever.
    lowest_sequence: i32,
    pub bumps_epoch: bool,
    pub is_verified: bool,
    /// How many wait for an answer, or never got one.
    asking_count: u32,
}

impl Verification {
    /// True if a batch with an earlier sequence number waits to be verified, too; and which.
    pub(crate) fn earlier_than(&self, base_sequence: i32) -> Option<i32> {
        is_before(self.lowest_sequence, base_sequence).then_some(self.lowest_sequence)
    }
}

/// What was asked about the producers of one log.
#[derive(Debug, Default)]
pub(crate) struct Verifications {
    of: BTreeMap<(ProducerId, ProducerEpoch), Verification>,
}

impl Verifications {
    pub(crate) fn get(&self, id: ProducerId, epoch: ProducerEpoch) -> Option<&Verification> {
        self.of.get(&(id, epoch))
    }

    /// Joins who asks already. Else the oldest is forgotten where there are too many.
    pub(crate) fn begin(&mut self, claim: &TransactionClaim, now_ms: i64) -> VerificationTicket {
        let key = (claim.producer_id, claim.producer_epoch);
        if self.of.len() >= VERIFICATIONS_MAX && !self.of.contains_key(&key) {
            let oldest = self.of.iter().min_by_key(|(_, entry)| entry.ticket.0).map(|(known, _)| *known);
            if let Some(known) = oldest {
                self.of.remove(&known);
            }
        }
        let entry = self.of.entry(key).or_insert_with(|| Verification {
            ticket: VerificationTicket::next(),
            began_ms: now_ms,
            lowest_sequence: claim.base_sequence,
            bumps_epoch: claim.bumps_epoch,
            is_verified: false,
            asking_count: 0,
        });
        entry.asking_count = entry.asking_count.saturating_add(1);
        if is_before(claim.base_sequence, entry.lowest_sequence) {
            entry.lowest_sequence = claim.base_sequence;
        }
        entry.ticket
    }

    /// The coordinator knows the transaction.
    pub(crate) fn confirm(&mut self, id: ProducerId, epoch: ProducerEpoch, ticket: VerificationTicket) {
        if let Some(entry) = self.of.get_mut(&(id, epoch)).filter(|entry| entry.ticket == ticket) {
            entry.asking_count = entry.asking_count.saturating_sub(1);
            entry.is_verified = true;
        }
    }

    /// The coordinator knows of no such transaction, and asking again would not help.
    pub(crate) fn refuse(&mut self, id: ProducerId, epoch: ProducerEpoch, ticket: VerificationTicket) {
        if let Some(entry) = self.of.get_mut(&(id, epoch)).filter(|entry| entry.ticket == ticket) {
            entry.asking_count = entry.asking_count.saturating_sub(1);
            if entry.asking_count == 0 && !entry.is_verified {
                self.of.remove(&(id, epoch));
            }
        }
    }

    /// A batch is in the log: the transaction is open from here on, or has ended.
    pub(crate) fn note_batch(&mut self, header: &BatchHeader) {
        if self.of.is_empty() || !header.attributes.is_transactional() {
            return;
        }
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        let of_producer = (id, ProducerEpoch(i16::MIN))..=(id, epoch);
        let stays = |known: &(ProducerId, ProducerEpoch), entry: &Verification| {
            // The marker has the epoch of the next transaction, which may be asking already.
            header.attributes.is_control() && entry.bumps_epoch && known.1 == epoch
        };
        let gone: Vec<_> = self
            .of
            .range(of_producer)
            .filter(|(known, entry)| !stays(known, entry))
            .map(|(known, _)| *known)
            .collect();
        for known in gone {
            self.of.remove(&known);
        }
    }

    /// Forgets what is as old as producers that are forgotten.
    pub(crate) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.of.retain(|_, entry| now_ms.saturating_sub(entry.began_ms) < expiration_ms);
    }

    /// The log is not what it was when it was asked.
    pub(crate) fn clear(&mut self) {
        self.of.clear();
    }
}

/// Sequence numbers wrap behind 2^31 - 1.
fn is_before(one: i32, other: i32) -> bool {
    let ahead = (i64::from(other) - i64::from(one)).rem_euclid(1 << 31);
    ahead > 0 && ahead < SEQUENCES_AHEAD_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ProducerId = ProducerId(7);

    fn claim(epoch: i16, base_sequence: i32, bumps_epoch: bool) -> TransactionClaim {
        TransactionClaim { producer_id: ID, producer_epoch: ProducerEpoch(epoch), base_sequence, bumps_epoch }
    }

    fn is_verified(known: &Verifications, epoch: i16) -> Option<bool> {
        known.get(ID, ProducerEpoch(epoch)).map(|entry| entry.is_verified)
    }

    #[test]
    fn who_asks_at_the_same_time_shares_a_ticket_and_the_lowest_sequence() {
        let mut known = Verifications::default();
        let ticket = known.begin(&claim(0, 5, false), 0);
        assert_eq!(known.begin(&claim(0, 3, false), 1), ticket);
        assert_eq!(known.begin(&claim(0, 9, false), 2), ticket);
        let entry = known.get(ID, ProducerEpoch(0)).unwrap();
        assert_eq!([3, 5, i32::MAX].map(|sequence| entry.earlier_than(sequence)), [None, Some(3), None]);
        let next = known.begin(&claim(1, 0, false), 2);
        assert_ne!(next, ticket, "another epoch is another transaction");
        known.confirm(ID, ProducerEpoch(1), ticket);
        assert_eq!((is_verified(&known, 0), is_verified(&known, 1)), (Some(false), Some(false)));
    }

    #[test]
    fn sequences_are_compared_across_their_largest_number() {
        for (one, other, is) in [
            (0, 1, true),
            (1, 0, false),
            (4, 4, false),
            (i32::MAX, 0, true),
            (2, i32::MAX - 1, false),
            (-1, -1, false),
        ] {
            assert_eq!(is_before(one, other), is, "{one} {other}");
        }
    }

    #[test]
    fn a_refusal_forgets_what_nobody_else_asks() {
        let mut known = Verifications::default();
        let ticket = known.begin(&claim(0, 0, false), 0);
        known.begin(&claim(0, 1, false), 0);
        known.refuse(ID, ProducerEpoch(0), ticket);
        known.confirm(ID, ProducerEpoch(0), ticket);
        assert_eq!(is_verified(&known, 0), Some(true));
        known.begin(&claim(0, 1, false), 0);
        known.refuse(ID, ProducerEpoch(0), ticket);
        assert_eq!(is_verified(&known, 0), Some(true), "what was verified stays so");
        let ticket = known.begin(&claim(1, 0, false), 0);
        known.refuse(ID, ProducerEpoch(1), ticket);
        assert_eq!(is_verified(&known, 1), None);
    }

    #[test]
    fn what_grew_old_is_forgotten() {
        let mut known = Verifications::default();
        let ticket = known.begin(&claim(0, 0, false), 10);
        known.confirm(ID, ProducerEpoch(0), ticket);
        known.expire(109, 100);
        assert_eq!(is_verified(&known, 0), Some(true));
        known.expire(110, 100);
        assert_eq!(is_verified(&known, 0), None);
    }

    #[test]
    fn the_oldest_is_forgotten_where_too_many_ask_and_its_answer_verifies_nothing() {
        let mut known = Verifications::default();
        let of = |id| TransactionClaim { producer_id: ProducerId(id), ..claim(0, 0, false) };
        // The first to ask has the largest id, and asks once more.
        let first = known.begin(&of(i64::MAX), 0);
        let second = known.begin(&of(0), 0);
        for id in 1..VERIFICATIONS_MAX as i64 - 1 {
            known.begin(&of(id), 0);
        }
        assert_eq!(known.begin(&of(i64::MAX), 1), first, "all are remembered");
        known.begin(&of(-1), 1);
        assert_eq!(known.of.len(), VERIFICATIONS_MAX);
        let is_verified = |known: &Verifications, id| {
            known.get(ProducerId(id), ProducerEpoch(0)).map(|entry| entry.is_verified)
        };
        known.confirm(ProducerId(i64::MAX), ProducerEpoch(0), first);
        assert_eq!(is_verified(&known, i64::MAX), None);
        assert_ne!(known.begin(&of(i64::MAX), 1), first);
        known.confirm(ProducerId(i64::MAX), ProducerEpoch(0), first);
        assert_eq!(is_verified(&known, i64::MAX), Some(false));
        known.confirm(ProducerId(0), ProducerEpoch(0), second);
        assert_eq!(is_verified(&known, 0), None, "the next oldest");
        assert_eq!(is_verified(&known, 1), Some(false));
    }
}
