//! Relative links in Markdown lead to a file of the repository.
//!
//! Only the file is checked, not the heading behind `#`; outside links are left alone.

use super::Finding;
use std::path::{Component, Path, PathBuf};

/// Checks the links of one Markdown file; `exists` answers for paths relative to the workspace.
pub fn check(path: &str, text: &str, exists: impl Fn(&Path) -> bool, findings: &mut Vec<Finding>) {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in targets(line) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if !exists(&normalized(&folder.join(file))) {
                let message = format!("`{file}` is not in the repository");
                findings.push(Finding::error(path, index + 1, "link", message));
            }
        }
    }
}

/// What stands in the parentheses of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target.trim()))
}

fn normalized(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_link_is_found() {
        let text = "[a](operations.md) [b](../README.md#x)\n[gone](gone.md) [out](https://example.org) [here](#here)\n```\n[c](d)\n```\n";
        let mut findings = Vec::new();
        let exists =
            |path: &Path| ["docs/operations.md", "README.md"].iter().any(|known| path == Path::new(known));
        check("docs/index.md", text, exists, &mut findings);
        assert_eq!(findings.iter().map(|f| (f.line, f.rule)).collect::<Vec<_>>(), [(2, "link")]);
    }
}
