//! Reads the metadata log at start, before anything is written.
//!
//! Snapshot, segments, `quorum-state`, and for an empty log the `bootstrap.checkpoint` that
//! formatting left: what they say together, or why this build must not touch them. What
//! [`super::store`] then opens is what was read here.
//!
//! **Invariants:** nothing is written. A torn tail, which a write that broke off leaves, ends the
//! log; an invalid batch with a valid one behind it, a gap in the offsets, or a record that is not
//! known ends the start.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use klamm_cluster::image::MetadataImage;
use klamm_cluster::metadata_log::admission::admit;
use klamm_cluster::metadata_log::batches::{BatchContent, BatchDecodeError, DecodedBatch, decode_batches};
use klamm_cluster::metadata_log::checkpoint::{
    BOOTSTRAP_CHECKPOINT, Checkpoint, CheckpointError, CheckpointId,
};
use klamm_cluster::metadata_log::control::Voter;
use klamm_cluster::metadata_log::quorum::Quorum;
use klamm_cluster::metadata_log::quorum_state::{QUORUM_STATE, QuorumForm, QuorumState};
use klamm_cluster::record::MetadataRecord;
use klamm_cluster::replay::Replay;
use klamm_cluster::snapshot;
use klamm_log::disk::{Disk, OpenMode, ReadAt, read_full_at};
use klamm_log::{TailKind, examine_tail};
use klamm_protocol::ids::{LeaderEpoch, Offset};
use klamm_protocol::records::ScanError;

use super::error::{MetadataError, io_error};

/// The largest snapshot that is read: a million partitions take a tenth.
const SNAPSHOT_BYTES_MAX: u64 = 2 << 30;
/// `quorum-state` has a few fields and one for each voter.
const QUORUM_STATE_BYTES_MAX: u64 = 64 << 10;
/// One read of the log; a larger batch is read alone.
const READ_BYTES: u64 = 1 << 20;
/// Digits of a segment's name.
const NAME_DIGITS: usize = 20;

/// What the directory says, and how far it goes.
pub(crate) struct Inspected {
    pub(super) dir: PathBuf,
    /// Snapshot and log.
    pub(super) replay: Replay,
    pub(super) quorum: Quorum,
    pub(super) quorum_state: Option<QuorumState>,
    /// The snapshot's end.
    pub(super) start: Offset,
    /// The log's.
    pub(super) end: Offset,
    /// The latest that anything names.
    pub(super) epoch: LeaderEpoch,
    pub(super) replayed_bytes: u64,
    pub(super) last_timestamp_ms: i64,
    pub(super) has_torn_tail: bool,
    /// Nobody has formatted this directory.
    pub(super) is_new: bool,
    /// What formatting left for the first start.
    bootstrap: Option<Vec<MetadataRecord>>,
}

impl Inspected {
    /// Reads the log in `dir`; `own` is who would lead it.
    pub(crate) fn read(disk: &dyn Disk, dir: PathBuf, own: &Voter) -> Result<Self, MetadataError> {
        let (found, unreadable) = newest_checkpoint(disk, &dir)?;
        let has_checkpoint = found.is_some();
        let (id, checkpoint) = found.unwrap_or((
            CheckpointId { end_offset: Offset(0), epoch: LeaderEpoch(0) },
            Checkpoint::default(),
        ));
        let quorum_state = read_quorum_state(disk, &dir)?;
        let mut this = Self {
            replay: Replay::from_image(snapshot::image_of(id.end_offset, &checkpoint.records)),
            quorum: Quorum::of_checkpoint(&checkpoint),
            start: id.end_offset,
            end: id.end_offset,
            epoch: quorum_state.as_ref().map_or(id.epoch, |state| id.epoch.max(state.epoch)),
            quorum_state,
            replayed_bytes: 0,
            last_timestamp_ms: checkpoint.last_contained_log_timestamp_ms,
            has_torn_tail: false,
            is_new: false,
            bootstrap: None,
            dir,
        };
        this.read_segments(disk, unreadable)?;
        if let Some(QuorumForm::Static { voters, .. }) = this.quorum_state.as_ref().map(|state| &state.form)
            && !this.quorum.is_dynamic()
        {
            // Written at each start, before the leader's own record of them.
            this.quorum.electorate.clone_from(voters);
        }
        if this.replay.stable_image().is_empty() {
            this.bootstrap = read_bootstrap(disk, &this.dir)?;
        }
        this.is_new = !has_checkpoint
            && this.end == Offset(0)
            && this.quorum_state.is_none()
            && this.bootstrap.is_none();
        if !this.is_new {
            this.admit(own)?;
        }
        Ok(this)
    }

