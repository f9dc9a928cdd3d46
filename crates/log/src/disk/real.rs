//! The disk of the machine. The only file of this crate with system calls of its own:
//! `cachestat(2)` and fcntl locks on Linux, each with a small fallback elsewhere.

#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::{DirectoryEntry, Disk, DiskFile, DiskLock, FileSystem, Metadata, OpenMode, ReadAt, Residency};

/// The machine's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// A longer write is cut at the multiples of this. The kernel makes the pages of one write one block of
/// memory, and a virtual machine's host takes back free blocks of 128 KiB and more: touching them
/// anew cost 2.5 us/KiB, 600 MiB by 1 MiB 1.5 s of CPU and by 64 KiB 0.13 (0.11 where
/// the host had taken nothing).
const ONE_WRITE_BYTES: usize = 64 * 1024;

/// A read past the page cache goes to the device in pieces of this size: a flush waits behind one of them, not behind
/// 1 MiB (the p99 of flushed appends beside 50 MB/s of cold reads was 2.2 and 2.6 ms by 1 MiB, 0.9 to 1.4 by 128 KiB,
/// 1.0 by 64).
const DIRECT_READ_BYTES_MAX: usize = 128 * 1024;

struct RealFile(File);

struct RealLock {
    _held: File,
}

impl DiskLock for RealLock {}

/// Any file on it, here a directory.
#[cfg(target_os = "linux")]
struct RealFileSystem(File);

#[cfg(target_os = "linux")]
impl FileSystem for RealFileSystem {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::Write => options.write(true),
            OpenMode::Create => options.write(true).create(true).truncate(false),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let is_dir = entry.file_type()?.is_dir();
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirectoryEntry { name, is_dir });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let metadata = fs::metadata(path)?;
        let modified_ms = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .unwrap_or(0);
        Ok(Metadata { len_bytes: metadata.len(), is_dir: metadata.is_dir(), modified_ms })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // "" is how a relative path names its parent.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }

    #[cfg(target_os = "linux")]
    fn file_system(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(RealFileSystem(File::open(path)?)))
    }

    /// `sync(2)` tells nothing of errors.
    #[cfg(not(target_os = "linux"))]
    fn file_system(&self, _path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn lock_file(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        lock(&file)?;
        Ok(Box::new(RealLock { _held: file }))
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn total_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }
}

/// What one call writes of `slices`: all of it, or as far as the next multiple of
/// [`ONE_WRITE_BYTES`] if it is longer than that.
fn one_write_bytes(slices: &[IoSlice<'_>], position: u64) -> usize {
    let mut total = 0;
    let is_long = slices.iter().any(|slice| {
        total += slice.len();
        total > ONE_WRITE_BYTES
    });
    if is_long { ONE_WRITE_BYTES - (position % ONE_WRITE_BYTES as u64) as usize } else { total }
}

/// The first `room` bytes of `slices`.
fn cut<'a>(slices: &'a [IoSlice<'_>], mut room: usize) -> Vec<IoSlice<'a>> {
    let mut kept = Vec::with_capacity(slices.len().min(8));
    for slice in slices {
        if room == 0 {
            break;
        }
        let len = slice.len().min(room);
        kept.push(IoSlice::new(&slice[..len]));
        room -= len;
    }
    kept
}

impl ReadAt for RealFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buf, position)
    }
}

