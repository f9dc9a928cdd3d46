//! What a connection has read and not yet handled: a buffer that complete frames are cut from.
//!
//! **Invariants:** nothing is reserved by an announced length before bytes of that
//! frame arrived; an idle connection holds no buffer; record bytes are slices of it.

use bytes::{Bytes, BytesMut};

use super::CloseReason;
use super::memory::{Claim, MemoryBudget};
use std::sync::Arc;

/// One read asks for this much room, where much came the last time.
const READ_BYTES: usize = 64 * 1024;
/// And for this much where little came: many connections only ever send small requests.
const READ_BYTES_MIN: usize = 4 * 1024;
/// A frame of which [`READ_BYTES`] have arrived gets its whole room at once up to this size;
/// a larger one grows by doubling.
const WHOLE_FRAME_BYTES_MAX: usize = 1024 * 1024;
/// What a connection gets even while the memory budget is spent.
const ALWAYS_GRANTED_BYTES: usize = 8 * 1024;
/// A waiting remainder below this is copied out of its larger buffer.
const SMALL_REMAINDER_BYTES: usize = 4 * 1024;

/// The buffer.
#[derive(Debug)]
pub(crate) struct Input {
    buffer: BytesMut,
    claim: Claim,
    frame_bytes_max: usize,
    /// Cut since the last [`Input::settle`].
    cut_bytes: usize,
    /// Room for the first read of the next turn.
    expected_bytes: usize,
}

