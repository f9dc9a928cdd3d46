//! Replays a partition of an internal topic into a new machine.
//!
//! Where it may block: every byte comes from the log, and is checked as for a reader.

use bytes::Bytes;
use klamm_coordinator::contract::{At, Coordinator};
use klamm_coordinator::record::{Codec, RecordError};
use klamm_log::{PartitionView, ReadError, end_marker};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::{
    BatchRewriter, RecordError as BatchRecordError, Scanned, StoredBatchError, scan_batches,
};

/// What one batch may expand to.
const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Why a partition cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("cannot read the log: {0}")]
    Io(#[from] std::io::Error),
    #[error("the batch at offset {offset}: {source}")]
    Batch { offset: Offset, source: StoredBatchError },
    #[error("a record of the batch at offset {offset}: {source}")]
    Record { offset: Offset, source: BatchRecordError },
    #[error("the record at offset {offset}: {source}")]
    Content { offset: Offset, source: RecordError },
}

/// What a partition says, and where its log ends.
pub(super) struct Loaded<C> {
    pub(super) machine: C,
    pub(super) end: Offset,
    pub(super) record_count: u64,
}

/// Replays all of `view`, about `buffer_bytes` at a time; a batch may be larger.
pub(super) fn load<C: Coordinator + Default>(
    view: &PartitionView,
    buffer_bytes: u32,
) -> Result<Loaded<C>, LoadError> {
    let mut machine = C::default();
    let mut rewriter = BatchRewriter::new();
    let mut record_count = 0;
    let (limits, _) = view.load();
    let mut next = limits.log_start;
    while next < limits.end.offset {
        let mut corrupt = Vec::new();
        let Some(region) = view.read_checked(next, limits.end, buffer_bytes, true, &mut corrupt)? else {
            break;
        };
        let bytes = region.read()?;
        let before = next;
        for entry in scan_batches(&bytes) {
            // The last one may be cut: the next read begins with it.
            let Ok(Scanned::Batch(batch)) = entry else { break };
            next = next.max(batch.header.next_offset());
            record_count += apply(&mut machine, &mut rewriter, &batch.header, batch.bytes)?;
        }
        if next == before {
            // Entries of formats before Kafka 0.11 that no coordinator wrote.
            break;
        }
    }
    Ok(Loaded { machine, end: limits.end.offset, record_count })
}

fn apply<C: Coordinator>(
    machine: &mut C,
    rewriter: &mut BatchRewriter,
    header: &klamm_protocol::records::BatchHeader,
    bytes: &[u8],
) -> Result<u64, LoadError> {
    let offset = header.base_offset;
    if header.attributes.is_control() {
        if let Some(marker) = end_marker(header, &Bytes::copy_from_slice(bytes)) {
            machine.end_transaction(header.producer_id, marker.is_commit);
        }
        return Ok(0);
    }
    let transaction = header.attributes.is_transactional().then_some(header.producer_id);
    let records = rewriter
        .records(header, bytes, DECOMPRESSED_BYTES_MAX)
        .map_err(|source| LoadError::Batch { offset, source })?;
    let mut count = 0;
    for record in records {
        let record = record.map_err(|source| LoadError::Record { offset, source })?;
        let copy = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        let decoded = C::Record::decode(copy(record.key), copy(record.value))
            .map_err(|source| LoadError::Content { offset: record.offset, source })?;
        if let Some(decoded) = decoded {
            machine.apply(At { offset: record.offset, transaction }, &decoded);
        }
        count += 1;
    }
    Ok(count)
}