impl DiskFile for RealFile {
    #[cfg(target_os = "linux")]
    fn read_at_now(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        match preadv2(&self.0, &mut [io::IoSliceMut::new(buf)], position, ReadWriteFlags::NOWAIT) {
            // The file system, or an old kernel or a sandbox, has no such reads.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.0.read_at(buf, position),
            // XFS says the same while somebody writes to the file, and then this waits for the writer.
            Err(Errno::AGAIN) if self.residency(position, buf.len() as u64) == Residency::Hot => {
                self.0.read_at(buf, position)
            }
            read => Ok(read?),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn read_at_now(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buf, position)
    }

    /// Through another description of the same file, whatever its name is now: the flag would be that of all readers.
    #[cfg(target_os = "linux")]
    fn read_past_cache(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
        let mut count = 0;
        for piece in buf.chunks_mut(DIRECT_READ_BYTES_MAX) {
            let read = file.read_at(piece, position + count as u64)?;
            count += read;
            if read < piece.len() {
                break;
            }
        }
        Ok(count)
    }

    #[cfg(not(target_os = "linux"))]
    fn read_past_cache(&self, _buf: &mut [u8], _position: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let room = one_write_bytes(slices, position);
        match cut(slices, room).as_slice() {
            [one] => self.0.write_at(one, position),
            several => write_vectored_at(&self.0, several, position),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn residency(&self, position: u64, len_bytes: u64) -> Residency {
        residency(&self.0, position, len_bytes)
    }
}

#[cfg(not(any(target_os = "macos", target_os = "ios")))]
fn write_vectored_at(file: &File, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
    Ok(rustix::io::pwritev(file, slices, position)?)
}

#[cfg(any(target_os = "macos", target_os = "ios"))]
fn write_vectored_at(file: &File, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
    // A short write is allowed: the caller continues with the next slice.
    slices.iter().find(|slice| !slice.is_empty()).map_or(Ok(0), |slice| file.write_at(slice, position))
}

/// Java's `FileChannel.lock` is fcntl's; flock is another lock that it does not see. The
/// lock of the open file description is not lost when the process closes another handle.
#[cfg(target_os = "linux")]
fn lock(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: `flock` is a plain C struct for which all zeros is a valid value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::F_WRLCK as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open for the call and `range` outlives it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn lock(file: &File) -> io::Result<()> {
    match rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    }
}

/// How often the calling thread has waited in the kernel, for a disk or a lock; losing its CPU is no wait.
#[cfg(target_os = "linux")]
#[must_use]
pub fn thread_waits() -> i64 {
    // SAFETY: `rusage` is a plain C struct for which all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call, which writes nothing else and cannot fail with these arguments.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nvcsw
}

/// Not known here: every moment differs, so that whatever takes long counts as a wait.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn thread_waits() -> i64 {
    use std::sync::atomic::{AtomicI64, Ordering};
    static CALLS: AtomicI64 = AtomicI64::new(0);
    CALLS.fetch_add(1, Ordering::Relaxed)
}

#[cfg(target_os = "linux")]
fn residency(file: &File, position: u64, len_bytes: u64) -> Residency {
    use std::os::fd::AsRawFd;
    /// `cachestat`'s number, the same on every architecture; Linux 6.5 and later.
    const CACHESTAT: libc::c_long = 451;
    /// Of `struct cachestat`: cached, dirty, writeback, evicted, recently evicted.
    const CACHED: usize = 0;
    const WRITEBACK: usize = 2;
    if len_bytes == 0 {
        return Residency::Hot;
    }
    let range: [u64; 2] = [position, len_bytes];
    let mut pages = [0u64; 5];
    // SAFETY: `range` and `pages` have the layout of `struct cachestat_range` and
    // `struct cachestat` (two and five u64), and outlive the call.
    let result = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0 as libc::c_uint)
    };
    if result != 0 {
        return Residency::Unknown;
    }
    let page_bytes = rustix::param::page_size() as u64;
    let wanted = (position + len_bytes - 1) / page_bytes - position / page_bytes + 1;
    // A page under write-back is counted as cached too.
    debug_assert!(pages[WRITEBACK] <= pages[CACHED]);
    if pages[CACHED] >= wanted { Residency::Hot } else { Residency::Cold }
}

