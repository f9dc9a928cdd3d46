//! Bringing the producer state back: the newest intact snapshot, then the batches behind it.
//!
//! A snapshot holds only each producer's last batch, and five are needed to know a
//! duplicate: headers before it are read backwards until they are known, the producer's
//! first batch is reached, or [`RECALL_BYTES_MAX`] were looked at. Aborted transactions
//! behind the snapshot are listed anew from their markers, and those of any segment on demand.
//!
//! Invariant: a transaction stays open until its marker, as while the log was open; deleting its
//! first records, or all of them, ends nothing.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::ids::{Offset, ProducerId};
use klamm_protocol::records::BatchHeader;

use crate::disk::{Patience, read_full_at};
use crate::entry::{Entry, SCAN_BUFFER_BYTES, Walk, WalkError};
use crate::error::{LogError, ReadError};
use crate::files::{self, LOG};
use crate::limits::LogPosition;
use crate::marker::end_marker;
use crate::open::{CorruptPlace, OpenLog, RecoveryReport, read_failed, remove_if_there};
use crate::producer::{EndMarker, ProducerState, is_expired, list_snapshots, read_snapshot, snapshot_path};
use crate::segment::Segment;
use crate::transaction_index::AbortedTransaction;
use crate::verify::Corruption;
use crate::view::{PartitionView, Segments};

/// How far back batches are looked for; a producer whose last five batches lie further
/// apart may repeat an old one unnoticed, as with Kafka, which looks back for none.
const RECALL_BYTES_MAX: u64 = 4 << 20;
/// How much is walked forwards at once on the way back.
const RECALL_STEP_BYTES: u32 = 256 << 10;
/// A control batch holds one small record.
const CONTROL_BATCH_BYTES_MAX: u32 = 4096;

pub(crate) struct Rebuilt {
    pub state: ProducerState,
    pub last_snapshot: Offset,
    /// Snapshots behind it were not believed.
    pub trusted: Offset,
}

/// How often corruption in the way makes it begin anew, with the bad range left out, before a
/// segment that has more of it is checked as a whole.
const NARROW_ROUNDS_MAX: usize = 16;

/// The producer state at the view's end. Corrupt batches on the way are quarantined and left out.
pub(crate) fn rebuild(
    open: &OpenLog,
    view: &PartitionView,
    report: &mut RecoveryReport,
) -> Result<Rebuilt, LogError> {
    let mut rounds = 0;
    loop {
        let error = match rebuild_once(open, view, report) {
            Err(error @ LogError::Corrupt { .. }) => error,
            rebuilt => return rebuilt,
        };
        rounds += 1;
        quarantine(view, error, rounds > NARROW_ROUNDS_MAX, report)?;
    }
}

/// Quarantines what is corrupt where `error` says so, or in all of that segment.
///
/// # Errors
/// The same if nothing was found there that is not known.
fn quarantine(
    view: &PartitionView,
    error: LogError,
    is_wide: bool,
    report: &mut RecoveryReport,
) -> Result<(), LogError> {
    let LogError::Corrupt { path, position, .. } = &error else { return Err(error) };
    let segments = view.segments();
    let mut found = Vec::new();
    if let Some(segment) = segments.iter().find(|segment| segment.file().path() == path) {
        let at = u32::try_from(*position).unwrap_or(u32::MAX - 1);
        let range = if is_wide { 0..segment.size_bytes() } else { at..at + 1 };
        view.inspect(segment.file(), segment.base_offset(), &range, None, &mut found)
            .map_err(|error| read_failed(error, path))?;
    }
    if found.is_empty() {
        return Err(error);
    }
    report.corrupt.extend(found.into_iter().map(|Corruption { path, range }| CorruptPlace {
        path,
        position: u64::from(range.position),
        reason: range.cause,
    }));
    Ok(())
}

/// Where the batch with `offset` begins; if that cannot be read, where the last one before it ends.
pub(crate) fn readable_position(
    view: &PartitionView,
    dir: &Path,
    offset: Offset,
    report: &mut RecoveryReport,
) -> Result<LogPosition, LogError> {
    loop {
        let error = match view.position_of(offset) {
            Err(ReadError::Quarantined { range, .. }) => {
                let segments = view.segments();
                let segment_base = segments[segments.floor(offset)].base_offset();
                return Ok(LogPosition { offset: range.offset, segment_base, position: range.position });
            }
            Err(error) => read_failed(error, dir),
            Ok(found) if found.offset <= offset || found.position == 0 => return Ok(found),
            // Compaction left a gap, or the batch before it is not where it was written.
            Ok(found) => {
                let path = files::segment_file(dir, found.segment_base, LOG);
                let position = u64::from(found.position - 1);
                let reason = "no batch has the offset".to_owned();
                match quarantine(view, LogError::Corrupt { path, position, reason }, false, report) {
                    Err(LogError::Corrupt { .. }) => return Ok(found),
                    looked => looked?,
                }
                continue;
            }
        };
        quarantine(view, error, false, report)?;
    }
}