impl Input {
    pub(crate) fn new(budget: Arc<MemoryBudget>, frame_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            claim: Claim::new(budget),
            frame_bytes_max,
            cut_bytes: 0,
            expected_bytes: READ_BYTES_MIN,
        }
    }

    /// Bytes read and not yet cut.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The buffer with room for a read, or `None` while the memory budget has none.
    pub(crate) fn room(&mut self) -> Option<&mut BytesMut> {
        let spare = self.buffer.capacity() - self.buffer.len();
        let missing = self.missing_bytes();
        if spare == 0
            || spare < missing.min(READ_BYTES / 4)
            || self.buffer.is_empty() && spare < self.expected_bytes / 4
        {
            let wanted = match self.buffer.len() {
                0 => self.expected_bytes,
                1..READ_BYTES => READ_BYTES,
                len => missing.min(len.max(WHOLE_FRAME_BYTES_MAX)).max(READ_BYTES),
            };
            let mut wanted = wanted;
            if !self.claim.resize(self.buffer.len() + wanted) {
                if self.buffer.len() >= ALWAYS_GRANTED_BYTES {
                    return None;
                }
                wanted = ALWAYS_GRANTED_BYTES;
                self.claim.force(self.buffer.len() + wanted);
            }
            self.buffer.reserve(wanted);
        }
        Some(&mut self.buffer)
    }

    /// The next complete frame, without its length bytes.
    pub(crate) fn cut(&mut self) -> Result<Option<Bytes>, CloseReason> {
        let Some(length) = self.announced()? else { return Ok(None) };
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(4 + length).freeze();
        drop(frame.split_to(4));
        self.cut_bytes += 4 + length;
        Ok(Some(frame))
    }

    /// The claim, for a frame that outlives the turn: a slice of the buffer keeps all of it in memory. What
    /// is not cut yet is claimed anew.
    pub(crate) fn take_claim(&mut self) -> Claim {
        let taken = self.claim.take();
        self.claim.force(self.buffer.capacity());
        taken
    }

    /// True if [`Input::cut`] would give a frame, or an error.
    pub(crate) fn has_frame(&self) -> bool {
        match self.announced() {
            Ok(None) => false,
            Ok(Some(length)) => self.buffer.len() >= 4 + length,
            Err(_) => true,
        }
    }

    /// After a turn: gives back what the remainder does not need.
    pub(crate) fn settle(&mut self) {
        // A turn that only sends says nothing of what comes.
        if self.cut_bytes > 0 {
            let twice = 2 * std::mem::take(&mut self.cut_bytes).min(READ_BYTES);
            self.expected_bytes = twice.next_power_of_two().clamp(READ_BYTES_MIN, READ_BYTES);
        }
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.claim.resize(0);
        } else if self.buffer.len() <= SMALL_REMAINDER_BYTES && self.buffer.capacity() > 2 * self.buffer.len()
        {
            self.buffer = BytesMut::from(&self.buffer[..]);
            self.claim.resize(self.buffer.len());
        }
    }

    fn announced(&self) -> Result<Option<usize>, CloseReason> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = i32::from_be_bytes(*head);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= self.frame_bytes_max => Ok(Some(bytes)),
            _ => Err(CloseReason::FrameLength(length)),
        }
    }

    /// Bytes that the frame at the front still lacks.
    fn missing_bytes(&self) -> usize {
        match self.announced() {
            Ok(Some(length)) => (4 + length).saturating_sub(self.buffer.len()),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> Input {
        Input::new(MemoryBudget::new(10 << 20), 1 << 20)
    }

    fn feed(input: &mut Input, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = input.room().expect("the budget suffices");
            let count = (room.capacity() - room.len()).min(rest.len());
            assert!(count > 0, "room() gives room");
            room.extend_from_slice(&rest[..count]);
            rest = &rest[count..];
        }
    }

    fn frame(length: usize) -> Vec<u8> {
        let mut bytes = i32::try_from(length).unwrap().to_be_bytes().to_vec();
        bytes.extend((0..length).map(|i| i as u8));
        bytes
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_split() {
        let lengths = [0usize, 1, 5, 70_000, 300_000, 3];
        let stream: Vec<u8> = lengths.iter().flat_map(|length| frame(*length)).collect();
        for step in [1usize, 7, 4_096, 100_000, stream.len()] {
            let budget = MemoryBudget::new(10 << 20);
            let mut input = Input::new(budget.clone(), 1 << 20);
            let mut seen = Vec::new();
            for piece in stream.chunks(step) {
                feed(&mut input, piece);
                while let Some(frame) = input.cut().unwrap() {
                    seen.push(frame.len());
                }
                input.settle();
            }
            assert_eq!(seen, lengths, "step {step}");
            assert_eq!(input.len(), 0);
            assert_eq!(budget.used_bytes(), 0);
        }
    }

    #[test]
    fn the_claim_of_a_frame_that_is_kept_lasts_as_long_as_its_holder_wants() {
        let budget = MemoryBudget::new(10 << 20);
        let mut input = Input::new(budget.clone(), 1 << 20);
        feed(&mut input, &frame(500_000));
        let kept = input.cut().unwrap().expect("it is whole");
        let claim = input.take_claim();
        input.settle();
        assert!(budget.used_bytes() >= kept.len(), "{}", budget.used_bytes());
        feed(&mut input, &frame(100));
        assert!(input.cut().unwrap().is_some());
        input.settle();
        assert!(budget.used_bytes() >= kept.len(), "{}", budget.used_bytes());
        drop((kept, claim));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn bad_lengths_close_and_reserve_nothing() {
        for length in [-1i32, i32::MIN, i32::MAX, (1 << 20) + 1] {
            let mut input = input();
            feed(&mut input, &length.to_be_bytes());
            assert_eq!(input.cut(), Err(CloseReason::FrameLength(length)));
        }
    }

    #[test]
    fn room_is_as_large_as_what_came_the_last_time() {
        let budget = MemoryBudget::new(10 << 20);
        let mut input = Input::new(budget.clone(), 1 << 20);
        let mut room_after = |lengths: &[usize]| {
            for length in lengths {
                feed(&mut input, &frame(*length));
                input.cut().unwrap().expect("it is whole");
            }
            input.settle();
            let room = input.room().expect("the budget suffices").capacity();
            input.settle();
            room
        };
        assert_eq!(room_after(&[]), READ_BYTES_MIN);
        assert_eq!(room_after(&[150; 3]), READ_BYTES_MIN);
        assert_eq!(room_after(&[10_000]), 32 * 1024);
        assert_eq!(room_after(&[100_000; 2]), READ_BYTES);
        assert_eq!(room_after(&[]), READ_BYTES, "a turn that only sends says nothing");
        assert_eq!(room_after(&[150]), READ_BYTES_MIN);
        drop(input);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn one_byte_pins_no_large_buffer() {
        let budget = MemoryBudget::new(10 << 20);
        let mut input = Input::new(budget.clone(), 1 << 20);
        feed(&mut input, &[0]);
        input.settle();
        assert!(input.buffer.capacity() <= 64, "{}", input.buffer.capacity());
        assert!(budget.used_bytes() <= 64);
    }

    #[test]
    fn without_budget_a_large_frame_stops_and_a_small_one_goes_on() {
        let mut input = Input::new(MemoryBudget::new(10), 100_000);
        let stream = frame(90_000);
        let mut read = 0;
        while let Some(room) = input.room() {
            let count = (room.capacity() - room.len()).min(stream.len() - read);
            room.extend_from_slice(&stream[read..read + count]);
            read += count;
            assert!(read <= 32 * 1024, "the budget is spent");
        }
        let mut small = Input::new(MemoryBudget::new(10), 100_000);
        feed(&mut small, &frame(1_000));
        assert!(small.cut().unwrap().is_some());
    }
}
