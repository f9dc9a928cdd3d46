//! Group commit: one flush of a log directory for every append that arrived during the one before.
//!
//! A partition that was appended to stands in its directory's dirty set, once. A round takes
//! the whole set, flushes file by file while there are few, with one sync of the file
//! system when there are many, publishes the durable ends and answers who waits. A lone
//! waiter on an idle directory flushes itself, without a hop to another thread; else the
//! directory's task does (docs/adr/0002-group-commit.md has the figures).
//!
//! What it deliberately does not do: decide what counts as acknowledged (that is the partition's),
//! retry. **Invariants:** one round of a directory at a time; after a failed flush the
//! directory takes no more appends, and nothing unflushed of it is ever acknowledged.

pub(crate) mod checkpoints;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_log::disk::{Disk, FileSystem};
use klamm_log::{FlushJob, LogError};
use klamm_protocol::time::MonoMs;
use tokio::sync::Notify;

use crate::host::{DirPressure, Host, Pool};
use crate::log_dirs::DirState;
use crate::partition::Partition;

/// With nobody waiting a round of partitions whose readers see only what is durable starts so
/// long after the first append. Costs at most 200 flushes a second, each 35 us of CPU.
const COMMIT_DELAY_MS: u64 = 5;
/// Partitions with page-cache durability are flushed so often: it bounds what recovery reads.
const WRITE_BACK_DELAY_MS: u64 = 1_000;
/// Unflushed bytes of these above which a round starts at once.
const WRITE_BACK_BYTES_MAX: u64 = 64 << 20;
/// System calls above which one sync of the file system is cheaper.
const FILE_SYNCS_MAX: usize = 8;
/// So many file syncs are worth a thread of their own.
const FILE_SYNCS_PER_THREAD: usize = 2;
/// A round of more than this, where other bytes arrive as fast, is followed by the next no sooner than
/// [`BULK_ROUND_MS`] after its own begin: fewer flushes, and fewer wakes of the producers.
const BULK_BYTES: u64 = 128 << 10;
const BULK_ROUND_MS: u64 = 2;
/// A lone waiter flushes itself up to this many unflushed bytes: more would keep its thread too long.
const INLINE_BYTES_MAX: u64 = 64 << 10;

/// In which of the dirty set's lists a partition stands. Cleared before a round fixes its target: an
/// append behind that puts the partition there anew.
#[derive(Default)]
pub(crate) struct IsDirty {
    pub(crate) for_commit: AtomicBool,
    pub(crate) for_write_back: AtomicBool,
}

/// Partitions with unflushed appends.
#[derive(Default)]
struct Dirty {
    /// Readers see only what is durable, or a producer waits.
    commit: Vec<Arc<Partition>>,
    commit_due: Option<MonoMs>,
    /// Nobody waits but recovery.
    write_back: Vec<Arc<Partition>>,
    write_back_due: Option<MonoMs>,
}

/// The flusher of one log directory.
pub(crate) struct DirFlusher {
    file_system: Option<Arc<dyn FileSystem>>,
    /// Of flushes alone: a disk that flushes slowly may well take appends quickly.
    pressure: DirPressure,
    dirty: Mutex<Dirty>,
    /// Appended since the last write-back.
    write_back_bytes: AtomicU64,
    /// Somebody waits for a round that has not begun.
    is_wanted: AtomicBool,
    /// Who has set it runs a round.
    is_busy: AtomicBool,
    /// The directory's task waits for whoever runs one.
    is_awaited: AtomicBool,
    changed: Notify,
    round_count: AtomicU64,
    is_stopped: AtomicBool,
}

impl DirFlusher {
    /// Before the directory's first write: the file system tells only of later failures.
    pub(crate) fn new(disk: &dyn Disk, path: &Path) -> Self {
        Self {
            file_system: disk.file_system(path).ok(),
            pressure: DirPressure::of_flushes(),
            dirty: Mutex::default(),
            write_back_bytes: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            changed: Notify::new(),
            round_count: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        }
    }

    fn take_role(&self) -> bool {
        !self.is_busy.swap(true, Ordering::SeqCst)
    }

    fn free_role(&self) {
        self.is_busy.store(false, Ordering::SeqCst);
        if self.is_awaited.swap(false, Ordering::SeqCst) || self.is_wanted.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }

    /// When the next round should begin.
    fn due<H: Host>(&self, host: &H) -> Option<MonoMs> {
        if self.is_wanted.load(Ordering::SeqCst) {
            return Some(host.mono());
        }
        let dirty = self.locked();
        dirty.commit_due.into_iter().chain(dirty.write_back_due).min()
    }

