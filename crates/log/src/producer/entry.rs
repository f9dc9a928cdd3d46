//! One producer: its epoch, its last five batches, its open transaction; and the checks
//! that a batch must pass against it (KIP-98, KIP-360).
//!
//! Pure. The checks follow Kafka 4.3: an unknown producer may begin with any sequence
//! number, a new epoch begins with 0, sequence numbers wrap behind 2^31 - 1.

use klamm_protocol::ids::{Offset, ProducerEpoch};
use klamm_protocol::records::{BatchHeader, NO_SEQUENCE};

use crate::error::AppendError;
use crate::plan::AppendOrigin;
use crate::producer::{EndMarker, Verification};

/// How many batches of a producer are remembered: what a client has in flight at most.
const BATCHES_MAX: usize = 5;

/// A batch as its producer would repeat it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchMetadata {
    /// Sequence number of the last record.
    pub last_sequence: i32,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// Records in the batch less one.
    pub offset_delta: i32,
    /// The batch's largest timestamp.
    pub timestamp: i64,
}

/// What is known of one producer.
#[derive(Clone, Copy, Debug)]
pub struct ProducerEntry {
    /// Its newest epoch.
    pub producer_epoch: ProducerEpoch,
    /// The epoch of the transaction coordinator that wrote the last marker; -1 without one.
    pub coordinator_epoch: i32,
    /// The largest timestamp of its last batch or marker.
    pub last_timestamp: i64,
    /// Where its open transaction begins.
    pub current_txn_first_offset: Option<Offset>,
    batches: [BatchMetadata; BATCHES_MAX],
    batch_count: u8,
}

impl BatchMetadata {
    fn of(header: &BatchHeader) -> Self {
        Self {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        }
    }

    /// Sequence number of the first record.
    #[must_use]
    pub fn first_sequence(&self) -> i32 {
        (i64::from(self.last_sequence) - i64::from(self.offset_delta)).rem_euclid(1 << 31) as i32
    }

    /// Offset of the first record.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        Offset(self.last_offset.0.saturating_sub(i64::from(self.offset_delta)))
    }
}

impl Default for ProducerEntry {
    fn default() -> Self {
        Self {
            producer_epoch: ProducerEpoch(-1),
            coordinator_epoch: -1,
            last_timestamp: -1,
            current_txn_first_offset: None,
            batches: [BatchMetadata::default(); BATCHES_MAX],
            batch_count: 0,
        }
    }
}

impl PartialEq for ProducerEntry {
    fn eq(&self, other: &Self) -> bool {
        self.producer_epoch == other.producer_epoch
            && self.coordinator_epoch == other.coordinator_epoch
            && self.last_timestamp == other.last_timestamp
            && self.current_txn_first_offset == other.current_txn_first_offset
            && self.batches() == other.batches()
    }
}

impl Eq for ProducerEntry {}

impl ProducerEntry {
    /// The remembered batches of the current epoch, oldest first.
    #[must_use]
    pub fn batches(&self) -> &[BatchMetadata] {
        &self.batches[..usize::from(self.batch_count)]
    }

    /// Sequence number of the last record; -1 if no batch of this epoch is known.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        self.batches().last().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    /// True if a transaction of this epoch is open; of a later epoch it would be another one.
    #[must_use]
    pub fn has_open_transaction(&self, epoch: ProducerEpoch) -> bool {
        self.current_txn_first_offset.is_some() && self.producer_epoch == epoch
    }

    /// The remembered batch that `header` repeats.
    #[must_use]
    pub fn duplicate_of(&self, header: &BatchHeader) -> Option<BatchMetadata> {
        if header.producer_epoch != self.producer_epoch {
            return None;
        }
        let same = |batch: &&BatchMetadata| {
            batch.first_sequence() == header.base_sequence && batch.last_sequence == header.last_sequence()
        };
        self.batches().iter().find(same).copied()
    }

    pub(crate) fn adopt_epoch(&mut self, epoch: ProducerEpoch) {
        if epoch != self.producer_epoch {
            self.producer_epoch = epoch;
            self.batch_count = 0;
        }
    }

    /// Notes a data batch that was appended.
    pub(crate) fn add_batch(&mut self, header: &BatchHeader) {
        self.adopt_epoch(header.producer_epoch);
        if self.is_full() {
            self.batches.rotate_left(1);
            self.batch_count -= 1;
        }
        self.batches[usize::from(self.batch_count)] = BatchMetadata::of(header);
        self.batch_count += 1;
        self.last_timestamp = header.max_timestamp;
    }

    /// Completes what a snapshot left out, while the log is read backwards: the timestamp
    /// of the oldest known batch, or the batch directly before it.
    pub(crate) fn recall_batch(&mut self, header: &BatchHeader) {
        let count = usize::from(self.batch_count);
        let older = BatchMetadata::of(header);
        if count == 0 || header.producer_epoch != self.producer_epoch {
            return;
        }
        let is_full = self.is_full();
        let first = &mut self.batches[0];
        if first.last_offset == older.last_offset {
            first.timestamp = older.timestamp;
        } else if !is_full
            && next_sequence(older.last_sequence) == first.first_sequence()
            && older.last_offset < first.first_offset()
        {
            self.batches.rotate_right(1);
            self.batches[0] = older;
            self.batch_count += 1;
        }
    }

