//! The last offset of each key in the dirty part of a log, in 20 bytes a slot.
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

/// What one slot takes.
pub(super) const SLOT_BYTES: usize = 20;
/// Fewer slots could not hold one key below the load factor.
const SLOTS_MIN: usize = 16;

/// So many slots are asked for before the first one is awaited: more than a core has misses under way.
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
        let affordable = usize::try_from(bytes_max).unwrap_or(usize::MAX) / SLOT_BYTES;
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

    /// Touches the slots where `keys` will be looked for. In a large map each of them is a miss of the
    /// caches; here the misses of many keys overlap, one after the other they are half of a cleaning.
    pub(super) fn warm<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>) {
        let mut homes = [0; WARM_KEYS];
        loop {
            let mut count = 0;
            for (home, key) in homes.iter_mut().zip(&mut keys) {
                *home = self.home(self.hash.of(key)[0]);
                count += 1;
            }
            let seen = homes[..count].iter().fold(0, |seen, home| seen ^ self.slots[*home][4]);
            // Not to be optimised away: the reading is the purpose.
            std::hint::black_box(seen);
            if count < WARM_KEYS {
                return;
            }
        }
    }

    /// Notes the record at `offset`. False if there is no room: then nothing changed.
    pub(super) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let Some(relative) = u32::try_from(offset.0 - self.first.0).ok().and_then(|r| r.checked_add(1))
        else {
            return false;
        };
        let hash = self.hash.of(key);
        let mut slot = to_slot(hash, relative);
        let mut at = self.home(hash[0]);
        let mut distance = 0;
        let mut is_mine = true;
        loop {
            let found = self.slots[at];
            if is_mine && found[4] != 0 && found[..4] == slot[..4] {
                self.slots[at] = slot;
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
    use std::collections::BTreeMap;

    fn map(bytes: u64, end: i64) -> KeyMap {
        KeyMap::new(bytes, 0.9, &(Offset(100)..Offset(end)), 7)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn it_is_a_map(keys in proptest::collection::vec(0u16..400, 0..900)) {
            // Room for fewer keys than may come, and for all of them.
            for bytes in [100 * 20, 1000 * 20] {
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
            }
        }
    }

    #[test]
    fn it_takes_no_more_than_it_may_and_no_more_than_it_needs() {
        assert_eq!(map(20_000, i64::from(u32::MAX)).slots.len(), 1000);
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
