//! What one fetch request reads: partition by partition, within its limits.
//!
//! Reading finds regions of segment files and copies nothing of what lies in memory. What lies cold,
//! the index on the way to it included, or came from the disk and was not checked since, is left to
//! [`read_from_disk`], which may block. What it deliberately does not do: wait (that is the handler's), or decode records.
//!
//! **Invariants:** limits are loaded before segments; nothing above the limit of the
//! isolation level is returned; the first partition with records gives at least one
//! whole batch, however small the limits; a region that is answered was written or
//! checked by this process since it was last seen cold.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use klamm_log::disk::{Patience, Residency};
use klamm_log::{CheckedRead, Corruption, EpochEnd, FileRegion, Limits, LogPosition, ReadError};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{LeaderEpoch, Offset};

use super::rooms::{ROOMS_PER_REQUEST_MAX, Rooms};
use super::session::{FetchKey, FetchWanted};
use crate::partition::Partition;
use crate::partition::registry::{Missing, TopicIndex};

/// Regions up to this size are copied into the response: one system call less than sendfile
/// (measured: sendfile pays from about 16 KiB).
pub(crate) const COPY_BYTES_MAX: u32 = 16 * 1024;
/// Up to so much of a request that lies in memory unchecked is checked on this thread: 1 MiB takes
/// about as long as sending it (0.1 ms).
const CHECK_HERE_BYTES_MAX: u64 = 1024 * 1024;
/// This close to the end of the log a region was just written and is taken to be in memory.
const RECENT_BYTES: u64 = 8 * 1024 * 1024;

/// Up to where a reader may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// To the high watermark.
    ReadUncommitted,
    /// To the last stable offset, with the aborted transactions on the way.
    ReadCommitted,
    /// To the log's end: Kafka's debugging consumer (replica id -2).
    LogEnd,
}

/// The limits of a whole request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadLimits {
    pub(crate) isolation: Isolation,
    pub(crate) bytes_max: u64,
    pub(crate) uses_topic_ids: bool,
    /// `klamm.fetch.check.crcs=always`: also what was checked before.
    pub(crate) checks_always: bool,
}

/// What one partition gave.
#[derive(Debug)]
pub(crate) struct PartitionRead {
    pub(crate) error: ErrorCode,
    pub(crate) limits: Option<Limits>,
    pub(crate) region: Option<FileRegion>,
    /// What the region holds, if it was read past the page cache.
    pub(crate) bytes: Option<Bytes>,
    /// (producer id, first offset), for read committed.
    pub(crate) aborted: Option<Vec<(i64, i64)>>,
    pub(crate) diverging: Option<EpochEnd>,
}

/// What a request's partitions gave, in their order.
#[derive(Default)]
pub(crate) struct ReadResult {
    pub(crate) partitions: Vec<PartitionRead>,
    /// What was found, and as much as was wanted where it must be looked up on the disk.
    pub(crate) bytes: u64,
    /// An error or a diverging epoch: answered at once.
    pub(crate) is_urgent: bool,
    /// Partitions that are not here. They alone hurry nobody, or a consumer with a deleted topic
    /// in its assignment would ask in a loop (as in Kafka).
    pub(crate) unknown_count: usize,
    /// What must come from the disk, or be checked, before it is answered.
    pub(crate) from_disk: Vec<FromDisk>,
}

/// A partition that is to be read where that may block.
#[derive(Clone)]
pub(crate) struct FromDisk {
    /// Its place in the request.
    pub(crate) place: usize,
    partition: Arc<Partition>,
    want: FetchWanted,
    isolation: Isolation,
    bytes_left: u64,
    at_least_one: bool,
}

