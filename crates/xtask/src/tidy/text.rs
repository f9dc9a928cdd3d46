//! Rules about every text file of the repository: no machine's private paths, no half-resolved merge.

use super::Finding;

/// Beginnings of paths that exist on one person's machine only. Spelled in halves, so that this file passes.
const PRIVATE_PATHS: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("/tmp/", "wt/"),
];

/// Applies the rules to one file; `path` is relative to the workspace.
pub fn check(path: &str, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        for private in PRIVATE_PATHS {
            if begins_a_path(line, private) {
                let message =
                    format!("`{private}` exists on one machine only: use a relative or temporary path");
                findings.push(Finding::error(path, index + 1, "path", message));
            }
        }
        if line.starts_with(concat!("<<<<", "<<< ")) || line.starts_with(concat!(">>>>", ">>> ")) {
            findings.push(Finding::error(path, index + 1, "merge", "finish the merge"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(Finding::error(path, text.lines().count(), "newline", "end the file with a newline"));
    }
}

/// Not in the middle of a longer path: a folder of the project may have the same name.
fn begins_a_path(line: &str, private: &str) -> bool {
    line.match_indices(private).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_-.}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<&'static str> {
        let mut findings = Vec::new();
        check("README.md", text, &mut findings);
        findings.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn private_paths_are_found() {
        assert_eq!(rules(concat!("cd /ro", "ot/klamm\n")), ["path"]);
        assert_eq!(rules(concat!("cd \"/ho", "me/me/klamm\"\n")), ["path"]);
        assert!(rules(concat!("see crates/ho", "me/a and /tmp/x\n")).is_empty());
    }

    #[test]
    fn a_half_merge_and_a_missing_newline_are_found() {
        assert_eq!(rules(concat!("<<<<", "<<< main\n")), ["merge"]);
        assert_eq!(rules("a"), ["newline"]);
        assert!(rules("").is_empty());
    }
}
