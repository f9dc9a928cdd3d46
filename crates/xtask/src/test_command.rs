//! `cargo xtask test`: every test of the workspace, one summary.
//!
//! Builds the `klamm` binary with the tests, and hands it to the end-to-end tests as `KLAMM_BIN`: built by a command of
//! its own it would have other features of shared crates, and a third of the tree would be compiled twice. Streams
//! cargo's output as it comes, adds up the summaries of all test binaries and documentation tests, and names every
//! skipped test.
//!
//! A test that lacks an outside program (Java, kcat) appends `name: reason` to the file named by `KLAMM_SKIP_FILE`
//! and returns. With `CI=true` such a test fails instead: there, everything must be installed.
//!
//! Invariant: the last line is `N passed, N failed, N skipped`, and the exit code is 0 only with no failure.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// What the tests of the workspace came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    /// Tests marked `#[ignore]`, which are meant to be asked for by name.
    ignored: Vec<String>,
    /// Tests that lacked an outside program, each with what it lacked.
    lacking: Vec<String>,
}

/// Runs all tests; `filter` is handed to cargo test.
pub fn run(root: &Path, filter: &[String]) -> Result<ExitCode> {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    if let Some(missing) = missing_build_tools() {
        println!("cannot build the tests: {missing}");
        println!("0 passed, 1 failed, 0 skipped");
        return Ok(ExitCode::FAILURE);
    }
    let Some(klamm) = build(root)? else {
        println!("0 passed, 1 failed, 0 skipped");
        return Ok(ExitCode::FAILURE);
    };
    let skip_file = root.join("target").join(format!("skipped-{}.txt", std::process::id()));
    std::fs::write(&skip_file, "").with_context(|| format!("write {}", skip_file.display()))?;

    let mut child = cargo(root, &["test", "--workspace", "--locked", "-j2", "--no-fail-fast"])
        .args(filter)
        .env("KLAMM_SKIP_FILE", &skip_file)
        .env("KLAMM_BIN", klamm)
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo test")?;
    let mut totals = Totals::default();
    let lines = BufReader::new(child.stdout.take().context("cargo test without output")?);
    for line in lines.split(b'\n') {
        let line = line.context("read cargo test's output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        std::io::stdout().flush().ok();
        totals.read(&line);
    }
    let status = child.wait().context("wait for cargo test")?;
    let skipped = std::fs::read_to_string(&skip_file).unwrap_or_default();
    std::fs::remove_file(&skip_file).ok();
    totals.add_skipped(&skipped);
    if !status.success() && totals.failed == 0 {
        println!(
            "cargo test ended with {status} before it could count (a crash, or code that does not compile)"
        );
        totals.failed = 1;
    }
    if is_ci && !totals.lacking.is_empty() {
        println!("with CI=true no test may lack a program; see CONTRIBUTING.md for what to install");
        totals.failed += totals.lacking.len() as u64;
    }
    Ok(totals.print())
}

/// Builds all tests and the binary; gives the binary's path, or `None` after saying what does not build.
fn build(root: &Path) -> Result<Option<PathBuf>> {
    let output = cargo(root, &["build", "--workspace", "--bins", "--tests", "--locked", "-j2"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo build")?;
    if !output.status.success() {
        println!("the klamm binary or a test does not build");
        return Ok(None);
    }
    let klamm = String::from_utf8_lossy(&output.stdout).lines().find_map(binary);
    Ok(Some(klamm.context("cargo build names no klamm binary")?))
}

/// The path of the klamm binary, if this line of cargo's JSON tells it. Its unit tests are an executable, too.
fn binary(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_klamm = message["target"]["name"] == "klamm" && message["profile"]["test"] == false;
    is_klamm.then(|| message["executable"].as_str().map(PathBuf::from))?
}

impl Totals {
    /// Takes what one line of libtest's output says.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.trim_start().strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
        } else if let Some(name) = line.strip_prefix("test ").and_then(|test| test.split_once(" ... ignored"))
        {
            self.ignored.push(format!("{}: ignored{}", name.0, name.1));
        }
    }

    /// Takes the lines that skipped tests left; libtest counted these as passed.
    fn add_skipped(&mut self, lines: &str) {
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            self.passed = self.passed.saturating_sub(1);
            self.lacking.push(line.to_owned());
        }
    }

    fn print(&self) -> ExitCode {
        for skipped in self.ignored.iter().chain(&self.lacking) {
            println!("skipped: {skipped}");
        }
        let skipped = self.ignored.len() + self.lacking.len();
        println!("{} passed, {} failed, {skipped} skipped", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root);
    command
}

/// The C libraries (lz4, zstd, and librdkafka in the end-to-end tests) are compiled from source.
fn missing_build_tools() -> Option<&'static str> {
    let runs = |program: &str| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    if !runs("cc") {
        Some("no C compiler; install one (Debian: apt-get install build-essential)")
    } else if !runs("make") {
        Some("no make; install it (Debian: apt-get install build-essential)")
    } else {
        None
    }
}

/// The number in front of `word` in `ok. 3 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> u64 {
    let mut before = "";
    for token in counts.split_whitespace() {
        if token.trim_end_matches(';') == word {
            return before.parse().unwrap_or(0);
        }
        before = token;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_add_up() {
        let mut totals = Totals::default();
        totals.read("test a::b ... ok");
        totals.read("test a::c ... ignored, needs a day");
        totals.read(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        totals.read(
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        );
        assert_eq!((totals.passed, totals.failed), (7, 2));
        assert_eq!(totals.ignored, ["a::c: ignored, needs a day"]);
    }

    #[test]
    fn the_binary_is_the_one_that_is_no_test() {
        assert_eq!(binary(r#"{"reason":"build-script-executed"}"#), None);
        let test = r#"{"target":{"name":"klamm"},"profile":{"test":true},"executable":"/t/deps/klamm-1"}"#;
        assert_eq!(binary(test), None);
        let built = r#"{"target":{"name":"klamm"},"profile":{"test":false},"executable":"/t/klamm"}"#;
        assert_eq!(binary(built), Some(PathBuf::from("/t/klamm")));
    }

    #[test]
    fn a_skipped_test_did_not_pass() {
        let mut totals = Totals { passed: 3, ..Totals::default() };
        totals.add_skipped("console_producer: no java\n");
        assert_eq!(totals.passed, 2);
        assert_eq!(totals.lacking, ["console_producer: no java"]);
    }
}