/// The partition that a key names.
pub(crate) fn find(
    index: &TopicIndex,
    key: &FetchKey,
    uses_topic_ids: bool,
) -> Result<Arc<Partition>, ErrorCode> {
    let topic = if uses_topic_ids {
        index.by_id(key.topic_id).ok_or(ErrorCode::UnknownTopicId)?
    } else {
        index.by_name(&key.topic).ok_or(ErrorCode::UnknownTopicOrPartition)?
    };
    topic.partition(key.partition).map_err(|missing| match missing {
        Missing::Unknown => ErrorCode::UnknownTopicOrPartition,
        Missing::Offline => ErrorCode::KafkaStorageError,
    })
}

/// Reads all partitions.
pub(crate) fn read_all(
    index: &TopicIndex,
    wanted: &[(FetchKey, FetchWanted)],
    limits: ReadLimits,
) -> ReadResult {
    let mut result = ReadResult { partitions: Vec::with_capacity(wanted.len()), ..Default::default() };
    let mut bytes_left = limits.bytes_max;
    let mut check_bytes_left = CHECK_HERE_BYTES_MAX;
    for (place, (key, want)) in wanted.iter().enumerate() {
        let found = find(index, key, limits.uses_topic_ids);
        let at_least_one = result.bytes == 0;
        let read = match &found {
            Ok(partition) => {
                read_one(partition, want, limits.isolation, bytes_left, at_least_one, look, None)
            }
            Err(error) => Ok(failed(*error, None)),
        };
        let (read, is_ready) = match read {
            Ok(read) => {
                let is_ready = match (&read.region, &found) {
                    (Some(region), Ok(partition)) => {
                        let always = limits.checks_always;
                        let knows_aborted = read.aborted.is_none() || partition.view.knows_aborted(region);
                        knows_aborted
                            && is_ready(
                                partition,
                                region,
                                read.limits.as_ref(),
                                always,
                                &mut check_bytes_left,
                            )
                    }
                    _ => true,
                };
                (read, is_ready)
            }
            // Nothing of it would fit: nobody need look.
            Err(MustLook { is_urgent: false }) if bytes_left == 0 && !at_least_one => {
                let of_partition = found.as_ref().ok().map(|partition| partition.view.limits());
                let aborted = (limits.isolation == Isolation::ReadCommitted).then(Vec::new);
                (PartitionRead { aborted, ..failed(ErrorCode::None, of_partition) }, true)
            }
            Err(MustLook { is_urgent }) => {
                result.is_urgent |= is_urgent;
                (failed(ErrorCode::None, None), false)
            }
        };
        if let (false, Ok(partition)) = (is_ready, found) {
            let (want, isolation) = (want.clone(), limits.isolation);
            result.from_disk.push(FromDisk { place, partition, want, isolation, bytes_left, at_least_one });
        }
        let len = match &read.region {
            Some(region) => u64::from(region.len_bytes),
            // Nobody knows yet: no less, or the partitions behind it would make the answer too large.
            None if !is_ready => u64::try_from(want.bytes_max).unwrap_or(0).min(bytes_left),
            None => 0,
        };
        result.bytes += len;
        bytes_left = bytes_left.saturating_sub(len);
        let is_unknown = matches!(read.error, ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId);
        result.unknown_count += usize::from(is_unknown);
        result.is_urgent |= read.error != ErrorCode::None && !is_unknown || read.diverging.is_some();
        result.partitions.push(read);
    }
    result
}

