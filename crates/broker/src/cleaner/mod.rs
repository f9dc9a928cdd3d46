//! Compacts logs in the background: chooses the filthiest, cleans it, notes how far.
//!
//! One task chooses, and starts at most `log.cleaner.threads` cleanings; each goes through its
//! log in steps ([`klamm_log::cleaner`]) beside the appends, throttled, and takes the
//! appender's role only to swap a group of segments. Settings are read anew at every turn.
//! What it deliberately does not do: retention.
//!
//! **Invariants:** a log is cleaned by one task at a time; a log that cannot be cleaned is
//! skipped and reported, once, and the others go on; the checkpoint is written behind the
//! swaps that it speaks of.

mod choice;
mod settings;
mod throttle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use klamm_log::LogError;
use klamm_log::cleaner::{CleanSettings, CleanStats, CleanableRange, Cleaning, Lags, Step};
use klamm_protocol::ids::{Offset, PartitionIndex, TopicId};
use klamm_protocol::time::MonoMs;
use tokio::sync::{mpsc, watch};

use self::choice::{Candidate, filthiest, max_dirty_percent};
use self::settings::Settings;
use self::throttle::Throttle;
use crate::broker::Broker;
use crate::host::{Host, Pool};
use crate::partition::Partition;
use crate::partition::registry::Topic;

/// How long a log is left alone whose cleaning failed for want of space.
const RETRY_MS: u64 = 60_000;
/// What is read and written before the cleaner's task looks up: a hop to the pool and back takes about
/// 40 us, the work itself a few milliseconds.
const TURN_BYTES: u64 = 4 << 20;
/// With a rate that is limited, less: so many turns a second.
const TURNS_PER_SECOND: f64 = 20.0;

type Key = (TopicId, PartitionIndex);

/// A log that was chosen.
struct Chosen {
    topic: Arc<Topic>,
    partition: Arc<Partition>,
    range: CleanableRange,
}

/// How a cleaning ended.
enum Outcome {
    Cleaned(Offset, CleanStats),
    /// Stopped, deleted, moved, or changed meanwhile: it may be chosen again.
    Abandoned,
    Failed(LogError),
}

/// What the choosing task knows.
#[derive(Default)]
struct State {
    under_way: BTreeSet<Key>,
    /// Not to be chosen before; `None` is never, until a restart.
    set_aside: BTreeMap<Key, Option<MonoMs>>,
}

/// Runs until the broker stops.
pub(crate) async fn run<H: Host>(broker: Arc<Broker<H>>, mut stop: watch::Receiver<bool>) {
    if !Settings::is_enabled(&broker.layers.load()) {
        return;
    }
    let (sender, mut ended) = mpsc::unbounded_channel::<(Key, Outcome)>();
    let throttle = Arc::new(Mutex::new(Throttle::default()));
    let mut state = State::default();
    loop {
        let settings = Settings::of(&broker.layers.load());
        while state.under_way.len() < settings.threads && !*stop.borrow() {
            let Some(chosen) = choose(&broker, &mut state).await else { break };
            let key = (chosen.partition.topic_id, chosen.partition.index);
            state.under_way.insert(key);
            let (broker_of_task, stop, throttle) = (broker.clone(), stop.clone(), throttle.clone());
            let sender = sender.clone();
            broker.host.spawn("cleaner", async move {
                let outcome = clean(&broker_of_task, &chosen, settings, &throttle, stop).await;
                let outcome = finish(&broker_of_task, &chosen, outcome).await;
                let _ = sender.send((key, outcome));
            });
        }
        let next = broker.host.mono().plus_ms(settings.backoff_ms);
        tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            Some((key, outcome)) = ended.recv() => {
                state.under_way.remove(&key);
                if let Outcome::Failed(error) = outcome {
                    let until = is_for_want_of_space(&error).then(|| broker.host.mono().plus_ms(RETRY_MS));
                    state.set_aside.insert(key, until);
                }
            }
            () = broker.host.sleep_until(next) => {}
        }
        let uncleanable = state.set_aside.values().filter(|until| until.is_none()).count();
        broker.metrics.cleaner.uncleanable_partitions.set(i64::try_from(uncleanable).unwrap_or(i64::MAX));
    }
}

