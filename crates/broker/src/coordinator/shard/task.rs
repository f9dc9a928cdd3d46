//! What goes on beside those who ask: the first load, timers, and another load after a failure.
//!
//! What it deliberately does not do: decide or append; it takes the role for that, as everybody does.
//! **Invariant:** a failure, whoever met it, is followed by a load, and loads that nothing could be appended behind by
//! longer and longer pauses.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_coordinator::contract::{Coordinator, Outcome};
use klamm_protocol::time::MonoMs;
use tokio::sync::watch;

use super::super::loader::{self, Loaded};
use super::{Active, Role, Shard, Timers, Work};
use crate::host::{Host, Pool};

/// How long after a load that failed the next one is tried; and after one that nothing could be appended behind.
const RELOAD_MS: u64 = 500;
/// Each further one of the latter doubles the pause, so often.
const RELOAD_DOUBLINGS_MAX: u32 = 4;
/// How many loads fail between two lines in the log.
const LOADS_PER_COMPLAINT: u32 = 120;

impl<H: Host, C: Coordinator + Default> Shard<H, C> {
    pub(super) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let host = self.world.host.clone();
        let (mut failed_count, mut fruitless_count) = (0, 0);
        while !*stop.borrow() && !self.is_closed() {
            let pause_ms = if self.load(failed_count % LOADS_PER_COMPLAINT == 0).await {
                failed_count = 0;
                self.serve(&mut stop).await;
                if self.commits.has_appended() {
                    fruitless_count = 0;
                    continue;
                }
                if *stop.borrow() || self.is_closed() {
                    break;
                }
                fruitless_count += 1;
                RELOAD_MS << RELOAD_DOUBLINGS_MAX.min(fruitless_count - 1)
            } else {
                failed_count += 1;
                RELOAD_MS
            };
            tokio::select! { biased;
                _ = stop.changed() => {}
                () = host.sleep_until(host.mono().plus_ms(pause_ms)) => {}
            }
        }
        self.close();
    }

    /// Fires timers until a load is due or the shard ends.
    async fn serve(self: &Arc<Self>, stop: &mut watch::Receiver<bool>) {
        let host = self.world.host.clone();
        loop {
            let at = {
                let mut inner = self.locked();
                match &inner.role {
                    Role::Free(_) if self.commits.has_failed() => {
                        inner.role = Role::Loading;
                        return;
                    }
                    Role::Free(active) => active.timers.next(),
                    // A timer that is set now cannot be seen yet: who has the role tells when it is free.
                    Role::Taken => {
                        inner.is_task_waiting = true;
                        None
                    }
                    Role::Loading | Role::Closed => return,
                }
            };
            if *stop.borrow() {
                return;
            }
            tokio::select! { biased;
                _ = stop.changed() => {}
                () = self.changed.notified() => {}
                () = host.sleep_until(at.unwrap_or(MonoMs(u64::MAX))) => self.leave(Work::Timers),
            }
        }
    }

    /// Replays the partition; false if it cannot be read now, which `may_complain` decides to tell.
    async fn load(&self, may_complain: bool) -> bool {
        // Who waits for a later answer hears that there will be none.
        self.commits.fail();
        // Behind every append that is under way.
        if self.partition.with_log(&self.world.host, |_| ()).await.is_none() {
            return false;
        }
        // What is answered from a load must not be lost any more.
        self.partition.committed(&self.world.host).await;
        let view = self.partition.view.clone();
        let buffer_bytes = self.world.load_buffer_bytes;
        let load = move || loader::load::<C>(&view, buffer_bytes);
        let Loaded { machine, end, record_count } = match self.world.host.offload(Pool::ColdRead, load).await
        {
            Ok(loaded) => loaded,
            Err(error) => {
                if may_complain {
                    tracing::error!(
                        topic = %self.partition.topic, partition = %self.partition.index, %error,
                        "cannot load a coordinator: its groups are not available until the partition can be \
                         read; it is tried again and again. Look at the disk, or restore the file from a copy"
                    );
                }
                return false;
            }
        };
        tracing::debug!(
            topic = %self.partition.topic, partition = %self.partition.index, record_count,
            "a coordinator has loaded"
        );
        let mut active = Box::new(Active {
            machine,
            timers: Timers::new(),
            waiting: BTreeMap::new(),
            next_key: 0,
            end,
            out: Outcome::default(),
        });
        self.commits.begin(end);
        let mut out = Outcome::default();
        self.with_context(|cx| active.machine.loaded(cx, &mut out));
        let dirty = self.carry_out(&mut active, out);
        {
            let mut inner = self.locked();
            if matches!(inner.role, Role::Closed) {
                return false;
            }
            inner.role = Role::Free(active);
        }
        if let Some(dir) = dirty {
            dir.want_round();
        }
        true
    }
}
