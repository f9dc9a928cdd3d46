//! Does what the transaction coordinator wants done: markers into every partition of an ended
//! transaction, producer ids for those that have run out of epochs.
//!
//! A partition that is offline, or whose coordinator loads, is tried again until it takes the marker; one
//! that is deleted needs none. What it deliberately does not do: remember anything over a restart, since
//! a loaded coordinator asks again.
//!
//! **Invariants:** the coordinator hears of the markers only once all are committed; of one transactional
//! id one task at a time writes, and only what the coordinator says when it begins: a marker that came
//! late would end the next transaction.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_coordinator::transaction::{
    Ending, Markers, Producer, TransactionCommand, TransactionEffect, TransactionReply,
};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::PartitionIndex;
use tokio::sync::watch;

use super::ask;
use super::chunks::in_chunks;
use super::markers::{Marker, MarkerError, write_marker};
use crate::broker::Broker;
use crate::coordinator::Unavailable;
use crate::host::Host;

/// Between two tries; the first pause where a disk takes nothing.
const RETRY_MS: u64 = 100;
/// Each try that no disk takes doubles the next pause up to here: a full disk stays full for a while.
const STORAGE_RETRY_MS_MAX: u64 = 3_200;
/// How long tries fail between two lines in the log.
const COMPLAINT_MS: u64 = 60_000;

/// The transactional ids whose markers are being written, and whether they were wanted again meanwhile.
type UnderWay = Arc<Mutex<BTreeMap<Arc<str>, bool>>>;

/// Performs until the broker stops.
pub(crate) async fn run<H: Host>(broker: Arc<Broker<H>>, mut stop: watch::Receiver<bool>) {
    let under_way = UnderWay::default();
    loop {
        let effect = tokio::select! { biased;
            _ = stop.changed() => return,
            effect = broker.coordinators.transactions.effects().take() => effect,
        };
        let (of_task, stopped) = (broker.clone(), stop.clone());
        match effect {
            TransactionEffect::WriteMarkers(id) => {
                if takes_place(&under_way, &id) {
                    let under_way = under_way.clone();
                    broker.host.spawn("markers", async move {
                        end_transactions(&of_task, &id, &under_way, stopped).await;
                    });
                }
            }
            TransactionEffect::FetchProducerId { transactional_id, producer } => {
                broker.host.spawn("markers", async move {
                    fetch_producer_id(&of_task, transactional_id, producer).await;
                });
            }
        }
    }
}

fn locked(under_way: &UnderWay) -> MutexGuard<'_, BTreeMap<Arc<str>, bool>> {
    under_way.lock().expect("nothing panics in here")
}

/// Whether a task may begin for `id`; else the one that writes goes round once more.
fn takes_place(under_way: &UnderWay, id: &Arc<str>) -> bool {
    let mut under_way = locked(under_way);
    let is_first = !under_way.contains_key(id);
    under_way.insert(id.clone(), !is_first);
    is_first
}

async fn fetch_producer_id<H: Host>(broker: &Broker<H>, transactional_id: Arc<str>, producer: Producer) {
    // Whatever fails here is asked for again when timeouts are next looked at.
    if let Ok(fresh) = broker.producer_ids.next(&broker.controller).await {
        let id = transactional_id.clone();
        let _ =
            ask(broker, &id, TransactionCommand::AbortTimedOut { transactional_id, producer, fresh }).await;
    }
}

/// The place of a task among those under way. Should the task panic, the next one may begin.
struct Place<'a> {
    under_way: &'a UnderWay,
    id: &'a Arc<str>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            locked(self.under_way).remove(self.id);
        }
    }
}

/// Ends the transaction of `id` that is prepared, and the next one if that is wanted before it is done.
async fn end_transactions<H: Host>(
    broker: &Broker<H>,
    id: &Arc<str>,
    under_way: &UnderWay,
    stop: watch::Receiver<bool>,
) {
    let _place = Place { under_way, id };
    loop {
        let asked = ask(broker, id, TransactionCommand::Markers(id.clone())).await;
        // Else it is complete; or its coordinator is gone, and asks again once it is back.
        if let Ok(TransactionReply::Markers(Some(markers))) = asked
            && write_markers(broker, &markers, &stop).await
        {
            tell_written(broker, &markers, &stop).await;
        }
        let mut under_way = locked(under_way);
        match under_way.get_mut(id) {
            Some(is_wanted_again) if *is_wanted_again => *is_wanted_again = false,
            _ => {
                under_way.remove(id);
                return;
            }
        }
    }
}

