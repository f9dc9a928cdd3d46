//! LZ4 frames. The frame is read and written here and C's lz4 does the blocks, so
//! that a batch needs no frame context and no copy between buffers.
//!
//! As Kafka: blocks must be independent, dictionaries are not used, one frame a batch.

use ::lz4::block::{self, CompressionMode};

use super::CodecError;
use super::xxh32::{Xxh32, xxh32};
use crate::records::scratch::Window;

const NAME: &str = "lz4";
const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

const FLAG_VERSION: u8 = 0x40;
const FLAG_INDEPENDENT: u8 = 0x20;
const FLAG_BLOCK_CHECKSUM: u8 = 0x10;
const FLAG_CONTENT_SIZE: u8 = 0x08;
const FLAG_CONTENT_CHECKSUM: u8 = 0x04;
const FLAGS_VERSION_MASK: u8 = 0xc0;
/// One reserved bit, and the dictionary id, which Kafka calls reserved.
const FLAGS_REFUSED: u8 = 0x03;

/// In a block's length: the block is stored as it is.
const STORED: u32 = 1 << 31;
/// The block size Kafka writes: number 4, 64 KiB.
const WRITE_BLOCK_ID: u8 = 4;
const WRITE_BLOCK_BYTES: usize = 64 << 10;
/// Kafka's level 9, its default, is the fast compressor; every other level is LZ4 HC's.
const LEVEL_FAST: i32 = 9;

/// What a frame's header says.
pub(super) struct Frame {
    flags: u8,
    pub(super) block_bytes_max: usize,
    pub(super) content_bytes: Option<u64>,
}

pub(super) struct Reader<'a> {
    frame: Frame,
    input: &'a [u8],
    content: Option<Xxh32>,
    content_bytes: u64,
    is_done: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Result<Self, CodecError> {
        let (frame, input) = read_header(payload)?;
        let content = (frame.flags & FLAG_CONTENT_CHECKSUM != 0).then(Xxh32::new);
        Ok(Self { frame, input, content, content_bytes: 0, is_done: false })
    }

    pub(super) fn fill(&mut self, window: &mut Window) -> Result<usize, CodecError> {
        while !self.is_done {
            let Some((is_stored, data)) = next_block(&self.frame, &mut self.input)? else {
                self.finish()?;
                self.is_done = true;
                break;
            };
            if self.frame.flags & FLAG_BLOCK_CHECKSUM != 0 && take_u32(&mut self.input)? != xxh32(data) {
                return Err(CodecError::Corrupt(NAME, "block checksum"));
            }
            let space = &mut window.space(self.frame.block_bytes_max)[..self.frame.block_bytes_max];
            let filled = if is_stored {
                space[..data.len()].copy_from_slice(data);
                data.len()
            } else {
                block::decompress_to_buffer(data, Some(space.len() as i32), space)
                    .map_err(|_| CodecError::Corrupt(NAME, "block"))?
            };
            if let Some(content) = &mut self.content {
                content.update(&space[..filled]);
            }
            self.content_bytes += filled as u64;
            if filled > 0 {
                window.commit(filled);
                return Ok(filled);
            }
        }
        Ok(0)
    }

    fn finish(&mut self) -> Result<(), CodecError> {
        if let Some(content) = &self.content
            && take_u32(&mut self.input)? != content.finish()
        {
            return Err(CodecError::Corrupt(NAME, "content checksum"));
        }
        if self.frame.content_bytes.is_some_and(|claimed| claimed != self.content_bytes) {
            return Err(CodecError::Corrupt(NAME, "content size"));
        }
        if !self.input.is_empty() {
            return Err(CodecError::Corrupt(NAME, "bytes behind the frame"));
        }
        Ok(())
    }
}

