//! What commands, records and replies look like in a transcript: only what is not at its default.

use std::fmt::Debug;

use klamm_protocol::error_code::ErrorCode;

/// Values that a field has when nobody says anything.
const NOTHING: &[&str] = &[
    "None",
    "\"\"",
    "Some(\"\")",
    "b\"\"",
    "[]",
    "false",
    "-2147483648",
    "AAAAAAAAAAAAAAAAAAAAAA",
    "throttle_time_ms: 0",
    "error_code: 0",
    "retention_time_ms: -1",
    "expire_timestamp: -1",
    "leader_epoch: -1",
    "committed_leader_epoch: -1",
];
const ERROR: &str = "error_code: ";
/// What the world's random bits begin with in a UUID of version 4.
const UUID_START: &str = "00000000-0000-4000-8000-";

/// `{:?}`, without fields that say nothing, and with the names of errors.
pub fn debug(value: &impl Debug) -> String {
    name_errors(&without_nothing(&format!("{value:?}")))
}

/// `c-00000000-0000-4000-8000-00000000000a` as `c-~a`.
pub fn shorten_uuids(text: &str) -> String {
    let mut parts = text.split(UUID_START);
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(12);
        short.push('~');
        short.push_str(digits.trim_start_matches('0'));
        short.push_str(rest);
    }
    short
}

/// Leaves out each `, field: nothing` and `field: nothing, `.
fn without_nothing(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(colon) = rest.find(": ") {
        let field_start =
            rest[..colon].rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        let field = &rest[field_start..];
        let value = &rest[colon + 2..];
        let nothing = NOTHING.iter().find_map(|nothing| {
            let whole = if nothing.contains(": ") { field } else { value };
            let after = whole.strip_prefix(nothing)?;
            after.starts_with([',', ' ', '}']).then_some(after)
        });
        match nothing {
            Some(after) => {
                kept.push_str(&rest[..field_start]);
                if let Some(after) = after.strip_prefix(", ") {
                    rest = after;
                } else {
                    let shorter = kept.trim_end_matches(", ").len();
                    kept.truncate(shorter);
                    rest = after;
                }
            }
            None => {
                kept.push_str(&rest[..colon + 2]);
                rest = value;
            }
        }
    }
    kept.push_str(rest);
    kept.replace(" {  }", "").replace(" { }", "")
}

fn name_errors(text: &str) -> String {
    let mut parts = text.split(ERROR);
    let mut named = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([',', ' ', '}']).unwrap_or(part.len());
        let error = part[..end].parse().ok().and_then(ErrorCode::from_code);
        named.push_str("error: ");
        named.push_str(error.map_or(&part[..end], |error| error.name()));
        named.push_str(&part[end..]);
    }
    named
}
