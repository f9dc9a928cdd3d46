//! A partition's log: the one writer of its files.
//!
//! Everything that changes the log goes through `&mut Log`; everyone else reads the
//! published [`PartitionView`]. This file holds the log itself, rolling and
//! closing; opening, planning, writing and cutting are files of their own.
//!
//! Deliberately absent: threads, clocks, waiting, retries. After a failure that leaves the
//! files in an unknown state the log refuses to go on.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_protocol::ids::{LeaderEpoch, Offset};
use klamm_protocol::time::WallMs;

use crate::active::{ActiveSegment, SegmentShape};
use crate::config::LogConfig;
use crate::disk::{Disk, OpenMode};
use crate::error::LogError;
use crate::files::{self, LOG};
use crate::flush::FlushJob;
use crate::index::{OffsetIndex, TimeIndex};
use crate::leader_epochs::LeaderEpochs;
use crate::limits::{Limits, LogPosition};
use crate::open::remove_if_there;
use crate::prefill::Prefill;
use crate::producer::{ProducerState, Verifications, write_snapshot};
use crate::removal::Outgoing;
use crate::segment::{Segment, SegmentFile};
use crate::view::{PartitionView, Segments};

/// A flush writes the index files too once so many entries wait.
const INDEX_ENTRIES_WAITING_MAX: usize = 256;

/// The writer of one partition's log.
pub struct Log {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    /// The directory's name, as messages show it.
    pub(crate) name: String,
    pub(crate) config: LogConfig,
    pub(crate) view: Arc<PartitionView>,
    pub(crate) active: ActiveSegment,
    pub(crate) producers: ProducerState,
    pub(crate) verifications: Verifications,
    pub(crate) epochs: LeaderEpochs,
    /// Rises with every change, so that a plan knows that it is old.
    pub(crate) version: u64,
    pub(crate) last_snapshot: Offset,
    /// Where it lies: a segment's base and a position. What was found at the start is at 0.
    pub(crate) snapshot_position: (Offset, u32),
    /// The newest epoch has no batch yet, and is in memory alone.
    pub(crate) has_unstored_epochs: bool,
    pub(crate) poisoned: Option<String>,
    /// Segments that left the head and still have their names.
    pub(crate) outgoing: Arc<Outgoing>,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.outgoing.close();
    }
}

impl Log {
    /// What readers use.
    #[must_use]
    pub fn view(&self) -> Arc<PartitionView> {
        Arc::clone(&self.view)
    }

