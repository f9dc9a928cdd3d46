//! When what a partition holds counts: at once, or once it is flushed.
//!
//! With `klamm.durability=flushed` readers and acks=all see only what a flush has covered; with
//! `page_cache` everything written counts, as in Kafka, and flushes only bound what recovery
//! reads. `flush.messages` makes every answer wait for a flush once so many records are
//! unflushed. What it deliberately does not do: flush (that is the directory's flusher).
//!
//! **Invariant:** the watermark never falls, also when the durability changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use klamm_cluster::config::{Durability, TopicConfig};
use klamm_log::{AppendError, FlushJob, LogError};

use super::acks::{AppendOwner, ParkedAck};
use super::waiters::FetchWait;
use super::{AppendFailure, AppendResult, Partition, Ticket};
use crate::host::Host;
use crate::log_dirs::DirState;

/// What a topic's configuration says of flushing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlushPolicy {
    durability: Durability,
    flush_messages: i64,
    flush_ms: u64,
}

impl From<&TopicConfig> for FlushPolicy {
    fn from(config: &TopicConfig) -> Self {
        Self {
            durability: config.durability,
            flush_messages: config.flush_messages,
            flush_ms: u64::try_from(config.flush_ms).unwrap_or(0),
        }
    }
}

/// A [`FlushPolicy`] that changes while appenders look at it.
pub(super) struct AtomicFlushPolicy {
    is_flushed: AtomicBool,
    flush_messages: AtomicI64,
    flush_ms: AtomicU64,
}

impl AtomicFlushPolicy {
    pub(super) fn new(policy: FlushPolicy) -> Self {
        Self {
            is_flushed: AtomicBool::new(policy.durability == Durability::Flushed),
            flush_messages: AtomicI64::new(policy.flush_messages),
            flush_ms: AtomicU64::new(policy.flush_ms),
        }
    }

    fn set(&self, policy: FlushPolicy) {
        self.is_flushed.store(policy.durability == Durability::Flushed, Ordering::SeqCst);
        self.flush_messages.store(policy.flush_messages, Ordering::SeqCst);
        self.flush_ms.store(policy.flush_ms, Ordering::SeqCst);
    }

    fn is_flushed(&self) -> bool {
        self.is_flushed.load(Ordering::SeqCst)
    }
}

impl Partition {
    /// The topic's configuration has changed.
    pub(crate) fn set_flush_policy<H: Host>(self: &Arc<Self>, host: &H, policy: FlushPolicy) {
        self.flush_policy.set(policy);
        // What was written under the other policy: made visible, or due for a commit.
        self.raise_high_watermark();
        self.waiters.changed();
        self.dir.load().add_for_commit(host, self);
    }

    /// Up to where producers and readers may rely on what they are told.
    pub(super) fn raise_high_watermark(&self) {
        if self.flush_policy.is_flushed() {
            self.view.raise_high_watermark_to_flushed();
        } else {
            self.view.raise_high_watermark_to_end();
        }
    }

    /// The log has `bytes` more.
    pub(super) fn appended<H: Host>(self: &Arc<Self>, host: &H, bytes: u64) {
        self.unflushed_bytes.fetch_add(bytes, Ordering::SeqCst);
        if self.flush_policy.is_flushed() {
            self.dir.load().add_for_commit(host, self);
        } else {
            self.view.raise_high_watermark_to_end();
            self.waiters.advanced(bytes);
            let delay_ms = self.flush_policy.flush_ms.load(Ordering::Relaxed);
            self.dir.load().add_for_write_back(host, self, bytes, delay_ms);
        }
    }

