//! What a control batch says: transaction markers, as far as the log must know them.
//!
//! Control records of other kinds (leader change, snapshot header and footer) are none of
//! its business and read as `None`, and so is a marker whose record compaction removed.

use bytes::Bytes;
use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchHeader, Codec, RecordIter};

use crate::producer::EndMarker;

const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// The marker in a control batch; `batch` is all of it.
pub fn end_marker(header: &BatchHeader, batch: &Bytes) -> Option<EndMarker> {
    if !header.attributes.is_control() || header.attributes.compression() != Ok(Codec::None) {
        return None;
    }
    let payload = batch.get(BATCH_HEADER_BYTES..)?;
    let record = RecordIter::new(header, payload).next()?.ok()?;
    // Key: version, type. Value: version, coordinator epoch.
    let kind = i16::from_be_bytes(record.key?.get(2..4)?.try_into().ok()?);
    let coordinator_epoch = i32::from_be_bytes(record.value?.get(2..6)?.try_into().ok()?);
    match kind {
        ABORT => Some(EndMarker { is_commit: false, coordinator_epoch }),
        COMMIT => Some(EndMarker { is_commit: true, coordinator_epoch }),
        _ => None,
    }
}
