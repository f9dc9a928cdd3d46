//! Closes segment files that nobody needs, so that open files follow use and not the amount of data.
//!
//! Twice in [`INTERVAL_MS`] without an append or a read is idle. What it deliberately does not do:
//! bound the number at one moment; that is what is used within a minute, and the system's limit.

use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::Broker;
use crate::host::Host;

/// How often every partition is looked at.
const INTERVAL_MS: u64 = 30_000;

/// Runs until the broker stops.
pub(crate) async fn run<H: Host>(broker: Arc<Broker<H>>, mut stop: watch::Receiver<bool>) {
    loop {
        let next = broker.host.mono().plus_ms(INTERVAL_MS);
        tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = broker.host.sleep_until(next) => {}
        }
        for topic in broker.topics.load_full().topics() {
            for partition in topic.partitions.load().iter().flatten() {
                // In its turn: no append holds a handle that is let go of here.
                partition.with_log(&broker.host, |log| log.close_idle_files()).await;
            }
        }
    }
}
