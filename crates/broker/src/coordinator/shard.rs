//! One partition of an internal topic with the machine that it is the memory of.
//!
//! Whoever asks decides on its own thread: under the shard's lock the machine decides, its records
//! are appended and applied, its answers are held back until they are committed. The lock is held
//! for no wait and no flush. The shard's task loads, fires timers and loads again after a failure.
//!
//! **Invariants:** records are applied in the order of the log; nothing is decided while a load is
//! due; every asker gets an answer or [`Unavailable`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use klamm_cluster::image::MetadataDelta;
use klamm_coordinator::contract::{At, Coordinator, Ctx, Outcome, ReplyKey};
use klamm_log::{AppendOrigin, trusted_batch};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::{BatchBuilder, Codec};
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
use crate::partition::{Append, AppendGroup, Partition, Ticket};

/// How long after a failure the next load is tried.
const RELOAD_MS: u64 = 500;
/// Timers that fire under one hold of the lock.
const TIMERS_PER_TURN_MAX: usize = 64;
/// Bytes of records in one batch, where they may be divided.
const BATCH_BYTES: usize = 512 * 1024;

/// A partition's coordinator.
pub(crate) struct Shard<H: Host, C: Coordinator> {
    world: Arc<World<H, C>>,
    pub(super) partition: Arc<Partition>,
    state: Mutex<State<C>>,
    commits: Arc<Commits<C::Reply>>,
    changed: Arc<Notify>,
}

