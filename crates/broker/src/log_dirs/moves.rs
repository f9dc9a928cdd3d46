//! Moving partitions from one log directory to another (KIP-113).
//!
//! A copy grows in a `-future` directory while the partition is written. When it has nearly caught up the log is
//! closed, the rest is copied, and the copy takes the partition's name. A mark inside tells the next start which
//! of two directories counts, should this process end before the old one is gone.
//!
//! **Invariants:** at every moment one directory holds all that was acknowledged, and a start finds it; the mark is
//! durable before the copy has the partition's name, and never in the directory that is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use klamm_log::directory::{DirectoryKind, PartitionDirectory};
use klamm_log::{Log, LogCopy, LogError};
use klamm_protocol::ids::{PartitionIndex, TopicId, Uuid};

use super::{DirState, LogDirs, Marked};
use crate::partition::Partition;

/// In a partition's directory: it came from another one, which may still be there.
const MARK: &str = "klamm-moved-here";

/// A topic's name and a partition.
pub(crate) type PartitionKey = (Arc<str>, PartitionIndex);

/// A move that was asked for.
pub(crate) struct Move {
    to: usize,
    is_cancelled: AtomicBool,
    pub(crate) copied_bytes: AtomicU64,
}

impl Move {
    pub(super) fn to(to: usize) -> Arc<Self> {
        Arc::new(Self { to, is_cancelled: AtomicBool::new(false), copied_bytes: AtomicU64::new(0) })
    }

    /// Asked for no more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

/// Why a move is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveRefused {
    /// Not one of `log.dirs`.
    NoSuchDirectory,
    /// It takes no new partitions.
    Cordoned,
    /// The directory is offline.
    Offline,
}

/// A copy on its way: its directory's name, and where.
pub(crate) struct Future {
    place: usize,
    name: String,
}

impl LogDirs {
    /// The directory that a client means.
    pub(crate) fn move_target(&self, path: &str) -> Result<usize, MoveRefused> {
        let path = Path::new(path);
        let Some(to) = self.dirs.iter().position(|dir| dir.state.path == path) else {
            let is_unusable = self.unusable.iter().any(|unusable| unusable == path);
            return Err(if is_unusable { MoveRefused::Offline } else { MoveRefused::NoSuchDirectory });
        };
        let dir = &self.dirs[to];
        if dir.is_cordoned.load(Ordering::Relaxed) {
            Err(MoveRefused::Cordoned)
        } else if dir.state.is_offline() {
            Err(MoveRefused::Offline)
        } else {
            Ok(to)
        }
    }

    /// Asks for a move; takes an earlier one of the partition back. Nothing to do if it lies there.
    pub(crate) fn request_move(&self, partition: &Partition, to: usize) {
        let key = (partition.topic.clone(), partition.index);
        let mut moves = self.moves.lock().expect("nothing panics in here");
        if moves.get(&key).is_some_and(|earlier| earlier.to == to) {
            return;
        }
        if let Some(earlier) = moves.remove(&key) {
            earlier.is_cancelled.store(true, Ordering::Relaxed);
        }
        if partition.dir().id != self.dirs[to].state.id {
            moves.insert(key, Move::to(to));
            self.move_requested.notify_one();
        }
    }

    /// Returns when a move may have been asked for since it last returned.
    pub(crate) async fn move_requested(&self) {
        self.move_requested.notified().await;
    }

    /// One of the moves that are asked for.
    pub(crate) fn next_move(&self) -> Option<(PartitionKey, Arc<Move>)> {
        let moves = self.moves.lock().expect("nothing panics in here");
        moves.iter().next().map(|(key, wanted)| (key.clone(), wanted.clone()))
    }

    /// The move is over, whatever became of it.
    pub(crate) fn end_move(&self, key: &PartitionKey, ended: &Arc<Move>) {
        let mut moves = self.moves.lock().expect("nothing panics in here");
        if moves.get(key).is_some_and(|one| Arc::ptr_eq(one, ended)) {
            moves.remove(key);
        }
    }

    /// Where a partition is on its way to, and how much of it is there.
    pub(crate) fn moving_to(&self, topic: &Arc<str>, index: PartitionIndex) -> Option<(&Path, u64)> {
        let wanted =
            self.moves.lock().expect("nothing panics in here").get(&(topic.clone(), index)).cloned()?;
        Some((&self.dirs[wanted.to].state.path, wanted.copied_bytes.load(Ordering::Relaxed)))
    }

    /// Where a move leads.
    pub(crate) fn target_of(&self, wanted: &Move) -> &Arc<DirState> {
        &self.dirs[wanted.to].state
    }

