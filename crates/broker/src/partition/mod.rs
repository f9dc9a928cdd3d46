//! A partition as this broker leads it: the appender's role, the published view, who waits for what.
//!
//! The log has one writer: whoever holds the appender's role. The first producer
//! becomes the appender on its own thread; who comes meanwhile leaves its work in the
//! queue and goes away. Nobody waits for a partition on a network worker.
//!
//! **Invariants:** at most one thread has the [`Log`]; work is done in the order it
//! came; the end is published before waiters are woken; a closed partition answers
//! everything with an error and never writes again.

pub(crate) mod acks;
pub(crate) mod append_one;
mod appender;
mod complaints;
mod durability;
pub(crate) mod registry;
#[cfg(test)]
pub(crate) mod stress;
pub(crate) mod waiters;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use klamm_log::{AppendError, AppendOrigin, BatchPlaced, Log, PartitionView};
use klamm_protocol::ids::{LeaderEpoch, PartitionIndex, TopicId};
use klamm_protocol::records::ValidatedBatch;

use crate::flusher::IsDirty;
use crate::host::{Host, Pool};
use crate::log_dirs::DirState;
use crate::net::waker::Completion;
use acks::{AppendOwner, ParkedAcks};
use complaints::Complaints;
use durability::AtomicFlushPolicy;
pub(crate) use durability::FlushPolicy;
use waiters::Waiters;

/// What became of one batch.
pub(crate) type AppendResult = Result<BatchPlaced, AppendFailure>;

/// Why a batch is not in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AppendFailure {
    /// The partition is no longer here.
    #[error("the partition was closed")]
    Closed,
    /// The log refused it, or its disk failed.
    #[error(transparent)]
    Refused(#[from] AppendError),
}

/// Where a batch's answer belongs: the slot and the place in its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) slot: u64,
    pub(crate) place: (u32, u32),
    /// acks=all: answered once the batch counts, not once it is written.
    pub(crate) waits_for_commit: bool,
}

/// Batches of one connection for one partition, in order.
pub(crate) struct AppendGroup {
    pub(crate) batches: Vec<ValidatedBatch>,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) origin: AppendOrigin,
}

/// What [`Partition::append`] did.
pub(crate) enum Append {
    /// The batches are in the log, or were refused one by one; `None` for one that waits for
    /// a flush: the waker gets a completion for it.
    Done(Vec<Option<AppendResult>>),
    /// Another thread is appending; the waker gets a completion for each ticket.
    Queued,
}

type Job = Box<dyn FnOnce(Option<&mut Log>) + Send>;

enum Work {
    Append { group: AppendGroup, owner: Arc<dyn AppendOwner> },
    Job(Job),
}

enum Role {
    Free(Box<Log>),
    Taken,
    Closed,
}

/// What came of asking for the role.
enum Turn<'a> {
    Mine(Box<Log>),
    /// Another thread has it; what is queued now it will do.
    Busy(MutexGuard<'a, Appender>),
    Closed,
}

fn closed(group: &AppendGroup) -> Vec<Option<AppendResult>> {
    group.tickets.iter().map(|_| Some(Err(AppendFailure::Closed))).collect()
}

struct Appender {
    role: Role,
    waiting: VecDeque<Work>,
}

impl Appender {
    /// Leaves a group to whoever has the role.
    fn leave(&mut self, group: AppendGroup, owner: &Arc<dyn AppendOwner>) {
        owner.add_queued(group.batches.iter().map(|batch| batch.bytes.len()).sum());
        self.waiting.push_back(Work::Append { group, owner: owner.clone() });
    }
}

/// Held by who has the appender's role. Should it panic, the log is gone: nobody may wait for it.
struct RoleGuard<'a>(&'a Partition);

impl Drop for RoleGuard<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let left = {
            let mut appender = self.0.locked();
            appender.role = Role::Closed;
            std::mem::take(&mut appender.waiting)
        };
        tracing::error!(topic = %self.0.topic, partition = %self.0.index, "an append panicked: the partition is closed");
        self.0.fail_acks();
        for work in left {
            match work {
                Work::Job(job) => job(None),
                Work::Append { group, owner } => {
                    owner.subtract_queued(group.batches.iter().map(|batch| batch.bytes.len()).sum());
                    for Ticket { slot, place, .. } in group.tickets {
                        owner.leave(Completion { slot, place, result: Err(AppendFailure::Closed) });
                    }
                    owner.wake();
                }
            }
        }
    }
}

