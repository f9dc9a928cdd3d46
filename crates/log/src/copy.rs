//! Copying a partition's log into another directory while it is written.
//!
//! [`LogCopy::step`] follows the published view: segments byte by byte, the indexes of a segment once it is
//! closed. When it has nearly caught up the log is closed, and [`LogCopy::finish`] copies the rest. Bytes
//! are not looked into: reading checks them there as here. What was set aside goes along.
//!
//! Deliberately absent: names and what they mean (a copy on its way lies in a `-future` directory),
//! pace, and when to stop.
//!
//! **Invariants:** what `finish` leaves is durable and as the closed log was; a segment that was
//! replaced or went meanwhile is copied anew or goes from the copy too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_protocol::ids::{Offset, TopicId};

use crate::directory::partition_metadata;
use crate::disk::{Disk, DiskFile, OpenMode, write_all_at};
use crate::error::LogError;
use crate::files::{self, INDEX, LEADER_EPOCH_CHECKPOINT, LOG, SNAPSHOT, TIME_INDEX, TXN_INDEX};
use crate::open::{remove_if_there, remove_segment};
use crate::segment::{Segment, SegmentFile};
use crate::view::PartitionView;

/// Read and written at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// A copy on its way.
pub struct LogCopy {
    disk: Arc<dyn Disk>,
    from: PathBuf,
    to: PathBuf,
    segments: BTreeMap<Offset, Copied>,
}

struct Copied {
    source: Arc<SegmentFile>,
    target: Arc<dyn DiskFile>,
    bytes: u32,
    /// The segment was closed, and all of it is durable here.
    is_whole: bool,
}

impl LogCopy {
    /// Makes the directory `to` for a copy of the log in `from`.
    pub fn begin(disk: Arc<dyn Disk>, from: &Path, to: &Path, topic: TopicId) -> Result<Self, LogError> {
        disk.create_dir_all(to).map_err(LogError::io("create", to))?;
        partition_metadata::write(&*disk, to, topic)?;
        if let Some(parent) = to.parent() {
            disk.sync_dir(parent).map_err(LogError::io("sync", parent))?;
        }
        let copy = Self { disk, from: from.to_owned(), to: to.to_owned(), segments: BTreeMap::new() };
        // What was set aside is added to at starts only.
        for entry in copy.disk.list_dir(from).map_err(LogError::io("list", from))? {
            if !entry.is_dir && files::is_kept(&entry.name) {
                copy.copy_whole(&entry.name)?;
            }
        }
        Ok(copy)
    }

