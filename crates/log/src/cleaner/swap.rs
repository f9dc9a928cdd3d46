//! Puts cleaned segments in the place of those they were made of.
//!
//! On disk as Kafka does it, so that either finishes what the other began: `.cleaned`
//! becomes `.swap`, the old segments become `.deleted`, `.swap` becomes final. The directory
//! is synced between these, so that a power cut cannot mix them: while a `.cleaned` is there
//! nothing has happened, from then on [`crate::leftovers`] finishes it.
//!
//! Invariants: readers get the new segments, with their files open, before an old name goes;
//! limits that lie in an old segment move behind it; after a failure half way the log
//! refuses to go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_protocol::ids::Offset;

use crate::disk::Disk;
use crate::error::LogError;
use crate::files::{self, CLEANED, DELETED, INDEX, LOG, SWAP, TIME_INDEX, TXN_INDEX};
use crate::limits::{Limits, LogPosition};
use crate::log::Log;
use crate::open::remove_if_there;
use crate::producer::snapshot_path;
use crate::segment::Segment;
use crate::view::Segments;

/// What a cleaned segment's files are, the batches first: as long as they are under a name
/// that ends in `.swap`, no other file of the segment has its final name yet.
const SUFFIXES: [&str; 4] = [LOG, INDEX, TIME_INDEX, TXN_INDEX];

/// Segments that were cleaned, durable as `.cleaned` files, and what they were made of.
#[must_use = "nothing changes before Log::replace_segments"]
pub struct CleanedGroup {
    pub(super) sources: Vec<Arc<Segment>>,
    pub(super) outputs: Vec<Arc<Segment>>,
}

/// What is left of a swap that is done: files nobody needs.
#[must_use = "the space of the old segments is given back by Replaced::remove"]
pub struct Replaced {
    disk: Arc<dyn Disk>,
    deleted: Vec<PathBuf>,
}

impl Log {
    /// Replaces segments by what was made of them. `None`, and the cleaned files go, if the
    /// log has changed there since.
    ///
    /// # Errors
    /// The log refuses to go on: its files are half way.
    pub fn replace_segments(&mut self, group: &CleanedGroup) -> Result<Option<Replaced>, LogError> {
        self.refuse_if_poisoned()?;
        let segments = self.view.segments();
        let Some(first) = find(&segments, &group.sources) else {
            discard(&*self.disk, &self.dir, group)?;
            return Ok(None);
        };
        let result = self.swap(&segments, first, group);
        result.map(Some).inspect_err(|error| self.poison(error.to_string()))
    }

    fn swap(
        &mut self,
        segments: &Segments,
        first: usize,
        group: &CleanedGroup,
    ) -> Result<Replaced, LogError> {
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        self.refuse_other_cleaned(group)?;
        // Of several, the lowest last: until it is done, recovery undoes all.
        for output in group.outputs.iter().rev() {
            rename_all(&*disk, &dir, output.base_offset(), CLEANED, SWAP)?;
            sync(&*disk, &dir)?;
        }
        let behind = &segments[first + group.sources.len()..];
        let list = |outputs: Vec<Arc<Segment>>| {
            let kept = segments[..first].iter().cloned();
            Segments::new(kept.chain(outputs).chain(behind.iter().cloned()).collect())
        };
        self.view.publish_segments(list(group.outputs.clone()));
        self.move_limits(group, behind[0].base_offset());
        self.version += 1;
        let mut deleted = Vec::with_capacity(group.sources.len());
        for source in &group.sources {
            let from = files::segment_file(&dir, source.base_offset(), LOG);
            let to = files::segment_file(&dir, source.base_offset(), &format!("{LOG}{DELETED}"));
            disk.rename(&from, &to).map_err(LogError::io("rename", &from))?;
            deleted.push(to);
        }
        sync(&*disk, &dir)?;
        for output in &group.outputs {
            rename_all(&*disk, &dir, output.base_offset(), SWAP, "")?;
        }
        let is_replaced = |base: Offset| group.outputs.iter().all(|output| output.base_offset() != base);
        for base in group.sources.iter().map(|source| source.base_offset()).filter(|base| is_replaced(*base))
        {
            for suffix in [INDEX, TIME_INDEX, TXN_INDEX] {
                remove_if_there(&*disk, &files::segment_file(&dir, base, suffix))?;
            }
            remove_if_there(&*disk, &snapshot_path(&dir, base))?;
        }
        sync(&*disk, &dir)?;
        let named = group.outputs.iter().map(|output| Arc::new(output.to_closed(&disk, &dir)));
        self.view.publish_segments(list(named.collect()));
        Ok(Replaced { disk, deleted })
    }