    /// What somebody may wait for, if it is little.
    fn take_little(&self) -> Option<Vec<Arc<Partition>>> {
        let mut dirty = self.locked();
        let is_little = dirty.commit.len() == 1 && dirty.commit[0].unflushed_bytes() <= INLINE_BYTES_MAX;
        is_little.then(|| self.take_commits(&mut dirty))
    }

    /// What somebody may wait for. Whoever comes later wants another round.
    fn take_commits(&self, dirty: &mut Dirty) -> Vec<Arc<Partition>> {
        self.is_wanted.store(false, Ordering::SeqCst);
        dirty.commit_due = None;
        let partitions = std::mem::take(&mut dirty.commit);
        // Swapped, not stored: who found one set and went away has appended before, and this round
        // must see it.
        for partition in &partitions {
            partition.is_dirty.for_commit.swap(false, Ordering::SeqCst);
        }
        partitions
    }

    fn take_due(&self, now: MonoMs) -> Vec<Arc<Partition>> {
        let mut dirty = self.locked();
        let mut partitions = self.take_commits(&mut dirty);
        if dirty.write_back_due.is_some_and(|due| due <= now) {
            dirty.write_back_due = None;
            self.write_back_bytes.store(0, Ordering::Relaxed);
            let others = std::mem::take(&mut dirty.write_back);
            for partition in &others {
                partition.is_dirty.for_write_back.swap(false, Ordering::SeqCst);
            }
            partitions.extend(others);
        }
        partitions
    }

    fn locked(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().expect("nothing panics in here")
    }
}

/// Held while a round runs. Should it panic, nobody knows what is durable, and who waits must hear of it.
struct RoundGuard<'a>(&'a DirState);

impl Drop for RoundGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = "a flush panicked".to_owned();
            self.0.fail(&LogError::Poisoned { path: self.0.path.clone(), reason });
        }
    }
}

impl DirState {
    /// Rounds that ended.
    pub(crate) fn round_count(&self) -> u64 {
        self.flusher.round_count.load(Ordering::SeqCst)
    }

    /// `partition` has unflushed appends that readers or producers wait for.
    pub(crate) fn add_for_commit<H: Host>(&self, host: &H, partition: &Arc<Partition>) {
        if partition.is_dirty.for_commit.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut dirty = self.flusher.locked();
        dirty.commit.push(partition.clone());
        if dirty.commit_due.is_none() {
            dirty.commit_due = Some(host.mono().plus_ms(COMMIT_DELAY_MS));
            drop(dirty);
            self.flusher.changed.notify_one();
        }
    }

    /// `partition` has `bytes` more that nobody waits for; flushed at the latest in `delay_ms`.
    pub(crate) fn add_for_write_back<H: Host>(
        &self,
        host: &H,
        partition: &Arc<Partition>,
        bytes: u64,
        delay_ms: u64,
    ) {
        let is_new = !partition.is_dirty.for_write_back.swap(true, Ordering::SeqCst);
        let total_bytes = self.flusher.write_back_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_much = total_bytes > WRITE_BACK_BYTES_MAX;
        if !is_new && !is_much {
            return;
        }
        let now = host.mono();
        let due = if is_much { now } else { now.plus_ms(delay_ms.min(WRITE_BACK_DELAY_MS)) };
        let mut dirty = self.flusher.locked();
        if is_new {
            dirty.write_back.push(partition.clone());
        }
        if dirty.write_back_due.is_none_or(|known| due < known) {
            dirty.write_back_due = Some(due);
            drop(dirty);
            self.flusher.changed.notify_one();
        }
    }

    /// Somebody waits: a round here and now if the directory is idle and there is little to
    /// flush, else by the directory's task as soon as it can. A slow directory makes no difference:
    /// `maybe_slow` lets others have the thread, and the answer still saves the hop back.
    ///
    /// Who is ready by now to append on this thread does so first. Else each would find itself alone, as long as all of
    /// them wait for the one that flushes, and no round would ever cover two of them.
    pub(crate) async fn commit<H: Host>(&self, host: &H) {
        tokio::task::yield_now().await;
        if self.flusher.locked().commit.is_empty() {
            // A round has taken it meanwhile. (Or another appender of the partition is about to list it, and then it
            // is due soon.)
            return;
        }
        self.flusher.is_wanted.store(true, Ordering::SeqCst);
        if !self.flusher.take_role() {
            self.flusher.changed.notify_one();
            return;
        }
        if let Some(partitions) = self.flusher.take_little() {
            host.maybe_slow(&self.flusher.pressure, || self.flush(host, partitions));
        }
        self.flusher.free_role();
    }

    /// Somebody waits: a round as soon as the directory's task can.
    pub(crate) fn want_round(&self) {
        self.flusher.is_wanted.store(true, Ordering::SeqCst);
        self.flusher.changed.notify_one();
    }

