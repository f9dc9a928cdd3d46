//! Batches of transactions, their markers, and what the log says to them.

use klamm_log::{
    AppendError, AppendOrigin, BatchPlaced, Log, LogConfig, TransactionClaim, VerificationTicket,
    trusted_batch,
};
use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::records::{BatchBuilder, ValidatedBatch};

use super::*;

pub fn config() -> LogConfig {
    LogConfig { verifies_transactions: true, ..small_config() }
}

pub fn data(id: i64, epoch: i16, sequence: i32, is_transactional: bool) -> ValidatedBatch {
    let builder = BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    build(if is_transactional { builder.transactional() } else { builder }, &[1])
}

#[derive(Clone, Copy, Debug)]
pub struct Marker {
    pub id: i64,
    pub epoch: i16,
    pub coordinator_epoch: i32,
    pub version: i16,
    pub is_commit: bool,
}

pub fn write_marker(log: &mut Log, marker: Marker) -> Result<BatchPlaced, AppendError> {
    let Marker { id, epoch, coordinator_epoch, version, is_commit } = marker;
    let (id, epoch) = (ProducerId(id), ProducerEpoch(epoch));
    let bytes = BatchBuilder::end_transaction_marker(is_commit, coordinator_epoch, id, epoch, 1).build();
    let origin = AppendOrigin::Marker { transaction_version: version };
    let plan = log.plan(&context(origin), &[trusted_batch(bytes).unwrap()]);
    let result = log.write(plan).remove(0);
    log.view().raise_high_watermark_to_end();
    result
}

pub fn end(log: &mut Log, id: i64, epoch: i16, version: i16) -> Result<BatchPlaced, AppendError> {
    write_marker(log, Marker { id, epoch, coordinator_epoch: 0, version, is_commit: true })
}

pub fn begin(log: &mut Log, id: i64, epoch: i16, sequence: i32) -> Option<VerificationTicket> {
    log.begin_verification(&claim(id, epoch, sequence, false), NOW).unwrap()
}

pub fn claim(id: i64, epoch: i16, base_sequence: i32, bumps_epoch: bool) -> TransactionClaim {
    TransactionClaim {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence,
        bumps_epoch,
    }
}

pub fn put(log: &mut Log, batch: ValidatedBatch) -> Result<BatchPlaced, AppendError> {
    append(log, &[batch]).remove(0)
}

/// What the log says to `batch` at last, once its transaction was verified.
pub fn put_verified(log: &mut Log, id: i64, epoch: i16, sequence: i32) -> Result<BatchPlaced, AppendError> {
    if let Some(ticket) = begin(log, id, epoch, sequence) {
        log.confirm_verification(ProducerId(id), ProducerEpoch(epoch), ticket);
    }
    put(log, data(id, epoch, sequence, true))
}

pub fn code(error: &AppendError) -> &'static str {
    match error {
        AppendError::InvalidProducerEpoch(_) => "epoch",
        AppendError::OutOfOrderSequence(_) => "sequence",
        AppendError::InvalidTxnState(_) => "transaction",
        AppendError::TransactionCoordinatorFenced(_) => "coordinator",
        _ => "another",
    }
}
