//! Creating a log and opening one that is there.
//!
//! After a clean stop sizes are trusted and only the last segment is looked into; otherwise
//! everything behind the recovery point is checked ([`crate::recovery`]). Leftovers of an
//! interrupted deletion, cleaning or swap are finished first, as Kafka does.
//!
//! Nothing is logged: [`RecoveryReport`] says what was found, the caller logs it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_protocol::ids::{Offset, TopicId};
use klamm_protocol::time::WallMs;

use crate::config::LogConfig;
use crate::directory::partition_metadata;
use crate::disk::Disk;
use crate::entry::WalkError;
use crate::error::{LogError, ReadError};
use crate::files::{self, INDEX, LOG, TIME_INDEX, TXN_INDEX};
use crate::flush::FlushState;
use crate::leader_epochs::LeaderEpochs;
use crate::leftovers;
use crate::limits::{Limits, LogPosition};
use crate::log::{Log, new_active};
use crate::producer::{Verifications, list_snapshots, snapshot_path};
use crate::recovery::{Recovered, Recovery, set_segment_aside};
use crate::removal::Outgoing;
use crate::replay;
use crate::segment::{Segment, SegmentFile};
use crate::view::{PartitionView, Segments};

/// What a log is opened with.
#[derive(Clone)]
pub struct OpenLog {
    /// Where its files are.
    pub disk: Arc<dyn Disk>,
    /// The partition's directory, `<topic>-<partition>`.
    pub dir: PathBuf,
    /// Whose records they are.
    pub topic_id: TopicId,
    /// The settings.
    pub config: LogConfig,
    /// From `recovery-point-offset-checkpoint`; 0 if it is not there.
    pub recovery_point: Offset,
    /// From `log-start-offset-checkpoint`; 0 if it is not there.
    pub log_start: Offset,
    /// From `replication-offset-checkpoint`; `None` puts the watermark at the end.
    pub high_watermark: Option<Offset>,
    /// True if the log directory was stopped cleanly.
    pub was_clean: bool,
    /// The time, for new segments and for expired producers.
    pub now: WallMs,
}

/// What opening a log found and did. Everything but `rebuilt_indexes` deserves a log line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Bytes that were checked.
    pub checked_bytes: u64,
    /// Tails that were cut, in order.
    pub truncations: Vec<Truncation>,
    /// Segments whose index files were missing or wrong.
    pub rebuilt_indexes: Vec<PathBuf>,
    /// Unfinished business of an earlier process that was finished or removed.
    pub leftovers: Vec<PathBuf>,
    /// Producer snapshots that were not intact.
    pub bad_snapshots: Vec<PathBuf>,
    /// Small files that say what cannot be, and were left out of account.
    pub ignored: Vec<PathBuf>,
    /// Durable bytes that are not what was written. They stay; who reads them gets an error.
    pub corrupt: Vec<CorruptPlace>,
}

/// Where opening a log met corrupt bytes below the recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorruptPlace {
    /// The segment's file.
    pub path: PathBuf,
    /// Where in it.
    pub position: u64,
    /// What is wrong.
    pub reason: String,
}

impl CorruptPlace {
    pub(crate) fn of(path: &Path, fault: &WalkError) -> Self {
        let (position, reason) = match fault {
            WalkError::Invalid { position, reason } => (*position, reason.clone()),
            WalkError::Torn { position } | WalkError::Io { position, .. } => {
                (*position, "a batch that does not end".to_owned())
            }
        };
        Self { path: path.to_owned(), position, reason }
    }
}

/// A tail that was cut off a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// The segment's file.
    pub path: PathBuf,
    /// Where it ends now.
    pub position: u64,
    /// What was cut.
    pub removed_bytes: u64,
    /// What it was.
    pub tail: Tail,
}

/// What a cut tail was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Room that was filled with zeros beforehand.
    Zeros,
    /// A write that did not end; nothing valid behind it.
    Torn(String),
    /// An invalid batch with valid ones behind it: corruption. The bytes are in `kept`.
    Corrupt {
        /// What is wrong.
        reason: String,
        /// The file that holds the tail.
        kept: PathBuf,
    },
}

