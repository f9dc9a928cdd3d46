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
use klamm_cluster::features::{FeatureError, MetadataVersion, check_level};
use klamm_cluster::image::MetadataImage;
use klamm_cluster::metadata_log::METADATA_TOPIC_ID;
use klamm_cluster::metadata_log::batches::{
    BatchContent, BatchDecodeError, decode_batches, encode_control, encode_records,
};
use klamm_cluster::metadata_log::checkpoint::{Checkpoint, CheckpointError, CheckpointId};
use klamm_cluster::metadata_log::control::{ControlRecord, LeaderChange, Voter};
use klamm_cluster::metadata_log::quorum_state::{QUORUM_STATE, QuorumForm, QuorumState, QuorumStateError};
use klamm_cluster::record::MetadataRecord;
use klamm_cluster::replay::Replay;
use klamm_cluster::snapshot;
use klamm_log::disk::Disk;
use klamm_log::{
    AppendContext, AppendError, AppendOrigin, Log, LogConfig, LogError, LogPosition, OpenLog, ReadError,
    trusted_batch,
};
use klamm_protocol::ids::{DirectoryId, LeaderEpoch, NodeId, Offset};
use klamm_protocol::time::WallMs;
use klamm_protocol::wire::EncodeError;

use crate::log_dirs::log_report;

/// Snapshots that are kept: the newest, and one in case it cannot be read.
const SNAPSHOTS_KEPT: usize = 2;
/// The largest snapshot that is read: a million partitions take a tenth.
const SNAPSHOT_BYTES_MAX: u64 = 2 << 30;
/// One read of the log at replay.
const REPLAY_BYTES: u32 = 1024 * 1024;

