//! The partitions: one file each in a directory each, as Kafka lays them out, so that the file system places
//! their inodes as it would in production.

use rustix::fs::{Mode, OFlags};
use rustix::io::{ReadWriteFlags, pwritev2};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One append: a small record batch.
pub const APPEND_BYTES: usize = 4096;

/// Where each file's next append goes.
#[derive(Clone, Copy)]
pub enum Placement {
    /// At the end: the flush also commits a new size.
    Append,
    /// Inside a window of zeros written and flushed beforehand, reused from its start when used up.
    Prefilled { window_bytes: u64 },
}

/// The partitions of one log directory.
pub struct Partitions {
    root: PathBuf,
    pub directory: File,
    pub files: Arc<Vec<File>>,
    placement: Placement,
    position: u64,
}

impl Partitions {
    /// Makes `count` partitions under `root`, empty or prefilled, and flushes them.
    pub fn create(root: &Path, count: usize, placement: Placement) -> io::Result<Partitions> {
        let _ = std::fs::remove_dir_all(root);
        std::fs::create_dir_all(root)?;
        let mut files = Vec::with_capacity(count);
        for index in 0..count {
            let path = root.join(format!("t-{index}"));
            std::fs::create_dir(&path)?;
            let file = open(&path.join("00000000000000000000.log"))?;
            if let Placement::Prefilled { window_bytes } = placement {
                prefill(&file, 0, window_bytes)?;
            }
            files.push(file);
        }
        let directory = File::open(root)?;
        rustix::fs::syncfs(&directory)?;
        Ok(Partitions { root: root.to_owned(), directory, files: Arc::new(files), placement, position: 0 })
    }

    /// The position that this round's appends take, in every file.
    pub fn next_position(&mut self) -> u64 {
        let position = self.position;
        self.position += APPEND_BYTES as u64;
        if let Placement::Prefilled { window_bytes } = self.placement {
            self.position %= window_bytes;
        }
        position
    }

    /// Cuts appended files to nothing, so that a long run does not fill the disk.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.position = 0;
        if let Placement::Append = self.placement {
            for file in self.files.iter() {
                file.set_len(0)?;
            }
        }
        self.settle()
    }

    /// Flushes all that is dirty on the file system, so that the next round starts clean.
    pub fn settle(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.directory)?)
    }

    pub fn remove(self) -> io::Result<()> {
        let Partitions { root, files, .. } = self;
        drop(files);
        std::fs::remove_dir_all(root)
    }
}

pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?))
}

/// Writes zeros over a range. Real zeros: a range that `fallocate` reserved still changes metadata when written.
pub fn prefill(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; bytes.min(1 << 20) as usize];
    let mut done = 0;
    while done < bytes {
        let take = zeros.len().min((bytes - done) as usize);
        file.write_all_at(&zeros[..take], from + done)?;
        done += take as u64;
    }
    Ok(())
}

/// One write that is durable when it returns.
pub fn write_dsync(file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
    let written = pwritev2(file, &[IoSlice::new(bytes)], position, ReadWriteFlags::DSYNC)?;
    if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Starts write-back of a range and does not wait for it; `wait` also waits.
pub fn start_write_back(file: &File, from: u64, bytes: u64, wait: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut flags = libc::SYNC_FILE_RANGE_WRITE;
    if wait {
        flags |= libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    }
    // SAFETY: plain numbers and a descriptor that `file` keeps open.
    let code = unsafe { libc::sync_file_range(file.as_raw_fd(), from as i64, bytes as i64, flags) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
