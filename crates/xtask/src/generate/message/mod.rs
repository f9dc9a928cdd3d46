//! One message: its structures, their defaults, and how they are read and written.

mod condition;
mod read;
mod size;
mod write;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::names;
use super::schema::{Base, Field, Message, Struct, Versions};

/// The structures of one message and what they implement. A structure whose name is among `clashes` gets `prefix`.
pub fn code(message: &Message, clashes: &BTreeSet<String>, prefix: &str) -> Result<String> {
    let name = &message.body.name;
    let cx = MessageCode { message, clashes, prefix };
    let mut text = String::new();
    let mut doc = format!("`{name}`, versions {}, {}.", message.body.versions, flexible_words(message));
    if let Some(unstable) = message.unstable {
        write!(doc, " Version {unstable} is unstable.")?;
    }
    cx.structure(&mut text, &message.body, &doc)?;
    writeln!(
        text,
        "\nmessage!({name}, {}..={});\n",
        message.body.versions.first, message.body.versions.last
    )?;
    if let Some(key) = message.key {
        write!(
            text,
            "impl {name} {{\n/// What tells it from the other records of its log.\n\
             pub const API_KEY: i16 = {key};\n}}\n\n"
        )?;
    }
    for part in &message.structs {
        let mut doc = format!("Part of [`{name}`]");
        if part.versions != message.body.versions {
            write!(doc, ", versions {}", part.versions)?;
        }
        doc.push('.');
        cx.structure(&mut text, part, &doc)?;
    }
    Ok(text)
}

/// The names of the structures that [`code`] makes.
pub fn structures(message: &Message, clashes: &BTreeSet<String>, prefix: &str) -> Vec<String> {
    let cx = MessageCode { message, clashes, prefix };
    let parts = message.structs.iter().map(|part| cx.rust_name(&part.name));
    std::iter::once(message.body.name.clone()).chain(parts).collect()
}

pub fn flexible_words(message: &Message) -> String {
    match message.flexible_from {
        Some(first) if first == message.body.versions.first => "flexible".to_owned(),
        Some(first) => format!("flexible from {first}"),
        None => "never flexible".to_owned(),
    }
}

struct MessageCode<'a> {
    message: &'a Message,
    clashes: &'a BTreeSet<String>,
    prefix: &'a str,
}

