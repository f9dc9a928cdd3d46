//! A key's identity in 128 bits: SipHash-2-4 with a key of its own for each cleaning.
//!
//! Two keys of one hash would lose a record. Over a billion keys that has a chance of about
//! 2^-69, and nobody who does not know the hash's key can make it happen.

/// The hash's key: 128 random bits.
#[derive(Clone, Copy)]
pub(super) struct KeyHash {
    first: u64,
    second: u64,
}

struct State([u64; 4]);

impl State {
    #[inline]
    fn round(&mut self) {
        let [a, b, c, d] = &mut self.0;
        *a = a.wrapping_add(*b);
        *c = c.wrapping_add(*d);
        *b = b.rotate_left(13) ^ *a;
        *d = d.rotate_left(16) ^ *c;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*b);
        *a = a.wrapping_add(*d);
        *b = b.rotate_left(17) ^ *c;
        *d = d.rotate_left(21) ^ *a;
        *c = c.rotate_left(32);
    }

    #[inline]
    fn add(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    #[inline]
    fn finish(&mut self) -> u64 {
        for _ in 0..4 {
            self.round();
        }
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

impl KeyHash {
    pub(super) fn new(key: u128) -> Self {
        Self { first: key as u64, second: (key >> 64) as u64 }
    }

    /// The two halves of the hash.
    #[inline]
    pub(super) fn of(&self, bytes: &[u8]) -> [u64; 2] {
        let mut state = State([
            self.first ^ 0x736f_6d65_7073_6575,
            self.second ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            self.first ^ 0x6c79_6765_6e65_7261,
            self.second ^ 0x7465_6462_7974_6573,
        ]);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            state.add(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        last[7] = bytes.len() as u8;
        state.add(u64::from_le_bytes(last));
        state.0[2] ^= 0xee;
        let first = state.finish();
        state.0[1] ^= 0xdd;
        [first, state.finish()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_siphash_2_4_128() {
        // The first vectors of the reference implementation.
        let hash = KeyHash::new(u128::from_le_bytes(std::array::from_fn(|n| n as u8)));
        let of = |bytes: &[u8]| -> Vec<u8> { hash.of(bytes).iter().flat_map(|h| h.to_le_bytes()).collect() };
        assert_eq!(
            of(&[]),
            [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93]
        );
        assert_eq!(
            of(&[0]),
            [0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45]
        );
    }
}