/// Why the metadata log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Its files.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A write was refused.
    #[error("cannot write the metadata log: {0}")]
    Append(#[from] AppendError),
    /// It cannot be read.
    #[error("cannot read the metadata log: {0}")]
    Read(#[from] ReadError),
    /// It holds what this version does not know.
    #[error("{}: {source}; start the version that wrote it, or a newer one", path.display())]
    Unknown {
        /// The log's directory.
        path: PathBuf,
        /// What it holds.
        source: BatchDecodeError,
    },
    /// No snapshot can be read, and the log does not reach back to its beginning.
    #[error("{}: {source}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// `quorum-state` cannot be read.
    #[error("{}: {source}", path.display())]
    QuorumState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: QuorumStateError,
    },
    /// A feature level from another version.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// A record that this metadata version cannot carry.
    #[error("cannot encode a metadata record: {0}")]
    Encode(#[from] EncodeError),
    /// An earlier write failed.
    #[error("an earlier write to the metadata log failed")]
    Gone,
}

/// The quorum's layout, which is kept as it was found.
#[derive(Clone, Default)]
struct Quorum {
    kraft_version: Option<i16>,
    voters: Option<Vec<Voter>>,
}

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

/// What [`MetadataStore::open`] found.
pub(crate) struct Opened {
    pub(crate) store: MetadataStore,
    pub(crate) replay: Replay,
}

impl MetadataStore {
    /// Opens or creates the log and replays it. Writes no record.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        voter: Voter,
        settings: Settings,
        now: WallMs,
    ) -> Result<Opened, MetadataError> {
        let node = voter.node;
        let exists =
            disk.exists(&dir.join(QUORUM_STATE)).map_err(|source| io_error("look at", &dir, source))?;
        let found = if exists { newest_checkpoint(&*disk, &dir)? } else { None };
        let mut quorum = Quorum::default();
        let mut replay = Replay::default();
        let mut last_timestamp_ms = 0;
        let start = found.as_ref().map_or(Offset(0), |(id, _)| id.end_offset);
        let mut epoch = LeaderEpoch(0);
        if let Some((id, checkpoint)) = found {
            quorum = Quorum { kraft_version: checkpoint.kraft_version, voters: checkpoint.voters };
            replay = Replay::from_image(snapshot::image_of(id.end_offset, &checkpoint.records));
            last_timestamp_ms = checkpoint.last_contained_log_timestamp_ms;
            epoch = id.epoch;
        }
        let open = OpenLog {
            disk: disk.clone(),
            dir: dir.clone(),
            topic_id: METADATA_TOPIC_ID,
            config: LogConfig::default(),
            // Everything is flushed before it counts, and little lies behind a snapshot: check all of it.
            recovery_point: Offset(0),
            log_start: start,
            high_watermark: None,
            was_clean: settings.was_clean,
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
        if !exists {
            quorum = found_quorum(&*disk, &dir, voter, now)?;
        }
        let (form, state_epoch) = read_quorum_state(&*disk, &dir)?;
        epoch = epoch.max(state_epoch).max(log.view().latest_epoch().unwrap_or(LeaderEpoch(0)));
        let mut store = Self {
            disk,
            dir,
            node,
            log,
            epoch,
            quorum,
            form,
            snapshot_after_bytes: settings.snapshot_after_bytes,
            bytes_since_snapshot: 0,
            last_timestamp_ms,
        };
        store.replay_from(start, &mut replay)?;
        for (name, level) in replay.image().features() {
            check_level(name, *level)?;
        }
        Ok(Opened { store, replay })
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
            records.extend(self.quorum.kraft_version.map(ControlRecord::KraftVersion));
            records.extend(self.quorum.voters.clone().map(ControlRecord::KraftVoters));
        }
        let opening = encode_control(self.next_offset(), self.epoch, now, &records)?;
        self.log.assign_leader_epoch(self.epoch)?;
        self.write(vec![opening.bytes], now)?;
        Ok(self.next_offset())
    }

    /// Writes each list of records as one atomic batch, and flushes once.
    pub(crate) fn append(
        &mut self,
        batches: &[Vec<MetadataRecord>],
        version: MetadataVersion,
        now: WallMs,
    ) -> Result<(), MetadataError> {
        let mut encoded = Vec::with_capacity(batches.len());
        let mut next_offset = self.next_offset();
        for records in batches {
            for batch in encode_records(next_offset, self.epoch, now, version, records)? {
                next_offset = batch.end_offset;
                encoded.push(batch.bytes);
            }
        }
        self.write(encoded, now)
    }

    fn write(&mut self, encoded: Vec<Bytes>, now: WallMs) -> Result<(), MetadataError> {
        let batches = encoded.into_iter().map(trusted_batch).collect::<Result<Vec<_>, _>>()?;
        self.bytes_since_snapshot += batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        let context = AppendContext { now, leader_epoch: self.epoch, origin: AppendOrigin::RaftLeader };
        let plan = self.log.plan(&context, &batches);
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
        self.log.advance_log_start(id.end_offset)?;
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

    fn replay_from(&mut self, start: Offset, replay: &mut Replay) -> Result<(), MetadataError> {
        let view = self.log.view();
        let end: LogPosition = view.limits().end;
        let mut next = start;
        while next < end.offset {
            let Some(region) = view.read(next, end, REPLAY_BYTES, true)? else { break };
            let bytes =
                Bytes::from(region.read().map_err(|source| io_error("read", region.file.path(), source))?);
            let before = next;
            // The next snapshot is due by what a start replays, not by how long it ran.
            self.bytes_since_snapshot += bytes.len() as u64;
            for batch in decode_batches(&bytes) {
                let batch = match batch {
                    Ok(batch) => batch,
                    // The region's last batch may be cut; the next read begins with it.
                    Err(BatchDecodeError::Scan(_)) if next > before => break,
                    Err(source) => return Err(MetadataError::Unknown { path: self.dir.clone(), source }),
                };
                self.take_in(&batch.content, next, replay);
                self.last_timestamp_ms = batch.max_timestamp_ms;
                next = batch.end_offset;
                replay.advance_to(next);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, content: &BatchContent, from: Offset, replay: &mut Replay) {
        match content {
            BatchContent::Records(records) => {
                // A batch may begin below the snapshot's end.
                for (offset, record) in records.iter().filter(|(offset, _)| *offset >= from) {
                    replay.apply(*offset, record);
                }
            }
            BatchContent::Control(records) => {
                for (_, record) in records {
                    match record {
                        ControlRecord::KraftVersion(version) => self.quorum.kraft_version = Some(*version),
                        ControlRecord::KraftVoters(voters) => self.quorum.voters = Some(voters.clone()),
                        ControlRecord::LeaderChange(_)
                        | ControlRecord::SnapshotHeader { .. }
                        | ControlRecord::SnapshotFooter
                        | ControlRecord::Other(_) => {}
                    }
                }
            }
        }
    }
}

fn checkpoints(disk: &dyn Disk, dir: &Path) -> Result<Vec<CheckpointId>, MetadataError> {
    let entries = disk.list_dir(dir).map_err(|source| io_error("list", dir, source))?;
    let mut found: Vec<_> = entries.iter().filter_map(|entry| CheckpointId::parse(&entry.name)).collect();
    found.sort();
    Ok(found)
}

/// The newest snapshot that can be read; an older one serves if the newest cannot.
fn newest_checkpoint(
    disk: &dyn Disk,
    dir: &Path,
) -> Result<Option<(CheckpointId, Checkpoint)>, MetadataError> {
    let mut failure = None;
    for id in checkpoints(disk, dir)?.into_iter().rev() {
        let path = dir.join(id.file_name());
        let bytes =
            disk.read_file(&path, SNAPSHOT_BYTES_MAX).map_err(|source| io_error("read", &path, source))?;
        match Checkpoint::decode(&Bytes::from(bytes)) {
            Ok(checkpoint) => return Ok(Some((id, checkpoint))),
            Err(source) => {
                tracing::warn!(path = %path.display(), error = %source, "cannot read a metadata snapshot");
                failure.get_or_insert(MetadataError::Snapshot { path, source });
            }
        }
    }
    failure.map_or(Ok(None), Err)
}

/// A new directory is a dynamic quorum of one (docs/adr/0001): its first snapshot names the voter.
fn found_quorum(disk: &dyn Disk, dir: &Path, voter: Voter, now: WallMs) -> Result<Quorum, MetadataError> {
    let checkpoint = Checkpoint { kraft_version: Some(1), voters: Some(vec![voter]), ..Default::default() };
    let id = CheckpointId { end_offset: Offset(0), epoch: LeaderEpoch(0) };
    let bytes = checkpoint.encode(id.epoch, now, MetadataVersion::LATEST)?.concat();
    let path = dir.join(id.file_name());
    disk.write_file_atomically(&path, &bytes).map_err(|source| io_error("replace", &path, source))?;
    Ok(Quorum { kraft_version: checkpoint.kraft_version, voters: checkpoint.voters })
}

fn read_quorum_state(disk: &dyn Disk, dir: &Path) -> Result<(QuorumForm, LeaderEpoch), MetadataError> {
    let path = dir.join(QUORUM_STATE);
    let bytes = match disk.read_file(&path, 64 * 1024) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let form = QuorumForm::Dynamic { voted_directory: DirectoryId::default() };
            return Ok((form, LeaderEpoch(0)));
        }
        Err(source) => return Err(io_error("read", &path, source).into()),
    };
    let state = QuorumState::parse(&String::from_utf8_lossy(&bytes))
        .map_err(|source| MetadataError::QuorumState { path, source })?;
    Ok((state.form, state.epoch))
}

fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> LogError {
    LogError::Io { action, path: path.to_owned(), source }
}
