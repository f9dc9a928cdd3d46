//! Disks that break a promise on purpose: the simulation must notice each of them.
//!
//! Each lie is what a missing or misplaced line in the log would amount to.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use klamm_log::disk::{
    DirectoryEntry, Disk, DiskFile, DiskLock, FileSystem, MemoryDisk, Metadata, OpenMode, ReadAt, Residency,
};

/// Which promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    None,
    /// A flush of a file does nothing.
    SkipFlush,
    /// A flush of a directory does nothing.
    SkipDirectoryFlush,
    /// Files that are about to be renamed are flushed behind it: the name comes first.
    RenameBeforeFlush,
    /// A flush that fails is taken for one that succeeded.
    IgnoreFlushError,
    /// A file is cut one byte behind where it should be.
    CutTooLate,
    /// A file is cut one byte before where it should be.
    CutTooEarly,
}

impl Sabotage {
    /// All that must be noticed.
    pub const ALL: [Self; 6] = [
        Self::SkipFlush,
        Self::SkipDirectoryFlush,
        Self::RenameBeforeFlush,
        Self::IgnoreFlushError,
        Self::CutTooLate,
        Self::CutTooEarly,
    ];
}

/// The disk, perhaps with a lie in it.
pub(crate) fn sabotaged(disk: &MemoryDisk, sabotage: Sabotage) -> Arc<dyn Disk> {
    match sabotage {
        Sabotage::None => Arc::new(disk.clone()),
        _ => Arc::new(Saboteur { disk: disk.clone(), sabotage }),
    }
}

struct Saboteur {
    disk: MemoryDisk,
    sabotage: Sabotage,
}

struct SaboteurFile {
    file: Arc<dyn DiskFile>,
    /// True for a file that will be renamed.
    is_temporary: bool,
    sabotage: Sabotage,
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}

fn ignored(result: io::Result<()>, sabotage: Sabotage) -> io::Result<()> {
    if sabotage == Sabotage::IgnoreFlushError { Ok(()) } else { result }
}

impl Disk for Saboteur {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(SaboteurFile { file, is_temporary: is_temporary(path), sabotage: self.sabotage }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        if self.sabotage == Sabotage::RenameBeforeFlush && is_temporary(from) {
            self.disk.open(to, OpenMode::Write)?.sync_data()?;
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.disk.list_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.disk.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.sabotage {
            Sabotage::SkipDirectoryFlush => Ok(()),
            sabotage => ignored(self.disk.sync_dir(path), sabotage),
        }
    }

    fn file_system(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        self.disk.file_system(path)
    }

    fn lock_file(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock_file(path)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.available_bytes(path)
    }

    fn total_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.total_bytes(path)
    }
}

impl ReadAt for SaboteurFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buf, position)
    }
}

impl DiskFile for SaboteurFile {
    fn read_at_now(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at_now(buf, position)
    }

    fn read_past_cache(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_past_cache(buf, position)
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.file.write_vectored_at(slices, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.sabotage {
            Sabotage::SkipFlush => Ok(()),
            Sabotage::RenameBeforeFlush if self.is_temporary => Ok(()),
            sabotage => ignored(self.file.sync_data(), sabotage),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        match self.sabotage {
            Sabotage::CutTooLate if len_bytes > 0 && len_bytes < self.file.len()? => {
                self.file.set_len(len_bytes + 1)
            }
            Sabotage::CutTooEarly if len_bytes > 0 => self.file.set_len(len_bytes - 1),
            _ => self.file.set_len(len_bytes),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.fd()
    }

    fn residency(&self, position: u64, len_bytes: u64) -> Residency {
        self.file.residency(position, len_bytes)
    }
}
