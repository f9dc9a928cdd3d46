//! One cleaning of one log, in steps: map the dirty keys, then rewrite group after group.
//!
//! A step reads or writes about one buffer and returns, so that its caller can throttle,
//! stop, or do something else. It runs beside appends: it reads closed segments, durable
//! before they are touched, and writes `.cleaned` files. A finished group is handed out to
//! be swapped under the appender's role.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use klamm_protocol::ids::{Offset, ProducerId};
use klamm_protocol::records::BatchRewriter;
use klamm_protocol::time::WallMs;

use super::filter::{DECOMPRESSED_BYTES_MAX, Filter, LastOfProducer, last_of_producers};
use super::group::{Size, group};
use super::key_map::KeyMap;
use super::last_offsets::LastOffsets;
use super::range::CleanableRange;
use super::reader::Reader;
use super::rewrite::{Place, Rewrite};
use super::swap::CleanedGroup;
use super::transactions::Transactions;
use crate::entry::{Entry, WalkError};
use crate::error::LogError;
use crate::files::{self, CLEANED, INDEX, TIME_INDEX};
use crate::log::Log;
use crate::marker::end_marker;
use crate::open::{read_failed, remove_if_there};
use crate::past_cache::Held;
use crate::segment::Segment;
use crate::view::PartitionView;

/// What a cleaning goes by.
#[derive(Clone, Debug)]
pub struct CleanSettings {
    /// Memory for the key map: `log.cleaner.dedupe.buffer.size` divided by the threads.
    pub map_bytes: u64,
    /// `log.cleaner.io.buffer.load.factor`.
    pub load_factor: f64,
    /// What is read and written at once.
    pub buffer_bytes: usize,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// The time, from which delete horizons count.
    pub now: WallMs,
    /// Random: the key of the keys' hash.
    pub hash_key: u128,
}

/// What a cleaning did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CleanStats {
    /// Bytes read to map keys.
    pub mapped_bytes: u64,
    /// Keys in the map.
    pub key_count: u64,
    /// How much of the map's slots is used, from 0 to 1.
    pub map_utilization: f64,
    /// Bytes read to be filtered.
    pub read_bytes: u64,
    /// Bytes that stayed.
    pub written_bytes: u64,
    /// Records read to be filtered.
    pub read_records: u64,
    /// Records that stayed.
    pub kept_records: u64,
}

/// What a step came to.
pub enum Step {
    /// There is more to do; so many bytes were read and written.
    Working {
        /// For the throttle.
        io_bytes: u64,
    },
    /// A group waits to be swapped: go on with [`Cleaning::step`] when that is done.
    Swap(CleanedGroup),
    /// Everything below this offset is clean.
    Done(Offset),
    /// Retention or a truncation took what was to be cleaned: to be abandoned.
    Overtaken,
}

/// A cleaning under way.
pub struct Cleaning {
    place: Place,
    settings: CleanSettings,
    range: CleanableRange,
    view: Arc<PartitionView>,
    /// The closed segments below the first uncleanable offset.
    segments: Vec<Arc<Segment>>,
    producers: BTreeMap<ProducerId, LastOfProducer>,
    high_watermark: Offset,
    /// Where the log ended when this began: what it goes by lies below.
    log_end: Offset,
    map: KeyMap,
    phase: Phase,
    reader: Reader,
    rewriter: BatchRewriter,
    stats: CleanStats,
    repaired: Vec<PathBuf>,
}

enum Phase {
    Begin,
    Map { segment: usize, position: u32, transactions: Transactions },
    Groups(Box<Groups>),
}

struct Groups {
    left: VecDeque<Vec<Arc<Segment>>>,
    rewrite: Option<Rewrite>,
    transactions: Transactions,
    last_offsets: LastOffsets,
}

impl Log {
    /// Begins a cleaning of `range`. Does no I/O.
    pub fn begin_cleaning(
        &self,
        range: CleanableRange,
        settings: CleanSettings,
    ) -> Result<Cleaning, LogError> {
        self.refuse_if_poisoned()?;
        let (limits, segments) = self.view.load();
        let is_below = |segment: &&Arc<Segment>| segment.base_offset() < range.first_uncleanable;
        let closed = &segments[..segments.len() - 1];
        Ok(Cleaning {
            place: Place {
                disk: Arc::clone(&self.disk),
                dir: self.dir.clone(),
                config: self.config.clone(),
                buffer_bytes: settings.buffer_bytes,
                now: settings.now,
            },
            view: Arc::clone(&self.view),
            segments: closed.iter().take_while(is_below).cloned().collect(),
            producers: last_of_producers(&self.producers, limits.high_watermark.offset),
            high_watermark: limits.high_watermark.offset,
            log_end: limits.end.offset,
            map: KeyMap::new(settings.map_bytes, settings.load_factor, &range.dirty(), settings.hash_key),
            phase: Phase::Begin,
            reader: Reader::new(settings.buffer_bytes),
            rewriter: BatchRewriter::new(),
            stats: CleanStats::default(),
            repaired: Vec::new(),
            settings,
            range,
        })
    }
}

