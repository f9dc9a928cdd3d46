//! One run: the steps of a case done on the real log and on the model.
//!
//! Around the log stands what a broker does for it: the log directory with its lock, its
//! checkpoints and its clean-stop marker, a new leader epoch at every start. An error is
//! fine where the power is gone or a fault was armed; anything else that fails, and any
//! answer that differs from the model's, ends the run.

use std::path::Path;
use std::sync::Arc;

use klamm_log::directory::{CleanShutdown, LogDirectory, OffsetCheckpoint};
use klamm_log::disk::{Draw, Fault, MemoryDisk};
use klamm_log::{AppendContext, AppendOrigin, Log, LogConfig, OpenLog, trusted_batch};
use klamm_protocol::ids::{
    BrokerEpoch, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId, Uuid,
};
use klamm_protocol::records::{BatchBuilder, ValidatedBatch};
use klamm_protocol::time::WallMs;

use crate::history::{Batch, Contents, History};
use crate::sabotage::{Sabotage, sabotaged};
use crate::step::{Case, FaultKind, Planned, PowerCut, Step};

const DIRECTORY: &str = "/disk/logs";
const NOW: WallMs = WallMs(1_000);
/// Timestamps of records lie below this, so that many share one.
const TIMESTAMP_MAX: u64 = 200;
/// The first id of the producers that write transactions.
const TRANSACTIONAL: i64 = 11;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    history: History,
    epoch: i32,
    /// The highest log start ever asked for.
    log_start_asked: i64,
    /// A cut of the log failed in its middle: only a start tells what is left.
    is_torn: bool,
    /// A fault was armed, or the disk is small, since the last start.
    is_troubled: bool,
    stats: Stats,
}

