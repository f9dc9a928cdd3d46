//! One partition of an internal topic with the machine that it is the memory of.
//!
//! Whoever asks takes the machine's role, if it is free, and decides on its own thread: records are
//! appended and applied, answers held back until they are committed. Who comes meanwhile leaves its
//! command in the queue and goes away: nobody waits for a machine on a network worker, because an
//! append may be slow; if the directory is known to be, role and records go to its lane. The shard's task loads, fires
//! timers and loads again after a failure.
//!
//! What the log refuses at once was not applied: that command alone fails, and the machine goes on. An append that
//! fails later, on another thread, costs the machine; the more such failures in a row, the longer until the next load.
//!
//! **Invariants:** at most one thread has the machine; records are applied in the order of the log;
//! nothing is decided once a load is due; every asker gets an answer or [`Unavailable`].

mod lease;
mod task;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_cluster::image::MetadataDelta;
use klamm_coordinator::contract::{Coordinator, Ctx, Outcome, ReplyKey};
use klamm_protocol::ids::Offset;
use tokio::sync::{Notify, oneshot, watch};

use super::commits::{Asker, Commits};
use super::timers::Timers;
use super::{Unavailable, World};
use crate::host::Host;
use crate::log_dirs::DirState;
use crate::partition::Partition;

/// Timers that fire in one turn.
const TIMERS_PER_TURN_MAX: usize = 64;
/// Rounds that an asker does for others before a task of its own takes over.
const ROUNDS_MAX: usize = 4;

type Answer<C> = oneshot::Receiver<Result<<C as Coordinator>::Reply, Unavailable>>;

/// A partition's coordinator.
pub(crate) struct Shard<H: Host, C: Coordinator> {
    world: Arc<World<H, C>>,
    pub(super) partition: Arc<Partition>,
    inner: Mutex<Inner<C>>,
    commits: Arc<Commits<C>>,
    changed: Arc<Notify>,
}

struct Inner<C: Coordinator> {
    role: Role<C>,
    /// For who has the role.
    queue: VecDeque<Work<C>>,
    /// The task found the role taken, and wants to look at the timers once it is free.
    is_task_waiting: bool,
}

enum Role<C: Coordinator> {
    Loading,
    Free(Box<Active<C>>),
    Taken,
    Closed,
}

/// What came of asking.
pub(crate) enum Asked<C: Coordinator> {
    Answered(C::Reply),
    Waits(Pending<C>),
}

/// An answer that is not there yet.
pub(crate) struct Pending<C: Coordinator> {
    answer: Answer<C>,
    /// What must be committed for it.
    dirty: Option<Arc<DirState>>,
}

impl<C: Coordinator> Pending<C> {
    /// Waits, and may flush here and now.
    pub(crate) async fn answer<H: Host>(self, host: &H) -> Result<C::Reply, Unavailable> {
        committed(host, self.dirty, self.answer).await.unwrap_or(Err(Unavailable::Lost))
    }
}

/// What `answer` gives once `dirty` is committed, here and now or by another's round, whichever is sooner.
async fn committed<H: Host, T>(host: &H, dirty: Option<Arc<DirState>>, answer: impl Future<Output = T>) -> T {
    let commit = async {
        if let Some(dir) = dirty {
            dir.commit(host).await;
        }
    };
    tokio::join!(commit, answer).1
}

/// What became of a command.
enum Taken<C: Coordinator> {
    /// The asker has the role.
    Role(Box<Active<C>>, C::Command),
    /// Who has it will answer.
    Queued(Answer<C>),
}

enum Work<C: Coordinator> {
    Command(C::Command, Asker<C::Reply>),
    Timers,
    Image(Arc<MetadataDelta>),
    Lend(Lend<C>),
}

/// Takes the role, or gives it back if nobody wants it any more.
type Lend<C> = Box<dyn FnOnce(Box<Active<C>>) -> Option<Box<Active<C>>> + Send>;

struct Active<C: Coordinator> {
    machine: C,
    timers: Timers<C::Timer>,
    waiting: BTreeMap<ReplyKey, Asker<C::Reply>>,
    next_key: u64,
    /// Where the next record will lie.
    end: Offset,
    /// Empty; kept for its room.
    out: Outcome<C>,
}

impl<C: Coordinator> Active<C> {
    fn draw_key(&mut self) -> ReplyKey {
        self.next_key += 1;
        ReplyKey(self.next_key)
    }
}

/// Held by who has the role. Should a machine panic, the log still has all that it said.
struct RoleGuard<'a, H: Host, C: Coordinator>(&'a Shard<H, C>);

impl<H: Host, C: Coordinator> Drop for RoleGuard<'_, H, C> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            {
                let mut inner = self.0.locked();
                inner.queue.clear();
                if !matches!(inner.role, Role::Closed) {
                    inner.role = Role::Loading;
                }
            }
            // Wakes the task, which must find the role as it is now.
            self.0.commits.fail();
        }
    }
}

