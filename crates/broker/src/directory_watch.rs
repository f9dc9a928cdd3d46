//! Takes failed log directories out of service.
//!
//! Woken by [`DirState::fail`](crate::log_dirs::DirState::fail). From that call on the directory's partitions
//! answer KAFKA_STORAGE_ERROR; here they lose their logs, so that nothing is written any more, and
//! who waits for them is answered.

use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::Broker;
use crate::host::Host;

/// Runs until the broker stops.
pub(crate) async fn run<H: Host>(broker: Arc<Broker<H>>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = broker.dirs.changed() => {}
        }
        for topic in broker.topics.load_full().topics() {
            for partition in topic.partitions.load().iter().flatten() {
                if partition.is_offline() {
                    drop(partition.close(&broker.host).await);
                    partition.waiters.changed();
                }
            }
        }
    }
}
