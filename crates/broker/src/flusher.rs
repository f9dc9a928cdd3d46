//! Flushes and checkpoints in the background, so that recovery after a kill has little to scan.
//!
//! With page-cache durability nobody waits for a flush: one a minute and partition bounds
//! what recovery reads. What it deliberately does not do: group commit (acks=all does
//! not wait for a flush yet), pacing of write-back.
//!
//! **Invariants:** a flush runs beside appends, never in their way; a failed flush is never
//! repeated: its log directory goes offline.

use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::Broker;
use crate::host::{Host, Pool};
use crate::partition::Partition;

/// How often every partition is flushed and its recovery point written down
/// (`log.flush.offset.checkpoint.interval.ms`).
const INTERVAL_MS: u64 = 60_000;

/// Runs until the broker stops.
pub(crate) async fn run<H: Host>(broker: Arc<Broker<H>>, mut stop: watch::Receiver<bool>) {
    loop {
        let next = broker.host.mono().plus_ms(INTERVAL_MS);
        tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = broker.host.sleep_until(next) => {}
        }
        let topics = broker.topics.load_full();
        for topic in topics.topics() {
            for partition in topic.partitions.load().iter().flatten() {
                flush(&broker.host, partition).await;
                if *stop.borrow() {
                    return;
                }
            }
        }
        let dirs = broker.dirs.clone();
        if let Err(error) = broker.host.offload(Pool::Flush, move || dirs.checkpoint(&topics)).await {
            tracing::error!(%error, "cannot write the checkpoints; a restart after a kill will scan more");
        }
    }
}

async fn flush<H: Host>(host: &H, partition: &Arc<Partition>) {
    let now = host.wall();
    let begun = partition.with_log(host, move |log| {
        log.expire_producers(now);
        if let Err(error) = log.prepare_recovery_point() {
            tracing::warn!(%error, "a restart after a kill will scan more");
        }
        log.begin_flush()
    });
    let flushed = match begun.await {
        None => return,
        Some(Ok(job)) if job.is_empty() => return,
        Some(Ok(job)) => host.offload(Pool::Flush, move || job.run().map(drop)).await,
        Some(Err(error)) => Err(error),
    };
    let Err(error) = flushed else { return };
    // A partition that was deleted meanwhile has nothing to lose.
    if partition.with_log(host, |_| ()).await.is_some() {
        partition.dir().fail(&error);
    }
}
