//! The aborted transactions of one segment: Kafka's `.txnindex`, 34 bytes an entry.
//!
//! Entries are few; they are read whole when first asked for and kept. An aborted
//! transaction is listed in the segment where its marker lies. What is unreadable in the
//! file ends the list. Nothing covers the file, and without aborted transactions there is
//! none: a list that comes from the disk is believed only for bytes whose transactions were
//! compared with their markers ([`crate::aborted`]).

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use klamm_protocol::ids::{Offset, ProducerId};

use crate::disk::{Disk, OpenMode, Patience, write_all_at};

const ENTRY_BYTES: usize = 34;
/// More aborted transactions than a 2 GiB segment has room for markers.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A transaction that ended in an abort marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Who wrote it.
    pub producer_id: ProducerId,
    /// Its first record.
    pub first_offset: Offset,
    /// Its marker.
    pub last_offset: Offset,
    /// The last stable offset when the marker was written.
    pub last_stable_offset: Offset,
}

pub(crate) struct TransactionIndex {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// `None` until the file was read.
    entries: Mutex<Option<Arc<Vec<AbortedTransaction>>>>,
    /// True while the file may not be durable.
    is_dirty: AtomicBool,
    /// True if the file lacks what is in memory.
    is_file_behind: AtomicBool,
    /// Bytes of the segment whose transactions the list has.
    checked: Mutex<Range<u32>>,
}

impl TransactionIndex {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        // What lies there may be as new as the last crash.
        Self {
            disk,
            path,
            entries: Mutex::new(None),
            is_dirty: AtomicBool::new(true),
            is_file_behind: AtomicBool::new(false),
            checked: Mutex::new(0..0),
        }
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// True if nobody needs to look whether transactions in these bytes were aborted.
    pub(crate) fn has_checked(&self, bytes: &Range<u32>) -> bool {
        let checked = self.checked.lock().expect("no holder panics");
        checked.start <= bytes.start && bytes.end <= checked.end
    }

    pub(crate) fn note_checked(&self, bytes: Range<u32>) {
        let mut checked = self.checked.lock().expect("no holder panics");
        let meets = bytes.start <= checked.end && checked.start <= bytes.end;
        *checked = if meets { checked.start.min(bytes.start)..checked.end.max(bytes.end) } else { bytes };
    }

    /// The list is this process's own, or was made anew from all markers.
    pub(crate) fn note_all_checked(&self) {
        self.note_checked(0..u32::MAX);
    }

    pub(crate) fn entries(&self) -> io::Result<Arc<Vec<AbortedTransaction>>> {
        self.load(&mut self.entries.lock().expect("no holder panics"))
    }

