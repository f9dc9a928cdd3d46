//! A source that makes values up: every structure that can be read can be invented.
//!
//! For tests and fuzzing only. What it yields is valid in the version asked for, and
//! the same seed yields the same message.

use bytes::Bytes;

use super::{DecodeError, Message, Source, Value, WireStr};
use crate::ids::Uuid;

/// Values from a seed. Small by design: arrays and strings of a few elements.
#[derive(Debug, Clone)]
pub struct Arbitrary {
    state: u64,
    /// Halves with each level of arrays, so that deep messages stay small.
    elements_max: u64,
}

/// A message that is valid in `version`.
///
/// # Panics
/// Never: inventing cannot fail.
#[must_use]
pub fn arbitrary<M: Message>(seed: u64, version: i16) -> M {
    assert!(M::VERSIONS.contains(&version));
    let mut source = Arbitrary { state: seed, elements_max: 4 };
    M::read(&mut source, version).expect("an invented value is valid")
}

impl Arbitrary {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Borders, small numbers (they are where defaults lie) and anything.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => self.below(200),
            3 => i64::MAX as u64,
            4 => 1 << 63 | 1 << 31 | 1 << 15 | 1 << 7,
            _ => self.next(),
        }
    }
}

impl Source for Arbitrary {
    fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.one_in(2))
    }

    fn i8(&mut self) -> Result<i8, DecodeError> {
        Ok(self.number() as i8)
    }

    fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(self.number() as i16)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(self.number() as u16)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(self.number() as i32)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(self.number() as u32)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(self.number() as i64)
    }

    fn f64(&mut self) -> Result<f64, DecodeError> {
        Ok(self.next() as i32 as f64 / 8.0)
    }

    fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Ok(Uuid(u128::from(self.number()) << 64 | u128::from(self.number())))
    }

    fn nullable_string(&mut self, _flexible: bool) -> Result<Option<WireStr>, DecodeError> {
        if self.one_in(4) {
            return Ok(None);
        }
        self.string(false).map(Some)
    }

    fn string(&mut self, _flexible: bool) -> Result<WireStr, DecodeError> {
        // Now and then long enough for a length of two varint bytes.
        let length = if self.one_in(16) { 130 } else { self.below(9) };
        let letters = ['a', 'Z', '0', '-', '.', 'ö', '語', '🦀'];
        let text: String = (0..length).map(|_| letters[self.below(8) as usize]).collect();
        Ok(text.into())
    }

    fn nullable_bytes(&mut self, _flexible: bool) -> Result<Option<Bytes>, DecodeError> {
        if self.one_in(4) {
            return Ok(None);
        }
        self.bytes(false).map(Some)
    }

    fn bytes(&mut self, _flexible: bool) -> Result<Bytes, DecodeError> {
        // Now and then long enough to go beside the buffer.
        let length = if self.one_in(16) { 1500 } else { self.below(40) };
        Ok((0..length).map(|_| self.next() as u8).collect())
    }

    fn nullable_array<T: Value>(
        &mut self,
        flexible: bool,
        version: i16,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        if self.one_in(4) {
            return Ok(None);
        }
        self.array(flexible, version).map(Some)
    }

    fn array<T: Value>(&mut self, flexible: bool, version: i16) -> Result<Vec<T>, DecodeError> {
        let count = self.below(self.elements_max + 1) as usize;
        let outer = self.elements_max;
        self.elements_max = (outer / 2).max(1);
        let all = T::get_many(self, count, flexible, version);
        self.elements_max = outer;
        all
    }

    fn presence(&mut self, _in_tag: bool) -> Result<bool, DecodeError> {
        Ok(!self.one_in(4))
    }

    fn tagged_fields(
        &mut self,
        mut field: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        // No structure has more tags than that; the ones it does not know answer no.
        for tag in 0..32 {
            if self.one_in(2) {
                field(self, tag)?;
            }
        }
        Ok(())
    }
}