impl Log {
    /// Creates a partition's directory and an empty log that begins at `log_start`.
    pub fn create(open: OpenLog) -> Result<Self, LogError> {
        let (disk, dir) = (Arc::clone(&open.disk), open.dir.clone());
        disk.create_dir_all(&dir).map_err(LogError::io("create", &dir))?;
        // Durable before the first append: Kafka takes a log without it for a stray.
        partition_metadata::write(&*disk, &dir, open.topic_id)?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent).map_err(LogError::io("sync", parent))?;
        }
        let (log, _) = Self::open(OpenLog { was_clean: true, ..open })?;
        disk.sync_dir(&dir).map_err(LogError::io("sync", &dir))?;
        log.view.names_are_durable();
        Ok(log)
    }

    /// Opens the log in a directory.
    pub fn open(open: OpenLog) -> Result<(Self, RecoveryReport), LogError> {
        let OpenLog { disk, dir, .. } = &open;
        let mut report = RecoveryReport::default();
        report.ignored.extend(partition_metadata::check(&**disk, dir, open.topic_id)?);
        report.leftovers = leftovers::finish(&**disk, dir)?;
        let had_files = segment_bases(&**disk, dir)?;
        let mut epochs = match LeaderEpochs::load(&**disk, dir) {
            Err(LogError::Malformed { path, .. }) => {
                report.ignored.push(path);
                LeaderEpochs::default()
            }
            loaded => loaded?,
        };
        let stored = epochs.clone();
        let recovered = Recovery::new(&open, &mut epochs, &mut report).run(had_files)?;
        let Recovered { mut segments, mut active, end, below } = recovered;

        let first_base = segments.first().map_or(active.shape.base_offset, |segment| segment.base_offset());
        let log_start = open.log_start.max(first_base);
        if end.offset < log_start {
            // All there is was deleted, says the checkpoint. Begin anew behind it, but remove nothing:
            // a number that changed may say so too.
            let reason = format!("the log start {log_start} lies behind the end {}", end.offset);
            let bases = segments.iter().map(|segment| segment.base_offset());
            for base in below.into_iter().chain(bases).chain([active.shape.base_offset]) {
                set_segment_aside(&open, base, reason.clone(), &mut report)?;
                remove_if_there(&**disk, &snapshot_path(dir, base))?;
            }
            segments.clear();
            active = new_active(disk, dir, log_start, open.now)?;
        }
        segments.push(Arc::clone(&active.segment));
        let end = match active.size {
            0 => LogPosition {
                offset: end.offset.max(log_start),
                segment_base: active.shape.base_offset,
                position: 0,
            },
            _ => end,
        };
        epochs.truncate_from_end(end.offset);
        epochs.truncate_from_start(log_start);
        if epochs != stored {
            epochs.store(&**disk, dir)?;
        }
        let limits =
            Limits { log_start, end, flushed: end, high_watermark: end, last_stable: end, generation: 0 };
        let view = Arc::new(PartitionView::new(
            FlushState::new(Arc::clone(disk), dir.clone()),
            limits,
            Segments::new(segments),
            epochs.clone(),
        ));
        let rebuilt = replay::rebuild(&open, &view, &mut report)?;
        let name = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut log = Self {
            disk: Arc::clone(disk),
            dir: dir.clone(),
            name,
            config: open.config.clone(),
            view,
            active,
            producers: rebuilt.state,
            verifications: Verifications::default(),
            epochs,
            version: 0,
            last_snapshot: rebuilt.last_snapshot,
            snapshot_position: (Offset(-1), 0),
            has_unstored_epochs: false,
            poisoned: None,
            outgoing: Outgoing::new(Arc::clone(disk), dir.clone()),
        };
        log.remove_snapshots_of_what_is_lost(rebuilt.trusted)?;
        log.remove_stray_snapshots(end.offset)?;
        log.set_high_watermark(open.high_watermark, &mut report)?;
        // All of it is durable. Whoever appends or reads opens it again; most partitions idle.
        log.active.segment.file().close();
        Ok((log, report))
    }

    fn set_high_watermark(
        &mut self,
        at: Option<Offset>,
        report: &mut RecoveryReport,
    ) -> Result<(), LogError> {
        self.publish_unstable();
        let limits = self.view.limits();
        let to = match at {
            None => limits.end,
            Some(offset) if offset >= limits.end.offset => limits.end,
            // Never above what it was: nobody knows how far what is corrupt there was committed.
            Some(offset) => {
                replay::readable_position(&self.view, &self.dir, offset.max(limits.log_start), report)?
            }
        };
        let floor = LogPosition { offset: to.offset.max(limits.log_start), ..to };
        self.view.advance(|now| Some(Limits { high_watermark: floor, ..*now }));
        self.producers.forget_stable(floor.offset);
        self.publish_unstable();
        Ok(())
    }

    pub(crate) fn position_of(&self, offset: Offset) -> Result<LogPosition, LogError> {
        self.view.position_of(offset).map_err(|error| read_failed(error, &self.dir))
    }

    /// What they count may not have survived: in a compacted log there may be a hole below them. The
    /// next start would believe them, so they go for good.
    fn remove_snapshots_of_what_is_lost(&self, trusted: Offset) -> Result<(), LogError> {
        let offsets = list_snapshots(&*self.disk, &self.dir).map_err(LogError::io("list", &self.dir))?;
        let lost: Vec<Offset> = offsets.into_iter().filter(|offset| *offset > trusted).collect();
        for offset in &lost {
            remove_if_there(&*self.disk, &snapshot_path(&self.dir, *offset))?;
        }
        if lost.is_empty() {
            Ok(())
        } else {
            self.disk.sync_dir(&self.dir).map_err(LogError::io("sync", &self.dir))
        }
    }

    /// Snapshots are of use at a segment's base and at the end; the rest pile up.
    pub(crate) fn remove_stray_snapshots(&self, end: Offset) -> Result<(), LogError> {
        let offsets = list_snapshots(&*self.disk, &self.dir).map_err(LogError::io("list", &self.dir))?;
        let segments = self.view.segments();
        for offset in offsets {
            let is_base = segments.iter().any(|segment| segment.base_offset() == offset);
            if offset > end || !(is_base || offset == self.last_snapshot) {
                remove_if_there(&*self.disk, &snapshot_path(&self.dir, offset))?;
            }
        }
        Ok(())
    }
}

