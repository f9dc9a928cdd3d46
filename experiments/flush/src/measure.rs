//! Samples, their medians and minima, process CPU, and the machine's load while they were taken.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Durations of one thing, repeated.
#[derive(Default, Clone)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn extend(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }

    pub fn min(&self) -> Duration {
        self.0.iter().min().copied().unwrap_or_default()
    }

    pub fn max(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// The sample at `q` (0 to 1) of the sorted order.
    pub fn quantile(&self, q: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * q).round() as usize).copied().unwrap_or_default()
    }

    pub fn sum_over(&self, limit: Duration) -> Duration {
        self.0.iter().filter(|sample| **sample > limit).sum()
    }

    pub fn over(&self, limit: Duration) -> usize {
        self.0.iter().filter(|sample| **sample > limit).count()
    }
}

/// CPU time of all threads of this process, io_uring's workers included. Kernel threads (write-back, the
/// journal, the loop device) are not in it.
pub fn process_cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Load average over one minute, as text.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

pub fn ms(duration: Duration) -> String {
    let value = duration.as_secs_f64() * 1e3;
    let decimals = if value < 1.0 {
        3
    } else if value < 100.0 {
        2
    } else {
        0
    };
    format!("{value:.decimals$}")
}

pub fn us(duration: Duration) -> String {
    format!("{:.0}", duration.as_secs_f64() * 1e6)
}