impl<H: Host, C: Coordinator> Shard<H, C> {
    fn locked(&self) -> MutexGuard<'_, Inner<C>> {
        self.inner.lock().expect("nothing panics while the role changes hands")
    }
}

impl<H: Host, C: Coordinator + Default> Shard<H, C> {
    /// A shard that loads.
    pub(super) fn start(
        world: Arc<World<H, C>>,
        partition: Arc<Partition>,
        stop: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let changed = Arc::<Notify>::default();
        let shard = Arc::new(Self {
            partition,
            inner: Mutex::new(Inner { role: Role::Loading, queue: VecDeque::new(), is_task_waiting: false }),
            commits: Arc::new(Commits::new(changed.clone(), world.effects.clone())),
            changed,
            world,
        });
        let task = shard.clone();
        shard.world.host.spawn("coordinator", async move { task.run(stop).await });
        shard
    }

    /// Decides on `command`, here and now if nobody else is at it; the answer comes once everything it
    /// rests on is committed.
    pub(crate) async fn ask(self: &Arc<Self>, command: C::Command) -> Result<C::Reply, Unavailable> {
        match self.ask_now(command)? {
            Asked::Answered(reply) => Ok(reply),
            Asked::Waits(pending) => pending.answer(&self.world.host).await,
        }
    }

    /// As [`Shard::ask`], for who has something else to do before it waits: this never flushes.
    pub(crate) fn ask_now(self: &Arc<Self>, command: C::Command) -> Result<Asked<C>, Unavailable> {
        match self.take_or_queue(command)? {
            Taken::Queued(answer) => Ok(Asked::Waits(Pending { answer, dirty: None })),
            Taken::Role(active, command) => self.decide_now(active, command),
        }
    }

    fn take_or_queue(&self, command: C::Command) -> Result<Taken<C>, Unavailable> {
        let mut inner = self.locked();
        match std::mem::replace(&mut inner.role, Role::Taken) {
            Role::Free(active) if !self.commits.has_failed() => Ok(Taken::Role(active, command)),
            Role::Taken => {
                let (asker, answer) = oneshot::channel();
                inner.queue.push_back(Work::Command(command, asker));
                Ok(Taken::Queued(answer))
            }
            other => {
                let is_closed = matches!(other, Role::Closed);
                inner.role = other;
                Err(if is_closed { Unavailable::Lost } else { Unavailable::Loading })
            }
        }
    }

    /// Decides with the role, and gives it on.
    fn decide_now(
        self: &Arc<Self>,
        mut active: Box<Active<C>>,
        command: C::Command,
    ) -> Result<Asked<C>, Unavailable> {
        let guard = RoleGuard(self);
        let key = active.draw_key();
        let mut out = std::mem::take(&mut active.out);
        self.with_context(|cx| active.machine.decide(cx, key, command, &mut out));
        // A heartbeat, mostly: nothing to write, and nothing to wait for.
        let is_at_once = out.records.is_empty()
            && matches!(&*out.replies, [(of, _)] if *of == key)
            && self.commits.is_committed(active.end);
        let now = if is_at_once { out.replies.pop() } else { None };
        let asked = match now {
            Some((_, reply)) => {
                // Nobody else's answer waits for it, so nothing is to be committed.
                let _ = self.carry_out(&mut active, out);
                Ok(Asked::Answered(reply))
            }
            None => {
                let (asker, mut answer) = oneshot::channel();
                active.waiting.insert(key, asker);
                if !out.records.is_empty() && self.partition.is_slow(&self.world.host) {
                    drop(guard);
                    self.carry_out_aside(active, out);
                    return Ok(Asked::Waits(Pending { answer, dirty: None }));
                }
                let dirty = self.carry_out(&mut active, out);
                match answer.try_recv() {
                    Ok(answered) => answered.map(Asked::Answered),
                    Err(_) => Ok(Asked::Waits(Pending { answer, dirty })),
                }
            }
        };
        drop(guard);
        self.give_back(active);
        asked
    }

    /// The metadata has changed.
    pub(super) fn follow_image(self: &Arc<Self>, delta: Arc<MetadataDelta>) {
        self.leave(Work::Image(delta));
    }

    /// Leaves work to whoever has the role, or does it.
    fn leave(self: &Arc<Self>, work: Work<C>) {
        let active = {
            let mut inner = self.locked();
            match std::mem::replace(&mut inner.role, Role::Taken) {
                Role::Free(active) => {
                    inner.queue.push_back(work);
                    active
                }
                Role::Taken => {
                    inner.queue.push_back(work);
                    return;
                }
                // A load sees the image and sets the timers anew.
                other => {
                    inner.role = other;
                    return;
                }
            }
        };
        self.give_back(active);
    }

