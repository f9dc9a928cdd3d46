//! A broker as a process: start, kill, stop, and where to reach it.
//!
//! The contract with the binary: `klamm serve` prints a line with each bound address, `PLAINTEXT://127.0.0.1:PORT`
//! (the real port where 0 was asked for), on standard output once it accepts connections.

use crate::process::Lines;
use crate::wait::DEADLINE;
use rustix::process::{Pid, Signal, kill_process};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;
use tempfile::TempDir;

/// The setting for the HTTP port (metrics, health); every test broker takes a port of its own.
const HTTP_LISTENER: (&str, &str) = ("klamm.http.listener", "127.0.0.1:0");

/// How to start a broker.
#[derive(Clone, Debug)]
pub struct Options {
    place: Place,
    settings: Vec<(String, String)>,
}

/// Where it listens and keeps its data.
#[derive(Clone, Debug)]
enum Place {
    Own { data: PathBuf, port: u16 },
    File(PathBuf),
}

impl Options {
    /// A broker on port 0 with its data in `data`.
    pub fn new(data: &Path) -> Self {
        Self { place: Place::Own { data: data.to_path_buf(), port: 0 }, settings: Vec::new() }
    }

    /// A broker as a `server.properties` has it.
    pub fn of_file(properties: &Path) -> Self {
        Self { place: Place::File(properties.to_path_buf()), settings: Vec::new() }
    }

    /// Listens on `port`, so that a restarted broker is found again by running clients.
    ///
    /// # Panics
    /// When a file says where.
    pub fn port(mut self, port: u16) -> Self {
        let Place::Own { port: own, .. } = &mut self.place else { panic!("the file names the port") };
        *own = port;
        self
    }

    /// Adds `--set key=value`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// The command line, not yet started.
    pub fn command(&self) -> Command {
        let mut command = Command::new(crate::binary::klamm());
        command.arg("serve");
        if let Place::File(properties) = &self.place {
            command.arg("--config").arg(properties);
        }
        let mut set = |key: &str, value: &str| {
            command.arg("--set").arg(format!("{key}={value}"));
        };
        set(HTTP_LISTENER.0, HTTP_LISTENER.1);
        if let Place::Own { data, port } = &self.place {
            set("listeners", &format!("PLAINTEXT://127.0.0.1:{port}"));
            set("log.dirs", &data.display().to_string());
        }
        for (key, value) in &self.settings {
            set(key, value);
        }
        // A test owns its directory and its environment: nothing of the developer's leaks in.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KAFKA_") {
                command.env_remove(name);
            }
        }
        command.env_remove("KLAMM_LOG").current_dir(std::env::temp_dir());
        command
    }

    /// Starts the broker and waits until it says where it listens.
    ///
    /// # Panics
    /// When it does not, with all it said.
    pub fn start(&self) -> Broker {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the klamm binary");
        let stdout = Lines::read(child.stdout.take().expect("piped"));
        let stderr = Lines::read(child.stderr.take().expect("piped"));
        let Some(address) = stdout.wait_for(Instant::now() + DEADLINE, bound_address) else {
            child.kill().ok();
            let status = child.wait().expect("wait for the broker");
            panic!(
                "the broker did not start: {status}\nstdout:\n{}\nstderr:\n{}",
                stdout.text(),
                stderr.text()
            );
        };
        Broker { process: Process::Own { child, stdout, stderr }, address, folder: None }
    }
}

/// A running broker. Dropped, it is killed.
pub struct Broker {
    process: Process,
    address: SocketAddr,
    folder: Option<TempDir>,
}

enum Process {
    Own { child: Child, stdout: Lines, stderr: Lines },
    Outside,
}

