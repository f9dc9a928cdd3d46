//! Splits Rust source into what is code and what is prose, line by line.
//!
//! The rules look for names in code, and must not fire on a comment that mentions them. This is a scanner, not a
//! parser: it knows comments (nested too), strings (raw and byte ones too), characters and lifetimes, and nothing
//! else. It blanks what is not code with spaces, so that lines and columns stay where they were.

/// One `.rs` file, ready for the rules.
pub struct Code {
    /// The lines as written.
    pub raw: Vec<String>,
    /// The same lines with comments and the insides of literals blanked.
    pub code: Vec<String>,
    /// The first line (0-based) of the `#[cfg(test)] mod … {` that ends the file, or the number of lines.
    pub tests_begin: usize,
}

impl Code {
    /// Scans one file.
    pub fn of(source: &str) -> Self {
        let raw: Vec<String> = source.lines().map(str::to_owned).collect();
        let code: Vec<String> = blank(source).lines().map(str::to_owned).collect();
        let tests_begin = tests_begin(&code);
        Self { raw, code, tests_begin }
    }
}

/// Whether `line` holds `word` as a whole path: not as a part of a longer identifier.
pub fn names(line: &str, word: &str) -> bool {
    let boundary = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        boundary(line[..at].chars().next_back()) && boundary(line[at + word.len()..].chars().next())
    })
}

fn tests_begin(code: &[String]) -> usize {
    let mut lines = code.iter().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        if line.starts_with("#[cfg(test)]")
            && lines.peek().is_some_and(|(_, next)| next.starts_with("mod ") && next.contains('{'))
        {
            return index;
        }
    }
    code.len()
}

fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let mut hide = |from: usize, to: usize| {
        for byte in &mut out[from..to.min(bytes.len())] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if let Some(hashes) = raw_string(bytes, at) {
            at + raw_string_bytes(rest, hashes)
        } else if rest[0] == b'"' {
            at + string_bytes(rest)
        } else if let Some(len) = character(rest) {
            at + len
        } else {
            at += 1;
            continue;
        };
        hide(at, end);
        at = end;
    }
    String::from_utf8(out).unwrap_or_else(|_| source.to_owned())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The number of `#` of a raw string that begins at `at`, if one does.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let starts_word = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let after_b_or_c = at > 0
        && matches!(bytes[at - 1], b'b' | b'c')
        && (at == 1 || !(bytes[at - 2].is_ascii_alphanumeric() || bytes[at - 2] == b'_'));
    if bytes[at] != b'r' || !(starts_word || after_b_or_c) {
        return None;
    }
    let hashes = bytes[at + 1..].iter().take_while(|&&b| b == b'#').count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn raw_string_bytes(rest: &[u8], hashes: usize) -> usize {
    let open = 2 + hashes;
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    rest[open..]
        .windows(close.len())
        .position(|window| window == close)
        .map_or(rest.len(), |found| open + found + close.len())
}

fn string_bytes(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal at the start of `rest`; a lifetime is none.
fn character(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        return rest[3..].iter().take(10).position(|&b| b == b'\'').map(|found| found + 4);
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(6)]);
    let first = match text {
        Ok(text) => text.chars().next(),
        Err(error) => {
            std::str::from_utf8(&rest[1..1 + error.valid_up_to()]).ok().and_then(|t| t.chars().next())
        }
    }?;
    (rest.get(1 + first.len_utf8()) == Some(&b'\'')).then(|| 2 + first.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let source = "let a = \"todo!(\"; // todo!(\n/* a /* b */ todo!( */ let b = r#\"x \"todo!(\"#;\nlet c = '\"'; f::<'a>(b'\\'', \"\\\"todo!(\");\n";
        let code = Code::of(source);
        assert!(code.code.iter().all(|line| !line.contains("todo!")), "{:?}", code.code);
        assert!(code.code[1].contains("let b ="));
        assert!(code.code[2].contains("f::<'a>("));
        assert_eq!(code.code[0].len(), source.lines().next().unwrap().len());
    }

    #[test]
    fn names_match_whole_words() {
        assert!(names("use tokio::net;", "tokio"));
        assert!(!names("use my_tokio::net;", "tokio"));
        assert!(names("std::fs::read(p)", "std::fs"));
        assert!(!names("std::fsx::read(p)", "std::fs"));
    }

    #[test]
    fn trailing_tests_are_found() {
        assert_eq!(Code::of("//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n").tests_begin, 2);
        assert_eq!(Code::of("//! x\n#[cfg(test)]\nuse a;\nfn b() {}\n").tests_begin, 4);
    }
}
