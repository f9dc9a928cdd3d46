//! The host: everything that is not pure comes from here.
//!
//! Time, randomness, tasks, the network and slow jobs are reached through [`Host`]
//! and [`Transport`] only, so that the whole broker also runs on one thread with a
//! simulated clock, network and disk. This module deliberately knows nothing of
//! Kafka.
//!
//! **Invariant:** no other module names `tokio::spawn`, `tokio::time`, `tokio::net`,
//! threads, clocks or random sources (clippy's `disallowed-methods`).

mod real;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod socket;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use klamm_log::FileRegion;
use klamm_log::disk::Disk;
use klamm_protocol::time::{MonoMs, WallMs};

pub use real::RealHost;

/// Where an offloaded job runs. A slow disk never holds up a network worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Flushes and other writes that must reach the disk.
    Flush,
    /// Reads that are expected to touch the disk.
    ColdRead,
    /// Work that keeps a core busy for long, such as large decompressions.
    Cpu,
}

/// The world outside: clocks, randomness, tasks, network, disk.
pub trait Host: Clone + Send + Sync + 'static {
    /// A connection as this host makes it.
    type Transport: Transport;
    /// A listening socket as this host makes it.
    type Listener: Listener<Transport = Self::Transport>;

    /// Now, on the clock that never goes back.
    fn mono(&self) -> MonoMs;
    /// Now, on the wall's clock.
    fn wall(&self) -> WallMs;
    /// 128 random bits; in the simulation they follow from the seed.
    fn random(&self) -> u128;
    /// The disk.
    fn disk(&self) -> Arc<dyn Disk>;
    /// Runs `task` beside the caller. `name` appears in traces.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static);
    /// Waits until the monotonic clock shows `at`.
    fn sleep_until(&self, at: MonoMs) -> impl Future<Output = ()> + Send + 'static;
    /// Runs `job` where it may block.
    fn offload<T: Send + 'static>(
        &self,
        pool: Pool,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send;
    /// Runs `work` on up to `threads` threads at once and returns when all are done. Blocks:
    /// only from within [`Host::offload`].
    fn run_parallel(&self, work: &(dyn Fn() + Sync), threads: usize);
    /// Runs `job`, a write, here and now, and notes how slow its directory is; while it is slow, in a way that lets this
    /// thread's other tasks go on elsewhere. That costs two changes of threads, and maybe a new one: what many do at
    /// once goes to the directory's lane instead.
    fn maybe_slow<T>(&self, pressure: &DirPressure, job: impl FnOnce() -> T) -> T;
    /// Opens a listening socket on a host's name or address; an empty one is every interface.
    fn listen(&self, name: &str, port: u16) -> impl Future<Output = io::Result<Self::Listener>> + Send;
}

/// A listening socket.
pub trait Listener: Send + 'static {
    /// What it accepts.
    type Transport: Transport;
    /// The address it is bound to; differs from the one asked for where that had port 0.
    fn local_address(&self) -> io::Result<SocketAddr>;
    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Transport, SocketAddr)>> + Send;
}

/// One connection's bytes, without blocking.
pub trait Transport: Send + 'static {
    /// Reads once into the spare capacity of `into`; 0 means that the peer has closed. Who left room has all that there
    /// was: for more, [`Transport::ready`] says when to come again.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has arrived; else what the socket says.
    fn try_read(&mut self, into: &mut BytesMut) -> io::Result<usize>;
    /// Sends from the front of `queue` until it is empty, `bytes_max` are sent or
    /// the socket is full.
    ///
    /// # Errors
    /// What the socket or a file says. "Full" is not an error.
    fn try_send(&mut self, queue: &mut OutQueue, bytes_max: usize) -> io::Result<Sent>;
    /// Waits until reading or writing may succeed.
    fn ready(&mut self, interest: Interest) -> impl Future<Output = io::Result<()>> + Send;
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Bytes from the peer, or its end.
    pub read: bool,
    /// Room for bytes to the peer.
    pub write: bool,
}

/// What one [`Transport::try_send`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes taken off the queue.
    pub bytes: usize,
    /// The socket takes no more for now.
    pub is_full: bool,
}

/// A piece of a response.
#[derive(Clone, Debug)]
pub enum OutPart {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes of a log segment, sent from the page cache.
    File(FileRegion),
}

/// What a connection still has to send, in order.
#[derive(Debug, Default)]
pub struct OutQueue {
    parts: VecDeque<OutPart>,
    bytes: usize,
}

impl OutQueue {
    /// Adds a part at the end.
    pub fn push(&mut self, part: OutPart) {
        let len = part_bytes(&part);
        if len > 0 {
            self.bytes += len;
            self.parts.push_back(part);
        }
    }

    /// Bytes still to send.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when nothing is left to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts in order.
    pub fn parts(&self) -> impl Iterator<Item = &OutPart> {
        self.parts.iter()
    }

    /// How many parts wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Takes `count` bytes off the front.
    pub fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while count > 0 {
            let part = self.parts.front_mut().expect("no more is sent than was queued");
            let len = part_bytes(part);
            if count >= len {
                count -= len;
                self.parts.pop_front();
                continue;
            }
            match part {
                OutPart::Bytes(bytes) => bytes.advance(count),
                OutPart::File(region) => {
                    region.position += count as u64;
                    region.len_bytes -= u32::try_from(count).expect("less than the region's length");
                }
            }
            count = 0;
        }
    }

    /// Gives the queue's memory back once it is empty.
    pub fn shrink(&mut self) {
        if self.parts.is_empty() && self.parts.capacity() > 16 {
            self.parts = VecDeque::new();
        }
    }
}

