//! The machine's role, lent to a task that must hear what the log says before anything is decided.
//!
//! What the log says against a producer's transaction is an answer, not a failure. Offsets in a transaction and
//! markers are therefore asked of the log first, in the machine's turn: nothing can come between the question and
//! the append. A marker decides nothing:
//! it is written in the log's turn, and if that fails, as on a full disk, the machine has never heard of it.
//!
//! **Invariants:** whoever holds a lease waits for the log's turn and for nothing else, since nobody else gets
//! an answer meanwhile; a lease that is dropped, wherever its task ended, gives the role back.

use std::sync::Arc;

use klamm_coordinator::contract::Coordinator;
use klamm_log::{AppendError, AppendOrigin};
use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::records::ValidatedBatch;
use tokio::sync::oneshot;

use super::{Active, Role, RoleGuard, Shard, Unavailable, Work};
use crate::host::Host;
use crate::net::waker::Completion;
use crate::partition::append_one::Waiting;
use crate::partition::{AppendFailure, AppendGroup, AppendResult, Partition, Ticket};

/// The role.
struct Lease<H: Host, C: Coordinator + Default> {
    shard: Arc<Shard<H, C>>,
    active: Option<Box<Active<C>>>,
}

impl<H: Host, C: Coordinator + Default> Lease<H, C> {
    fn active(&mut self) -> &mut Active<C> {
        self.active.as_mut().expect("a lease has the role until it is dropped")
    }
}

impl<H: Host, C: Coordinator + Default> Drop for Lease<H, C> {
    fn drop(&mut self) {
        let Some(active) = self.active.take() else { return };
        if std::thread::panicking() {
            drop(RoleGuard(&self.shard));
        } else {
            self.shard.give_back(active);
        }
    }
}

impl<H: Host, C: Coordinator + Default> Shard<H, C> {
    /// The partition whose memory it is.
    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// As [`Shard::ask`], for a command whose records belong to a producer's transaction. What the log
    /// says if it would not take them is the inner error; then nothing was decided.
    pub(crate) async fn ask_in_transaction(
        self: &Arc<Self>,
        command: C::Command,
        id: ProducerId,
        epoch: ProducerEpoch,
    ) -> Result<Result<C::Reply, AppendError>, Unavailable> {
        let mut lease = self.lease().await?;
        let host = &self.world.host;
        let check = self.partition.with_log(host, move |log| log.check_transaction(id, epoch));
        if let Err(refused) = check.await.ok_or(Unavailable::Lost)? {
            return Ok(Err(refused));
        }
        if self.commits.has_failed() {
            return Err(Unavailable::Lost);
        }
        let (asker, answer) = oneshot::channel();
        let dirty = self.work(lease.active(), Work::Command(command, asker));
        drop(lease);
        // Without the role: it may flush here and now.
        super::committed(host, dirty, answer).await.unwrap_or(Err(Unavailable::Lost)).map(Ok)
    }

    /// Ends a producer's transaction by its marker; answers once that is committed, or with what the log
    /// has against it.
    pub(crate) async fn end_transaction(
        self: &Arc<Self>,
        marker: ValidatedBatch,
        transaction_version: i16,
        is_commit: bool,
    ) -> Result<AppendResult, Unavailable> {
        let mut lease = self.lease().await?;
        let host = &self.world.host;
        let origin = AppendOrigin::Marker { transaction_version };
        match self.partition.refusal(host, marker.clone(), origin).await {
            None => {}
            Some(AppendFailure::Closed) => return Err(Unavailable::Lost),
            Some(refused) => return Ok(Err(refused)),
        }
        if self.commits.has_failed() {
            return Err(Unavailable::Lost);
        }
        let active = lease.active();
        let id = marker.header.producer_id;
        let end = active.end.plus(1);
        let (owner, answer) = Waiting::begin(Some(self.commits.clone()));
        let slot = end.0 as u64;
        let ticket = Ticket { slot, place: (0, 0), waits_for_commit: true };
        let group = AppendGroup { batches: vec![marker], tickets: vec![ticket], origin };
        let mut dirty = None;
        match self.partition.append_in_turn(host, group, &owner).await.pop().flatten() {
            // Nothing was written, and the files are as they were: so is the machine.
            Some(Err(refused @ AppendFailure::Refused(_))) if !self.partition.is_offline() => {
                return Ok(Err(refused));
            }
            Some(result) => {
                owner.leave(Completion { slot, place: ticket.place, result });
                owner.wake();
            }
            None => dirty = Some(self.partition.want_commit(host)),
        }
        // Should it not be in the log after all, the machine is loaded again.
        active.end = end;
        active.machine.end_transaction(id, is_commit);
        drop(lease);
        super::committed(host, dirty, answer).await.map_err(|_| Unavailable::Lost)
    }

    async fn lease(self: &Arc<Self>) -> Result<Lease<H, C>, Unavailable> {
        let lent = {
            let mut inner = self.locked();
            match std::mem::replace(&mut inner.role, Role::Taken) {
                Role::Free(active) if !self.commits.has_failed() => {
                    return Ok(Lease { shard: self.clone(), active: Some(active) });
                }
                Role::Taken => {
                    let (sender, lent) = oneshot::channel();
                    let shard = self.clone();
                    inner.queue.push_back(Work::Lend(Box::new(move |active| {
                        let lease = Lease { shard, active: Some(active) };
                        // Whoever asked may have gone.
                        sender.send(lease).err().and_then(|mut lease| lease.active.take())
                    })));
                    lent
                }
                other => {
                    let is_closed = matches!(other, Role::Closed);
                    inner.role = other;
                    return Err(if is_closed { Unavailable::Lost } else { Unavailable::Loading });
                }
            }
        };
        lent.await.map_err(|_| Unavailable::Lost)
    }
}
