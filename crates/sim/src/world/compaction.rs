//! Compacting the log as a cleaner thread does, with what may happen beside it.

use klamm_log::cleaner::{CleanSettings, CleanableRange, Lags, Step};
use klamm_log::directory::OffsetCheckpoint;
use klamm_log::disk::Draw;
use klamm_protocol::ids::{Offset, PartitionIndex};
use klamm_protocol::time::WallMs;

use super::{Outcome, World, text};

/// `delete.retention.ms`: tombstones and markers outlive a few cleanings.
const DELETE_RETENTION_MS: i64 = 300;

impl World {
    pub(super) fn compact(&mut self, ms: u8, seed: u64) -> Outcome {
        let mut draw = Draw::new(seed);
        self.now = WallMs(self.now.0 + i64::from(ms));
        // As if never cleaned before, now and then: what was clean is gone through again.
        let checkpoint = if draw.below(4) == 0 { None } else { self.cleaned_up_to()? };
        let lags = Lags { min_ms: 0, max_ms: i64::MAX, now: self.now };
        let range = CleanableRange::of(&self.log().view(), checkpoint, &lags).map_err(text)?;
        let settings = CleanSettings {
            // A map that is full now and then: a part of the dirty segments is cleaned.
            map_bytes: if draw.below(4) == 0 { 1 } else { 1 << 20 },
            load_factor: if draw.below(2) == 0 { 0.25 } else { 0.9 },
            buffer_bytes: 512,
            delete_retention_ms: DELETE_RETENTION_MS,
            now: self.now,
            hash_key: u128::from(seed),
        };
        let high_watermark = self.log().view().limits().high_watermark.offset.0;
        let mut cleaning = self.log().begin_cleaning(range, settings).map_err(text)?;
        cleaning.step().map_err(text)?;
        // It takes away only what is durable.
        self.note_promise()?;
        self.history.cleaned(range.first_uncleanable.0, high_watermark);
        let done = loop {
            let step = match cleaning.step() {
                Ok(step) => step,
                Err(error) => break Err(error.to_string()),
            };
            match step {
                Step::Working { .. } => {
                    if let Err(error) = self.disturb(&mut draw) {
                        break Err(error);
                    }
                }
                Step::Swap(group) => match self.log().replace_segments(&group) {
                    // Who removes them later dies before that, now and then.
                    Ok(Some(replaced)) if draw.below(4) > 0 => {
                        if let Err(error) = replaced.remove() {
                            self.log = None;
                            return Err(error.to_string());
                        }
                    }
                    Ok(_) => {}
                    Err(error) => break Err(error.to_string()),
                },
                Step::Done(end) => break Ok(end),
                Step::Overtaken => return cleaning.abandon().map_err(text),
            }
        };
        match done {
            Ok(end) => {
                let cleaned = OffsetCheckpoint::from([(("t".to_owned(), PartitionIndex(0)), end)]);
                self.directory().write_cleaner_offsets(&cleaned).map_err(text)
            }
            Err(error) => {
                // What it leaves behind goes at the next start, if it does not go now.
                let _ = cleaning.abandon();
                Err(error)
            }
        }
    }

    fn cleaned_up_to(&self) -> Result<Option<Offset>, String> {
        let cleaned = self.directory().cleaner_offsets().map_err(text)?;
        Ok(cleaned.get(&("t".to_owned(), PartitionIndex(0))).copied())
    }

    /// What may happen to a log between two pieces of a longer work on it.
    pub(super) fn disturb(&mut self, draw: &mut Draw) -> Outcome {
        match draw.below(24) {
            0 => self.append(1 + draw.below(3) as u8, draw.next_u64()),
            1 => {
                self.log().flush().map_err(text)?;
                self.flushed()
            }
            2 if !self.has_producers => self.advance_start(draw.below(128) as u8),
            _ => Ok(()),
        }
    }
}
