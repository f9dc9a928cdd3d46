//! Typed values of keys that have been checked.
//!
//! What it deliberately does not do: check. A key that a table of ours gives no value of its type is a mistake in here.

use klamm_cluster::config::{ConfigLayers, ConfigValue};

/// Reads typed values of keys that have been checked.
pub(super) struct Reader<'a> {
    pub(super) layers: &'a ConfigLayers,
}

impl Reader<'_> {
    pub(super) fn long(&self, key: &str) -> i64 {
        self.layers.integer(key).unwrap_or_else(|| unreachable!("{key} is a number with a default"))
    }

    pub(super) fn int(&self, key: &str) -> i32 {
        i32::try_from(self.long(key)).expect("an INT was parsed within the bounds of one")
    }

    pub(super) fn short(&self, key: &str) -> i16 {
        i16::try_from(self.long(key)).expect("a SHORT was parsed within the bounds of one")
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.layers.value(key), Some(ConfigValue::Boolean(true)))
    }

    /// `None` for null and for empty.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        match self.layers.value(key) {
            Some(ConfigValue::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, key: &str) -> Option<Vec<String>> {
        match self.layers.value(key) {
            Some(ConfigValue::List(items)) => Some(items),
            _ => None,
        }
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.layers.given.contains_key(key)
    }
}
