//! One partition of an internal topic with the machine that it is the memory of.
//!
//! Whoever asks takes the machine's role, if it is free, and decides on its own thread: records are
//! appended and applied, answers held back until they are committed. Who comes meanwhile leaves its
//! command in the queue and goes away: nobody waits for a machine on a network worker, because an
//! append may be slow. The shard's task loads, fires timers and loads again after a failure.
//!
//! What the log refuses at once was not applied: that command alone fails, and the machine goes on. An append that
//! fails later, on another thread, costs the machine; the more such failures in a row, the longer until the next load.
//!
//! **Invariants:** at most one thread has the machine; records are applied in the order of the log;
//! nothing is decided once a load is due; every asker gets an answer or [`Unavailable`].

mod lease;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_cluster::image::MetadataDelta;
use klamm_coordinator::contract::{At, Coordinator, Ctx, Outcome, ReplyKey};
use klamm_log::{AppendOrigin, trusted_batch};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::BatchBuilder;
use klamm_protocol::time::MonoMs;
use klamm_protocol::wire::EncodeError;
use tokio::sync::{Notify, oneshot, watch};

use super::commits::{Asker, Commits};
use super::loader::{self, Loaded};
use super::timers::Timers;
use super::{Unavailable, World};
use crate::host::{Host, Pool};
use crate::log_dirs::DirState;
use crate::partition::acks::AppendOwner;
use crate::partition::{Append, AppendFailure, AppendGroup, Partition, Ticket};