#[cfg(not(target_os = "linux"))]
fn residency(_file: &File, _position: u64, _len_bytes: u64) -> Residency {
    Residency::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DIRECT_ALIGN_BYTES, read_full_at, write_all_vectored_at};

    #[test]
    fn vectored_writes_past_the_slice_limit_arrive_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        let parts: Vec<[u8; 3]> = (0..3000u32).map(|i| [i as u8, (i >> 8) as u8, 7]).collect();
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        write_all_vectored_at(&*file, &mut slices, 5).unwrap();
        let mut back = vec![0; 9000];
        assert_eq!(read_full_at(&*file, &mut back, 5).unwrap(), 9000);
        assert_eq!(back, parts.concat());
        assert_eq!(file.len().unwrap(), 9005);
    }

    #[test]
    fn a_long_write_is_cut_at_multiples_and_a_short_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        let (head, body) = ([1u8; 61], vec![2u8; 3 * ONE_WRITE_BYTES]);
        let long = [IoSlice::new(&head), IoSlice::new(&body)];
        let mut position = 7;
        position += file.write_vectored_at(&long, position).unwrap() as u64;
        assert_eq!(position, ONE_WRITE_BYTES as u64);
        position += file.write_vectored_at(&long, position).unwrap() as u64;
        assert_eq!(position, 2 * ONE_WRITE_BYTES as u64);
        let short = [IoSlice::new(&head), IoSlice::new(&body[..ONE_WRITE_BYTES - head.len()])];
        assert_eq!(file.write_vectored_at(&short, position + 9).unwrap(), ONE_WRITE_BYTES);
        write_all_vectored_at(&*file, &mut [IoSlice::new(&head), IoSlice::new(&body)], 7).unwrap();
        let mut back = vec![0; head.len() + body.len()];
        assert_eq!(read_full_at(&*file, &mut back, 7).unwrap(), back.len());
        assert_eq!(back, [&head[..], &body[..]].concat());
    }

    #[test]
    fn what_was_just_written_is_never_cold() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        super::super::write_all_at(&*file, &[1; 100_000], 0).unwrap();
        assert_ne!(file.residency(10, 90_000), Residency::Cold);
        let mut back = [0; 90_000];
        assert_eq!(file.read_at_now(&mut back, 10).unwrap(), back.len());
        assert!(back.iter().all(|byte| *byte == 1));
        assert_eq!(file.read_at_now(&mut back, 100_000).unwrap(), 0, "the end is no wait");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_read_past_the_cache_sees_what_was_written_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = RealDisk.open(&path, OpenMode::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..2 * DIRECT_READ_BYTES_MAX + 5).map(|at| (at / 7) as u8).collect();
        crate::disk::write_all_at(&*file, &bytes, 0).unwrap();
        let mut room = vec![0; 3 * DIRECT_READ_BYTES_MAX];
        let start = room.as_ptr().align_offset(DIRECT_ALIGN_BYTES);
        let into = &mut room[start..start + 2 * DIRECT_READ_BYTES_MAX + DIRECT_ALIGN_BYTES];
        // The name is not how it is found.
        std::fs::rename(&path, dir.path().join("g")).unwrap();
        match file.read_past_cache(into, DIRECT_ALIGN_BYTES as u64) {
            Ok(count) => assert_eq!(into[..count], bytes[DIRECT_ALIGN_BYTES..]),
            // Not every file system has such reads; then there is nothing else to be.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}"),
        }
    }

    #[test]
    fn a_lock_is_held_once_and_freed_by_dropping_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let held = RealDisk.lock_file(&path).unwrap();
        let error = RealDisk.lock_file(&path).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealDisk.lock_file(&path).unwrap();
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_other_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        for text in ["long old content", "new"] {
            RealDisk.write_file_atomically(&path, text.as_bytes()).unwrap();
            assert_eq!(RealDisk.read_file(&path, 100).unwrap(), text.as_bytes());
        }
        assert_eq!(RealDisk.list_dir(dir.path()).unwrap().len(), 1);
        let error = RealDisk.read_file(&path, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_thread_that_sleeps_has_waited_and_one_that_works_has_not() {
        let waits_while = |job: &dyn Fn()| {
            let before = thread_waits();
            job();
            thread_waits() - before
        };
        assert!(waits_while(&|| std::thread::park_timeout(std::time::Duration::from_millis(1))) >= 1);
        let work = || {
            std::hint::black_box((0..std::hint::black_box(1_000_000u64)).sum::<u64>());
        };
        assert_eq!(waits_while(&work), 0);
    }
}
