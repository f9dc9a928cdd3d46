//! Drawn choices that repeat: one seed, one sequence.

use std::ops::RangeInclusive;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence of its own for the part `number` of what is drawn: threads do not share one.
    pub fn part(&self, number: u64) -> Self {
        Self(Self(self.0 ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93)).draw())
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of `range`, which must not be empty.
    pub fn between(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.draw() % (range.end() - range.start() + 1)
    }

    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.draw() % 100 < percent
    }
}

/// A count or seed that a command may set in its environment.
///
/// # Panics
/// When it is set and not a number.
pub fn number_from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_and_parts_differ() {
        let draws = |mut random: Random| [random.draw(), random.draw(), random.draw()];
        assert_eq!(draws(Random::of(7)), draws(Random::of(7)));
        assert_ne!(draws(Random::of(7)), draws(Random::of(8)));
        assert_ne!(draws(Random::of(7).part(0)), draws(Random::of(7).part(1)));
        let mut random = Random::of(1);
        assert!((0..1000).all(|_| (3..=5).contains(&random.between(3..=5))));
    }
}
