//! Which topic names there may be, and which are the broker's own.

/// Topics that the broker keeps for itself.
const INTERNAL: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// The longest topic name, so that a directory name with partition and suffix fits a file system.
const LENGTH_MAX: usize = 249;

/// True for a topic that clients do not write.
pub(crate) fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// True for a name that a topic may have.
pub(crate) fn is_valid(name: &str) -> bool {
    let is_legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    !name.is_empty() && name != "." && name != ".." && name.len() <= LENGTH_MAX && name.bytes().all(is_legal)
}
