//! What DescribeLogDirs tells of the directories themselves.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::LogDirs;

/// One log directory.
pub(crate) struct Described {
    pub(crate) path: PathBuf,
    /// `None` while it is offline.
    pub(crate) volume: Option<Volume>,
    pub(crate) is_cordoned: bool,
}

/// The file system of a directory.
pub(crate) struct Volume {
    pub(crate) total_bytes: u64,
    pub(crate) usable_bytes: u64,
}

impl LogDirs {
    /// Every log directory, in the order of `log.dirs`; those that could not be read at start last. Asks the
    /// file systems, where it may block.
    pub(crate) fn describe(&self) -> Vec<Described> {
        let read = self.dirs.iter().map(|dir| {
            let path = dir.state.path.clone();
            let of_disk = || {
                let usable_bytes = self.disk.available_bytes(&path).ok()?;
                Some(Volume { total_bytes: self.disk.total_bytes(&path).ok()?, usable_bytes })
            };
            let volume = if dir.state.is_offline() { None } else { of_disk() };
            Described { volume, path, is_cordoned: dir.is_cordoned.load(Ordering::Relaxed) }
        });
        let unread = self.unusable.iter();
        let unread = unread.map(|path| Described { path: path.clone(), volume: None, is_cordoned: false });
        read.chain(unread).collect()
    }
}
