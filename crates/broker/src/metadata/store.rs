//! The single node's metadata log on disk: `__cluster_metadata-0` in Kafka's formats.
//!
//! The contract that a Raft quorum will implement: an entry counts once it is flushed, and a
//! failed write ends it. Synchronous; called where it may block. What it deliberately does
//! not do: decide anything.
//!
//! **Invariants:** each start takes an epoch above every earlier one, persists `quorum-state`
//! and opens the epoch with LeaderChange before anything else is written; a snapshot is
//! durable before what it replaces goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use klamm_cluster::features::MetadataVersion;
use klamm_cluster::image::MetadataImage;
use klamm_cluster::metadata_log::METADATA_TOPIC_ID;
use klamm_cluster::metadata_log::batches::{encode_control, encode_records};
use klamm_cluster::metadata_log::checkpoint::{Checkpoint, CheckpointId};
use klamm_cluster::metadata_log::control::{ControlRecord, LeaderChange, Voter};
use klamm_cluster::metadata_log::quorum::Quorum;
use klamm_cluster::metadata_log::quorum_state::{QUORUM_STATE, QuorumForm, QuorumState};
use klamm_cluster::record::MetadataRecord;
use klamm_cluster::replay::Replay;
use klamm_cluster::snapshot;
use klamm_log::disk::Disk;
use klamm_log::{AppendContext, AppendOrigin, Log, LogConfig, OpenLog, trusted_batch};
use klamm_protocol::ids::{DirectoryId, LeaderEpoch, NodeId, Offset};
use klamm_protocol::time::WallMs;

use super::error::{MetadataError, io_error};
use super::inspect::{Inspected, checkpoints};
use crate::log_dirs::log_report;

/// Snapshots that are kept: the newest, and one in case it cannot be read.
const SNAPSHOTS_KEPT: usize = 2;

/// The log, its directory, and how far it goes.
pub(crate) struct MetadataStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node: NodeId,
    log: Log,
    epoch: LeaderEpoch,
    quorum: Quorum,
    form: QuorumForm,
    snapshot_after_bytes: u64,
    bytes_since_snapshot: u64,
    last_timestamp_ms: i64,
}

/// What [`MetadataStore::open`] must know beside the place.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// The last stop left a marker: sizes are trusted.
    pub(crate) was_clean: bool,
    /// Bytes of records after which a snapshot is written
    /// (`metadata.log.max.record.bytes.between.snapshots`).
    pub(crate) snapshot_after_bytes: u64,
}

