//! The alternatives: each makes one append to every partition durable.

use crate::files::{APPEND_BYTES, Partitions, open, prefill, start_write_back, write_dsync};
use crate::measure::process_cpu;
use crate::pool::Pool;
use crate::uring::Ring;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most threads that any alternative uses.
pub const THREADS_MAX: usize = 64;
/// One write into the journal at most.
const JOURNAL_WRITE_BYTES: usize = 1 << 20;
/// Prefilled, and reused from its start when the next round does not fit.
pub const JOURNAL_BYTES: u64 = 256 << 20;
/// Partition, position, length and CRC before each copy.
const JOURNAL_HEADER_BYTES: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// No flush: what the appends themselves cost.
    AppendOnly,
    /// fdatasync of each file. One thread is also what a first waiter does that flushes for all.
    Fdatasync {
        threads: usize,
    },
    /// Write-back of all started first, then fdatasync of each.
    StartedFdatasync {
        threads: usize,
    },
    Syncfs,
    /// Checksummed copies into one prefilled file and one fdatasync; the segments are left to later.
    Journal,
    /// Writes that are durable when they return.
    Dsync {
        threads: usize,
    },
    UringFdatasync,
    UringLinked,
}

pub const ALL: &[Method] = &[
    Method::AppendOnly,
    Method::Fdatasync { threads: 1 },
    Method::Fdatasync { threads: 4 },
    Method::Fdatasync { threads: 16 },
    Method::Fdatasync { threads: 64 },
    Method::StartedFdatasync { threads: 1 },
    Method::StartedFdatasync { threads: 16 },
    Method::Syncfs,
    Method::Journal,
    Method::Dsync { threads: 1 },
    Method::Dsync { threads: 16 },
    Method::UringFdatasync,
    Method::UringLinked,
];

/// The candidates for the crossover between flushing file by file and all at once.
pub const CROSSOVER: &[Method] = &[
    Method::Fdatasync { threads: 1 },
    Method::Fdatasync { threads: 4 },
    Method::Fdatasync { threads: 16 },
    Method::StartedFdatasync { threads: 16 },
    Method::Syncfs,
    Method::Journal,
];

impl Method {
    pub fn name(self) -> String {
        match self {
            Method::AppendOnly => "append only, not durable".into(),
            Method::Fdatasync { threads } => format!("fdatasync, {threads} thr"),
            Method::StartedFdatasync { threads } => format!("write-back started, fdatasync, {threads} thr"),
            Method::Syncfs => "syncfs".into(),
            Method::Journal => "journal".into(),
            Method::Dsync { threads } => format!("RWF_DSYNC, {threads} thr"),
            Method::UringFdatasync => "io_uring fdatasync".into(),
            Method::UringLinked => "io_uring write+fdatasync linked".into(),
        }
    }
}

/// What one round cost.
pub struct Round {
    /// Appends and flush.
    pub total: Duration,
    /// The flush alone; `None` where it cannot be told from the append.
    pub flush: Option<Duration>,
    pub cpu: Duration,
    /// Flushing what the round left dirty: the journal's deferred cost.
    pub settle: Duration,
}

/// The threads, the ring and the journal that the alternatives share.
pub struct Flusher {
    pool: Pool,
    ring: Ring,
    journal: Journal,
    payload: Arc<Vec<u8>>,
}

impl Flusher {
    pub fn new(root: &Path) -> io::Result<Flusher> {
        Ok(Flusher {
            pool: Pool::new(THREADS_MAX),
            ring: Ring::new(16)?,
            journal: Journal::create(&root.join("journal"))?,
            payload: Arc::new((0..APPEND_BYTES).map(|index| index as u8 | 1).collect()),
        })
    }

    /// One append to every partition, made durable by `method`, then an untimed settling.
    pub fn round(&mut self, method: Method, partitions: &mut Partitions) -> io::Result<Round> {
        let position = partitions.next_position();
        let (cpu, start) = (process_cpu(), Instant::now());
        let flush = self.append_and_flush(method, partitions, position)?;
        let (total, cpu) = (start.elapsed(), process_cpu() - cpu);
        let start = Instant::now();
        partitions.settle()?;
        Ok(Round { total, flush, cpu, settle: start.elapsed() })
    }

    /// As `round`, without the settling; how long the flush took, where that can be told.
    pub fn append_and_flush(
        &mut self,
        method: Method,
        partitions: &Partitions,
        position: u64,
    ) -> io::Result<Option<Duration>> {
        let files = Arc::clone(&partitions.files);
        let payload = Arc::clone(&self.payload);
        match method {
            Method::Dsync { threads } => {
                self.pool
                    .run(threads, files.len(), move |index| write_dsync(&files[index], &payload, position))?;
                return Ok(None);
            }
            Method::UringLinked => {
                self.ring.append_and_flush(&files, &payload, position)?;
                return Ok(None);
            }
            _ => {}
        }
        for file in files.iter() {
            file.write_all_at(&payload, position)?;
        }
        let start = Instant::now();
        self.flush(method, partitions, position)?;
        Ok(Some(start.elapsed()))
    }

    /// Makes what was appended at `position` durable. Not for the alternatives that append by themselves.
    fn flush(&mut self, method: Method, partitions: &Partitions, position: u64) -> io::Result<()> {
        let files = Arc::clone(&partitions.files);
        match method {
            Method::AppendOnly => Ok(()),
            Method::Fdatasync { threads } => self.fdatasync(threads, files),
            Method::StartedFdatasync { threads } => {
                for file in files.iter() {
                    start_write_back(file, position, APPEND_BYTES as u64, false)?;
                }
                self.fdatasync(threads, files)
            }
            Method::Syncfs => Ok(rustix::fs::syncfs(&partitions.directory)?),
            Method::Journal => self.journal.commit(files.len(), position, &self.payload),
            Method::UringFdatasync => self.ring.flush(&files),
            Method::Dsync { .. } | Method::UringLinked => unreachable!("appends by itself"),
        }
    }

    fn fdatasync(&self, threads: usize, files: Arc<Vec<File>>) -> io::Result<()> {
        if threads == 1 {
            return files.iter().try_for_each(|file| file.sync_data());
        }
        self.pool.run(threads, files.len(), move |index| files[index].sync_data())
    }
}

struct Journal {
    file: File,
    position: u64,
    buffer: Vec<u8>,
}

impl Journal {
    fn create(path: &Path) -> io::Result<Journal> {
        let file = open(path)?;
        prefill(&file, 0, JOURNAL_BYTES)?;
        file.sync_all()?;
        Ok(Journal { file, position: 0, buffer: Vec::with_capacity(JOURNAL_WRITE_BYTES) })
    }

    fn commit(&mut self, count: usize, at: u64, payload: &[u8]) -> io::Result<()> {
        let entry_bytes = JOURNAL_HEADER_BYTES + payload.len();
        if self.position + (count * entry_bytes) as u64 > JOURNAL_BYTES {
            self.position = 0;
        }
        for partition in 0..count as u64 {
            if self.buffer.len() + entry_bytes > JOURNAL_WRITE_BYTES {
                self.write()?;
            }
            self.buffer.extend_from_slice(&partition.to_le_bytes());
            self.buffer.extend_from_slice(&at.to_le_bytes());
            self.buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, payload) as u32;
            self.buffer.extend_from_slice(&checksum.to_le_bytes());
            self.buffer.extend_from_slice(payload);
        }
        self.write()?;
        self.file.sync_data()
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.position)?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