/// How long after a load that failed the next one is tried; and after one that nothing could be appended behind.
const RELOAD_MS: u64 = 500;
/// Each further one of the latter doubles the pause, so often.
const RELOAD_DOUBLINGS_MAX: u32 = 4;
/// How many loads fail between two lines in the log.
const LOADS_PER_COMPLAINT: u32 = 120;
/// Timers that fire in one turn.
const TIMERS_PER_TURN_MAX: usize = 64;
/// Rounds that an asker does for others before a task of its own takes over.
const ROUNDS_MAX: usize = 4;
/// Bytes of records in one batch, where they may be divided.
const BATCH_BYTES: usize = 512 * 1024;

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
        if let Some(dir) = self.dirty {
            dir.commit(host);
        }
        self.answer.await.unwrap_or(Err(Unavailable::Lost))
    }
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
            self.0.commits.fail();
            let mut inner = self.0.locked();
            inner.queue.clear();
            if !matches!(inner.role, Role::Closed) {
                inner.role = Role::Loading;
            }
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

    /// Does what came meanwhile, then frees the role.
    fn give_back(self: &Arc<Self>, mut active: Box<Active<C>>) {
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

    async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
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

    /// Appends, applies, holds the answers back. Gives the directory that somebody waits for.
    fn carry_out(&self, active: &mut Active<C>, mut out: Outcome<C>) -> Option<Arc<DirState>> {
        self.set_timers(active, &mut out);
        let (dirty, refused) = self.write(active, &mut out);
        if let Some(because) = refused {
            self.withdraw(active, &mut out, because);
        }
        for (key, reply) in out.replies.drain(..) {
            if let Some(asker) = active.waiting.remove(&key) {
                self.commits.hold(active.end, asker, reply);
            }
        }
        for effect in out.effects.drain(..) {
            self.commits.hold_effect(active.end, effect);
        }
        active.out = out;
        dirty
    }

    fn set_timers(&self, active: &mut Active<C>, out: &mut Outcome<C>) {
        if out.timers.is_empty() {
            return;
        }
        let first_before = active.timers.next();
        out.timers.drain(..).for_each(|op| active.timers.change(op));
        if active.timers.next() != first_before {
            self.changed.notify_one();
        }
    }

    /// What is left of `out` is not in the log: whoever would have been answered hears so, and the machine sets
    /// right what it did beside.
    fn withdraw(&self, active: &mut Active<C>, out: &mut Outcome<C>, because: Unavailable) {
        for (key, _) in out.replies.drain(..) {
            if let Some(asker) = active.waiting.remove(&key) {
                // Whoever asked may have gone.
                let _ = asker.send(Err(because));
            }
        }
        out.effects.clear();
        let records = std::mem::take(&mut out.records);
        self.with_context(|cx| active.machine.refused(cx, &records, out));
        debug_assert!(out.records.is_empty(), "the log has just refused some");
        self.set_timers(active, out);
    }

    /// Appends and applies. Leaves what was refused in `out`, and says why.
    fn write(
        &self,
        active: &mut Active<C>,
        out: &mut Outcome<C>,
    ) -> (Option<Arc<DirState>>, Option<Unavailable>) {
        let (is_divisible, transaction) = (std::mem::take(&mut out.is_divisible), out.transaction.take());
        let records = &mut out.records;
        let (mut dirty, mut refused) = (None, None);
        let builder = || {
            let builder = BatchBuilder::new().codec(self.world.codec);
            match transaction {
                Some((id, epoch)) => builder.producer(id, epoch, -1).transactional(),
                None => builder,
            }
        };
        let now_ms = self.world.host.wall().0;
        let mut batch = builder();
        let (mut end, mut taken) = (active.end, 0);
        for (index, record) in records.iter().enumerate() {
            if let Err(error) = push(&mut batch, record, now_ms) {
                tracing::error!(%error, "a coordinator's record cannot be written");
                refused = Some(Unavailable::TooLarge);
                break;
            }
            end = end.plus(1);
            let is_last = index + 1 == records.len();
            if is_last || is_divisible && batch.size_bytes() >= BATCH_BYTES {
                let full = std::mem::replace(&mut batch, builder());
                match self.append(full, end) {
                    Ok(wanting) => dirty = wanting.or(dirty),
                    Err(because) => {
                        refused = Some(because);
                        break;
                    }
                }
                taken = index + 1;
            }
        }
        for (offset, record) in (active.end.0..).zip(records.drain(..taken)) {
            let at = At { offset: Offset(offset), transaction: transaction.map(|(id, _)| id) };
            active.machine.apply(at, &record);
            active.end = Offset(offset + 1);
        }
        if refused.is_some() && !C::OUTLIVES_REFUSALS {
            self.commits.fail();
        }
        (dirty, refused)
    }

    /// One batch, behind which the log ends at `end`; the error if nothing was written, and the files are as they
    /// were.
    fn append(&self, batch: BatchBuilder, end: Offset) -> Result<Option<Arc<DirState>>, Unavailable> {
        let batch = trusted_batch(batch.build()).expect("a batch that was just built");
        if C::OUTLIVES_REFUSALS && batch.bytes.len() > self.world.batch_bytes_max.load(Ordering::Relaxed) {
            return Err(Unavailable::TooLarge);
        }
        let ticket = Ticket { slot: end.0 as u64, place: (0, 0), waits_for_commit: true };
        let group =
            AppendGroup { batches: vec![batch], tickets: vec![ticket], origin: AppendOrigin::Coordinator };
        let owner: Arc<dyn AppendOwner> = self.commits.clone();
        Ok(match self.partition.append(&self.world.host, group, &owner) {
            Append::Queued => None,
            Append::Done(results) => match results.into_iter().next() {
                Some(Some(Err(AppendFailure::Refused(_))))
                    if C::OUTLIVES_REFUSALS && !self.partition.is_offline() =>
                {
                    return Err(Unavailable::Lost);
                }
                Some(Some(result)) => {
                    self.commits.note(end, &result);
                    self.commits.wake();
                    None
                }
                Some(None) | None => Some(self.partition.want_commit(&self.world.host)),
            },
        })
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

fn push<R: klamm_coordinator::record::Codec>(
    batch: &mut BatchBuilder,
    record: &R,
    now_ms: i64,
) -> Result<(), EncodeError> {
    let (key, value) = record.encode()?;
    batch.push(now_ms, Some(&key), value.as_deref(), &[]);
    Ok(())
}
