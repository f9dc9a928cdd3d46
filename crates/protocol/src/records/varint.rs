//! Zigzag varints of 32 and 64 bits, as records carry them.
//!
//! Strict: a varint that runs past its 5 or 10 bytes, or whose last byte holds bits
//! that the type has no room for, is an error. Padding with zero groups is accepted,
//! because some encoders reserve a fixed width and patch the value in.

/// Bytes the longest 64-bit varint takes.
pub(super) const VARINT_BYTES_MAX: usize = 10;

/// Why no varint could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VarintError {
    Truncated,
    TooLong,
}

/// Reads a signed varint; gives the value and the bytes it took.
#[inline]
pub(super) fn read_i32(bytes: &[u8]) -> Result<(i32, usize), VarintError> {
    // One and two bytes cover nearly every field of a record.
    let (raw, read) = match *bytes {
        [a, ..] if a < 0x80 => (u32::from(a), 1),
        [a, b, ..] if b < 0x80 => (u32::from(a & 0x7f) | u32::from(b) << 7, 2),
        _ => {
            let (raw, read) = read_long(bytes, 5)?;
            (u32::try_from(raw).map_err(|_| VarintError::TooLong)?, read)
        }
    };
    Ok(((raw >> 1) as i32 ^ -((raw & 1) as i32), read))
}

/// Reads a signed varlong; gives the value and the bytes it took.
#[inline]
pub(super) fn read_i64(bytes: &[u8]) -> Result<(i64, usize), VarintError> {
    let (raw, read) = match *bytes {
        [a, ..] if a < 0x80 => (u64::from(a), 1),
        [a, b, ..] if b < 0x80 => (u64::from(a & 0x7f) | u64::from(b) << 7, 2),
        _ => read_long(bytes, VARINT_BYTES_MAX)?,
    };
    Ok(((raw >> 1) as i64 ^ -((raw & 1) as i64), read))
}

#[cold]
fn read_long(bytes: &[u8], bytes_max: usize) -> Result<(u64, usize), VarintError> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(bytes_max).enumerate() {
        let group = u64::from(byte & 0x7f);
        if index == 9 && group > 1 {
            return Err(VarintError::TooLong);
        }
        value |= group << (7 * index);
        if byte < 0x80 {
            return Ok((value, index + 1));
        }
    }
    Err(if bytes.len() < bytes_max { VarintError::Truncated } else { VarintError::TooLong })
}

pub(super) fn write_i32(out: &mut Vec<u8>, value: i32) {
    write_raw(out, u64::from((value << 1 ^ value >> 31) as u32));
}

pub(super) fn write_i64(out: &mut Vec<u8>, value: i64) {
    write_raw(out, (value << 1 ^ value >> 63) as u64);
}

/// Bytes [`write_i32`] takes for `value`.
pub(super) fn size_i32(value: i32) -> usize {
    size_raw(u64::from((value << 1 ^ value >> 31) as u32))
}

/// Bytes [`write_i64`] takes for `value`.
pub(super) fn size_i64(value: i64) -> usize {
    size_raw((value << 1 ^ value >> 63) as u64)
}

fn write_raw(out: &mut Vec<u8>, mut raw: u64) {
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

fn size_raw(raw: u64) -> usize {
    (70 - (raw | 1).leading_zeros() as usize) / 7
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values_have_known_bytes() {
        for (value, bytes) in [
            (0, &[0u8][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (-64, &[127]),
            (64, &[128, 1]),
            (300, &[216, 4]),
        ] {
            let mut out = Vec::new();
            write_i32(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(read_i32(bytes), Ok((value, bytes.len())));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(read_i32(&[]), Err(VarintError::Truncated));
        assert_eq!(read_i32(&[0x80, 0x80]), Err(VarintError::Truncated));
        assert_eq!(read_i32(&[0xff; 5]), Err(VarintError::TooLong));
        assert_eq!(read_i32(&[0xff, 0xff, 0xff, 0xff, 0x10]), Err(VarintError::TooLong));
        assert_eq!(read_i32(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok((i32::MIN, 5)));
        assert_eq!(read_i64(&[0xff; 10]), Err(VarintError::TooLong));
        let mut widest = [0xff; 10];
        widest[9] = 1;
        assert_eq!(read_i64(&widest), Ok((i64::MIN, 10)));
        widest[9] = 2;
        assert_eq!(read_i64(&widest), Err(VarintError::TooLong));
        // A padded zero, as encoders that patch a fixed width write it.
        assert_eq!(read_i32(&[0x80, 0x80, 0]), Ok((0, 3)));
    }

    proptest! {
        #[test]
        fn values_round_trip(small: i32, large: i64, shift in 0u32..64) {
            let large = large >> shift;
            let mut out = Vec::new();
            write_i32(&mut out, small);
            prop_assert_eq!(out.len(), size_i32(small));
            prop_assert_eq!(read_i32(&out), Ok((small, out.len())));
            out.clear();
            write_i64(&mut out, large);
            prop_assert_eq!(out.len(), size_i64(large));
            prop_assert_eq!(read_i64(&out), Ok((large, out.len())));
        }
    }
}