/// How the log comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    PowerCut,
    Kill,
    Clean,
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
            config: LogConfig { segment_bytes: 1500, index_interval_bytes: 250, ..LogConfig::default() },
            is_flushed_mode: case.is_flushed_mode,
            has_producers: case.has_producers,
            directory: None,
            log: None,
            history: History::default(),
            epoch: 0,
            log_start_asked: 0,
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
            Step::Truncate(share) => self.truncate(share),
            Step::StartAnew => {
                let offset = self.history.live.end + 3;
                self.write_recovery_point(0)?;
                self.history.start_anew(offset);
                self.is_torn = true;
                self.log().truncate_fully_and_start_at(Offset(offset), NOW).map_err(text)?;
                self.is_torn = false;
                self.next_epoch()
            }
            Step::Checkpoint => self.checkpoint(),
            Step::Snapshot => self.log().snapshot_producers().map_err(text),
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

    fn append(&mut self, count: u8, seed: u64) -> Outcome {
        let mut draw = Draw::new(seed);
        if self.has_producers && draw.below(8) == 0 {
            return self.append_again(&mut draw);
        }
        let mut after = self.history.live.clone();
        let mut group = Vec::new();
        for _ in 0..count {
            let batch = self.draw_batch(&mut draw, &after);
            after.append(Batch::placed(&batch.bytes, after.end, self.epoch));
            group.push(batch);
        }
        self.append_group(&group, AppendOrigin::Client)
    }

    fn draw_batch(&self, draw: &mut Draw, log: &Contents) -> ValidatedBatch {
        let producer = draw.below(if self.has_producers { 6 } else { 1 }) as i64;
        let mut builder = BatchBuilder::new();
        let id = match producer {
            0 => None,
            1..4 => Some(producer),
            other => Some(TRANSACTIONAL + other - 4),
        };
        if let Some(id) = id {
            let sequence =
                log.producers().get(&id).and_then(|known| known.1.last()).map_or(0, |last| last.1 + 1);
            builder = builder.producer(ProducerId(id), ProducerEpoch(0), sequence);
            if id >= TRANSACTIONAL {
                builder = builder.transactional();
            }
        }
        for _ in 0..1 + draw.below(3) {
            let size = if draw.below(16) == 0 { 400 } else { draw.below(160) };
            let value = vec![draw.below(256) as u8; size as usize];
            builder.push(draw.below(TIMESTAMP_MAX) as i64, Some(b"k"), Some(&value), &[]);
        }
        trusted_batch(builder.build()).expect("a batch of our own")
    }

    /// One of a producer's last batches comes again and must be known.
    fn append_again(&mut self, draw: &mut Draw) -> Outcome {
        let producers = self.history.live.producers();
        let known: Vec<_> = producers.values().flat_map(|(_, last)| last).collect();
        if known.is_empty() {
            return Ok(());
        }
        let (_, _, base) = *known[draw.below(known.len() as u64) as usize];
        let original = self.history.live.batches.iter().find(|batch| batch.base() == base);
        let bytes = original.expect("the producers come from the batches").bytes.clone();
        let again = trusted_batch(bytes.into()).map_err(text)?;
        let context = self.context(AppendOrigin::Client);
        let plan = self.log().plan(&context, &[again]);
        match self.log().write(plan).remove(0) {
            Ok(placed) if placed.is_duplicate && placed.base_offset.0 == base => Ok(()),
            Ok(placed) => Err(format!("the batch at {base} came again and was appended: {placed:?}")),
            Err(error) => Err(format!("the batch at {base} came again and was refused: {error}")),
        }
    }

    fn end_transaction(&mut self, producer: u8, is_commit: bool) -> Outcome {
        let id = TRANSACTIONAL + i64::from(producer);
        let mut own = self.history.live.batches.iter().rev().filter(|batch| batch.header.producer_id.0 == id);
        if own.next().is_none_or(|last| last.header.attributes.is_control()) {
            return Ok(());
        }
        let marker =
            BatchBuilder::end_transaction_marker(is_commit, 0, ProducerId(id), ProducerEpoch(0), 1).build();
        let marker = trusted_batch(marker).map_err(text)?;
        self.append_group(&[marker], AppendOrigin::Coordinator)
    }

    fn append_group(&mut self, group: &[ValidatedBatch], origin: AppendOrigin) -> Outcome {
        let context = self.context(origin);
        let plan = self.log().plan(&context, group);
        let results = self.log().write(plan);
        let mut failure = None;
        let mut failed = Vec::new();
        let mut at = self.history.live.end;
        for (batch, result) in group.iter().zip(results) {
            let placed = Batch::placed(&batch.bytes, at, self.epoch);
            at = placed.next();
            match result {
                Ok(_) if failure.is_some() => {
                    return Err("a batch behind a failed one was appended".to_owned());
                }
                Ok(answer) if answer.is_duplicate || answer.base_offset.0 != placed.base() => {
                    return Err(format!("a batch for {} was answered with {answer:?}", placed.base()));
                }
                Ok(_) => {
                    self.stats.batches += 1;
                    self.history.live.append(placed);
                }
                Err(error) => {
                    failure.get_or_insert(error.to_string());
                    failed.push(placed);
                }
            }
        }
        if !failed.is_empty() {
            self.history.attempt(&failed);
        }
        if !self.is_flushed_mode {
            self.log().view().raise_high_watermark_to_end();
        }
        failure.map_or(Ok(()), Err)
    }

    fn context(&self, origin: AppendOrigin) -> AppendContext {
        AppendContext { now: NOW, leader_epoch: LeaderEpoch(self.epoch), origin }
    }

    fn flushed(&mut self) -> Outcome {
        let view = self.log().view();
        if self.is_flushed_mode {
            view.raise_high_watermark_to_flushed();
        }
        self.history.flushed(view.limits().flushed.offset.0);
        Ok(())
    }

    fn advance_start(&mut self, share: u8) -> Outcome {
        let limits = self.log().view().limits();
        let span = limits.high_watermark.offset.0 - limits.log_start.0;
        let to = limits.log_start.0 + span * i64::from(share) / 255;
        self.history.live.log_start = to;
        self.log_start_asked = to.max(self.log_start_asked);
        let removal = self.log().advance_log_start(Offset(to)).map_err(text)?;
        // As retention does it, with the checkpoint first, or as one who does not wait for it.
        let is_start_durable = share.is_multiple_of(2);
        if is_start_durable {
            self.checkpoint()?;
        }
        if share % 8 != 7 {
            let removed = removal.mark(is_start_durable).and_then(|()| removal.unlink());
            if let Err(error) = removed {
                // A disk that fails here takes its directory offline.
                self.log = None;
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    fn truncate(&mut self, share: u8) -> Outcome {
        let live = &self.history.live;
        let to = live.log_start + (live.end - live.log_start) * i64::from(share) / 255;
        // Into the batch that holds the start, a truncation would take readable records that
        // a follower's leader still has.
        let is_inside = live.batches.iter().any(|batch| batch.base() < live.log_start && batch.next() > to);
        if to <= live.log_start || to == live.end || is_inside {
            return Ok(());
        }
        // Behind it there will be other bytes, which nobody has flushed.
        let before = self.history.live.clone();
        let mut after = before.clone();
        after.truncate(to);
        let point = self.log().recovery_point().0.min(after.end);
        self.write_recovery_point(point)?;
        self.history.truncate(to);
        if let Err(error) = self.log().truncate_to(Offset(to), NOW) {
            if self.log().view().limits().end.offset.0 == before.end {
                // It failed before it did anything.
                self.history.live = before;
            } else {
                self.is_torn = true;
            }
            return Err(error.to_string());
        }
        self.next_epoch()
    }

    fn next_epoch(&mut self) -> Outcome {
        self.epoch += 1;
        let epoch = LeaderEpoch(self.epoch);
        self.log().assign_leader_epoch(epoch).map_err(text)
    }

    fn directory(&self) -> &LogDirectory {
        self.directory.as_ref().expect("a log lies in a directory")
    }

    fn write_recovery_point(&self, point: i64) -> Outcome {
        let points = OffsetCheckpoint::from([(("t".to_owned(), PartitionIndex(0)), Offset(point))]);
        self.directory().write_recovery_points(&points).map_err(text)
    }

    fn checkpoint(&mut self) -> Outcome {
        let (start, point) = (self.history.live.log_start, self.log().recovery_point().0);
        self.write_recovery_point(point)?;
        let starts = OffsetCheckpoint::from([(("t".to_owned(), PartitionIndex(0)), Offset(start))]);
        self.directory().write_log_starts(&starts).map_err(text)?;
        self.history.log_start_durable = start;
        Ok(())
    }

    fn stop_cleanly(&mut self) -> Outcome {
        let log = self.log.take().expect("a step begins with a log");
        let (start, end) = (self.history.live.log_start, self.history.live.end);
        log.close().map_err(text)?;
        self.history.flushed(end);
        self.write_recovery_point(end)?;
        let starts = OffsetCheckpoint::from([(("t".to_owned(), PartitionIndex(0)), Offset(start))]);
        self.directory().write_log_starts(&starts).map_err(text)?;
        self.history.log_start_durable = start;
        self.directory().write_clean_shutdown(CleanShutdown { broker_epoch: BrokerEpoch(1) }).map_err(text)
    }

    fn restart_after_power_cut(&mut self, cut: PowerCut) -> Outcome {
        self.stats.power_cuts += 1;
        self.disk = self.disk.after_power_cut(cut.seed);
        self.disk.set_capacity_bytes(None);
        if let Some(after) = cut.again_after {
            self.disk.cut_power_after(after);
            match self.restart(Start::PowerCut) {
                Err(_) if self.disk.is_off() => {
                    self.stats.cut_starts += 1;
                    let again = PowerCut { again_after: None, seed: cut.seed ^ 1, ..cut };
                    return self.restart_after_power_cut(again);
                }
                Ok(()) if self.disk.is_off() => return Err("a start succeeded without power".to_owned()),
                Ok(()) => {
                    // It was not reached: the start is judged as any other.
                    self.disk.cut_power_after(u64::MAX);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.restart(Start::PowerCut)
    }

    fn restart(&mut self, start: Start) -> Outcome {
        self.log = None;
        self.directory = None;
        if start != Start::PowerCut {
            self.disk.clear_faults();
            self.disk.set_capacity_bytes(None);
            if self.disk.has_lost_writes() {
                // The page cache shows what the device will never have, and no flush would tell:
                // whoever goes on after a failed flush must start the machine anew.
                let seed = self.disk.steps_done();
                return self.restart_after_power_cut(PowerCut { after: 0, seed, again_after: None });
            }
        }
        let disk = sabotaged(&self.disk, self.sabotage);
        let directory = LogDirectory::open(Arc::clone(&disk), Path::new(DIRECTORY)).map_err(text)?;
        let was_clean = directory.clean_shutdown().map_err(text)?.is_some();
        if start == Start::PowerCut && was_clean && self.history.durable_end < self.history.live.end {
            return Err("the mark of a clean stop lies on a log that was not stopped".to_owned());
        }
        let key = ("t".to_owned(), PartitionIndex(0));
        let of = |offsets: &OffsetCheckpoint| offsets.get(&key).copied().unwrap_or_default();
        let recovery_point = of(&directory.recovery_points().map_err(text)?);
        let log_start = of(&directory.log_starts().map_err(text)?);
        directory.remove_clean_shutdown().map_err(text)?;
        let path = directory.partition_path("t", PartitionIndex(0));
        let is_there = disk.exists(&path).map_err(text)?;
        let open = OpenLog {
            disk,
            dir: path,
            topic_id: TopicId(Uuid(5000)),
            config: self.config.clone(),
            recovery_point,
            log_start,
            high_watermark: None,
            was_clean,
            now: NOW,
        };
        let mut log =
            if is_there { Log::open(open).map_err(text)?.0 } else { Log::create(open).map_err(text)? };
        self.epoch += 1;
        log.assign_leader_epoch(LeaderEpoch(self.epoch)).map_err(text)?;
        let found = read(&log)?;
        if !is_there && self.history.durable_end > 0 {
            return Err("the partition's directory is gone".to_owned());
        }
        self.history.accept(&found, start != Start::PowerCut && !self.is_torn)?;
        self.is_torn = false;
        if start == Start::Clean && found.log_start != self.history.live.log_start {
            return Err(format!("the log start is {} after a clean stop", found.log_start));
        }
        let flushed = log.view().limits().flushed.offset.0;
        if flushed != found.end {
            return Err(format!("a start promises {flushed} of {}", found.end));
        }
        self.directory = Some(directory);
        self.log = Some(log);
        if found.end < recovery_point.0 {
            // What is written below it from now on is not durable.
            self.write_recovery_point(found.end)?;
        }
        self.history.restart(found, flushed);
        self.is_troubled = false;
        self.stats.starts += 1;
        self.check()
    }

    /// What the log calls durable is promised from now on.
    fn note_promise(&mut self) -> Outcome {
        let Some(log) = &self.log else { return Ok(()) };
        let limits = log.view().limits();
        let (end, start) = (limits.end.offset.0, limits.log_start.0);
        let live = &self.history.live;
        if (end, start) != (live.end, live.log_start) {
            return Err(format!("the log is {start}..{end}, the model {}..{}", live.log_start, live.end));
        }
        self.history.durable_end = limits.flushed.offset.0;
        Ok(())
    }

    /// Everything that the log answers is as the model says.
    fn check(&self) -> Outcome {
        let log = self.log.as_ref().expect("there is a log to check");
        let live = &self.history.live;
        let found = read(log)?;
        if !found.batches.iter().eq(live.readable()) {
            return Err(format!("reads give {found:?} instead of {live:?}"));
        }
        let view = log.view();
        let end = view.limits().end;
        for batch in live.readable() {
            let epoch = view.epoch_for_offset(Offset(batch.base().max(live.log_start)));
            // Forgotten for records that were deleted and came back is fine, wrong is not.
            let is_forgotten = epoch.is_none() && batch.base() < self.log_start_asked;
            if epoch != Some(batch.header.leader_epoch) && !is_forgotten {
                return Err(format!("the epoch checkpoint gives {epoch:?} for {batch:?}"));
            }
        }
        for asked in [0, 1, 77, 120, TIMESTAMP_MAX as i64 - 1, TIMESTAMP_MAX as i64] {
            let found = view.offset_for_timestamp(asked, end).map_err(text)?;
            let (found, expected) =
                (found.map(|at| (at.offset.0, at.timestamp)), live.record_for_timestamp(asked));
            if found != expected {
                return Err(format!("timestamp {asked} leads to {found:?} instead of {expected:?}"));
            }
        }
        if self.has_producers { self.check_producers(log) } else { Ok(()) }
    }

    fn check_producers(&self, log: &Log) -> Outcome {
        let live = &self.history.live;
        let known = log.producers().iter().filter(|(_, entry)| !entry.batches().is_empty());
        let known = known
            .map(|(id, entry)| {
                let last = entry.batches().iter();
                let last = last.map(|b| (b.first_sequence(), b.last_sequence, b.first_offset().0)).collect();
                (id.0, (entry.producer_epoch.0, last))
            })
            .collect();
        let expected = live.producers();
        if expected != known {
            return Err(format!("producers are {known:?} instead of {expected:?}"));
        }
        let view = log.view();
        let limits = view.limits();
        let Some(last) = live.batches.last() else { return Ok(()) };
        let region = view.read(Offset(last.base()), limits.end, 1, true).map_err(text)?;
        let region = region.ok_or("nothing to read in the last batch")?;
        let listed = view.aborted_transactions(Offset(live.log_start), &region, limits.end).map_err(text)?;
        let mut listed: Vec<_> =
            listed.iter().map(|one| (one.producer_id.0, one.first_offset.0, one.last_offset.0)).collect();
        listed.sort_unstable_by_key(|one| one.2);
        if listed != live.aborted() {
            return Err(format!("aborted are {listed:?} instead of {:?}", live.aborted()));
        }
        let stable = live.first_unstable().unwrap_or(live.end);
        if limits.high_watermark == limits.end && limits.last_stable.offset.0 != stable {
            return Err(format!(
                "the last stable offset is {} instead of {stable}",
                limits.last_stable.offset
            ));
        }
        Ok(())
    }
}

/// Everything readable, batch by batch.
fn read(log: &Log) -> Result<Contents, String> {
    let view = log.view();
    let limits = view.limits();
    let (log_start, end) = (limits.log_start.0, limits.end.offset.0);
    let mut contents = Contents { batches: Vec::new(), log_start, end };
    let mut from = log_start;
    while from < end {
        let region = view.read(Offset(from), limits.end, 1, true).map_err(text)?;
        let region = region.ok_or_else(|| format!("nothing to read at {from}"))?;
        let batch = Batch::read(&region.read().map_err(text)?)?;
        if batch.next() <= from {
            return Err(format!("a read from {from} gives {batch:?}"));
        }
        from = batch.next();
        contents.batches.push(batch);
    }
    Ok(contents)
}

impl Stats {
    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        self.power_cuts += other.power_cuts;
        self.cut_starts += other.cut_starts;
        self.starts += other.starts;
        self.batches += other.batches;
        self.faults += other.faults;
    }
}