/// The base offsets and sizes of the segments in a directory, rising. Files of segments
/// whose batches are gone are removed.
fn segment_bases(disk: &dyn Disk, dir: &Path) -> Result<Vec<(Offset, u32)>, LogError> {
    let entries = disk.list_dir(dir).map_err(LogError::io("list", dir))?;
    let mut bases = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is_dir) {
        if let Some(base) = files::base_of(&entry.name, LOG) {
            let path = dir.join(&entry.name);
            let len = disk.metadata(&path).map_err(LogError::io("look at", &path))?.len_bytes;
            let size = u32::try_from(len).map_err(|_| LogError::Corrupt {
                path,
                position: u64::from(u32::MAX),
                reason: "a segment beyond 4 GiB".to_owned(),
            })?;
            bases.push((base, size));
        }
    }
    bases.sort_unstable();
    for entry in &entries {
        for suffix in [INDEX, TIME_INDEX, TXN_INDEX] {
            if let Some(base) = files::base_of(&entry.name, suffix)
                && bases.binary_search_by_key(&base, |(base, _)| *base).is_err()
            {
                remove_if_there(disk, &dir.join(&entry.name))?;
            }
        }
    }
    Ok(bases)
}

/// Removes all files of a segment; the batches first, so that no crash leaves them without
/// their transaction index. An index without batches goes at the next start.
pub(crate) fn remove_segment(disk: &dyn Disk, dir: &Path, base: Offset) -> Result<(), LogError> {
    for suffix in [LOG, INDEX, TIME_INDEX, TXN_INDEX, files::SNAPSHOT] {
        remove_if_there(disk, &files::segment_file(dir, base, suffix))?;
    }
    Ok(())
}

pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LogError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A segment below the recovery point, which is not looked into.
pub(crate) fn closed_segment(disk: &Arc<dyn Disk>, dir: &Path, base: Offset, size: u32) -> Arc<Segment> {
    let file = SegmentFile::new(Arc::clone(disk), files::segment_file(dir, base, LOG));
    Arc::new(Segment::closed(disk, dir, Arc::new(file), base, size))
}

/// A failed read within an operation on the whole log.
pub(crate) fn read_failed(error: ReadError, dir: &Path) -> LogError {
    match error {
        ReadError::Io { path, source, .. } => LogError::Io { action: "read", path, source },
        ReadError::Corrupt { path, position, reason } => LogError::Corrupt { path, position, reason },
        ReadError::Quarantined { path, range } => {
            LogError::Corrupt { path, position: u64::from(range.position), reason: range.cause }
        }
        ReadError::OffsetOutOfRange { offset, log_start, end } => {
            LogError::OffsetOutOfRange { path: dir.to_owned(), offset, low: log_start, high: end }
        }
        ReadError::Truncated { offset } => {
            LogError::OffsetOutOfRange { path: dir.to_owned(), offset, low: offset, high: offset }
        }
    }
}