    /// What an empty log begins with, if formatting said so.
    pub(crate) fn take_bootstrap(&mut self) -> Option<Vec<MetadataRecord>> {
        self.bootstrap.take()
    }

    fn admit(&self, own: &Voter) -> Result<(), MetadataError> {
        let formatted;
        let image: &MetadataImage = match &self.bootstrap {
            Some(records) => {
                formatted = snapshot::image_of(Offset(0), records);
                &formatted
            }
            // A transaction that is open here will be aborted.
            None => self.replay.stable_image(),
        };
        admit(&self.quorum, image, own.node, own.directory)
            .map_err(|source| MetadataError::Refused { path: self.dir.clone(), source })
    }

    /// `unreadable` is why the newest snapshot was not used.
    fn read_segments(
        &mut self,
        disk: &dyn Disk,
        unreadable: Option<MetadataError>,
    ) -> Result<(), MetadataError> {
        let segments = segments(disk, &self.dir)?;
        let Some((first, _)) = segments.first() else { return unreadable.map_or(Ok(()), Err) };
        if *first > self.start {
            let gap = MetadataError::Gap { path: self.dir.clone(), first: *first };
            return Err(unreadable.unwrap_or(gap));
        }
        let mut next = *first;
        for (index, (base, path)) in segments.iter().enumerate() {
            let is_superseded = segments.get(index + 1).is_some_and(|(later, _)| *later <= self.start);
            if is_superseded {
                continue;
            }
            let file = disk.open(path, OpenMode::Read).map_err(|source| io_error("open", path, source))?;
            let len = file.len().map_err(|source| io_error("look at", path, source))?;
            let corrupt = |position, reason| MetadataError::Corrupt { path: path.clone(), position, reason };
            if *base != next && *base > self.start {
                return Err(corrupt(0, format!("it begins at offset {base} where {next} must follow")));
            }
            next = *base;
            let Some(fault) = self.read_segment(path, &*file, len, &mut next)? else { continue };
            let is_last = segments[index + 1..]
                .iter()
                .all(|(_, later)| disk.metadata(later).is_ok_and(|metadata| metadata.len_bytes == 0));
            let behind = examine_tail(&*file, fault.position, len, next)
                .map_err(|source| io_error("read", path, source))?;
            if !is_last || behind == TailKind::ValidBehind {
                return Err(corrupt(fault.position, fault.reason));
            }
            self.has_torn_tail = true;
            break;
        }
        self.end = next.max(self.start);
        self.replay.advance_to(self.end);
        Ok(())
    }

    /// Takes in a segment from the offset `next` on, which it moves; what no batch can be read from ends it.
    fn read_segment(
        &mut self,
        path: &Path,
        file: &dyn ReadAt,
        len: u64,
        next: &mut Offset,
    ) -> Result<Option<Fault>, MetadataError> {
        let mut position = 0;
        let mut read_bytes = READ_BYTES;
        while position < len {
            let left = len - position;
            let mut bytes = vec![0; read_bytes.min(left) as usize];
            let read =
                read_full_at(file, &mut bytes, position).map_err(|source| io_error("read", path, source))?;
            bytes.truncate(read);
            let region = Bytes::from(bytes);
            let before = position;
            read_bytes = READ_BYTES;
            for batch in decode_batches(&region) {
                let batch = match batch {
                    Ok(batch) => batch,
                    // The chunk ends within this batch, not the file: the next one begins with it.
                    Err(BatchDecodeError::Scan(ScanError::Torn { needed_bytes, .. }))
                        if needed_bytes as u64 <= len - position && (region.len() as u64) < left =>
                    {
                        read_bytes = READ_BYTES.max(needed_bytes as u64);
                        break;
                    }
                    Err(
                        error @ (BatchDecodeError::Scan(_)
                        | BatchDecodeError::Corrupt { .. }
                        | BatchDecodeError::Legacy { .. }),
                    ) => return Ok(Some(Fault { position, reason: reason(&error) })),
                    Err(source) => return Err(MetadataError::Unknown { path: path.to_owned(), source }),
                };
                if batch.base_offset != *next {
                    let reason = format!("offset {} where {next} must follow", batch.base_offset);
                    // The checksum does not cover the offset: where its bytes were not written it is too small.
                    if batch.base_offset < *next {
                        return Ok(Some(Fault { position, reason }));
                    }
                    return Err(MetadataError::Corrupt { path: path.to_owned(), position, reason });
                }
                position += batch.size_bytes as u64;
                *next = batch.end_offset;
                self.take_in(&batch);
            }
            // A file that shrinks is not ours alone.
            if position == before && read_bytes == READ_BYTES {
                let reason = "the file ends early".to_owned();
                return Ok(Some(Fault { position, reason }));
            }
        }
        Ok(None)
    }

