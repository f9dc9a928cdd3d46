//! What a world goes through: steps drawn from a seed, each perhaps with a power cut in it.
//!
//! A step says what to do relative to the log as it is then, so that a case stays
//! meaningful when others are taken out of it.

use klamm_log::disk::Draw;

/// One run.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it was drawn from.
    pub seed: u64,
    /// True if acknowledged is what was flushed; else what was written, as Kafka does.
    pub is_flushed_mode: bool,
    /// True if producers write with sequences and transactions; such a run does not move the
    /// log start, which takes away what producers are known by.
    pub has_producers: bool,
    /// True if the log is compacted now and then.
    pub is_compacted: bool,
    /// What happens.
    pub steps: Vec<Planned>,
}

/// A step, and the power cut that strikes from there on.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// What is done.
    pub step: Step,
    /// When the power goes.
    pub cut: Option<PowerCut>,
}

/// The power goes during a changing call to the disk.
#[derive(Clone, Copy, Debug)]
pub struct PowerCut {
    /// So many changing calls pass before.
    pub after: u64,
    /// What the device makes of unsynced bytes and names.
    pub seed: u64,
    /// The recovery from it is cut too, behind so many calls.
    pub again_after: Option<u64>,
}

/// What is done to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Appends so many batches as one group.
    Append {
        /// How many.
        batches: u8,
        /// What they look like.
        seed: u64,
    },
    /// Ends a producer's transaction.
    EndTransaction {
        /// Which of the transactional producers.
        producer: u8,
        /// With a commit marker.
        is_commit: bool,
    },
    /// Flushes what was appended.
    Flush,
    /// Begins a flush, appends, and lets the flush run then.
    FlushBesideAppend {
        /// What the batches look like.
        seed: u64,
    },
    /// Rolls the active segment.
    Roll,
    /// Moves the log start to this share (of 255) of the readable log.
    AdvanceStart(u8),
    /// Lets go what this share (of 255) of the size, or this time, leaves no room for.
    Retain(u8),
    /// Compacts what may be, so many milliseconds later.
    Compact {
        /// Time that passes before, for delete horizons.
        ms: u8,
        /// What happens beside it, and how much of the dirty part it takes.
        seed: u64,
    },
    /// Moves the log to another directory while it is written.
    Move {
        /// What happens beside it.
        seed: u64,
    },
    /// Cuts the log at this share (of 255), as a follower does in a new epoch.
    Truncate(u8),
    /// Drops everything and begins anew behind the end.
    StartAnew,
    /// Writes the offset checkpoints.
    Checkpoint,
    /// Writes a producer snapshot.
    Snapshot,
    /// Flips a bit of a durable batch on the device.
    Corrupt {
        /// Which.
        seed: u64,
        /// Below a recovery point that is written down first, or behind the one that was.
        is_below_point: bool,
    },
    /// Kills the process: the page cache stays.
    Kill,
    /// Stops cleanly and starts again.
    CleanStop,
    /// Arms a fault for a coming call.
    Fault {
        /// Which.
        kind: FaultKind,
        /// How many calls of its kind pass before.
        after: u8,
    },
    /// Leaves so little room on the disk; `u16::MAX` is room without end.
    Room(u16),
}

/// What a call to the disk may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A write that stores only a part.
    ShortWrite(u16),
    /// A write that finds the disk full.
    Full,
    /// A write that fails.
    Write,
    /// A flush that fails and loses what it should have kept.
    Sync,
    /// A cut or an extension that fails.
    SetLen,
    /// A rename that fails.
    Rename,
    /// A file that cannot be created.
    Create,
}

impl Step {
    /// What it is called in counts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Append { .. } => "append",
            Self::EndTransaction { .. } => "end transaction",
            Self::Flush => "flush",
            Self::FlushBesideAppend { .. } => "flush beside append",
            Self::Roll => "roll",
            Self::AdvanceStart(_) => "advance start",
            Self::Retain(_) => "retain",
            Self::Compact { .. } => "compact",
            Self::Move { .. } => "move",
            Self::Truncate(_) => "truncate",
            Self::StartAnew => "start anew",
            Self::Checkpoint => "checkpoint",
            Self::Snapshot => "snapshot",
            Self::Corrupt { .. } => "corrupt",
            Self::Kill => "kill",
            Self::CleanStop => "clean stop",
            Self::Fault { .. } => "fault",
            Self::Room(_) => "room",
        }
    }
}

impl Case {
    /// The case of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let has_producers = draw.below(2) == 0;
        let is_flushed_mode = draw.below(2) == 0;
        let is_compacted = draw.below(3) == 0;
        let count = 8 + draw.below(32);
        let steps = (0..count).map(|_| planned(&mut draw, has_producers, is_compacted)).collect();
        Self { seed, is_flushed_mode, has_producers, is_compacted, steps }
    }
}

fn planned(draw: &mut Draw, has_producers: bool, is_compacted: bool) -> Planned {
    let step = step(draw, has_producers, is_compacted);
    // One cut in four steps; most fall into the step itself, some into a later one.
    let cut = (draw.below(4) == 0).then(|| {
        let calls_max = if draw.below(4) == 0 { 40 } else { 8 };
        PowerCut {
            after: draw.below(calls_max),
            seed: draw.next_u64(),
            again_after: (draw.below(4) == 0).then(|| draw.below(24)),
        }
    });
    Planned { step, cut }
}

fn step(draw: &mut Draw, has_producers: bool, is_compacted: bool) -> Step {
    loop {
        return match draw.below(72) {
            0..30 => Step::Append { batches: 1 + draw.below(5) as u8, seed: draw.next_u64() },
            30..34 if has_producers => {
                Step::EndTransaction { producer: draw.below(2) as u8, is_commit: draw.below(2) == 0 }
            }
            30..34 if !has_producers => Step::AdvanceStart(draw.below(256) as u8),
            34..41 => Step::Flush,
            41..43 => Step::FlushBesideAppend { seed: draw.next_u64() },
            43..45 => Step::Roll,
            45..48 => Step::Truncate(draw.below(256) as u8),
            48 if !has_producers => Step::StartAnew,
            49..53 => Step::Checkpoint,
            53 => Step::Snapshot,
            54..56 => Step::Kill,
            56..58 => Step::CleanStop,
            58..62 => Step::Fault { kind: fault(draw), after: draw.below(6) as u8 },
            62 => Step::Room(draw.below(2000) as u16),
            63 => Step::Room(u16::MAX),
            64 => Step::Move { seed: draw.next_u64() },
            65 if !has_producers => Step::Retain(draw.below(256) as u8),
            66..72 if is_compacted => Step::Compact { ms: draw.below(256) as u8, seed: draw.next_u64() },
            _ => continue,
        };
    }
}

fn fault(draw: &mut Draw) -> FaultKind {
    match draw.below(8) {
        0..2 => FaultKind::ShortWrite(draw.below(300) as u16),
        2 => FaultKind::Full,
        3 => FaultKind::Write,
        4 => FaultKind::Sync,
        5 => FaultKind::SetLen,
        6 => FaultKind::Rename,
        _ => FaultKind::Create,
    }
}