    /// The partition's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Changes the settings for what comes.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
        self.version += 1;
    }

    /// The producers, as of the end.
    #[must_use]
    pub fn producers(&self) -> &ProducerState {
        &self.producers
    }

    /// Forgets producers idle since `producer.id.expiration.ms`, and what was asked about transactions so
    /// long ago; tells how many producers.
    pub fn expire_producers(&mut self, now: WallMs) -> usize {
        self.version += 1;
        self.verifications.expire(now.0, self.config.producer_id_expiration_ms);
        self.producers.expire(now.0, self.config.producer_id_expiration_ms)
    }

    /// Where recovery would begin: everything below is durable.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        self.view.limits().flushed.offset
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.view.size_bytes()
    }

    /// A leader's first act in a new epoch: it begins where the log ends.
    pub fn assign_leader_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), LogError> {
        self.refuse_if_poisoned()?;
        let end = self.view.limits().end.offset;
        if self.epochs.latest().is_some_and(|latest| latest.leader_epoch >= epoch) {
            return Ok(());
        }
        // Written down with its first batch: a start with 20,000 idle partitions flushes nothing.
        if self.epochs.assign(epoch, end) {
            self.has_unstored_epochs = true;
            self.view.publish_epochs(self.epochs.clone());
        }
        Ok(())
    }

    /// Rolls if a batch with timestamp `now` would. True if it did.
    pub fn roll_if_due(&mut self, now: WallMs) -> Result<bool, LogError> {
        let end = self.view.limits().end.offset;
        let is_due = self.active.shape.must_roll(&self.config, 0, now.0, end, now);
        if is_due {
            self.refuse_if_poisoned()?;
            self.roll(end, now)?;
        }
        Ok(is_due)
    }

    /// Begins a flush of everything appended so far, index entries included.
    pub fn begin_flush(&mut self) -> Result<FlushJob, LogError> {
        self.refuse_if_poisoned()?;
        if self.active.has_many_unwritten(INDEX_ENTRIES_WAITING_MAX) {
            self.write_indexes()?;
        }
        Ok(self.view.begin_flush())
    }

    /// Flushes everything. A failure ends the log: what was lost is not known.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.begin_flush()?.run().map(drop)
    }

    /// A durable snapshot of the producers at the end, for a recovery that begins here.
    pub fn snapshot_producers(&mut self) -> Result<(), LogError> {
        self.take_snapshot(self.view.limits().end.offset, true)
    }

    /// Writes everything that the next open of a cleanly stopped log trusts, and flushes.
    /// `.kafka_cleanshutdown` is the log directory's business.
    pub fn close(mut self) -> Result<(), LogError> {
        self.refuse_if_poisoned()?;
        self.active
            .finish(&*self.disk, &self.dir)
            .map_err(LogError::io("write the indexes of", self.active.segment.file().path()))?;
        for segment in self.view.segments().iter() {
            let failed = LogError::io("write the .txnindex of", segment.file().path());
            segment.transactions.write_repaired().map_err(failed)?;
        }
        self.take_snapshot(self.view.limits().end.offset, true)?;
        let is_cut = self.cut_room()?;
        self.flush()?;
        if is_cut {
            // A flush that finds nothing new does nothing.
            let file = self.active.segment.file();
            let synced = file.get().and_then(|open| open.sync_data());
            synced.map_err(LogError::io("flush", file.path()))?;
        }
        files::sync_indexes(&*self.disk, &self.dir, self.active.segment.base_offset())?;
        self.disk.sync_dir(&self.dir).map_err(LogError::io("sync", &self.dir))
    }

    /// True after a failure that left the files in an unknown state.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.is_some() || self.view.flush_failure().is_some()
    }

    pub(crate) fn poison(&mut self, reason: String) {
        self.poisoned.get_or_insert(reason);
    }

    pub(crate) fn refuse_if_poisoned(&self) -> Result<(), LogError> {
        match self.poisoned.as_deref().or_else(|| self.view.flush_failure()) {
            None => Ok(()),
            Some(reason) => Err(LogError::Poisoned { path: self.dir.clone(), reason: reason.to_owned() }),
        }
    }

    pub(crate) fn publish_unstable(&self) {
        self.view.publish_unstable(self.producers.unstable().copied().collect());
    }

    pub(crate) fn store_epochs(&mut self) -> Result<(), LogError> {
        if let Err(error) = self.epochs.store(&*self.disk, &self.dir) {
            // As published, or the next append would take the epoch for one that is stored.
            self.epochs = (*self.view.leader_epochs()).clone();
            // A failed sync of the directory may have lost other names; a full disk has not.
            let is_full =
                matches!(&error, LogError::Io { source, .. } if source.kind() == ErrorKind::StorageFull);
            if !is_full {
                self.poison(error.to_string());
            }
            return Err(error);
        }
        self.has_unstored_epochs = false;
        self.view.publish_epochs(self.epochs.clone());
        Ok(())
    }

    pub(crate) fn write_indexes(&mut self) -> Result<(), LogError> {
        self.active
            .write_indexes(&*self.disk, &self.dir)
            .map_err(LogError::io("write the indexes of", self.active.segment.file().path()))
    }

    pub(crate) fn take_snapshot(&mut self, offset: Offset, is_durable: bool) -> Result<(), LogError> {
        if offset <= self.last_snapshot {
            return Ok(());
        }
        let active = Arc::clone(&self.active.segment);
        if let Err(error) = active.transactions.sync() {
            self.poison(format!("the transaction index cannot be flushed ({error})"));
            return Err(LogError::io("flush the .txnindex of", active.file().path())(error));
        }
        write_snapshot(&*self.disk, &self.dir, offset, &self.producers, is_durable)
            .map_err(LogError::io("write a producer snapshot in", &self.dir))?;
        self.last_snapshot = offset;
        self.view.note_new_names();
        Ok(())
    }

    /// Cuts off what was filled beforehand and is not needed: closed files end with their last batch.
    /// True if something may have been cut.
    fn cut_room(&mut self) -> Result<bool, LogError> {
        let size = self.active.size;
        let is_beyond = self.active.prefill.is_beyond(size);
        if is_beyond {
            let file = self.active.segment.file();
            let cut = file.get().and_then(|open| open.set_len(u64::from(size)));
            cut.map_err(LogError::io("cut", file.path()))?;
            self.active.prefill = Prefill::new(size, self.view.own_flushes());
        }
        Ok(is_beyond)
    }

    /// Closes the active segment and begins a new one at `base`, the next batch's offset.
    pub(crate) fn roll(&mut self, base: Offset, now: WallMs) -> Result<(), LogError> {
        self.active
            .finish(&*self.disk, &self.dir)
            .map_err(LogError::io("write the indexes of", self.active.segment.file().path()))?;
        self.take_snapshot(base, false)?;
        self.cut_room()?;
        let next = match new_active(&self.disk, &self.dir, base, now) {
            Ok(next) => next,
            Err(error) => {
                // Left there, an empty file would end the log at the next start, although
                // smaller batches may still go to the segment before it.
                let path = files::segment_file(&self.dir, base, LOG);
                if let Err(repair) = remove_if_there(&*self.disk, &path) {
                    self.poison(format!("a roll that failed ({error}) and left its file ({repair})"));
                }
                // The next flush makes it durable that the file is gone.
                self.view.note_new_names();
                return Err(error);
            }
        };
        // Before any limit lies in it: a flush that reaches the segment makes its name durable.
        self.view.note_new_names();
        let (_, segments) = self.view.load();
        let mut list: Vec<Arc<Segment>> = segments.to_vec();
        let last = list.last_mut().expect("a log has an active segment");
        *last = Arc::new(last.to_closed(&self.disk, &self.dir));
        list.push(Arc::clone(&next.segment));
        self.view.publish_segments(Segments::new(list));
        self.active = next;
        self.active.prefill = Prefill::new(0, self.view.own_flushes());
        self.version += 1;
        let end = LogPosition { segment_base: base, position: 0, ..self.view.limits().end };
        self.view.advance(|now| Some(Limits { end, ..*now }));
        Ok(())
    }
}

/// A fresh segment at `base`.
pub(crate) fn new_active(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    base: Offset,
    now: WallMs,
) -> Result<ActiveSegment, LogError> {
    let path = files::segment_file(dir, base, LOG);
    let file = disk.open(&path, OpenMode::Create).map_err(LogError::io("create", &path))?;
    // A roll that failed half way may have left the file.
    file.set_len(0).map_err(LogError::io("empty", &path))?;
    let file = Arc::new(SegmentFile::growing(Arc::clone(disk), path, file, 0));
    let indexes = (OffsetIndex::in_memory(&[]), TimeIndex::in_memory(&[]));
    let segment = Segment::active(disk, dir, file, base, 0, indexes, -1);
    segment.transactions.note_all_checked();
    let mut active = ActiveSegment::new(Arc::new(segment), now, false);
    active.shape = SegmentShape::new(base, now);
    Ok(active)
}
