//! Gzip (RFC 1952) around raw deflate. The container is read here, because the
//! inflater can then be reused: it resets to raw streams only.

use crc_fast::{CrcAlgorithm, Digest};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::CodecError;
use crate::records::scratch::Window;

const NAME: &str = "gzip";
/// Decompressed bytes per piece.
const PIECE_BYTES: usize = 64 << 10;
/// Magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

const FLAG_HEADER_CRC: u8 = 0x02;
const FLAG_EXTRA: u8 = 0x04;
const FLAG_NAME: u8 = 0x08;
const FLAG_COMMENT: u8 = 0x10;
const FLAGS_RESERVED: u8 = 0xe0;

pub(super) struct Reader<'a> {
    inflate: &'a mut Decompress,
    input: &'a [u8],
    digest: Digest,
    member: Member,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    First,
    Within,
    Between,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8], inflate: &'a mut Option<Decompress>) -> Self {
        Self {
            inflate: inflate.get_or_insert_with(|| Decompress::new(false)),
            input,
            digest: Digest::new(CrcAlgorithm::Crc32IsoHdlc),
            member: Member::First,
        }
    }

    /// Members may follow each other, as Java's reader allows.
    pub(super) fn fill(&mut self, window: &mut Window) -> Result<usize, CodecError> {
        loop {
            if self.member != Member::Within {
                if self.member == Member::Between && self.input.is_empty() {
                    return Ok(0);
                }
                self.input = skip_header(self.input)?;
                self.inflate.reset(false);
                self.digest.reset();
                self.member = Member::Within;
            }
            let space = &mut window.space(PIECE_BYTES)[..PIECE_BYTES];
            let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(self.input, space, FlushDecompress::None)
                .map_err(|_| CodecError::Corrupt(NAME, "deflate"))?;
            let read = (self.inflate.total_in() - in_before) as usize;
            let filled = (self.inflate.total_out() - out_before) as usize;
            self.digest.update(&space[..filled]);
            self.input = &self.input[read..];
            if status == Status::StreamEnd {
                self.check_trailer()?;
                self.member = Member::Between;
            } else if read == 0 && filled == 0 {
                return Err(CodecError::Truncated(NAME));
            }
            if filled > 0 {
                window.commit(filled);
                return Ok(filled);
            }
        }
    }

    fn check_trailer(&mut self) -> Result<(), CodecError> {
        let (trailer, rest) = self.input.split_first_chunk::<8>().ok_or(CodecError::Truncated(NAME))?;
        let mut expected = [0; 8];
        expected[..4].copy_from_slice(&(self.digest.finalize() as u32).to_le_bytes());
        expected[4..].copy_from_slice(&(self.inflate.total_out() as u32).to_le_bytes());
        if *trailer != expected {
            return Err(CodecError::Corrupt(NAME, "checksum"));
        }
        self.input = rest;
        Ok(())
    }
}

fn skip_header(input: &[u8]) -> Result<&[u8], CodecError> {
    let (head, mut rest) = input.split_first_chunk::<10>().ok_or(CodecError::Truncated(NAME))?;
    let flags = head[3];
    if head[..3] != HEADER[..3] || flags & FLAGS_RESERVED != 0 {
        return Err(CodecError::Corrupt(NAME, "header"));
    }
    if flags & FLAG_EXTRA != 0 {
        let (len, after) = rest.split_first_chunk::<2>().ok_or(CodecError::Truncated(NAME))?;
        rest = after.get(usize::from(u16::from_le_bytes(*len))..).ok_or(CodecError::Truncated(NAME))?;
    }
    for flag in [FLAG_NAME, FLAG_COMMENT] {
        if flags & flag != 0 {
            let end = rest.iter().position(|&byte| byte == 0).ok_or(CodecError::Truncated(NAME))?;
            rest = &rest[end + 1..];
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        rest = rest.get(2..).ok_or(CodecError::Truncated(NAME))?;
    }
    Ok(rest)
}

/// A compressor and the level it was made for.
pub(super) struct Deflate {
    level: i32,
    compress: Compress,
}

pub(super) fn compress(level: i32, payload: &[u8], out: &mut Vec<u8>, context: &mut Option<Deflate>) {
    let deflate = match context {
        Some(deflate) if deflate.level == level => {
            deflate.compress.reset();
            deflate
        }
        _ => {
            // -1 is deflate's own default.
            let zlib = if level < 0 { Compression::default() } else { Compression::new(level.min(9) as u32) };
            context.insert(Deflate { level, compress: Compress::new(zlib, false) })
        }
    };
    out.extend_from_slice(&HEADER);
    loop {
        out.reserve((payload.len() / 4).max(256));
        let rest = &payload[deflate.compress.total_in() as usize..];
        let status = deflate
            .compress
            .compress_vec(rest, out, FlushCompress::Finish)
            .expect("deflate fails on misuse only");
        if status == Status::StreamEnd {
            break;
        }
    }
    let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
    digest.update(payload);
    out.extend_from_slice(&(digest.finalize() as u32).to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
}
