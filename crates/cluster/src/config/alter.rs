//! What AlterConfigs and IncrementalAlterConfigs do to a resource's stored values.
//!
//! Only the arithmetic of the change; whether the result is valid is asked of the `validate_*` functions, and whether
//! the resource exists is the controller's business.

use std::collections::{BTreeMap, BTreeSet};

use super::{ConfigError, ConfigScope, definition::ConfigType, layers::Values};

/// An operation of IncrementalAlterConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterOp {
    /// The value replaces what is there.
    Set,
    /// Back to the default.
    Delete,
    /// Items are added to a list.
    Append,
    /// Items are taken from a list.
    Subtract,
}

impl AlterOp {
    /// The operation with this code on the wire.
    pub fn from_code(code: i8) -> Option<Self> {
        [Self::Set, Self::Delete, Self::Append, Self::Subtract].get(usize::try_from(code).ok()?).copied()
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// The key.
    pub name: String,
    /// What to do.
    pub op: AlterOp,
    /// With what; only DELETE needs nothing.
    pub value: Option<String>,
}

/// Applies `changes` to the values stored for a resource; gives what must be written, `None` deleting a key.
///
/// A change that changes nothing is left out. Lists start from the key's default where nothing is stored.
pub fn apply_changes(
    scope: ConfigScope,
    stored: &Values,
    changes: &[ConfigChange],
) -> Result<BTreeMap<String, Option<String>>, ConfigError> {
    let mut names = BTreeSet::new();
    if !changes.iter().all(|change| names.insert(change.name.as_str())) {
        return Err(ConfigError::DuplicateKeys);
    }
    let without_value =
        changes.iter().filter(|change| change.op != AlterOp::Delete && change.value.is_none());
    let without_value: Vec<String> = without_value.map(|change| change.name.clone()).collect();
    if !without_value.is_empty() {
        return Err(ConfigError::NullValue(without_value));
    }
    let mut written = BTreeMap::new();
    for change in changes {
        let before = stored.get(&change.name);
        let given = change.value.as_deref().unwrap_or_default();
        let after = match change.op {
            AlterOp::Set => Some(given.to_owned()),
            AlterOp::Delete => None,
            AlterOp::Append => {
                let mut items = items_before(scope, change, before, "APPEND")?;
                for item in given.split(',') {
                    if !items.contains(&item) {
                        items.push(item);
                    }
                }
                Some(items.join(","))
            }
            AlterOp::Subtract => {
                let mut items = items_before(scope, change, before, "SUBTRACT")?;
                for item in given.split(',') {
                    if let Some(at) = items.iter().position(|present| *present == item) {
                        items.remove(at);
                    }
                }
                Some(items.join(","))
            }
        };
        if after.as_ref() != before {
            written.insert(change.name.clone(), after);
        }
    }
    Ok(written)
}

fn items_before<'a>(
    scope: ConfigScope,
    change: &ConfigChange,
    before: Option<&'a String>,
    op: &'static str,
) -> Result<Vec<&'a str>, ConfigError> {
    let definition = scope.definition(&change.name).filter(|known| known.config_type == ConfigType::List);
    let Some(definition) = definition else {
        return Err(ConfigError::NotAList { op, name: change.name.clone() });
    };
    let text = before.map(String::as_str).or(definition.default).unwrap_or_default();
    Ok(if text.is_empty() { Vec::new() } else { text.split(',').collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, op: AlterOp, value: Option<&str>) -> ConfigChange {
        ConfigChange { name: name.to_owned(), op, value: value.map(str::to_owned) }
    }

    /// What Kafka 4.3.1 stores after each step.
    #[test]
    fn lists_grow_and_shrink_as_in_kafka() {
        use AlterOp::{Append, Delete, Set, Subtract};
        let mut stored = Values::new();
        for (op, value, expected) in [
            (Append, "compact", Some("delete,compact")),
            (Append, "compact", Some("delete,compact")),
            (Subtract, "delete", Some("compact")),
            (Subtract, "compact", Some("")),
            (Subtract, "compact", Some("")),
            (Append, "compact", Some("compact")),
            (Set, "", Some("")),
            (Append, "", Some("")),
            (Delete, "", None),
            (Subtract, "delete", Some("")),
            (Append, " delete", Some(" delete")),
            (Delete, "", None),
            (Append, "compact,delete", Some("delete,compact")),
            (Delete, "", None),
            (Append, "delete", Some("delete")),
            (Set, "delete, compact", Some("delete, compact")),
            (Subtract, "compact", Some("delete, compact")),
        ] {
            let changes = [change("cleanup.policy", op, Some(value))];
            for (name, value) in apply_changes(ConfigScope::Topic, &stored, &changes).expect("applies") {
                match value {
                    Some(value) => stored.insert(name, value),
                    None => stored.remove(&name),
                };
            }
            assert_eq!(stored.get("cleanup.policy").map(String::as_str), expected, "{op:?} {value}");
        }
    }

    #[test]
    fn what_changes_nothing_writes_nothing() {
        let stored = Values::from([("retention.ms".to_owned(), "5".to_owned())]);
        let same =
            [change("retention.ms", AlterOp::Set, Some("5")), change("no.such", AlterOp::Delete, None)];
        assert_eq!(apply_changes(ConfigScope::Topic, &stored, &same), Ok(BTreeMap::new()));
    }

    #[test]
    fn refusals_read_as_kafkas() {
        let refusal = |changes: &[ConfigChange]| {
            apply_changes(ConfigScope::Topic, &Values::new(), changes).expect_err("refused").to_string()
        };
        assert_eq!(
            refusal(&[change("retention.ms", AlterOp::Append, Some("5"))]),
            "Can't APPEND to key retention.ms because its type is not LIST."
        );
        assert_eq!(
            refusal(&[change("nope", AlterOp::Subtract, Some("5"))]),
            "Can't SUBTRACT to key nope because its type is not LIST."
        );
        assert_eq!(
            refusal(&[change("retention.ms", AlterOp::Set, None)]),
            "Null value not supported for : retention.ms"
        );
        let twice = change("retention.ms", AlterOp::Set, Some("1"));
        assert_eq!(refusal(&[twice.clone(), twice]), "Error due to duplicate config keys");
        assert_eq!(AlterOp::from_code(2), Some(AlterOp::Append));
        assert_eq!(AlterOp::from_code(-1), None);
    }
}
