//! Rules about one source file: header, length, name, purity, leftovers, `unsafe`, `allow` with a reason.
//!
//! Text rules only: what the compiler or clippy can check is left to them.

use super::code::{Code, names};
use super::{Finding, crate_of};

/// Past this many lines a file holds two concepts.
const FILE_LINES_MAX: usize = 800;
/// Past this many lines a file is listed, as a reminder.
const FILE_LINES_LONG: usize = 500;

/// Crates (folders under `crates/`) without I/O, clock, threads or randomness of their own.
const PURE: &[&str] = &["cluster", "replication", "coordinator"];

/// What a pure crate may not name, and what it does instead.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "a pure crate knows no runtime: return a decision, let the host act on it"),
    ("std::fs", "a pure crate opens no file: take bytes, return bytes"),
    ("std::net", "a pure crate knows no socket"),
    ("std::thread", "a pure crate starts no thread"),
    ("std::env", "a pure crate reads no environment: take settings as arguments"),
    ("SystemTime", "take WallMs as an argument"),
    ("Instant", "take MonoMs as an argument"),
    ("rand", "take a seed or a seeded generator as an argument"),
    ("getrandom", "take a seed or a seeded generator as an argument"),
    ("RandomState", "use BTreeMap or imbl's ordered maps"),
    ("HashMap", "use BTreeMap or imbl's ordered maps: iteration order must repeat"),
    ("HashSet", "use BTreeSet or imbl's ordered sets: iteration order must repeat"),
];

/// Path prefixes where a system call needs `unsafe`.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/cli/src/memory.rs",
    "crates/log/src/disk",
    "crates/broker/src/host",
    "crates/broker/src/sendfile",
    "experiments/flush/src",
];

/// File names that say nothing about what is inside.
const VAGUE_NAMES: &[&str] =
    &["utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "misc.rs", "stuff.rs"];

/// Macros that mark unfinished work.
const LEFTOVERS: &[&str] = &["todo!(", "unimplemented!(", "dbg!("];

/// Applies every rule to one `.rs` file; `path` is relative to the workspace, with `/`.
pub fn check(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let code = Code::of(text);
    header(path, &code, findings);
    length(path, &code, findings);
    file_name(path, findings);
    purity(path, &code, findings);
    leftovers(path, &code, findings);
    unsafety(path, &code, findings);
    allows(path, &code, findings);
}

fn header(path: &str, code: &Code, findings: &mut Vec<Finding>) {
    if !code.raw.first().is_some_and(|line| line.starts_with("//!")) {
        findings.push(Finding::error(
            path,
            1,
            "header",
            "begin with `//!`: what it is, what it does not do, invariants",
        ));
    }
}

fn length(path: &str, code: &Code, findings: &mut Vec<Finding>) {
    let lines = code.raw.len();
    if lines > FILE_LINES_MAX {
        let message = format!("{lines} lines, at most {FILE_LINES_MAX}: look for the two concepts in it");
        findings.push(Finding::error(path, lines, "length", message));
    } else if lines > FILE_LINES_LONG {
        findings.push(Finding::warning(
            path,
            lines,
            "length",
            format!("{lines} lines; about {FILE_LINES_LONG} is a sitting"),
        ));
    }
}

fn file_name(path: &str, findings: &mut Vec<Finding>) {
    let name = path.rsplit('/').next().unwrap_or(path);
    if VAGUE_NAMES.contains(&name) {
        findings.push(Finding::error(path, 1, "name", "name the file after the one concept it holds"));
    }
    let stem = name.trim_end_matches(".rs");
    if !stem.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        findings.push(Finding::error(path, 1, "name", "write the file name in snake_case"));
    }
}

fn purity(path: &str, code: &Code, findings: &mut Vec<Finding>) {
    let pure = crate_of(path).is_some_and(|name| PURE.contains(&name));
    if !pure || !path.contains("/src/") || is_test_file(path) {
        return;
    }
    for (index, line) in code.code.iter().enumerate().take(code.tests_begin) {
        for (word, instead) in IMPURE {
            if names(line, word) {
                findings.push(Finding::error(
                    path,
                    index + 1,
                    "purity",
                    format!("`{word}` in a pure crate: {instead}"),
                ));
            }
        }
    }
}

fn leftovers(path: &str, code: &Code, findings: &mut Vec<Finding>) {
    for (index, line) in code.code.iter().enumerate() {
        for leftover in LEFTOVERS {
            if line.contains(leftover) {
                let message = format!(
                    "`{}` marks unfinished work: finish it or return an error",
                    leftover.trim_end_matches('(')
                );
                findings.push(Finding::error(path, index + 1, "leftover", message));
            }
        }
    }
}