    /// True if nothing older could be told apart from it.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_full() || self.batches().first().is_none_or(|batch| batch.first_sequence() == 0)
    }

    pub(crate) fn is_full(&self) -> bool {
        usize::from(self.batch_count) == BATCHES_MAX
    }

    /// From a snapshot, which holds the last batch only.
    pub(crate) fn with_last_batch(mut self, batch: BatchMetadata) -> Self {
        self.batches[0] = batch;
        self.batch_count = 1;
        self
    }
}

fn next_sequence(sequence: i32) -> i32 {
    sequence.checked_add(1).unwrap_or(0)
}

/// What a batch is checked for, and how its place is named in messages.
pub(crate) struct AppendCheck<'a> {
    pub origin: AppendOrigin,
    pub offset: Offset,
    pub partition: &'a str,
    /// What the coordinator was asked about the transaction that the batch begins.
    pub verification: Option<&'a Verification>,
}

/// Checks a batch of a producer id against what is known of it, which is the default
/// entry for an unknown one. Nothing is changed.
pub(crate) fn check_batch(
    check: &AppendCheck<'_>,
    entry: &ProducerEntry,
    header: &BatchHeader,
    marker: Option<&EndMarker>,
) -> Result<(), AppendError> {
    let AppendCheck { origin, offset, partition, .. } = *check;
    let (id, epoch, current) = (header.producer_id, header.producer_epoch, entry.producer_epoch);
    // A follower takes what its leader has taken.
    if origin == AppendOrigin::Replication {
        return Ok(());
    }
    if let Some(marker) = marker {
        check_marker_epoch(check, entry, header)?;
        if marker.coordinator_epoch < entry.coordinator_epoch {
            return Err(AppendError::TransactionCoordinatorFenced(format!(
                "Invalid coordinator epoch for producerId {id} at offset {offset} in partition {partition}: {} \
                 (zombie), {} (current)",
                marker.coordinator_epoch, entry.coordinator_epoch
            )));
        }
        return Ok(());
    }
    if epoch < current {
        return Err(AppendError::InvalidProducerEpoch(format!(
            "Epoch of producer {id} at offset {offset} in {partition} is {epoch}, which is smaller than the \
             last seen epoch {current}"
        )));
    }
    if origin == AppendOrigin::Client {
        check_sequence(check, entry, header)?;
    }
    if !header.attributes.is_transactional() && entry.current_txn_first_offset.is_some() {
        return Err(AppendError::InvalidTxnState(format!(
            "Expected transactional write from producer {id} at offset {offset} in partition {partition}"
        )));
    }
    Ok(())
}

/// Which epoch a marker may have (KIP-890, KIP-1228). In version 2 each transaction has an epoch of its own and
/// its marker the next one: a marker that is late could otherwise end the transaction that follows.
fn check_marker_epoch(
    check: &AppendCheck<'_>,
    entry: &ProducerEntry,
    header: &BatchHeader,
) -> Result<(), AppendError> {
    let (id, epoch, current) = (header.producer_id, header.producer_epoch, entry.producer_epoch);
    let transaction_version = match check.origin {
        AppendOrigin::Marker { transaction_version } => transaction_version,
        _ => 0,
    };
    let is_valid = if transaction_version < 2 {
        epoch >= current
    } else {
        // Again, after an answer that was lost; or the last epoch there is, which has no next one.
        let may_repeat = entry.current_txn_first_offset.is_none() || epoch == ProducerEpoch(i16::MAX);
        epoch > current || epoch == current && may_repeat
    };
    if is_valid {
        return Ok(());
    }
    let comparison = if transaction_version < 2 { "<" } else { "<=" };
    Err(AppendError::InvalidProducerEpoch(format!(
        "Epoch of producer {id} at offset {} in {} is {epoch}, which is {comparison} the last seen epoch {current} \
         (TV{transaction_version})",
        check.offset, check.partition
    )))
}

fn check_sequence(
    check: &AppendCheck<'_>,
    entry: &ProducerEntry,
    header: &BatchHeader,
) -> Result<(), AppendError> {
    let AppendCheck { offset, partition, .. } = *check;
    let (id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
    let (current, last) = (entry.producer_epoch, entry.last_sequence());
    if let Some(asked) = check.verification {
        if asked.bumps_epoch && sequence != 0 && entry.batches().is_empty() {
            return Err(AppendError::OutOfOrderSequence(format!(
                "Invalid sequence number for producer {id} at offset {offset} in partition {partition}: {sequence} \
                 (incoming seq. number). Expected sequence 0 of a producer with an epoch for each transaction and \
                 no batch here"
            )));
        }
        if let Some(lowest) = asked.earlier_than(sequence) {
            return Err(AppendError::OutOfOrderSequence(format!(
                "Out of order sequence number for producer {id} at offset {offset} in partition {partition}: \
                 {sequence} (incoming seq. number), {lowest} (earliest seen sequence)"
            )));
        }
    }
    // All of an unknown producer's records may be gone by retention: any number may follow.
    if current == ProducerEpoch(-1) {
        return Ok(());
    }
    if epoch != current {
        if sequence == 0 {
            return Ok(());
        }
        return Err(AppendError::OutOfOrderSequence(format!(
            "Invalid sequence number for new epoch of producer {id} at offset {offset} in partition \
             {partition}: {epoch} (request epoch), {sequence} (seq. number), {current} (current producer epoch)"
        )));
    }
    if next_sequence(last) == sequence {
        return Ok(());
    }
    Err(AppendError::OutOfOrderSequence(format!(
        "Out of order sequence number for producer {id} at offset {offset} in partition {partition}: \
         {sequence} (incoming seq. number), {last} (current end sequence number)"
    )))
}
