//! `cargo xtask`: what a developer runs beside cargo itself.
//!
//! Nothing here is part of the product. Each command lives in a module of its own; this file only parses.

mod generate;
mod test_command;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Chores of the Klamm workspace")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the message code from crates/protocol/schema
    Gen {
        /// Only say what is out of date
        #[arg(long)]
        check: bool,
    },
    /// Check the rules of style that no compiler knows
    Tidy,
    /// Run every test and print one summary
    Test {
        /// Handed to `cargo test`, for example `-- --nocapture`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        cargo_test: Vec<String>,
    },
}

fn main() -> Result<ExitCode> {
    let root = workspace_root();
    match Arguments::parse().command {
        Command::Gen { check } => generate::run(&root, check).map(|()| ExitCode::SUCCESS),
        Command::Tidy => tidy::run(&root),
        Command::Test { cargo_test } => test_command::run(&root, &cargo_test),
    }
}

fn workspace_root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    crates.ancestors().nth(2).map(Path::to_path_buf).expect("xtask lies two folders below the root")
}
