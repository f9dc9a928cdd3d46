//! Making a log durable: what a flush covers, and what it publishes.
//!
//! A flush needs no appender: it fixes its target from the published view before the system
//! calls, and publishes exactly that target afterwards, while appends go on. Many jobs of one
//! file system can share one [`FlushJob::covered`] sync instead of a call for each file.
//!
//! Deliberately absent: when to flush, and who waits for it.
//!
//! Invariants: names before bytes before the published end; a failed flush is never repeated,
//! and nothing of the log counts as durable after it; the flushes of one log run one at a time,
//! because the system tells of a lost write only once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use klamm_protocol::ids::Offset;

use crate::disk::Disk;
use crate::error::LogError;
use crate::files;
use crate::limits::{Limits, LogPosition};
use crate::segment::{Segment, SegmentFile};
use crate::view::PartitionView;

/// What the flushes of one log share.
pub(crate) struct FlushState {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Rises with every new name in the directory.
    names: AtomicU64,
    /// Up to which of these the names are durable.
    durable_names: AtomicU64,
    /// Segments that left the head of the view with bytes that may not be durable. A start that
    /// finds them, because their end is not durable either, must find them whole: what lies
    /// behind a hole does not count.
    released: Mutex<Vec<Arc<SegmentFile>>>,
    /// Flushes of this log's own files, done for somebody who waits or nobody.
    own_flushes: AtomicU64,
    /// Held while one flush runs.
    turn: Mutex<()>,
    /// Why the first failed one did.
    failure: OnceLock<String>,
}

/// A flush whose target is fixed; runs without the log, so that appends go on.
#[must_use = "nothing is flushed before FlushJob::run"]
pub struct FlushJob {
    view: Arc<PartitionView>,
    target: LogPosition,
    generation: u64,
    names: u64,
    files: Vec<Arc<SegmentFile>>,
    /// Closed segments: nobody rebuilds their indexes below the recovery point.
    index_bases: Vec<Offset>,
}

impl FlushState {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        // Whatever lies there when a log is opened may be as new as the last crash.
        let (names, durable_names) = (AtomicU64::new(1), AtomicU64::new(0));
        let (released, turn) = (Mutex::default(), Mutex::default());
        let own_flushes = AtomicU64::new(0);
        Self { disk, dir, names, durable_names, released, own_flushes, turn, failure: OnceLock::new() }
    }

    /// The turn of one flush; refused after a failed one.
    fn take_turn(&self) -> Result<MutexGuard<'_, ()>, LogError> {
        // A flush that panicked is one that failed half way: what it covered is not known.
        let turn = self.turn.lock().map_err(|_| self.failed("a flush panicked".to_owned()))?;
        match self.failure.get() {
            None => Ok(turn),
            Some(reason) => Err(self.failed(reason.clone())),
        }
    }

    fn released(&self) -> MutexGuard<'_, Vec<Arc<SegmentFile>>> {
        self.released.lock().expect("no holder panics")
    }

    fn failed(&self, reason: String) -> LogError {
        let reason = self.failure.get_or_init(|| reason).clone();
        LogError::Poisoned { path: self.dir.clone(), reason }
    }
}

impl PartitionView {
    /// Begins a flush of everything appended so far.
    pub fn begin_flush(self: &Arc<Self>) -> FlushJob {
        let (limits, segments) = self.load();
        let active = segments.active().base_offset();
        let first = segments.floor(limits.flushed.segment_base);
        let mut job = FlushJob {
            view: Arc::clone(self),
            target: limits.end,
            generation: limits.generation,
            // Loaded behind the limits: a name that they need is counted.
            names: self.flush.names.load(Ordering::Acquire),
            files: Vec::new(),
            index_bases: Vec::new(),
        };
        if limits.flushed == limits.end {
            return job;
        }
        job.files.extend(self.flush.released().iter().cloned());
        for segment in &segments[first..] {
            if segment.base_offset() > limits.end.segment_base {
                break;
            }
            job.files.push(Arc::clone(segment.file()));
            if segment.base_offset() != active {
                job.index_bases.push(segment.base_offset());
            }
        }
        job
    }

