//! Commands of the documentation, so that tests run what people copy.

use crate::binary::workspace_root;

/// The lines in the fenced `sh` blocks of a page, such as `docs/quick-start.md`, that hold `part`.
///
/// # Panics
/// When the page cannot be read.
pub fn commands_of(page: &str, part: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace_root().join(page)).expect("read the page");
    let mut commands = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside && command.contains(part) => commands.push(command.to_owned()),
            _ => {}
        }
    }
    commands
}
