//! Moves partitions to other log directories, one after the other, while they are written.
//!
//! Copies until little is missing, then takes the log away, copies the rest, and lets the applier open
//! the partition where it lies now. Producers that come in between are told NOT_LEADER_OR_FOLLOWER and try again,
//! as after any change of leadership; what they were acknowledged is in the copy.
//!
//! What it deliberately does not do: throttle. A stop leaves a `-future` directory, and the next start
//! begins that move anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use klamm_cluster::controller::{BrokerIdentity, ControllerCommand};
use klamm_log::{LogCopy, LogError};
use klamm_protocol::ids::Uuid;
use tokio::sync::watch;

use crate::broker::Broker;
use crate::host::{Host, Pool};
use crate::log_dirs::{Future, Move, PartitionKey};
use crate::partition::Partition;

/// Copied in one job where it may block.
const STEP_BYTES: u64 = 8 << 20;
/// With so little missing the log is closed: a few milliseconds' worth of copying.
const REST_BYTES_MAX: u64 = 1 << 20;

/// Runs until the broker stops.
pub(crate) async fn run<H: Host>(
    broker: Arc<Broker<H>>,
    identity: BrokerIdentity,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        while let Some((key, wanted)) = broker.dirs.next_move() {
            if let Err(error) = move_one(&broker, identity, &key, &wanted, &stop).await {
                tracing::error!(topic = %key.0, partition = %key.1, %error, "a move to another log directory failed");
                broker.dirs.note_error(&error);
            }
            if *stop.borrow() {
                return;
            }
            broker.dirs.end_move(&key, &wanted);
        }
        tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = broker.dirs.move_requested() => {}
        }
    }
}

async fn move_one<H: Host>(
    broker: &Arc<Broker<H>>,
    identity: BrokerIdentity,
    key: &PartitionKey,
    wanted: &Arc<Move>,
    stop: &watch::Receiver<bool>,
) -> Result<(), LogError> {
    let topic = broker.topics.load().by_name(&key.0).cloned();
    let Some(partition) = topic.and_then(|topic| topic.partition(key.1).ok()) else { return Ok(()) };
    if partition.dir().id == broker.dirs.target_of(wanted).id {
        return Ok(());
    }
    let (dirs, of_copy, to) = (broker.dirs.clone(), partition.clone(), wanted.clone());
    let mark = Uuid(broker.host.random());
    let begun = broker.host.offload(Pool::Flush, move || dirs.begin_copy(&of_copy, &to, mark)).await;
    let (copy, future) = begun?;
    let caught_up = catch_up(broker, &partition, wanted, copy, stop).await;
    let (log, copy) = match caught_up {
        Ok(Some(copy)) => (partition.close(&broker.host).await, Some(copy)),
        Ok(None) => (None, None),
        Err(error) => {
            drop_copy(broker, future).await;
            return Err(error);
        }
    };
    let (Some(log), Some(copy)) = (log, copy) else {
        if !*stop.borrow() {
            drop_copy(broker, future).await;
        }
        return Ok(());
    };
    let (dirs, of_copy) = (broker.dirs.clone(), partition.clone());
    let (completed, future) = broker
        .host
        .offload(Pool::Flush, move || (dirs.complete_move(&of_copy, log, copy, &future, mark), future))
        .await;
    broker.dirs.reopen(partition.topic_id, partition.index);
    // Nothing to write: answered once the applier has opened it. Where it lies is recorded after that, so that
    // a metadata log that fails does not keep it closed.
    let _ = broker.controller.ask(ControllerCommand::AssignReplicas(identity, Vec::new())).await;
    partition.waiters.changed();
    match completed {
        Ok(Some(left)) => {
            let dirs = broker.dirs.clone();
            broker.host.offload(Pool::Flush, move || dirs.remove_marked(&left)).await
        }
        Ok(None) => Ok(()),
        Err(error) => {
            drop_copy(broker, future).await;
            Err(error)
        }
    }
}

/// Copies until little is missing; `None` if the move is taken back or the broker stops.
async fn catch_up<H: Host>(
    broker: &Arc<Broker<H>>,
    partition: &Arc<Partition>,
    wanted: &Arc<Move>,
    mut copy: LogCopy,
    stop: &watch::Receiver<bool>,
) -> Result<Option<LogCopy>, LogError> {
    loop {
        // Without a controller nobody would open the partition again.
        let is_lost = partition.is_offline()
            || broker.dirs.target_of(wanted).is_offline()
            || broker.controller.has_failed();
        if is_lost || wanted.is_cancelled() || *stop.borrow() {
            return Ok(None);
        }
        let view = partition.view.clone();
        let step = move || {
            let left = copy.step(&view, STEP_BYTES);
            (copy, left)
        };
        let left;
        (copy, left) = broker.host.offload(Pool::Flush, step).await;
        wanted.copied_bytes.store(copy.copied_bytes(), Ordering::Relaxed);
        if left? <= REST_BYTES_MAX {
            return Ok(Some(copy));
        }
    }
}

async fn drop_copy<H: Host>(broker: &Arc<Broker<H>>, future: Future) {
    let dirs = broker.dirs.clone();
    broker.host.offload(Pool::Flush, move || dirs.drop_copy(&future)).await;
}
