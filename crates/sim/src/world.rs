//! One run: the steps of a case done on the real log and on the model.
//!
//! Around the log stands what a broker does for it: the log directory with its lock, its
//! checkpoints and its clean-stop marker, a new leader epoch at every start. An error is
//! fine where the power is gone or a fault was armed; anything else that fails, and any
//! answer that differs from the model's, ends the run.
//!
//! Here is the course of a run; what the steps do to the log is in `appends`, `cuts`,
//! `compaction`, `corruption` and `moving`, how it comes back in `starts`, what is compared in `checks`.

mod appends;
mod checks;
mod compaction;
mod corruption;
mod cuts;
mod moving;
mod starts;

use std::collections::BTreeMap;
use std::path::PathBuf;

use klamm_log::directory::LogDirectory;
use klamm_log::disk::{Fault, MemoryDisk};
use klamm_log::{Log, LogConfig};
use klamm_protocol::time::WallMs;

use self::corruption::Damage;
use self::starts::Start;
use crate::history::History;
use crate::sabotage::Sabotage;
use crate::step::{Case, FaultKind, Planned, PowerCut, Step};

/// When a run begins; later than every record.
const BEGIN_MS: i64 = 1_000;
/// Timestamps of records lie below this, so that many share one.
const TIMESTAMP_MAX: u64 = 200;

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Power cuts, each with a start behind it.
    pub power_cuts: u64,
    /// Of these, how many struck a start.
    pub cut_starts: u64,
    /// Starts of every kind.
    pub starts: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Faults that were armed.
    pub faults: u64,
    /// How many power cuts struck each kind of step, by [`Step::name`].
    pub struck: BTreeMap<&'static str, u64>,
    /// Which step of the first case the first power cut struck.
    pub first_struck: Option<usize>,
}

/// What the log did that it must not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// During which step of the case.
    pub step: usize,
    /// What.
    pub message: String,
}

/// Runs a case.
///
/// # Errors
/// The first thing that is not as the model says.
pub fn run(case: &Case, sabotage: Sabotage) -> Result<Stats, Violation> {
    World::new(case, sabotage).run(case, &mut |_, _| {})
}

pub(crate) struct World {
    disk: MemoryDisk,
    sabotage: Sabotage,
    config: LogConfig,
    is_flushed_mode: bool,
    has_producers: bool,
    directory: Option<LogDirectory>,
    log: Option<Log>,
    /// The log's directory, if it was moved.
    moved_to: Option<PathBuf>,
    moves: u128,
    now: WallMs,
    history: History,
    epoch: i32,
    /// The highest log start ever asked for.
    log_start_asked: i64,
    damage: Damage,
    /// A cut of the log failed in its middle: only a start tells what is left.
    is_torn: bool,
    /// A fault was armed, or the disk is small, since the last start.
    is_troubled: bool,
    stats: Stats,
}

