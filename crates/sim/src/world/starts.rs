//! The log directory around the log, and every way in which the log comes back.

use std::path::Path;
use std::sync::Arc;

use klamm_log::directory::{CleanShutdown, LogDirectory, OffsetCheckpoint};
use klamm_log::{Log, OpenLog};
use klamm_protocol::ids::{BrokerEpoch, LeaderEpoch, Offset, PartitionIndex, TopicId, Uuid};

use super::{Outcome, World, text};
use crate::sabotage::sabotaged;
use crate::step::PowerCut;

const DIRECTORY: &str = "/disk/logs";
pub(super) const TOPIC_ID: TopicId = TopicId(Uuid(5000));

/// How the log comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    PowerCut,
    Kill,
    Clean,
}

impl World {
    pub(super) fn directory(&self) -> &LogDirectory {
        self.directory.as_ref().expect("a log lies in a directory")
    }

    pub(super) fn write_recovery_point(&self, point: i64) -> Outcome {
        let points = OffsetCheckpoint::from([(("t".to_owned(), PartitionIndex(0)), Offset(point))]);
        self.directory().write_recovery_points(&points).map_err(text)
    }

    pub(super) fn checkpoint(&mut self) -> Outcome {
        let point = self.log().recovery_point().0;
        self.write_checkpoints(point)
    }

    pub(super) fn write_checkpoints(&mut self, point: i64) -> Outcome {
        let start = self.history.live.log_start;
        self.write_recovery_point(point)?;
        let starts = OffsetCheckpoint::from([(("t".to_owned(), PartitionIndex(0)), Offset(start))]);
        self.directory().write_log_starts(&starts).map_err(text)?;
        self.history.log_start_durable = start;
        Ok(())
    }

    pub(super) fn stop_cleanly(&mut self) -> Outcome {
        let log = self.log.take().expect("a step begins with a log");
        let end = self.history.live.end;
        log.close().map_err(text)?;
        self.history.flushed(end);
        self.write_checkpoints(end)?;
        self.directory().write_clean_shutdown(CleanShutdown { broker_epoch: BrokerEpoch(1) }).map_err(text)
    }

    pub(super) fn restart_after_power_cut(&mut self, cut: PowerCut) -> Outcome {
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

    pub(super) fn restart(&mut self, start: Start) -> Outcome {
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
        self.directory = Some(directory);
        self.remove_other_directories()?;
        let path = self.log_path();
        let is_there = disk.exists(&path).map_err(text)?;
        let open = OpenLog {
            disk,
            dir: path,
            topic_id: TOPIC_ID,
            config: self.config.clone(),
            recovery_point,
            log_start,
            high_watermark: None,
            was_clean,
            now: self.now,
        };
        let mut log = if is_there {
            let (log, report) = Log::open(open).map_err(text)?;
            if was_clean && !report.truncations.is_empty() {
                // Kafka's own tools read such a directory, and take zeros for corruption.
                return Err(format!("a clean stop left something to cut: {:?}", report.truncations));
            }
            log
        } else {
            Log::create(open).map_err(text)?
        };
        self.epoch += 1;
        log.assign_leader_epoch(LeaderEpoch(self.epoch)).map_err(text)?;
        let found = self.read(&log)?;
        if !is_there && self.history.durable_end > 0 {
            return Err("the partition's directory is gone".to_owned());
        }
        let cuts_at = self.damage.cuts_at;
        if let Some(offset) = cuts_at {
            if found.end != offset {
                return Err(format!("a log with a corrupt batch at {offset} ends at {}", found.end));
            }
            self.history.durable_end = self.history.durable_end.min(offset);
        }
        let may_lose = start == Start::PowerCut || self.is_torn || cuts_at.is_some();
        let accepted = self.history.accept(&found, !may_lose)?;
        self.is_torn = false;
        if start == Start::Clean && found.log_start != self.history.live.log_start {
            return Err(format!("the log start is {} after a clean stop", found.log_start));
        }
        let flushed = log.view().limits().flushed.offset.0;
        if flushed != found.end {
            return Err(format!("a start promises {flushed} of {}", found.end));
        }
        self.log = Some(log);
        if found.end < recovery_point.0 {
            // What is written below it from now on is not durable.
            self.write_recovery_point(found.end)?;
        }
        self.history.restart(accepted, flushed);
        self.damage.cuts_at = None;
        self.is_troubled = false;
        self.stats.starts += 1;
        self.check()
    }
}