    /// Keeps back the answers that must wait for a flush; the others come back.
    /// Whoever kept any back wants a commit ([`Partition::want_commit`]) once he is done appending.
    pub(super) fn park(
        &self,
        tickets: &[Ticket],
        results: Vec<AppendResult>,
        owner: &Arc<dyn AppendOwner>,
    ) -> Vec<Option<AppendResult>> {
        let limits = self.view.limits();
        let is_flushed = self.flush_policy.is_flushed();
        let unflushed = limits.end.offset.0 - limits.flushed.offset.0;
        let is_flush_due = unflushed >= self.flush_policy.flush_messages.load(Ordering::Relaxed);
        if !is_flushed && !is_flush_due {
            return results.into_iter().map(Some).collect();
        }
        let keep = |(ticket, result): (&Ticket, AppendResult)| match result {
            Ok(placed)
                if placed.last_offset >= limits.flushed.offset
                    && (is_flush_due || ticket.waits_for_commit) =>
            {
                self.acks.park(ParkedAck { owner: owner.clone(), ticket: *ticket, placed });
                None
            }
            result => Some(result),
        };
        let kept: Vec<_> = tickets.iter().zip(results).map(keep).collect();
        if kept.iter().any(Option::is_none) {
            // A flush may have ended, or failed, before these were there to be found.
            self.release_acks();
        }
        kept
    }

    /// Somebody waits for what was appended, and this thread has no time to flush it.
    pub(crate) fn commit_soon<H: Host>(self: &Arc<Self>, host: &H) {
        self.want_commit(host).want_round();
    }

    /// Somebody waits for what was appended, and will ask the directory for a round.
    pub(crate) fn want_commit<H: Host>(self: &Arc<Self>, host: &H) -> Arc<DirState> {
        let dir = self.dir();
        dir.add_for_commit(host, self);
        dir
    }

    /// What [`Partition::flushed`] or [`Partition::flush_failed`] will report on.
    pub(crate) fn begin_flush(&self) -> (u64, FlushJob) {
        let bytes = self.unflushed_bytes.swap(0, Ordering::SeqCst);
        (bytes, self.view.begin_flush())
    }

    /// The bytes that the next flush has to write, about.
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes.load(Ordering::Relaxed)
    }

    /// A flush that covered `bytes` has published its end.
    pub(crate) fn flushed(&self, bytes: u64) {
        if self.flush_policy.is_flushed() {
            self.view.raise_high_watermark_to_flushed();
            self.waiters.advanced(bytes);
        }
        self.release_acks();
    }

    /// A flush has failed: nothing that waits for one will ever count.
    pub(crate) fn flush_failed(&self, error: Arc<LogError>) {
        self.acks.fail(&Err(AppendError::Storage(error).into()));
        self.waiters.changed();
    }

    /// Waits until everything that is in the log now is below the watermark; at once with
    /// page-cache durability. After a failed flush it gives up.
    pub(crate) async fn committed<H: Host>(self: &Arc<Self>, host: &H) {
        let end = self.view.limits().end.offset;
        loop {
            let wait = FetchWait::new(1);
            self.waiters.register(&wait);
            if self.view.limits().high_watermark.offset >= end
                || self.dir.load().failure().is_some()
                || self.is_closed()
            {
                return;
            }
            self.commit_soon(host);
            wait.enough().await;
        }
    }

    /// Readers wait: what is written and not yet visible becomes so as soon as it can.
    pub(crate) fn hurry_commit<H: Host>(self: &Arc<Self>, host: &H) {
        if !self.is_committed() {
            self.commit_soon(host);
        }
    }

    /// True if readers see everything that is written.
    pub(crate) fn is_committed(&self) -> bool {
        let limits = self.view.limits();
        limits.high_watermark.offset >= limits.end.offset
    }

    /// The partition goes away: nobody's answer may stay behind.
    pub(super) fn fail_acks(&self) {
        self.acks.fail(&Err(match self.dir.load().failure() {
            None => AppendFailure::Closed,
            Some(error) => AppendError::Storage(error.clone()).into(),
        }));
    }

    fn release_acks(&self) {
        if self.is_closed() || self.is_offline() {
            self.fail_acks();
        } else {
            self.acks.release(self.view.limits().flushed.offset);
        }
    }
}