type Outcome = Result<(), String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl World {
    pub(crate) fn new(case: &Case, sabotage: Sabotage) -> Self {
        Self {
            disk: MemoryDisk::new(),
            sabotage,
            config: LogConfig {
                segment_bytes: 1500,
                index_interval_bytes: 250,
                is_compacted: case.is_compacted,
                is_prefilled: case.is_flushed_mode,
                ..LogConfig::default()
            },
            is_flushed_mode: case.is_flushed_mode,
            has_producers: case.has_producers,
            directory: None,
            log: None,
            moved_to: None,
            moves: 0,
            now: WallMs(BEGIN_MS),
            history: History::new(case.is_compacted),
            epoch: 0,
            log_start_asked: 0,
            damage: Damage::default(),
            is_torn: false,
            is_troubled: false,
            stats: Stats::default(),
        }
    }

    /// `tell` hears after each step how it ended.
    pub(crate) fn run(
        mut self,
        case: &Case,
        tell: &mut dyn FnMut(&MemoryDisk, String),
    ) -> Result<Stats, Violation> {
        let mut cut: Option<PowerCut> = None;
        for (index, planned) in case.steps.iter().enumerate() {
            let violation = |message| Violation { step: index, message };
            if let Some(PowerCut { after, .. }) = planned.cut {
                self.disk.cut_power_after(after);
                cut = planned.cut;
            }
            let outcome = self.do_step(planned);
            let is_off = self.disk.is_off();
            let told = match &outcome {
                _ if is_off => "the power went".to_owned(),
                Ok(()) => format!("log {}", self.describe()),
                Err(error) => format!("failed: {error}"),
            };
            tell(&self.disk, format!("{:?} -> {told}", planned.step));
            match outcome {
                _ if is_off => {
                    *self.stats.struck.entry(planned.step.name()).or_default() += 1;
                    self.stats.first_struck.get_or_insert(index);
                    let cut = cut.take().expect("the power goes only where a cut was planned");
                    let started = self.restart_after_power_cut(cut);
                    tell(&self.disk, format!("power cut, start -> log {}", self.describe()));
                    started.map_err(violation)?;
                }
                Err(error) if !self.is_troubled => return Err(violation(error)),
                Err(_) | Ok(()) => {
                    let is_dead = self.log.as_ref().is_none_or(Log::is_poisoned);
                    if is_dead {
                        self.disk.clear_faults();
                        self.disk.set_capacity_bytes(None);
                        match self.restart(Start::Kill) {
                            Err(_) if self.disk.is_off() => {
                                let cut = cut.take().expect("the power goes only where a cut was planned");
                                self.restart_after_power_cut(cut).map_err(violation)?;
                            }
                            other => other.map_err(violation)?,
                        }
                        tell(&self.disk, format!("start -> log {}", self.describe()));
                    }
                }
            }
            self.note_promise().map_err(violation)?;
        }
        let violation = |message| Violation { step: case.steps.len(), message };
        self.disk.clear_faults();
        if let Some(cut) = cut {
            // One that lay behind the last step strikes now.
            self.disk.cut_power_after(0);
            let _ = self.checkpoint();
            self.restart_after_power_cut(cut).map_err(violation)?;
            tell(&self.disk, format!("power cut at the end, start -> log {}", self.describe()));
        }
        if self.log.is_some() {
            self.check().map_err(violation)?;
        }
        Ok(self.stats)
    }

    fn describe(&self) -> String {
        let limits = self.log.as_ref().map(|log| log.view().limits());
        limits.map_or("none".to_owned(), |limits| {
            format!("{}..{}, flushed {}", limits.log_start, limits.end.offset, limits.flushed.offset)
        })
    }

    fn do_step(&mut self, planned: &Planned) -> Outcome {
        if self.log.is_none() {
            self.restart(Start::Kill)?;
        }
        match planned.step {
            Step::Append { batches, seed } => self.append(batches, seed),
            Step::EndTransaction { producer, is_commit } => self.end_transaction(producer, is_commit),
            Step::Flush => {
                self.log().flush().map_err(text)?;
                self.flushed()
            }
            Step::FlushBesideAppend { seed } => {
                let job = self.log().begin_flush().map_err(text)?;
                let appended = self.append(2, seed);
                job.run().map_err(text)?;
                // What was tried behind the flush's target is not covered by it.
                appended?;
                self.flushed()
            }
            Step::Roll => self.log().roll_if_due(WallMs(i64::MAX)).map(drop).map_err(text),
            Step::AdvanceStart(share) => self.advance_start(share),
            Step::Retain(share) => self.retain(share),
            Step::Truncate(share) => self.truncate(share),
            Step::StartAnew => self.start_anew(),
            Step::Compact { ms, seed } => self.compact(ms, seed),
            Step::Move { seed } => self.move_log(seed),
            Step::Checkpoint => self.checkpoint(),
            Step::Snapshot => self.log().snapshot_producers().map_err(text),
            Step::Corrupt { seed, is_below_point } => self.corrupt(seed, is_below_point),
            Step::Kill => self.restart(Start::Kill),
            Step::CleanStop => {
                self.stop_cleanly()?;
                self.restart(Start::Clean)
            }
            Step::Fault { kind, after } => {
                self.arm(kind, after);
                Ok(())
            }
            Step::Room(bytes) => {
                let limit = (bytes != u16::MAX).then(|| self.disk.used_bytes() + u64::from(bytes));
                self.is_troubled |= limit.is_some();
                self.disk.set_capacity_bytes(limit);
                Ok(())
            }
        }
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().expect("a step begins with a log")
    }

    fn arm(&mut self, kind: FaultKind, after: u8) {
        self.is_troubled = true;
        self.stats.faults += 1;
        let error = std::io::ErrorKind::Other;
        let fault = match kind {
            FaultKind::ShortWrite(bytes) => Fault::ShortWrite(usize::from(bytes) + 1),
            FaultKind::Full => Fault::Write(std::io::ErrorKind::StorageFull),
            FaultKind::Write => Fault::Write(error),
            FaultKind::Sync => Fault::Sync(error),
            FaultKind::SetLen => Fault::SetLen(error),
            FaultKind::Rename => Fault::Rename(error),
            FaultKind::Create => Fault::Create(error),
        };
        self.disk.inject_after(u32::from(after), fault);
    }
}

impl Stats {
    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        self.power_cuts += other.power_cuts;
        self.cut_starts += other.cut_starts;
        self.starts += other.starts;
        self.batches += other.batches;
        self.faults += other.faults;
        self.first_struck = self.first_struck.or(other.first_struck);
        for (name, count) in other.struck {
            *self.struck.entry(name).or_default() += count;
        }
    }
}
