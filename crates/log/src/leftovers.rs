//! What an interrupted deletion, cleaning or swap leaves in a partition's directory.
//!
//! As Kafka: `.deleted` and `.cleaned` go, and so does every `.swap` at or behind the lowest
//! `.cleaned` (its group was not complete); other swaps are finished: the segments they
//! replace go, then they take their names.

use std::path::{Path, PathBuf};

use klamm_protocol::ids::Offset;

use crate::disk::{Disk, OpenMode};
use crate::entry::{SCAN_BUFFER_BYTES, Walk};
use crate::error::LogError;
use crate::files::{self, CLEANED, DELETED, LOG, SWAP};
use crate::open::{remove_if_there, remove_segment};

/// Finishes them; tells which files were touched.
pub(crate) fn finish(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let entries = disk.list_dir(dir).map_err(LogError::io("list", dir))?;
    let names: Vec<&str> = entries.iter().filter(|e| !e.is_dir).map(|e| e.name.as_str()).collect();
    let mut touched = Vec::new();
    let base_in = |name: &str| name.split_once('.').and_then(|(stem, _)| stem.parse().ok().map(Offset));
    let lowest_cleaned = names.iter().filter(|n| n.ends_with(CLEANED)).filter_map(|n| base_in(n)).min();
    let mut swaps = Vec::new();
    for name in names {
        let is_incomplete = name.ends_with(SWAP)
            && lowest_cleaned.is_some_and(|lowest| base_in(name).is_none_or(|base| base >= lowest));
        if name.ends_with(DELETED) || name.ends_with(CLEANED) || name.ends_with(".tmp") || is_incomplete {
            remove_if_there(disk, &dir.join(name))?;
            touched.push(dir.join(name));
        } else if name.ends_with(SWAP) {
            swaps.push(name);
            touched.push(dir.join(name));
        }
    }
    let bases = |suffix: &str| -> Vec<Offset> {
        entries.iter().filter_map(|entry| files::base_of(&entry.name, suffix)).collect()
    };
    for name in swaps.iter().filter(|name| name.strip_suffix(SWAP).is_some_and(|n| n.ends_with(LOG))) {
        let Some(base) = name.strip_suffix(SWAP).and_then(|name| files::base_of(name, LOG)) else { continue };
        let next = next_offset(disk, &dir.join(name))?.unwrap_or(base);
        for replaced in bases(LOG).into_iter().filter(|other| *other > base && *other < next) {
            remove_segment(disk, dir, replaced)?;
        }
    }
    // Indexes first: a batch file under its own name has its indexes beside it or none.
    swaps.sort_by_key(|name| name.ends_with(".log.swap"));
    for name in &swaps {
        let (from, to) = (dir.join(name), dir.join(name.strip_suffix(SWAP).unwrap_or(name)));
        disk.rename(&from, &to).map_err(LogError::io("rename", &from))?;
    }
    if !touched.is_empty() {
        disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    }
    Ok(touched)
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
