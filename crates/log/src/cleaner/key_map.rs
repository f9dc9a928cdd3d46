//! The last offset of each key in the dirty part of a log, in 20 bytes a slot.
//!
//! Once all is noted, [`KeyMap::last_offsets`] turns it round: most records are judged by their
//! offset alone, and their keys need not be looked for again.
//!
//! A slot is a 128-bit hash of the key and a 32-bit offset counted from the dirty part's
//! first (Kafka: 16-byte MD5 and 8-byte offset). Open addressing with linear probing, slots
//! ordered by their distance from home (Robin Hood), so that a search ends early at a load
//! of 0.9 too. Memory is touched as keys come.
//!
//! Invariant: the map covers every record from `first` to [`KeyMap::latest`]; a record
//! behind that is not judged by it.

use std::ops::Range;

use klamm_protocol::ids::Offset;

use super::key_hash::KeyHash;
use super::last_offsets::LastOffsets;

/// What one slot takes.
pub(super) const SLOT_BYTES: usize = 20;
/// Of the memory that a slot stands for this is kept for [`LastOffsets`]: eight offsets a slot.
const OFFSETS_BYTES: usize = 1;
/// Fewer slots could not hold one key below the load factor.
const SLOTS_MIN: usize = 16;

/// So many slots are asked for before the first one is awaited: more than a core has misses under way.
/// In a large map each is a miss of the caches; one after the other they are half of a cleaning.
const WARM_KEYS: usize = 32;

/// Hash and offset; an offset of 0 is a free slot.
type Slot = [u32; SLOT_BYTES / 4];

pub(super) struct KeyMap {
    slots: Vec<Slot>,
    count: usize,
    count_max: usize,
    first: Offset,
    latest: Offset,
    hash: KeyHash,
}

impl KeyMap {
    /// For the offsets in `dirty`, within `bytes_max` and with at most `load_factor` of the
    /// slots in use.
    pub(super) fn new(bytes_max: u64, load_factor: f64, dirty: &Range<Offset>, hash_key: u128) -> Self {
        let load_factor = if load_factor > 0.0 && load_factor < 1.0 { load_factor } else { 0.9 };
        // There are no more keys than offsets.
        let offsets = usize::try_from(dirty.end.0.saturating_sub(dirty.start.0)).unwrap_or(0);
        let wanted = (offsets as f64 / load_factor) as usize + SLOTS_MIN;
        let affordable = usize::try_from(bytes_max).unwrap_or(usize::MAX) / (SLOT_BYTES + OFFSETS_BYTES);
        let slots = wanted.min(affordable).max(SLOTS_MIN);
        Self {
            slots: vec![[0; SLOT_BYTES / 4]; slots],
            count: 0,
            count_max: ((slots as f64 * load_factor) as usize).clamp(1, slots - 1),
            first: dirty.start,
            latest: Offset(dirty.start.0 - 1),
            hash: KeyHash::new(hash_key),
        }
    }

