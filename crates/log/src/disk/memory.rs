//! A disk in memory for tests and the simulation: deterministic, with a journal of what
//! was done, faults that a test arms beforehand, and power cuts.
//!
//! Bytes and names are kept twice, as everybody sees them and as the device has them
//! ([`content`], [`names`]); [`MemoryDisk::after_power_cut`] draws what a start would find.
//! What it deliberately does not do: threads, time ([`Fault::Slow`] only counts it).
//! An open handle keeps its bytes after removal or replacement, as on a real disk.

mod content;
mod draw;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use self::content::Content;
pub use self::draw::Draw;
use self::names::{File, Names, Node};
use super::{DirectoryEntry, Disk, DiskFile, DiskLock, FileSystem, Metadata, OpenMode, ReadAt, Residency};

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

/// A fault for one coming call; of several for the same call the one armed first strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The write fails and writes nothing.
    Write(io::ErrorKind),
    /// The write stores at most so many bytes and says so.
    ShortWrite(usize),
    /// The sync of whatever kind fails. What it should have made durable is
    /// lost, and a later one succeeds nevertheless, as with Linux.
    Sync(io::ErrorKind),
    /// The `set_len` fails.
    SetLen(io::ErrorKind),
    /// The read fails.
    Read(io::ErrorKind),
    /// The read past the cache has one bit wrong, which the disk has right.
    FlippedPastCache,
    /// The `open` that creates a file fails.
    Create(io::ErrorKind),
    /// The rename fails.
    Rename(io::ErrorKind),
    /// The sync takes so many milliseconds of [`MemoryDisk::take_busy_ms`].
    Slow(u64),
}

/// The disk; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: Names,
    locks: BTreeSet<PathBuf>,
    journal: Vec<DiskOperation>,
    /// How many calls of its kind each lets pass.
    faults: Vec<(u32, Fault)>,
    busy_ms: u64,
    /// Bytes all files may hold together; `None` is without end.
    capacity_bytes: Option<u64>,
    /// Changing calls until the power goes; `None` is for ever.
    steps_left: Option<u64>,
    steps_done: u64,
    is_off: bool,
    /// A sync failed, so that reads show what the device will never have.
    has_lost_writes: bool,
    /// Files that were taken out of memory, and their pages that came back since.
    evicted: BTreeMap<PathBuf, BTreeSet<u64>>,
    /// Who reads must not wait for the device.
    is_wait_forbidden: bool,
}

/// What a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    Sync,
    SetLen,
    Read,
    ReadPastCache,
    Create,
    Rename,
}

struct MemoryFile {
    disk: MemoryDisk,
    path: PathBuf,
    content: File,
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

    /// Arms a fault for the next call that it can strike.
    pub fn inject(&self, fault: Fault) {
        self.inject_after(0, fault);
    }

    /// Arms a fault that lets so many calls of its kind pass.
    pub fn inject_after(&self, calls: u32, fault: Fault) {
        self.state().faults.push((calls, fault));
    }

    /// Forgets the faults that were not used.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Limits what all files may hold together: writes beyond fail with `StorageFull`.
    pub fn set_capacity_bytes(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Bytes all files hold together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().names.used_bytes()
    }

    /// Takes a file out of memory; each page until somebody waits for a read of it.
    pub fn evict(&self, path: &Path) {
        self.state().evicted.insert(path.to_owned(), BTreeSet::new());
    }

    /// From now on who waits for a read of an evicted file gets an error, or no longer does.
    pub fn forbid_waits(&self, is_forbidden: bool) {
        self.state().is_wait_forbidden = is_forbidden;
    }

    /// Takes the journal of everything done since it was last taken.
    #[must_use]
    pub fn take_journal(&self) -> Vec<DiskOperation> {
        std::mem::take(&mut self.state().journal)
    }

    /// How long calls struck by [`Fault::Slow`] took since this was last asked.
    #[must_use]
    pub fn take_busy_ms(&self) -> u64 {
        std::mem::take(&mut self.state().busy_ms)
    }

