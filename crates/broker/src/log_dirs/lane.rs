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
use std::panic::AssertUnwindSafe;
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
        let job = queue.jobs.pop_front();
        match job {
            Some(_) => queue.taken_at = host.mono(),
            None => queue.threads -= 1,
        }
        job
    }
}

impl Queue {
    /// Counts one thread more if one is needed now.
    fn wants_thread(&mut self, now: MonoMs) -> bool {
        let are_stuck = now.since_ms(self.taken_at) >= DirPressure::SLOW_WRITE_MS;
        let is_wanted =
            !self.jobs.is_empty() && (self.threads == 0 || are_stuck && self.threads < THREADS_MAX);
        if is_wanted {
            self.threads += 1;
            self.taken_at = now;
        }
        is_wanted
    }
}

impl DirState {
    /// True while a write might hold up whoever makes it.
    pub(crate) fn is_slow<H: Host>(&self, host: &H) -> bool {
        self.pressure.is_slow(host.mono())
    }

    /// Runs `job` on a thread that may block, soon.
    pub(crate) fn aside<H: Host>(self: &Arc<Self>, host: &H, job: impl FnOnce() + Send + 'static) {
        let wants_thread = {
            let mut queue = self.lane.locked();
            queue.jobs.push_back(Box::new(job));
            queue.wants_thread(host.mono())
        };
        if wants_thread {
            self.start_thread(host);
        }
    }

    fn start_thread<H: Host>(self: &Arc<Self>, host: &H) {
        let (dir, of_task) = (self.clone(), host.clone());
        host.spawn("slow writes", async move {
            let (of_lane, of_thread) = (dir.clone(), of_task.clone());
            let work = of_task.offload(Pool::Flush, move || {
                while let Some(job) = of_lane.lane.take(&of_thread) {
                    // Whose role it had has seen to that (and the panic is printed); the others' jobs go on.
                    let _ = std::panic::catch_unwind(AssertUnwindSafe(job));
                }
            });
            let mut work = std::pin::pin!(work);
            loop {
                let patience = of_task.mono().plus_ms(DirPressure::SLOW_WRITE_MS);
                tokio::select! { biased;
                    () = &mut work => return,
                    () = of_task.sleep_until(patience) => {
                        if dir.lane.locked().wants_thread(of_task.mono()) {
                            dir.start_thread(&of_task);
                        }
                    }
                }
            }
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
            tokio::time::timeout(Duration::from_secs(30), ran)
                .await
                .expect("another thread came")
                .expect("it ran");
            assert!((hanging..=THREADS_MAX).contains(&dir.lane.locked().threads));
        }
        drop(disk_answers);
        let emptied = async {
            while dir.lane.locked().threads > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), emptied).await.expect("all threads go");
        assert!(dir.lane.locked().jobs.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_job_that_panics_strands_none_behind_it() {
        let (dir, host) = (directory_on(&MemoryDisk::new()), RealHost::new());
        let (go_on, all_are_there) = mpsc::channel::<()>();
        dir.aside(&host, move || {
            all_are_there.recv().expect("the others come");
            panic!("as this test wants it");
        });
        dir.lane.locked().threads = THREADS_MAX;
        let (sender, ran) = tokio::sync::oneshot::channel();
        dir.aside(&host, move || sender.send(()).expect("somebody waits"));
        go_on.send(()).expect("it waits");
        tokio::time::timeout(Duration::from_secs(30), ran)
            .await
            .expect("its thread goes on")
            .expect("it ran");
    }
}
