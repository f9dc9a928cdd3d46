//! Tests that need an outside program, and what happens where it is missing.
//!
//! libtest cannot skip at run time. A test that lacks something returns early and leaves its name where
//! `cargo xtask test` finds it, so that the summary tells the truth. With `CI=true` it fails instead.

use std::io::Write;
use std::path::PathBuf;

/// The path of `program`, or `None` after noting that the test `name` is skipped for want of it.
///
/// # Panics
/// With `CI=true` when it is missing.
pub fn need(name: &str, program: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        note(name, &format!("{program} is not installed"));
    }
    found
}

/// Notes that the test `name` is skipped.
///
/// # Panics
/// With `CI=true`, where nothing may be missing.
pub fn note(name: &str, reason: &str) {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_ci, "{name}: {reason}, and with CI=true no test may be skipped");
    eprintln!("skipped: {name}: {reason}");
    if let Some(file) = std::env::var_os("KLAMM_SKIP_FILE") {
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(file).expect("open the skip file");
        writeln!(file, "{name}: {reason}").expect("write the skip file");
    }
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
