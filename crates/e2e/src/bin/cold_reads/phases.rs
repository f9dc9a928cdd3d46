//! Phases without and with cold reads in turn, so that what else the machine does falls on both; and what they show.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

/// After the eviction and before a phase counts.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Args, Clone, Copy)]
pub struct Plan {
    /// Phases of each kind.
    #[arg(long, default_value_t = 8)]
    pub pairs: usize,
    /// What is measured of each phase; half a second before it is not.
    #[arg(long, default_value_t = 3.0)]
    pub phase_seconds: f64,
}

/// What the threads are told, and what cold readers tell.
#[derive(Default)]
pub struct Switch {
    is_over: AtomicBool,
    is_cold: Mutex<bool>,
    changed: Condvar,
    cold_bytes: AtomicU64,
}

/// When something was sent, and how long it took.
#[derive(Default)]
pub struct Samples(Vec<(Instant, Duration)>);

/// A measured stretch of time.
pub struct Phase {
    from: Instant,
    to: Instant,
    is_cold: bool,
    cold_bytes: u64,
    cpu: Duration,
    device_bytes: u64,
}

/// What the broker has used so far.
#[derive(Clone, Copy, Default)]
pub struct Used {
    pub cpu: Duration,
    pub device_bytes: u64,
}

impl Switch {
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits until cold reads are wanted; false once all is over.
    pub fn wait_for_cold(&self) -> bool {
        let mut is_cold = self.is_cold.lock().expect("no panic under the lock");
        while !*is_cold && !self.is_over() {
            is_cold = self.changed.wait(is_cold).expect("no panic under the lock");
        }
        !self.is_over()
    }

    pub fn note_cold_bytes(&self, bytes: u64) {
        self.cold_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn set_cold(&self, wanted: bool) {
        *self.is_cold.lock().expect("no panic under the lock") = wanted;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.set_cold(false);
    }
}

impl Samples {
    pub fn push(&mut self, at: Instant, took: Duration) {
        self.0.push((at, took));
    }

    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    fn within(&self, phase: &Phase) -> impl Iterator<Item = Duration> {
        let (from, to) = (phase.from, phase.to);
        self.0.iter().filter(move |(at, _)| (from..to).contains(at)).map(|(_, took)| *took)
    }
}

/// Goes through all phases. `evict` is called before each; the threads are told when it is over, whatever comes.
pub fn run(
    plan: Plan,
    switch: &Switch,
    mut evict: impl FnMut() -> Result<()>,
    mut used: impl FnMut() -> Result<Used>,
) -> Result<Vec<Phase>> {
    let mut phases = Vec::new();
    let mut go = || {
        for index in 0..plan.pairs * 2 {
            let is_cold = index % 2 == 1;
            evict()?;
            switch.set_cold(is_cold);
            std::thread::sleep(SETTLE);
            let (before, from) = (used()?, Instant::now());
            let cold_before = switch.cold_bytes.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs_f64(plan.phase_seconds));
            let (after, to) = (used()?, Instant::now());
            let cold_bytes = switch.cold_bytes.load(Ordering::Relaxed) - cold_before;
            switch.set_cold(false);
            phases.push(Phase {
                from,
                to,
                is_cold,
                cold_bytes,
                cpu: after.cpu - before.cpu,
                device_bytes: after.device_bytes - before.device_bytes,
            });
        }
        Ok(())
    };
    let outcome = go();
    switch.end();
    outcome.map(|()| phases)
}

/// One line a figure: without, beside cold reads, their ratio.
pub fn print_latencies(what: &str, samples: &Samples, phases: &[Phase]) -> Result<()> {
    let [alone, beside] = [false, true].map(|is_cold| Latencies::of(samples, phases, is_cold));
    if alone.all.is_empty() || beside.all.is_empty() {
        bail!("{what}: no samples");
    }
    println!("{what}, us ({} and {} samples)", alone.all.len(), beside.all.len());
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        line(name, &[at(&alone.all, share)], &[at(&beside.all, share)]);
    }
    line("p99 of a phase", &alone.p99s, &beside.p99s);
    Ok(())
}

/// What the cold readers got, and what it cost.
pub fn print_cold(phases: &[Phase]) {
    let sum = |is_cold: bool| {
        let of = phases.iter().filter(move |phase| phase.is_cold == is_cold);
        of.fold((Duration::ZERO, Duration::ZERO, 0, 0), |(wall, cpu, cold, device), phase| {
            let wall = wall + (phase.to - phase.from);
            (wall, cpu + phase.cpu, cold + phase.cold_bytes, device + phase.device_bytes)
        })
    };
    let (wall_alone, cpu_alone, ..) = sum(false);
    let (wall, cpu, cold_bytes, device_bytes) = sum(true);
    let share_alone = cpu_alone.as_secs_f64() / wall_alone.as_secs_f64();
    let share = cpu.as_secs_f64() / wall.as_secs_f64();
    let seconds = wall.as_secs_f64();
    println!(
        "cold reads: {:.0} MB/s, {:.0} MB/s of them from the device; CPU {:.0} % of a core instead of {:.0} %: \
         {:.2} s a GB",
        cold_bytes as f64 / 1e6 / seconds,
        device_bytes as f64 / 1e6 / seconds,
        share * 100.0,
        share_alone * 100.0,
        (share - share_alone) * seconds / (cold_bytes as f64 / 1e9),
    );
}

struct Latencies {
    /// Of all phases, sorted.
    all: Vec<u128>,
    /// Of each phase, sorted.
    p99s: Vec<u128>,
}

impl Latencies {
    fn of(samples: &Samples, phases: &[Phase], is_cold: bool) -> Self {
        let (mut all, mut p99s) = (Vec::new(), Vec::new());
        for phase in phases.iter().filter(|phase| phase.is_cold == is_cold) {
            let mut taken: Vec<u128> = samples.within(phase).map(|took| took.as_micros()).collect();
            taken.sort_unstable();
            if !taken.is_empty() {
                p99s.push(at(&taken, 0.99));
            }
            all.append(&mut taken);
        }
        all.sort_unstable();
        p99s.sort_unstable();
        Self { all, p99s }
    }
}

fn at(sorted: &[u128], share: f64) -> u128 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// Medians, with the range where there are several.
fn line(name: &str, alone: &[u128], beside: &[u128]) {
    let told = |values: &[u128]| match values {
        [one] => one.to_string(),
        several => format!("{} ({}-{})", at(several, 0.5), several[0], several[several.len() - 1]),
    };
    let ratio = at(beside, 0.5) as f64 / at(alone, 0.5) as f64;
    println!("  {name:<15} {:<24} beside cold reads {:<24} {ratio:.2}", told(alone), told(beside));
}
