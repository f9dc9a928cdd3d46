//! One node that is killed, suspended and started again on the same directory and port: Klamm, or Kafka itself.
//!
//! The checks of exactly-once run against either, so that what they ask of Klamm is known to hold for Kafka.

use crate::broker::{Broker, Options, reserve_port};
use crate::java::Tools;
use crate::kafka::{Kafka, Layout, Node};
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Whose broker.
#[derive(Clone, Copy, Debug)]
pub enum Product<'a> {
    /// The binary under test.
    Klamm,
    /// The original.
    Kafka(&'a Tools),
}

/// A node and its directory. Dropped, it is killed.
pub struct Server<'a> {
    place: Place<'a>,
    advertised: SocketAddr,
    running: Running,
}

enum Place<'a> {
    Klamm { data: PathBuf, port: u16, settings: Vec<(String, String)> },
    Kafka(Node<'a>),
}

enum Running {
    Nothing,
    Klamm(Broker),
    Kafka(Kafka),
}

impl<'a> Server<'a> {
    /// A node with its data in `folder`, not started. Clients are told `advertised_port` where given, for a proxy
    /// that stands before it.
    ///
    /// # Panics
    /// When its files cannot be written, or Kafka's directory cannot be formatted.
    pub fn new(
        product: Product<'a>,
        folder: &Path,
        advertised_port: Option<u16>,
        settings: &[(&str, &str)],
    ) -> Self {
        let data = folder.join("data");
        match product {
            Product::Klamm => {
                let port = reserve_port();
                let advertised = loopback(advertised_port.unwrap_or(port));
                let told = [("advertised.listeners", &*format!("PLAINTEXT://{advertised}"))];
                let settings = told.iter().chain(settings);
                let settings =
                    settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
                Self { place: Place::Klamm { data, port, settings }, advertised, running: Running::Nothing }
            }
            Product::Kafka(tools) => {
                let data = data.display().to_string();
                let told = advertised_port.map(|port| format!("PLAINTEXT://{}", loopback(port)));
                // Of a property that stands twice, the last one counts.
                let told = told.iter().map(|endpoint| ("advertised.listeners", endpoint.as_str()));
                let more: Vec<_> = [("log.dirs", &*data)].into_iter().chain(told).collect();
                let node = Node::new(tools, folder, Layout::Static, 1, &[&more, settings].concat());
                node.format();
                let advertised = advertised_port.map_or_else(|| node.address(), loopback);
                Self { place: Place::Kafka(node), advertised, running: Running::Nothing }
            }
        }
    }

    /// Where clients begin.
    pub fn bootstrap(&self) -> String {
        self.advertised.to_string()
    }

    /// Where it listens itself.
    pub fn address(&self) -> SocketAddr {
        match &self.place {
            Place::Klamm { port, .. } => loopback(*port),
            Place::Kafka(node) => node.address(),
        }
    }

    /// Changes a setting from the next start on. Kafka's stay as they were made.
    pub fn set(&mut self, key: &str, value: &str) {
        if let Place::Klamm { settings, .. } = &mut self.place {
            settings.retain(|(old, _)| old != key);
            settings.push((key.to_owned(), value.to_owned()));
        }
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// When it does not, with all it said.
    pub fn start(&mut self) {
        self.running = match &self.place {
            Place::Klamm { data, port, settings } => {
                let options = Options::new(data).port(*port);
                let options = settings.iter().fold(options, |options, (key, value)| options.set(key, value));
                Running::Klamm(options.start())
            }
            Place::Kafka(node) => Running::Kafka(node.start_kafka()),
        };
    }

    /// SIGKILL, and gone when this returns.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill_9(&mut self) {
        match std::mem::replace(&mut self.running, Running::Nothing) {
            Running::Nothing => {}
            Running::Klamm(broker) => broker.kill_9(),
            Running::Kafka(kafka) => kafka.kill_9(),
        }
    }

    /// SIGSTOP: its connections stay, and nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn suspend(&self) {
        kill_process(self.process(), Signal::STOP).expect("suspend the broker");
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        kill_process(self.process(), Signal::CONT).expect("resume the broker");
    }

    fn process(&self) -> Pid {
        let id = match &self.running {
            Running::Nothing => None,
            Running::Klamm(broker) => broker.process_id(),
            Running::Kafka(kafka) => Some(kafka.process_id()),
        };
        Pid::from_raw(i32::try_from(id.expect("it runs")).expect("a process id")).expect("not 0")
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
