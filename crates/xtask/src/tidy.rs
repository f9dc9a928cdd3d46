//! `cargo xtask tidy`: the rules of style that no compiler knows.
//!
//! Each rule prints `path:line: rule: what to do`. Errors fail the run, warnings remind. A rule is a function over
//! text with a unit test that shows it failing; this file only finds the files and prints.

mod code;
mod edges;
mod links;
mod source;
mod text;

use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// One broken rule.
#[derive(Debug)]
pub struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    message: String,
    is_error: bool,
}

impl Finding {
    fn error(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, message: message.into(), is_error: true }
    }

    fn warning(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { is_error: false, ..Self::error(path, line, rule, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.is_error { "" } else { " (warning)" };
        write!(f, "{}:{}: {}{note}: {}", self.path, self.line, self.rule, self.message)
    }
}

/// Checks the whole repository; fails when a rule is broken.
pub fn run(root: &Path) -> Result<ExitCode> {
    let mut findings = Vec::new();
    let files = repository_files(root)?;
    for path in &files {
        // What is not text (or was deleted and not yet committed) has no lines to check.
        let Ok(content) = std::fs::read_to_string(root.join(path)) else { continue };
        text::check(path, &content, &mut findings);
        if path.ends_with(".rs") {
            source::check(path, &content, &mut findings);
        }
        if path.ends_with(".md") {
            links::check(path, &content, |target| root.join(target).exists(), &mut findings);
        }
        if path.starts_with("crates/") && path.ends_with("/Cargo.toml") {
            edges::check_manifest(path, &content, &mut findings);
        }
    }
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).ok();
    edges::check(&edges::members(root)?, architecture.as_deref(), &mut findings);

    findings.sort_by(|a, b| (a.is_error, &a.path, a.line).cmp(&(b.is_error, &b.path, b.line)));
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.is_error).count();
    println!("tidy: {} files, {errors} errors, {} warnings", files.len(), findings.len() - errors);
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything git tracks or would track, relative to the root, sorted.
fn repository_files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("run git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let list = String::from_utf8(output.stdout).context("a file name that is not UTF-8")?;
    let mut files: Vec<String> =
        list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// The folder under `crates/` that a path lies in.
fn crate_of(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?.split('/').next()
}
