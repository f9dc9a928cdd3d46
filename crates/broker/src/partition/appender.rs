//! What the appender does: the rounds of whoever has the role, and the write itself.
//!
//! All batches between two jobs go into one write, unless a client's and a coordinator's meet:
//! those are checked differently. What it deliberately does not do: decide who has the role.
//!
//! **Invariant:** an error is told to those whose batches it hit, and to nobody else.

use std::collections::VecDeque;
use std::sync::Arc;

use klamm_log::{AppendContext, AppendError, AppendOrigin, Log};
use klamm_protocol::records::ValidatedBatch;

use super::acks::AppendOwner;
use super::{AppendFailure, AppendResult, Partition, Role, RoleGuard, Ticket, Work};
use crate::host::Host;
use crate::net::waker::Completion;

/// Rounds an appender does for others before a task of its own takes over.
const ROUNDS_MAX: usize = 4;

/// What goes into one write.
struct Gathered {
    batches: Vec<ValidatedBatch>,
    owners: Vec<(Arc<dyn AppendOwner>, Ticket)>,
    origin: AppendOrigin,
}

impl Gathered {
    fn new() -> Self {
        Self { batches: Vec::new(), owners: Vec::new(), origin: AppendOrigin::Client }
    }
}

impl Partition {
    /// Does what came meanwhile, then frees the role.
    pub(super) fn hand_over<H: Host>(self: &Arc<Self>, host: &H, mut log: Box<Log>) {
        let _guard = RoleGuard(self);
        for _ in 0..ROUNDS_MAX {
            let round = {
                let mut appender = self.locked();
                if appender.waiting.is_empty() {
                    appender.role = Role::Free(log);
                    return;
                }
                std::mem::take(&mut appender.waiting)
            };
            self.do_round(host, &mut log, round);
        }
        // Others keep coming faster than this thread writes: it goes back to its own connection, or to other partitions.
        if self.is_slow(host) {
            return self.hand_over_aside(host, log);
        }
        let partition = self.clone();
        let host_of_task = host.clone();
        host.spawn("appender", async move {
            tokio::task::yield_now().await;
            partition.hand_over(&host_of_task, log);
        });
    }

    /// As [`Partition::hand_over`], on a thread that may block.
    pub(super) fn hand_over_aside<H: Host>(self: &Arc<Self>, host: &H, log: Box<Log>) {
        let (partition, of_job) = (self.clone(), host.clone());
        self.dir.load().aside(host, move || partition.hand_over(&of_job, log));
    }

    /// All batches between two jobs go into one write.
    fn do_round<H: Host>(self: &Arc<Self>, host: &H, log: &mut Log, round: VecDeque<Work>) {
        let mut gathered = Gathered::new();
        for work in round {
            match work {
                Work::Append { group, owner } => {
                    if group.origin != gathered.origin {
                        self.write_for(host, log, &mut gathered);
                    }
                    gathered.origin = group.origin;
                    gathered.batches.extend(group.batches);
                    gathered.owners.extend(group.tickets.into_iter().map(|ticket| (owner.clone(), ticket)));
                }
                Work::Job(job) => {
                    self.write_for(host, log, &mut gathered);
                    job(Some(log));
                    self.after_job();
                }
            }
        }
        self.write_for(host, log, &mut gathered);
    }

    fn write_for<H: Host>(self: &Arc<Self>, host: &H, log: &mut Log, gathered: &mut Gathered) {
        let Gathered { batches, owners, origin } = gathered;
        if batches.is_empty() {
            return;
        }
        let results = self.write(host, log, batches, *origin);
        let bytes = batches.drain(..).map(|batch| batch.bytes.len());
        let mut rest = owners.drain(..).zip(results).zip(bytes).peekable();
        let mut waits = false;
        while let Some((((owner, ticket), result), bytes)) = rest.next() {
            owner.subtract_queued(bytes);
            let result = self.park(&[ticket], vec![result], &owner).pop().flatten();
            waits |= result.is_none();
            if let Some(result) = result {
                owner.leave(Completion { slot: ticket.slot, place: ticket.place, result });
            }
            // A connection's batches lie together: one wake for all of them.
            if rest.peek().is_none_or(|(((next, _), _), _)| !Arc::ptr_eq(next, &owner)) {
                owner.wake();
            }
        }
        if waits {
            self.commit_soon(host);
        }
    }

    /// What [`Partition::append`] would have against a batch now; `None` if nothing.
    pub(crate) async fn refusal<H: Host>(
        self: &Arc<Self>,
        host: &H,
        batch: ValidatedBatch,
        origin: AppendOrigin,
    ) -> Option<AppendFailure> {
        let context = self.context(host, origin);
        let planned = self.with_log(host, move |log| log.plan(&context, &[batch]).refusal().cloned());
        match planned.await {
            None => Some(AppendFailure::Closed),
            Some(refused) => refused.map(AppendFailure::from),
        }
    }

    fn context<H: Host>(&self, host: &H, origin: AppendOrigin) -> AppendContext {
        AppendContext { now: host.wall(), leader_epoch: self.leader_epoch(), origin }
    }

    /// Plan, one vectored write, publish the end, wake waiters: in this order.
    pub(super) fn write<H: Host>(
        self: &Arc<Self>,
        host: &H,
        log: &mut Log,
        batches: &[ValidatedBatch],
        origin: AppendOrigin,
    ) -> Vec<AppendResult> {
        if let Some(error) = self.dir.load().failure() {
            let refused = || Err(AppendError::Storage(error.clone()).into());
            return batches.iter().map(|_| refused()).collect();
        }
        let plan = log.plan(&self.context(host, origin), batches);
        let results: Vec<AppendResult> = host
            .maybe_slow(&self.dir.load().pressure, || log.write(plan))
            .into_iter()
            .map(|result| result.map_err(AppendFailure::from))
            .collect();
        let placed_bytes: u64 = results
            .iter()
            .flatten()
            .filter(|placed| !placed.is_duplicate)
            .map(|placed| u64::from(placed.bytes))
            .sum();
        if placed_bytes > 0 {
            self.appended(host, placed_bytes);
            if self.complaints.is_over(|| host.mono()) {
                tracing::warn!(topic = %self.topic, partition = %self.index, "appends again");
            }
        }
        if let Some(Err(AppendFailure::Refused(AppendError::Storage(error)))) = results.last() {
            match log.is_poisoned() {
                // Whatever the write said: its tail could not be cut.
                true => self.dir.load().fail(error),
                false => self.dir.load().note(error),
            }
            if self.complaints.refused(host.mono()) {
                tracing::error!(
                    topic = %self.topic, partition = %self.index, %error,
                    "cannot append: producers get KAFKA_STORAGE_ERROR; free space, or look at the disk"
                );
            }
        }
        results
    }
}
