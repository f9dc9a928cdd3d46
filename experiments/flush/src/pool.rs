//! A few threads that share one list of work, kept between rounds as a broker would keep them.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

type Job = Box<dyn FnOnce() -> io::Result<()> + Send>;

pub struct Pool {
    workers: Vec<SyncSender<Job>>,
    done: Receiver<io::Result<()>>,
}

impl Pool {
    pub fn new(threads: usize) -> Pool {
        let (report, done) = sync_channel(threads);
        let workers = (0..threads)
            .map(|_| {
                let (jobs, inbox) = sync_channel::<Job>(1);
                let report = report.clone();
                std::thread::spawn(move || {
                    for job in inbox {
                        if report.send(job()).is_err() {
                            return;
                        }
                    }
                });
                jobs
            })
            .collect();
        Pool { workers, done }
    }

    /// Calls `each` for 0..count on at most `threads` threads; the caller only waits.
    pub fn run<F>(&self, threads: usize, count: usize, each: F) -> io::Result<()>
    where
        F: Fn(usize) -> io::Result<()> + Send + Sync + 'static,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let each = Arc::new(each);
        let woken = threads.min(count).min(self.workers.len());
        for worker in &self.workers[..woken] {
            let (next, each) = (Arc::clone(&next), Arc::clone(&each));
            let job: Job = Box::new(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return Ok(());
                    }
                    each(index)?;
                }
            });
            worker.send(job).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        let mut outcome = Ok(());
        for _ in 0..woken {
            let one = self.done.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            outcome = outcome.and(one);
        }
        outcome
    }
}

/// The durations that threads of one test report.
pub type Shared<T> = Arc<Mutex<T>>;
