//! A disk in memory for tests and the simulation: deterministic, with a journal of what
//! was done and faults that a test arms beforehand.
//!
//! What it deliberately does not do yet: lose unsynced bytes at a power cut. Every file
//! and name change passes through one tree, so that a durable twin can be kept beside it.
//! An open handle keeps its bytes after removal or replacement, as on a real disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{DirectoryEntry, Disk, DiskFile, DiskLock, FileSystem, Metadata, OpenMode, Residency};

/// Something that happened to the disk, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// A file came into being.
    Create(PathBuf),
    /// One write call: where and how much was written.
    Write {
        /// The name the file was opened by.
        path: PathBuf,
        /// Position in the file.
        position: u64,
        /// Bytes really written.
        len_bytes: u64,
        /// How many slices the call brought.
        slice_count: usize,
    },
    /// One read call.
    Read {
        /// The name the file was opened by.
        path: PathBuf,
        /// Position in the file.
        position: u64,
        /// Bytes really read.
        len_bytes: u64,
    },
    /// `sync_data` or `sync_all`.
    Sync(PathBuf),
    /// `sync_dir`.
    SyncDir(PathBuf),
    /// A sync of the whole file system.
    SyncAll,
    /// `set_len`.
    SetLen(PathBuf, u64),
    /// `rename`.
    Rename(PathBuf, PathBuf),
    /// A file or directory went away.
    Remove(PathBuf),
    /// A directory came into being.
    CreateDir(PathBuf),
}

/// A fault for one coming call; faults of one kind are used up in the order armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next write fails and writes nothing.
    Write(io::ErrorKind),
    /// The next write stores at most so many bytes and says so.
    ShortWrite(usize),
    /// The next sync of whatever kind fails.
    Sync(io::ErrorKind),
    /// The next `set_len` fails.
    SetLen(io::ErrorKind),
    /// The next read fails.
    Read(io::ErrorKind),
    /// The next `open` that creates a file fails.
    Create(io::ErrorKind),
}

/// The disk; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Content>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    journal: Vec<DiskOperation>,
    faults: VecDeque<Fault>,
    /// Bytes all files may hold together; `None` is without end.
    capacity_bytes: Option<u64>,
}

type Content = Arc<Mutex<Vec<u8>>>;

struct MemoryFile {
    disk: MemoryDisk,
    path: PathBuf,
    content: Content,
    writable: bool,
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Arms a fault for a coming call.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// Forgets the faults that were not used.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Limits what all files may hold together: writes beyond fail with `StorageFull`.
    pub fn set_capacity_bytes(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Takes the journal of everything done since it was last taken.
    #[must_use]
    pub fn take_journal(&self) -> Vec<DiskOperation> {
        std::mem::take(&mut self.state().journal)
    }

    /// Changes a file's bytes behind everybody's back; `NotFound` without such a file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let content = self.state().files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        change(&mut content.lock().expect("no holder panics"));
        Ok(())
    }

