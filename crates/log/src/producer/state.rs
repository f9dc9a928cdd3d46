//! All producers of one log, as its batches make them.
//!
//! Pure: [`ProducerState::apply`] is the only way in, for live appends and for replay alike,
//! so that a rebuilt state equals the one that was lost. A transaction is *unstable* from
//! its first batch until the watermark has passed its marker.

use std::collections::BTreeMap;

use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::BatchHeader;

use crate::limits::LogPosition;
use crate::producer::ProducerEntry;

/// The content of a control record that ends a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndMarker {
    /// With a commit, else with an abort.
    pub is_commit: bool,
    /// Of the transaction coordinator that wrote it.
    pub coordinator_epoch: i32,
}

/// A transaction that a marker has just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompletedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub is_aborted: bool,
    /// The last stable offset that this marker leads to, were it below the watermark.
    pub last_stable_offset: Offset,
}

/// A transaction that holds the last stable offset back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnstableTransaction {
    /// Who writes it.
    pub producer_id: ProducerId,
    /// In which epoch.
    pub producer_epoch: ProducerEpoch,
    /// Its first batch.
    pub first: LogPosition,
    /// Its marker's offset; `None` while it is open.
    pub last_offset: Option<Offset>,
}

/// Every producer that wrote to a log, and its unstable transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    producers: BTreeMap<ProducerId, ProducerEntry>,
    /// By first offset.
    unstable: BTreeMap<Offset, UnstableTransaction>,
}

impl ProducerState {
    /// What is known of a producer.
    #[must_use]
    pub fn get(&self, id: ProducerId) -> Option<&ProducerEntry> {
        self.producers.get(&id)
    }

    /// All producers, by id.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &ProducerEntry)> {
        self.producers.iter().map(|(id, entry)| (*id, entry))
    }

    /// True if nobody with a producer id is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Transactions without a marker, or with one that the watermark has not passed.
    pub fn unstable(&self) -> impl Iterator<Item = &UnstableTransaction> {
        self.unstable.values()
    }

    /// Notes a batch that is in the log at `first`.
    pub(crate) fn apply(
        &mut self,
        header: &BatchHeader,
        first: LogPosition,
        marker: Option<&EndMarker>,
    ) -> Option<CompletedTransaction> {
        if !header.has_producer_id() {
            return None;
        }
        if header.attributes.is_control() {
            return marker.and_then(|marker| self.apply_marker(header, marker));
        }
        let id = header.producer_id;
        let entry = self.producers.entry(id).or_default();
        let is_new_epoch = entry.producer_epoch != header.producer_epoch;
        entry.add_batch(header);
        if !header.attributes.is_transactional() {
            return None;
        }
        let producer_epoch = header.producer_epoch;
        match entry.current_txn_first_offset {
            None => {
                entry.current_txn_first_offset = Some(header.base_offset);
                let open = UnstableTransaction { producer_id: id, producer_epoch, first, last_offset: None };
                self.unstable.insert(header.base_offset, open);
            }
            Some(known) if is_new_epoch => {
                if let Some(open) = self.unstable.get_mut(&known) {
                    open.producer_epoch = producer_epoch;
                }
            }
            Some(_) => {}
        }
        None
    }

    fn apply_marker(&mut self, header: &BatchHeader, marker: &EndMarker) -> Option<CompletedTransaction> {
        let id = header.producer_id;
        let entry = self.producers.entry(id).or_default();
        entry.adopt_epoch(header.producer_epoch);
        entry.coordinator_epoch = marker.coordinator_epoch;
        entry.last_timestamp = header.max_timestamp;
        let first_offset = entry.current_txn_first_offset.take()?;
        if let Some(transaction) = self.unstable.get_mut(&first_offset) {
            transaction.last_offset = Some(header.base_offset);
        }
        let open = self.unstable.values().find(|transaction| transaction.last_offset.is_none());
        Some(CompletedTransaction {
            producer_id: id,
            first_offset,
            last_offset: header.base_offset,
            is_aborted: !marker.is_commit,
            last_stable_offset: open.map_or(header.next_offset(), |transaction| transaction.first.offset),
        })
    }

    /// Takes an entry out of a snapshot; `first` is where its open transaction begins.
    pub(crate) fn restore(&mut self, id: ProducerId, entry: ProducerEntry, first: Option<LogPosition>) {
        if let (Some(offset), Some(first)) = (entry.current_txn_first_offset, first) {
            let producer_epoch = entry.producer_epoch;
            let open = UnstableTransaction { producer_id: id, producer_epoch, first, last_offset: None };
            self.unstable.insert(offset, open);
        }
        self.producers.insert(id, entry);
    }

    pub(crate) fn get_mut(&mut self, id: ProducerId) -> Option<&mut ProducerEntry> {
        self.producers.get_mut(&id)
    }

    /// Forgets transactions whose markers lie below the watermark. True if any did.
    pub(crate) fn forget_stable(&mut self, high_watermark: Offset) -> bool {
        let before = self.unstable.len();
        self.unstable
            .retain(|_, transaction| transaction.last_offset.is_none_or(|marker| marker >= high_watermark));
        self.unstable.len() != before
    }

    /// Forgets producers that wrote nothing for `expiration_ms` and have no open transaction.
    pub(crate) fn expire(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, entry| !is_expired(entry, now_ms, expiration_ms));
        before - self.producers.len()
    }
}

/// True for a producer that may be forgotten.
pub(crate) fn is_expired(entry: &ProducerEntry, now_ms: i64, expiration_ms: i64) -> bool {
    entry.current_txn_first_offset.is_none() && now_ms.saturating_sub(entry.last_timestamp) >= expiration_ms
}
