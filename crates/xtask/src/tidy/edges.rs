//! Which crate may use which: the walls of `ARCHITECTURE.md`, and the price of an outside dependency.
//!
//! Reads `cargo metadata --no-deps`. Dev-dependencies may cross walls inside the workspace (a test may use any
//! crate), but an outside crate needs its line in the dependency table whatever it is used for.

use super::Finding;
use super::code::names;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// (crate folder, folders of the crates it may use), in the order of the architecture's table.
const EDGES: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("protocol-tests", &["protocol"]),
    ("security", &["protocol"]),
    ("log", &["protocol"]),
    ("cluster", &["protocol", "security"]),
    ("quorum", &["cluster", "log", "protocol"]),
    ("replication", &["protocol"]),
    ("coordinator", &["protocol", "cluster"]),
    ("broker", &["protocol", "security", "log", "cluster", "quorum", "replication", "coordinator"]),
    ("client", &["protocol", "security"]),
    ("streams", &["client", "protocol"]),
    ("registry", &["client", "protocol"]),
    ("console", &["client", "protocol"]),
    ("cli", &["broker", "client", "registry", "console", "cluster", "log", "protocol"]),
    (
        "sim",
        &[
            "protocol",
            "security",
            "log",
            "cluster",
            "quorum",
            "replication",
            "coordinator",
            "broker",
            "client",
            "streams",
            "registry",
            "console",
        ],
    ),
    ("e2e", &["protocol", "client"]),
    ("xtask", &["protocol"]),
];

/// One member of the workspace.
pub struct Member {
    /// Its folder under `crates/`.
    pub folder: String,
    /// Its package name.
    pub package: String,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
}

/// One dependency of a member.
pub struct Dependency {
    /// The package's name.
    pub package: String,
    /// Whether it is for tests only.
    pub is_dev: bool,
}

/// Asks cargo for the members and their direct dependencies.
pub fn members(root: &Path) -> Result<Vec<Member>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("parse cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    Ok(packages.iter().map(member).collect())
}

/// Checks the edges inside the workspace and the dependency table.
pub fn check(members: &[Member], architecture: Option<&str>, findings: &mut Vec<Finding>) {
    for member in members {
        let manifest = format!("crates/{}/Cargo.toml", member.folder);
        let Some((_, allowed)) = EDGES.iter().find(|(folder, _)| *folder == member.folder) else {
            let message = "a new crate needs its line in the table of edges (xtask's tidy/edges.rs)";
            findings.push(Finding::error(&manifest, 1, "edge", message));
            continue;
        };
        for dependency in &member.dependencies {
            let inside = members.iter().find(|other| other.package == dependency.package);
            match inside {
                Some(other) if !dependency.is_dev && !allowed.contains(&other.folder.as_str()) => {
                    let message =
                        format!("`{}` may not use `{}`: {}", member.folder, other.folder, wall(allowed));
                    findings.push(Finding::error(&manifest, 1, "edge", message));
                }
                Some(_) => {}
                None => {
                    if let Some(text) = architecture
                        && !in_dependency_table(text, &dependency.package)
                    {
                        let message = format!(
                            "`{}` has no line in ARCHITECTURE.md's dependency table: job, alternatives, licence",
                            dependency.package
                        );
                        findings.push(Finding::error(&manifest, 1, "dependency", message));
                    }
                }
            }
        }
    }
    if architecture.is_none() {
        findings.push(Finding::error(
            "ARCHITECTURE.md",
            1,
            "dependency",
            "write it, with a table of dependencies",
        ));
    }
}

/// Checks that versions stand in the workspace's table alone.
pub fn check_manifest(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let mut in_dependencies = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies
            && !line.trim().is_empty()
            && !line.starts_with('#')
            && !names(line, "workspace")
        {
            let message = "take it from [workspace.dependencies]: `name.workspace = true`";
            findings.push(Finding::error(path, index + 1, "dependency", message));
        }
    }
}

fn member(package: &Value) -> Member {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let manifest = text(&package["manifest_path"]);
    let folder = Path::new(&manifest).parent().and_then(Path::file_name).unwrap_or_default();
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    Member {
        folder: folder.to_string_lossy().into_owned(),
        package: text(&package["name"]),
        dependencies: dependencies
            .iter()
            .map(|d| Dependency { package: text(&d["name"]), is_dev: d["kind"] == "dev" })
            .collect(),
    }
}

fn wall(allowed: &[&str]) -> String {
    if allowed.is_empty() {
        "it uses none of ours".to_owned()
    } else {
        format!("it may use {}", allowed.join(", "))
    }
}

fn in_dependency_table(text: &str, package: &str) -> bool {
    text.lines().filter(|line| line.trim_start().starts_with('|')).any(|line| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).any(|word| word == package)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(folder: &str, dependencies: &[(&str, bool)]) -> Member {
        Member {
            folder: folder.to_owned(),
            package: format!("klamm-{folder}"),
            dependencies: dependencies
                .iter()
                .map(|&(package, is_dev)| Dependency { package: package.to_owned(), is_dev })
                .collect(),
        }
    }

    fn messages(members: &[Member], architecture: Option<&str>) -> Vec<String> {
        let mut findings = Vec::new();
        check(members, architecture, &mut findings);
        findings.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_crossed_wall_is_found() {
        let members = [
            of("protocol", &[]),
            of("cluster", &[("klamm-log", false)]),
            of("log", &[("klamm-protocol", false)]),
        ];
        let found = messages(&members, Some(""));
        assert_eq!(found, ["`cluster` may not use `log`: it may use protocol, security"]);
        let in_tests = [of("cluster", &[("klamm-log", true)]), of("log", &[])];
        assert!(messages(&in_tests, Some("")).is_empty());
    }

    #[test]
    fn a_crate_outside_the_table_is_found() {
        assert!(messages(&[of("surprise", &[])], Some(""))[0].contains("table of edges"));
    }

    #[test]
    fn a_dependency_without_its_line_is_found() {
        let members = [of("log", &[("tempfile", true), ("bytes", false)])];
        let table = "tempfile in prose\n| job | `bytes` | why |\n";
        let found = messages(&members, Some(table));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("`tempfile`"));
        assert!(messages(&members, None).iter().any(|m| m.contains("write it")));
        assert!(!in_dependency_table("| bytes-utils |", "bytes"));
    }

    #[test]
    fn a_version_in_a_member_is_found() {
        let mut findings = Vec::new();
        let text = "[dependencies]\nbytes = \"1\"\nsnap.workspace = true\ntokio = { workspace = true }\n[lints]\nx = 1\n";
        check_manifest("crates/log/Cargo.toml", text, &mut findings);
        assert_eq!(findings.iter().map(|f| f.line).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn this_workspace_is_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let members = members(&root).unwrap();
        let xtask = members.iter().find(|m| m.package == "xtask").unwrap();
        assert!(xtask.folder == "xtask" && xtask.dependencies.iter().any(|d| d.package == "anyhow"));
    }
}
