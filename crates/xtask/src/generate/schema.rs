//! The schema text: what a line may say, and what it means.
//!
//! ```text
//! api Produce key=0 listeners=broker advertised=0-13
//! request versions=3-13 flexible=9+
//!   TransactionalId string? default=null
//!   TopicData []TopicProduceData
//!     Name string versions=3-12 ignorable
//! response versions=3-13 flexible=9+
//! ```
//!
//! Two spaces a level. A field has a name, a type and facts; its children make the
//! structure that its type names. `struct` names one that several fields use. A file
//! of records says `module` first and `data` instead of `request` and `response`.
//! Versions are those of the field's parent unless said; `type?` is nullable in all
//! of them, `null=` in some.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};

/// An inclusive range of versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    pub first: i16,
    pub last: i16,
}

/// A type without its array brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Base {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
    Struct(String),
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub base: Base,
    pub is_array: bool,
    pub versions: Versions,
    pub nullable: Option<Versions>,
    pub default: Option<String>,
    pub tag: Option<u32>,
    pub is_map_key: bool,
    pub is_ignorable: bool,
    pub entity: Option<String>,
}

/// A structure inside a message.
#[derive(Clone, Debug)]
pub struct Struct {
    pub name: String,
    /// In which versions of the message it can occur.
    pub versions: Versions,
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub body: Struct,
    pub key: Option<i16>,
    pub unstable: Option<i16>,
    pub flexible_from: Option<i16>,
    /// In the order in which the schema names them.
    pub structs: Vec<Struct>,
}

#[derive(Clone, Debug)]
pub struct Api {
    pub name: String,
    pub key: i16,
    pub listeners: Vec<String>,
    pub advertised: Option<Versions>,
    pub request: Message,
    pub response: Message,
}

/// One schema file.
#[derive(Clone, Debug)]
pub enum Schema {
    Apis(Vec<Api>),
    Module { name: String, messages: Vec<Message> },
}

impl Versions {
    pub fn contains(self, version: i16) -> bool {
        (self.first..=self.last).contains(&version)
    }

    /// Those that are in both.
    pub fn and(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    fn parse(text: &str, within: Versions) -> Result<Self> {
        let (first, last) = if let Some(first) = text.strip_suffix('+') {
            (first.parse()?, within.last)
        } else if let Some((first, last)) = text.split_once('-') {
            (first.parse()?, last.parse()?)
        } else {
            (text.parse()?, text.parse()?)
        };
        let versions = Self { first, last };
        ensure!(
            within.first <= first && first <= last && last <= within.last,
            "versions {text} are not within {within}"
        );
        Ok(versions)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

const ANY: Versions = Versions { first: 0, last: i16::MAX };

/// Reads one file.
///
/// # Errors
/// Names the first line that is wrong.
pub fn parse(text: &str) -> Result<Schema> {
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate() {
        if !text.trim().is_empty() && !text.starts_with('#') {
            lines.push(Line::parse(text, index + 1).with_context(|| format!("line {}", index + 1))?);
        }
    }
    let mut reader = Reader { lines, next: 0 };
    let first = reader.peek().context("an empty schema")?;
    if first.words[0] != "module" {
        return Ok(Schema::Apis(reader.all(Reader::api)?));
    }
    let name = reader.take().word(1)?.to_owned();
    Ok(Schema::Module { name, messages: reader.all(|reader| reader.message("data", None))? })
}

struct Line {
    number: usize,
    level: usize,
    words: Vec<String>,
    facts: Vec<(String, String)>,
}

impl Line {
    fn parse(text: &str, number: usize) -> Result<Self> {
        let spaces = text.len() - text.trim_start().len();
        ensure!(spaces.is_multiple_of(2), "{spaces} spaces are no level");
        let mut line = Self { number, level: spaces / 2, words: Vec::new(), facts: Vec::new() };
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => line.facts.push((name.to_owned(), value.to_owned())),
                None => line.words.push(word.to_owned()),
            }
        }
        ensure!(!line.words.is_empty(), "facts about nothing");
        Ok(line)
    }

    fn word(&self, index: usize) -> Result<&str> {
        let word = self.words.get(index).map(String::as_str);
        word.with_context(|| format!("line {}: a word is missing", self.number))
    }

    fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(fact, _)| fact == name).map(|(_, value)| value.as_str())
    }

    fn check(&self, facts: &[&str], flags: &[&str], word_count: usize) -> Result<()> {
        for (name, _) in &self.facts {
            ensure!(facts.contains(&name.as_str()), "line {}: what is {name}=?", self.number);
        }
        for word in self.words.iter().skip(word_count) {
            ensure!(flags.contains(&word.as_str()), "line {}: what is {word}?", self.number);
        }
        Ok(())
    }
}

struct Reader {
    lines: Vec<Line>,
    next: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Line> {
        self.lines.get(self.next)
    }

    fn take(&mut self) -> &Line {
        self.next += 1;
        &self.lines[self.next - 1]
    }

    fn all<T>(&mut self, mut one: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while let Some(line) = self.peek() {
            let number = line.number;
            all.push(one(self).with_context(|| format!("at line {number}"))?);
        }
        Ok(all)
    }

    fn api(&mut self) -> Result<Api> {
        let line = self.take();
        ensure!(line.words[0] == "api", "an api is expected, not {:?}", line.words[0]);
        line.check(&["key", "listeners", "advertised"], &[], 2)?;
        let name = line.word(1)?.to_owned();
        let key = line.fact("key").context("an api has a key")?.parse()?;
        let listeners = line.fact("listeners").context("an api has listeners")?;
        let listeners = listeners.split(',').map(str::to_owned).collect();
        let advertised = line.fact("advertised").map(|text| Versions::parse(text, ANY)).transpose()?;
        let request = self.message("request", Some(format!("{name}Request")))?;
        let response = self.message("response", Some(format!("{name}Response")))?;
        ensure!(request.body.versions == response.body.versions, "{name}: request and response differ");
        Ok(Api { name, key, listeners, advertised, request, response })
    }

