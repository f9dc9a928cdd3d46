//! A file that is opened when it is needed and closed when nobody needed it for a while.
//!
//! Who has the handle keeps the file open: closing only lets go of it here. What it
//! deliberately does not know: whether the file is dirty. Its owner never lets go of a file
//! before its bytes are durable, or a failed write-back might go unnoticed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use crate::disk::{Disk, DiskFile, Metadata, OpenMode, Patience};

pub(crate) struct LazyFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    mode: OpenMode,
    opened: ArcSwapOption<Opened>,
    /// Somebody asked for it since the last [`LazyFile::close_if_idle`].
    is_used: AtomicBool,
}

struct Opened(Arc<dyn DiskFile>);

impl LazyFile {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf, mode: OpenMode) -> Self {
        Self { disk, path, mode, opened: ArcSwapOption::empty(), is_used: AtomicBool::new(false) }
    }

    pub(crate) fn with_open(self, file: Arc<dyn DiskFile>) -> Self {
        self.opened.store(Some(Arc::new(Opened(file))));
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the disk says of its name, without opening it.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.disk.metadata(&self.path)
    }

    pub(crate) fn get(&self) -> io::Result<Arc<dyn DiskFile>> {
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        if let Some(opened) = &*self.opened.load() {
            return Ok(Arc::clone(&opened.0));
        }
        let file = self.disk.open(&self.path, self.mode)?;
        let opened = Some(Arc::new(Opened(file)));
        // Who opened it first wins: what was written through one handle is flushed through it.
        let before = self.opened.compare_and_swap(&None::<Arc<Opened>>, opened.clone());
        let winner = before.as_ref().or(opened.as_ref()).expect("one of the two is there");
        Ok(Arc::clone(&winner.0))
    }

    /// The same for who may not wait for the disk: opening may.
    pub(crate) fn get_as(&self, patience: Patience) -> io::Result<Arc<dyn DiskFile>> {
        if patience == Patience::OnlyMemory && self.opened.load().is_none() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.get()
    }

    /// Lets go of the file.
    pub(crate) fn close(&self) {
        self.opened.store(None);
    }

    /// Lets go of the file unless somebody asked for it since the last call. True if it did.
    pub(crate) fn close_if_idle(&self) -> bool {
        !self.is_used.swap(false, Ordering::Relaxed) && self.opened.swap(None).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, write_all_at};

    #[test]
    fn an_idle_file_is_let_go_and_a_handle_outlives_that() {
        let disk = Arc::new(MemoryDisk::new());
        let path = PathBuf::from("/f");
        write_all_at(&*disk.open(&path, OpenMode::Create).unwrap(), b"abc", 0).unwrap();
        let file = LazyFile::new(disk.clone(), path.clone(), OpenMode::Read);
        assert!(!file.close_if_idle(), "it was never open");
        let refused = file.get_as(Patience::OnlyMemory).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let handle = file.get_as(Patience::Waits).unwrap();
        assert!(file.get_as(Patience::OnlyMemory).is_ok());
        assert!(Arc::ptr_eq(&handle, &file.get().unwrap()));
        assert!(!file.close_if_idle(), "it was just used");
        assert!(file.close_if_idle());
        assert_eq!(handle.len().unwrap(), 3);
        assert!(!Arc::ptr_eq(&handle, &file.get().unwrap()));
        disk.remove_file(&path).unwrap();
        assert!(!file.close_if_idle() && file.close_if_idle());
        assert_eq!(file.get().err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
