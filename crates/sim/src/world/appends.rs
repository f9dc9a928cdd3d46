//! Appending: groups of batches, batches that come again, transaction markers.

use klamm_log::disk::Draw;
use klamm_log::{AppendContext, AppendOrigin, TransactionClaim, trusted_batch};
use klamm_protocol::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use klamm_protocol::records::{BatchBuilder, ValidatedBatch};

use super::{Outcome, TIMESTAMP_MAX, World, text};
use crate::history::{Batch, Contents};

/// The first id of the producers that write transactions.
const TRANSACTIONAL: i64 = 11;
/// Few, so that most values are soon superseded.
const KEYS: u64 = 6;

impl World {
    pub(super) fn append(&mut self, count: u8, seed: u64) -> Outcome {
        let mut draw = Draw::new(seed);
        if self.has_producers && draw.below(8) == 0 {
            return self.append_again(&mut draw);
        }
        let mut after = self.history.live.clone();
        let mut group = Vec::new();
        for _ in 0..count {
            let batch = self.draw_batch(&mut draw, &after);
            after.append(Batch::placed(&batch.bytes, after.end, self.epoch));
            group.push(batch);
        }
        self.append_group(&group, AppendOrigin::Client)
    }

    fn draw_batch(&self, draw: &mut Draw, log: &Contents) -> ValidatedBatch {
        let producer = draw.below(if self.has_producers { 6 } else { 1 }) as i64;
        let mut builder = BatchBuilder::new();
        let id = match producer {
            0 => None,
            1..4 => Some(producer),
            other => Some(TRANSACTIONAL + other - 4),
        };
        if let Some(id) = id {
            let sequence =
                log.producers().get(&id).and_then(|known| known.1.last()).map_or(0, |last| last.1 + 1);
            builder = builder.producer(ProducerId(id), ProducerEpoch(0), sequence);
            if id >= TRANSACTIONAL {
                builder = builder.transactional();
            }
        }
        for _ in 0..1 + draw.below(3) {
            let size = if draw.below(16) == 0 { 400 } else { draw.below(160) };
            let value = vec![draw.below(256) as u8; size as usize];
            let is_tombstone = self.config.is_compacted && draw.below(6) == 0;
            let value = (!is_tombstone).then_some(&value[..]);
            let key = [b'a' + draw.below(KEYS) as u8];
            builder.push(draw.below(TIMESTAMP_MAX) as i64, Some(&key), value, &[]);
        }
        trusted_batch(builder.build()).expect("a batch of our own")
    }

    /// One of a producer's last batches comes again and must be known.
    fn append_again(&mut self, draw: &mut Draw) -> Outcome {
        let producers = self.history.live.producers();
        // Of older ones only those that compaction has left are known after a start.
        let count = if self.config.is_compacted { 1 } else { 5 };
        let known: Vec<_> = producers.values().flat_map(|(_, last)| last.iter().rev().take(count)).collect();
        if known.is_empty() {
            return Ok(());
        }
        let (_, _, base) = *known[draw.below(known.len() as u64) as usize];
        let original = self.history.live.batches.iter().find(|batch| batch.base() == base);
        let bytes = original.expect("the producers come from the batches").bytes.clone();
        let again = trusted_batch(bytes.into()).map_err(text)?;
        let context = self.context(AppendOrigin::Client);
        let plan = self.log().plan(&context, &[again]);
        match self.log().write(plan).remove(0) {
            Ok(placed) if placed.is_duplicate && placed.base_offset.0 == base => Ok(()),
            Ok(placed) => Err(format!("the batch at {base} came again and was appended: {placed:?}")),
            Err(error) => Err(format!("the batch at {base} came again and was refused: {error}")),
        }
    }

    pub(super) fn end_transaction(&mut self, producer: u8, is_commit: bool) -> Outcome {
        let id = TRANSACTIONAL + i64::from(producer);
        let mut own = self.history.live.batches.iter().rev().filter(|batch| batch.header.producer_id.0 == id);
        if own.next().is_none_or(|last| last.header.attributes.is_control()) {
            return Ok(());
        }
        let marker =
            BatchBuilder::end_transaction_marker(is_commit, 0, ProducerId(id), ProducerEpoch(0), 1).build();
        let marker = trusted_batch(marker).map_err(text)?;
        self.append_group(&[marker], AppendOrigin::Marker { transaction_version: 1 })
    }

    fn append_group(&mut self, group: &[ValidatedBatch], origin: AppendOrigin) -> Outcome {
        let context = self.context(origin);
        for batch in group {
            let header = &batch.header;
            if header.attributes.is_transactional() && !header.attributes.is_control() {
                let (id, epoch) = (header.producer_id, header.producer_epoch);
                let claim = TransactionClaim {
                    producer_id: id,
                    producer_epoch: epoch,
                    base_sequence: header.base_sequence,
                    bumps_epoch: false,
                };
                // A coordinator that knows every transaction.
                if let Some(ticket) = self.log().begin_verification(&claim, context.now).map_err(text)? {
                    self.log().confirm_verification(id, epoch, ticket);
                }
            }
        }
        let plan = self.log().plan(&context, group);
        let results = self.log().write(plan);
        let mut failure = None;
        let mut failed = Vec::new();
        let mut at = self.history.live.end;
        for (batch, result) in group.iter().zip(results) {
            let placed = Batch::placed(&batch.bytes, at, self.epoch);
            at = placed.next();
            match result {
                Ok(_) if failure.is_some() => {
                    return Err("a batch behind a failed one was appended".to_owned());
                }
                Ok(answer) if answer.is_duplicate || answer.base_offset.0 != placed.base() => {
                    return Err(format!("a batch for {} was answered with {answer:?}", placed.base()));
                }
                Ok(_) => {
                    self.stats.batches += 1;
                    self.history.live.append(placed);
                }
                Err(error) => {
                    failure.get_or_insert(error.to_string());
                    failed.push(placed);
                }
            }
        }
        if !failed.is_empty() {
            self.history.attempt(&failed);
        }
        if !self.is_flushed_mode {
            self.log().view().raise_high_watermark_to_end();
        }
        failure.map_or(Ok(()), Err)
    }

    fn context(&self, origin: AppendOrigin) -> AppendContext {
        AppendContext { now: self.now, leader_epoch: LeaderEpoch(self.epoch), origin }
    }

    pub(super) fn flushed(&mut self) -> Outcome {
        let view = self.log().view();
        if self.is_flushed_mode {
            view.raise_high_watermark_to_flushed();
        }
        self.history.flushed(view.limits().flushed.offset.0);
        Ok(())
    }
}