/// The next log to clean, if one is due.
async fn choose<H: Host>(broker: &Arc<Broker<H>>, state: &mut State) -> Option<Chosen> {
    let (mono, now) = (broker.host.mono(), broker.host.wall());
    broker.metrics.cleaner.note_run(mono);
    state.set_aside.retain(|_, until| until.is_none_or(|until| until > mono));
    let mut looked_at: Vec<(Arc<Topic>, Arc<Partition>)> = Vec::new();
    let mut known = BTreeSet::new();
    for topic in broker.topics.load().topics().filter(|topic| topic.config.load().cleanup_policy.compact) {
        for partition in topic.partitions.load().iter().flatten().filter(|one| !one.is_offline()) {
            let key = (partition.topic_id, partition.index);
            known.insert(key);
            if !state.under_way.contains(&key) && !state.set_aside.contains_key(&key) {
                looked_at.push((topic.clone(), partition.clone()));
            }
        }
    }
    state.set_aside.retain(|key, _| known.contains(key));
    let dirs = broker.dirs.clone();
    let ranges = broker.host.offload(Pool::ColdRead, move || {
        let mut found = Vec::with_capacity(looked_at.len());
        for (topic, partition) in looked_at {
            let config = topic.config.load();
            let lags =
                Lags { min_ms: config.min_compaction_lag_ms, max_ms: config.max_compaction_lag_ms, now };
            let checkpoint = dirs.cleaned_up_to(&partition);
            let range = CleanableRange::of(&partition.view, checkpoint, &lags);
            let ratio_min = config.min_cleanable_dirty_ratio;
            drop(config);
            found.push((topic, partition, range.map(|range| Candidate { range, ratio_min })));
        }
        found
    });
    let mut candidates = Vec::new();
    let mut owners = Vec::new();
    for (topic, partition, candidate) in ranges.await {
        match candidate {
            Ok(candidate) => {
                candidates.push(candidate);
                owners.push((topic, partition));
            }
            // Who reads where the log was just cut looks again later.
            Err(klamm_log::ReadError::Truncated { .. }) => {}
            Err(error) => {
                tracing::error!(
                    topic = %partition.topic, partition = %partition.index, %error,
                    "this log cannot be compacted and is skipped until a restart"
                );
                state.set_aside.insert((partition.topic_id, partition.index), None);
            }
        }
    }
    broker.metrics.cleaner.max_dirty_percent.set(max_dirty_percent(&candidates));
    let overdue_ms = candidates.iter().map(|one| one.range.overdue_ms).max().unwrap_or(0);
    broker.metrics.cleaner.max_compaction_delay_ms.set(overdue_ms);
    let at = filthiest(&candidates)?;
    let (topic, partition) = owners.swap_remove(at);
    if candidates[at].range.is_checkpoint_invalid {
        tracing::warn!(
            topic = %partition.topic, partition = %partition.index,
            "the cleaner's checkpoint does not lie in the log: all of it is taken as dirty"
        );
    }
    Some(Chosen { topic, partition, range: candidates[at].range })
}

