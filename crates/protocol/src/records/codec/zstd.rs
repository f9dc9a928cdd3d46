//! Zstandard frames, through contexts that are reused from batch to batch.

use ::zstd::compression_level_range;
use ::zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, compress_bound,
};

use super::CodecError;
use crate::records::scratch::{KEPT_BYTES_MAX, Window};

const NAME: &str = "zstd";
/// Decompressed bytes per piece: zstd's largest block.
const PIECE_BYTES: usize = 128 << 10;
/// 128 MiB, the largest window that the levels Kafka allows produce, and its readers' limit.
const WINDOW_LOG_MAX: u32 = 27;

pub(super) type DecompressContext = DCtx<'static>;
pub(super) type CompressContext = CCtx<'static>;

pub(super) struct Reader<'a> {
    context: &'a mut DecompressContext,
    input: InBuffer<'a>,
    is_between_frames: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        payload: &'a [u8],
        context: &'a mut Option<DecompressContext>,
    ) -> Result<Self, CodecError> {
        if payload.is_empty() {
            return Err(CodecError::Truncated(NAME));
        }
        let context = match context {
            Some(context) => context,
            None => {
                let created = DCtx::try_create().ok_or(CodecError::Corrupt(NAME, "no memory"))?;
                context.insert(created)
            }
        };
        // Whatever the last batch left half-read is dropped here.
        context
            .reset(ResetDirective::SessionOnly)
            .and_then(|_| context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)))
            .map_err(|_| CodecError::Corrupt(NAME, "context"))?;
        Ok(Self { context, input: InBuffer::around(payload), is_between_frames: false })
    }

    pub(super) fn fill(&mut self, window: &mut Window) -> Result<usize, CodecError> {
        loop {
            let is_input_read = self.input.pos == self.input.src.len();
            if is_input_read && self.is_between_frames {
                return Ok(0);
            }
            let space = &mut window.space(PIECE_BYTES)[..PIECE_BYTES];
            let mut out = OutBuffer::around(space);
            let hint = self
                .context
                .decompress_stream(&mut out, &mut self.input)
                .map_err(|_| CodecError::Corrupt(NAME, "frame"))?;
            let filled = out.pos();
            self.is_between_frames = hint == 0;
            if filled > 0 {
                window.commit(filled);
                return Ok(filled);
            }
            if is_input_read && !self.is_between_frames {
                return Err(CodecError::Truncated(NAME));
            }
        }
    }
}

pub(super) fn compress(level: i32, payload: &[u8], out: &mut Vec<u8>, context: &mut Option<CompressContext>) {
    let context = context.get_or_insert_with(CCtx::create);
    let levels = compression_level_range();
    context
        .set_parameter(CParameter::CompressionLevel(level.clamp(*levels.start(), *levels.end())))
        .expect("the level is within zstd's range");
    let start = out.len();
    out.resize(start + compress_bound(payload.len()), 0);
    let len =
        context.compress2(&mut out[start..], payload).expect("the space is what the compressor asked for");
    out.truncate(start + len);
}

/// Drops a context that a large window or level has made large.
pub(super) fn trim(decompress: &mut Option<DecompressContext>, compress: &mut Option<CompressContext>) {
    if decompress.as_ref().is_some_and(|context| context.sizeof() > 8 * KEPT_BYTES_MAX) {
        *decompress = None;
    }
    if compress.as_ref().is_some_and(|context| context.sizeof() > 8 * KEPT_BYTES_MAX) {
        *compress = None;
    }
}

/// The most that can come out of `payload`: its frames' content sizes, or what their blocks may hold.
pub(super) fn claimed_bytes(mut payload: &[u8]) -> Option<u64> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    const CHECKSUM: u8 = 0x04;
    let mut sum = 0u64;
    while !payload.is_empty() {
        if !payload.starts_with(&MAGIC) {
            return None;
        }
        let descriptor = *payload.get(4)?;
        let is_single = descriptor & 0x20 != 0;
        let size_bytes = match descriptor >> 6 {
            0 => usize::from(is_single),
            log => 1 << log,
        };
        let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size_at = 5 + usize::from(!is_single) + dictionary_bytes;
        let mut claimed = [0; 8];
        claimed[..size_bytes].copy_from_slice(payload.get(size_at..size_at + size_bytes)?);
        let claimed = u64::from_le_bytes(claimed) + if size_bytes == 2 { 256 } else { 0 };
        payload = &payload[size_at + size_bytes..];
        let mut most = 0u64;
        loop {
            let (head, rest) = payload.split_first_chunk::<3>()?;
            let head = u32::from_le_bytes([head[0], head[1], head[2], 0]);
            let size = (head >> 3) as usize;
            let (stored, holds) = match head >> 1 & 3 {
                0 => (size, size),
                1 => (1, size),
                _ => (size, PIECE_BYTES),
            };
            most += holds as u64;
            payload = rest.get(stored..)?;
            if head & 1 != 0 {
                break;
            }
        }
        if descriptor & CHECKSUM != 0 {
            payload = payload.get(4..)?;
        }
        sum = sum.saturating_add(if size_bytes > 0 { claimed.min(most) } else { most });
    }
    Some(sum)
}
