//! Deciding an append without doing it: offsets, idempotence (KIP-98), where to roll.
//!
//! [`Log::plan`] does no I/O and changes nothing: it runs the batches in order over a
//! provisional copy of the producers they touch. A rejected batch leaves no trace there and
//! fails alone; a duplicate is answered with where the original lies.

use bytes::Bytes;
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerId};
use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchHeader, TimestampType, ValidatedBatch};
use klamm_protocol::time::WallMs;

use crate::active::SegmentShape;
use crate::error::AppendError;
use crate::limits::{LogPosition, OFFSET_MAX};
use crate::log::Log;
use crate::marker::end_marker;
use crate::producer::{AppendCheck, EndMarker, ProducerEntry, ProducerState, check_batch};

/// Where a batch comes from; decides which checks it must pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A producer: every check.
    Client,
    /// A coordinator of this broker: control batches allowed, no sequence check.
    Coordinator,
    /// A transaction coordinator's markers; the transaction's version decides which epochs they may have
    /// (KIP-1228).
    Marker {
        /// `transaction.version` of the transaction that they end.
        transaction_version: i16,
    },
    /// A leader's log: offsets and epochs stay, nothing is checked again.
    Replication,
    /// The metadata log: as a coordinator's.
    RaftLeader,
}

/// What holds for all batches of a group.
#[derive(Clone, Copy, Debug)]
pub struct AppendContext {
    /// The time of the append.
    pub now: WallMs,
    /// The epoch that the batches are stamped with.
    pub leader_epoch: LeaderEpoch,
    /// Who brings them.
    pub origin: AppendOrigin,
}

/// A batch that is in the log, or was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlaced {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// The append time where the log sets it, else -1; of a duplicate, the original's timestamp.
    pub log_append_time_ms: i64,
    /// Where the log started.
    pub log_start_offset: Offset,
    /// True if the batch was there before and nothing was written.
    pub is_duplicate: bool,
    /// Bytes written.
    pub bytes: u32,
}

/// An append that was decided; good for the log as it was then.
#[must_use = "nothing is written before Log::write"]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Where the log must still end, and in which state of change.
    pub(crate) end: Offset,
    pub(crate) version: u64,
    pub(crate) now: WallMs,
}

pub(crate) enum Step {
    Append(PlannedBatch),
    Done(Result<BatchPlaced, AppendError>),
}

pub(crate) struct PlannedBatch {
    pub head: [u8; BATCH_HEADER_BYTES],
    pub bytes: Bytes,
    pub header: BatchHeader,
    pub marker: Option<EndMarker>,
    pub rolls: bool,
    pub placed: BatchPlaced,
}

/// Wraps a batch that this process or its leader made, for an append that is not a client's.
///
/// # Errors
/// [`AppendError::InvalidBatch`] unless `bytes` is exactly one batch of magic 2.
pub fn trusted_batch(bytes: Bytes) -> Result<ValidatedBatch, AppendError> {
    let header = BatchHeader::parse(&bytes).map_err(|error| AppendError::InvalidBatch(error.to_string()))?;
    if header.batch_bytes as usize != bytes.len() || header.last_offset_delta < 0 {
        return Err(AppendError::InvalidBatch(format!(
            "a batch of {} bytes with last offset delta {} in {} bytes",
            header.batch_bytes,
            header.last_offset_delta,
            bytes.len()
        )));
    }
    let (max_timestamp, offset_delta_of_max_timestamp) = (header.max_timestamp, header.last_offset_delta);
    Ok(ValidatedBatch { bytes, header, max_timestamp, offset_delta_of_max_timestamp })
}

/// How far the plan has got.
struct Progress {
    next_offset: Offset,
    shape: SegmentShape,
    producers: ProducerState,
    /// Whose transactions a marker of the plan ends: nothing that was verified before counts behind it.
    ended: Vec<ProducerId>,
    log_start: Offset,
}

impl Plan {
    /// Why the first batch that the log would not take is refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&AppendError> {
        self.steps.iter().find_map(|step| match step {
            Step::Done(Err(error)) => Some(error),
            Step::Done(Ok(_)) | Step::Append(_) => None,
        })
    }

    /// True if nothing is left to write: every batch is a duplicate or was rejected.
    #[must_use]
    pub fn writes_nothing(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Done(_)))
    }
}

impl Log {
    /// Decides how `batches` would be appended now.
    pub fn plan(&self, context: &AppendContext, batches: &[ValidatedBatch]) -> Plan {
        let limits = self.view.limits();
        let mut progress = Progress {
            next_offset: limits.end.offset,
            shape: self.active.shape,
            producers: ProducerState::default(),
            ended: Vec::new(),
            log_start: limits.log_start,
        };
        let steps = batches
            .iter()
            .map(|batch| match self.plan_batch(context, batch, &mut progress) {
                Ok(step) => step,
                Err(error) => Step::Done(Err(error)),
            })
            .collect();
        Plan { steps, end: limits.end.offset, version: self.version, now: context.now }
    }