/// Reads what [`read_all`] left over, into `rooms` what lies cold, checks all of it, and tells the log of what
/// is corrupt. Blocks.
pub(crate) fn read_from_disk(rooms: &Arc<Rooms>, left: &[FromDisk]) -> Vec<(usize, PartitionRead)> {
    let mut rooms_left = ROOMS_PER_REQUEST_MAX;
    let read = |one: &FromDisk| {
        let (mut found, mut repaired) = (Vec::new(), Vec::new());
        let read = read_one(
            &one.partition,
            &one.want,
            one.isolation,
            one.bytes_left,
            one.at_least_one,
            |Partition { view, .. }, from, up_to, bytes_max, at_least_one| {
                let lent = if rooms_left > 0 { rooms.lend() } else { None };
                let Some(mut lent) = lent else {
                    let region = view.read_checked(from, up_to, bytes_max, at_least_one, &mut found)?;
                    return Ok(region.map(|region| (region, None)));
                };
                let read = view.read_into(from, up_to, bytes_max, at_least_one, lent.room(), &mut found)?;
                Ok(read.map(|CheckedRead { region, place }| {
                    let bytes = place.map(|place| match region.len_bytes {
                        ..=COPY_BYTES_MAX => Bytes::copy_from_slice(lent.room().bytes(place)),
                        _ => {
                            rooms_left -= 1;
                            lent.into_bytes(place)
                        }
                    });
                    (region, bytes)
                }))
            },
            Some(&mut repaired),
        );
        found.iter().for_each(|corruption| report(&one.partition, corruption));
        for path in repaired {
            tracing::warn!(path = %path.display(), "aborted transactions were not listed: listed anew");
        }
        // Looked for and not found: as unreadable as before.
        let read = read.unwrap_or_else(|MustLook { .. }| failed(ErrorCode::KafkaStorageError, None));
        (one.place, read)
    };
    left.iter().map(read).collect()
}

fn report(partition: &Partition, Corruption { path, range }: &Corruption) {
    tracing::error!(
        topic = %partition.topic, partition = %partition.index, path = %path.display(),
        position = range.position, len_bytes = range.len_bytes(), offset = %range.offset,
        readable_from = %range.end_offset, cause = range.cause,
        "corrupt: these offsets are answered with CORRUPT_MESSAGE; seek behind them, or restore the file"
    );
}

/// The disk must be looked at where that may block.
struct MustLook {
    /// Batches are not where they should be: looking for them may take a while, waiting is over.
    is_urgent: bool,
}

fn look(
    partition: &Partition,
    from: Offset,
    up_to: LogPosition,
    bytes_max: u32,
    at_least_one: bool,
) -> Result<Option<Found>, ReadError> {
    let region = partition.view.read_as(Patience::OnlyMemory, from, up_to, bytes_max, at_least_one)?;
    Ok(region.map(|region| (region, None)))
}

/// A region, and what it holds if it was read past the page cache.
type Found = (FileRegion, Option<Bytes>);