    /// Begins the copy. `mark` tells its directory from those of other moves.
    pub(crate) fn begin_copy(
        &self,
        partition: &Partition,
        wanted: &Move,
        mark: Uuid,
    ) -> Result<(LogCopy, Future), LogError> {
        let name =
            PartitionDirectory::marked_name(&partition.topic, partition.index, DirectoryKind::Future, mark);
        let from =
            partition.dir().path.join(PartitionDirectory::live_name(&partition.topic, partition.index));
        let to = self.dirs[wanted.to].directory.path().join(&name);
        let copy = LogCopy::begin(self.disk.clone(), &from, &to, partition.topic_id)?;
        Ok((copy, Future { place: wanted.to, name }))
    }

    /// Removes a copy that is not wanted any more.
    pub(crate) fn drop_copy(&self, future: &Future) {
        if let Err(error) = self.dirs[future.place].directory.remove_partition(&future.name) {
            tracing::warn!(%error, "cannot remove an unfinished copy; the next start tries again");
        }
    }

    /// Closes the log, copies the rest, and gives the copy the partition's name. What is left of the old
    /// directory is returned. After an error the partition still lies where it was.
    pub(crate) fn complete_move(
        &self,
        partition: &Partition,
        log: Box<Log>,
        copy: LogCopy,
        future: &Future,
        mark: Uuid,
    ) -> Result<Option<Marked>, LogError> {
        let from = self.dirs.iter().position(|dir| dir.state.id == partition.dir().id);
        let from = from.expect("a partition lies in one of these");
        let (source, target) = (&self.dirs[from], &self.dirs[future.place]);
        log.close()?;
        copy.finish(&partition.view)?;
        let limits = partition.view.limits();
        target.note_arrival(&partition.topic, partition.index, limits.end.offset, limits.log_start)?;
        let live = PartitionDirectory::live_name(&partition.topic, partition.index);
        let old = source.directory.path().join(&live);
        self.remove_mark(&old)?;
        let mark_path = target.directory.path().join(&future.name).join(MARK);
        self.disk.write_file_atomically(&mark_path, b"").map_err(io_error("write", &mark_path))?;
        if let Err(error) = target.directory.rename_partition(&future.name, &live) {
            let new = target.directory.path().join(&live);
            if !self.disk.exists(&new).map_err(io_error("look at", &new))? {
                return Err(error);
            }
            // It has the name, maybe not durably. Nothing is appended to either, so that both stay right.
            target.state.fail(&error);
        }
        self.settle(partition, future.place);
        target.partition_count.fetch_add(1, Ordering::Relaxed);
        source.partition_count.fetch_sub(1, Ordering::Relaxed);
        let name =
            PartitionDirectory::marked_name(&partition.topic, partition.index, DirectoryKind::Delete, mark);
        let left = source.directory.rename_partition(&live, &name).and_then(|()| {
            self.remove_mark(&target.directory.path().join(&live))?;
            source.forget_checkpoints(&partition.topic, partition.index)
        });
        if let Err(error) = left {
            source.state.note(&error);
            tracing::error!(%error, "a moved partition's old directory stays; the next start removes it");
            return Ok(None);
        }
        Ok(Some(Marked { place: from, name }))
    }

    fn settle(&self, partition: &Partition, place: usize) {
        let mut places = self.places.lock().expect("nothing panics in here");
        if let Some(known) = places.get_mut(&(partition.topic.clone(), partition.index)) {
            known.dir = place;
        }
    }

    /// A closed partition that the applier shall open again, wherever it lies now.
    pub(crate) fn reopen(&self, topic: TopicId, index: PartitionIndex) {
        self.to_reopen.lock().expect("nothing panics in here").push((topic, index));
    }

    /// What is to be opened again; each is given once.
    pub(crate) fn take_to_reopen(&self) -> Vec<(TopicId, PartitionIndex)> {
        std::mem::take(&mut self.to_reopen.lock().expect("nothing panics in here"))
    }

    /// Of two directories of one partition the one that counts, if a mark says so.
    pub(super) fn moved_here(&self, first: &Path, second: &Path) -> Result<Option<PathBuf>, LogError> {
        let is_marked = |dir: &Path| {
            let path = dir.join(MARK);
            self.disk.exists(&path).map_err(io_error("look at", &path))
        };
        Ok(match (is_marked(first)?, is_marked(second)?) {
            (true, false) => Some(first.to_owned()),
            (false, true) => Some(second.to_owned()),
            _ => None,
        })
    }

    /// The old directory is gone.
    pub(super) fn remove_mark(&self, dir: &Path) -> Result<(), LogError> {
        let path = dir.join(MARK);
        match self.disk.remove_file(&path) {
            Ok(()) => self.disk.sync_dir(dir).map_err(io_error("sync", dir)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("remove", &path)(error)),
        }
    }

    /// Takes the directory offline whose file an error is about.
    pub(crate) fn note_error(&self, error: &LogError) {
        let (LogError::Io { path, .. } | LogError::Poisoned { path, .. }) = error else { return };
        if let Some(dir) = self.dirs.iter().find(|dir| path.starts_with(&dir.state.path)) {
            dir.state.note(error);
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}
