//! What lies behind the last batch that can be believed.
//!
//! A torn write leaves a prefix of batches, prefilled room leaves zeros; both may be cut.
//! A valid batch behind an invalid one is neither: that is corruption, and somebody may
//! want the bytes. The search tries every byte, because a broken length hides where the
//! next batch begins; a false find only keeps a tail that could have been cut.

use std::io;
use std::path::Path;

use klamm_protocol::ids::Offset;
use klamm_protocol::records::BATCH_HEADER_BYTES;

use crate::disk::{Disk, OpenMode, ReadAt, read_full_at, write_all_at};
use crate::entry::{Entry, is_intact};

const CHUNK_BYTES: usize = 1 << 20;
/// Offsets of batches behind the fault lie within so many of what was expected there.
const OFFSETS_AHEAD_MAX: i64 = 1 << 31;

/// What lies behind the last batch that can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Room that was filled beforehand.
    Zeros,
    /// A write that broke off.
    NothingValid,
    /// Corruption.
    ValidBehind,
}

/// Looks through the bytes from `position` to `len`, where a batch with an offset of at
/// least `expected` should begin but does not.
pub fn examine(file: &dyn ReadAt, position: u64, len: u64, expected: Offset) -> io::Result<Kind> {
    let (is_zero, found) = look_through(file, position, len, expected)?;
    Ok(match found {
        Some(_) => Kind::ValidBehind,
        None if is_zero => Kind::Zeros,
        None => Kind::NothingValid,
    })
}

/// True if there is nothing but zeros from `position` to `len`.
pub(crate) fn is_zero(file: &dyn ReadAt, position: u64, len: u64) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = position;
    while at < len {
        let wanted = ((len - at) as usize).min(CHUNK_BYTES);
        let read = read_full_at(file, &mut chunk[..wanted], at)?;
        if read == 0 || chunk[..read].iter().any(|byte| *byte != 0) {
            return Ok(read == 0);
        }
        at += read as u64;
    }
    Ok(true)
}

/// The first valid batch behind `position`, with an offset of at least `expected`.
pub(crate) fn next_valid(
    file: &dyn ReadAt,
    position: u64,
    len: u64,
    expected: Offset,
) -> io::Result<Option<Entry>> {
    Ok(look_through(file, position, len, expected)?.1)
}

/// Whether all up to the valid batch that was found is zero, and that batch.
fn look_through(
    file: &dyn ReadAt,
    position: u64,
    len: u64,
    expected: Offset,
) -> io::Result<(bool, Option<Entry>)> {
    let mut is_zero = true;
    let mut at = position;
    let mut chunk = vec![0; CHUNK_BYTES + BATCH_HEADER_BYTES];
    while at < len {
        let read = read_full_at(file, &mut chunk, at)?;
        let bytes = &chunk[..read.min((len - at) as usize)];
        if bytes.is_empty() {
            break;
        }
        is_zero &= bytes.iter().all(|byte| *byte == 0);
        if !is_zero {
            for start in 0..bytes.len().min(CHUNK_BYTES) {
                // The bad batch itself begins at `position`.
                if at + start as u64 > position
                    && begins_batch(&bytes[start..])
                    && let Some(entry) = valid_at(file, at + start as u64, len, expected)?
                {
                    return Ok((is_zero, Some(entry)));
                }
            }
        }
        at += CHUNK_BYTES as u64;
    }
    Ok((is_zero, None))
}

/// Copies the bytes from `position` to `len` into a file of their own, durably.
pub(crate) fn copy(disk: &dyn Disk, file: &dyn ReadAt, position: u64, len: u64, to: &Path) -> io::Result<()> {
    let target = disk.open(to, OpenMode::CreateNew)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = position;
    while at < len {
        let wanted = ((len - at) as usize).min(CHUNK_BYTES);
        let read = read_full_at(file, &mut chunk[..wanted], at)?;
        if read == 0 {
            break;
        }
        write_all_at(&*target, &chunk[..read], at - position)?;
        at += read as u64;
    }
    target.sync_all()
}

/// A cheap look that nearly all positions fail: magic 2, and offset and length that begin
/// with zeros as those of every batch below 2^48 offsets and 16 MiB^2 do.
fn begins_batch(bytes: &[u8]) -> bool {
    bytes.len() >= BATCH_HEADER_BYTES
        && bytes[16] == 2
        && bytes[0] == 0
        && bytes[1] == 0
        && bytes[8] & 0x80 == 0
}

/// The batch that begins at a position, if one does.
pub(crate) fn valid_at(
    file: &dyn ReadAt,
    position: u64,
    len: u64,
    expected: Offset,
) -> io::Result<Option<Entry>> {
    let mut head = [0; BATCH_HEADER_BYTES];
    if read_full_at(file, &mut head, position)? < head.len() {
        return Ok(None);
    }
    let Ok(entry) = Entry::parse(&head, position, len - position) else { return Ok(None) };
    let ahead = entry.base_offset.0.saturating_sub(expected.0);
    if !(0..OFFSETS_AHEAD_MAX).contains(&ahead) {
        return Ok(None);
    }
    Ok(is_intact(file, &entry)?.then_some(entry))
}
