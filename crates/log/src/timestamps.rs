//! Finding offsets by timestamp, as ListOffsets asks.
//!
//! A segment is chosen by its largest timestamp, a place in it by the time index, the batch
//! by its header, and only in that batch are records read. Earliest and latest need no
//! search: they are limits.

use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::ids::{LeaderEpoch, Offset};
use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchHeader, RecordIter, Scratch, decompress};

use crate::disk::{Patience, read_full_at};
use crate::entry::{Entry, SCAN_BUFFER_BYTES, Walk, WalkError};
use crate::error::ReadError;
use crate::limits::LogPosition;
use crate::segment::Segment;
use crate::view::{PartitionView, io_error, limit_in};

/// What one batch may expand to while its timestamps are looked through.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: i64,
    /// The epoch of the batch; -1 if it has none.
    pub leader_epoch: LeaderEpoch,
}

impl PartitionView {
    /// The first record below `up_to` whose timestamp is at or above `timestamp`.
    pub fn offset_for_timestamp(
        &self,
        timestamp: i64,
        up_to: LogPosition,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        self.look_at(|limits, segments| {
            let up_to = if up_to.offset > limits.end.offset { limits.end } else { up_to };
            for segment in &segments[segments.floor(limits.log_start)..] {
                let limit = limit_in(segment, up_to);
                if limit == 0 || segment.max_timestamp().map_err(|e| io_error(segment, e))? < timestamp {
                    continue;
                }
                let found = search(segment, timestamp, limits.log_start, limit);
                match found.map_err(|error| error.into_read_error(segment.file().path()))? {
                    Some(found) if found.offset < up_to.offset => return Ok(Some(found)),
                    _ => {}
                }
            }
            Ok(None)
        })
    }

    /// The first record with the largest timestamp (ListOffsets -3, KIP-734), if it lies
    /// below `up_to` and any record has a timestamp.
    pub fn max_timestamp(&self, up_to: LogPosition) -> Result<Option<TimestampOffset>, ReadError> {
        self.look_at(|limits, segments| {
            let mut largest: Option<(i64, &Arc<Segment>)> = None;
            for segment in &segments[segments.floor(limits.log_start)..] {
                let timestamp = segment.max_timestamp().map_err(|e| io_error(segment, e))?;
                if timestamp >= 0 && largest.is_none_or(|(before, _)| timestamp > before) {
                    largest = Some((timestamp, segment));
                }
            }
            let Some((timestamp, segment)) = largest else { return Ok(None) };
            let limit = limit_in(segment, if up_to.offset > limits.end.offset { limits.end } else { up_to });
            let found = search(segment, timestamp, limits.log_start, limit)
                .map_err(|error| error.into_read_error(segment.file().path()))?;
            Ok(found.filter(|found| found.offset < up_to.offset))
        })
    }
}

fn search(
    segment: &Segment,
    timestamp: i64,
    from: Offset,
    limit: u32,
) -> Result<Option<TimestampOffset>, WalkError> {
    let io = |source| WalkError::Io { position: 0, source };
    // Up to the floor's batch every timestamp is at most the floor's.
    let known = segment.time_index.floor(timestamp).and_then(|entry| segment.confirmed(entry)).map_err(io)?;
    let relative = known.map_or(0, |entry| entry.relative_offset);
    let start =
        segment.offset_index.floor(relative, Patience::Waits).map_err(io)?.map_or(0, |entry| entry.position);
    let found = search_from(segment, timestamp, from, start, limit);
    match found {
        // A wrong index leads past the place or between batches: it is only a proposal.
        Ok(None) | Err(WalkError::Invalid { .. } | WalkError::Torn { .. }) if start > 0 => {
            search_from(segment, timestamp, from, 0, limit)
        }
        found => found,
    }
}

fn search_from(
    segment: &Segment,
    timestamp: i64,
    from: Offset,
    start: u32,
    limit: u32,
) -> Result<Option<TimestampOffset>, WalkError> {
    let file = segment.file().get().map_err(|source| WalkError::Io { position: 0, source })?;
    let mut buffer = vec![0; SCAN_BUFFER_BYTES.min(limit as usize).max(BATCH_HEADER_BYTES)];
    let mut walk = segment.walk(&*file, start, limit, &mut buffer);
    let mut before = segment.base_offset();
    while let Some(entry) = walk.next()? {
        if entry.max_timestamp >= timestamp && entry.last_offset >= from {
            let found = match &entry.header {
                Some(header) => first_record(&walk, &entry, header, timestamp, from)?,
                // Offsets inside a compressed set of the old formats are not known without
                // reading it: the lowest possible one loses nothing.
                None => Some(TimestampOffset {
                    offset: before.max(from),
                    timestamp: entry.max_timestamp,
                    leader_epoch: LeaderEpoch(-1),
                }),
            };
            if found.is_some() {
                // Nothing covers its offset but the batch behind it.
                return match walk.next() {
                    Ok(Some(next)) if entry.header.is_some() && next.base_offset <= entry.last_offset => {
                        let position = u64::from(entry.position);
                        let reason =
                            format!("offset {} before offset {}", entry.last_offset, next.base_offset);
                        Err(WalkError::Invalid { position, reason })
                    }
                    _ => Ok(found),
                };
            }
        }
        before = entry.next_offset();
    }
    Ok(None)
}

fn first_record(
    walk: &Walk<'_>,
    entry: &Entry,
    header: &BatchHeader,
    timestamp: i64,
    from: Offset,
) -> Result<Option<TimestampOffset>, WalkError> {
    let position = u64::from(entry.position);
    let invalid = |reason: String| WalkError::Invalid { position, reason };
    if !walk.is_intact(entry).map_err(|source| WalkError::Io { position, source })? {
        return Err(invalid("a wrong CRC".to_owned()));
    }
    let batch = match walk.buffered_bytes(entry) {
        Some(bytes) => Bytes::copy_from_slice(bytes),
        None => {
            // `Walk` has seen that the file holds so many bytes.
            let mut bytes = vec![0; entry.size_bytes as usize];
            let read = read_full_at(walk.file(), &mut bytes, position)
                .map_err(|source| WalkError::Io { position, source })?;
            if read < bytes.len() {
                return Err(WalkError::Torn { position });
            }
            Bytes::from(bytes)
        }
    };
    let codec = header.attributes.compression().map_err(|error| invalid(error.to_string()))?;
    let payload = batch.slice(BATCH_HEADER_BYTES..);
    let payload = decompress(codec, &payload, DECOMPRESSED_BYTES_MAX, &mut Scratch::new())
        .map_err(|error| invalid(error.to_string()))?;
    for record in RecordIter::new(header, &payload) {
        let record = record.map_err(|error| invalid(error.to_string()))?;
        if record.timestamp >= timestamp && record.offset >= from {
            return Ok(Some(TimestampOffset {
                offset: record.offset,
                timestamp: record.timestamp,
                leader_epoch: header.leader_epoch,
            }));
        }
    }
    Ok(None)
}