impl Cleaning {
    /// Does the next piece of work. May block.
    ///
    /// # Errors
    /// What cannot be read or written; then nothing more can be done but
    /// [`Cleaning::abandon`].
    pub fn step(&mut self) -> Result<Step, LogError> {
        let step = match &mut self.phase {
            Phase::Begin => self.begin(),
            Phase::Map { .. } => self.map(),
            Phase::Groups(_) => self.rewrite(),
        };
        match step {
            // Files of segments that left the view go while this reads them.
            Err(_) if self.is_overtaken() => Ok(Step::Overtaken),
            step => step,
        }
    }

    fn is_overtaken(&self) -> bool {
        let is_gone = |segment: &Arc<Segment>| !self.view.is_current(segment);
        match &self.phase {
            Phase::Begin | Phase::Map { .. } => self.segments.iter().any(is_gone),
            Phase::Groups(groups) => {
                let Groups { left, rewrite, .. } = &**groups;
                let under_way = rewrite.iter().flat_map(Rewrite::sources);
                left.iter().flatten().chain(under_way).any(is_gone)
            }
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> CleanStats {
        CleanStats { key_count: self.map.key_count(), map_utilization: self.map.utilization(), ..self.stats }
    }

    /// Transaction indexes that lacked aborted transactions and were made anew.
    #[must_use]
    pub fn repaired(&self) -> &[PathBuf] {
        &self.repaired
    }

    /// Removes what was begun. The log is as it was, but for groups that were swapped.
    pub fn abandon(self) -> Result<(), LogError> {
        match self.phase {
            Phase::Groups(groups) => groups.rewrite.map_or(Ok(()), |rewrite| rewrite.discard()),
            _ => Ok(()),
        }
    }

    fn begin(&mut self) -> Result<Step, LogError> {
        let Place { disk, dir, .. } = &self.place;
        // What an earlier cleaning could not remove.
        let entries = disk.list_dir(dir).map_err(LogError::io("list", dir))?;
        for entry in entries.iter().filter(|entry| entry.name.ends_with(CLEANED)) {
            remove_if_there(&**disk, &dir.join(&entry.name))?;
        }
        // The new segments are durable from the start; so is all that says what may go from the old
        // ones: a producer's later batch, the end of a transaction. And nothing between can be missing.
        let flushed = self.view.limits().flushed;
        if flushed.offset < self.log_end || flushed.segment_base < self.range.first_uncleanable {
            self.view.begin_flush().run()?;
        }
        // A list that lacks an aborted transaction would make its records the last of their keys.
        let first_dirty = self.segments.partition_point(|s| s.base_offset() <= self.range.first_dirty);
        for segment in &self.segments[first_dirty.saturating_sub(1)..] {
            let all = 0..segment.size_bytes();
            let checked =
                self.view.check_aborted_in(segment.base_offset(), all, Held::default(), &mut self.repaired);
            checked.map_err(|error| read_failed(error, &self.place.dir))?;
        }
        let transactions = self.transactions(self.range.first_dirty)?;
        self.phase = Phase::Map { segment: first_dirty.saturating_sub(1), position: 0, transactions };
        Ok(Step::Working { io_bytes: 0 })
    }

    /// Aborted transactions with a marker at or behind `from`. Those of later segments too:
    /// a transaction may end there.
    fn transactions(&self, from: Offset) -> Result<Transactions, LogError> {
        let mut aborted = Vec::new();
        for segment in self.view.load().1.iter() {
            let listed = segment
                .transactions
                .entries()
                .map_err(LogError::io("read the .txnindex of", segment.file().path()))?;
            aborted.extend(listed.iter().filter(|entry| entry.last_offset >= from).copied());
        }
        Ok(Transactions::new(aborted))
    }

    fn map(&mut self) -> Result<Step, LogError> {
        let Phase::Map { segment: index, position, transactions } = &mut self.phase else {
            unreachable!("called in this phase")
        };
        let Some(segment) = self.segments.get(*index).cloned() else {
            return self.begin_groups();
        };
        let path = segment.file().path();
        let limit = segment.size_bytes();
        let first_dirty = self.range.first_dirty;
        if *position == 0 && first_dirty > segment.base_offset() {
            let found = segment.locate(first_dirty, limit).map_err(|error| error.into_log_error(path))?;
            *position = found.map_or(limit, |entry| entry.position);
        }
        let mut is_full = false;
        let began = *position;
        if began < limit {
            let (map, rewriter) = (&mut self.map, &mut self.rewriter);
            let file = segment.file().get().map_err(LogError::io("open", path))?;
            let read = self.reader.read(&*file, began, limit, |entry, bytes| {
                let is_mapped = map_batch(map, rewriter, transactions, first_dirty, entry, bytes)?;
                if is_mapped && entry.last_offset >= first_dirty {
                    map.cover(entry.last_offset);
                }
                is_full |= !is_mapped;
                Ok(is_mapped)
            });
            *position = read.map_err(|error| error.into_log_error(path))?;
        }
        let io_bytes = u64::from(*position - began);
        self.stats.mapped_bytes += io_bytes;
        if is_full {
            return self.begin_groups();
        }
        if *position == limit {
            *index += 1;
            *position = 0;
            let next = self.segments.get(*index).map_or(self.range.first_uncleanable, |s| s.base_offset());
            self.map.cover(Offset(next.0 - 1));
        }
        Ok(Step::Working { io_bytes })
    }

    fn begin_groups(&mut self) -> Result<Step, LogError> {
        let Place { disk, dir, config, .. } = &self.place;
        let end = self.end();
        let count = self.segments.partition_point(|segment| segment.base_offset() < end);
        let mut sizes = Vec::with_capacity(count);
        for segment in &self.segments[..count] {
            let base = segment.base_offset();
            let index_bytes = |suffix| {
                let path = files::segment_file(dir, base, suffix);
                match disk.metadata(&path) {
                    Ok(metadata) => Ok(metadata.len_bytes),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
                    Err(error) => Err(LogError::io("look at", &path)(error)),
                }
            };
            sizes.push(Size {
                base,
                log_bytes: u64::from(segment.size_bytes()),
                index_bytes: index_bytes(INDEX)?,
                time_index_bytes: index_bytes(TIME_INDEX)?,
            });
        }
        let (bytes, index_bytes) = (u64::from(config.segment_bytes), u64::from(config.segment_index_bytes));
        let groups = group(&sizes, bytes, index_bytes, self.range.first_uncleanable);
        let left = groups.into_iter().map(|range| self.segments[range].to_vec()).collect();
        let transactions = self.transactions(Offset(0))?;
        let last_offsets = self.map.last_offsets();
        let groups = Groups { left, rewrite: None, transactions, last_offsets };
        self.phase = Phase::Groups(Box::new(groups));
        Ok(Step::Working { io_bytes: 0 })
    }

    fn rewrite(&mut self) -> Result<Step, LogError> {
        let end = self.end();
        let Phase::Groups(groups) = &mut self.phase else { unreachable!("called in this phase") };
        let Groups { left, rewrite, transactions, last_offsets } = &mut **groups;
        let Some(current) = rewrite else {
            let Some(sources) = left.pop_front() else { return Ok(Step::Done(end)) };
            *rewrite = Some(Rewrite::begin(self.place.clone(), sources)?);
            return Ok(Step::Working { io_bytes: 0 });
        };
        if current.is_done() {
            let group = current.finish()?;
            *rewrite = None;
            return Ok(group.map_or(Step::Working { io_bytes: 0 }, Step::Swap));
        }
        let filter = Filter {
            map: &self.map,
            last_offsets,
            producers: &self.producers,
            high_watermark: self.high_watermark,
            now_ms: self.settings.now.0,
            delete_retention_ms: self.settings.delete_retention_ms,
        };
        let done = current.step(&mut self.reader, &mut self.rewriter, &filter, transactions)?;
        self.stats.read_bytes += done.read_bytes;
        self.stats.written_bytes += done.written_bytes;
        self.stats.read_records += done.read_records;
        self.stats.kept_records += done.kept_records;
        Ok(Step::Working { io_bytes: done.read_bytes + done.written_bytes })
    }

    fn end(&self) -> Offset {
        Offset(self.map.latest().0 + 1)
    }
}

/// Notes the keys of a batch; false if the map has no room for all of them.
fn map_batch(
    map: &mut KeyMap,
    rewriter: &mut BatchRewriter,
    transactions: &mut Transactions,
    first_dirty: Offset,
    entry: &Entry,
    bytes: &[u8],
) -> Result<bool, WalkError> {
    // Entries of older formats are kept, and so need no last offset.
    let Some(header) = &entry.header else { return Ok(true) };
    if header.attributes.is_control() {
        let marker = end_marker(header, &bytes::Bytes::copy_from_slice(bytes));
        transactions.on_control(header, marker.as_ref());
        return Ok(true);
    }
    if transactions.on_batch(header) || header.record_count == 0 {
        return Ok(true);
    }
    let position = u64::from(entry.position);
    let invalid = |reason: String| WalkError::Invalid { position, reason };
    let records = rewriter.records(header, bytes, DECOMPRESSED_BYTES_MAX);
    let records = records.map_err(|error| invalid(error.to_string()))?;
    let mut failure = None;
    let records = records.map_while(|record| record.map_err(|error| failure = Some(error)).ok());
    let dirty = records.filter(|record| record.offset >= first_dirty);
    let has_room = map.put_all(dirty.map(|record| (record.key, record.offset)));
    match failure {
        Some(error) => Err(invalid(error.to_string())),
        None => Ok(has_room),
    }
}
