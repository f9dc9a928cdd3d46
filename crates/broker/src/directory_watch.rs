//! Follows the log directories: tells the controller what it must know of them, and takes failed ones out of service.
//!
//! A directory fails by [`DirState::fail`](crate::log_dirs::DirState::fail). From that call on its partitions
//! answer KAFKA_STORAGE_ERROR; here they lose their logs, so that nothing is written any more, who waits
//! for them is answered, and the controller takes their leader away (KIP-858).
//!
//! **Invariant:** one task tells the controller, in order: where a partition lies before that the
//! directory failed, or the partition would keep its leader.

use std::sync::Arc;

use klamm_cluster::controller::{BrokerIdentity, ControllerCommand, ControllerReply};
use tokio::sync::watch;

use crate::broker::Broker;
use crate::host::Host;

/// How often partitions are opened again that a full disk had no room for.
const RETRY_MS: u64 = 5_000;

/// Runs until the broker stops, or cannot go on: then `lost` says why.
pub(crate) async fn run<H: Host>(
    broker: Arc<Broker<H>>,
    identity: BrokerIdentity,
    mut stop: watch::Receiver<bool>,
    lost: watch::Sender<Option<String>>,
) {
    let mut next_retry = broker.host.mono().plus_ms(RETRY_MS);
    loop {
        let is_retry = tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = broker.dirs.changed() => false,
            () = broker.host.sleep_until(next_retry) => true,
        };
        if is_retry {
            next_retry = broker.host.mono().plus_ms(RETRY_MS);
            if broker.dirs.retry_unopened() {
                // Nothing to write: the applier opens them before it answers.
                tell(&broker, ControllerCommand::AssignReplicas(identity, Vec::new())).await;
            }
            continue;
        }
        let failed = broker.dirs.newly_failed();
        if !failed.is_empty() {
            close_offline(&broker).await;
        }
        if let Some(reason) = broker.dirs.lost() {
            lost.send_replace(Some(reason));
            return;
        }
        let places = broker.dirs.take_unrecorded();
        if !places.is_empty() {
            tell(&broker, ControllerCommand::AssignReplicas(identity, places)).await;
        }
        if !failed.is_empty() {
            tell(&broker, ControllerCommand::OfflineDirectories(identity, failed)).await;
        }
        let cordoned = broker.dirs.cordoned();
        let known = broker.image.load().broker(identity.node).map(|known| known.cordoned_directories.clone());
        if known.flatten().unwrap_or_default() != cordoned {
            tell(&broker, ControllerCommand::CordonDirectories(identity, cordoned)).await;
        }
    }
}

async fn close_offline<H: Host>(broker: &Arc<Broker<H>>) {
    for topic in broker.topics.load_full().topics() {
        for partition in topic.partitions.load_full().iter().flatten() {
            if partition.is_offline() {
                drop(partition.close(&broker.host).await);
                partition.waiters.changed();
            }
        }
    }
}

async fn tell<H: Host>(broker: &Arc<Broker<H>>, command: ControllerCommand) {
    // Without a metadata log the broker reports itself not ready: nothing to add here.
    if let Ok(ControllerReply::Done(Err(error))) = broker.controller.ask(command).await {
        tracing::error!(?error, "the controller does not take what it is told of the log directories");
    }
}
