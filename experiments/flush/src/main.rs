//! What a flush costs, by every way that Linux offers. The figures stand in `docs/adr/0002-group-commit.md`;
//! `README.md` says how to repeat them.
//!
//! Deliberately not here: the broker's log. Files are files, an append is one write, and nothing is recovered.

mod files;
mod measure;
mod methods;
mod pacing;
mod pool;
mod reports;
mod rounds;
mod single;
mod stranger;
mod sustained;
mod uring;
mod waiters;

use files::Placement;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "\
usage: klamm-flush-experiment COMMAND DIR [--OPTION VALUE]...

  rounds     every alternative at --files 1,50,1000,19900 (--prefill-kib 0, --repeats 7, --budget-s 20)
  crossover  the candidates at --files 1,4,8,16,32,64,128,256,512 (same options)
  single     latency of one waiter (--repeats 7)
  waiters    policies at --connections 1,8,64 (--repeats 7)
  sustained  rounds in a row, deferred work included: --files 50,1000 (--repeats 7)
  stranger   a round beside dirty data of others: --files 50,1000 --mib 500 (--repeats 7)
  pacing     one appender: --gib 4 --rate-mib 0 (--repeats 3)
  barriers   cache flushes that reach --device loop0
  errors     who hears of failed writes: fills --mib 64";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(command), Some(root)) = (arguments.next(), arguments.next()) else {
        return Err(USAGE.into());
    };
    let root = PathBuf::from(root);
    let mut options = Options(BTreeMap::new());
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} wants a value"))?;
        options.0.insert(name.trim_start_matches("--").to_owned(), value);
    }
    raise_open_files_limit();
    std::fs::create_dir_all(&root)?;
    let repeats = options.number("repeats", 7)?;
    match command.as_str() {
        "rounds" | "crossover" => {
            let is_crossover = command == "crossover";
            let counts = if is_crossover { "1,4,8,16,32,64,128,256,512" } else { "1,50,1000,19900" };
            let methods = if is_crossover { methods::CROSSOVER } else { methods::ALL };
            let placement = match options.number("prefill-kib", 0)? {
                0 => Placement::Append,
                kib => Placement::Prefilled { window_bytes: (kib as u64) << 10 },
            };
            let budget = Duration::from_secs(options.number("budget-s", 20)? as u64);
            rounds::run(&root, &options.numbers("files", counts)?, methods, placement, repeats, budget)?;
        }
        "single" => single::run(&root, repeats)?,
        "waiters" => waiters::run(&root, &options.numbers("connections", "1,8,64")?, repeats)?,
        "sustained" => sustained::run(&root, &options.numbers("files", "50,1000")?, repeats)?,
        "stranger" => {
            stranger::run(
                &root,
                &options.numbers("files", "50,1000")?,
                options.number("mib", 500)?,
                repeats,
            )?;
        }
        "pacing" => {
            let (gib, rate_mib) = (options.number("gib", 4)?, options.number("rate-mib", 0)?);
            pacing::run(&root, gib as u64, rate_mib as u64, options.number("repeats", 3)?)?;
        }
        "barriers" => reports::barriers(&root, options.0.get("device").ok_or("--device is missing")?)?,
        "errors" => reports::errors(&root, options.number("mib", 64)?)?,
        _ => return Err(format!("unknown command {command}\n{USAGE}").into()),
    }
    Ok(())
}

struct Options(BTreeMap<String, String>);

impl Options {
    fn number(&self, name: &str, default: usize) -> Result<usize, Box<dyn Error>> {
        Ok(self.0.get(name).map_or(Ok(default), |text| text.parse())?)
    }

    fn numbers(&self, name: &str, default: &str) -> Result<Vec<usize>, Box<dyn Error>> {
        let text = self.0.get(name).map_or(default, String::as_str);
        Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
    }
}

/// For 19,900 files, which is what a hard limit of 20,000 open files leaves; root may be able to raise it.
fn raise_open_files_limit() {
    let wanted = Some(30_000);
    if setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted }).is_err() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}