/// Tries until every partition has its marker; false if the broker stops before.
async fn write_markers<H: Host>(broker: &Broker<H>, markers: &Markers, stop: &watch::Receiver<bool>) -> bool {
    let Markers { transactional_id, producer, partitions, .. } = markers;
    let marker = &Marker {
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        coordinator_epoch: markers.coordinator_epoch,
        is_commit: markers.ending == Ending::Commit,
        transaction_version: markers.transaction_version,
    };
    let mut left: Vec<(Arc<str>, PartitionIndex)> =
        partitions.iter().map(|(topic, partition)| (topic.clone(), partition)).collect();
    let mut complains_at = broker.host.mono();
    let mut pause_ms = 0;
    while !left.is_empty() {
        // The appends of a chunk before the first wait: one flush covers them.
        let writes = left
            .iter()
            .cloned()
            .map(|(topic, partition)| async move { write_marker(broker, &topic, partition, marker).await });
        let results = in_chunks(writes).await;
        let complains = broker.host.mono() >= complains_at;
        if complains {
            complains_at = broker.host.mono().plus_ms(COMPLAINT_MS);
        }
        let mut is_storage_only = true;
        for (result, (topic, partition)) in results.into_iter().zip(std::mem::take(&mut left)) {
            match result {
                Ok(()) | Err(MarkerError::UnknownPartition) => {}
                Err(MarkerError::Refused(error)) => {
                    // Only a producer or a coordinator that came later is known better there.
                    tracing::warn!(%transactional_id, %topic, %partition, %error, "a partition refuses a marker");
                }
                Err(MarkerError::Unavailable(error)) => {
                    if complains {
                        tracing::warn!(
                            %transactional_id, %topic, %partition, %error,
                            "a transaction cannot end before this partition takes its marker: it is tried \
                             again and again; free space, or look at the disk and its log directory"
                        );
                    }
                    is_storage_only &= error == ErrorCode::KafkaStorageError;
                    left.push((topic, partition));
                }
            }
        }
        if !left.is_empty() {
            pause_ms = next_pause_ms(pause_ms, is_storage_only);
            if !wait(broker, stop, pause_ms).await {
                return false;
            }
        }
    }
    true
}

/// Until the coordinator has heard it, or is gone.
async fn tell_written<H: Host>(broker: &Broker<H>, markers: &Markers, stop: &watch::Receiver<bool>) {
    let Markers { transactional_id, prepared_at, .. } = markers;
    loop {
        let written = TransactionCommand::MarkersWritten {
            transactional_id: transactional_id.clone(),
            prepared_at: *prepared_at,
        };
        let Some(shard) = broker.coordinators.transactions.of_key(transactional_id) else { return };
        match shard.ask(written).await {
            Ok(TransactionReply::Noted) => return,
            Ok(other) => unreachable!("{other:?} answers markers"),
            // It loads, or will; it may have heard, and its answer got lost: what it says it prepared
            // where this was prepared is this.
            Err(Unavailable::Loading | Unavailable::Lost | Unavailable::TooLarge) => {
                if !wait(broker, stop, RETRY_MS).await {
                    return;
                }
            }
        }
    }
}

/// The pause after one of `ms`, if there was one. What is not there yet may be there any moment; a disk takes its time.
fn next_pause_ms(ms: u64, is_storage_only: bool) -> u64 {
    if is_storage_only { (2 * ms).clamp(RETRY_MS, STORAGE_RETRY_MS_MAX) } else { RETRY_MS }
}

/// False once the broker stops.
async fn wait<H: Host>(broker: &Broker<H>, stop: &watch::Receiver<bool>, ms: u64) -> bool {
    let mut stop = stop.clone();
    if *stop.borrow() {
        return false;
    }
    tokio::select! { biased;
        _ = stop.changed() => false,
        () = broker.host.sleep_until(broker.host.mono().plus_ms(ms)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_that_take_nothing_are_left_alone_for_longer() {
        let pauses: Vec<_> =
            std::iter::successors(Some(next_pause_ms(0, true)), |ms| Some(next_pause_ms(*ms, true)))
                .take(8)
                .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 3_200, 3_200]);
        assert_eq!(next_pause_ms(3_200, false), RETRY_MS);
    }
}
