//! The host that users run: tokio's scheduler and sockets, the machine's clocks and disk.
//!
//! The only module that may name tokio's tasks and timers and the machine's clocks.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "implements Host on the real machine"
)]

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use klamm_log::disk::{Disk, RealDisk, thread_waits};
use klamm_protocol::time::{MonoMs, WallMs};

use tokio::sync::Semaphore;

use super::socket::{TcpListener, TcpTransport};
use super::{DirPressure, Host, Pool};

/// Cold reads at once. They have tokio's threads (512) in common with flushes: however many read from a slow
/// disk, a flush finds one. And they share the device with it, which needs no more to be busy.
const COLD_READS_MAX: usize = 32;

/// Runs on a multi-threaded tokio runtime, which must be entered when it is made.
#[derive(Clone)]
pub struct RealHost {
    started: Instant,
    disk: Arc<RealDisk>,
    cold_reads: Arc<Semaphore>,
}

impl RealHost {
    /// A host whose monotonic clock starts now.
    #[must_use]
    pub fn new() -> Self {
        let cold_reads = Arc::new(Semaphore::new(COLD_READS_MAX));
        Self { started: Instant::now(), disk: Arc::new(RealDisk), cold_reads }
    }
}

impl Default for RealHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Host for RealHost {
    type Transport = TcpTransport;
    type Listener = TcpListener;

    fn mono(&self) -> MonoMs {
        MonoMs(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> WallMs {
        // A clock set before 1970 reads as 1970: timestamps below 0 have other meanings in Kafka.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn random(&self) -> u128 {
        let mut bytes = [0u8; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the kernel gives no random bytes: {error}"),
            }
        }
        u128::from_ne_bytes(bytes)
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn spawn(&self, _name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn sleep_until(&self, at: MonoMs) -> impl Future<Output = ()> + Send + 'static {
        // tokio caps a deadline that lies too far ahead; a year is as good as for ever.
        let ahead = at.since_ms(self.mono()).min(365 * 24 * 3_600_000);
        tokio::time::sleep(Duration::from_millis(ahead))
    }

    async fn offload<T: Send + 'static>(&self, pool: Pool, job: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = match pool {
            // Nobody closes it.
            Pool::ColdRead => self.cold_reads.clone().acquire_owned().await.ok(),
            Pool::Flush | Pool::Cpu => None,
        };
        let job = move || {
            // Given back by who has it, also if nobody waits for the result any more.
            let _permit = permit;
            job()
        };
        match tokio::task::spawn_blocking(job).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down cancels a job; nobody waits for the result then.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn run_parallel(&self, work: &(dyn Fn() + Sync), threads: usize) {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }

    fn maybe_slow<T>(&self, pressure: &DirPressure, job: impl FnOnce() -> T) -> T {
        let timed = |began: MonoMs| {
            let waits_before = pressure.is_watched(began).then(thread_waits);
            let result = job();
            pressure.note_write(began, self.mono(), waits_before.map(|before| thread_waits() != before));
            result
        };
        let now = self.mono();
        match pressure.is_slow(now) {
            // What the change of threads takes is no write.
            true => tokio::task::block_in_place(|| timed(self.mono())),
            false => timed(now),
        }
    }

    async fn listen(&self, name: &str, port: u16) -> io::Result<TcpListener> {
        let name = if name.is_empty() { "0.0.0.0" } else { name };
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host((name, port)).await? {
            match TcpListener::bind(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_flush_runs_however_many_cold_reads_wait_for_the_disk() {
        let host = RealHost::new();
        let (disk_answers, disk) = mpsc::channel::<()>();
        let disk = Arc::new(std::sync::Mutex::new(disk));
        let reads: Vec<_> = (0..600)
            .map(|_| {
                let (host, disk) = (host.clone(), disk.clone());
                tokio::spawn(async move {
                    // Ends when the sender goes.
                    host.offload(Pool::ColdRead, move || disk.lock().expect("no panic").recv().is_err()).await
                })
            })
            .collect();
        while host.cold_reads.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(host.offload(Pool::Flush, || true).await);
        drop(disk_answers);
        for read in reads {
            assert!(read.await.expect("no panic"));
        }
    }
}
