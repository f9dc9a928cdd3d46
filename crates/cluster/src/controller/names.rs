//! What may be a topic's name.

/// Kafka's limit; a partition's directory name must fit 255 bytes.
const NAME_BYTES_MAX: usize = 249;

/// Kafka's own log of metadata, which no client may create.
pub const METADATA_TOPIC: &str = "__cluster_metadata";

/// Says what is wrong with a topic's name, in Kafka's words.
///
/// # Errors
/// The sentence that goes to the client.
pub fn check_topic_name(name: &str) -> Result<(), String> {
    let problem = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > NAME_BYTES_MAX {
        format!("the length of '{name}' is longer than the max allowed length {NAME_BYTES_MAX}")
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(format!("Topic name is invalid: {problem}"))
}

/// What two names share if their metrics would: `.` and `_` are one character there.
#[must_use]
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

/// Whether a name can collide with another at all.
#[must_use]
pub fn may_collide(name: &str) -> bool {
    name.contains(['.', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_kafka_does() {
        for good in ["a", "a.b_c-D9", &"x".repeat(249), "..."] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
        assert_eq!(check_topic_name("."), Err("Topic name is invalid: '.' is not allowed".to_owned()));
    }
}