impl MessageCode<'_> {
    fn structure(&self, text: &mut String, part: &Struct, doc: &str) -> Result<()> {
        let name = self.rust_name(&part.name);
        let derives_default = part.fields.iter().all(|field| self.default_value(field).1);
        let default = if derives_default { ", Default" } else { "" };
        write!(text, "\n/// {doc}\n#[derive(Clone, Debug, PartialEq{default})]\npub struct {name} {{\n")?;
        for field in &part.fields {
            let (doc, name) = (field_doc(field, part.versions), names::field(&field.name));
            write!(text, "/// {doc}\npub {name}: {},\n", self.rust_type(field))?;
        }
        text.push_str("}\n");
        if !derives_default {
            write!(text, "\nimpl Default for {name} {{\nfn default() -> Self {{\nSelf {{\n")?;
            for field in &part.fields {
                writeln!(text, "{}: {},", names::field(&field.name), self.default_value(field).0)?;
            }
            text.push_str("}\n}\n}\n");
        }
        let size_min = self.size_min(part).with_context(|| part.name.clone())?;
        write!(text, "\nimpl Structure for {name} {{\nconst SIZE_MIN: usize = {size_min};\n")?;
        let read = self.read_body(part)?;
        self.function(text, part, "read<D: Source>(d: &mut D, ", "Result<Self, DecodeError>", "d", &read)?;
        let write = self.write_body(part)?;
        self.function(
            text,
            part,
            "write<S: Sink>(&self, s: &mut S, ",
            "Result<(), EncodeError>",
            "s",
            &write,
        )?;
        text.push_str("}\n");
        Ok(())
    }

    /// With underscores where the body needs no argument.
    fn function(
        &self,
        text: &mut String,
        part: &Struct,
        head: &str,
        result: &str,
        device: &str,
        body: &str,
    ) -> Result<()> {
        let (_, flexible_line) = self.flexible(part.versions);
        let line = if mentions(body, "flexible") { flexible_line.as_str() } else { "" };
        let version = if !line.is_empty() || mentions(body, "version") { "version" } else { "_version" };
        let head = match mentions(body, device) {
            true => head.to_owned(),
            false => head.replace(&format!("{device}: &mut"), &format!("_{device}: &mut")),
        };
        write!(text, "\nfn {head}{version}: i16) -> {result} {{\n{line}{body}}}\n")?;
        Ok(())
    }

    fn rust_name(&self, name: &str) -> String {
        if self.clashes.contains(name) { format!("{}{name}", self.prefix) } else { name.to_owned() }
    }

    fn rust_type(&self, field: &Field) -> String {
        let base = match &field.base {
            Base::Uuid => "Uuid".to_owned(),
            Base::String => "WireStr".to_owned(),
            Base::Bytes => "Bytes".to_owned(),
            Base::Records => "Records".to_owned(),
            Base::Struct(name) => self.rust_name(name),
            scalar => scalar_name(scalar).to_owned(),
        };
        let whole = if field.is_array { format!("Vec<{base}>") } else { base };
        if is_option(field) { format!("Option<{whole}>") } else { whole }
    }

    /// The expression, and whether it is what `derive(Default)` gives.
    fn default_value(&self, field: &Field) -> (String, bool) {
        let empty = match &field.base {
            _ if field.is_array => "Vec::new()".to_owned(),
            Base::Bool => "false".to_owned(),
            Base::Uuid => "Uuid::ZERO".to_owned(),
            Base::String => "WireStr::default()".to_owned(),
            Base::Bytes => "Bytes::new()".to_owned(),
            Base::Float64 => "0.0".to_owned(),
            Base::Struct(name) => format!("{}::default()", self.rust_name(name)),
            _ => "0".to_owned(),
        };
        match field.default.as_deref() {
            _ if matches!(field.base, Base::Records) => ("None".to_owned(), true),
            Some("null") => ("None".to_owned(), true),
            None if is_option(field) => (format!("Some({empty})"), false),
            None => (empty, true),
            Some(limit) if limit == i32::MAX.to_string() => ("i32::MAX".to_owned(), false),
            Some(limit) if limit == i32::MIN.to_string() => ("i32::MIN".to_owned(), false),
            Some(limit) if limit == i64::MAX.to_string() => ("i64::MAX".to_owned(), false),
            Some(value) => (value.to_owned(), false),
        }
    }

    fn flexible_versions(&self) -> Versions {
        Versions { first: self.message.flexible_from.unwrap_or(i16::MAX), last: i16::MAX }
    }

    /// The argument to pass, and the line that makes it.
    fn flexible(&self, versions: Versions) -> (&'static str, String) {
        match self.message.flexible_from {
            Some(first) if first <= versions.first => ("true", String::new()),
            Some(first) if first <= versions.last => {
                ("flexible", format!("let flexible = version >= {first};\n"))
            }
            _ => ("false", String::new()),
        }
    }
}

fn is_option(field: &Field) -> bool {
    field.nullable.is_some() || matches!(field.base, Base::Records)
}

fn scalar_name(base: &Base) -> &'static str {
    match base {
        Base::Bool => "bool",
        Base::Int8 => "i8",
        Base::Int16 => "i16",
        Base::Uint16 => "u16",
        Base::Int32 => "i32",
        Base::Uint32 => "u32",
        Base::Int64 => "i64",
        Base::Float64 => "f64",
        Base::Uuid => "uuid",
        Base::String | Base::Bytes | Base::Records | Base::Struct(_) => unreachable!("no scalar"),
    }
}

fn field_doc(field: &Field, within: Versions) -> String {
    let mut doc = match (field.versions == within, field.versions.last == within.last) {
        (true, _) => "Every version".to_owned(),
        (false, true) => format!("Versions {}+", field.versions.first),
        (false, false) => format!("Versions {}", field.versions),
    };
    if let Some(tag) = field.tag {
        doc.push_str(&format!(", tag {tag}"));
    }
    if let Some(nullable) = field.nullable.filter(|nullable| *nullable != field.versions) {
        doc.push_str(&format!(", nullable in {nullable}"));
    }
    if let Some(default) = field.default.as_ref().filter(|default| *default != "null") {
        doc.push_str(&format!(", default {default}"));
    }
    if field.is_map_key {
        doc.push_str(", unique");
    }
    if field.is_ignorable {
        doc.push_str(", ignorable");
    }
    if let Some(entity) = &field.entity {
        doc.push_str(&format!(", a {}", names::snake(entity).replace('_', " ")));
    }
    doc + "."
}

/// Whether a variable of that name occurs: not a field's.
fn mentions(code: &str, variable: &str) -> bool {
    let in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    code.match_indices(variable).any(|(start, _)| {
        let before = code[..start].chars().next_back();
        let after = code[start + variable.len()..].chars().next();
        !before.is_some_and(|letter| in_name(letter) || letter == '.')
            && !after.is_some_and(|letter| in_name(letter) || letter == ':')
    })
}
