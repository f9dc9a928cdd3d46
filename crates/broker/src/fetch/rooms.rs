//! The rooms of cold reads: memory that answers are read into past the page cache, used again and again.
//!
//! Deliberately absent: waiting for one. Who finds none is served through the page cache. Invariant: no
//! more than [`ROOMS_MAX`] exist, however many read and however slowly they take their answers.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use klamm_log::Room;

/// What one answer has of a partition at most: what consumers ask for unless told otherwise.
const REGION_BYTES_MAX: u32 = 1 << 20;
/// 33 MiB in all if batches are large; usually half of it.
const ROOMS_MAX: usize = 16;
/// Kept for the next ones: new memory costs more than the read into it.
const IDLE_ROOMS_MAX: usize = 4;
/// A request with more cold partitions has the others through the page cache.
pub(crate) const ROOMS_PER_REQUEST_MAX: usize = 4;

/// All rooms of a broker.
#[derive(Default)]
pub(crate) struct Rooms(Mutex<Shelf>);

#[derive(Default)]
struct Shelf {
    idle: Vec<Room>,
    lent_count: usize,
}

/// A room that goes back when it is dropped.
pub(crate) struct Lent {
    room: Option<Room>,
    rooms: Arc<Rooms>,
}

/// A part of a room.
struct Part {
    lent: Lent,
    range: Range<usize>,
}

impl Rooms {
    /// A room, unless all are in use.
    pub(crate) fn lend(self: &Arc<Self>) -> Option<Lent> {
        let idle = {
            let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if shelf.lent_count == ROOMS_MAX {
                return None;
            }
            shelf.lent_count += 1;
            shelf.idle.pop()
        };
        let room = idle.unwrap_or_else(|| Room::new(REGION_BYTES_MAX));
        Some(Lent { room: Some(room), rooms: self.clone() })
    }
}

impl Lent {
    /// What is read into.
    pub(crate) fn room(&mut self) -> &mut Room {
        self.room.as_mut().expect("there until it is dropped")
    }

    /// A part of what was read; the room goes back once nobody has it.
    pub(crate) fn into_bytes(self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(Part { lent: self, range })
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.lent.room.as_ref().map_or(&[], |room| room.bytes(self.range.clone()))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut shelf = self.rooms.0.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.lent_count -= 1;
        if shelf.idle.len() < IDLE_ROOMS_MAX {
            shelf.idle.extend(self.room.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_lent_and_what_comes_back_is_lent_again() {
        let rooms = Arc::new(Rooms::default());
        let mut lent: Vec<Lent> = std::iter::from_fn(|| rooms.lend()).collect();
        assert_eq!(lent.len(), ROOMS_MAX);
        let bytes = lent.pop().expect("one").into_bytes(0..3);
        let half = bytes.slice(1..2);
        drop(bytes);
        assert!(rooms.lend().is_none(), "a part of it is still there");
        drop(half);
        assert!(rooms.lend().is_some());
        lent.clear();
        let shelf = rooms.0.lock().unwrap();
        assert_eq!((shelf.lent_count, shelf.idle.len()), (0, IDLE_ROOMS_MAX));
    }
}