    /// Copies at most about `bytes_max` of what is published; tells how many bytes are still to copy.
    pub fn step(&mut self, view: &PartitionView, bytes_max: u64) -> Result<u64, LogError> {
        let (limits, segments) = view.load();
        self.forget_gone(&segments)?;
        let mut budget = bytes_max;
        let mut left = 0;
        for segment in segments.iter() {
            let is_active = segment.base_offset() >= limits.end.segment_base;
            let size = match segment.base_offset() == limits.end.segment_base {
                true => limits.end.position,
                false => segment.size_bytes(),
            };
            match self.copy_segment(segment, size, !is_active, &mut budget) {
                Ok(still) => left += still,
                // It went while it was read: the next step sees it.
                Err(_) if !is_in(view, segment) => left += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    /// Bytes of records that are there.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.segments.values().map(|copied| u64::from(copied.bytes)).sum()
    }

    /// Copies the rest of a log that was closed and was `view`'s, and makes all of it durable.
    pub fn finish(mut self, view: &PartitionView) -> Result<(), LogError> {
        while self.step(view, u64::MAX)? > 0 {}
        let names = self.disk.list_dir(&self.from).map_err(LogError::io("list", &self.from))?;
        for (base, copied) in &self.segments {
            if !copied.is_whole {
                self.copy_indexes(*base)?;
                copied.target.sync_all().map_err(LogError::io("flush", &self.path_of(*base)))?;
            }
        }
        for entry in names.iter().filter(|entry| !entry.is_dir) {
            if entry.name == LEADER_EPOCH_CHECKPOINT || files::base_of(&entry.name, SNAPSHOT).is_some() {
                self.copy_whole(&entry.name)?;
            }
        }
        self.disk.sync_dir(&self.to).map_err(LogError::io("sync", &self.to))
    }

    fn path_of(&self, base: Offset) -> PathBuf {
        files::segment_file(&self.to, base, LOG)
    }

    fn forget_gone(&mut self, segments: &[Arc<Segment>]) -> Result<(), LogError> {
        let is_there = |copied: &Copied| segments.iter().any(|one| Arc::ptr_eq(one.file(), &copied.source));
        let gone: Vec<Offset> =
            self.segments.iter().filter(|(_, copied)| !is_there(copied)).map(|(base, _)| *base).collect();
        for base in gone {
            self.segments.remove(&base);
            remove_segment(&*self.disk, &self.to, base)?;
        }
        Ok(())
    }

    /// Tells how many bytes of the segment are still to copy.
    fn copy_segment(
        &mut self,
        segment: &Segment,
        size: u32,
        is_closed: bool,
        budget: &mut u64,
    ) -> Result<u64, LogError> {
        let base = segment.base_offset();
        let path = self.path_of(base);
        if !self.segments.contains_key(&base) {
            let target = self.disk.open(&path, OpenMode::Create).map_err(LogError::io("create", &path))?;
            let source = Arc::clone(segment.file());
            self.segments.insert(base, Copied { source, target, bytes: 0, is_whole: false });
        }
        let copied = self.segments.get_mut(&base).expect("it was put there");
        if copied.is_whole {
            return Ok(0);
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        while copied.bytes < size && *budget > 0 {
            let wanted = CHUNK_BYTES.min((size - copied.bytes) as usize);
            let source = copied.source.get().map_err(LogError::io("open", copied.source.path()))?;
            let read = source.read_at(&mut buffer[..wanted], u64::from(copied.bytes));
            let count = read.map_err(LogError::io("read", copied.source.path()))?;
            if count == 0 {
                let error =
                    io::Error::new(io::ErrorKind::UnexpectedEof, "the segment is shorter than it was");
                return Err(LogError::io("read", copied.source.path())(error));
            }
            write_all_at(&*copied.target, &buffer[..count], u64::from(copied.bytes))
                .map_err(LogError::io("write", &path))?;
            copied.bytes += u32::try_from(count).expect("at most a chunk");
            *budget = budget.saturating_sub(count as u64);
        }
        let left = u64::from(size - copied.bytes.min(size));
        if left == 0 && is_closed {
            copied.target.sync_all().map_err(LogError::io("flush", &path))?;
            self.copy_indexes(base)?;
            self.segments.get_mut(&base).expect("it is there").is_whole = true;
        }
        Ok(left)
    }

    fn copy_indexes(&self, base: Offset) -> Result<(), LogError> {
        [INDEX, TIME_INDEX, TXN_INDEX].iter().try_for_each(|suffix| {
            let name = files::segment_file(Path::new(""), base, suffix);
            self.copy_whole(&name.to_string_lossy())
        })
    }

    /// A small file, durably; nothing if it is not there.
    fn copy_whole(&self, name: &str) -> Result<(), LogError> {
        let (from, to) = (self.from.join(name), self.to.join(name));
        let source = match self.disk.open(&from, OpenMode::Read) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LogError::io("open", &from)(error)),
        };
        remove_if_there(&*self.disk, &to)?;
        let target = self.disk.open(&to, OpenMode::CreateNew).map_err(LogError::io("create", &to))?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut position = 0;
        loop {
            let count = source.read_at(&mut buffer, position).map_err(LogError::io("read", &from))?;
            if count == 0 {
                return target.sync_all().map_err(LogError::io("flush", &to));
            }
            write_all_at(&*target, &buffer[..count], position).map_err(LogError::io("write", &to))?;
            position += count as u64;
        }
    }
}

fn is_in(view: &PartitionView, segment: &Arc<Segment>) -> bool {
    view.load().1.iter().any(|one| Arc::ptr_eq(one.file(), segment.file()))
}
