//! The five codecs: capped streaming decompression, and compression by level.
//!
//! A decompressor appends to a window in pieces of tens of kilobytes, so memory follows
//! what is read, not what a stream claims. Every container is checked to its end: bytes
//! behind it are an error, checksums of the container are verified where it has them.

mod gzip;
mod hint;
mod lz4;
mod snappy;
mod xxh32;
mod zstd;

use bytes::Bytes;

pub use self::hint::decompressed_bytes_hint;
use super::scratch::{Scratch, Window};

/// How the records of a batch are compressed; the numbers are those of the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// Deflate in a gzip member.
    Gzip = 1,
    /// Snappy, in snappy-java's (xerial's) framing; raw snappy is read too.
    Snappy = 2,
    /// LZ4 frames with independent blocks.
    Lz4 = 3,
    /// Zstandard frames (KIP-110).
    Zstd = 4,
}

impl Codec {
    /// All codecs, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in the attributes.
    #[must_use]
    pub fn id(self) -> u8 {
        self as u8
    }

    /// The codec of a number in the attributes.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The name in configurations: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The level Kafka uses when none is configured (KIP-390); 0 for codecs without levels.
    #[must_use]
    pub fn level_default(self) -> i32 {
        match self {
            Self::None | Self::Snappy => 0,
            Self::Gzip => -1,
            Self::Lz4 => 9,
            Self::Zstd => 3,
        }
    }
}

/// Why compressed bytes could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More comes out than the caller allows.
    #[error("more than {bytes_max} bytes come out")]
    TooLarge {
        /// The caller's cap.
        bytes_max: usize,
    },
    /// The compressed bytes end too early.
    #[error("the {0} stream is cut")]
    Truncated(&'static str),
    /// The compressed bytes are not what the codec writes.
    #[error("no valid {0} stream: {1}")]
    Corrupt(&'static str, &'static str),
}

/// The uncompressed form of `payload`, the bytes behind a batch's header: a slice where
/// the codec is `None`, else at most `bytes_max` new bytes.
///
/// # Errors
/// [`CodecError`]; memory stays within `bytes_max` and one block of the codec.
pub fn decompress(
    codec: Codec,
    payload: &Bytes,
    bytes_max: usize,
    scratch: &mut Scratch,
) -> Result<Bytes, CodecError> {
    if codec == Codec::None {
        return Ok(payload.clone());
    }
    let result = decompress_into_window(codec, payload, bytes_max, scratch)
        .map(|()| Bytes::copy_from_slice(scratch.window.unread()));
    scratch.trim();
    result
}

/// Leaves all of `payload`, decompressed, in the scratch window.
pub(super) fn decompress_into_window(
    codec: Codec,
    payload: &[u8],
    bytes_max: usize,
    scratch: &mut Scratch,
) -> Result<(), CodecError> {
    scratch.window.clear();
    let mut stream = Stream::open(codec, payload, bytes_max, &mut scratch.contexts)?;
    while stream.fill(&mut scratch.window)? {}
    Ok(())
}

/// Appends the compressed form of `payload` to `out`. `level` is counted as Kafka's
/// `compression.<codec>.level` and clamped to what the codec has.
pub fn compress(codec: Codec, level: i32, payload: &[u8], out: &mut Vec<u8>, scratch: &mut Scratch) {
    match codec {
        Codec::None => out.extend_from_slice(payload),
        Codec::Gzip => gzip::compress(level, payload, out, &mut scratch.contexts.deflate),
        Codec::Snappy => snappy::compress(payload, out, &mut scratch.contexts.snappy),
        Codec::Lz4 => lz4::compress(level, payload, out),
        Codec::Zstd => zstd::compress(level, payload, out, &mut scratch.contexts.zstd_compress),
    }
}

/// What codecs keep from batch to batch; each is made at its first use.
#[derive(Default)]
pub(super) struct Contexts {
    inflate: Option<flate2::Decompress>,
    deflate: Option<gzip::Deflate>,
    snappy: Option<snap::raw::Encoder>,
    zstd_decompress: Option<zstd::DecompressContext>,
    zstd_compress: Option<zstd::CompressContext>,
}

impl Contexts {
    pub(super) fn trim(&mut self) {
        zstd::trim(&mut self.zstd_decompress, &mut self.zstd_compress);
    }
}

/// A compressed payload being read, with the cap on what comes out.
pub(super) struct Stream<'a> {
    kind: Kind<'a>,
    bytes_out: u64,
    bytes_max: usize,
}

enum Kind<'a> {
    Gzip(Box<gzip::Reader<'a>>),
    Snappy(snappy::Reader<'a>),
    Lz4(Box<lz4::Reader<'a>>),
    Zstd(zstd::Reader<'a>),
}

impl<'a> Stream<'a> {
    pub(super) fn open(
        codec: Codec,
        payload: &'a [u8],
        bytes_max: usize,
        contexts: &'a mut Contexts,
    ) -> Result<Self, CodecError> {
        let kind = match codec {
            Codec::Gzip => Kind::Gzip(Box::new(gzip::Reader::new(payload, &mut contexts.inflate))),
            Codec::Snappy => Kind::Snappy(snappy::Reader::new(payload)?),
            Codec::Lz4 => Kind::Lz4(Box::new(lz4::Reader::new(payload)?)),
            Codec::Zstd => Kind::Zstd(zstd::Reader::new(payload, &mut contexts.zstd_decompress)?),
            Codec::None => unreachable!("callers read uncompressed payloads in place"),
        };
        Ok(Self { kind, bytes_out: 0, bytes_max })
    }

    /// Appends the next piece to `window`; false at the end of a complete stream.
    pub(super) fn fill(&mut self, window: &mut Window) -> Result<bool, CodecError> {
        let room = self.bytes_max - self.bytes_out as usize;
        let filled = match &mut self.kind {
            Kind::Gzip(reader) => reader.fill(window)?,
            Kind::Snappy(reader) => match reader.fill(window, room)? {
                snappy::Filled::Bytes(filled) => filled,
                snappy::Filled::NoRoom => return Err(CodecError::TooLarge { bytes_max: self.bytes_max }),
            },
            Kind::Lz4(reader) => reader.fill(window)?,
            Kind::Zstd(reader) => reader.fill(window)?,
        };
        if filled > room {
            return Err(CodecError::TooLarge { bytes_max: self.bytes_max });
        }
        self.bytes_out += filled as u64;
        Ok(filled > 0)
    }

    /// Bytes that have come out so far.
    pub(super) fn bytes_out(&self) -> u64 {
        self.bytes_out
    }
}

#[cfg(test)]
mod tests;