    /// The same for a reader of any patience: also who reads the file is not waited for.
    pub(crate) fn entries_as(&self, patience: Patience) -> io::Result<Arc<Vec<AbortedTransaction>>> {
        match patience {
            Patience::Waits => self.entries(),
            Patience::OnlyMemory => {
                let entries = self.entries.try_lock().ok().and_then(|entries| entries.clone());
                entries.ok_or_else(|| io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn load(
        &self,
        slot: &mut Option<Arc<Vec<AbortedTransaction>>>,
    ) -> io::Result<Arc<Vec<AbortedTransaction>>> {
        if let Some(entries) = slot {
            return Ok(Arc::clone(entries));
        }
        let bytes = match self.disk.read_file(&self.path, FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let entries = Arc::new(bytes.chunks_exact(ENTRY_BYTES).map_while(decode).collect::<Vec<_>>());
        *slot = Some(Arc::clone(&entries));
        Ok(entries)
    }

    /// Adds one behind the others, in memory and in the file.
    pub(crate) fn append(&self, entry: AbortedTransaction) -> io::Result<()> {
        let mut slot = self.entries.lock().expect("no holder panics");
        let mut entries = (*self.load(&mut slot)?).clone();
        entries.push(entry);
        self.is_dirty.store(true, Ordering::Release);
        if self.is_file_behind.load(Ordering::Acquire) {
            self.create(&entries)?;
            self.is_file_behind.store(false, Ordering::Release);
        } else {
            let file = self.disk.open(&self.path, OpenMode::Create)?;
            write_all_at(&*file, &encode(&entry), ((entries.len() - 1) * ENTRY_BYTES) as u64)?;
        }
        *slot = Some(Arc::new(entries));
        Ok(())
    }

    /// Takes over what the markers below `up_to` say; in memory only, since the name may be
    /// another file's by now. The log's writer writes it.
    pub(crate) fn repair(&self, mut listed: Vec<AbortedTransaction>, up_to: Offset) -> io::Result<()> {
        let mut slot = self.entries.lock().expect("no holder panics");
        let known = self.load(&mut slot)?;
        listed.extend(known.iter().filter(|entry| entry.last_offset >= up_to));
        self.is_file_behind.store(true, Ordering::Release);
        *slot = Some(Arc::new(listed));
        Ok(())
    }

    /// Writes what was repaired; for the log's writer alone.
    pub(crate) fn write_repaired(&self) -> io::Result<()> {
        if self.is_file_behind.load(Ordering::Acquire) {
            self.create(&self.entries()?)?;
            self.is_file_behind.store(false, Ordering::Release);
            self.is_dirty.store(true, Ordering::Release);
            self.sync()?;
        }
        Ok(())
    }

    /// Makes what was added durable: before a producer snapshot, behind which nobody looks for
    /// markers below it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if self.is_dirty.load(Ordering::Acquire) {
            match self.disk.open(&self.path, OpenMode::Write) {
                Ok(file) => file.sync_data()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.is_dirty.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Writes a new file, also for no entries.
    pub(crate) fn create(&self, entries: &[AbortedTransaction]) -> io::Result<()> {
        let file = self.disk.open(&self.path, OpenMode::Create)?;
        file.set_len(0)?;
        write_all_at(&*file, &entries.iter().flat_map(encode).collect::<Vec<u8>>(), 0)
    }

    /// What the file will hold once it has its name.
    pub(crate) fn remember(&self, entries: Vec<AbortedTransaction>) {
        *self.entries.lock().expect("no holder panics") = Some(Arc::new(entries));
    }

    /// Replaces everything, durably: recovery rebuilds the index from the markers.
    pub(crate) fn replace(&self, entries: Vec<AbortedTransaction>) -> io::Result<()> {
        if *self.entries()? != entries || entries.is_empty() {
            if entries.is_empty() && !self.disk.exists(&self.path)? {
                return Ok(());
            }
            let file = self.disk.open(&self.path, OpenMode::Create)?;
            file.set_len(0)?;
            write_all_at(&*file, &entries.iter().flat_map(encode).collect::<Vec<u8>>(), 0)?;
            file.sync_data()?;
        }
        self.is_file_behind.store(false, Ordering::Release);
        *self.entries.lock().expect("no holder panics") = Some(Arc::new(entries));
        Ok(())
    }
}

fn encode(entry: &AbortedTransaction) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    // The first two bytes are the version, 0.
    let fields = [entry.producer_id.0, entry.first_offset.0, entry.last_offset.0, entry.last_stable_offset.0];
    for (out, field) in bytes[2..].chunks_exact_mut(8).zip(fields) {
        out.copy_from_slice(&field.to_be_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<AbortedTransaction> {
    let field = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let entry = AbortedTransaction {
        producer_id: ProducerId(field(2)),
        first_offset: Offset(field(10)),
        last_offset: Offset(field(18)),
        last_stable_offset: Offset(field(26)),
    };
    // A marker comes behind what it ends; and a lost write leaves zeros.
    (bytes[..2] == [0, 0] && entry.first_offset < entry.last_offset).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use std::path::Path;

    #[test]
    fn entries_survive_and_a_torn_one_is_dropped() {
        let disk = MemoryDisk::new();
        let path = Path::new("/0.txnindex");
        let open = || TransactionIndex::new(Arc::new(disk.clone()), path.to_owned());
        let entry = |n| AbortedTransaction {
            producer_id: ProducerId(n),
            first_offset: Offset(n),
            last_offset: Offset(n + 1),
            last_stable_offset: Offset(n + 2),
        };
        let index = open();
        assert!(index.entries().unwrap().is_empty());
        index.append(entry(1)).unwrap();
        index.append(entry(2)).unwrap();
        disk.tamper(path, |bytes| bytes.extend([0; 20])).unwrap();
        assert_eq!(*open().entries().unwrap(), [entry(1), entry(2)]);
        open().replace(vec![entry(2)]).unwrap();
        assert_eq!(*open().entries().unwrap(), [entry(2)]);
        assert_eq!(disk.metadata(path).unwrap().len_bytes, 34);
    }
}
