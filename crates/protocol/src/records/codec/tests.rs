//! The codecs against themselves, against C's LZ4 frames, cut, broken and hostile.

use super::*;
use crate::records::scratch::KEPT_BYTES_MAX;
use proptest::prelude::*;

const COMPRESSING: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn squeezed(codec: Codec, level: i32, plain: &[u8], scratch: &mut Scratch) -> Bytes {
    let mut out = b"kept".to_vec();
    compress(codec, level, plain, &mut out, scratch);
    assert_eq!(&out[..4], b"kept", "compression appends");
    Bytes::from(out).slice(4..)
}

/// Bytes that compress a little: words out of a small set, in no order.
fn text(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let words = (0..).flat_map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        format!("word{} ", state >> 22).into_bytes()
    });
    words.take(len).collect()
}

#[test]
fn every_codec_and_level_round_trips() {
    let mut scratch = Scratch::new();
    let plain = text(300_000);
    for codec in COMPRESSING {
        for level in [-1, 1, 3, 6, 9, 12, 17, 22, codec.level_default()] {
            let squeezed = squeezed(codec, level, &plain, &mut scratch);
            assert!(squeezed.len() < plain.len() * 2 / 3, "{codec:?} {level}: {}", squeezed.len());
            let back = decompress(codec, &squeezed, plain.len(), &mut scratch).unwrap();
            assert!(back == plain, "{codec:?} {level}");
        }
    }
}

#[test]
fn an_empty_payload_round_trips() {
    let mut scratch = Scratch::new();
    for codec in COMPRESSING {
        let squeezed = squeezed(codec, codec.level_default(), b"", &mut scratch);
        assert_eq!(decompress(codec, &squeezed, 0, &mut scratch).unwrap(), "", "{codec:?}");
    }
}

#[test]
fn levels_matter() {
    let mut scratch = Scratch::new();
    let plain = text(200_000);
    for (codec, low, high) in [(Codec::Gzip, 1, 9), (Codec::Lz4, 9, 12), (Codec::Zstd, 1, 19)] {
        let weak = squeezed(codec, low, &plain, &mut scratch).len();
        let strong = squeezed(codec, high, &plain, &mut scratch).len();
        assert!(strong < weak, "{codec:?}: {strong} {weak}");
    }
}

#[test]
fn one_byte_over_the_cap_is_refused_and_the_cap_itself_is_not() {
    let mut scratch = Scratch::new();
    let plain = text(200_001);
    for codec in COMPRESSING {
        let squeezed = squeezed(codec, codec.level_default(), &plain, &mut scratch);
        assert!(decompress(codec, &squeezed, 200_001, &mut scratch).is_ok());
        let refused = decompress(codec, &squeezed, 200_000, &mut scratch);
        assert_eq!(refused, Err(CodecError::TooLarge { bytes_max: 200_000 }), "{codec:?}");
        // A context that was left in the middle serves the next batch.
        assert!(decompress(codec, &squeezed, 200_001, &mut scratch).is_ok(), "{codec:?}");
    }
}

#[test]
fn a_cut_stream_is_an_error_at_every_byte() {
    let mut scratch = Scratch::new();
    let plain = text(3_000);
    for codec in COMPRESSING {
        let squeezed = squeezed(codec, codec.level_default(), &plain, &mut scratch);
        for cut in 0..squeezed.len() {
            let result = decompress(codec, &squeezed.slice(..cut), 10_000, &mut scratch);
            // Snappy's framing has no end mark: a cut between blocks is a whole stream.
            let is_whole = codec == Codec::Snappy && cut == 16;
            assert_eq!(result.is_err(), !is_whole, "{codec:?} {cut}");
        }
    }
}

#[test]
fn bytes_behind_the_stream_are_an_error() {
    let mut scratch = Scratch::new();
    for codec in COMPRESSING {
        let mut longer = squeezed(codec, codec.level_default(), b"payload", &mut scratch).to_vec();
        longer.push(7);
        let result = decompress(codec, &Bytes::from(longer), 1_000, &mut scratch);
        assert!(result.is_err(), "{codec:?}");
    }
}

