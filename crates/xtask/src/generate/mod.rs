//! Writes the protocol's message code from the schema text.
//!
//! The schema (`crates/protocol/schema`) holds facts; this turns them into the
//! checked-in Rust of `crates/protocol/src/messages` and `src/api_key`. It decides
//! nothing about encoding: that is `klamm_protocol::wire`, which the code calls.

mod api_key;
mod message;
mod module;
mod names;
mod schema;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use module::Module;
use schema::{Api, Schema};

/// Below `crates/protocol/src`: nothing else may stand in them.
const DIRECTORIES: [&str; 2] = ["api_key", "messages"];

/// A module with more lines than this becomes a directory: what a reader takes in at one sitting.
const FILE_LINES_MAX: usize = 500;

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
    let mut stale = Vec::new();
    for owned in DIRECTORIES {
        find_stale(&directory.join(owned), &directory, &wanted, &mut stale)?;
    }
    if check {
        let names: Vec<_> = changed.iter().chain(&stale).map(|path| path.display().to_string()).collect();
        ensure!(names.is_empty(), "out of date, run `cargo xtask gen`:\n{}", names.join("\n"));
        return Ok(());
    }
    for path in stale {
        let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    for path in &changed {
        let text = &wanted[path.strip_prefix(&directory)?];
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
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
        let module = Module::of_api(api, file).with_context(|| api.name.clone())?;
        add_module(&mut files, &module, root)?;
    }
    for (name, messages, file) in &modules {
        let module = Module::of_records(name, messages, file).with_context(|| name.clone())?;
        add_module(&mut files, &module, root)?;
    }
    let apis: Vec<&Api> = apis.iter().map(|(api, _)| api).collect();
    for (path, text) in [
        ("messages/mod.rs", module::index(&apis, &modules)),
        ("api_key/mod.rs", api_key::keys(&apis)),
        ("api_key/versions.rs", api_key::versions(&apis)),
        ("api_key/listeners.rs", api_key::listeners(&apis)),
    ] {
        files.insert(PathBuf::from(path), rustfmt(&text, root)?);
    }
    Ok(files)
}

fn add_module(files: &mut BTreeMap<PathBuf, String>, module: &Module, root: &Path) -> Result<()> {
    let messages = Path::new("messages");
    let whole = rustfmt(&module.in_one_file()?, root)?;
    if whole.lines().count() <= FILE_LINES_MAX {
        files.insert(messages.join(format!("{}.rs", module.name)), whole);
        return Ok(());
    }
    for (file, text) in module.in_a_directory()? {
        let path = messages.join(&module.name).join(file);
        let is_new = files.insert(path.clone(), rustfmt(&text, root)?).is_none();
        ensure!(is_new, "{} is the file of two records", path.display());
    }
    Ok(())
}

/// What no schema asks for any more: files, and behind its files a directory that holds no other.
fn find_stale(
    directory: &Path,
    source: &Path,
    wanted: &BTreeMap<PathBuf, String>,
    stale: &mut Vec<PathBuf>,
) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_stale(&path, source, wanted, stale)?;
        } else if !wanted.contains_key(path.strip_prefix(source)?) {
            stale.push(path);
        }
    }
    let directory_path = directory.strip_prefix(source)?;
    if !wanted.keys().any(|path| path.starts_with(directory_path)) {
        stale.push(directory.to_owned());
    }
    Ok(())
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

    /// A root with one record of that many fields, one short record and one API.
    fn write_schema(root: &Path, field_count: usize) {
        let schema = root.join("crates/protocol/schema");
        fs::create_dir_all(&schema).unwrap();
        fs::write(root.join("rustfmt.toml"), "").unwrap();
        let records = ["LongKey", "LongValue", "ShortRecord"].map(|name| format!("data {name} versions=0\n"));
        let fields: String = (0..field_count).map(|index| format!("  Field{index} int8\n")).collect();
        let [key, value, short] = records;
        let module = format!("module some_records\n{key}  Id int8\n{value}{fields}{short}  Id int8\n");
        fs::write(schema.join("some_records.txt"), module).unwrap();
        let api =
            "api Ask key=0 listeners=broker\nrequest versions=0\n  Id int8\nresponse versions=0\n  Id int8\n";
        fs::write(schema.join("core.txt"), api).unwrap();
    }

    fn files_below(directory: &Path) -> Vec<String> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                files.extend(files_below(&path).into_iter().map(|file| format!("{name}/{file}")));
                files.push(name + "/");
            } else {
                files.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        files.sort();
        files
    }

    #[test]
    fn a_long_module_is_a_directory_and_what_no_schema_makes_is_found() {
        let root = tempfile::tempdir().unwrap();
        let messages = root.path().join("crates/protocol/src/messages");
        write_schema(root.path(), 200);
        run(root.path(), false).unwrap();
        let long = ["some_records/", "some_records/long.rs", "some_records/mod.rs", "some_records/short.rs"];
        assert_eq!(files_below(&messages), [&["ask.rs", "mod.rs"][..], &long].concat());
        run(root.path(), true).unwrap();

        write_schema(root.path(), 2);
        fs::write(messages.join("../api_key/old.rs"), "").unwrap();
        fs::write(messages.join("old.rs"), "").unwrap();
        let complaint = run(root.path(), true).unwrap_err().to_string();
        for stale in long.into_iter().chain(["old.rs", "api_key/old.rs", "some_records.rs"]) {
            assert!(complaint.contains(stale.trim_end_matches('/')), "{stale} is not in {complaint}");
        }
        run(root.path(), false).unwrap();
        assert_eq!(files_below(&messages), ["ask.rs", "mod.rs", "some_records.rs"]);
        assert_eq!(files_below(&messages.join("../api_key")), ["listeners.rs", "mod.rs", "versions.rs"]);
        run(root.path(), true).unwrap();
    }
}
