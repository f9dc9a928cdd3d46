//! Java's properties format, with the line each entry stands on.
//!
//! Reads what `java.util.Properties` reads: `=`, `:` or blanks between key and value, `#` and `!` comments, backslash
//! continuation and escapes, `\uXXXX`. Text is UTF-8, not Latin-1. Blanks at the end of a value stay, as in Java.

/// One entry of a properties file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// The line where the entry starts, from 1.
    pub line: usize,
    /// The key, unescaped.
    pub key: String,
    /// The value, unescaped.
    pub value: String,
}

/// A `\u` that four hexadecimal digits do not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: \\u must be followed by four hexadecimal digits")]
pub struct MalformedEscape {
    /// The line where the entry starts, from 1.
    pub line: usize,
}

/// The entries of a properties text, in order; a key may come twice.
pub fn parse_properties(text: &str) -> Result<Vec<Property>, MalformedEscape> {
    let mut properties = Vec::new();
    let mut lines = natural_lines(text).enumerate();
    while let Some((at, first)) = lines.next() {
        let first = first.trim_start_matches(BLANKS);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let line = at + 1;
        let mut logical = first.to_owned();
        while ends_in_continuation(&logical) {
            logical.pop();
            // Nothing but a backslash continues nothing: the next line may be a comment.
            if logical.is_empty() {
                break;
            }
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(BLANKS));
        }
        if logical.is_empty() {
            continue;
        }
        let (key, value) = split(&logical);
        let unescape = |text| unescape(text).ok_or(MalformedEscape { line });
        properties.push(Property { line, key: unescape(key)?, value: unescape(value)? });
    }
    Ok(properties)
}

const BLANKS: [char; 3] = [' ', '\t', '\u{c}'];

/// Lines end in LF, CR or both.
fn natural_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let after = if text[end..].starts_with("\r\n") { end + 2 } else { end + 1 };
        rest = Some(&text[after..]);
        Some(&text[..end])
    })
}

fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || BLANKS.contains(&c));
        escaped = c == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANKS);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANKS))
}

/// `None` where a `\u` is malformed. Surrogates that pair up make one character; others become U+FFFD.
fn unescape(text: &str) -> Option<String> {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let mut unit = 0;
                    for _ in 0..4 {
                        unit = unit * 16 + chars.next()?.to_digit(16)?;
                    }
                    units.push(unit as u16);
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    Some(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        let properties = parse_properties(text).expect("well-formed");
        properties.into_iter().map(|property| (property.line, property.key, property.value)).collect()
    }

    fn pair(text: &str) -> (String, String) {
        let (_, key, value) = pairs(text).into_iter().next().expect("an entry");
        (key, value)
    }

    #[test]
    fn separators_comments_and_lines() {
        let text = "# a comment \\\n! another\r\n\n  node.id = 1\nlog.dirs:/a,/b  \rlisteners\tPLAINTEXT://:1\nempty\n";
        let expected = [
            (4, "node.id", "1"),
            (5, "log.dirs", "/a,/b  "),
            (6, "listeners", "PLAINTEXT://:1"),
            (7, "empty", ""),
        ];
        let expected = expected.map(|(line, key, value)| (line, key.to_owned(), value.to_owned()));
        assert_eq!(pairs(text), expected);
    }

    #[test]
    fn continuation_and_escapes() {
        assert_eq!(pair("a=b\\\n   c\\\\\nd=e"), ("a".into(), "bc\\".into()));
        assert_eq!(pair("a\\ b\\=c=d\\\te\\u0041\\ud83d\\ude00"), ("a b=c".into(), "d\te\u{41}😀".into()));
        assert_eq!(pair("a == b"), ("a".into(), "= b".into()));
        assert_eq!(pair("a=\\# \\u00e9 é"), ("a".into(), "# é é".into()));
        assert_eq!(pairs("a=1\\\n#b=2\nc=3").len(), 2);
        assert_eq!(pairs("a=1\\"), [(1, "a".into(), "1".into())]);
        assert_eq!(pairs("\\\n\n"), []);
        assert_eq!(pairs("\\\n#a=1\nb=2"), [(3, "b".into(), "2".into())]);
        assert_eq!(parse_properties("x=1\ny=\\u12g4"), Err(MalformedEscape { line: 2 }));
    }

    /// Escapes everything that could mean something, so that any text survives.
    fn escape(text: &str) -> String {
        let special = |c: char| !c.is_alphanumeric() && c.is_ascii() && !c.is_ascii_control();
        text.chars()
            .map(|c| match c {
                '\n' => "\\n".to_owned(),
                '\r' => "\\r".to_owned(),
                '\t' => "\\t".to_owned(),
                '\u{c}' => "\\f".to_owned(),
                c if special(c) => format!("\\{c}"),
                c => c.to_string(),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse_properties(&text);
        }

        #[test]
        fn never_panics_on_dense_syntax(text in "[a\\\\u0=: \t\n\r#!]{0,60}") {
            let _ = parse_properties(&text);
        }

        #[test]
        fn what_is_written_comes_back(entries in proptest::collection::vec((".+", any::<String>()), 0..8)) {
            let mut text = String::new();
            for (key, value) in &entries {
                text.push_str(&format!("{}={}\n", escape(key), escape(value)));
            }
            let found: Vec<_> = pairs(&text).into_iter().map(|(_, key, value)| (key, value)).collect();
            prop_assert_eq!(found, entries);
        }
    }
}