impl Broker {
    /// A broker with default settings and a temporary directory of its own; or the one that `KLAMM_E2E_BOOTSTRAP`
    /// names.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        if let Some(address) = outside() {
            return Self { process: Process::Outside, address, folder: None };
        }
        let folder = folder();
        let mut broker = Options::new(&folder.path().join("data")).start();
        broker.folder = Some(folder);
        broker
    }

    /// Where clients begin, as `bootstrap.servers` wants it.
    pub fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The temporary directory's data folder of a broker started by [`Broker::start`], `None` for an outside one.
    pub fn data(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join("data"))
    }

    /// The process id, `None` for an outside broker.
    pub fn process_id(&self) -> Option<u32> {
        match &self.process {
            Process::Own { child, .. } => Some(child.id()),
            Process::Outside => None,
        }
    }

    /// Everything it wrote to standard output and standard error so far.
    pub fn output(&self) -> String {
        match &self.process {
            Process::Own { stdout, stderr, .. } => format!("{}\n{}", stdout.text(), stderr.text()),
            Process::Outside => String::new(),
        }
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> Option<&Lines> {
        match &self.process {
            Process::Own { stderr, .. } => Some(stderr),
            Process::Outside => None,
        }
    }

    /// SIGKILL, and gone when this returns.
    ///
    /// # Panics
    /// For an outside broker.
    pub fn kill_9(mut self) {
        let Process::Own { child, .. } = &mut self.process else { panic!("not ours to kill") };
        child.kill().expect("kill the broker");
        child.wait().expect("wait for the broker");
    }

    /// SIGTERM, and gone when this returns.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop_gracefully(self) -> ExitStatus {
        self.signal_and_wait(Signal::TERM)
    }

    /// Sends `signal` and waits for the end.
    ///
    /// # Panics
    /// When it does not end in time, or for an outside broker.
    pub fn signal_and_wait(mut self, signal: Signal) -> ExitStatus {
        let Process::Own { child, stderr, .. } = &mut self.process else { panic!("not ours to stop") };
        kill_process(pid(child), signal).expect("signal the broker");
        let ended = crate::wait::until_by(Instant::now() + DEADLINE, || child.try_wait().expect("wait"));
        ended.unwrap_or_else(|| panic!("no end within {DEADLINE:?} after {signal:?}\n{}", stderr.text()))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Process::Own { child, stdout, stderr } = &mut self.process {
            let was_running = matches!(child.try_wait(), Ok(None));
            child.kill().ok();
            child.wait().ok();
            if std::thread::panicking() {
                let state = if was_running { "running" } else { "dead" };
                eprintln!("the broker was {state}; stdout:\n{}\nstderr:\n{}", stdout.text(), stderr.text());
            }
        }
    }
}

/// The outside broker of `KLAMM_E2E_BOOTSTRAP`.
pub fn outside() -> Option<SocketAddr> {
    let address = std::env::var("KLAMM_E2E_BOOTSTRAP").ok()?;
    Some(address.parse().expect("KLAMM_E2E_BOOTSTRAP is IP:PORT"))
}

/// A fresh temporary directory.
///
/// # Panics
/// When none can be made.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("klamm-e2e-").tempdir().expect("make a temporary directory")
}

/// A port that nobody else is given: below the range of ephemeral ports, checked to be free, spread by process id so
/// that parallel test processes look at different ones.
///
/// # Panics
/// When none is free.
pub fn reserve_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).expect("below 10,000");
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port")
}

/// The resident memory of a process in bytes (Linux).
pub fn resident_bytes(process_id: u32) -> Option<u64> {
    status_bytes(process_id, "VmRSS:")
}

/// The highest resident memory a process ever had in bytes (Linux).
pub fn resident_bytes_peak(process_id: u32) -> Option<u64> {
    status_bytes(process_id, "VmHWM:")
}

fn status_bytes(process_id: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn bound_address(line: &str) -> Option<SocketAddr> {
    let after = line.split("PLAINTEXT://").nth(1)?;
    let address: String = after.chars().take_while(|c| c.is_ascii_digit() || ".:[]".contains(*c)).collect();
    let address: SocketAddr = address.trim_end_matches(['.', ':']).parse().ok()?;
    (address.port() != 0).then_some(address)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id")).expect("not 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_gives_the_address() {
        let expected = Some("127.0.0.1:4321".parse().unwrap());
        assert_eq!(bound_address("  Kafka   PLAINTEXT://127.0.0.1:4321"), expected);
        assert_eq!(bound_address("listening on PLAINTEXT://127.0.0.1:4321, data in /tmp/x"), expected);
        assert_eq!(bound_address("PLAINTEXT://127.0.0.1:0"), None);
        assert_eq!(bound_address("something else"), None);
    }
}