pub(super) fn read_header(payload: &[u8]) -> Result<(Frame, &[u8]), CodecError> {
    let corrupt = |what| CodecError::Corrupt(NAME, what);
    let (head, _) = payload.split_first_chunk::<6>().ok_or(CodecError::Truncated(NAME))?;
    let (flags, descriptor) = (head[4], head[5]);
    if head[..4] != MAGIC {
        return Err(corrupt("magic"));
    }
    if flags & FLAGS_VERSION_MASK != FLAG_VERSION || flags & FLAGS_REFUSED != 0 {
        return Err(corrupt("flags"));
    }
    if flags & FLAG_INDEPENDENT == 0 {
        return Err(corrupt("linked blocks, which Kafka's clients cannot read"));
    }
    let block_bytes_max = match descriptor {
        0x40 => 64 << 10,
        0x50 => 256 << 10,
        0x60 => 1 << 20,
        0x70 => 4 << 20,
        _ => return Err(corrupt("block size")),
    };
    let has_size = flags & FLAG_CONTENT_SIZE != 0;
    let end = if has_size { 14 } else { 6 };
    let checksum = *payload.get(end).ok_or(CodecError::Truncated(NAME))?;
    if checksum != (xxh32(&payload[4..end]) >> 8) as u8 {
        return Err(corrupt("header checksum"));
    }
    let content_bytes = has_size.then(|| u64::from_le_bytes(payload[6..14].try_into().expect("eight bytes")));
    Ok((Frame { flags, block_bytes_max, content_bytes }, &payload[end + 1..]))
}

/// The next block, and whether it is stored as it is; its checksum, if any, still follows.
/// None at the end mark.
fn next_block<'a>(frame: &Frame, input: &mut &'a [u8]) -> Result<Option<(bool, &'a [u8])>, CodecError> {
    let word = take_u32(input)?;
    if word == 0 {
        return Ok(None);
    }
    let len = (word & !STORED) as usize;
    if len > frame.block_bytes_max {
        return Err(CodecError::Corrupt(NAME, "block length"));
    }
    let (data, rest) = input.split_at_checked(len).ok_or(CodecError::Truncated(NAME))?;
    *input = rest;
    Ok(Some((word & STORED != 0, data)))
}

fn take_u32(input: &mut &[u8]) -> Result<u32, CodecError> {
    let (word, rest) = input.split_first_chunk::<4>().ok_or(CodecError::Truncated(NAME))?;
    *input = rest;
    Ok(u32::from_le_bytes(*word))
}

/// The most that can come out of `payload`: its content size, or what its blocks may hold.
pub(super) fn claimed_bytes(payload: &[u8]) -> Option<u64> {
    let (frame, mut input) = read_header(payload).ok()?;
    let mut sum = 0u64;
    while let Ok(Some((is_stored, data))) = next_block(&frame, &mut input) {
        // An LZ4 sequence byte copies at most 255 bytes.
        let most = data.len().saturating_mul(255).min(frame.block_bytes_max);
        sum += if is_stored { data.len() as u64 } else { most as u64 };
        if frame.flags & FLAG_BLOCK_CHECKSUM != 0 {
            take_u32(&mut input).ok()?;
        }
    }
    Some(frame.content_bytes.map_or(sum, |claimed| claimed.min(sum)))
}

pub(super) fn compress(level: i32, payload: &[u8], out: &mut Vec<u8>) {
    let mode = (level != LEVEL_FAST).then_some(CompressionMode::HIGHCOMPRESSION(level));
    let descriptor = [FLAG_VERSION | FLAG_INDEPENDENT, WRITE_BLOCK_ID << 4];
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&descriptor);
    out.push((xxh32(&descriptor) >> 8) as u8);
    let bound = block::compress_bound(WRITE_BLOCK_BYTES).expect("64 KiB is no large input");
    for data in payload.chunks(WRITE_BLOCK_BYTES) {
        let start = out.len();
        out.resize(start + 4 + bound, 0);
        let len = block::compress_to_buffer(data, mode, false, &mut out[start + 4..])
            .expect("the space is what the compressor asked for");
        let word = if len < data.len() {
            out.truncate(start + 4 + len);
            len as u32
        } else {
            out.truncate(start + 4);
            out.extend_from_slice(data);
            data.len() as u32 | STORED
        };
        out[start..start + 4].copy_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
}
