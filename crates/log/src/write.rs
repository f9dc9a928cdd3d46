//! Doing an append that was planned: one vectored write for all batches of a segment.
//!
//! Order: write, indexes, producer state, end. On a failed write nothing is published and
//! the tail is cut back; if that fails too, the log refuses to go on. A group that rolls
//! in its middle is one write on each side; what the first side placed stays placed. Zeros
//! that make later flushes quicker ([`crate::prefill`]) are no part of it: that they are
//! missing fails nothing.

use std::io::IoSlice;
use std::sync::Arc;

use klamm_protocol::records::BATCH_HEADER_BYTES;

use crate::disk::{DiskFile, write_all_vectored_at};
use crate::entry::Entry;
use crate::error::{AppendError, LogError};
use crate::limits::{Limits, LogPosition};
use crate::log::Log;
use crate::plan::{BatchPlaced, Plan, PlannedBatch, Step};
use crate::prefill::Prefill;
use crate::transaction_index::AbortedTransaction;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Log {
    /// Appends what was planned. One answer for each batch, in order.
    pub fn write(&mut self, plan: Plan) -> Vec<Result<BatchPlaced, AppendError>> {
        if plan.version != self.version || plan.end != self.view.limits().end.offset {
            let stale = || Err(AppendError::StalePlan(self.name.clone()));
            return plan.steps.iter().map(|_| stale()).collect();
        }
        let mut failure: Option<AppendError> = None;
        let steps = &plan.steps;
        let mut index = 0;
        while index < steps.len() && failure.is_none() {
            let ends_run = |step: &Step| matches!(step, Step::Append(batch) if batch.rolls);
            let run_end =
                steps[index + 1..].iter().position(ends_run).map_or(steps.len(), |at| index + 1 + at);
            let run: Vec<&PlannedBatch> = steps[index..run_end].iter().filter_map(Step::planned).collect();
            if let Err(error) = self.write_run(&run, &plan) {
                failure = Some(AppendError::Storage(Arc::new(error)));
            }
            index = run_end;
        }
        let end = self.view.limits().end.offset;
        plan.steps
            .into_iter()
            .map(|step| match (step, &failure) {
                (Step::Append(batch), Some(error)) if batch.placed.base_offset >= end => Err(error.clone()),
                (Step::Append(batch), _) => Ok(batch.placed),
                // A duplicate of a batch of this group that did not make it.
                (Step::Done(Ok(placed)), Some(error)) if placed.base_offset >= end => Err(error.clone()),
                (Step::Done(result), _) => result,
            })
            .collect()
    }

    fn write_run(&mut self, run: &[&PlannedBatch], plan: &Plan) -> Result<(), LogError> {
        let Some(first) = run.first() else { return Ok(()) };
        self.refuse_if_poisoned()?;
        if first.rolls {
            self.roll(first.header.base_offset, plan.now)?;
        }
        self.note_epochs(run)?;
        let file = Arc::clone(self.active.segment.file());
        let open = file.get().map_err(LogError::io("open", file.path()))?;
        let position = self.active.size;
        let mut slices = Vec::with_capacity(run.len() * 2);
        for batch in run {
            slices.push(IoSlice::new(&batch.head));
            slices.push(IoSlice::new(&batch.bytes[BATCH_HEADER_BYTES..]));
        }
        if let Err(error) = write_all_vectored_at(&*open, &mut slices, u64::from(position)) {
            match open.set_len(u64::from(position)) {
                Ok(()) => self.active.prefill = Prefill::new(position, self.view.own_flushes()),
                Err(repair) => {
                    self.poison(format!("a failed write ({error}) whose tail could not be cut ({repair})"));
                }
            }
            return Err(LogError::io("append to", file.path())(error));
        }
        let size = run.iter().fold(position, |at, batch| at + batch.header.batch_bytes);
        self.make_room(&*open, size);
        self.publish_run(run)
    }

    /// Zeros behind batches that end at `size`, where they make later flushes quicker. The next flush carries them.
    fn make_room(&mut self, file: &dyn DiskFile, size: u32) {
        if !self.config.is_prefilled {
            return;
        }
        let flushes = self.view.own_flushes();
        let mut left = self.active.prefill.window(size, flushes, self.config.segment_bytes) as usize;
        let mut slices = Vec::with_capacity(left.div_ceil(ZEROS.len()));
        while left > 0 {
            let len = left.min(ZEROS.len());
            slices.push(IoSlice::new(&ZEROS[..len]));
            left -= len;
        }
        // The batches are in the file. A disk without room for the zeros may have some for the
        // next batch; one that fails will say so there.
        let _ = write_all_vectored_at(file, &mut slices, u64::from(size));
    }

    /// An epoch's first batch: the checkpoint knows it before the log has it.
    fn note_epochs(&mut self, run: &[&PlannedBatch]) -> Result<(), LogError> {
        let latest = self.epochs.latest().map_or(-1, |entry| entry.leader_epoch.0);
        let mut is_changed = self.has_unstored_epochs;
        for batch in run.iter().filter(|batch| batch.header.leader_epoch.0 > latest) {
            is_changed |= self.epochs.assign(batch.header.leader_epoch, batch.header.base_offset);
        }
        if is_changed { self.store_epochs() } else { Ok(()) }
    }

    fn publish_run(&mut self, run: &[&PlannedBatch]) -> Result<(), LogError> {
        let segment = Arc::clone(&self.active.segment);
        let segment_base = segment.base_offset();
        let mut is_unstable_changed = false;
        let mut end = self.view.limits().end;
        for batch in run {
            let header = &batch.header;
            let first = LogPosition { offset: header.base_offset, segment_base, position: self.active.size };
            let entry = Entry {
                position: self.active.size,
                size_bytes: header.batch_bytes,
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                max_timestamp: header.max_timestamp,
                crc: header.crc,
                header: Some(*header),
            };
            self.active.add(&self.config, &entry);
            self.verifications.note_batch(header);
            let completed = self.producers.apply(header, first, batch.marker.as_ref());
            is_unstable_changed |= header.attributes.is_transactional();
            if let Some(completed) = completed.filter(|completed| completed.is_aborted) {
                let aborted = AbortedTransaction {
                    producer_id: completed.producer_id,
                    first_offset: completed.first_offset,
                    last_offset: completed.last_offset,
                    last_stable_offset: completed.last_stable_offset,
                };
                if let Err(error) = segment.transactions.append(aborted) {
                    // The marker is in the log: only a rebuild brings the two together.
                    self.poison(format!("the transaction index cannot be written ({error})"));
                    return Err(LogError::io("append to the .txnindex of", segment.file().path())(error));
                }
            }
            end = LogPosition { offset: header.next_offset(), segment_base, position: self.active.size };
        }
        segment.grow_to(self.active.size, self.active.max_timestamp());
        self.version += 1;
        is_unstable_changed |= self.producers.forget_stable(self.view.limits().high_watermark.offset);
        if is_unstable_changed {
            self.publish_unstable();
        }
        self.view.advance(|now| Some(Limits { end, ..*now }));
        Ok(())
    }
}

impl Step {
    fn planned(&self) -> Option<&PlannedBatch> {
        match self {
            Self::Append(batch) => Some(batch),
            Self::Done(_) => None,
        }
    }
}