    /// Touches the slots where `keys` will be looked for, many at a time.
    pub(super) fn warm<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>) {
        let mut hashes = [0; WARM_KEYS];
        loop {
            let mut count = 0;
            for (hash, key) in hashes.iter_mut().zip(&mut keys) {
                *hash = self.hash.of(key)[0];
                count += 1;
            }
            self.touch(hashes[..count].iter().copied());
            if count < WARM_KEYS {
                return;
            }
        }
    }

    fn touch(&self, hashes: impl Iterator<Item = u64>) {
        let seen = hashes.fold(0, |seen, hash| {
            let slot = &self.slots[self.home(hash)];
            // The ends may lie in two lines of the cache.
            seen ^ slot[0] ^ slot[4]
        });
        // Not to be optimised away: the reading is the purpose.
        std::hint::black_box(seen);
    }

    /// Notes records, in their order, and that they are covered. False if there is no room: then
    /// the first that was not noted is the first that is not covered.
    pub(super) fn put_all<'k>(
        &mut self,
        mut records: impl Iterator<Item = (Option<&'k [u8]>, Offset)>,
    ) -> bool {
        let mut waiting = [(None, Offset(0)); WARM_KEYS];
        loop {
            let mut count = 0;
            for (place, (key, offset)) in waiting.iter_mut().zip(&mut records) {
                *place = (key.map(|key| self.hash.of(key)), offset);
                count += 1;
            }
            let waiting = &waiting[..count];
            self.touch(waiting.iter().filter_map(|(hash, _)| Some((*hash)?[0])));
            for (hash, offset) in waiting {
                if let Some(hash) = hash
                    && !self.put_hashed(*hash, *offset)
                {
                    return false;
                }
                self.cover(*offset);
            }
            if count < WARM_KEYS {
                return true;
            }
        }
    }

    /// Which of the offsets that the map covers are the last of their key.
    pub(super) fn last_offsets(&self) -> LastOffsets {
        let offsets_max = self.slots.len() * OFFSETS_BYTES * 8;
        let mut last = LastOffsets::new(self.first, Offset(self.latest.0 + 1), offsets_max);
        for slot in self.slots.iter().filter(|slot| slot[4] != 0) {
            last.insert(u64::from(slot[4]) - 1);
        }
        last
    }

    /// Notes the record at `offset`. False if there is no room: then nothing changed.
    fn put_hashed(&mut self, hash: [u64; 2], offset: Offset) -> bool {
        let Some(relative) = u32::try_from(offset.0 - self.first.0).ok().and_then(|r| r.checked_add(1))
        else {
            return false;
        };
        let mut slot = to_slot(hash, relative);
        let mut at = self.home(hash[0]);
        let mut distance = 0;
        let mut is_mine = true;
        loop {
            let found = self.slots[at];
            if is_mine && found[4] != 0 && found[..4] == slot[..4] {
                self.slots[at][4] = found[4].max(relative);
                return true;
            }
            if found[4] == 0 {
                if self.count == self.count_max {
                    return false;
                }
                self.slots[at] = slot;
                self.count += 1;
                return true;
            }
            let found_distance = self.distance(&found, at);
            if found_distance < distance {
                // Not in the map: who is nearer to home moves on.
                if is_mine && self.count == self.count_max {
                    return false;
                }
                is_mine = false;
                self.slots[at] = slot;
                slot = found;
                distance = found_distance;
            }
            at = self.behind(at);
            distance += 1;
        }
    }

    /// The last offset of a key that the map has.
    pub(super) fn get(&self, key: &[u8]) -> Option<Offset> {
        let hash = self.hash.of(key);
        let wanted = to_slot(hash, 0);
        let mut at = self.home(hash[0]);
        let mut distance = 0;
        loop {
            let found = &self.slots[at];
            if found[4] == 0 || self.distance(found, at) < distance {
                return None;
            }
            if found[..4] == wanted[..4] {
                return Some(Offset(self.first.0 + i64::from(found[4]) - 1));
            }
            at = self.behind(at);
            distance += 1;
        }
    }

    /// The last offset that the map covers; below the dirty part while it covers none.
    pub(super) fn latest(&self) -> Offset {
        self.latest
    }

    /// Everything up to `offset` has been noted.
    pub(super) fn cover(&mut self, offset: Offset) {
        self.latest = self.latest.max(offset);
    }

    /// How full it is, of what it may hold.
    pub(super) fn utilization(&self) -> f64 {
        self.count as f64 / self.slots.len() as f64
    }

    /// Keys in it.
    pub(super) fn key_count(&self) -> u64 {
        self.count as u64
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    #[inline]
    fn distance(&self, slot: &Slot, at: usize) -> usize {
        let home = self.home(u64::from(slot[0]) << 32 | u64::from(slot[1]));
        if at >= home { at - home } else { at + self.slots.len() - home }
    }

    #[inline]
    fn behind(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }
}