    fn plan_batch(
        &self,
        context: &AppendContext,
        batch: &ValidatedBatch,
        progress: &mut Progress,
    ) -> Result<Step, AppendError> {
        let mut header = batch.header;
        let batch_bytes = header.batch_bytes;
        if batch_bytes as usize != batch.bytes.len() || batch.bytes.len() < BATCH_HEADER_BYTES {
            return Err(AppendError::InvalidBatch(format!(
                "a batch of {batch_bytes} bytes in {} bytes",
                batch.bytes.len()
            )));
        }
        if batch_bytes > self.config.segment_bytes {
            return Err(AppendError::RecordBatchTooLarge {
                batch_bytes,
                segment_bytes: self.config.segment_bytes,
                partition: self.name.clone(),
            });
        }
        if context.origin == AppendOrigin::Replication {
            if header.base_offset < progress.next_offset {
                return Err(AppendError::UnexpectedOffset {
                    base_offset: header.base_offset,
                    end: progress.next_offset,
                    partition: self.name.clone(),
                });
            }
        } else {
            header.base_offset = progress.next_offset;
            header.leader_epoch = context.leader_epoch;
        }
        if header.next_offset() > OFFSET_MAX {
            return Err(AppendError::InvalidBatch(format!(
                "behind it {} would end at offset {}, and there is none beyond {OFFSET_MAX}",
                self.name,
                header.next_offset()
            )));
        }
        let marker = end_marker(&header, &batch.bytes);
        if header.attributes.is_control() && context.origin == AppendOrigin::Client {
            return Err(AppendError::InvalidBatch("a client cannot write control batches".to_owned()));
        }
        if header.has_producer_id()
            && let Some(duplicate) = self.check_producer(context, &header, marker.as_ref(), progress)?
        {
            return Ok(Step::Done(Ok(duplicate)));
        }
        let max_timestamp = header.max_timestamp;
        let last_offset = header.last_offset();
        let rolls =
            progress.shape.must_roll(&self.config, batch_bytes, max_timestamp, last_offset, context.now);
        if rolls {
            progress.shape = SegmentShape::new(header.base_offset, context.now);
        }
        progress.shape.add(batch_bytes, max_timestamp);
        progress.next_offset = header.next_offset();
        let mut head = [0; BATCH_HEADER_BYTES];
        header.write_to(&mut head);
        let log_append_time_ms = match header.attributes.timestamp_type() {
            TimestampType::LogAppendTime => max_timestamp,
            TimestampType::CreateTime => -1,
        };
        let placed = BatchPlaced {
            base_offset: header.base_offset,
            last_offset,
            log_append_time_ms,
            log_start_offset: progress.log_start,
            is_duplicate: false,
            bytes: batch_bytes,
        };
        Ok(Step::Append(PlannedBatch { head, bytes: batch.bytes.clone(), header, marker, rolls, placed }))
    }

    /// Checks a batch with a producer id and notes it provisionally; the original's place
    /// if it is a duplicate.
    fn check_producer(
        &self,
        context: &AppendContext,
        header: &BatchHeader,
        marker: Option<&EndMarker>,
        progress: &mut Progress,
    ) -> Result<Option<BatchPlaced>, AppendError> {
        let id = header.producer_id;
        let known = progress.producers.get(id).or_else(|| self.producers.get(id));
        if let Some(entry) = known.filter(|_| context.origin == AppendOrigin::Client)
            && let Some(original) = entry.duplicate_of(header)
        {
            return Ok(Some(BatchPlaced {
                base_offset: original.first_offset(),
                last_offset: original.last_offset,
                log_append_time_ms: original.timestamp,
                log_start_offset: progress.log_start,
                is_duplicate: true,
                bytes: 0,
            }));
        }
        let entry = known.copied().unwrap_or_else(ProducerEntry::default);
        let attributes = header.attributes;
        let mut verification = None;
        if attributes.is_control() {
            progress.ended.push(id);
        } else if attributes.is_transactional() && context.origin != AppendOrigin::Replication {
            let epoch = header.producer_epoch;
            let is_asked = !entry.has_open_transaction(epoch) && !progress.ended.contains(&id);
            verification = self.verifications.get(id, epoch).filter(|_| is_asked);
            self.check_begun(&entry, id, epoch, verification)?;
        }
        let check = AppendCheck {
            origin: context.origin,
            offset: header.base_offset,
            partition: &self.name,
            verification,
        };
        if !header.attributes.is_control() || marker.is_some() {
            check_batch(&check, &entry, header, marker)?;
        }
        progress.producers.restore(id, entry, None);
        // Where a transaction begins matters to readers, not to a check.
        progress.producers.apply(header, LogPosition::default(), marker);
        Ok(None)
    }
}