    fn message(&mut self, kind: &str, name: Option<String>) -> Result<Message> {
        ensure!(self.peek().is_some_and(|line| line.words[0] == kind), "a {kind} is expected");
        let line = self.take();
        line.check(&["key", "versions", "flexible", "unstable"], &[], 2)?;
        let name = match name {
            Some(name) => name,
            None => line.word(1)?.to_owned(),
        };
        let versions = Versions::parse(line.fact("versions").context("versions are missing")?, ANY)?;
        let key = line.fact("key").map(str::parse).transpose()?;
        let unstable = line.fact("unstable").map(str::parse).transpose()?;
        let flexible = line.fact("flexible").map(|text| Versions::parse(text, versions)).transpose()?;
        let mut structs = Vec::new();
        while self.peek().is_some_and(|line| line.level == 1 && line.words[0] == "struct") {
            let line = self.take();
            line.check(&[], &[], 2)?;
            let name = line.word(1)?.to_owned();
            let fields = self.fields(2, versions, &mut structs)?;
            structs.push(Struct { name, versions, fields });
        }
        let fields = self.fields(1, versions, &mut structs)?;
        let body = Struct { name, versions, fields };
        Ok(Message { body, key, unstable, flexible_from: flexible.map(|f| f.first), structs })
    }

    fn fields(&mut self, level: usize, within: Versions, structs: &mut Vec<Struct>) -> Result<Vec<Field>> {
        let mut fields = Vec::new();
        while self.peek().is_some_and(|line| line.level == level) {
            let line = self.take();
            let number = line.number;
            let field = field(line, within).with_context(|| format!("line {number}"))?;
            let children = self.fields(level + 1, field.versions, structs)?;
            if !children.is_empty() {
                let Base::Struct(name) = &field.base else {
                    bail!("line {number}: a {:?} has no fields", field.base)
                };
                structs.push(Struct { name: name.clone(), versions: field.versions, fields: children });
            }
            fields.push(field);
        }
        let deeper = self.peek().filter(|line| line.level > level);
        if let Some(line) = deeper {
            bail!("line {}: indented too far", line.number);
        }
        Ok(fields)
    }
}

fn field(line: &Line, within: Versions) -> Result<Field> {
    line.check(&["versions", "null", "default", "tag", "entity"], &["map_key", "ignorable"], 2)?;
    let type_name = line.word(1)?;
    let (type_name, always_nullable) = match type_name.strip_suffix('?') {
        Some(name) => (name, true),
        None => (type_name, false),
    };
    let (type_name, is_array) = match type_name.strip_prefix("[]") {
        Some(name) => (name, true),
        None => (type_name, false),
    };
    let base = match type_name {
        "bool" => Base::Bool,
        "int8" => Base::Int8,
        "int16" => Base::Int16,
        "uint16" => Base::Uint16,
        "int32" => Base::Int32,
        "uint32" => Base::Uint32,
        "int64" => Base::Int64,
        "float64" => Base::Float64,
        "uuid" => Base::Uuid,
        "string" => Base::String,
        "bytes" => Base::Bytes,
        "records" => Base::Records,
        name if name.starts_with(|c: char| c.is_ascii_uppercase()) => Base::Struct(name.to_owned()),
        name => bail!("{name} is no type"),
    };
    let versions = match line.fact("versions") {
        Some(text) => Versions::parse(text, within)?,
        None => within,
    };
    let nullable = match line.fact("null") {
        Some(text) => Some(Versions::parse(text, versions)?),
        None => always_nullable.then_some(versions),
    };
    let tag = line.fact("tag").map(str::parse).transpose()?;
    let partly_nullable = nullable.is_some_and(|nullable| nullable != versions);
    ensure!(tag.is_none() || !partly_nullable, "a tagged field is nullable always or never");
    Ok(Field {
        name: line.word(0)?.to_owned(),
        base,
        is_array,
        versions,
        nullable,
        default: line.fact("default").map(str::to_owned),
        tag,
        is_map_key: line.words.iter().any(|word| word == "map_key"),
        is_ignorable: line.words.iter().any(|word| word == "ignorable"),
        entity: line.fact("entity").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Result<Message> {
        match parse(&format!("module m\ndata Message {text}"))? {
            Schema::Module { mut messages, .. } => Ok(messages.remove(0)),
            Schema::Apis(_) => bail!("a module was asked for"),
        }
    }

    #[test]
    fn versions_narrow_from_the_outside_in() {
        let message = message(
            "versions=2-9 flexible=4+\n  List []Item versions=3+\n    A int8\n    B int8 versions=3-5\n",
        )
        .unwrap();
        assert_eq!(message.flexible_from, Some(4));
        let item = &message.structs[0];
        assert_eq!(item.name, "Item");
        assert_eq!(item.fields[0].versions, Versions { first: 3, last: 9 });
        assert_eq!(item.fields[1].versions, Versions { first: 3, last: 5 });
    }

    #[test]
    fn mistakes_are_named_by_line() {
        for (text, complaint) in [
            ("versions=0\n  A int7\n", "line 3"),
            ("versions=0\n  A int8 versions=1\n", "versions 1 are not within 0"),
            ("versions=0\n  A int8 taged=1\n", "what is taged=?"),
            ("versions=0\n  A int8\n    B int8\n", "a Int8 has no fields"),
            ("versions=0\n    A int8\n", "indented too far"),
            ("flexible=0+\n", "versions are missing"),
        ] {
            let error = format!("{:#}", message(text).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }
}
