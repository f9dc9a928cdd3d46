//! Where what writes to a slow directory goes: a few threads that may block, so that no network worker stands still.
//!
//! Whoever has an appender's or a machine's role and finds the directory slow brings the rest of its work here, the
//! role with it, and goes back to its connection. What this deliberately does not do: order anything; whoever comes
//! while a role is taken queues with that role.
//!
//! Not `block_in_place`: each of its calls gives the worker to another thread, of which there were hundreds soon, and a
//! directory stayed slow because they kept one another waiting.
//!
//! **Invariants:** somebody is at work until the lane is empty; one thread more comes only when none has taken anything
//! for as long as a slow write takes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_protocol::time::MonoMs;

use super::DirState;
use crate::host::{DirPressure, Host, Pool};

/// More would not make a slow disk quicker.
const THREADS_MAX: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// The lane of one log directory.
#[derive(Default)]
pub(crate) struct Lane(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    taken_at: MonoMs,
}

impl Lane {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().expect("nothing panics in here")
    }

    fn take<H: Host>(&self, host: &H) -> Option<Job> {
        let mut queue = self.locked();
        match queue.jobs.pop_front() {
            Some(job) => {
                queue.taken_at = host.mono();
                Some(job)
            }
            None => {
                queue.threads -= 1;
                None
            }
        }
    }
}

/// Held by a thread at work. Should a job panic, a thread is missing here.
struct ThreadGuard<'a>(&'a Lane);

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.locked().threads -= 1;
        }
    }
}

impl DirState {
    /// True while a write might hold up whoever makes it.
    pub(crate) fn is_slow<H: Host>(&self, host: &H) -> bool {
        self.pressure.is_slow(host.mono())
    }

    /// Runs `job` on a thread that may block, soon.
    pub(crate) fn aside<H: Host>(self: &Arc<Self>, host: &H, job: impl FnOnce() + Send + 'static) {
        {
            let mut queue = self.lane.locked();
            queue.jobs.push_back(Box::new(job));
            let now = host.mono();
            let are_stuck = now.since_ms(queue.taken_at) >= DirPressure::SLOW_WRITE_MS;
            if queue.threads > 0 && !(are_stuck && queue.threads < THREADS_MAX) {
                return;
            }
            queue.threads += 1;
            queue.taken_at = now;
        }
        let (dir, of_task) = (self.clone(), host.clone());
        host.spawn("slow writes", async move {
            let of_thread = of_task.clone();
            let work = move || {
                let _guard = ThreadGuard(&dir.lane);
                while let Some(job) = dir.lane.take(&of_thread) {
                    job();
                }
            };
            of_task.offload(Pool::Flush, work).await;
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the test is about real threads")]

    use std::sync::mpsc;
    use std::time::Duration;

    use klamm_log::disk::MemoryDisk;

    use super::*;
    use crate::host::RealHost;
    use crate::partition::stress::directory_on;

    #[tokio::test(flavor = "multi_thread")]
    async fn jobs_that_hang_hold_up_no_others_and_are_no_more_than_the_threads() {
        let (dir, host) = (directory_on(&MemoryDisk::new()), RealHost::new());
        let (disk_answers, disk) = mpsc::channel::<()>();
        let disk = Arc::new(Mutex::new(disk));
        for hanging in 1..THREADS_MAX {
            let disk = disk.clone();
            // Ends when the sender goes.
            dir.aside(&host, move || assert!(disk.lock().expect("no panic").recv().is_err()));
            let (sender, ran) = tokio::sync::oneshot::channel();
            dir.aside(&host, move || sender.send(()).expect("somebody waits"));
            let stuck = async {
                // Whoever comes later finds that nobody takes anything, and brings another thread.
                loop {
                    dir.aside(&host, || {});
                    tokio::task::yield_now().await;
                }
            };
            let others_run = async {
                tokio::select! { biased;
                    ran = ran => ran.expect("it ran"),
                    () = stuck => {}
                }
            };
            tokio::time::timeout(Duration::from_secs(30), others_run).await.expect("one more thread came");
            assert!((hanging..=THREADS_MAX).contains(&dir.lane.locked().threads));
        }
        drop(disk_answers);
        while dir.lane.locked().threads > 0 {
            tokio::task::yield_now().await;
        }
        assert!(dir.lane.locked().jobs.is_empty());
    }
}
