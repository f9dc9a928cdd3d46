//! The only way to files: [`Disk`] and [`DiskFile`], with the real one and one in memory.
//!
//! Synchronous by design: who must not block calls it from a place that may. What it
//! deliberately does not do: buffering, retrying a failed flush, memory maps, O_APPEND.
//!
//! Invariants: a write names its position; a new or renamed name is durable only after
//! [`Disk::sync_dir`] on its directory, the bytes of a file only after its `sync_*`.

mod memory;
mod real;

pub use memory::{DiskOperation, Draw, Fault, MemoryDisk};
pub use real::{RealDisk, thread_waits};

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest vector one `pwritev` takes (IOV_MAX of Linux).
pub const IO_SLICES_MAX: usize = 1024;

/// What position, length and memory of [`DiskFile::read_past_cache`] are multiples of. A device
/// that wants more refuses, and is read through the cache.
pub const DIRECT_ALIGN_BYTES: usize = 4096;

/// How [`Disk::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading alone.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// For reading and writing; created if absent, kept as it is otherwise.
    Create,
    /// For reading and writing; fails if the name exists.
    CreateNew,
}

/// Whether a range of a file lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// Reading it needs no device.
    Hot,
    /// At least one page must come from the device.
    Cold,
    /// The system cannot tell.
    Unknown,
}

/// Whether a reader may wait for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It runs where it may block.
    Waits,
    /// What does not lie in memory is `WouldBlock`, and so is a file that is not open: a network
    /// worker looks like this.
    OnlyMemory,
}

/// A file for a reader of this patience.
pub(crate) struct Patient<'a>(pub(crate) &'a dyn DiskFile, pub(crate) Patience);

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// The last part of the path.
    pub name: String,
    /// True for a directory.
    pub is_dir: bool,
}

/// What is known of a path without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The size; meaningless for a directory.
    pub len_bytes: u64,
    /// True for a directory.
    pub is_dir: bool,
    /// When the content last changed, in milliseconds since 1970; 0 if unknown.
    pub modified_ms: i64,
}

/// A held lock file; dropping it releases the lock.
pub trait DiskLock: Send + Sync {}

/// Files and directories.
pub trait Disk: Send + Sync + 'static {
    /// Opens the file `path`.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a directory and its missing parents; fine if it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames, replacing `to` if it is a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted. Names that are not UTF-8 are left out.
    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>>;
    /// Size and kind; `NotFound` if nothing has this name.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// A handle for syncing all of the file system that `path` lies on. It tells only of
    /// writes that failed since it was made: make it before the first write. `Unsupported`
    /// where the system has no such call.
    fn file_system(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>>;
    /// Takes an exclusive lock that other processes, Java's among them, see.
    /// `WouldBlock` if somebody holds it.
    fn lock_file(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
    /// How much the file system of `path` holds in all.
    fn total_bytes(&self, path: &Path) -> io::Result<u64>;
    /// What an unprivileged process may still write on the file system of `path`.
    fn available_bytes(&self, path: &Path) -> io::Result<u64>;

    /// True if anything has this name.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A whole file of at most `bytes_max`; `FileTooLarge` beyond.
    fn read_file(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if len > bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} has {len} bytes, at most {bytes_max} are read", path.display()),
            ));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let read = read_full_at(&*file, &mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Replaces a whole file so that a crash leaves the old or the new content:
    /// `<path>.tmp`, sync, rename, sync of the directory.
    fn write_file_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = with_suffix(path, ".tmp");
        let file = self.open(&temporary, OpenMode::Create)?;
        file.set_len(0)?;
        write_all_at(&*file, bytes, 0)?;
        file.sync_all()?;
        drop(file);
        self.rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }
}

/// A whole file system.
pub trait FileSystem: Send + Sync {
    /// Makes every file and name on it durable, also those of strangers (`syncfs`).
    fn sync(&self) -> io::Result<()>;
}

/// Bytes at positions.
pub trait ReadAt: Send + Sync {
    /// Reads at most `buf.len()` bytes; 0 at the end.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;

    /// What lies from here on in memory of this process, and need not be copied; it may be less than there is.
    fn held_from(&self, _position: u64) -> Option<&[u8]> {
        None
    }
}

/// One open file. Dropping the last handle closes it.
pub trait DiskFile: ReadAt {
    /// As [`ReadAt::read_at`] of what lies in memory; `WouldBlock` where the device would be
    /// waited for. Where the system cannot tell, it waits.
    fn read_at_now(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// As [`ReadAt::read_at`], with nothing left behind in the page cache. All aligned to
    /// [`DIRECT_ALIGN_BYTES`]; an error where the system or the file system has no such reads.
    fn read_past_cache(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes with one system call, possibly less than all; at most
    /// [`IO_SLICES_MAX`] slices.
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize>;
    /// Makes the content durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content and metadata durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or extends (with zeros).
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
    /// The current size.
    fn len(&self) -> io::Result<u64>;
    /// True if the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// The descriptor for sendfile; `None` where there is no real file.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Whether reading the range would go to the device.
    fn residency(&self, position: u64, len_bytes: u64) -> Residency;
}

impl ReadAt for Patient<'_> {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        match self.1 {
            Patience::Waits => self.0.read_at(buf, position),
            Patience::OnlyMemory => self.0.read_at_now(buf, position),
        }
    }
}

/// Reads until `buf` is full or the file ends; tells how many bytes came.
pub fn read_full_at(file: &dyn ReadAt, buf: &mut [u8], position: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buf.len() {
        match file.read_at(&mut buf[read..], position + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// As [`read_full_at`], with [`DiskFile::read_past_cache`].
pub(crate) fn read_full_past_cache(file: &dyn DiskFile, buf: &mut [u8], position: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buf.len() {
        match file.read_past_cache(&mut buf[read..], position + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // Only the end of the file is not aligned.
        if !read.is_multiple_of(DIRECT_ALIGN_BYTES) {
            break;
        }
    }
    Ok(read)
}

/// Writes all of `bytes`.
pub fn write_all_at(file: &dyn DiskFile, bytes: &[u8], position: u64) -> io::Result<()> {
    write_all_vectored_at(file, &mut [IoSlice::new(bytes)], position)
}

/// Writes all of `slices` one after the other: one system call unless the system
/// writes less or there are more than [`IO_SLICES_MAX`].
pub fn write_all_vectored_at(
    file: &dyn DiskFile,
    mut slices: &mut [IoSlice<'_>],
    mut position: u64,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let group = &slices[..slices.len().min(IO_SLICES_MAX)];
        match file.write_vectored_at(group, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                position += count as u64;
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `path` with `suffix` appended to its last part.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}