enum State<C: Coordinator> {
    Loading,
    Active(Box<Active<C>>),
    Closed,
}

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
            state: Mutex::new(State::Loading),
            commits: Arc::new(Commits::new(changed.clone())),
            changed,
            world,
        });
        let task = shard.clone();
        shard.world.host.spawn("coordinator", async move { task.run(stop).await });
        shard
    }

    /// Decides on `command` now; the answer comes once everything it rests on is committed.
    pub(crate) async fn ask(&self, command: C::Command) -> Result<C::Reply, Unavailable> {
        let (dirty, answer) = {
            let mut state = self.locked();
            let active = match &mut *state {
                State::Active(_) if self.commits.has_failed() => return Err(Unavailable::Loading),
                State::Active(active) => active,
                State::Loading => return Err(Unavailable::Loading),
                State::Closed => return Err(Unavailable::Lost),
            };
            let key = ReplyKey(active.next_key);
            active.next_key += 1;
            let mut out = std::mem::take(&mut active.out);
            self.with_context(|cx| active.machine.decide(cx, key, command, &mut out));
            // A heartbeat, mostly: nothing to write, and nothing to wait for.
            if out.records.is_empty()
                && out.replies.len() == 1
                && out.replies[0].0 == key
                && self.commits.is_committed(active.end)
            {
                let reply = out.replies.pop().map(|(_, reply)| reply);
                self.carry_out(active, out);
                return reply.ok_or(Unavailable::Lost);
            }
            let (asker, answer) = oneshot::channel();
            active.waiting.insert(key, asker);
            (self.carry_out(active, out), answer)
        };
        // Behind the lock: it may flush here and now.
        if let Some(dir) = dirty {
            dir.commit(&self.world.host);
        }
        answer.await.unwrap_or(Err(Unavailable::Lost))
    }

    /// The metadata has changed.
    pub(super) fn follow_image(&self, delta: &MetadataDelta) {
        let dirty = match &mut *self.locked() {
            State::Active(active) if !self.commits.has_failed() => {
                let mut out = Outcome::default();
                self.with_context(|cx| active.machine.follow_image(cx, delta, &mut out));
                self.carry_out(active, out)
            }
            _ => None,
        };
        if let Some(dir) = dirty {
            dir.want_round();
        }
    }

    /// Answers nothing any more.
    pub(super) fn close(&self) {
        *self.locked() = State::Closed;
        self.changed.notify_one();
    }

    async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            if !self.load().await {
                let host = &self.world.host;
                tokio::select! { biased;
                    _ = stop.changed() => {}
                    () = host.sleep_until(host.mono().plus_ms(RELOAD_MS)) => {}
                }
                if self.is_closed() {
                    return;
                }
                continue;
            }
            self.serve(&mut stop).await;
            if self.is_closed() {
                return;
            }
        }
        self.close();
    }

    /// Fires timers until a load is due or the shard ends.
    async fn serve(&self, stop: &mut watch::Receiver<bool>) {
        loop {
            let next = match &*self.locked() {
                State::Active(active) => active.timers.next(),
                State::Loading | State::Closed => return,
            };
            if *stop.borrow() || self.commits.has_failed() {
                return;
            }
            let host = &self.world.host;
            let at = next.unwrap_or(MonoMs(u64::MAX));
            tokio::select! { biased;
                _ = stop.changed() => {}
                () = self.changed.notified() => {}
                () = host.sleep_until(at) => self.fire(),
            }
        }
    }

    fn fire(&self) {
        let now = self.world.host.mono();
        let mut dirty = None;
        if let State::Active(active) = &mut *self.locked() {
            for _ in 0..TIMERS_PER_TURN_MAX {
                if self.commits.has_failed() {
                    break;
                }
                let Some(timer) = active.timers.take_due(now) else { break };
                let mut out = Outcome::default();
                self.with_context(|cx| active.machine.expire(cx, timer, &mut out));
                dirty = self.carry_out(active, out).or(dirty);
            }
        }
        if let Some(dir) = dirty {
            dir.want_round();
        }
    }

    /// Replays the partition; false if it cannot be read now.
    async fn load(&self) -> bool {
        {
            let mut state = self.locked();
            if matches!(*state, State::Closed) {
                return false;
            }
            // Who waits for a later answer hears that there will be none.
            *state = State::Loading;
        }
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
        let loaded = self.world.host.offload(Pool::ColdRead, load).await;
        let Loaded { machine, end, record_count } = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(
                    topic = %self.partition.topic, partition = %self.partition.index, %error,
                    "cannot load a coordinator: its groups are not available"
                );
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
        let mut state = self.locked();
        if matches!(*state, State::Closed) {
            return false;
        }
        self.commits.begin(end);
        let mut out = Outcome::default();
        self.with_context(|cx| active.machine.loaded(cx, &mut out));
        let dirty = self.carry_out(&mut active, out);
        *state = State::Active(active);
        drop(state);
        if let Some(dir) = dirty {
            dir.want_round();
        }
        true
    }

    /// Appends, applies, holds the answers back. Gives the directory that somebody waits for.
    fn carry_out(&self, active: &mut Active<C>, mut out: Outcome<C>) -> Option<Arc<DirState>> {
        if !out.timers.is_empty() {
            let first_before = active.timers.next();
            out.timers.drain(..).for_each(|op| active.timers.change(op));
            if active.timers.next() != first_before {
                self.changed.notify_one();
            }
        }
        let dirty = self.write(active, &mut out);
        for (key, reply) in out.replies.drain(..) {
            if let Some(asker) = active.waiting.remove(&key) {
                self.commits.hold(active.end, asker, reply);
            }
        }
        active.out = out;
        dirty
    }

    fn write(&self, active: &mut Active<C>, out: &mut Outcome<C>) -> Option<Arc<DirState>> {
        let (is_divisible, transaction) = (std::mem::take(&mut out.is_divisible), out.transaction.take());
        let records = &mut out.records;
        let mut dirty = None;
        let builder = || {
            let builder = BatchBuilder::new().codec(self.world.codec);
            match transaction {
                Some((id, epoch)) => builder.producer(id, epoch, -1).transactional(),
                None => builder,
            }
        };
        let now_ms = self.world.host.wall().0;
        let mut batch = builder();
        let first = active.end;
        let mut rest = records.iter().peekable();
        while let Some(record) = rest.next() {
            if let Err(error) = push(&mut batch, record, now_ms) {
                tracing::error!(%error, "a coordinator's record cannot be written: it loads again");
                self.commits.fail();
                records.clear();
                return dirty;
            }
            active.end = active.end.plus(1);
            if rest.peek().is_none() || is_divisible && batch.size_bytes() >= BATCH_BYTES {
                let full = std::mem::replace(&mut batch, builder());
                dirty = self.append(full, active.end).or(dirty);
            }
        }
        for (offset, record) in (first.0..).zip(records.drain(..)) {
            let at = At { offset: Offset(offset), transaction: transaction.map(|(id, _)| id) };
            active.machine.apply(at, &record);
        }
        dirty
    }

    /// One batch, behind which the log ends at `end`.
    fn append(&self, batch: BatchBuilder, end: Offset) -> Option<Arc<DirState>> {
        let batch = trusted_batch(batch.build()).expect("a batch that was just built");
        let ticket = Ticket { slot: end.0 as u64, place: (0, 0), waits_for_commit: true };
        let group =
            AppendGroup { batches: vec![batch], tickets: vec![ticket], origin: AppendOrigin::Coordinator };
        let owner: Arc<dyn AppendOwner> = self.commits.clone();
        match self.partition.append(&self.world.host, group, &owner) {
            Append::Queued => None,
            Append::Done(results) => match results.into_iter().next() {
                Some(Some(result)) => {
                    self.commits.note(end, &result);
                    self.commits.wake();
                    None
                }
                Some(None) | None => Some(self.partition.want_commit(&self.world.host)),
            },
        }
    }

    fn with_context<T>(&self, job: impl FnOnce(&Ctx<'_, C::Settings>) -> T) -> T {
        let World { host, image, settings, .. } = &*self.world;
        let (image, settings) = (image.load(), settings.load());
        let random = || host.random();
        job(&Ctx {
            mono: host.mono(),
            wall: host.wall(),
            image: &image,
            settings: &settings,
            random: &random,
        })
    }

    fn is_closed(&self) -> bool {
        matches!(*self.locked(), State::Closed)
    }

    fn locked(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().expect("a machine does not panic")
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

/// As `offsets.topic.compression.codec` numbers them.
pub(super) fn codec_of(number: i64) -> Codec {
    match number {
        1 => Codec::Gzip,
        2 => Codec::Snappy,
        3 => Codec::Lz4,
        4 => Codec::Zstd,
        _ => Codec::None,
    }
}
