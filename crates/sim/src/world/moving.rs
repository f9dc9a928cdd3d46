//! Moving the log to another directory while it is written.
//!
//! What two directories of one partition mean is the broker's business, and its own tests cut
//! the power there; here the decision falls at once when the copy is finished, which must be
//! durable and complete by then.

use std::path::PathBuf;

use klamm_log::LogCopy;
use klamm_log::directory::{DirectoryKind, PartitionDirectory};
use klamm_log::disk::Draw;
use klamm_protocol::ids::{PartitionIndex, Uuid};

use super::starts::{Start, TOPIC_ID};
use super::{Outcome, World, text};

impl World {
    pub(super) fn move_log(&mut self, seed: u64) -> Outcome {
        let mut draw = Draw::new(seed);
        self.moves += 1;
        let kind = DirectoryKind::Future;
        let name = PartitionDirectory::marked_name("t", PartitionIndex(0), kind, Uuid(self.moves));
        let (from, to) = (self.log_path(), self.directory().path().join(name));
        let disk = self.directory().disk().clone();
        let mut copy = LogCopy::begin(disk, &from, &to, TOPIC_ID).map_err(text)?;
        for _ in 0..draw.below(6) {
            copy.step(&self.log().view(), 1 + draw.below(3_000)).map_err(text)?;
            self.disturb(&mut draw)?;
        }
        let (view, end) = (self.log().view(), self.history.live.end);
        self.log.take().expect("a step begins with a log").close().map_err(text)?;
        self.history.flushed(end);
        copy.finish(&view).map_err(text)?;
        self.write_checkpoints(end)?;
        self.moved_to = Some(to);
        self.remove_other_directories()?;
        self.restart(Start::Kill)
    }

    /// Where the log lies.
    pub(super) fn log_path(&self) -> PathBuf {
        let here = || self.directory().partition_path("t", PartitionIndex(0));
        self.moved_to.clone().unwrap_or_else(here)
    }

    /// Copies that were not finished, and what was left behind.
    pub(super) fn remove_other_directories(&self) -> Outcome {
        let directory = self.directory();
        let current = self.log_path();
        for found in directory.partitions().map_err(text)? {
            if directory.path().join(&found.name) != current {
                directory.remove_partition(&found.name).map_err(text)?;
            }
        }
        Ok(())
    }
}