    /// Lets the power go at the changing call (write, length, name, sync) behind so many
    /// more: it may have happened or not, and every call from there on fails.
    pub fn cut_power_after(&self, steps: u64) {
        self.state().steps_left = Some(steps);
    }

    /// Changing calls so far.
    #[must_use]
    pub fn steps_done(&self) -> u64 {
        self.state().steps_done
    }

    /// True once the power is gone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// True once a sync failed: reads show what the device will never have.
    #[must_use]
    pub fn has_lost_writes(&self) -> bool {
        self.state().has_lost_writes
    }

    /// The disk as a start finds it after the power went now: unsynced bytes and names kept,
    /// lost, torn or reordered as `seed` wants it. This disk stays as it is.
    #[must_use]
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let state = self.state();
        let names = state.names.after_power_cut(&mut Draw::new(seed));
        let capacity_bytes = state.capacity_bytes;
        Self(Arc::new(Mutex::new(State { names, capacity_bytes, ..State::default() })))
    }

    /// Changes a file's bytes on the device, behind everybody's back; `NotFound` without such a file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let file = self.state().names.file(path).ok_or(io::ErrorKind::NotFound)?;
        let mut content = file.lock().expect("no holder panics");
        let mut bytes = content.bytes().to_vec();
        change(&mut bytes);
        *content = Content::durable(bytes);
        Ok(())
    }

    /// A disk with the same files, as durable as here; none of the handles, locks, faults or journal.
    #[must_use]
    pub fn fork(&self) -> Self {
        let names = self.state().names.fork();
        Self(Arc::new(Mutex::new(State { names, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }
}

impl Fault {
    fn call(&self) -> Call {
        match self {
            Self::Write(_) | Self::ShortWrite(_) => Call::Write,
            Self::Sync(_) | Self::Slow(_) => Call::Sync,
            Self::SetLen(_) => Call::SetLen,
            Self::Read(_) => Call::Read,
            Self::FlippedPastCache => Call::ReadPastCache,
            Self::Create(_) => Call::Create,
            Self::Rename(_) => Call::Rename,
        }
    }
}

/// The pages that a range touches.
fn pages_of(position: u64, len_bytes: u64) -> std::ops::Range<u64> {
    const PAGE_BYTES: u64 = 4096;
    position / PAGE_BYTES..(position + len_bytes).div_ceil(PAGE_BYTES)
}

impl State {
    fn is_cold(&self, path: &Path, position: u64, len_bytes: u64) -> bool {
        let hot = self.evicted.get(path);
        len_bytes > 0 && hot.is_some_and(|hot| !pages_of(position, len_bytes).all(|page| hot.contains(&page)))
    }

    fn take_fault(&mut self, call: Call) -> Option<Fault> {
        let mut found = None;
        for (index, (calls_left, fault)) in self.faults.iter_mut().enumerate() {
            if fault.call() != call {
            } else if *calls_left > 0 {
                *calls_left -= 1;
            } else if found.is_none() {
                found = Some(index);
            }
        }
        found.map(|index| self.faults.remove(index).1)
    }

    /// As [`State::take_fault`] where the call can only fail or not.
    fn failure(&mut self, call: Call) -> io::Result<()> {
        let fault = self.take_fault(call);
        self.has_lost_writes |= matches!(fault, Some(Fault::Sync(_)));
        match fault {
            Some(
                Fault::Write(kind)
                | Fault::Sync(kind)
                | Fault::SetLen(kind)
                | Fault::Read(kind)
                | Fault::Create(kind)
                | Fault::Rename(kind),
            ) => Err(kind.into()),
            Some(Fault::Slow(ms)) => {
                self.busy_ms += ms;
                Ok(())
            }
            Some(Fault::ShortWrite(_) | Fault::FlippedPastCache) | None => Ok(()),
        }
    }

    fn refuse_if_off(&self) -> io::Result<()> {
        if self.is_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Before every changing call; true if the power goes during this one.
    fn step(&mut self) -> io::Result<bool> {
        self.refuse_if_off()?;
        self.steps_done += 1;
        match &mut self.steps_left {
            Some(0) => self.is_off = true,
            Some(steps) => *steps -= 1,
            None => {}
        }
        Ok(self.is_off)
    }

    /// The end of a changing call: an error if the power went during it.
    fn done(&mut self, operation: DiskOperation) -> io::Result<()> {
        self.journal.push(operation);
        self.refuse_if_off()
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.refuse_if_off()?;
        let content = match (state.names.find(path), mode) {
            (Some(Node::Dir(_)), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(file)), _) => file,
            (None, OpenMode::Read | OpenMode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                state.step()?;
                state.failure(Call::Create)?;
                let file = state.names.create_file(path, Content::default())?;
                state.done(DiskOperation::Create(path.to_owned()))?;
                file
            }
        };
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(MemoryFile { disk: self.clone(), path: path.to_owned(), content, writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.refuse_if_off()?;
        let mut missing = Vec::new();
        for dir in path.ancestors() {
            match state.names.find(dir) {
                Some(Node::Dir(_)) => break,
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => missing.push(dir),
            }
        }
        for dir in missing.into_iter().rev() {
            state.step()?;
            state.names.create_dir(dir)?;
            state.done(DiskOperation::CreateDir(dir.to_owned()))?;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.failure(Call::Rename)?;
        state.names.rename(from, to)?;
        state.done(DiskOperation::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.refuse_if_off()?;
        if state.names.file(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step()?;
        state.names.remove_file(path)?;
        state.done(DiskOperation::Remove(path.to_owned()))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.names.remove_dir_all(path)?;
        state.done(DiskOperation::Remove(path.to_owned()))
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let state = self.state();
        state.refuse_if_off()?;
        let entry = |(name, node)| DirectoryEntry { name, is_dir: matches!(node, Node::Dir(_)) };
        Ok(state.names.list(path)?.into_iter().map(entry).collect())
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let state = self.state();
        state.refuse_if_off()?;
        match state.names.find(path) {
            Some(Node::File(file)) => {
                Ok(Metadata { len_bytes: names::len_of(&file), is_dir: false, modified_ms: 0 })
            }
            Some(Node::Dir(_)) => Ok(Metadata { len_bytes: 0, is_dir: true, modified_ms: 0 }),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.step()? {
            return state.done(DiskOperation::SyncDir(path.to_owned()));
        }
        if let Err(error) = state.failure(Call::Sync) {
            state.names.fail_sync(path)?;
            return Err(error);
        }
        state.names.sync(path)?;
        state.done(DiskOperation::SyncDir(path.to_owned()))
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

    fn total_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.state().capacity_bytes.unwrap_or(u64::MAX))
    }

    fn available_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state
            .capacity_bytes
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(state.names.used_bytes())))
    }
}

impl FileSystem for MemoryDisk {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.step()? {
            return state.done(DiskOperation::SyncAll);
        }
        if let Err(error) = state.failure(Call::Sync) {
            state.names.fail_sync_all();
            return Err(error);
        }
        state.names.sync_all();
        state.done(DiskOperation::SyncAll)
    }
}

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

impl MemoryFile {
    fn read(&self, buf: &mut [u8], position: u64, leaves_hot: bool) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.refuse_if_off()?;
        state.failure(Call::Read)?;
        let content = self.content.lock().expect("no holder panics");
        let bytes = content.bytes();
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
        let count = buf.len().min(bytes.len() - start);
        buf[..count].copy_from_slice(&bytes[start..start + count]);
        let path = self.path.clone();
        if state.is_cold(&path, position, count as u64) && state.is_wait_forbidden {
            return Err(io::Error::other("the reader would wait for the device, and must not"));
        }
        if leaves_hot && let Some(hot) = state.evicted.get_mut(&path) {
            hot.extend(pages_of(position, count as u64));
        }
        state.journal.push(DiskOperation::Read { path, position, len_bytes: count as u64 });
        Ok(count)
    }
}

impl ReadAt for MemoryFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.read(buf, position, true)
    }
}

impl DiskFile for MemoryFile {
    fn read_at_now(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        match self.residency(position, buf.len() as u64) {
            Residency::Cold => Err(io::ErrorKind::WouldBlock.into()),
            Residency::Hot | Residency::Unknown => self.read_at(buf, position),
        }
    }

    fn read_past_cache(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let aligned = |number: usize| number.is_multiple_of(super::DIRECT_ALIGN_BYTES);
        assert!(aligned(buf.len()) && aligned(buf.as_ptr().addr()) && aligned(position as usize));
        let count = self.read(buf, position, false)?;
        if self.disk.state().take_fault(Call::ReadPastCache).is_some() {
            buf[count / 2] ^= 1;
        }
        Ok(count)
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        assert!(slices.len() <= super::IO_SLICES_MAX, "the system refuses longer vectors");
        let mut state = self.disk.state();
        state.step()?;
        let mut bytes = slices.iter().map(|s| &**s).collect::<Vec<_>>().concat();
        match state.take_fault(Call::Write) {
            Some(Fault::Write(kind)) => return Err(kind.into()),
            Some(Fault::ShortWrite(len)) => bytes.truncate(len),
            _ => {}
        }
        let start = usize::try_from(position).map_err(io::Error::other)?;
        let growth = (start + bytes.len()).saturating_sub(names::len_of(&self.content) as usize) as u64;
        if state.capacity_bytes.is_some_and(|capacity| state.names.used_bytes() + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = bytes.len();
        self.content.lock().expect("no holder panics").write(start, bytes);
        state.done(DiskOperation::Write {
            path: self.path.clone(),
            position,
            len_bytes: len as u64,
            slice_count: slices.len(),
        })?;
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.step()? {
            return state.done(DiskOperation::Sync(self.path.clone()));
        }
        let failure = state.failure(Call::Sync);
        let mut content = self.content.lock().expect("no holder panics");
        match failure {
            Err(error) => {
                content.fail_sync();
                Err(error)
            }
            Ok(()) => {
                content.sync();
                state.done(DiskOperation::Sync(self.path.clone()))
            }
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        state.failure(Call::SetLen)?;
        let len = usize::try_from(len_bytes).map_err(io::Error::other)?;
        self.content.lock().expect("no holder panics").set_len(len);
        state.done(DiskOperation::SetLen(self.path.clone(), len_bytes))
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.state().refuse_if_off()?;
        Ok(names::len_of(&self.content))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn residency(&self, position: u64, len_bytes: u64) -> Residency {
        let len_bytes = len_bytes.min(names::len_of(&self.content).saturating_sub(position));
        let is_cold = self.disk.state().is_cold(&self.path, position, len_bytes);
        if is_cold { Residency::Cold } else { Residency::Hot }
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

    #[test]
    fn the_power_goes_at_a_step_and_a_start_finds_what_was_synced() {
        let disk = MemoryDisk::new();
        let path = Path::new("/f");
        let file = disk.open(path, OpenMode::Create).unwrap();
        write_all_at(&*file, b"safe", 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.cut_power_after(1);
        write_all_at(&*file, b"lost", 4).unwrap();
        assert!(file.sync_data().is_err() && disk.is_off());
        assert!(file.len().is_err() && disk.list_dir(Path::new("/")).is_err());
        let found: BTreeSet<Vec<u8>> =
            (0..40).map(|seed| disk.after_power_cut(seed).read_file(path, 99).unwrap()).collect();
        assert!(found.contains(&b"safe"[..]) && found.contains(&b"safelost"[..]), "{found:?}");
        assert!(found.iter().all(|bytes| bytes.starts_with(b"safe")));
    }
}
