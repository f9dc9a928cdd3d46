//! What must not suffer: a producer at a fixed rate, and who reads its records as they come.
//!
//! A request that had to wait for the one before it counts from when it was due, so that a stall
//! is seen by all whom it held up.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::phases::{Samples, Switch};
use super::topics;
use super::wire::{Connection, Partition};

const TAIL_BYTES_MAX: i32 = 1 << 20;
const ACKS_ALL: i16 = -1;

/// When each record was sent, by its offset from the first.
#[derive(Default)]
pub struct SentAt {
    first_offset: i64,
    times: Mutex<Vec<Instant>>,
}

impl SentAt {
    /// Of records that will begin at `first_offset`.
    pub fn from(first_offset: i64) -> Arc<Self> {
        Arc::new(Self { first_offset, ..Default::default() })
    }

    fn push(&self, at: Instant) {
        self.times.lock().expect("no panic under the lock").push(at);
    }

    fn of(&self, offset: i64) -> Option<Instant> {
        let index = usize::try_from(offset - self.first_offset).ok()?;
        self.times.lock().expect("no panic under the lock").get(index).copied()
    }
}

/// Sleeps until `due`; from when on to count: the waking, or `due` if that is past.
pub fn wait_until(due: Instant) -> Instant {
    let ahead = due.saturating_duration_since(Instant::now());
    if ahead.is_zero() {
        return due;
    }
    std::thread::sleep(ahead);
    Instant::now()
}

/// One record a request, one request at a time, `acks=all`.
pub fn produce(
    address: SocketAddr,
    to: &Partition,
    record_bytes: usize,
    interval: Duration,
    sent_at: &SentAt,
    switch: &Switch,
) -> Result<Samples> {
    let mut connection = Connection::open(address)?;
    let batch = topics::batch(1, record_bytes);
    let mut samples = Samples::default();
    // Producers with one rate must not all meet.
    let mut due = Instant::now() + interval * u32::try_from(to.index)? / 7;
    while !switch.is_over() {
        due += interval;
        let from = wait_until(due);
        sent_at.push(from);
        connection.begin_produce(to, ACKS_ALL, batch.clone())?;
        connection.finish_produce()?;
        samples.push(from, from.elapsed());
    }
    Ok(samples)
}

/// Reads at the end of the log: from the sending of each record until it is here.
pub fn tail(address: SocketAddr, from: &Partition, sent_at: &SentAt, switch: &Switch) -> Result<Samples> {
    let mut connection = Connection::open(address)?;
    let mut samples = Samples::default();
    let mut next = sent_at.first_offset;
    while !switch.is_over() {
        let mut seen = Vec::new();
        (_, next) = connection.fetch(from, next, TAIL_BYTES_MAX, |offset| seen.push(offset))?;
        for offset in seen {
            let sent = sent_at.of(offset).context("a record that nobody sent")?;
            samples.push(sent, sent.elapsed());
        }
    }
    Ok(samples)
}