    /// Why a flush of this log failed; nothing may be appended any more.
    #[must_use]
    pub fn flush_failure(&self) -> Option<&str> {
        self.flush.failure.get().map(String::as_str)
    }

    /// How often this log's files were flushed one by one.
    pub(crate) fn own_flushes(&self) -> u64 {
        self.flush.own_flushes.load(Ordering::Relaxed)
    }

    /// Before segments leave the head of the view.
    pub(crate) fn note_released(&self, gone: &[Arc<Segment>]) {
        let flushed = self.limits().flushed;
        let dirty = gone.iter().filter(|segment| segment.base_offset() >= flushed.segment_base);
        self.flush.released().extend(dirty.map(|segment| Arc::clone(segment.file())));
    }

    pub(crate) fn note_new_names(&self) {
        self.flush.names.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn names_are_durable(&self) {
        self.flush.durable_names.fetch_max(self.flush.names.load(Ordering::Acquire), Ordering::AcqRel);
    }
}

impl FlushJob {
    /// Where the durable part will end.
    #[must_use]
    pub fn target(&self) -> LogPosition {
        self.target
    }

    /// True if there is nothing to make durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.has_new_names()
    }

    /// How many system calls [`FlushJob::run`] makes.
    #[must_use]
    pub fn sync_count(&self) -> usize {
        self.files.len() + files::INDEX_FILES * self.index_bases.len() + usize::from(self.has_new_names())
    }

    /// Makes it durable, file by file, and publishes exactly the target as flushed.
    ///
    /// # Errors
    /// The log, and with it the log directory, must go offline: a flush is never repeated.
    pub fn run(self) -> Result<LogPosition, LogError> {
        let flush = &self.view.flush;
        let _turn = flush.take_turn()?;
        self.sync().inspect_err(|error| drop(flush.failed(error.to_string())))?;
        flush.own_flushes.fetch_add(1, Ordering::Relaxed);
        Ok(self.publish())
    }

    /// As [`FlushJob::run`], where `outcome` is that of a sync of the whole file system that began
    /// after this job.
    ///
    /// # Errors
    /// As [`FlushJob::run`].
    pub fn covered(self, outcome: &Result<(), LogError>) -> Result<LogPosition, LogError> {
        let flush = &self.view.flush;
        let _turn = flush.take_turn()?;
        match outcome {
            Ok(()) => Ok(self.publish()),
            Err(error) => Err(flush.failed(error.to_string())),
        }
    }

    /// Syncs one file of the job; `None` if it has none.
    #[must_use]
    pub fn sync_one(&self) -> Option<Result<(), LogError>> {
        let file = self.files.last()?;
        Some(file.get().and_then(|open| open.sync_data()).map_err(LogError::io("flush", file.path())))
    }

    fn has_new_names(&self) -> bool {
        self.names > self.view.flush.durable_names.load(Ordering::Acquire)
    }

    fn sync(&self) -> Result<(), LogError> {
        let FlushState { disk, dir, .. } = &self.view.flush;
        // New names: directory first, or bytes may be durable under no name.
        if self.has_new_names() {
            disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
        }
        for base in &self.index_bases {
            files::sync_indexes(&**disk, dir, *base)?;
        }
        for file in &self.files {
            match file.get() {
                Ok(open) => open.sync_data().map_err(LogError::io("flush", file.path()))?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(LogError::io("open", file.path())(error)),
            }
        }
        Ok(())
    }

    fn publish(&self) -> LogPosition {
        self.view.flush.durable_names.fetch_max(self.names, Ordering::AcqRel);
        self.view.flush.released().retain(|file| !self.files.iter().any(|done| Arc::ptr_eq(done, file)));
        self.view.advance(|now| {
            let is_current = self.generation == now.generation;
            let rises = is_current && self.target.offset >= now.flushed.offset && now.flushed != self.target;
            rises.then_some(Limits { flushed: self.target, ..*now })
        });
        self.target
    }
}
