//! kafka-python, a client written in Python alone, fetched once into an environment of its own.

use crate::process::run;
use crate::skip;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The release of kafka-python that is used.
const KAFKA_PYTHON: &str = "kafka-python==3.0.12";
const FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// A Python with kafka-python, or `None` after noting that the test `name` is skipped for want of Python.
///
/// # Panics
/// When the package cannot be fetched, and with `CI=true` when Python is missing.
pub fn need(name: &str) -> Option<PathBuf> {
    let python = skip::need(name, "python3")?;
    let cache =
        std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from).join(".cache/klamm-test");
    let home = cache.join(KAFKA_PYTHON.replace("==", "-"));
    static FETCH: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FETCH.lock().unwrap_or_else(PoisonError::into_inner);
    let marker = home.join("complete");
    if !marker.exists() {
        std::fs::create_dir_all(&cache).expect("make the cache folder");
        run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&home), b"", FETCH_TIMEOUT).success();
        let mut pip = Command::new(home.join("bin/pip"));
        run(pip.args(["install", "--quiet", KAFKA_PYTHON]), b"", FETCH_TIMEOUT).success();
        std::fs::write(&marker, "").expect("note that the environment is complete");
    }
    Some(home.join("bin/python"))
}