    /// The directory's task; ends after [`DirState::stop_flusher`].
    pub(crate) async fn run_flusher<H: Host>(self: Arc<Self>, host: H) {
        let mut not_before = MonoMs(0);
        while !self.flusher.is_stopped.load(Ordering::SeqCst) {
            let due = self.flusher.due(&host).map(|due| due.max(not_before));
            if due.is_none_or(|due| due > host.mono()) {
                let timer = async {
                    match due {
                        Some(due) => host.sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! { biased;
                    () = self.flusher.changed.notified() => {}
                    () = timer => {}
                }
                continue;
            }
            if !self.flusher.take_role() {
                // Who has it looks at `is_awaited` afterwards: what is only due is nobody else's.
                self.flusher.is_awaited.store(true, Ordering::SeqCst);
                if self.flusher.is_busy.load(Ordering::SeqCst) {
                    self.flusher.changed.notified().await;
                }
                continue;
            }
            let now = host.mono();
            let partitions = self.flusher.take_due(now);
            let bytes: u64 = partitions.iter().map(|partition| partition.unflushed_bytes()).sum();
            if bytes > BULK_BYTES {
                not_before = now.plus_ms(BULK_ROUND_MS);
            }
            let (dir, host_of_job) = (self.clone(), host.clone());
            host.offload(Pool::Flush, move || {
                let began = host_of_job.mono();
                dir.flush(&host_of_job, partitions);
                dir.flusher.pressure.note_write(began, host_of_job.mono(), Some(true));
            })
            .await;
            self.flusher.free_role();
        }
    }

    /// Ends the task. Whatever is dirty is flushed when the logs are closed.
    pub(crate) fn stop_flusher(&self) {
        self.flusher.is_stopped.store(true, Ordering::SeqCst);
        self.flusher.changed.notify_one();
    }

    /// One round.
    fn flush<H: Host>(&self, host: &H, partitions: Vec<Arc<Partition>>) {
        if partitions.is_empty() {
            return;
        }
        let _guard = RoundGuard(self);
        let mut jobs: Vec<(Arc<Partition>, u64, FlushJob)> = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let dir = partition.dir();
            if !std::ptr::eq(&*dir, self) {
                // It has moved: this file system is not its own any more.
                dir.add_for_commit(host, &partition);
                dir.want_round();
            } else if let Some(failure) = self.failure() {
                // Another flush may succeed without what the failed one lost.
                partition.flush_failed(failure.clone());
            } else {
                let (bytes, job) = partition.begin_flush();
                jobs.push((partition, bytes, job));
            }
        }
        let sync_count: usize = jobs.iter().map(|(_, _, job)| job.sync_count()).sum();
        match &self.flusher.file_system {
            Some(file_system) if sync_count > FILE_SYNCS_MAX => {
                let outcome = file_system
                    .sync()
                    .map_err(|source| LogError::Io {
                        action: "sync the file system of",
                        path: self.path.clone(),
                        source,
                    })
                    // XFS may leave the last bytes in the disk's own cache; any file's sync drains it.
                    .and_then(|()| jobs.iter().find_map(|(_, _, job)| job.sync_one()).unwrap_or(Ok(())));
                for (partition, bytes, job) in jobs {
                    let result = job.covered(&outcome).map(drop);
                    self.finish(&partition, bytes, result);
                }
            }
            _ => self.flush_files(host, jobs, sync_count),
        }
        self.flusher.round_count.fetch_add(1, Ordering::SeqCst);
    }

    fn flush_files<H: Host>(&self, host: &H, jobs: Vec<(Arc<Partition>, u64, FlushJob)>, sync_count: usize) {
        let threads = (sync_count / FILE_SYNCS_PER_THREAD).max(1).min(jobs.len());
        if threads == 1 {
            for (partition, bytes, job) in jobs {
                self.finish(&partition, bytes, job.run().map(drop));
            }
            return;
        }
        let next = AtomicUsize::new(0);
        let jobs: Vec<Mutex<Option<_>>> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let job = job.lock().expect("taken once").take();
                if let Some((partition, bytes, job)) = job {
                    self.finish(&partition, bytes, job.run().map(drop));
                }
            }
        };
        host.run_parallel(&work, threads);
    }

    fn finish(&self, partition: &Partition, bytes: u64, result: Result<(), LogError>) {
        match result {
            Ok(()) => partition.flushed(bytes),
            // Deleted meanwhile: the directory under its name is gone, and nobody waits for it.
            Err(LogError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && partition.is_closed() => {}
            Err(error) => {
                self.fail(&error);
                partition.flush_failed(Arc::new(error));
            }
        }
    }
}
