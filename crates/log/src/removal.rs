//! The files of segments that left the head of a log: first renamed, removed later.
//!
//! Segments leave the view in their turn, which takes no disk. Their files follow here, by
//! whoever may block: [`Removal::mark`] gives them names that no start takes for a segment's,
//! [`Removal::unlink`] removes them once nobody is expected to read them any more. Who holds a
//! file open reads on.
//!
//! Invariants: once the log is closed, or its names are used again, nothing is renamed any more
//! (the path may be another log's); the oldest goes first, so that no power cut leaves a hole.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_protocol::ids::Offset;

use crate::disk::{Disk, with_suffix};
use crate::error::LogError;
use crate::files::{self, DELETED, INDEX, LOG, SNAPSHOT, TIME_INDEX, TXN_INDEX};
use crate::open::remove_if_there;

/// Batches first: what is left of an index alone is removed at the next start.
const SUFFIXES: [&str; 5] = [LOG, INDEX, TIME_INDEX, TXN_INDEX, SNAPSHOT];

/// Segments that left the view and whose files are still there.
#[must_use = "the files stay until they are marked and unlinked"]
pub struct Removal {
    outgoing: Arc<Outgoing>,
    bases: Vec<Offset>,
    size_bytes: u64,
}

/// The segments of one log that left the view under names that are still theirs.
pub(crate) struct Outgoing {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Held while files are renamed; taken before `waiting`.
    renaming: Mutex<()>,
    /// Never held while the disk is used: the appender adds to it.
    waiting: Mutex<BTreeSet<Offset>>,
}

impl Removal {
    pub(crate) fn new(outgoing: Arc<Outgoing>, bases: Vec<Offset>, size_bytes: u64) -> Self {
        outgoing.waiting().extend(&bases);
        Self { outgoing, bases, size_bytes }
    }

    /// True if nothing goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bases.is_empty()
    }

    /// How many segments go.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.bases.len()
    }

    /// Bytes of batches that go.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Renames the files to `.deleted`. If the new log start is not durable, each rename is made
    /// so before the next. What an earlier removal has not come to goes first.
    ///
    /// # Errors
    /// What is left keeps its name; the next start finds it below the log start.
    pub fn mark(&self, is_start_durable: bool) -> Result<(), LogError> {
        let Some(last) = self.bases.last() else { return Ok(()) };
        let bases: Vec<Offset> = self.outgoing.waiting().range(..=*last).copied().collect();
        self.outgoing.rename(bases, is_start_durable)
    }

    /// Removes the renamed files.
    ///
    /// # Errors
    /// What is left goes at the next start.
    pub fn unlink(self) -> Result<(), LogError> {
        let Outgoing { disk, dir, .. } = &*self.outgoing;
        for base in &self.bases {
            for suffix in SUFFIXES {
                remove_if_there(&**disk, &with_suffix(&files::segment_file(dir, *base, suffix), DELETED))?;
            }
        }
        Ok(())
    }
}

impl Outgoing {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { disk, dir, renaming: Mutex::default(), waiting: Mutex::default() })
    }

    /// Renames what still waits: before names of the log are used again.
    pub(crate) fn finish(&self) -> Result<(), LogError> {
        let all = self.waiting().clone();
        self.rename(all, false)
    }

    /// The log ends here: its path may soon be another's.
    pub(crate) fn close(&self) {
        let _turn = self.turn();
        self.waiting().clear();
    }

    fn rename(&self, bases: impl IntoIterator<Item = Offset>, is_durable: bool) -> Result<(), LogError> {
        let _turn = self.turn();
        let mut has_renamed = false;
        for base in bases {
            if !self.waiting().contains(&base) {
                continue;
            }
            if has_renamed && !is_durable {
                self.disk.sync_dir(&self.dir).map_err(LogError::io("sync", &self.dir))?;
            }
            for suffix in SUFFIXES {
                let name = files::segment_file(&self.dir, base, suffix);
                match self.disk.rename(&name, &with_suffix(&name, DELETED)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(LogError::io("rename", Path::new(&name))(error));
                    }
                    _ => {}
                }
            }
            has_renamed = true;
            self.waiting().remove(&base);
        }
        Ok(())
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.renaming.lock().expect("renaming does not panic")
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<Offset>> {
        self.waiting.lock().expect("no holder panics")
    }
}
