//! Who reads the old topic from its start, as a consumer that has much to catch up with.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::hot::wait_until;
use super::phases::Switch;
use super::wire::{Connection, Partition};

const LOWEST_PRIORITY: i32 = 19;

/// One reader; at the end of the topic it begins anew.
pub struct ColdReader<'a> {
    pub address: SocketAddr,
    pub old: &'a Partition,
    /// What makes the topic cold once more.
    pub evict: &'a (dyn Fn() -> Result<()> + Sync),
    pub first_offset: i64,
    pub end_offset: i64,
    pub fetch_bytes: i32,
    /// 0: as fast as it goes.
    pub mb_per_second_max: u64,
}

impl ColdReader<'_> {
    /// Reads while `switch` says so.
    pub fn run(&self, switch: &Switch) -> Result<()> {
        // This thread's alone: what it does with its bytes holds up no hot client, as if it were on another machine.
        rustix::process::nice(LOWEST_PRIORITY)?;
        let mut connection = Connection::open(self.address)?;
        let mut offset = self.first_offset;
        let mut pace = Pace::of(self.mb_per_second_max);
        while switch.wait_for_cold() {
            if offset >= self.end_offset {
                (self.evict)()?;
                offset = 0;
            }
            pace.begin();
            let (bytes, next) = connection.fetch(self.old, offset, self.fetch_bytes, |_| {})?;
            offset = next;
            switch.note_cold_bytes(bytes as u64);
            pace.wait_for(bytes as u64);
        }
        Ok(())
    }
}

/// Lets so many bytes a second through; what was missed is not caught up with.
pub struct Pace {
    mb_per_second_max: u64,
    due: Instant,
}

impl Pace {
    /// 0: without end.
    pub fn of(mb_per_second_max: u64) -> Self {
        Self { mb_per_second_max, due: Instant::now() }
    }

    /// A read begins.
    pub fn begin(&mut self) {
        self.due = self.due.max(Instant::now());
    }

    /// Waits as long as a read of so many bytes may take.
    pub fn wait_for(&mut self, bytes: u64) {
        if self.mb_per_second_max > 0 {
            self.due += Duration::from_secs_f64(bytes as f64 / 1e6 / self.mb_per_second_max as f64);
            wait_until(self.due);
        }
    }
}
