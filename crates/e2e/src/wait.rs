//! Waiting: poll a condition until it holds or a deadline passes. Nothing here sleeps for a guessed time.

use std::time::{Duration, Instant};

/// How long a test waits for anything before it fails: generous, because it costs nothing when things work.
pub const DEADLINE: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Polls until `condition` yields a value.
///
/// # Panics
/// After [`DEADLINE`], naming `what` was awaited.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    until_by(Instant::now() + DEADLINE, &mut condition)
        .unwrap_or_else(|| panic!("waited {DEADLINE:?} for {what}"))
}

/// Polls until `condition` yields a value or `deadline` passes.
pub fn until_by<T>(deadline: Instant, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
