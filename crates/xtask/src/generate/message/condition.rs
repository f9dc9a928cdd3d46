//! What generated code asks of `version`.

use super::super::schema::Versions;

/// What `version` must meet to be among `versions`, when it is known to be among `within`.
pub fn condition(versions: Versions, within: Versions) -> Option<String> {
    let from = versions.first > within.first;
    let to = versions.last < within.last;
    match (from, to) {
        (false, false) => None,
        (true, true) if versions.first == versions.last => Some(format!("version == {}", versions.first)),
        (true, true) => Some(format!("({}..={}).contains(&version)", versions.first, versions.last)),
        (true, false) => Some(format!("version >= {}", versions.first)),
        (false, true) => Some(format!("version <= {}", versions.last)),
    }
}

/// The condition of the other versions.
pub fn negate(condition: &str) -> String {
    for (operator, opposite) in [(" >= ", " < "), (" <= ", " > "), (" == ", " != ")] {
        if condition.contains(operator) {
            return condition.replace(operator, opposite);
        }
    }
    format!("!{condition}")
}
