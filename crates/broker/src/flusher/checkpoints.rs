//! Writes down how far each log is durable, so that recovery after a kill has little to scan.
//!
//! Rounds of the directories' flushers keep the durable ends close to the ends; here they reach the
//! checkpoint files (`recovery-point-offset-checkpoint`, `log-start-offset-checkpoint`), and
//! idle producers are forgotten. What it deliberately does not do: flush.

use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::Broker;
use crate::host::{Host, Pool};

/// How often the recovery points are written down, where `log.flush.offset.checkpoint.interval.ms`
/// does not ask for more often: Kafka's 60 s would leave much to scan.
const INTERVAL_MS_MAX: u64 = 1_000;
/// No more often than this, whatever is asked for: a file is written and flushed each time.
const INTERVAL_MS_MIN: u64 = 100;
/// Kafka's default of `producer.id.expiration.check.interval.ms`.
const EXPIRATION_INTERVAL_MS: u64 = 600_000;

/// What the checkpoints will point at is easy to find for a recovery.
async fn prepare_recovery_points<H: Host>(broker: &Broker<H>) {
    let topics = broker.topics.load_full();
    let partitions = topics.topics().flat_map(|topic| topic.partitions.load().to_vec()).flatten();
    let grown: Vec<_> = partitions.filter(|partition| partition.has_grown_since_prepared()).collect();
    if grown.is_empty() {
        return;
    }
    let host = broker.host.clone();
    // It writes files: not on a network worker.
    let prepare = move || {
        for partition in grown {
            partition.in_turn(&host, |log| {
                if let Err(error) = log.prepare_recovery_point() {
                    tracing::warn!(%error, "a restart after a kill will scan more");
                }
            });
        }
    };
    broker.host.offload(Pool::Flush, prepare).await;
}

/// Runs until the broker stops.
pub(crate) async fn run<H: Host>(broker: Arc<Broker<H>>, mut stop: watch::Receiver<bool>) {
    let configured_ms = |name, default_ms| match broker.layers.load().integer(name) {
        Some(ms) => u64::try_from(ms).unwrap_or(0),
        None => default_ms,
    };
    let interval_ms = configured_ms("log.flush.offset.checkpoint.interval.ms", INTERVAL_MS_MAX);
    let interval_ms = interval_ms.clamp(INTERVAL_MS_MIN, INTERVAL_MS_MAX);
    let expiration_ms = configured_ms("producer.id.expiration.check.interval.ms", EXPIRATION_INTERVAL_MS);
    let mut next_expiration = broker.host.mono().plus_ms(expiration_ms);
    loop {
        let next = broker.host.mono().plus_ms(interval_ms);
        tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = broker.host.sleep_until(next) => {}
        }
        let topics = broker.topics.load_full();
        if broker.host.mono() >= next_expiration {
            next_expiration = broker.host.mono().plus_ms(expiration_ms);
            let now = broker.host.wall();
            let partitions: Vec<_> = topics.topics().map(|topic| topic.partitions.load_full()).collect();
            for partition in partitions.iter().flat_map(|of| of.iter().flatten()) {
                partition.with_log(&broker.host, move |log| log.expire_producers(now)).await;
            }
        }
        prepare_recovery_points(&broker).await;
        let dirs = broker.dirs.clone();
        if let Err(error) = broker.host.offload(Pool::Flush, move || dirs.checkpoint_flushed(&topics)).await {
            tracing::error!(%error, "cannot write the checkpoints; a restart after a kill will scan more");
        }
    }
}
