//! Writes one group of segments anew, as `.cleaned` files.
//!
//! The sources are only read. One segment comes out, or more where sizes or offsets exceed
//! what a segment can have. What comes out is durable before [`Rewrite::finish`] gives it
//! on, and has all its index files; a transaction index even where it is empty, so that it
//! takes the old one's place.

use std::path::PathBuf;
use std::sync::Arc;

use klamm_protocol::ids::Offset;
use klamm_protocol::records::BatchRewriter;
use klamm_protocol::time::WallMs;

use super::filter::{Fate, Filter};
use super::reader::Reader;
use super::swap::CleanedGroup;
use super::transactions::Transactions;
use crate::active::ActiveSegment;
use crate::config::LogConfig;
use crate::disk::{Disk, DiskFile, OpenMode, write_all_at};
use crate::entry::{Entry, WalkError};
use crate::error::LogError;
use crate::files::{self, CLEANED, INDEX, LOG, TIME_INDEX, TXN_INDEX};
use crate::open::remove_if_there;
use crate::segment::{Segment, SegmentFile};
use crate::transaction_index::{AbortedTransaction, TransactionIndex};

/// Kafka counts a segment's bytes and its offsets in 31 bits.
const SEGMENT_BYTES_MAX: usize = i32::MAX as usize;
const OFFSETS_MAX: i64 = i32::MAX as i64;

/// Where the files are and how they are written.
#[derive(Clone)]
pub(super) struct Place {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub config: LogConfig,
    pub buffer_bytes: usize,
    pub now: WallMs,
}

pub(super) struct Rewrite {
    place: Place,
    sources: Vec<Arc<Segment>>,
    source: usize,
    position: u32,
    outputs: Vec<Output>,
    is_changed: bool,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rewritten {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub read_records: u64,
    pub kept_records: u64,
}

struct Output {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    active: ActiveSegment,
    aborted: Vec<AbortedTransaction>,
    /// Behind what the file has.
    pending: Vec<u8>,
    written: u64,
}

impl Place {
    pub(super) fn cleaned(&self, base: Offset, suffix: &str) -> PathBuf {
        files::segment_file(&self.dir, base, &format!("{suffix}{CLEANED}"))
    }
}

impl Rewrite {
    /// What it rewrites.
    pub(super) fn sources(&self) -> &[Arc<Segment>] {
        &self.sources
    }

    /// Begins; `sources` are neighbours.
    pub(super) fn begin(place: Place, sources: Vec<Arc<Segment>>) -> Result<Self, LogError> {
        let first = Output::create(&place, sources[0].base_offset())?;
        let is_changed = sources.len() > 1;
        Ok(Self { place, sources, source: 0, position: 0, outputs: vec![first], is_changed })
    }

    /// True once every source was read.
    pub(super) fn is_done(&self) -> bool {
        self.source == self.sources.len()
    }

    /// Filters what one buffer holds of a source.
    pub(super) fn step(
        &mut self,
        reader: &mut Reader,
        rewriter: &mut BatchRewriter,
        filter: &Filter<'_>,
        transactions: &mut Transactions,
    ) -> Result<Rewritten, LogError> {
        let mut done = Rewritten::default();
        let Some(source) = self.sources.get(self.source).cloned() else { return Ok(done) };
        let limit = source.size_bytes();
        if self.position < limit {
            let path = source.file().path();
            let file = source.file().get().map_err(LogError::io("open", path))?;
            let mut failure = None;
            let read = reader.read(&*file, self.position, limit, |entry, bytes| {
                let mut appended = Ok(());
                let pending = &mut self.output().pending;
                let start = pending.len();
                let Some(header) = &entry.header else {
                    pending.extend_from_slice(bytes);
                    appended = self.take(entry, start);
                    return Ok(appended.map_err(|error| failure = Some(error)).is_ok());
                };
                let filtered =
                    filter.filter(header, bytes, transactions, rewriter, pending).map_err(|error| {
                        WalkError::Invalid { position: u64::from(entry.position), reason: error.to_string() }
                    })?;
                if filtered.fate == Fate::Same {
                    pending.extend_from_slice(bytes);
                }
                done.read_records += u64::try_from(header.record_count).unwrap_or(0);
                done.kept_records += u64::from(filtered.kept_count);
                done.written_bytes += (pending.len() - start) as u64;
                self.is_changed |= filtered.fate != Fate::Same;
                if filtered.fate != Fate::Gone {
                    appended = self.take(entry, start);
                }
                if let Some(aborted) = filtered.aborted {
                    self.output().aborted.push(aborted);
                }
                Ok(appended.map_err(|error| failure = Some(error)).is_ok())
            });
            let position = read.map_err(|error| error.into_log_error(path))?;
            if let Some(error) = failure {
                return Err(error);
            }
            done.read_bytes = u64::from(position - self.position);
            self.position = position;
        }
        if self.position == limit {
            self.source += 1;
            self.position = 0;
        }
        Ok(done)
    }

