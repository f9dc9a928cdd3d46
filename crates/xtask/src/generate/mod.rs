//! Writes the protocol's message code from the schema text.
//!
//! The schema (`crates/protocol/schema`) holds facts; this turns them into the
//! checked-in Rust of `crates/protocol/src/messages` and `src/api_key.rs`. It decides
//! nothing about encoding: that is `klamm_protocol::wire`, which the code calls.

mod api_key;
mod message;
mod names;
mod schema;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use schema::{Api, Schema};

/// Writes the files, or with `check` only says which would change.
///
/// # Errors
/// A schema that is wrong, a file that cannot be written; with `check`, any difference.
pub fn run(root: &Path, check: bool) -> Result<()> {
    let protocol = root.join("crates/protocol");
    let wanted = generate(&protocol.join("schema"), root)?;
    let directory = protocol.join("src");
    let mut changed = Vec::new();
    for (path, text) in &wanted {
        let path = directory.join(path);
        if fs::read_to_string(&path).ok().as_deref() != Some(text) {
            changed.push(path);
        }
    }
    let stale = stale_files(&directory, &wanted)?;
    if check {
        let names: Vec<_> = changed.iter().chain(&stale).map(|path| path.display().to_string()).collect();
        ensure!(names.is_empty(), "out of date, run `cargo xtask gen`:\n{}", names.join("\n"));
        return Ok(());
    }
    fs::create_dir_all(directory.join("messages"))?;
    for path in &changed {
        let text = &wanted[path.strip_prefix(&directory)?];
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    for path in stale {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Paths below `crates/protocol/src` and what belongs there.
fn generate(schema_directory: &Path, root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut apis: Vec<(Api, String)> = Vec::new();
    let mut modules = Vec::new();
    for entry in fs::read_dir(schema_directory).context("list the schema")? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let file = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let text = fs::read_to_string(&path)?;
        match schema::parse(&text).with_context(|| format!("schema/{file}"))? {
            Schema::Apis(found) => apis.extend(found.into_iter().map(|api| (api, file.clone()))),
            Schema::Module { name, messages } => modules.push((name, messages, file)),
        }
    }
    apis.sort_by_key(|(api, _)| api.key);
    modules.sort_by(|a, b| a.0.cmp(&b.0));
    ensure!(apis.windows(2).all(|pair| pair[0].0.key != pair[1].0.key), "two APIs have one key");

    let mut files = BTreeMap::new();
    for (api, file) in &apis {
        let path = format!("messages/{}.rs", names::snake(&api.name));
        let text = message::api_module(api, file).with_context(|| api.name.clone())?;
        files.insert(PathBuf::from(path), rustfmt(&text, root)?);
    }
    for (name, messages, file) in &modules {
        let text = message::data_module(name, messages, file).with_context(|| name.clone())?;
        files.insert(PathBuf::from(format!("messages/{name}.rs")), rustfmt(&text, root)?);
    }
    let apis: Vec<&Api> = apis.iter().map(|(api, _)| api).collect();
    let index = message::index(&apis, &modules);
    files.insert(PathBuf::from("messages/mod.rs"), rustfmt(&index, root)?);
    files.insert(PathBuf::from("api_key.rs"), rustfmt(&api_key::module(&apis), root)?);
    Ok(files)
}

/// Rust files among the messages that no schema asks for any more.
fn stale_files(directory: &Path, wanted: &BTreeMap<PathBuf, String>) -> Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    let Ok(entries) = fs::read_dir(directory.join("messages")) else { return Ok(stale) };
    for entry in entries {
        let path = entry?.path();
        if !wanted.contains_key(path.strip_prefix(directory)?) {
            stale.push(path);
        }
    }
    Ok(stale)
}

fn rustfmt(text: &str, root: &Path) -> Result<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root.join("rustfmt.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start rustfmt")?;
    let mut stdin = child.stdin.take().context("rustfmt's input")?;
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    let written = writer.join();
    if !output.status.success() || !matches!(written, Ok(Ok(()))) {
        bail!("rustfmt refused what was generated");
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_code_is_what_the_schema_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        run(&root, true).unwrap();
    }
}
