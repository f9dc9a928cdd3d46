//! What an interrupted deletion, cleaning or swap leaves in a partition's directory.
//!
//! As Kafka: `.deleted` and `.cleaned` go, and so does every `.swap` at or behind the lowest
//! `.cleaned` (its group was not complete); other swaps are finished: the segments between the
//! first offset and the last one that they hold go, then they take their names. A segment of
//! the group behind that, all of whose records went, may stay as it was: what it says is said
//! again later in the log, or of keys that are gone.

use std::ops::Range;
use std::path::{Path, PathBuf};

use klamm_protocol::ids::Offset;

use crate::disk::{Disk, OpenMode};
use crate::entry::{SCAN_BUFFER_BYTES, Walk};
use crate::error::LogError;
use crate::files::{self, CLEANED, DELETED, INDEX, LOG, SWAP, TIME_INDEX, TXN_INDEX};
use crate::open::{remove_if_there, remove_segment};

/// Finishes them; tells which files were touched.
pub(crate) fn finish(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let entries = disk.list_dir(dir).map_err(LogError::io("list", dir))?;
    let names: Vec<&str> = entries.iter().filter(|e| !e.is_dir).map(|e| e.name.as_str()).collect();
    let mut touched = Vec::new();
    let base_in = |name: &str| name.split_once('.').and_then(|(stem, _)| stem.parse().ok().map(Offset));
    let lowest_cleaned = names.iter().filter(|n| n.ends_with(CLEANED)).filter_map(|n| base_in(n)).min();
    let is_incomplete = |name: &str| {
        name.ends_with(SWAP)
            && lowest_cleaned.is_some_and(|lowest| base_in(name).is_none_or(|base| base >= lowest))
    };
    for name in names.iter().filter(|name| is_incomplete(name)) {
        remove_if_there(disk, &dir.join(name))?;
        touched.push(dir.join(name));
    }
    let sync = || disk.sync_dir(dir).map_err(LogError::io("sync", dir));
    if !touched.is_empty() {
        // Before the `.cleaned` goes that tells that they are incomplete.
        sync()?;
    }
    let mut swaps = Vec::new();
    for name in names.into_iter().filter(|name| !is_incomplete(name)) {
        if name.ends_with(DELETED) || name.ends_with(CLEANED) || name.ends_with(".tmp") {
            remove_if_there(disk, &dir.join(name))?;
            touched.push(dir.join(name));
        } else if name.ends_with(SWAP) {
            swaps.push(name);
            touched.push(dir.join(name));
        }
    }
    let mut replaced: Option<Range<Offset>> = None;
    for name in &swaps {
        let Some(base) = name.strip_suffix(SWAP).and_then(|name| files::base_of(name, LOG)) else { continue };
        let next = next_offset(disk, &dir.join(name))?.unwrap_or(base);
        // One swap at a time: several files belong together.
        let range = replaced.get_or_insert(base..next);
        *range = range.start.min(base)..range.end.max(next);
    }
    for entry in &entries {
        let Some(base) = files::base_of(&entry.name, LOG) else { continue };
        if replaced.as_ref().is_some_and(|range| range.contains(&base)) {
            remove_old(disk, dir, base, &swaps)?;
        }
    }
    if !swaps.is_empty() {
        // What is replaced must not come back beside what replaces it.
        sync()?;
    }
    // The batches first: while they are under a name that ends in `.swap`, no other file of the
    // segment is the new one.
    swaps.sort_by_key(|name| !name.ends_with(".log.swap"));
    for name in &swaps {
        let (from, to) = (dir.join(name), dir.join(name.strip_suffix(SWAP).unwrap_or(name)));
        disk.rename(&from, &to).map_err(LogError::io("rename", &from))?;
    }
    if !touched.is_empty() {
        sync()?;
    }
    Ok(touched)
}

/// Removes a segment that was replaced. Its producer snapshot holds for what has its place.
fn remove_old(disk: &dyn Disk, dir: &Path, base: Offset, swaps: &[&str]) -> Result<(), LogError> {
    let has_heir =
        swaps.iter().any(|name| name.strip_suffix(SWAP).and_then(|n| files::base_of(n, LOG)) == Some(base));
    if !has_heir {
        return remove_segment(disk, dir, base);
    }
    for suffix in [TXN_INDEX, TIME_INDEX, INDEX] {
        remove_if_there(disk, &files::segment_file(dir, base, suffix))?;
    }
    Ok(())
}

fn next_offset(disk: &dyn Disk, path: &Path) -> Result<Option<Offset>, LogError> {
    let file = disk.open(path, OpenMode::Read).map_err(LogError::io("open", path))?;
    let len = file.len().map_err(LogError::io("look at", path))?;
    let mut buffer = vec![0; SCAN_BUFFER_BYTES];
    let mut walk = Walk::new(&*file, 0, len, &mut buffer);
    let mut next = None;
    while let Some(entry) = walk.next().map_err(|error| error.into_log_error(path))? {
        next = Some(entry.next_offset());
    }
    Ok(next)
}