    /// Makes what was written durable; `None` if it is what was there before.
    pub(super) fn finish(&mut self) -> Result<Option<CleanedGroup>, LogError> {
        if !self.is_changed {
            self.discard()?;
            return Ok(None);
        }
        let is_checked = |source: &Arc<Segment>| source.transactions.has_checked(&(0..source.size_bytes()));
        let are_checked = self.sources.iter().all(is_checked);
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for output in &mut self.outputs {
            let segment = output.finish(&self.place)?;
            if are_checked {
                segment.transactions.note_all_checked();
            }
            outputs.push(segment);
        }
        Ok(Some(CleanedGroup { sources: std::mem::take(&mut self.sources), outputs }))
    }

    /// Removes what was written.
    pub(super) fn discard(&self) -> Result<(), LogError> {
        let mut bases = self.outputs.iter().map(|output| output.active.shape.base_offset);
        bases.try_for_each(|base| {
            [LOG, INDEX, TIME_INDEX, TXN_INDEX]
                .into_iter()
                .try_for_each(|suffix| remove_if_there(&*self.place.disk, &self.place.cleaned(base, suffix)))
        })
    }

    fn output(&mut self) -> &mut Output {
        self.outputs.last_mut().expect("there is always one")
    }

    /// Takes what was put behind the `start` bytes that wait in the output: what is left of `original`.
    fn take(&mut self, original: &Entry, start: usize) -> Result<(), LogError> {
        let Self { place, outputs, .. } = self;
        let output = outputs.last_mut().expect("there is always one");
        let size = output.active.size as usize + output.pending.len() - start;
        let span = original.last_offset.0 - output.active.shape.base_offset.0;
        if output.active.size == 0 || size <= SEGMENT_BYTES_MAX && span <= OFFSETS_MAX {
            return output.take(place, start);
        }
        let pending = output.pending.split_off(start);
        output.flush_pending()?;
        outputs.push(Output { pending, ..Output::create(place, original.base_offset)? });
        outputs.last_mut().expect("one was just pushed").take(place, 0)
    }
}

impl Output {
    fn create(place: &Place, base: Offset) -> Result<Self, LogError> {
        let path = place.cleaned(base, LOG);
        let file = place.disk.open(&path, OpenMode::Create).map_err(LogError::io("create", &path))?;
        file.set_len(0).map_err(LogError::io("empty", &path))?;
        // Under the name that it will have; readers find it open.
        let name = files::segment_file(&place.dir, base, LOG);
        let segment_file = SegmentFile::growing(Arc::clone(&place.disk), name, Arc::clone(&file), 0);
        let segment = Segment::cleaned(&place.disk, &place.dir, Arc::new(segment_file), base);
        let active = ActiveSegment::new(Arc::new(segment), place.now, false);
        Ok(Self { file, path, active, aborted: Vec::new(), pending: Vec::new(), written: 0 })
    }

    /// Takes the batch that begins at `start` of what is pending.
    fn take(&mut self, place: &Place, start: usize) -> Result<(), LogError> {
        let (at, bytes) = (u64::from(self.active.size), &self.pending[start..]);
        let entry =
            Entry::parse(bytes, at, bytes.len() as u64).map_err(|error| error.into_log_error(&self.path))?;
        self.active.add(&place.config, &entry);
        if self.pending.len() >= place.buffer_bytes { self.flush_pending() } else { Ok(()) }
    }

    fn flush_pending(&mut self) -> Result<(), LogError> {
        write_all_at(&*self.file, &self.pending, self.written).map_err(LogError::io("write", &self.path))?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn finish(&mut self, place: &Place) -> Result<Arc<Segment>, LogError> {
        self.flush_pending()?;
        self.file.sync_data().map_err(LogError::io("flush", &self.path))?;
        let base = self.active.shape.base_offset;
        self.active
            .finish_as(&*place.disk, &place.dir, CLEANED)
            .map_err(LogError::io("write the indexes of", &self.path))?;
        let path = place.cleaned(base, TXN_INDEX);
        TransactionIndex::new(Arc::clone(&place.disk), path.clone())
            .create(&self.aborted)
            .map_err(LogError::io("write", &path))?;
        for suffix in [INDEX, TIME_INDEX, TXN_INDEX] {
            let path = place.cleaned(base, suffix);
            let file = place.disk.open(&path, OpenMode::Write).map_err(LogError::io("open", &path))?;
            file.sync_data().map_err(LogError::io("flush", &path))?;
        }
        let segment = Arc::clone(&self.active.segment);
        segment.grow_to(self.active.size, self.active.max_timestamp());
        segment.transactions.remember(std::mem::take(&mut self.aborted));
        Ok(segment)
    }
}
