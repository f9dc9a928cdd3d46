//! Rewrites a batch that cannot be stored as it came: another codec, or inner offsets
//! that do not run 0, 1, 2, .. as some old clients wrote them.

use bytes::Bytes;

use super::builder::seal;
use super::codec::{self, Codec, CodecError};
use super::header::{BATCH_HEADER_BYTES, BatchHeader};
use super::record::{RecordError, SliceSource, Source, parse_record};
use super::scratch::Scratch;
use super::varint;

/// From what to what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub source: Codec,
    pub target: Codec,
    pub level: i32,
    pub are_offsets_dense: bool,
}

/// `batch`, whose records have been checked and take `payload_bytes` uncompressed, in the
/// plan's codec and with dense offsets.
pub(super) fn rebuild(
    batch: &Bytes,
    header: &BatchHeader,
    plan: Plan,
    payload_bytes: u64,
    scratch: &mut Scratch,
) -> Result<Bytes, CodecError> {
    let body = batch.slice(BATCH_HEADER_BYTES..);
    let plain = codec::decompress(plan.source, &body, payload_bytes as usize, scratch)?;
    let dense = if plan.are_offsets_dense {
        plain
    } else {
        Bytes::from(with_dense_offsets(&plain, header.record_count).expect("the records have been checked"))
    };
    let mut out = vec![0; BATCH_HEADER_BYTES];
    codec::compress(plan.target, plan.level, &dense, &mut out, scratch);
    Ok(seal(header.attributes.with_compression(plan.target), *header, out))
}

fn with_dense_offsets(plain: &[u8], record_count: i32) -> Result<Vec<u8>, RecordError> {
    // An offset delta grows by at most four bytes, and few records by any.
    let mut out = Vec::with_capacity(plain.len() + plain.len() / 16);
    let mut source = SliceSource::new(plain);
    for index in 0..record_count {
        let record = parse_record(&mut source)?;
        // Key, value and headers stay the bytes they are.
        let rest = &plain[record.key_start as usize..source.position() as usize];
        let prefix_bytes = 1 + varint::size_i64(record.timestamp_delta) + varint::size_i32(index);
        let length = i32::try_from(prefix_bytes + rest.len()).expect("a record that was read is below 2 GiB");
        varint::write_i32(&mut out, length);
        out.push(0);
        varint::write_i64(&mut out, record.timestamp_delta);
        varint::write_i32(&mut out, index);
        out.extend_from_slice(rest);
    }
    Ok(out)
}
