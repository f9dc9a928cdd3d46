//! Comparing what the log answers with the model.

use std::collections::BTreeMap;

use klamm_log::{Log, ReadError};
use klamm_protocol::ids::Offset;

use super::{Outcome, TIMESTAMP_MAX, World, text};
use crate::compacted::{self, Missing};
use crate::history::{Batch, Contents, Producer};

impl World {
    /// What the log calls durable is promised from now on.
    pub(super) fn note_promise(&mut self) -> Outcome {
        let Some(log) = &self.log else { return Ok(()) };
        let limits = log.view().limits();
        let (end, start) = (limits.end.offset.0, limits.log_start.0);
        let live = &self.history.live;
        if (end, start) != (live.end, live.log_start) {
            return Err(format!("the log is {start}..{end}, the model {}..{}", live.log_start, live.end));
        }
        self.history.durable_end = limits.flushed.offset.0;
        Ok(())
    }

    /// Everything that the log answers is as the model says.
    pub(super) fn check(&self) -> Outcome {
        let log = self.log.as_ref().expect("there is a log to check");
        let live = &self.history.live;
        let found = self.read(log)?;
        let readable: Vec<&Batch> = live.readable().collect();
        let missing = Missing { below: self.history.cleaned_to, from: i64::MAX };
        compacted::fits(&found.batches, &readable, missing)
            .map_err(|reason| format!("reads give {found:?} instead of {live:?}: {reason}"))?;
        let view = log.view();
        let end = view.limits().end;
        for batch in live.readable() {
            let epoch = view.epoch_for_offset(Offset(batch.base().max(live.log_start)));
            // Forgotten for records that were deleted and came back is fine, wrong is not.
            let is_forgotten = epoch.is_none() && batch.base() < self.log_start_asked;
            if epoch != Some(batch.header.leader_epoch) && !is_forgotten {
                return Err(format!("the epoch checkpoint gives {epoch:?} for {batch:?}"));
            }
        }
        self.check_set_aside()?;
        if !self.damage.is_none() {
            // Corrupt bytes may hide a timestamp.
            return Ok(());
        }
        for asked in [0, 1, 77, 120, TIMESTAMP_MAX as i64 - 1, TIMESTAMP_MAX as i64] {
            let answer = view.offset_for_timestamp(asked, end).map_err(text)?;
            let (answer, expected) =
                (answer.map(|at| (at.offset.0, at.timestamp)), found.record_for_timestamp(asked));
            if answer != expected {
                return Err(format!("timestamp {asked} leads to {answer:?} instead of {expected:?}"));
            }
        }
        self.check_transactions(log, &found)?;
        if self.has_producers { self.check_producers(log) } else { Ok(()) }
    }

    /// Everything readable, batch by batch, and what is refused as it was written; at the end of a compacted
    /// log there may be nothing.
    pub(super) fn read(&self, log: &Log) -> Result<Contents, String> {
        let view = log.view();
        let limits = view.limits();
        let (log_start, end) = (limits.log_start.0, limits.end.offset.0);
        let mut contents = Contents { batches: Vec::new(), log_start, end };
        let mut from = log_start;
        while from < end {
            // Who looks at all of it needs more time, and reads what the device has.
            let region = match self.damage.is_none() {
                true => view.read(Offset(from), limits.end, 1, true),
                false => view.read_checked(Offset(from), limits.end, 1, true, &mut Vec::new()),
            };
            let batch = match region {
                Ok(Some(region)) => Batch::read(&region.read().map_err(text)?)?,
                Ok(None) if self.config.is_compacted => break,
                Ok(None) => return Err(format!("nothing to read at {from}")),
                Err(ReadError::Quarantined { path, range }) => self.refused(&path, &range)?,
                Err(error) => return Err(error.to_string()),
            };
            if batch.next() <= from {
                return Err(format!("a read from {from} gives {batch:?}"));
            }
            from = batch.next();
            contents.batches.push(batch);
        }
        Ok(contents)
    }

    fn check_producers(&self, log: &Log) -> Outcome {
        // Compaction keeps a producer's last batch; of those before it a start knows what is left.
        let count = if self.config.is_compacted { 1 } else { usize::MAX };
        let known = log.producers().iter().filter(|(_, entry)| !entry.batches().is_empty());
        let known: BTreeMap<i64, Producer> = known
            .map(|(id, entry)| {
                let last = entry.batches().iter();
                let last = last.map(|b| (b.first_sequence(), b.last_sequence, b.first_offset().0)).collect();
                (id.0, last_of((entry.producer_epoch.0, last), count))
            })
            .collect();
        let expected = self.history.live.producers();
        let expected: BTreeMap<i64, Producer> =
            expected.into_iter().map(|(id, producer)| (id, last_of(producer, count))).collect();
        if expected != known {
            return Err(format!("producers are {known:?} instead of {expected:?}"));
        }
        Ok(())
    }

    /// What a reader of committed records sees.
    fn check_transactions(&self, log: &Log, found: &Contents) -> Outcome {
        let live = &self.history.live;
        let view = log.view();
        let limits = view.limits();
        let Some(last) = found.batches.last() else { return Ok(()) };
        let region = view.read(Offset(last.base().max(live.log_start)), limits.end, 1, true).map_err(text)?;
        let region = region.ok_or("nothing to read in the last batch")?;
        let listed = view.aborted_transactions(Offset(live.log_start), &region, limits.end).map_err(text)?;
        let mut listed: Vec<_> =
            listed.iter().map(|one| (one.producer_id.0, one.first_offset.0, one.last_offset.0)).collect();
        listed.sort_unstable_by_key(|one| one.2);
        // Of what compaction has taken nothing needs to be listed.
        if !self.config.is_compacted && listed != live.aborted() {
            return Err(format!("aborted are {listed:?} instead of {:?}", live.aborted()));
        }
        let stable = live.first_unstable().unwrap_or(live.end);
        if limits.high_watermark == limits.end && limits.last_stable.offset.0 != stable {
            return Err(format!(
                "the last stable offset is {} instead of {stable}",
                limits.last_stable.offset
            ));
        }
        let is_below = |batch: &&Batch| batch.base() < stable;
        let is = compacted::last_values(found.batches.iter().filter(is_below), live.log_start, &listed);
        let of_all =
            compacted::last_values(live.readable().filter(is_below), live.log_start, &live.aborted());
        if is != of_all {
            return Err(format!("the last values are {is:?} instead of {of_all:?}"));
        }
        Ok(())
    }
}

fn last_of((epoch, mut batches): Producer, count: usize) -> Producer {
    batches.drain(..batches.len().saturating_sub(count));
    (epoch, batches)
}