#[inline]
fn to_slot(hash: [u64; 2], relative: u32) -> Slot {
    [(hash[0] >> 32) as u32, hash[0] as u32, (hash[1] >> 32) as u32, hash[1] as u32, relative]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn map(bytes: u64, end: i64) -> KeyMap {
        KeyMap::new(bytes, 0.9, &(Offset(100)..Offset(end)), 7)
    }

    impl KeyMap {
        pub(in crate::cleaner) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
            self.put_all(std::iter::once((Some(key), offset)))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn it_is_a_map(keys in proptest::collection::vec(0u16..400, 0..900)) {
            // Room for fewer keys than may come, and for all of them.
            for bytes in [100 * 21, 1000 * 21] {
                let mut map = map(bytes, 2000);
                let mut model = BTreeMap::new();
                for (n, key) in keys.iter().enumerate() {
                    let offset = Offset(100 + n as i64);
                    let is_put = map.put(&key.to_be_bytes(), offset);
                    let has_room = model.contains_key(key) || model.len() < map.count_max;
                    prop_assert_eq!(is_put, has_room);
                    if is_put {
                        model.insert(*key, offset);
                    }
                }
                for key in 0u16..400 {
                    prop_assert_eq!(map.get(&key.to_be_bytes()), model.get(&key).copied());
                }
                prop_assert_eq!(map.key_count() as usize, model.len());
                let last: BTreeSet<Offset> = model.values().copied().collect();
                let offsets = map.last_offsets();
                let end = map.latest().0.min(99 + 8 * map.slots.len() as i64);
                for offset in (100..=end).map(Offset) {
                    prop_assert_eq!(offsets.is_last(offset), Some(last.contains(&offset)));
                }
                prop_assert_eq!(offsets.is_last(Offset(end + 1)), None);
            }
        }
    }

    #[test]
    fn of_records_that_come_together_those_that_find_room_are_covered() {
        let mut map = KeyMap::new(0, 0.9, &(Offset(100)..Offset(2000)), 7);
        let keys: Vec<[u8; 1]> = (0..40).map(|n| [n]).collect();
        let records = |key_of: fn(usize) -> Option<usize>| {
            let keys = &keys;
            (0..40).map(move |n| (key_of(n).map(|at| &keys[at][..]), Offset(100 + n as i64)))
        };
        assert!(!map.put_all(records(|n| (n != 3).then_some(n))));
        assert_eq!((map.key_count(), map.latest()), (14, Offset(114)), "one has no key");
        assert_eq!(map.last_offsets().is_last(Offset(103)), Some(false));
        assert!(map.put_all(records(|n| Some(n % 3)).skip(15)));
        assert_eq!(map.latest(), Offset(139));
        assert!(map.put(&keys[0], Offset(101)));
        assert_eq!(map.get(&keys[0]), Some(Offset(139)), "an earlier one changes nothing");
    }

    #[test]
    fn it_takes_no_more_than_it_may_and_no_more_than_it_needs() {
        assert_eq!(map(21_000, i64::from(u32::MAX)).slots.len(), 1000);
        assert!(map(1 << 30, 100 + 90).slots.len() <= 100 + SLOTS_MIN);
        assert_eq!(map(0, 1000).slots.len(), SLOTS_MIN);
        assert_eq!(std::mem::size_of::<Slot>(), SLOT_BYTES);
    }

    #[test]
    fn offsets_that_do_not_fit_are_refused() {
        let mut map = map(20_000, i64::MAX);
        assert!(map.put(b"a", Offset(100)));
        assert!(map.put(b"a", Offset(100 + i64::from(u32::MAX) - 1)));
        assert!(!map.put(b"a", Offset(100 + i64::from(u32::MAX))));
        assert_eq!(map.get(b"a"), Some(Offset(100 + i64::from(u32::MAX) - 1)));
    }
}
