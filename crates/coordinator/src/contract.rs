//! How a coordinator is driven: decide, append, apply, commit, answer.
//!
//! One machine owns one partition of an internal topic. Its host hands in commands, fired timers and
//! new metadata images; the machine fills an [`Outcome`]: records, which the host appends as one
//! batch and hands to [`Coordinator::apply`] at once; answers and effects, which leave once everything
//! that was appended so far is committed; and timers.
//!
//! Two kinds of state:
//! - *Durable*: what the records say. Only [`Coordinator::apply`] and
//!   [`Coordinator::end_transaction`] change it, on a live partition and on replay alike.
//! - *Soft*: who waits for an answer, deadlines, a rebalance under way. Decisions change it; a
//!   reload forgets it.
//!
//! Invariants:
//! - `apply` is total: it takes every record that decodes, in any order a log may have them.
//! - Replaying the partition from its start gives the same durable state as having lived through it.
//! - A failed append or a lost leadership drops the machine and loads a new one: there is no undo. What the
//!   log refuses at once has not happened, though: nothing was applied, so what is durable is as it was, and a
//!   machine that can set right the rest goes on ([`Coordinator::refused`]).
//! - Every [`ReplyKey`] is answered at most once. What a lost machine owes, its host answers.
//! - An effect may be lost with its machine, and is then asked for again by [`Coordinator::loaded`].

use klamm_cluster::image::{MetadataDelta, MetadataImage};
pub use klamm_cluster::machine::{ReplyKey, TimerOp};
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use klamm_protocol::time::{MonoMs, WallMs};

use crate::record::Codec;

/// A state machine over the records of one partition.
pub trait Coordinator: Sized + Send + 'static {
    /// What it is asked.
    type Command: Send;
    /// What it answers.
    type Reply: Send;
    /// What it writes and reads.
    type Record: Codec + Send;
    /// Names a timer.
    type Timer: Ord + Clone + Send;
    /// What it wants done outside its own partition; [`std::convert::Infallible`] if there is nothing.
    type Effect: Send;
    /// What its configuration says; may change between two calls.
    type Settings: Send + Sync;

    /// It goes on when the log refuses what it decided ([`Coordinator::refused`]); else it is dropped then.
    const OUTLIVES_REFUSALS: bool = false;

    /// Decides on a command. `key` names whoever waits: its answer is in this outcome or in a later one.
    fn decide(
        &mut self,
        cx: &Ctx<'_, Self::Settings>,
        key: ReplyKey,
        command: Self::Command,
        out: &mut Outcome<Self>,
    );

    /// A timer has fired. It is not set any more.
    fn expire(&mut self, cx: &Ctx<'_, Self::Settings>, timer: Self::Timer, out: &mut Outcome<Self>);

    /// The metadata has changed: to the image of `cx`, by `delta`.
    fn follow_image(&mut self, cx: &Ctx<'_, Self::Settings>, delta: &MetadataDelta, out: &mut Outcome<Self>);

    /// The partition was replayed to its end: sets the timers that a live partition would have.
    fn loaded(&mut self, cx: &Ctx<'_, Self::Settings>, out: &mut Outcome<Self>);

    /// The log has taken none of these records, which may be the last of an outcome that is divisible; what was to
    /// be answered beside them is told as an error. Sets right what rests on them, and writes nothing. Only of a
    /// machine that goes on then.
    fn refused(
        &mut self,
        _cx: &Ctx<'_, Self::Settings>,
        _records: &[Self::Record],
        _out: &mut Outcome<Self>,
    ) {
    }

    /// Takes one record of the log into the durable state.
    fn apply(&mut self, at: At, record: &Self::Record);

    /// A transaction's marker is in the log: what its records said counts, or never did.
    fn end_transaction(&mut self, producer: ProducerId, is_committed: bool);
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Its offset.
    pub offset: Offset,
    /// The producer whose open transaction it belongs to.
    pub transaction: Option<ProducerId>,
}

/// What a decision may look at beside the machine's own state.
pub struct Ctx<'a, S> {
    /// Monotonic time, for deadlines.
    pub mono: MonoMs,
    /// Wall-clock time, for timestamps that are written.
    pub wall: WallMs,
    /// The epoch in which the machine's partition is led.
    pub leader_epoch: LeaderEpoch,
    /// The cluster's metadata.
    pub image: &'a MetadataImage,
    /// The configuration.
    pub settings: &'a S,
    /// What its topic takes in one batch; a bigger one is refused if the machine outlives that.
    pub batch_bytes_max: usize,
    /// 128 random bits a call, from the host's seeded generator.
    pub random: &'a dyn Fn() -> u128,
}

/// What follows from a command, a timer or an image.
pub struct Outcome<C: Coordinator> {
    /// Appended as one batch, in this order, unless `is_divisible`.
    pub records: Vec<C::Record>,
    /// The records mean something one by one: the host may append them as several batches.
    pub is_divisible: bool,
    /// The records belong to this producer's transaction.
    pub transaction: Option<(ProducerId, ProducerEpoch)>,
    /// Answers, of this command and of earlier ones; they leave once everything appended so far,
    /// the records of this outcome included, is committed.
    pub replies: Vec<(ReplyKey, C::Reply)>,
    /// Done at the same moment as the answers leave, and before later ones.
    pub effects: Vec<C::Effect>,
    /// Timers to set or cancel.
    pub timers: Vec<TimerOp<C::Timer>>,
}

impl<C: Coordinator> Default for Outcome<C> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            is_divisible: false,
            transaction: None,
            replies: Vec::new(),
            effects: Vec::new(),
            timers: Vec::new(),
        }
    }
}

impl<C: Coordinator> Outcome<C> {
    /// Answers `key`.
    pub fn reply(&mut self, key: ReplyKey, reply: C::Reply) {
        self.replies.push((key, reply));
    }

    /// Adds a record.
    pub fn write(&mut self, record: C::Record) {
        self.records.push(record);
    }

    /// The timer fires at `at`, and not at the time it had before.
    pub fn set_timer(&mut self, timer: C::Timer, at: MonoMs) {
        self.timers.push(TimerOp::Set(timer, at));
    }

    /// The timer does not fire.
    pub fn cancel_timer(&mut self, timer: C::Timer) {
        self.timers.push(TimerOp::Cancel(timer));
    }
}