    /// A disk with the same files, none of the handles, locks, faults or journal.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state();
        let files = state
            .files
            .iter()
            .map(|(path, content)| {
                let bytes = content.lock().expect("no holder panics").clone();
                (path.clone(), Arc::new(Mutex::new(bytes)))
            })
            .collect();
        Self(Arc::new(Mutex::new(State { files, dirs: state.dirs.clone(), ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }
}

impl State {
    fn take_fault<T>(&mut self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let (index, found) = self.faults.iter().enumerate().find_map(|(i, f)| Some((i, pick(f)?)))?;
        self.faults.remove(index);
        Some(found)
    }

    fn parent_exists(&self, path: &Path) -> bool {
        path.parent().is_none_or(|p| p.as_os_str().is_empty() || p == Path::new("/") || self.dirs.contains(p))
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|c| c.lock().expect("no holder panics").len() as u64).sum()
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let existing = state.files.get(path).cloned();
        let content = match (existing, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => content,
            (None, OpenMode::Read | OpenMode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                if !state.parent_exists(path) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                if let Some(kind) =
                    state.take_fault(|f| if let Fault::Create(kind) = f { Some(*kind) } else { None })
                {
                    return Err(kind.into());
                }
                let content = Content::default();
                state.files.insert(path.to_owned(), Arc::clone(&content));
                state.journal.push(DiskOperation::Create(path.to_owned()));
                content
            }
        };
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(MemoryFile { disk: self.clone(), path: path.to_owned(), content, writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        for dir in path.ancestors().filter(|p| !p.as_os_str().is_empty()) {
            if state.files.contains_key(dir) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if state.dirs.insert(dir.to_owned()) {
                state.journal.push(DiskOperation::CreateDir(dir.to_owned()));
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.parent_exists(to) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(content) = state.files.remove(from) {
            state.files.insert(to.to_owned(), content);
        } else if state.dirs.contains(from) {
            if state.dirs.contains(to) || state.files.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let moved = |path: &Path| path.strip_prefix(from).ok().map(|rest| to.join(rest));
            state.dirs = state.dirs.iter().map(|p| moved(p).unwrap_or_else(|| p.clone())).collect();
            let files = std::mem::take(&mut state.files);
            state.files = files.into_iter().map(|(p, c)| (moved(&p).unwrap_or(p), c)).collect();
        } else {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.journal.push(DiskOperation::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.journal.push(DiskOperation::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.dirs.retain(|p| !p.starts_with(path));
        state.files.retain(|p, _| !p.starts_with(path));
        state.journal.push(DiskOperation::Remove(path.to_owned()));
        Ok(())
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let state = self.state();
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let name_in = |child: &Path| {
            (child.parent() == Some(path)).then(|| child.file_name()?.to_str().map(str::to_owned)).flatten()
        };
        let files = state.files.keys().filter_map(|p| name_in(p)).map(|name| (name, false));
        let dirs = state.dirs.iter().filter_map(|p| name_in(p)).map(|name| (name, true));
        let mut entries: Vec<DirectoryEntry> =
            files.chain(dirs).map(|(name, is_dir)| DirectoryEntry { name, is_dir }).collect();
        entries.sort();
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let state = self.state();
        if let Some(content) = state.files.get(path) {
            let len_bytes = content.lock().expect("no holder panics").len() as u64;
            return Ok(Metadata { len_bytes, is_dir: false, modified_ms: 0 });
        }
        if state.dirs.contains(path) {
            return Ok(Metadata { len_bytes: 0, is_dir: true, modified_ms: 0 });
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if let Some(kind) = state.take_fault(|f| if let Fault::Sync(kind) = f { Some(*kind) } else { None }) {
            return Err(kind.into());
        }
        if !state.dirs.contains(path) && !path.as_os_str().is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.journal.push(DiskOperation::SyncDir(path.to_owned()));
        Ok(())
    }

    fn file_system(&self, _path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(self.clone()))
    }

    fn lock_file(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.open(path, OpenMode::Create)?;
        if !self.state().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock { disk: self.clone(), path: path.to_owned() }))
    }

    fn available_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used_bytes())))
    }
}

impl FileSystem for MemoryDisk {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if let Some(kind) = state.take_fault(|f| if let Fault::Sync(kind) = f { Some(*kind) } else { None }) {
            return Err(kind.into());
        }
        state.journal.push(DiskOperation::SyncAll);
        Ok(())
    }
}

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        if let Some(kind) = state.take_fault(|f| if let Fault::Read(kind) = f { Some(*kind) } else { None }) {
            return Err(kind.into());
        }
        let content = self.content.lock().expect("no holder panics");
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(content.len());
        let count = buf.len().min(content.len() - start);
        buf[..count].copy_from_slice(&content[start..start + count]);
        let path = self.path.clone();
        state.journal.push(DiskOperation::Read { path, position, len_bytes: count as u64 });
        Ok(count)
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        assert!(slices.len() <= super::IO_SLICES_MAX, "the system refuses longer vectors");
        let mut state = self.disk.state();
        let fault =
            state.take_fault(|f| matches!(f, Fault::Write(_) | Fault::ShortWrite(_)).then(|| f.clone()));
        let mut bytes = slices.iter().map(|s| &**s).collect::<Vec<_>>().concat();
        match fault {
            Some(Fault::Write(kind)) => return Err(kind.into()),
            Some(Fault::ShortWrite(len)) => bytes.truncate(len),
            _ => {}
        }
        let start = usize::try_from(position).map_err(io::Error::other)?;
        let end = start + bytes.len();
        let capacity = state.capacity_bytes.map(|capacity| capacity.saturating_sub(state.used_bytes()));
        let mut content = self.content.lock().expect("no holder panics");
        let growth = end.saturating_sub(content.len()) as u64;
        if capacity.is_some_and(|left| growth > left) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(&bytes);
        state.journal.push(DiskOperation::Write {
            path: self.path.clone(),
            position,
            len_bytes: bytes.len() as u64,
            slice_count: slices.len(),
        });
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Some(kind) = state.take_fault(|f| if let Fault::Sync(kind) = f { Some(*kind) } else { None }) {
            return Err(kind.into());
        }
        state.journal.push(DiskOperation::Sync(self.path.clone()));
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Some(kind) = state.take_fault(|f| if let Fault::SetLen(kind) = f { Some(*kind) } else { None })
        {
            return Err(kind.into());
        }
        let len = usize::try_from(len_bytes).map_err(io::Error::other)?;
        self.content.lock().expect("no holder panics").resize(len, 0);
        state.journal.push(DiskOperation::SetLen(self.path.clone(), len_bytes));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().expect("no holder panics").len() as u64)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn residency(&self, _position: u64, _len_bytes: u64) -> Residency {
        Residency::Hot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{read_full_at, write_all_at};

    #[test]
    fn faults_strike_once_and_short_writes_are_continued() {
        let disk = MemoryDisk::new();
        let file = disk.open(Path::new("/f"), OpenMode::Create).unwrap();
        disk.inject(Fault::ShortWrite(2));
        write_all_at(&*file, b"hello", 0).unwrap();
        disk.inject(Fault::Write(io::ErrorKind::StorageFull));
        let error = write_all_at(&*file, b"x", 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let mut back = [0; 9];
        assert_eq!(read_full_at(&*file, &mut back, 0).unwrap(), 5);
        assert_eq!(&back[..5], b"hello");
        let writes = disk.take_journal().iter().filter(|o| matches!(o, DiskOperation::Write { .. })).count();
        assert_eq!(writes, 2);
    }

    #[test]
    fn a_handle_outlives_its_name_and_directories_move_whole() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/d/t-0")).unwrap();
        let file = disk.open(Path::new("/d/t-0/log"), OpenMode::Create).unwrap();
        write_all_at(&*file, b"abc", 0).unwrap();
        disk.rename(Path::new("/d/t-0"), Path::new("/d/t-0.x-delete")).unwrap();
        assert_eq!(disk.read_file(Path::new("/d/t-0.x-delete/log"), 9).unwrap(), b"abc");
        disk.remove_dir_all(Path::new("/d/t-0.x-delete")).unwrap();
        assert_eq!(file.len().unwrap(), 3);
        assert!(disk.list_dir(Path::new("/d")).unwrap().is_empty());
        assert!(disk.open(Path::new("/gone/f"), OpenMode::Create).is_err());
    }

    #[test]
    fn a_full_disk_takes_nothing_of_a_write() {
        let disk = MemoryDisk::new();
        disk.set_capacity_bytes(Some(4));
        let file = disk.open(Path::new("/f"), OpenMode::Create).unwrap();
        assert!(write_all_at(&*file, b"hello", 0).is_err());
        write_all_at(&*file, b"four", 0).unwrap();
        assert_eq!(disk.available_bytes(Path::new("/")).unwrap(), 0);
    }
}