#[test]
fn streams_that_follow_each_other_are_read_where_java_reads_them() {
    let mut scratch = Scratch::new();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Zstd] {
        let one = squeezed(codec, codec.level_default(), b"one,", &mut scratch);
        let two = squeezed(codec, codec.level_default(), b"two", &mut scratch);
        let both = Bytes::from([one, two].concat());
        assert_eq!(decompress(codec, &both, 100, &mut scratch).unwrap(), "one,two", "{codec:?}");
    }
}

#[test]
fn raw_snappy_is_read() {
    let raw = snap::raw::Encoder::new().compress_vec(&text(70_000)).unwrap();
    let back = decompress(Codec::Snappy, &Bytes::from(raw), 70_000, &mut Scratch::new()).unwrap();
    assert!(back == text(70_000));
}

#[test]
fn a_snappy_block_that_claims_gigabytes_allocates_nothing() {
    let mut scratch = Scratch::new();
    // The length 2^32 - 1 in front of a few bytes.
    let raw = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]);
    let refused = decompress(Codec::Snappy, &raw, usize::MAX, &mut scratch);
    assert_eq!(refused, Err(CodecError::Corrupt("snappy", "length")));
}

#[test]
fn every_byte_of_a_gzip_trailer_counts() {
    let mut scratch = Scratch::new();
    let member = squeezed(Codec::Gzip, 6, b"payload", &mut scratch);
    for at in member.len() - 8..member.len() {
        let mut broken = member.to_vec();
        broken[at] ^= 1;
        let refused = decompress(Codec::Gzip, &Bytes::from(broken), 100, &mut scratch);
        assert_eq!(refused, Err(CodecError::Corrupt("gzip", "checksum")), "{at}");
    }
}

#[test]
fn gzip_members_may_carry_every_optional_field() {
    let mut scratch = Scratch::new();
    let plain = squeezed(Codec::Gzip, 6, b"payload", &mut scratch);
    let mut member = vec![0x1f, 0x8b, 8, 0x1e, 0, 0, 0, 0, 0, 3, 2, 0, b'x', b'y'];
    member.extend_from_slice(b"name\0comment\0\x12\x34");
    member.extend_from_slice(&plain[10..]);
    assert_eq!(decompress(Codec::Gzip, &Bytes::from(member), 100, &mut scratch).unwrap(), "payload");
}

#[test]
fn lz4_frames_of_the_c_library_are_read_and_linked_ones_refused() {
    use ::lz4::{BlockMode, BlockSize, ContentChecksum, EncoderBuilder};
    use std::io::Write;
    let plain = text(600_000);
    let frame = |size: BlockSize, mode: BlockMode, block_checksum, content_bytes: u64| {
        let mut encoder = EncoderBuilder::new()
            .block_size(size)
            .block_mode(mode)
            .block_checksum(block_checksum)
            .checksum(ContentChecksum::ChecksumEnabled)
            .content_size(content_bytes)
            .build(Vec::new())
            .unwrap();
        encoder.write_all(&plain).unwrap();
        let (frame, result) = encoder.finish();
        result.unwrap();
        Bytes::from(frame)
    };
    let mut scratch = Scratch::new();
    for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
        use ::lz4::liblz4::BlockChecksum::{BlockChecksumEnabled, NoBlockChecksum};
        for (checksum, content) in [(NoBlockChecksum, 0), (BlockChecksumEnabled, plain.len() as u64)] {
            let frame = frame(size.clone(), BlockMode::Independent, checksum, content);
            let back = decompress(Codec::Lz4, &frame, plain.len(), &mut scratch).unwrap();
            assert!(back == plain);
            let mut broken = frame.to_vec();
            *broken.last_mut().unwrap() ^= 1;
            let refused = decompress(Codec::Lz4, &Bytes::from(broken), plain.len(), &mut scratch);
            assert_eq!(refused, Err(CodecError::Corrupt("lz4", "content checksum")));
        }
    }
    let linked =
        frame(BlockSize::Max64KB, BlockMode::Linked, ::lz4::liblz4::BlockChecksum::NoBlockChecksum, 0);
    assert!(decompress(Codec::Lz4, &linked, plain.len(), &mut scratch).is_err());
}

