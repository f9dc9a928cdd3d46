//! Text out of a frame.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use bytestring::ByteString;

/// A UTF-8 string that shares the buffer it was decoded from.
///
/// Cheap to clone. It pins the whole frame as long as it lives, so whatever outlives
/// the request (a command, a parked answer's key) takes a `String` instead.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireStr(ByteString);

impl WireStr {
    /// Without copying.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(ByteString::from_static(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A slice that becomes text if it is UTF-8.
    pub(crate) fn from_utf8(bytes: Bytes) -> Option<Self> {
        ByteString::try_from(bytes).ok().map(Self)
    }
}

impl Deref for WireStr {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for WireStr {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for WireStr {
    fn borrow(&self) -> &str {
        self
    }
}

impl From<&'static str> for WireStr {
    fn from(text: &'static str) -> Self {
        Self::from_static(text)
    }
}

impl From<String> for WireStr {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&WireStr> for String {
    fn from(text: &WireStr) -> Self {
        text.as_str().to_owned()
    }
}

impl PartialEq<str> for WireStr {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for WireStr {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for WireStr {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl fmt::Display for WireStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for WireStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_set_of_wire_strings_answers_for_a_plain_str() {
        let set: HashSet<WireStr> = [WireStr::from("a"), WireStr::from("b".to_owned())].into();
        assert!(set.contains("b"));
        assert!(!set.contains("c"));
    }

    #[test]
    fn only_utf8_becomes_text() {
        assert_eq!(WireStr::from_utf8(Bytes::from_static("Öl".as_bytes())), Some(WireStr::from("Öl")));
        assert_eq!(WireStr::from_utf8(Bytes::from_static(b"\xff")), None);
    }
}
