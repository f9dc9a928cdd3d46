//! Which file holds what: a module per API or kind of record.
//!
//! A module that would be too long to read in one file is a directory, with a file per request, response or
//! record (key and value in one). Its `mod.rs` exports everything, so that users see no difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Result;

use super::schema::{Api, Message};
use super::{message, names};

/// A module below `messages`.
pub struct Module {
    pub name: String,
    /// What its documentation says.
    about: String,
    /// The schema file.
    schema: String,
    parts: Vec<Part>,
    /// What needs more than one part.
    tail: String,
}

/// What is a file where the module is a directory.
struct Part {
    name: String,
    messages: Vec<String>,
    structures: Vec<String>,
    code: String,
}

impl Module {
    /// The request and the response of one API.
    pub fn of_api(api: &Api, schema: &str) -> Result<Self> {
        let Api { name, key, request, response, .. } = api;
        let versions = request.body.versions;
        let clashes = clashes([request, response]);
        Ok(Self {
            name: names::snake(name),
            about: format!(
                "`{name}` (key {key}), versions {versions}, {}.",
                message::flexible_words(request)
            ),
            schema: schema.to_owned(),
            parts: vec![
                Part::new("request", request, &clashes, "Request")?,
                Part::new("response", response, &clashes, "Response")?,
            ],
            tail: format!(
                "\nimpl Request for {name}Request {{\nconst API_KEY: ApiKey = ApiKey::{name};\n\
                 type Response = {name}Response;\n}}\n"
            ),
        })
    }

    /// Messages that are not requests.
    pub fn of_records(name: &str, messages: &[Message], schema: &str) -> Result<Self> {
        let clashes = clashes(messages);
        let mut parts: Vec<Part> = Vec::new();
        for message in messages {
            let message_name = &message.body.name;
            let part = Part::new(&part_name(message_name), message, &clashes, message_name)?;
            match parts.last_mut().filter(|last| last.name == part.name) {
                Some(key) => key.extend(part),
                None => parts.push(part),
            }
        }
        Ok(Self {
            name: name.to_owned(),
            about: format!("{}: {} messages.", title(name), messages.len()),
            schema: schema.to_owned(),
            parts,
            tail: String::new(),
        })
    }

    /// All of it.
    pub fn in_one_file(&self) -> Result<String> {
        let mut body: String = self.parts.iter().map(|part| part.code.as_str()).collect();
        body += &self.tail;
        Ok(head(&self.about, &self.schema) + &imports(&body)? + &body)
    }

    /// File names and what they hold.
    pub fn in_a_directory(&self) -> Result<Vec<(String, String)>> {
        let mut index = head(&self.about, &self.schema);
        for part in &self.parts {
            writeln!(index, "mod {};", part.name)?;
        }
        index = index + "\n" + &imports(&self.tail)?;
        for part in &self.parts {
            writeln!(index, "pub use {}::{{{}}};", part.name, part.structures.join(", "))?;
        }
        index += &self.tail;
        let mut files = vec![("mod.rs".to_owned(), index)];
        for part in &self.parts {
            let about = format!("`{}`.", part.messages.join("` and `"));
            let text = head(&about, &self.schema) + &imports(&part.code)? + &part.code;
            files.push((format!("{}.rs", part.name), text));
        }
        Ok(files)
    }
}

impl Part {
    fn new(name: &str, message: &Message, clashes: &BTreeSet<String>, prefix: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            messages: vec![message.body.name.clone()],
            structures: message::structures(message, clashes, prefix),
            code: message::code(message, clashes, prefix)?,
        })
    }

    fn extend(&mut self, other: Self) {
        self.messages.extend(other.messages);
        self.structures.extend(other.structures);
        self.code += &other.code;
    }
}

/// `messages/mod.rs`.
pub fn index(apis: &[&Api], records: &[(String, Vec<Message>, String)]) -> String {
    let mut text = head(
        "Every message of Kafka 4.3, one module per API or kind of record: plain structures.\n\
         //! What the fields mean, and what answers what, is not here.",
        "",
    );
    let mut names: Vec<String> = apis.iter().map(|api| names::snake(&api.name)).collect();
    names.extend(records.iter().map(|(name, ..)| name.clone()));
    names.sort();
    for name in names {
        text.push_str(&format!("pub mod {name};\n"));
    }
    text.push_str(
        "\n/// Calls `$with!` with `(Api, module, Request, Response)` for every API, by key.\n\
         #[macro_export]\nmacro_rules! for_each_api {\n    ($with:ident) => {\n        $with! {\n",
    );
    for api in apis {
        let name = &api.name;
        let module = names::snake(name);
        text.push_str(&format!("            ({name}, {module}, {name}Request, {name}Response)\n"));
    }
    text.push_str(
        "        }\n    };\n}\n\n/// Calls `$with!` with `(module, Message)` for every record.\n\
         #[macro_export]\nmacro_rules! for_each_data {\n    ($with:ident) => {\n        $with! {\n",
    );
    for (module, messages, _) in records {
        for message in messages {
            text.push_str(&format!("            ({module}, {})\n", message.body.name));
        }
    }
    text.push_str("        }\n    };\n}\n");
    text
}

/// The module's documentation.
pub fn head(about: &str, schema: &str) -> String {
    format!(
        "//! {about}\n//!\n//! Generated by `cargo xtask gen` from crates/protocol/schema/{schema}; edit that and \
         run it again.\n\n"
    )
}

/// What `body` uses.
fn imports(body: &str) -> Result<String> {
    let mut text = String::new();
    if body.contains(": Bytes") || body.contains("<Bytes>") {
        text.push_str("use bytes::Bytes;\n\n");
    }
    for (used, path) in [("ApiKey::", "api_key::ApiKey"), ("Uuid", "ids::Uuid")] {
        if body.contains(used) {
            writeln!(text, "use crate::{path};")?;
        }
    }
    let wire = [
        ("DecodeError", "DecodeError"),
        ("EncodeError", "EncodeError"),
        ("<Records>", "Records"),
        ("impl Request for", "Request"),
        (": Sink", "Sink"),
        (": Source", "Source"),
        ("impl Structure for", "Structure"),
        ("Value::get", "Value"),
        ("WireStr", "WireStr"),
        ("message!(", "message"),
    ];
    let wire: Vec<&str> =
        wire.iter().filter(|(used, _)| body.contains(used)).map(|(_, name)| *name).collect();
    if !wire.is_empty() {
        writeln!(text, "use crate::wire::{{{}}};\n", wire.join(", "))?;
    }
    Ok(text)
}

/// Names of structures that more than one of the messages has.
fn clashes<'a>(messages: impl IntoIterator<Item = &'a Message>) -> BTreeSet<String> {
    let mut counts = BTreeMap::new();
    for message in messages {
        for name in message.structs.iter().map(|part| &part.name).chain([&message.body.name]) {
            *counts.entry(name.clone()).or_insert(0) += 1;
        }
    }
    counts.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect()
}

/// The file of a record: its name without what all of its kind end with.
fn part_name(message: &str) -> String {
    let kinds = ["Record", "Key", "Value"];
    names::snake(kinds.iter().find_map(|kind| message.strip_suffix(kind)).unwrap_or(message))
}

fn title(module: &str) -> String {
    let text = module.replace('_', " ");
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}