    /// What was decided, on a thread that may block, which then gives the role back.
    fn carry_out_aside(self: &Arc<Self>, mut active: Box<Active<C>>, out: Outcome<C>) {
        let shard = self.clone();
        self.partition.dir().aside(&self.world.host, move || {
            // What it was decided on may be lost meanwhile.
            if !shard.commits.has_failed() {
                let _guard = RoleGuard(&*shard);
                if let Some(dir) = shard.carry_out(&mut active, out) {
                    dir.want_round();
                }
            }
            shard.work_off(active, true);
        });
    }

    /// Does what came meanwhile, then frees the role.
    fn give_back(self: &Arc<Self>, active: Box<Active<C>>) {
        self.work_off(active, false);
    }

    /// As [`Shard::give_back`]; who may not block leaves it to the lane while the directory is slow.
    fn work_off(self: &Arc<Self>, mut active: Box<Active<C>>, may_block: bool) {
        for _ in 0..ROUNDS_MAX {
            let round = {
                let mut inner = self.locked();
                if matches!(inner.role, Role::Closed) {
                    return;
                }
                if self.commits.has_failed() {
                    inner.role = Role::Loading;
                    inner.queue.clear();
                    drop(inner);
                    self.changed.notify_one();
                    return;
                }
                if inner.queue.is_empty() {
                    inner.role = Role::Free(active);
                    let is_task_waiting = std::mem::take(&mut inner.is_task_waiting);
                    drop(inner);
                    if is_task_waiting {
                        self.changed.notify_one();
                    }
                    return;
                }
                if !may_block && self.partition.is_slow(&self.world.host) {
                    drop(inner);
                    let shard = self.clone();
                    let work_off = move || shard.work_off(active, true);
                    return self.partition.dir().aside(&self.world.host, work_off);
                }
                std::mem::take(&mut inner.queue)
            };
            let _guard = RoleGuard(self);
            let mut dirty = None;
            let mut round = round.into_iter();
            let mut lend = None;
            for work in round.by_ref() {
                match work {
                    Work::Lend(to) => {
                        lend = Some(to);
                        break;
                    }
                    work => dirty = self.work(&mut active, work).or(dirty),
                }
            }
            if let Some(dir) = dirty {
                dir.want_round();
            }
            if let Some(lend) = lend {
                // Whoever gets the role gives it on, maybe at once: before that the rest is back in its place.
                let mut rest: VecDeque<_> = round.collect();
                {
                    let mut inner = self.locked();
                    rest.append(&mut inner.queue);
                    inner.queue = rest;
                }
                match lend(active) {
                    Some(back) => active = back,
                    None => return,
                }
            }
        }
        // Others keep coming: this thread goes back to its own connection.
        let shard = self.clone();
        self.world.host.spawn("coordinator", async move {
            tokio::task::yield_now().await;
            shard.give_back(active);
        });
    }

    fn work(&self, active: &mut Active<C>, work: Work<C>) -> Option<Arc<DirState>> {
        if self.commits.has_failed() {
            return None;
        }
        let mut out = std::mem::take(&mut active.out);
        match work {
            Work::Command(command, asker) => {
                let key = active.draw_key();
                active.waiting.insert(key, asker);
                self.with_context(|cx| active.machine.decide(cx, key, command, &mut out));
            }
            Work::Image(delta) => {
                self.with_context(|cx| active.machine.follow_image(cx, &delta, &mut out));
            }
            Work::Timers => {
                active.out = out;
                return self.fire(active);
            }
            Work::Lend(_) => unreachable!("the role is lent by who gives it back"),
        }
        self.carry_out(active, out)
    }

    fn fire(&self, active: &mut Active<C>) -> Option<Arc<DirState>> {
        let now = self.world.host.mono();
        let mut dirty = None;
        for _ in 0..TIMERS_PER_TURN_MAX {
            let Some(timer) = active.timers.take_due(now) else { break };
            let mut out = std::mem::take(&mut active.out);
            self.with_context(|cx| active.machine.expire(cx, timer, &mut out));
            dirty = self.carry_out(active, out).or(dirty);
            if self.commits.has_failed() {
                break;
            }
        }
        // The task sleeps until the next one.
        self.changed.notify_one();
        dirty
    }

    /// Answers nothing any more.
    pub(super) fn close(&self) {
        let mut inner = self.locked();
        inner.role = Role::Closed;
        inner.queue.clear();
        drop(inner);
        self.changed.notify_one();
    }

    fn with_context<T>(&self, job: impl FnOnce(&Ctx<'_, C::Settings>) -> T) -> T {
        let World { host, image, settings, batch_bytes_max, .. } = &*self.world;
        let (image, settings) = (image.load(), settings.load());
        let random = || host.random();
        job(&Ctx {
            mono: host.mono(),
            wall: host.wall(),
            leader_epoch: self.partition.leader_epoch(),
            image: &image,
            settings: &settings,
            batch_bytes_max: batch_bytes_max.load(Ordering::Relaxed),
            random: &random,
        })
    }

    fn is_closed(&self) -> bool {
        matches!(self.locked().role, Role::Closed)
    }
}
