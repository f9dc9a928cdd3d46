//! A bit that flips on the device, in bytes that a CRC covers.
//!
//! Below the recovery point that was written down the batch is refused from then on, its bytes stay
//! where they are, and everything around it is served. Behind that point the next start cuts the
//! log there, and all that was durable behind lies in a file beside it for good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use klamm_log::Quarantined;
use klamm_log::disk::{Disk, Draw};
use klamm_protocol::ids::{Offset, PartitionIndex};

use super::{Outcome, World, text};
use crate::history::Batch;

/// Where the bytes begin that a batch's CRC covers.
const CRC_START: u64 = 21;
/// More than a log's file ever has.
const FILE_BYTES_MAX: u64 = 1 << 24;

/// What was damaged.
#[derive(Default)]
pub(super) struct Damage {
    /// Batches that a reader may be refused, as they were written, by their base offset; and as
    /// they are.
    refused: BTreeMap<i64, (Batch, Vec<u8>)>,
    /// Where the next start must cut the log.
    pub(super) cuts_at: Option<i64>,
    /// Batches that were cut with it, as they are.
    set_aside: Vec<Vec<u8>>,
}

impl Damage {
    pub(super) fn is_none(&self) -> bool {
        self.refused.is_empty()
    }
}

impl World {
    /// Damages a batch below the recovery point, or one behind it with others behind itself.
    pub(super) fn corrupt(&mut self, seed: u64, is_below_point: bool) -> Outcome {
        if is_below_point {
            self.checkpoint()?;
        }
        let points = self.directory().recovery_points().map_err(text)?;
        let point = points.get(&("t".to_owned(), PartitionIndex(0))).map_or(0, |point| point.0);
        let live = &self.history.live;
        let durable: Vec<&Batch> =
            live.readable().filter(|batch| batch.next() <= self.history.durable_end).collect();
        let last = durable.last().map_or(0, |batch| batch.base());
        let is_candidate = |batch: &&&Batch| match is_below_point {
            true => batch.next() <= point && !self.damage.refused.contains_key(&batch.base()),
            false => batch.base() >= point && batch.base() < last,
        };
        let candidates: Vec<&Batch> = durable.iter().filter(is_candidate).copied().collect();
        let mut draw = Draw::new(seed);
        if candidates.is_empty() {
            return Ok(());
        }
        let batch = candidates[draw.below(candidates.len() as u64) as usize].clone();
        let mut damaged = batch.bytes.clone();
        let at = CRC_START + draw.below(damaged.len() as u64 - CRC_START);
        let bit = 1 << draw.below(8);
        damaged[at as usize] ^= bit;
        let durable_behind = durable.iter().filter(|other| other.base() > batch.base());
        let durable_behind: Vec<Vec<u8>> = durable_behind.map(|other| other.bytes.clone()).collect();
        let view = self.log().view();
        let region = view.read(Offset(batch.base()), view.limits().end, 1, true).map_err(text)?;
        let region = region.ok_or("nothing to damage")?;
        self.disk
            .tamper(region.file.path(), |bytes| bytes[(region.position + at) as usize] ^= bit)
            .map_err(text)?;
        if is_below_point {
            self.damage.refused.insert(batch.base(), (batch, damaged));
        } else {
            self.damage.cuts_at = Some(batch.base());
            self.damage.set_aside = [vec![damaged], durable_behind].concat();
        }
        Ok(())
    }

    /// The batch in a range that a reader was refused, as it was written.
    pub(super) fn refused(&self, path: &Path, range: &Quarantined) -> Result<Batch, String> {
        let unknown = || format!("{range:?} is refused");
        let (batch, damaged) = self.damage.refused.get(&range.offset.0).ok_or_else(unknown)?;
        if batch.next() != range.end_offset.0 {
            return Err(unknown());
        }
        let bytes = self.disk.read_file(path, FILE_BYTES_MAX).map_err(text)?;
        match bytes.get(range.position as usize..range.end_position as usize) {
            Some(there) if there == damaged => Ok(batch.clone()),
            _ => Err(format!("the bytes of {range:?} are not there any more")),
        }
    }

    /// What starts have set aside is there.
    pub(super) fn check_set_aside(&self) -> Outcome {
        if self.damage.set_aside.is_empty() || self.damage.cuts_at.is_some() {
            return Ok(());
        }
        let dir = self.log_path();
        let mut files = Vec::new();
        let entries = self.disk.list_dir(&dir).map_err(text)?;
        for entry in entries.iter().filter(|entry| entry.name.contains(".log")) {
            files.push(self.disk.read_file(&dir.join(&entry.name), FILE_BYTES_MAX).map_err(text)?);
        }
        let there: BTreeSet<&[u8]> = files.iter().flat_map(|file| batches_in(file)).collect();
        match self.damage.set_aside.iter().position(|bytes| !there.contains(&bytes[..])) {
            None => Ok(()),
            Some(lost) => Err(format!("batch {lost} of those that were set aside is gone")),
        }
    }
}

/// A file's batches, by their lengths.
fn batches_in(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = file;
    std::iter::from_fn(move || {
        let length = u32::from_be_bytes(*rest.get(8..)?.first_chunk()?);
        let (batch, behind) = rest.split_at_checked(length as usize + 12)?;
        rest = behind;
        Some(batch)
    })
}
