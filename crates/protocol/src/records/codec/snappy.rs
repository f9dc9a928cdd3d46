//! Snappy as Java clients frame it: snappy-java's stream of length-prefixed blocks.
//!
//! A payload without that stream's magic is one raw snappy block, which some versions
//! of librdkafka and other clients send and which Java's reader accepts.

use super::CodecError;
use crate::records::scratch::Window;

const NAME: &str = "snappy";
const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Magic, version and lowest compatible version, big-endian.
const HEADER_BYTES: usize = 16;
/// The block size Kafka's Java client writes.
const BLOCK_BYTES: usize = 32 << 10;
/// A copy of 64 bytes takes 3: no block grows by more.
const EXPANSION_MAX: usize = 22;

pub(super) struct Reader<'a> {
    input: &'a [u8],
    is_framed: bool,
}

pub(super) enum Filled {
    Bytes(usize),
    /// The next block is larger than what may still come.
    NoRoom,
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Result<Self, CodecError> {
        if payload.is_empty() {
            return Err(CodecError::Truncated(NAME));
        }
        let is_framed = payload.starts_with(&MAGIC);
        let input = if is_framed { skip_header(payload)? } else { payload };
        Ok(Self { input, is_framed })
    }

    pub(super) fn fill(&mut self, window: &mut Window, room: usize) -> Result<Filled, CodecError> {
        loop {
            if self.input.is_empty() {
                return Ok(Filled::Bytes(0));
            }
            // Streams may be concatenated.
            if self.is_framed && self.input.starts_with(&MAGIC) {
                self.input = skip_header(self.input)?;
                continue;
            }
            let block = self.next_block()?;
            let len = snap::raw::decompress_len(block).map_err(|_| CodecError::Corrupt(NAME, "length"))?;
            if len > block.len().saturating_mul(EXPANSION_MAX) {
                return Err(CodecError::Corrupt(NAME, "length"));
            }
            if len > room {
                return Ok(Filled::NoRoom);
            }
            let filled = snap::raw::Decoder::new()
                .decompress(block, window.space(len))
                .map_err(|_| CodecError::Corrupt(NAME, "block"))?;
            if filled > 0 {
                window.commit(filled);
                return Ok(Filled::Bytes(filled));
            }
        }
    }

    fn next_block(&mut self) -> Result<&'a [u8], CodecError> {
        if !self.is_framed {
            return Ok(std::mem::take(&mut self.input));
        }
        let (len, rest) = self.input.split_first_chunk::<4>().ok_or(CodecError::Truncated(NAME))?;
        let len = usize::try_from(i32::from_be_bytes(*len))
            .map_err(|_| CodecError::Corrupt(NAME, "block length"))?;
        let (block, rest) = rest.split_at_checked(len).ok_or(CodecError::Truncated(NAME))?;
        self.input = rest;
        Ok(block)
    }
}

fn skip_header(input: &[u8]) -> Result<&[u8], CodecError> {
    let (head, rest) = input.split_first_chunk::<HEADER_BYTES>().ok_or(CodecError::Truncated(NAME))?;
    if i32::from_be_bytes([head[8], head[9], head[10], head[11]]) < 1 {
        return Err(CodecError::Corrupt(NAME, "version"));
    }
    Ok(rest)
}

/// What the blocks of `payload` claim to hold.
pub(super) fn claimed_bytes(payload: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(payload).ok()?;
    let mut sum = 0u64;
    while !reader.input.is_empty() {
        if reader.is_framed && reader.input.starts_with(&MAGIC) {
            reader.input = skip_header(reader.input).ok()?;
            continue;
        }
        sum = sum.saturating_add(snap::raw::decompress_len(reader.next_block().ok()?).ok()? as u64);
    }
    Some(sum)
}

pub(super) fn compress(payload: &[u8], out: &mut Vec<u8>, encoder: &mut Option<snap::raw::Encoder>) {
    let encoder = encoder.get_or_insert_with(snap::raw::Encoder::new);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    for block in payload.chunks(BLOCK_BYTES) {
        let start = out.len();
        out.resize(start + 4 + snap::raw::max_compress_len(block.len()), 0);
        let len =
            encoder.compress(block, &mut out[start + 4..]).expect("the space is what the encoder asked for");
        out[start..start + 4].copy_from_slice(&(len as i32).to_be_bytes());
        out.truncate(start + 4 + len);
    }
}
