//! The table of APIs: `api_key/mod.rs` and the files below it.

use std::fmt::Write as _;

use super::module::head;
use super::schema::Api;

/// Keys and names.
pub fn keys(apis: &[&Api]) -> String {
    let mut text = head("Kafka's APIs: keys and names.", "");
    text.push_str(
        "mod listeners;\nmod versions;\n\
         \n\
         /// An API of Kafka 4.3.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n\
         #[repr(i16)]\n\
         pub enum ApiKey {\n",
    );
    for api in apis {
        let Api { name, key, .. } = api;
        let versions = api.request.body.versions;
        write!(text, "/// Versions {versions}.\n{name} = {key},\n").expect("a string");
    }
    text.push_str(
        "}\n\nimpl ApiKey {\n/// Every API, in the order of their keys.\npub const ALL: &[Self] = &[",
    );
    for api in apis {
        write!(text, "Self::{},", api.name).expect("a string");
    }
    text.push_str("];\n");
    table(&mut text, apis, "The API with that key.", "from_code(code: i16) -> Option<Self>", "code", |api| {
        (api.key.to_string(), format!("Some(Self::{})", api.name))
    });
    text.push_str("/// The key on the wire.\n#[must_use]\npub const fn code(self) -> i16 { self as i16 }\n");
    by_key(&mut text, apis, "Kafka's name.", "name(self) -> &'static str", |api| format!("{:?}", api.name));
    text + "}\n" + DISPLAY
}

/// What is served, what is shown, and what the headers look like.
pub fn versions(apis: &[&Api]) -> String {
    let mut text = head("The versions of each API, and those of the headers.", "");
    text.push_str("use std::ops::RangeInclusive;\n\nuse super::ApiKey;\n\nimpl ApiKey {\n");
    by_key(
        &mut text,
        apis,
        "The stable versions: those that are served.",
        "versions(self) -> RangeInclusive<i16>",
        |api| {
            let versions = api.request.body.versions;
            let last = api.request.unstable.map_or(versions.last, |unstable| unstable - 1);
            format!("{}..={last}", versions.first)
        },
    );
    text.push_str(
        "/// What ApiVersions shows. For one API it begins lower than what is served: an old librdkafka\n\
         /// leaves brokers that do not show it (KAFKA-18659).\n\
         #[must_use]\npub const fn advertised_versions(self) -> RangeInclusive<i16> {\nmatch self {\n",
    );
    for api in apis {
        if let Some(versions) = api.advertised {
            writeln!(text, "Self::{} => {}..={},", api.name, versions.first, versions.last)
                .expect("a string");
        }
    }
    text.push_str("_ => self.versions(),\n}\n}\n");
    by_key(
        &mut text,
        apis,
        "The first version with tagged fields and compact lengths (KIP-482).",
        "first_flexible_version(self) -> Option<i16>",
        |api| match api.request.flexible_from {
            Some(version) => format!("Some({version})"),
            None => "None".to_owned(),
        },
    );
    text + HEADER_VERSIONS + "}\n"
}

/// Who answers what.
pub fn listeners(apis: &[&Api]) -> String {
    let mut text = head("The listeners that answer each API.", "");
    text.push_str("use super::ApiKey;\n\nimpl ApiKey {\n");
    for listener in ["broker", "controller"] {
        let names: Vec<_> = apis
            .iter()
            .filter(|api| api.listeners.iter().any(|name| name == listener))
            .map(|api| format!("Self::{}", api.name))
            .collect();
        write!(
            text,
            "\n/// Whether {listener}s answer it.\n#[must_use]\npub const fn is_for_{listener}s(self) -> bool {{\n\
             matches!(self, {})\n}}\n",
            names.join("|")
        )
        .expect("a string");
    }
    text + "}\n"
}

fn by_key(text: &mut String, apis: &[&Api], doc: &str, signature: &str, value: impl Fn(&Api) -> String) {
    table(text, apis, doc, signature, "self", |api| (format!("Self::{}", api.name), value(api)));
}

/// A function that is one match. APIs with the same answer share an arm.
fn table(
    text: &mut String,
    apis: &[&Api],
    doc: &str,
    signature: &str,
    scrutinee: &str,
    arm: impl Fn(&Api) -> (String, String),
) {
    write!(text, "\n/// {doc}\n#[must_use]\npub const fn {signature} {{\nmatch {scrutinee} {{\n")
        .expect("a string");
    let mut arms: Vec<(Vec<String>, String)> = Vec::new();
    for api in apis {
        let (pattern, value) = arm(api);
        match arms.iter_mut().find(|(_, other)| *other == value) {
            Some((patterns, _)) => patterns.push(pattern),
            None => arms.push((vec![pattern], value)),
        }
    }
    for (patterns, value) in arms {
        writeln!(text, "{} => {value},", patterns.join("|")).expect("a string");
    }
    if scrutinee != "self" {
        text.push_str("_ => None,\n");
    }
    text.push_str("}\n}\n");
}

const HEADER_VERSIONS: &str = "
/// The version of the request's header: 2 where the API is flexible, else 1.
#[must_use]
pub const fn request_header_version(self, api_version: i16) -> i16 {
    if self.is_flexible(api_version) { 2 } else { 1 }
}

/// The version of the response's header: 1 where the API is flexible, else 0. ApiVersions has
/// always 0, so that a client can read the answer to a version the broker does not know.
#[must_use]
pub const fn response_header_version(self, api_version: i16) -> i16 {
    if self.is_flexible(api_version) && !matches!(self, Self::ApiVersions) { 1 } else { 0 }
}

const fn is_flexible(self, api_version: i16) -> bool {
    match self.first_flexible_version() {
        Some(first) => api_version >= first,
        None => false,
    }
}
";

const DISPLAY: &str = "
impl std::fmt::Display for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
";