fn read_one(
    partition: &Partition,
    want: &FetchWanted,
    isolation: Isolation,
    bytes_left: u64,
    at_least_one: bool,
    by: impl FnOnce(&Partition, Offset, LogPosition, u32, bool) -> Result<Option<Found>, ReadError>,
    repaired: Option<&mut Vec<PathBuf>>,
) -> Result<PartitionRead, MustLook> {
    if let Err(error) = check_leader_epoch(partition, want.current_leader_epoch) {
        return Ok(failed(error, None));
    }
    let limits = partition.view.limits();
    let mut read = PartitionRead {
        error: ErrorCode::None,
        limits: Some(limits),
        region: None,
        bytes: None,
        aborted: (isolation == Isolation::ReadCommitted).then(Vec::new),
        diverging: None,
    };
    if want.last_fetched_epoch >= 0 {
        let known = partition.view.end_offset_for_epoch(LeaderEpoch(want.last_fetched_epoch));
        if known.leader_epoch.0 < 0 || known.end_offset.0 < 0 {
            return Ok(failed(ErrorCode::OffsetOutOfRange, None));
        }
        if known.leader_epoch.0 < want.last_fetched_epoch || known.end_offset.0 < want.fetch_offset {
            read.diverging = Some(known);
            return Ok(read);
        }
    }
    let up_to = match isolation {
        Isolation::ReadUncommitted => limits.high_watermark,
        Isolation::ReadCommitted => limits.last_stable,
        Isolation::LogEnd => limits.end,
    };
    // A negative limit of the client's reads as 0.
    let bytes_max = u64::try_from(want.bytes_max).unwrap_or(0).min(bytes_left);
    let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
    if want.fetch_offset < 0 {
        return Ok(failed(ErrorCode::OffsetOutOfRange, None));
    }
    let from = Offset(want.fetch_offset);
    match by(partition, from, up_to, bytes_max, at_least_one) {
        // A region of no bytes: the first batch exceeds what is left, and others were found before.
        Ok(found) => {
            (read.region, read.bytes) = found
                .filter(|(region, _)| region.len_bytes > 0)
                .map_or((None, None), |(region, bytes)| (Some(region), bytes));
        }
        Err(ReadError::Corrupt { .. }) => return Err(MustLook { is_urgent: true }),
        Err(error) if error.is_wait() => return Err(MustLook { is_urgent: false }),
        Err(error) => {
            let code = error_code(&error);
            if code == ErrorCode::KafkaStorageError {
                tracing::error!(topic = %partition.topic, partition = %partition.index, %error, "cannot read");
            }
            return Ok(failed(code, Some(limits).filter(|_| code != ErrorCode::OffsetOutOfRange)));
        }
    }
    if let (Some(aborted), Some(region)) = (&mut read.aborted, &read.region) {
        let patience = if repaired.is_some() { Patience::Waits } else { Patience::OnlyMemory };
        let checked = repaired
            .map_or(Ok(()), |repaired| partition.view.check_aborted(region, read.bytes.as_deref(), repaired));
        match checked.and_then(|()| partition.view.aborted_transactions_as(patience, from, region, up_to)) {
            Ok(found) => *aborted = found.iter().map(|txn| (txn.producer_id.0, txn.first_offset.0)).collect(),
            Err(ReadError::Corrupt { .. }) => return Err(MustLook { is_urgent: true }),
            Err(error) if error.is_wait() => return Err(MustLook { is_urgent: false }),
            Err(error) => return Ok(failed(error_code(&error), Some(limits))),
        }
    }
    Ok(read)
}

/// Fences a client that knows another leader epoch than this broker leads in (KIP-320).
pub(crate) fn check_leader_epoch(partition: &Partition, current_leader_epoch: i32) -> Result<(), ErrorCode> {
    let ours = partition.leader_epoch().0;
    match current_leader_epoch {
        -1 => Ok(()),
        theirs if theirs < ours => Err(ErrorCode::FencedLeaderEpoch),
        theirs if theirs > ours => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

fn failed(error: ErrorCode, limits: Option<Limits>) -> PartitionRead {
    PartitionRead { error, limits, region: None, bytes: None, aborted: None, diverging: None }
}

/// True if the region may be answered as it is: in memory, and checked.
fn is_ready(
    partition: &Partition,
    region: &FileRegion,
    limits: Option<&Limits>,
    checks_always: bool,
    check_bytes_left: &mut u64,
) -> bool {
    let is_recent = limits.is_some_and(|limits| {
        limits.end.segment_base == region.segment_base
            && u64::from(limits.end.position).saturating_sub(region.position) <= RECENT_BYTES
    });
    let is_checked = region.is_checked() && !checks_always;
    if is_recent && is_checked {
        return true;
    }
    let len = u64::from(region.len_bytes);
    match region.residency() {
        Residency::Cold => {
            region.forget_checked();
            false
        }
        _ if is_checked => true,
        Residency::Hot if len <= *check_bytes_left => {
            *check_bytes_left -= len;
            if checks_always {
                region.forget_checked();
            }
            partition.view.check(region)
        }
        Residency::Hot | Residency::Unknown => false,
    }
}

fn error_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Io { .. } => ErrorCode::KafkaStorageError,
        // Clients stop at it and say so; a storage error they would ask again, silently and for ever.
        ReadError::Corrupt { .. } | ReadError::Quarantined { .. } => ErrorCode::CorruptMessage,
        ReadError::Truncated { .. } => ErrorCode::OffsetNotAvailable,
    }
}
