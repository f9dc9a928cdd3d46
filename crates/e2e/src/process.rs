//! Child processes: their output line by line while they run, and a deadline for those that should end.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines that a process has written so far; a thread of its own reads them, so that the process never blocks.
#[derive(Clone, Default)]
pub struct Lines {
    state: Arc<(Mutex<LineState>, Condvar)>,
}

#[derive(Default)]
struct LineState {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Begins to read `from` until its end.
    pub fn read(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let state = lines.state.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n') {
                let Ok(line) = line else { break };
                state.0.lock().expect("lines").lines.push(String::from_utf8_lossy(&line).into_owned());
                state.1.notify_all();
            }
            state.0.lock().expect("lines").ended = true;
            state.1.notify_all();
        });
        lines
    }

    /// Waits for a line of which `pick` makes something; `None` when the output ended or the deadline passed first.
    pub fn wait_for<T>(&self, deadline: Instant, pick: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (mutex, changed) = &*self.state;
        let mut state = mutex.lock().expect("lines");
        let mut seen = 0;
        loop {
            if let Some(found) = state.lines[seen..].iter().find_map(|line| pick(line)) {
                return Some(found);
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = changed.wait_timeout(state, left).expect("lines").0;
        }
    }

    /// Everything so far, as one text.
    pub fn text(&self) -> String {
        self.state.0.lock().expect("lines").lines.join("\n")
    }
}

/// What a finished process left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// The standard output of a process that must have succeeded.
    ///
    /// # Panics
    /// When it failed, with all it said.
    pub fn success(self) -> String {
        assert!(self.status.success(), "{}\nstdout:\n{}\nstderr:\n{}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs `command` to its end, feeding it `stdin`.
///
/// # Panics
/// When it does not start or does not end within `limit`; it is killed first.
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Finished {
    let deadline = Instant::now() + limit;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let feeder = feed(&mut child, stdin.to_vec());
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let status = crate::wait::until_by(deadline, || child.try_wait().expect("wait for a child"));
    if status.is_none() {
        child.kill().ok();
        child.wait().ok();
    }
    feeder.join().expect("feeder");
    let (stdout, stderr) = (stdout.join().expect("reader"), stderr.join().expect("reader"));
    let Some(status) = status else {
        panic!("{command:?} did not end within {limit:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    };
    Finished { status, stdout, stderr }
}

fn feed(child: &mut Child, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut stdin = child.stdin.take().expect("piped");
    // A process that does not read its input closes the pipe: no concern of ours.
    std::thread::spawn(move || drop(stdin.write_all(&bytes)))
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
