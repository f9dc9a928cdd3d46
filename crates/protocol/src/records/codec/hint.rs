//! What a compressed payload would grow to, read from its framing alone.

use super::{Codec, lz4, snappy, zstd};

/// About how many bytes `payload` decompresses to, without decompressing it: an upper
/// bound for snappy, LZ4 and zstd, the writer's claim for gzip. For choosing where to
/// do the work; the cap of the decompression itself is what protects memory.
///
/// A payload whose framing cannot be read gives its own length: it fails at once.
#[must_use]
pub fn decompressed_bytes_hint(codec: Codec, payload: &[u8]) -> u64 {
    let claimed = match codec {
        Codec::None => None,
        // The last member's size, modulo 4 GiB.
        Codec::Gzip => payload.last_chunk::<4>().map(|size| u64::from(u32::from_le_bytes(*size))),
        Codec::Snappy => snappy::claimed_bytes(payload),
        Codec::Lz4 => lz4::claimed_bytes(payload),
        Codec::Zstd => zstd::claimed_bytes(payload),
    };
    claimed.unwrap_or(payload.len() as u64)
}