fn rebuild_once(
    open: &OpenLog,
    view: &PartitionView,
    report: &mut RecoveryReport,
) -> Result<Rebuilt, LogError> {
    let (limits, segments) = view.load();
    let mut state = ProducerState::default();
    // A snapshot behind the recovery point may have outlived what it stands for: the transaction
    // index up to it.
    let durable = if open.was_clean { limits.end.offset } else { open.recovery_point.min(limits.end.offset) };
    let found = newest_snapshot(open, durable, report)?;
    // All that the files have counts, also what lies below the log start: markers there end transactions.
    let first_base = segments[0].base_offset();
    let mut from = first_base;
    let mut last_snapshot = Offset(-1);
    if let Some((offset, entries)) = found {
        last_snapshot = offset;
        from = offset.max(first_base);
        for (id, mut entry) in entries {
            if is_expired(&entry, open.now.0, open.config.producer_id_expiration_ms) {
                continue;
            }
            if offset < first_base {
                // Its marker may have gone with what lay in between. Records of it that are left open it anew.
                entry.current_txn_first_offset = None;
            }
            let first = match entry.current_txn_first_offset {
                Some(first) => Some(transaction_start(view, &open.dir, first, report)?),
                None => None,
            };
            state.restore(id, entry, first);
        }
        if !state.is_empty() {
            recall(&mut state, &segments, from)?;
        }
    }
    // After a kill the transaction index may list markers that the log has lost.
    if from < limits.end.offset || !open.was_clean {
        replay(&mut state, &segments, from)?;
    }
    state.expire(open.now.0, open.config.producer_id_expiration_ms);
    Ok(Rebuilt { state, last_snapshot, trusted: durable })
}

/// Where a transaction begins; if its head is deleted or cannot be read, the place before what is left.
fn transaction_start(
    view: &PartitionView,
    dir: &Path,
    first: Offset,
    report: &mut RecoveryReport,
) -> Result<LogPosition, LogError> {
    let at = readable_position(view, dir, first.max(view.limits().log_start), report)?;
    Ok(LogPosition { offset: first, ..at })
}

type Entries = Vec<(ProducerId, crate::producer::ProducerEntry)>;

fn newest_snapshot(
    open: &OpenLog,
    end: Offset,
    report: &mut RecoveryReport,
) -> Result<Option<(Offset, Entries)>, LogError> {
    let offsets = list_snapshots(&*open.disk, &open.dir).map_err(LogError::io("list", &open.dir))?;
    for offset in offsets.into_iter().rev().filter(|offset| *offset <= end) {
        let path = snapshot_path(&open.dir, offset);
        match read_snapshot(&*open.disk, &path).map_err(LogError::io("read", &path))? {
            Some(entries) => return Ok(Some((offset, entries))),
            None => {
                remove_if_there(&*open.disk, &path)?;
                report.bad_snapshots.push(path);
            }
        }
    }
    Ok(None)
}

/// Applies every batch from `from` to the end, and lists the aborted transactions there anew.
fn replay(state: &mut ProducerState, segments: &Segments, from: Offset) -> Result<(), LogError> {
    for segment in &segments[segments.floor(from)..] {
        let path = segment.file().path();
        let failed = |error: WalkError| error.into_log_error(path);
        let first = segment.locate(from, segment.size_bytes()).map_err(failed)?;
        let start = first.map_or(segment.size_bytes(), |first| first.position);
        let aborted = apply_all(state, segment, start, segment.size_bytes()).map_err(failed)?;
        let io = |source| LogError::Io { action: "rebuild the .txnindex of", path: path.to_owned(), source };
        let known = segment.transactions.entries().map_err(io)?;
        let relisted_from = first.map_or(from, |first| first.base_offset);
        let mut listed: Vec<AbortedTransaction> =
            known.iter().filter(|entry| entry.last_offset < relisted_from).copied().collect();
        listed.extend(aborted);
        if listed != **known {
            segment.transactions.replace(listed).map_err(io)?;
        }
        if start == 0 {
            segment.transactions.note_all_checked();
        }
    }
    Ok(())
}