fn unsafety(path: &str, code: &Code, findings: &mut Vec<Finding>) {
    for (index, line) in code.code.iter().enumerate() {
        if !names(line, "unsafe") {
            continue;
        }
        if !UNSAFE_ALLOWED.iter().any(|prefix| path.starts_with(prefix)) {
            let message =
                "unsafe belongs to the modules that make system calls (list in xtask's tidy/source.rs)";
            findings.push(Finding::error(path, index + 1, "unsafe", message));
        } else if !has_comment_above(&code.raw, index, "SAFETY:") {
            findings.push(Finding::error(
                path,
                index + 1,
                "unsafe",
                "say why it is sound: `// SAFETY: …` above",
            ));
        }
    }
}

fn allows(path: &str, code: &Code, findings: &mut Vec<Finding>) {
    for (index, line) in code.code.iter().enumerate() {
        if !line.contains("clippy::disallowed_") || !(line.contains("allow(") || line.contains("expect(")) {
            continue;
        }
        let attribute = code.code[index..code.code.len().min(index + 4)].join(" ");
        let attribute = attribute.split(']').next().unwrap_or_default();
        if !attribute.contains("reason =") {
            let message = "say why the rule of clippy.toml does not hold here: `allow(…, reason = \"…\")`";
            findings.push(Finding::error(path, index + 1, "allow", message));
        }
    }
}

fn has_comment_above(raw: &[String], index: usize, word: &str) -> bool {
    raw[..=index].iter().rev().take(8).any(|line| line.contains(word))
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(path, text, &mut findings);
        findings.iter().map(|finding| format!("{}:{}", finding.line, finding.rule)).collect()
    }

    #[test]
    fn a_good_file_passes() {
        assert!(rules("crates/log/src/segment.rs", "//! A segment.\n\nfn a() {}\n").is_empty());
    }

    #[test]
    fn a_missing_header_is_found() {
        assert_eq!(rules("crates/log/src/segment.rs", "fn a() {}\n"), ["1:header"]);
        assert_eq!(rules("crates/log/src/empty.rs", ""), ["1:header"]);
    }

    #[test]
    fn a_long_file_is_found() {
        let long = format!("//! Long.\n{}", "fn a() {}\n".repeat(800));
        assert_eq!(rules("crates/log/src/a.rs", &long), ["801:length"]);
        let middling = format!("//! Long.\n{}", "fn a() {}\n".repeat(600));
        let mut findings = Vec::new();
        check("crates/log/src/a.rs", &middling, &mut findings);
        assert!(findings.len() == 1 && !findings[0].is_error);
    }

    #[test]
    fn vague_and_camel_names_are_found() {
        assert_eq!(rules("crates/log/src/utils.rs", "//! x\n"), ["1:name"]);
        assert_eq!(rules("crates/log/src/SegmentFile.rs", "//! x\n"), ["1:name"]);
    }

    #[test]
    fn impurity_is_found_in_pure_crates_only() {
        for bad in [
            "use tokio::sync::watch;",
            "std::fs::read(p);",
            "use std::net::IpAddr;",
            "SystemTime::now();",
            "rand::rng();",
        ] {
            let text = format!("//! x\n{bad}\n");
            assert_eq!(rules("crates/cluster/src/a.rs", &text), ["2:purity"], "{bad}");
            assert!(rules("crates/broker/src/a.rs", &text).is_empty(), "{bad}");
        }
        let in_tests = "//! x\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert!(rules("crates/cluster/src/a.rs", in_tests).is_empty());
        assert!(rules("crates/cluster/src/a.rs", "//! Not tokio.\n// std::fs\n").is_empty());
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(rules("crates/log/src/a.rs", "//! x\nfn a() { todo!() }\n"), ["2:leftover"]);
        assert_eq!(rules("crates/log/src/a.rs", "//! x\nfn a() { unimplemented!(\"b\") }\n"), ["2:leftover"]);
        assert_eq!(rules("crates/log/src/a.rs", "//! x\nfn a() { dbg!(1); }\n"), ["2:leftover"]);
    }

    #[test]
    fn unsafe_needs_its_place_and_its_comment() {
        let bare = "//! x\nfn a() { unsafe { b() } }\n";
        let reasoned = "//! x\n// SAFETY: b has no preconditions.\nfn a() { unsafe { b() } }\n";
        assert_eq!(rules("crates/cluster/src/a.rs", reasoned), ["3:unsafe"]);
        assert_eq!(rules("crates/log/src/disk/real.rs", bare), ["2:unsafe"]);
        assert!(rules("crates/log/src/disk/real.rs", reasoned).is_empty());
        assert!(rules("crates/cluster/src/a.rs", "//! x\n#![deny(unsafe_code)]\n").is_empty());
    }

    #[test]
    fn an_allow_needs_a_reason() {
        let bare = "//! x\n#![allow(clippy::disallowed_methods)]\n";
        let reasoned = "//! x\n#![allow(clippy::disallowed_methods, reason = \"this is the host\")]\n";
        assert_eq!(rules("crates/broker/src/host.rs", bare), ["2:allow"]);
        assert!(rules("crates/broker/src/host.rs", reasoned).is_empty());
    }
}
