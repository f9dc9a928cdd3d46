//! Flushing through io_uring. fdatasync has no asynchronous path in the kernel: each runs on a worker thread of
//! the ring, so this compares the kernel's pool of threads with ours.

use crate::files::APPEND_BYTES;
use io_uring::{IoUring, opcode, squeue, types};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Operations in flight at once.
const DEPTH: usize = 256;

pub struct Ring(IoUring);

impl Ring {
    pub fn new(workers: u32) -> io::Result<Ring> {
        let ring = IoUring::new(DEPTH as u32)?;
        // Both kinds of workers that a ring may have, bounded and unbounded.
        ring.submitter().register_iowq_max_workers(&mut [workers, workers])?;
        Ok(Ring(ring))
    }

    /// fdatasync of every file, batched.
    pub fn flush(&mut self, files: &[File]) -> io::Result<()> {
        for chunk in files.chunks(DEPTH) {
            let entries = chunk.iter().map(fsync);
            // SAFETY: the descriptors stay open until `complete` has seen all of them.
            unsafe { self.submit(entries) }?;
            self.complete(chunk.len(), &[0])?;
        }
        Ok(())
    }

    /// Write and fdatasync of every file, linked in pairs.
    pub fn append_and_flush(&mut self, files: &[File], bytes: &[u8], position: u64) -> io::Result<()> {
        assert_eq!(bytes.len(), APPEND_BYTES);
        for chunk in files.chunks(DEPTH / 2) {
            let entries = chunk.iter().flat_map(|file| {
                let write =
                    opcode::Write::new(types::Fd(file.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
                        .offset(position)
                        .build()
                        .flags(squeue::Flags::IO_LINK);
                [write, fsync(file)]
            });
            // SAFETY: buffer and descriptors outlive `complete`.
            unsafe { self.submit(entries) }?;
            self.complete(chunk.len() * 2, &[0, APPEND_BYTES as i32])?;
        }
        Ok(())
    }

    // SAFETY: for the caller to keep: what the entries point to lives until they complete.
    unsafe fn submit(&mut self, entries: impl Iterator<Item = squeue::Entry>) -> io::Result<()> {
        let mut queue = self.0.submission();
        for entry in entries {
            // SAFETY: the caller's promise.
            unsafe { queue.push(&entry) }.map_err(|_| io::Error::other("submission queue full"))?;
        }
        Ok(())
    }

    fn complete(&mut self, count: usize, expected: &[i32]) -> io::Result<()> {
        self.0.submit_and_wait(count)?;
        let mut seen = 0;
        while seen < count {
            for entry in self.0.completion() {
                if entry.result() < 0 {
                    return Err(io::Error::from_raw_os_error(-entry.result()));
                }
                if !expected.contains(&entry.result()) {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                seen += 1;
            }
            if seen < count {
                self.0.submit_and_wait(count - seen)?;
            }
        }
        Ok(())
    }
}

fn fsync(file: &File) -> squeue::Entry {
    opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build()
}
