//! The `klamm` binary: noun, then verb. One file a command; this one only dispatches.

mod banner;
mod memory;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Apache Kafka rebuilt in Rust: one small binary that speaks Kafka 4.3's protocol.
#[derive(Parser)]
#[command(name = "klamm", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a broker. Without any option: one node, loopback only, data in ./klamm-data.
    Serve(serve::ServeArgs),
}

const AFTER_HELP: &str = "\
Start with:
  klamm serve
then, in another terminal:
  echo hello | kcat -b 127.0.0.1:9092 -t greetings -P
  kcat -b 127.0.0.1:9092 -t greetings -C -e";

fn main() -> ExitCode {
    memory::limit_arenas();
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("klamm: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, where the error does not tell of them itself.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
