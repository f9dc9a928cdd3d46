//! What a machine has decided is carried out: appended, applied, and answered once it is committed.
//!
//! What it deliberately does not do: flush. **Invariants:** a record is applied only once the log has taken it, or
//! has it in its queue; what the log refuses is not applied, and its answers leave as errors.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use klamm_coordinator::contract::{At, Coordinator, Outcome};
use klamm_coordinator::record::Codec;
use klamm_log::{AppendOrigin, trusted_batch};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::BatchBuilder;
use klamm_protocol::wire::EncodeError;

use super::{Active, Shard, Unavailable};
use crate::host::Host;
use crate::log_dirs::DirState;
use crate::partition::acks::AppendOwner;
use crate::partition::{Append, AppendFailure, AppendGroup, Ticket};

/// Bytes of records in one batch, where they may be divided.
const BATCH_BYTES: usize = 512 * 1024;

impl<H: Host, C: Coordinator + Default> Shard<H, C> {
    /// Appends, applies, holds the answers back. Gives the directory that somebody waits for.
    pub(super) fn carry_out(&self, active: &mut Active<C>, mut out: Outcome<C>) -> Option<Arc<DirState>> {
        self.set_timers(active, &mut out);
        let (dirty, refused) = self.write(active, &mut out);
        if let Some(because) = refused {
            self.withdraw(active, &mut out, because);
        }
        for (key, reply) in out.replies.drain(..) {
            if let Some(asker) = active.waiting.remove(&key) {
                self.commits.hold(active.end, asker, reply);
            }
        }
        for effect in out.effects.drain(..) {
            self.commits.hold_effect(active.end, effect);
        }
        active.out = out;
        dirty
    }

    fn set_timers(&self, active: &mut Active<C>, out: &mut Outcome<C>) {
        if out.timers.is_empty() {
            return;
        }
        let first_before = active.timers.next();
        out.timers.drain(..).for_each(|op| active.timers.change(op));
        if active.timers.next() != first_before {
            self.changed.notify_one();
        }
    }

    /// What is left of `out` is not in the log: whoever would have been answered hears so, and the machine sets
    /// right what it did beside.
    fn withdraw(&self, active: &mut Active<C>, out: &mut Outcome<C>, because: Unavailable) {
        for (key, _) in out.replies.drain(..) {
            if let Some(asker) = active.waiting.remove(&key) {
                // Whoever asked may have gone.
                let _ = asker.send(Err(because));
            }
        }
        out.effects.clear();
        let records = std::mem::take(&mut out.records);
        if !C::OUTLIVES_REFUSALS {
            return;
        }
        self.with_context(|cx| active.machine.refused(cx, &records, out));
        debug_assert!(out.records.is_empty(), "the log has just refused some");
        self.set_timers(active, out);
    }

    /// Appends and applies. Leaves what was refused in `out`, and says why.
    fn write(
        &self,
        active: &mut Active<C>,
        out: &mut Outcome<C>,
    ) -> (Option<Arc<DirState>>, Option<Unavailable>) {
        let (is_divisible, transaction) = (std::mem::take(&mut out.is_divisible), out.transaction.take());
        let records = &mut out.records;
        let (mut dirty, mut refused) = (None, None);
        let builder = || {
            let builder = BatchBuilder::new().codec(self.world.codec);
            match transaction {
                Some((id, epoch)) => builder.producer(id, epoch, -1).transactional(),
                None => builder,
            }
        };
        // Such records are small: one more does not make twice of it.
        let batch_bytes = BATCH_BYTES.min(self.world.batch_bytes_max.load(Ordering::Relaxed) / 2);
        let now_ms = self.world.host.wall().0;
        let mut batch = builder();
        let (mut end, mut taken) = (active.end, 0);
        for (index, record) in records.iter().enumerate() {
            if let Err(error) = push(&mut batch, record, now_ms) {
                tracing::error!(%error, "a coordinator's record cannot be written");
                refused = Some(Unavailable::TooLarge);
                break;
            }
            end = end.plus(1);
            let is_last = index + 1 == records.len();
            if is_last || is_divisible && batch.size_bytes() >= batch_bytes {
                let full = std::mem::replace(&mut batch, builder());
                match self.append(full, end) {
                    Ok(wanting) => dirty = wanting.or(dirty),
                    Err(because) => {
                        refused = Some(because);
                        break;
                    }
                }
                taken = index + 1;
            }
        }
        for (offset, record) in (active.end.0..).zip(records.drain(..taken)) {
            let at = At { offset: Offset(offset), transaction: transaction.map(|(id, _)| id) };
            active.machine.apply(at, &record);
            active.end = Offset(offset + 1);
        }
        if refused.is_some() && !C::OUTLIVES_REFUSALS {
            self.commits.fail();
        }
        (dirty, refused)
    }

    /// One batch, behind which the log ends at `end`; the error if nothing was written, and the files are as they
    /// were.
    fn append(&self, batch: BatchBuilder, end: Offset) -> Result<Option<Arc<DirState>>, Unavailable> {
        let batch = trusted_batch(batch.build()).expect("a batch that was just built");
        if C::OUTLIVES_REFUSALS && batch.bytes.len() > self.world.batch_bytes_max.load(Ordering::Relaxed) {
            return Err(Unavailable::TooLarge);
        }
        let ticket = Ticket { slot: end.0 as u64, place: (0, 0), waits_for_commit: true };
        let group =
            AppendGroup { batches: vec![batch], tickets: vec![ticket], origin: AppendOrigin::Coordinator };
        let owner: Arc<dyn AppendOwner> = self.commits.clone();
        Ok(match self.partition.append_here(&self.world.host, group, &owner) {
            Append::Queued => None,
            Append::Done(results) => match results.into_iter().next() {
                Some(Some(Err(AppendFailure::Refused(_))))
                    if C::OUTLIVES_REFUSALS && !self.partition.is_offline() =>
                {
                    return Err(Unavailable::Lost);
                }
                Some(Some(result)) => {
                    self.commits.note(end, &result);
                    self.commits.wake();
                    None
                }
                Some(None) | None => Some(self.partition.want_commit(&self.world.host)),
            },
        })
    }
}

fn push<R: Codec>(batch: &mut BatchBuilder, record: &R, now_ms: i64) -> Result<(), EncodeError> {
    let (key, value) = record.encode()?;
    batch.push(now_ms, Some(&key), value.as_deref(), &[]);
    Ok(())
}