/// Cleans one log.
async fn clean<H: Host>(
    broker: &Arc<Broker<H>>,
    chosen: &Chosen,
    settings: Settings,
    throttle: &Mutex<Throttle>,
    mut stop: watch::Receiver<bool>,
) -> Outcome {
    let (host, partition) = (&broker.host, &chosen.partition);
    let clean_settings = CleanSettings {
        map_bytes: settings.map_bytes,
        load_factor: settings.load_factor,
        buffer_bytes: settings.buffer_bytes,
        delete_retention_ms: chosen.topic.config.load().delete_retention_ms,
        now: host.wall(),
        hash_key: host.random(),
    };
    let range = chosen.range;
    let begun = partition.with_log(host, move |log| log.begin_cleaning(range, clean_settings)).await;
    let mut cleaning = match begun {
        None => return Outcome::Abandoned,
        Some(Err(error)) => return Outcome::Failed(error),
        Some(Ok(cleaning)) => cleaning,
    };
    let outcome = loop {
        let is_compacted = chosen.topic.config.load().cleanup_policy.compact;
        if *stop.borrow() || partition.is_offline() || !is_compacted {
            break Outcome::Abandoned;
        }
        let rate = Settings::of(&broker.layers.load()).bytes_per_second;
        let (returned, io_bytes, step) = host
            .offload(Pool::Flush, move || {
                let bytes = TURN_BYTES.min((rate / TURNS_PER_SECOND) as u64);
                let (io_bytes, step) = turn(&mut cleaning, bytes);
                (cleaning, io_bytes, step)
            })
            .await;
        cleaning = returned;
        let now = host.mono();
        let until = throttle.lock().expect("nothing panics in here").note(io_bytes, rate, now);
        if until > now {
            tokio::select! { biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = host.sleep_until(until) => {}
            }
        }
        match step {
            Ok(Step::Working { .. }) => {}
            Ok(Step::Swap(group)) => {
                let swap = move |log: &mut klamm_log::Log| log.replace_segments(&group);
                match partition.with_log_aside(host, swap).await {
                    // Deleted, or retention was there first.
                    None | Some(Ok(None)) => break Outcome::Abandoned,
                    Some(Ok(Some(replaced))) => {
                        if let Err(error) = host.offload(Pool::Flush, move || replaced.remove()).await {
                            tracing::warn!(%error, "a segment that was compacted keeps its space until a restart");
                        }
                    }
                    Some(Err(error)) => {
                        partition.dir().fail(&error);
                        break Outcome::Failed(error);
                    }
                }
            }
            Ok(Step::Done(end)) => {
                for path in cleaning.repaired() {
                    tracing::warn!(path = %path.display(), "aborted transactions were not listed: listed anew");
                }
                return Outcome::Cleaned(end, cleaning.stats());
            }
            Ok(Step::Overtaken) => break Outcome::Abandoned,
            Err(error) => break Outcome::Failed(error),
        }
    };
    if let Err(error) = host.offload(Pool::Flush, move || cleaning.abandon()).await {
        tracing::debug!(%error, "what an abandoned cleaning wrote stays until the next one");
    }
    outcome
}

/// Steps until so many bytes were read and written, or something else is to be done; tells how many were.
fn turn(cleaning: &mut Cleaning, bytes: u64) -> (u64, Result<Step, LogError>) {
    let mut done = 0;
    loop {
        match cleaning.step() {
            Ok(Step::Working { io_bytes }) => {
                done += io_bytes;
                if done >= bytes {
                    return (done, Ok(Step::Working { io_bytes }));
                }
            }
            other => return (done, other),
        }
    }
}

/// Notes and tells what came out.
async fn finish<H: Host>(broker: &Arc<Broker<H>>, chosen: &Chosen, outcome: Outcome) -> Outcome {
    let Chosen { partition, range, .. } = chosen;
    match outcome {
        Outcome::Cleaned(end, stats) => {
            broker.metrics.cleaner.note_cleaning(&stats);
            tracing::info!(
                topic = %partition.topic, partition = %partition.index,
                from = %range.first_dirty, to = %end, keys = stats.key_count,
                read_bytes = stats.read_bytes, written_bytes = stats.written_bytes,
                read_records = stats.read_records, kept_records = stats.kept_records,
                "compacted"
            );
            let (dirs, of) = (broker.dirs.clone(), partition.clone());
            let noted = broker.host.offload(Pool::Flush, move || dirs.note_cleaned(&of, end)).await;
            match noted {
                Ok(()) => Outcome::Cleaned(end, stats),
                Err(error) => {
                    partition.dir().note(&error);
                    tracing::error!(%error, "cannot write the cleaner's checkpoint");
                    Outcome::Failed(error)
                }
            }
        }
        Outcome::Failed(error) => {
            // The files of a partition that was deleted or moved are elsewhere.
            let is_here = partition.with_log(&broker.host, |_| ()).await.is_some();
            if !is_here || partition.is_offline() {
                return Outcome::Abandoned;
            }
            partition.dir().note(&error);
            if is_for_want_of_space(&error) {
                tracing::warn!(
                    topic = %partition.topic, partition = %partition.index, %error,
                    "no room to compact this log; it is tried again in a minute"
                );
            } else {
                tracing::error!(
                    topic = %partition.topic, partition = %partition.index, %error,
                    "this log cannot be compacted and is skipped until a restart"
                );
            }
            Outcome::Failed(error)
        }
        Outcome::Abandoned => Outcome::Abandoned,
    }
}

/// What may pass without anybody's doing at this log.
fn is_for_want_of_space(error: &LogError) -> bool {
    matches!(error, LogError::Io { .. }) && !error.is_disk_failure()
}