/// The aborted transactions whose markers lie in the segment at `index` before `limit`, from the
/// newest snapshot before it.
pub(crate) fn aborted_in(
    segments: &Segments,
    index: usize,
    limit: u32,
    log_start: Offset,
) -> Result<Vec<AbortedTransaction>, LogError> {
    let segment = &segments[index];
    let (disk, dir) = (segment.transactions.disk(), segment.transactions.path().parent());
    let dir = dir.expect("a segment lies in a directory");
    let mut state = ProducerState::default();
    let mut first = segments.floor(log_start);
    let offsets = list_snapshots(&**disk, dir).map_err(LogError::io("list", dir))?;
    // At a segment's base: there replaying can begin.
    for earlier in (first..=index).rev() {
        let base = segments[earlier].base_offset();
        if offsets.binary_search(&base).is_err() {
            continue;
        }
        let path = snapshot_path(dir, base);
        if let Some(entries) = read_snapshot(&**disk, &path).map_err(LogError::io("read", &path))? {
            for (id, entry) in entries {
                let open = entry.current_txn_first_offset;
                state.restore(id, entry, open.map(|offset| LogPosition { offset, ..LogPosition::default() }));
            }
            first = earlier;
            break;
        }
    }
    let mut aborted = Vec::new();
    for (at, segment) in segments.iter().enumerate().take(index + 1).skip(first) {
        let limit = if at == index { limit } else { segment.size_bytes() };
        aborted = apply_all(&mut state, segment, 0, limit)
            .map_err(|error| error.into_log_error(segment.file().path()))?;
    }
    Ok(aborted)
}

/// Applies the batches between two positions; gives the aborted transactions that end there.
fn apply_all(
    state: &mut ProducerState,
    segment: &Arc<Segment>,
    start: u32,
    limit: u32,
) -> Result<Vec<AbortedTransaction>, WalkError> {
    let mut aborted = Vec::new();
    walk_headers(segment, start, limit, |walk, entry, header| {
        let marker = read_marker(walk, entry, header)?;
        let first = LogPosition {
            offset: entry.base_offset,
            segment_base: segment.base_offset(),
            position: entry.position,
        };
        if let Some(done) = state.apply(header, first, marker.as_ref()).filter(|done| done.is_aborted) {
            aborted.push(AbortedTransaction {
                producer_id: done.producer_id,
                first_offset: done.first_offset,
                last_offset: done.last_offset,
                last_stable_offset: done.last_stable_offset,
            });
        }
        Ok(())
    })?;
    Ok(aborted)
}

/// Reads headers backwards from `from` until every producer's batches are known.
fn recall(state: &mut ProducerState, segments: &Segments, from: Offset) -> Result<(), LogError> {
    let mut wanted: Vec<ProducerId> = state.iter().map(|(id, _)| id).collect();
    let mut left_bytes = RECALL_BYTES_MAX;
    for segment in segments[..=segments.floor(from)].iter().rev() {
        let failed = |error: WalkError| error.into_log_error(segment.file().path());
        let size = segment.size_bytes();
        let mut end = segment.locate(from, size).map_err(failed)?.map_or(size, |entry| entry.position);
        while end > 0 {
            let io = |source| failed(WalkError::Io { position: u64::from(end), source });
            let target = end.saturating_sub(RECALL_STEP_BYTES);
            let floor = segment.offset_index.floor_by_position(target, Patience::Waits).map_err(io)?;
            let start = floor.map_or(0, |entry| entry.position).min(target);
            let mut headers: Vec<BatchHeader> = Vec::new();
            walk_headers(segment, start, end, |_, _, header| {
                if !header.attributes.is_control() {
                    headers.push(*header);
                }
                Ok(())
            })
            .map_err(failed)?;
            for header in headers.iter().rev() {
                if let Some(entry) = state.get_mut(header.producer_id) {
                    entry.recall_batch(header);
                }
            }
            wanted.retain(|id| state.get(*id).is_some_and(|entry| !entry.is_complete()));
            left_bytes = left_bytes.saturating_sub(u64::from(end - start));
            if wanted.is_empty() || left_bytes == 0 {
                return Ok(());
            }
            end = start;
        }
    }
    Ok(())
}

/// Calls `each` for every batch with a producer id between two positions.
fn walk_headers(
    segment: &Arc<Segment>,
    start: u32,
    limit: u32,
    mut each: impl FnMut(&Walk<'_>, &Entry, &BatchHeader) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    let file = segment.file().get().map_err(|source| WalkError::Io { position: u64::from(start), source })?;
    let mut buffer = vec![0; SCAN_BUFFER_BYTES];
    let mut walk = segment.walk(&*file, start, limit, &mut buffer);
    while let Some(entry) = walk.next()? {
        if let Some(header) = entry.header.filter(BatchHeader::has_producer_id) {
            each(&walk, &entry, &header)?;
        }
    }
    Ok(())
}

pub(crate) fn read_marker(
    walk: &Walk<'_>,
    entry: &Entry,
    header: &BatchHeader,
) -> Result<Option<EndMarker>, WalkError> {
    if !header.attributes.is_control() || entry.size_bytes > CONTROL_BATCH_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; entry.size_bytes as usize];
    let position = u64::from(entry.position);
    read_full_at(walk.file(), &mut bytes, position).map_err(|source| WalkError::Io { position, source })?;
    Ok(end_marker(header, &Bytes::from(bytes)))
}