impl MetadataStore {
    /// Opens or creates the log that `inspected` describes. Writes no record.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        inspected: Inspected,
        voter: Voter,
        settings: Settings,
        now: WallMs,
    ) -> Result<(Self, Replay), MetadataError> {
        let Inspected { dir, replay, mut quorum, quorum_state, start, end, epoch, .. } = inspected;
        let node = voter.node;
        let open = OpenLog {
            disk: disk.clone(),
            dir: dir.clone(),
            topic_id: METADATA_TOPIC_ID,
            config: LogConfig::default(),
            // Everything is flushed before it counts, and little lies behind a snapshot: check all of it.
            recovery_point: Offset(0),
            log_start: start,
            high_watermark: None,
            was_clean: settings.was_clean && !inspected.has_torn_tail,
            now,
        };
        let log = match disk.exists(&dir).map_err(|source| io_error("look at", &dir, source))? {
            true => {
                let (log, report) = Log::open(open)?;
                log_report(&report);
                log
            }
            false => Log::create(open)?,
        };
        let opened = log.view().limits().end.offset;
        if opened != end {
            return Err(MetadataError::OtherEnd { path: dir, opened, read: end });
        }
        if inspected.is_new {
            quorum = found_quorum(&*disk, &dir, voter, now)?;
        }
        let store = Self {
            disk,
            dir,
            node,
            log,
            epoch,
            form: form_for(&quorum, quorum_state, node),
            quorum,
            snapshot_after_bytes: settings.snapshot_after_bytes,
            // The next snapshot is due by what a start replays, not by how long it ran.
            bytes_since_snapshot: inspected.replayed_bytes,
            last_timestamp_ms: inspected.last_timestamp_ms,
        };
        Ok((store, replay))
    }

    /// Where the next record goes.
    pub(crate) fn next_offset(&self) -> Offset {
        self.log.view().limits().end.offset
    }

    /// Becomes leader in a new epoch; returns where it begins to write.
    pub(crate) fn lead(&mut self, now: WallMs) -> Result<Offset, MetadataError> {
        self.epoch = LeaderEpoch(self.epoch.0 + 1);
        let state =
            QuorumState { leader: self.node, epoch: self.epoch, voted: NodeId(-1), form: self.form.clone() };
        let path = self.dir.join(QUORUM_STATE);
        self.disk
            .write_file_atomically(&path, state.encode().as_bytes())
            .map_err(|source| io_error("replace", &path, source))?;
        let change =
            LeaderChange { leader: self.node, voters: vec![self.node], granting_voters: vec![self.node] };
        let mut records = vec![ControlRecord::LeaderChange(change)];
        if self.next_offset() == Offset(0) {
            // The voters stand in the log too, where later changes of them will.
            if self.quorum.is_dynamic() {
                records.extend(self.quorum.kraft_version.map(ControlRecord::KraftVersion));
                records.extend(self.quorum.voters.clone().map(ControlRecord::KraftVoters));
            }
        }
        let opening = encode_control(self.next_offset(), self.epoch, now, &records)?;
        self.log.assign_leader_epoch(self.epoch)?;
        self.write(opening.bytes, now)?;
        Ok(self.next_offset())
    }

    /// Writes the decisions of a round, each whole or not at all: as one batch and with one flush, if
    /// they fit. A batch is flushed before the next is written, so that a power cut tears the last
    /// one alone: an invalid batch before a valid one is damage.
    pub(crate) fn append(
        &mut self,
        batches: &[Vec<MetadataRecord>],
        version: MetadataVersion,
        now: WallMs,
    ) -> Result<(), MetadataError> {
        let mut fit = encode_records(self.next_offset(), self.epoch, now, version, &batches.concat())?;
        if let (1, Some(batch)) = (fit.len(), fit.pop()) {
            return self.write(batch.bytes, now);
        }
        for records in batches {
            for batch in encode_records(self.next_offset(), self.epoch, now, version, records)? {
                self.write(batch.bytes, now)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, encoded: Bytes, now: WallMs) -> Result<(), MetadataError> {
        let batch = trusted_batch(encoded)?;
        self.bytes_since_snapshot += batch.bytes.len() as u64;
        let context = AppendContext { now, leader_epoch: self.epoch, origin: AppendOrigin::RaftLeader };
        let plan = self.log.plan(&context, &[batch]);
        for result in self.log.write(plan) {
            result?;
        }
        self.log.flush()?;
        self.log.view().raise_high_watermark_to_flushed();
        self.last_timestamp_ms = now.0;
        Ok(())
    }

    pub(crate) fn is_snapshot_due(&self) -> bool {
        self.bytes_since_snapshot >= self.snapshot_after_bytes
    }

    /// Writes `image`, which stands for the whole log, and lets go of what it replaces.
    pub(crate) fn write_snapshot(&mut self, image: &MetadataImage, now: WallMs) -> Result<(), MetadataError> {
        let id = CheckpointId { end_offset: self.next_offset(), epoch: self.epoch };
        let checkpoint = Checkpoint {
            last_contained_log_timestamp_ms: self.last_timestamp_ms,
            kraft_version: Some(self.quorum.kraft_version.unwrap_or(0)),
            voters: self.quorum.voters.clone(),
            records: snapshot::records_of(image),
        };
        let bytes = checkpoint.encode(self.epoch, now, image.metadata_version())?.concat();
        let path = self.dir.join(id.file_name());
        self.disk
            .write_file_atomically(&path, &bytes)
            .map_err(|source| io_error("replace", &path, source))?;
        self.bytes_since_snapshot = 0;
        let removal = self.log.advance_log_start(id.end_offset)?;
        // The snapshot's name says where the log starts, and it is durable.
        removal.mark(true)?;
        removal.unlink()?;
        let all = checkpoints(&*self.disk, &self.dir)?;
        for old in all.iter().rev().skip(SNAPSHOTS_KEPT) {
            let path = self.dir.join(old.file_name());
            self.disk.remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
        }
        Ok(())
    }

    /// Closes the log so that the next start trusts it.
    pub(crate) fn close(self) -> Result<(), MetadataError> {
        Ok(self.log.close()?)
    }
}

/// A new directory is a dynamic quorum of one (docs/adr/0001): its first snapshot names the voter.
fn found_quorum(disk: &dyn Disk, dir: &Path, voter: Voter, now: WallMs) -> Result<Quorum, MetadataError> {
    let quorum = Quorum::dynamic(voter);
    let checkpoint = Checkpoint {
        kraft_version: quorum.kraft_version,
        voters: quorum.voters.clone(),
        ..Default::default()
    };
    let id = CheckpointId { end_offset: Offset(0), epoch: LeaderEpoch(0) };
    let bytes = checkpoint.encode(id.epoch, now, MetadataVersion::LATEST)?.concat();
    let path = dir.join(id.file_name());
    disk.write_file_atomically(&path, &bytes).map_err(|source| io_error("replace", &path, source))?;
    Ok(quorum)
}

/// The form that `quorum-state` has for this quorum; what else a static one held stays.
fn form_for(quorum: &Quorum, found: Option<QuorumState>, node: NodeId) -> QuorumForm {
    match found.map(|state| state.form) {
        Some(form @ QuorumForm::Dynamic { .. }) if quorum.is_dynamic() => form,
        Some(form @ QuorumForm::Static { .. }) if !quorum.is_dynamic() => form,
        _ if quorum.is_dynamic() => QuorumForm::Dynamic { voted_directory: DirectoryId::default() },
        _ => QuorumForm::Static { cluster_id: String::new(), applied_offset: 0, voters: vec![node] },
    }
}