    /// A `.cleaned` of somebody else would make recovery undo this swap.
    fn refuse_other_cleaned(&self, group: &CleanedGroup) -> Result<(), LogError> {
        let entries = self.disk.list_dir(&self.dir).map_err(LogError::io("list", &self.dir))?;
        for entry in entries.iter().filter(|entry| entry.name.ends_with(CLEANED)) {
            let path = self.dir.join(&entry.name);
            let is_ours = group.outputs.iter().any(|output| {
                SUFFIXES.iter().any(|s| {
                    files::segment_file(&self.dir, output.base_offset(), &format!("{s}{CLEANED}")) == path
                })
            });
            if !is_ours {
                remove_if_there(&*self.disk, &path)?;
            }
        }
        Ok(())
    }

    /// A limit at the end of a replaced segment names the same offset at the start of `next`.
    fn move_limits(&self, group: &CleanedGroup, next: Offset) {
        let at = LogPosition { offset: next, segment_base: next, position: 0 };
        let moved = |limit: LogPosition| {
            let is_in = group.sources.iter().any(|source| source.base_offset() == limit.segment_base);
            // All of what came out is durable, and all of it may be read.
            if is_in && limit.offset <= next { at } else { limit }
        };
        self.view.advance(|now| {
            let high_watermark = moved(now.high_watermark);
            Some(Limits { flushed: moved(now.flushed), high_watermark, ..*now })
        });
    }
}

impl CleanedGroup {
    /// Bytes of the segments that came out.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.outputs.iter().map(|output| u64::from(output.size_bytes())).sum()
    }
}

impl Replaced {
    /// Removes the old segments' files. Who reads them goes on: they are open.
    pub fn remove(self) -> Result<(), LogError> {
        self.deleted.iter().try_for_each(|path| remove_if_there(&*self.disk, path))
    }
}

/// Where `sources` stand in the log, the very same and followed by another.
fn find(segments: &Segments, sources: &[Arc<Segment>]) -> Option<usize> {
    let first = segments.floor(sources.first()?.base_offset());
    let there = segments.get(first..first + sources.len())?;
    let is_same = there.iter().zip(sources).all(|(here, source)| Arc::ptr_eq(here, source));
    (is_same && first + sources.len() < segments.len()).then_some(first)
}

fn discard(disk: &dyn Disk, dir: &Path, group: &CleanedGroup) -> Result<(), LogError> {
    group.outputs.iter().try_for_each(|output| {
        SUFFIXES.iter().try_for_each(|suffix| {
            let name = format!("{suffix}{CLEANED}");
            remove_if_there(disk, &files::segment_file(dir, output.base_offset(), &name))
        })
    })
}

fn rename_all(disk: &dyn Disk, dir: &Path, base: Offset, from: &str, to: &str) -> Result<(), LogError> {
    for suffix in SUFFIXES {
        let old = files::segment_file(dir, base, &format!("{suffix}{from}"));
        let new = files::segment_file(dir, base, &format!("{suffix}{to}"));
        disk.rename(&old, &new).map_err(LogError::io("rename", &old))?;
    }
    Ok(())
}

fn sync(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))
}
