//! How every state machine of Klamm is driven: `decide`, append, `apply`, commit.
//!
//! A machine never performs I/O and never looks at a clock: [`Ctx`] hands in time and
//! randomness, the records of a [`Decision`] are appended by its host, and
//! [`Machine::apply`] is the only way its durable state changes.
//!
//! Invariants:
//! - `decide` borrows the machine immutably; whatever it wants to remember is a record.
//! - `apply` is total: it accepts every record that decodes. A leader, a replay and the
//!   simulator run the same `apply`.
//! - Records are applied when they are appended, before they commit; the reply waits. A
//!   failed append or a lost leadership drops the machine and reloads it: there is no undo.

use klamm_protocol::ids::Offset;
use klamm_protocol::time::{MonoMs, WallMs};

/// A state machine whose durable state is a log of records.
pub trait Machine {
    /// What it is asked.
    type Command;
    /// What it answers.
    type Reply;
    /// What it writes.
    type Record;
    /// Names a timer it may set.
    type Timer: Ord + Clone;

    /// What follows from `command`: records, a reply, timers. Changes nothing.
    fn decide(&self, cx: &mut Ctx<'_>, command: Self::Command) -> Decision<Self>;

    /// Takes one record of the log into the state. Total.
    fn apply(&mut self, at: Offset, record: &Self::Record);

    /// Every record below `upto` is committed.
    fn on_committed(&mut self, upto: Offset);
}

/// What a decision may look at beside the machine's own state.
pub struct Ctx<'a> {
    /// Monotonic time, for deadlines.
    pub mono: MonoMs,
    /// Wall-clock time, for timestamps that are written.
    pub wall: WallMs,
    /// The log's end: the offset which the decision's first record will get.
    pub next_offset: Offset,
    /// The host's seeded generator.
    pub random: &'a mut dyn FnMut() -> u64,
}

impl Ctx<'_> {
    /// 128 random bits.
    pub fn random_u128(&mut self) -> u128 {
        let high = (self.random)();
        let low = (self.random)();
        u128::from(high) << 64 | u128::from(low)
    }
}

/// The outcome of [`Machine::decide`].
pub struct Decision<M: Machine + ?Sized> {
    /// Appended as one atomic batch, in this order.
    pub records: Vec<M::Record>,
    /// The answer and what it waits for.
    pub reply: ReplyWhen<M::Reply>,
    /// Timers to set or cancel once the records are appended.
    pub timers: Vec<TimerOp<M::Timer>>,
}

impl<M: Machine + ?Sized> Decision<M> {
    /// Writes `records` and answers once they are committed; without records, once
    /// everything that was read is.
    #[must_use]
    pub fn write(records: Vec<M::Record>, reply: M::Reply) -> Self {
        let reply = if records.is_empty() {
            ReplyWhen::AfterEverythingRead(reply)
        } else {
            ReplyWhen::AfterMine(reply)
        };
        Self { records, reply, timers: Vec::new() }
    }

    /// Writes nothing. The reply waits for every earlier record, because it may rest on one.
    #[must_use]
    pub fn read(reply: M::Reply) -> Self {
        Self::write(Vec::new(), reply)
    }
}

/// When a reply may leave.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyWhen<R> {
    /// Once the records of this decision are committed.
    AfterMine(R),
    /// Once every record applied before this decision is committed: nothing was written, but
    /// the answer rests on state that may still be lost.
    AfterEverythingRead(R),
    /// At once: the answer rests on committed state alone.
    Committed(R),
    /// A later decision answers under this key.
    Later(ReplyKey),
}

impl<R> ReplyWhen<R> {
    /// The reply, unless it comes later.
    pub fn into_reply(self) -> Option<R> {
        match self {
            Self::AfterMine(reply) | Self::AfterEverythingRead(reply) | Self::Committed(reply) => Some(reply),
            Self::Later(_) => None,
        }
    }
}

/// Names a parked reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyKey(pub u64);

/// What becomes of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerOp<T> {
    /// Fires at the time, replacing an earlier deadline of the same timer.
    Set(T, MonoMs),
    /// Does not fire.
    Cancel(T),
}