#[test]
fn the_c_library_reads_our_lz4_frames() {
    use std::io::Read;
    for len in [1, 100, 65_536, 65_537, 300_000] {
        let plain = text(len);
        let frame = squeezed(Codec::Lz4, 9, &plain, &mut Scratch::new());
        let mut back = Vec::new();
        ::lz4::Decoder::new(&frame[..]).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == plain, "{len}");
    }
}

#[test]
fn bombs_stop_at_the_cap_with_flat_memory() {
    let mut scratch = Scratch::new();
    let zeros = vec![0u8; 64 << 20];
    for codec in COMPRESSING {
        let bomb = squeezed(codec, codec.level_default(), &zeros, &mut scratch);
        let cap = 1 << 20;
        let mut window_bytes_max = 0;
        let mut stream = Stream::open(codec, &bomb, cap, &mut scratch.contexts).unwrap();
        let mut window = Window::default();
        let error = loop {
            match stream.fill(&mut window) {
                Ok(true) => window.consume(window.unread().len()),
                Ok(false) => panic!("{codec:?}: the bomb ended"),
                Err(error) => break error,
            }
            window_bytes_max = window_bytes_max.max(window.space(0).len());
        };
        assert_eq!(error, CodecError::TooLarge { bytes_max: cap }, "{codec:?}");
        assert!(window_bytes_max <= 256 << 10, "{codec:?}: {window_bytes_max}");
        assert!(decompressed_bytes_hint(codec, &bomb) >= 64 << 20, "{codec:?}");
    }
}

#[test]
fn what_grew_large_is_given_back() {
    let mut scratch = Scratch::new();
    let zeros = vec![0u8; 8 << 20];
    for codec in COMPRESSING {
        let squeezed = squeezed(codec, 22, &zeros, &mut scratch);
        decompress(codec, &squeezed, zeros.len(), &mut scratch).unwrap();
        assert!(scratch.window.space(0).len() <= KEPT_BYTES_MAX);
    }
    scratch.trim();
    assert!(scratch.contexts.zstd_compress.is_none(), "level 22 takes hundreds of megabytes");
}

proptest! {
    #[test]
    fn hints_are_never_below_what_comes_out(plain in proptest::collection::vec(0u8..4, 0..100_000), codec in 1u8..5) {
        let codec = Codec::from_id(codec).unwrap();
        let mut scratch = Scratch::new();
        let squeezed = squeezed(codec, codec.level_default(), &plain, &mut scratch);
        prop_assert!(decompressed_bytes_hint(codec, &squeezed) >= plain.len() as u64);
        prop_assert_eq!(decompress(codec, &squeezed, plain.len(), &mut scratch).unwrap(), plain);
    }

    #[test]
    fn any_bytes_decompress_or_fail(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        start in 0usize..4,
        codec in 1u8..5,
    ) {
        let codec = Codec::from_id(codec).unwrap();
        let mut scratch = Scratch::new();
        // Half of the cases begin as real streams do.
        let real = squeezed(codec, codec.level_default(), &text(200), &mut scratch);
        let kept = (real.len() * start / 4).min(bytes.len());
        bytes[..kept].copy_from_slice(&real[..kept]);
        let bytes = Bytes::from(bytes);
        let _ = decompressed_bytes_hint(codec, &bytes);
        if let Ok(plain) = decompress(codec, &bytes, 5_000, &mut scratch) {
            prop_assert!(plain.len() <= 5_000);
        }
    }
}
