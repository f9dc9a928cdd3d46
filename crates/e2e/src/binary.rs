//! Finds the `klamm` binary under test, building it when needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary: `KLAMM_BIN` where set, else the one of this profile, brought up to date by cargo.
///
/// # Panics
/// When it does not build.
pub fn klamm() -> &'static Path {
    static KLAMM: OnceLock<PathBuf> = OnceLock::new();
    KLAMM.get_or_init(|| match std::env::var_os("KLAMM_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// The root of the workspace.
///
/// # Panics
/// Never: this crate lies two folders below it.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders below the root")
}

fn build() -> PathBuf {
    // …/target/<profile>/deps/<test>-<hash>
    let test = std::env::current_exe().expect("the test's own path");
    let profile_folder = test.ancestors().nth(2).expect("a profile folder above deps");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--package", "klamm"]).current_dir(workspace_root());
    if profile_folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    if let Some(target) = profile_folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    assert!(command.status().expect("run cargo build").success(), "the klamm binary does not build");
    profile_folder.join("klamm")
}