    fn take_in(&mut self, batch: &DecodedBatch) {
        self.epoch = self.epoch.max(batch.epoch);
        if batch.end_offset <= self.start {
            return;
        }
        self.replayed_bytes += batch.size_bytes as u64;
        self.last_timestamp_ms = batch.max_timestamp_ms;
        match &batch.content {
            BatchContent::Records(records) => {
                // A batch may begin below the snapshot's end.
                for (offset, record) in records.iter().filter(|(offset, _)| *offset >= self.start) {
                    self.replay.apply(*offset, record);
                }
            }
            BatchContent::Control(records) => {
                records.iter().for_each(|(_, record)| self.quorum.take_in(record));
            }
        }
        self.replay.advance_to(batch.end_offset);
    }
}

/// Where a segment cannot be read any further.
struct Fault {
    position: u64,
    reason: String,
}

fn reason(error: &BatchDecodeError) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// The segments' base offsets and files, rising.
fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<(Offset, PathBuf)>, MetadataError> {
    let mut found: Vec<_> = names(disk, dir)?
        .into_iter()
        .filter_map(|name| {
            let digits = name.strip_suffix(".log")?;
            let is_number = digits.len() == NAME_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
            let base = digits.parse().ok().filter(|_| is_number)?;
            Some((Offset(base), dir.join(name)))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Every snapshot beside the log, the oldest first.
pub(super) fn checkpoints(disk: &dyn Disk, dir: &Path) -> Result<Vec<CheckpointId>, MetadataError> {
    let mut found: Vec<_> = names(disk, dir)?.iter().filter_map(|name| CheckpointId::parse(name)).collect();
    found.sort();
    Ok(found)
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, MetadataError> {
    match disk.list_dir(dir) {
        Ok(entries) => {
            Ok(entries.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(io_error("list", dir, source).into()),
    }
}

type Newest = (Option<(CheckpointId, Checkpoint)>, Option<MetadataError>);

/// The newest snapshot that can be read, and why a newer one cannot: an older one serves if the
/// log reaches back to it.
fn newest_checkpoint(disk: &dyn Disk, dir: &Path) -> Result<Newest, MetadataError> {
    let mut failure = None;
    for id in checkpoints(disk, dir)?.into_iter().rev() {
        let path = dir.join(id.file_name());
        match read_checkpoint(disk, &path)? {
            Ok(checkpoint) => return Ok((Some((id, checkpoint)), failure)),
            Err(source) => {
                tracing::warn!(path = %path.display(), error = %source, "cannot read a metadata snapshot");
                failure.get_or_insert(MetadataError::Snapshot { path, source });
            }
        }
    }
    Ok((None, failure))
}

/// A snapshot that is damaged is the caller's business; one that holds what is not known is nobody's.
fn read_checkpoint(
    disk: &dyn Disk,
    path: &Path,
) -> Result<Result<Checkpoint, CheckpointError>, MetadataError> {
    let bytes = disk.read_file(path, SNAPSHOT_BYTES_MAX).map_err(|source| io_error("read", path, source))?;
    match Checkpoint::decode(&Bytes::from(bytes)) {
        Err(CheckpointError::Batch(
            source @ (BatchDecodeError::Record { .. } | BatchDecodeError::Control { .. }),
        )) => Err(MetadataError::Unknown { path: path.to_owned(), source }),
        decoded => Ok(decoded),
    }
}

/// It lies beside the metadata log's directory, not in it.
fn read_bootstrap(disk: &dyn Disk, dir: &Path) -> Result<Option<Vec<MetadataRecord>>, MetadataError> {
    let path = dir.parent().unwrap_or(dir).join(BOOTSTRAP_CHECKPOINT);
    if !disk.exists(&path).map_err(|source| io_error("look at", &path, source))? {
        return Ok(None);
    }
    match read_checkpoint(disk, &path)? {
        Ok(checkpoint) => Ok(Some(checkpoint.records)),
        Err(source) => Err(MetadataError::Snapshot { path, source }),
    }
}

fn read_quorum_state(disk: &dyn Disk, dir: &Path) -> Result<Option<QuorumState>, MetadataError> {
    let path = dir.join(QUORUM_STATE);
    let bytes = match disk.read_file(&path, QUORUM_STATE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", &path, source).into()),
    };
    match QuorumState::parse(&String::from_utf8_lossy(&bytes)) {
        Ok(state) => Ok(Some(state)),
        Err(source) => Err(MetadataError::QuorumState { path, source }),
    }
}