/// One partition that this broker leads.
pub(crate) struct Partition {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) index: PartitionIndex,
    pub(crate) view: Arc<PartitionView>,
    pub(crate) waiters: Waiters,
    pub(crate) is_dirty: IsDirty,
    flush_policy: AtomicFlushPolicy,
    /// Appended since the last flush began.
    unflushed_bytes: AtomicU64,
    acks: ParkedAcks,
    leader_epoch: AtomicI32,
    appender: Mutex<Appender>,
    /// The log directory; another one after a move.
    dir: ArcSwap<DirState>,
    complaints: Complaints,
    /// The end of the log when a recovery of it was last prepared.
    prepared_end: AtomicI64,
}

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        topic_id: TopicId,
        index: PartitionIndex,
        leader_epoch: LeaderEpoch,
        log: Log,
        flush_policy: FlushPolicy,
        dir: Arc<DirState>,
    ) -> Arc<Self> {
        let view = log.view();
        // Opening flushed what it recovered: with one replica everything that is in the log counts.
        view.raise_high_watermark_to_end();
        let end = view.limits().end.offset.0;
        Arc::new(Self {
            topic,
            topic_id,
            index,
            view,
            waiters: Waiters::default(),
            is_dirty: IsDirty::default(),
            flush_policy: AtomicFlushPolicy::new(flush_policy),
            unflushed_bytes: AtomicU64::new(0),
            acks: ParkedAcks::default(),
            leader_epoch: AtomicI32::new(leader_epoch.0),
            appender: Mutex::new(Appender { role: Role::Free(Box::new(log)), waiting: VecDeque::new() }),
            dir: ArcSwap::new(dir),
            complaints: Complaints::default(),
            prepared_end: AtomicI64::new(end),
        })
    }

    /// The log directory that it lies in.
    pub(crate) fn dir(&self) -> Arc<DirState> {
        self.dir.load_full()
    }

    /// True if something was appended since it last said so.
    pub(crate) fn has_grown_since_prepared(&self) -> bool {
        let end = self.view.limits().end.offset.0;
        self.prepared_end.swap(end, Ordering::Relaxed) != end
    }

    /// True once its log directory has failed.
    pub(crate) fn is_offline(&self) -> bool {
        self.dir.load().is_offline()
    }

    /// The epoch in which this broker leads.
    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leader_epoch.load(Ordering::Acquire))
    }

    /// Leads in a new epoch: noted in the log before the first append under it.
    pub(crate) async fn lead<H: Host>(self: &Arc<Self>, host: &H, epoch: LeaderEpoch) {
        let partition = self.clone();
        let assigned = self
            .with_log_offloaded(host, move |log| {
                let assigned = log.assign_leader_epoch(epoch);
                partition.leader_epoch.store(epoch.0, Ordering::Release);
                assigned
            })
            .await;
        if let Some(Err(error)) = assigned {
            tracing::error!(topic = %self.topic, partition = %self.index, %error, "cannot note a leader epoch");
        }
        self.waiters.changed();
    }

    /// Appends `group` here if nobody else is appending, or leaves it to who is. On a slow directory that is a thread
    /// that may block.
    pub(crate) fn append<H: Host>(
        self: &Arc<Self>,
        host: &H,
        group: AppendGroup,
        owner: &Arc<dyn AppendOwner>,
    ) -> Append {
        match self.take_turn() {
            Turn::Mine(log) if self.is_slow(host) => {
                self.locked().leave(group, owner);
                self.hand_over_aside(host, log);
                Append::Queued
            }
            turn => self.append_in(turn, host, group, owner),
        }
    }

    /// As [`Partition::append`], for who has seen to it that it may block.
    pub(crate) fn append_here<H: Host>(
        self: &Arc<Self>,
        host: &H,
        group: AppendGroup,
        owner: &Arc<dyn AppendOwner>,
    ) -> Append {
        self.append_in(self.take_turn(), host, group, owner)
    }

    fn append_in<H: Host>(
        self: &Arc<Self>,
        turn: Turn<'_>,
        host: &H,
        group: AppendGroup,
        owner: &Arc<dyn AppendOwner>,
    ) -> Append {
        match turn {
            Turn::Mine(log) => Append::Done(self.append_with(host, log, group, owner)),
            Turn::Busy(mut appender) => {
                appender.leave(group, owner);
                Append::Queued
            }
            Turn::Closed => Append::Done(closed(&group)),
        }
    }

    /// As [`Partition::append`], once nobody else is appending: what becomes of the write is known then.
    pub(crate) async fn append_in_turn<H: Host>(
        self: &Arc<Self>,
        host: &H,
        group: AppendGroup,
        owner: &Arc<dyn AppendOwner>,
    ) -> Vec<Option<AppendResult>> {
        loop {
            match self.take_turn() {
                Turn::Mine(log) => return self.append_with(host, log, group, owner),
                Turn::Busy(_) => {}
                Turn::Closed => return closed(&group),
            }
            // As in `close`: the role is about to be free.
            if self.with_log(host, |_| ()).await.is_none() {
                return closed(&group);
            }
            tokio::task::yield_now().await;
        }
    }

    fn append_with<H: Host>(
        self: &Arc<Self>,
        host: &H,
        mut log: Box<Log>,
        group: AppendGroup,
        owner: &Arc<dyn AppendOwner>,
    ) -> Vec<Option<AppendResult>> {
        let _guard = RoleGuard(self);
        let results = self.write(host, &mut log, &group.batches, group.origin);
        self.hand_over(host, log);
        self.park(&group.tickets, results, owner)
    }

    /// True while an append might hold up whoever makes it.
    pub(crate) fn is_slow<H: Host>(&self, host: &H) -> bool {
        self.dir.load().is_slow(host)
    }

    fn take_turn(&self) -> Turn<'_> {
        let mut appender = self.locked();
        match std::mem::replace(&mut appender.role, Role::Taken) {
            Role::Free(log) => Turn::Mine(log),
            Role::Taken => Turn::Busy(appender),
            Role::Closed => {
                appender.role = Role::Closed;
                Turn::Closed
            }
        }
    }

    /// Runs `job` with the log, in its turn, and gives its result. `None` once the partition is closed.
    pub(crate) async fn with_log<H: Host, T: Send + 'static>(
        self: &Arc<Self>,
        host: &H,
        job: impl FnOnce(&mut Log) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.enqueue(
            host,
            Box::new(move |log| {
                let _ = sender.send(log.map(job));
            }),
        );
        receiver.await.ok().flatten()
    }

    /// Runs `job` with the log, in its turn, and does not wait for it; not at all once the partition
    /// is closed.
    pub(crate) fn in_turn<H: Host>(self: &Arc<Self>, host: &H, job: impl FnOnce(&mut Log) + Send + 'static) {
        let job = |log: Option<&mut Log>| {
            if let Some(log) = log {
                job(log);
            }
        };
        self.enqueue(host, Box::new(job));
    }

    /// As [`Partition::with_log`], for a job that touches the disk: begun where it may block.
    pub(crate) async fn with_log_offloaded<H: Host, T: Send + 'static>(
        self: &Arc<Self>,
        host: &H,
        job: impl FnOnce(&mut Log) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (partition, of_job) = (self.clone(), host.clone());
        let job: Job = Box::new(move |log| {
            let _ = sender.send(log.map(job));
        });
        host.offload(Pool::Flush, move || partition.enqueue(&of_job, job)).await;
        receiver.await.ok().flatten()
    }

    /// As [`Partition::with_log`], for a job that waits for the disk: it runs where it may block in
    /// any case, and what comes meanwhile waits in the queue, not on a thread.
    pub(crate) async fn with_log_aside<H: Host, T: Send + 'static>(
        self: &Arc<Self>,
        host: &H,
        job: impl FnOnce(&mut Log) -> T + Send + 'static,
    ) -> Option<T> {
        let mut log = loop {
            {
                let mut appender = self.locked();
                match std::mem::replace(&mut appender.role, Role::Taken) {
                    Role::Free(log) => break log,
                    Role::Taken => {}
                    Role::Closed => {
                        appender.role = Role::Closed;
                        return None;
                    }
                }
            }
            // As in `close`: the role is about to be free.
            self.with_log(host, |_| ()).await?;
            tokio::task::yield_now().await;
        };
        let _guard = RoleGuard(self);
        let (log, result) = host
            .offload(Pool::Flush, move || {
                let result = job(&mut log);
                (log, result)
            })
            .await;
        self.after_job();
        self.hand_over(host, log);
        Some(result)
    }

    /// Takes the log away for good; `None` if it was taken before. What still waits is refused.
    pub(crate) async fn close<H: Host>(self: &Arc<Self>, host: &H) -> Option<Box<Log>> {
        loop {
            {
                let mut appender = self.locked();
                match std::mem::replace(&mut appender.role, Role::Closed) {
                    Role::Free(log) => {
                        drop(appender);
                        self.fail_acks();
                        return Some(log);
                    }
                    Role::Closed => return None,
                    Role::Taken => appender.role = Role::Taken,
                }
            }
            // Queue behind the appender; when the job has run the role is about to be free.
            self.with_log(host, |_| ()).await?;
            tokio::task::yield_now().await;
        }
    }

    fn enqueue<H: Host>(self: &Arc<Self>, host: &H, job: Job) {
        let taken = {
            let mut appender = self.locked();
            match std::mem::replace(&mut appender.role, Role::Taken) {
                Role::Free(log) => Some((log, job)),
                Role::Taken => {
                    appender.waiting.push_back(Work::Job(job));
                    None
                }
                Role::Closed => {
                    appender.role = Role::Closed;
                    drop(appender);
                    job(None);
                    None
                }
            }
        };
        if let Some((mut log, job)) = taken {
            let _guard = RoleGuard(self);
            job(Some(&mut log));
            self.after_job();
            self.hand_over(host, log);
        }
    }

    /// A job may have moved the log's start or end: readers look again.
    fn after_job(&self) {
        self.raise_high_watermark();
        self.waiters.changed();
    }

    /// True once the partition answers nothing any more.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.locked().role, Role::Closed)
    }

    /// The appender's role, as if another thread were at work.
    #[cfg(test)]
    pub(crate) fn take_role(&self) -> Box<Log> {
        match std::mem::replace(&mut self.locked().role, Role::Taken) {
            Role::Free(log) => log,
            Role::Taken | Role::Closed => panic!("the role is not free"),
        }
    }

    /// Ends what [`Partition::take_role`] began.
    #[cfg(test)]
    pub(crate) fn give_role_back<H: Host>(self: &Arc<Self>, host: &H, log: Box<Log>) {
        self.hand_over(host, log);
    }

    fn locked(&self) -> MutexGuard<'_, Appender> {
        self.appender.lock().expect("nothing panics while the role changes hands")
    }
}