fn part_bytes(part: &OutPart) -> usize {
    match part {
        OutPart::Bytes(bytes) => bytes.len(),
        OutPart::File(region) => region.len_bytes as usize,
    }
}

/// How slow a log directory's writes are. Slowness belongs to a directory, not to a partition.
///
/// A write may also take long because its thread lost the CPU, which says nothing of the directory: after
/// the first long one it is looked at whether the thread waited in the kernel.
#[derive(Debug, Default)]
pub struct DirPressure {
    /// So long it counts as slow at least.
    slow_ms_min: u64,
    slow_until_ms: AtomicU64,
    watched_until_ms: AtomicU64,
}

impl DirPressure {
    /// A write that held its thread longer than this marks the directory slow (measured: an
    /// append takes 5 to 50 us; a stalled one 5 ms and more).
    pub const SLOW_WRITE_MS: u64 = 3;
    /// So many times as long as the slow write took the directory is still treated as slow: a stall is rare
    /// again by then, or a next one has prolonged it, and each append costs two changes of threads until then.
    pub const SLOW_FACTOR: u64 = 10;
    /// But no longer than this.
    pub const SLOW_MS_MAX: u64 = 1_000;
    /// How long after a long write it is looked at why the next ones take long.
    const WATCHED_FOR_MS: u64 = 10_000;

    /// Of flushes: each takes longer than two changes of threads anyway, so that one slow flush is enough.
    #[must_use]
    pub fn of_flushes() -> Self {
        Self { slow_ms_min: Self::SLOW_MS_MAX, ..Self::default() }
    }

    /// Notes that a write took from `began` to `ended`, and whether its thread waited in the kernel, if
    /// that was looked at.
    pub fn note_write(&self, began: MonoMs, ended: MonoMs, has_waited: Option<bool>) {
        let took_ms = ended.since_ms(began);
        if took_ms < Self::SLOW_WRITE_MS {
            return;
        }
        self.watched_until_ms.store(ended.plus_ms(Self::WATCHED_FOR_MS).0, Ordering::Relaxed);
        if has_waited == Some(true) {
            let slow_for_ms = (took_ms * Self::SLOW_FACTOR).clamp(self.slow_ms_min, Self::SLOW_MS_MAX);
            self.slow_until_ms.fetch_max(ended.plus_ms(slow_for_ms).0, Ordering::Relaxed);
        }
    }

    /// True while recent writes were slow.
    #[must_use]
    pub fn is_slow(&self, now: MonoMs) -> bool {
        now.0 < self.slow_until_ms.load(Ordering::Relaxed)
    }

    /// True while it is worth knowing why a write takes long.
    #[must_use]
    pub fn is_watched(&self, now: MonoMs) -> bool {
        now.0 < self.watched_until_ms.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_advances_through_parts() {
        let mut queue = OutQueue::default();
        queue.push(OutPart::Bytes(Bytes::from_static(b"abc")));
        queue.push(OutPart::Bytes(Bytes::new()));
        queue.push(OutPart::Bytes(Bytes::from_static(b"defg")));
        assert_eq!(queue.bytes(), 7);
        queue.advance(4);
        assert_eq!(queue.bytes(), 3);
        let rest: Vec<_> = queue.parts().collect();
        assert!(matches!(rest.as_slice(), [OutPart::Bytes(b)] if b.as_ref() == b"efg"));
        queue.advance(3);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_slow_write_marks_its_directory_for_a_while() {
        let pressure = DirPressure::default();
        pressure.note_write(MonoMs(10), MonoMs(11), Some(true));
        assert!(!pressure.is_slow(MonoMs(11)) && !pressure.is_watched(MonoMs(11)));
        pressure.note_write(MonoMs(10), MonoMs(20), Some(true));
        assert!(pressure.is_slow(MonoMs(119)));
        assert!(!pressure.is_slow(MonoMs(120)));
        let of_flushes = DirPressure::of_flushes();
        of_flushes.note_write(MonoMs(10), MonoMs(20), Some(true));
        assert!(of_flushes.is_slow(MonoMs(1_019)) && !of_flushes.is_slow(MonoMs(1_020)));
        pressure.note_write(MonoMs(1_000), MonoMs(61_000), Some(true));
        pressure.note_write(MonoMs(61_000), MonoMs(61_005), Some(true));
        assert!(pressure.is_slow(MonoMs(61_999)), "a short stall does not end what a long one began");
        assert!(!pressure.is_slow(MonoMs(62_000)));
    }

    #[test]
    fn a_thread_that_lost_its_cpu_makes_no_directory_slow() {
        let pressure = DirPressure::default();
        pressure.note_write(MonoMs(10), MonoMs(20), None);
        assert!(pressure.is_watched(MonoMs(21)) && !pressure.is_slow(MonoMs(21)));
        pressure.note_write(MonoMs(30), MonoMs(40), Some(false));
        assert!(pressure.is_watched(MonoMs(10_039)) && !pressure.is_slow(MonoMs(41)));
        assert!(!pressure.is_watched(MonoMs(10_040)));
    }
}
