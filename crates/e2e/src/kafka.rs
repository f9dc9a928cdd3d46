//! Apache Kafka itself as a process, on a directory that the test owns: the peer that must be able to go on where
//! Klamm stopped, and the other way round.
//!
//! One node with both roles, on loopback, on two ports that nobody else is given; small, because CI has two cores.

use crate::broker::{Options, reserve_port};
use crate::clients;
use crate::java::Tools;
use crate::process::Lines;
use rdkafka::consumer::Consumer;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A virtual machine that starts on a machine busy with other tests.
const TIMEOUT: Duration = Duration::from_secs(120);
const CLUSTER_ID: &str = "kLaMmPeErKaFkA0000000A";

/// How the quorum is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `controller.quorum.voters`, kraft.version 0.
    Static,
    /// `format --standalone`, kraft.version 1.
    Standalone,
}

/// A node that Kafka and Klamm run in turn, from one `server.properties`.
pub struct Node<'a> {
    tools: &'a Tools,
    properties: PathBuf,
    layout: Layout,
    port: u16,
}

impl<'a> Node<'a> {
    /// Writes `server.properties` into `folder`. `more` are further properties, `log.dirs` among them.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn new(tools: &'a Tools, folder: &Path, layout: Layout, node_id: u32, more: &[(&str, &str)]) -> Self {
        let (port, controller_port) = (reserve_port(), reserve_port());
        let mut text = format!(
            "process.roles=broker,controller\nnode.id={node_id}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
        );
        text.push_str(&match layout {
            Layout::Static => format!("controller.quorum.voters={node_id}@127.0.0.1:{controller_port}\n"),
            Layout::Standalone => {
                format!("controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}\n")
            }
        });
        for topic in ["offsets.topic", "transaction.state.log"] {
            let _ = writeln!(text, "{topic}.replication.factor=1\n{topic}.num.partitions=1");
        }
        text.push_str("transaction.state.log.min.isr=1\n");
        for (key, value) in more {
            let _ = writeln!(text, "{key}={value}");
        }
        let properties = folder.join("server.properties");
        std::fs::write(&properties, text).expect("write server.properties");
        Self { tools, properties, layout, port }
    }

    /// Where clients begin, whoever runs.
    pub fn bootstrap(&self) -> String {
        self.address().to_string()
    }

    /// Where it listens, whoever runs.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Formats the directories as Kafka's own tool does.
    ///
    /// # Panics
    /// When that fails.
    pub fn format(&self) {
        let properties = self.properties.to_str().expect("UTF-8");
        let mut arguments = vec!["format", "--cluster-id", CLUSTER_ID, "--config", properties];
        if self.layout == Layout::Standalone {
            arguments.push("--standalone");
        }
        self.tools.run("kafka.tools.StorageTool", &arguments, b"").success();
    }

    /// Klamm on the same directories, from the same file.
    pub fn klamm(&self) -> Options {
        Options::of_file(&self.properties)
    }

    /// Starts Kafka and waits until it has registered and leads every partition.
    ///
    /// # Panics
    /// When it does not, with all it said.
    pub fn start_kafka(&self) -> Kafka {
        let mut child = self
            .tools
            .command("kafka.Kafka")
            .arg(&self.properties)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start java");
        let stderr = Lines::read(child.stderr.take().expect("piped"));
        let mut kafka = Kafka { child, stderr };
        let deadline = Instant::now() + TIMEOUT;
        let is_up = crate::wait::until_by(deadline, || {
            let has_ended = !matches!(kafka.child.try_wait(), Ok(None));
            (has_ended || leads_everything(&self.bootstrap())).then_some(!has_ended)
        });
        assert!(is_up == Some(true), "Kafka did not start ({is_up:?}):\n{}", kafka.stderr.text());
        kafka
    }
}

/// A running Kafka. Dropped, it is killed.
pub struct Kafka {
    child: Child,
    stderr: Lines,
}

impl Kafka {
    /// SIGTERM, and gone when this returns.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(mut self) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")).expect("not 0");
        kill_process(id, Signal::TERM).expect("signal Kafka");
        let ended = crate::wait::until_by(Instant::now() + TIMEOUT, || {
            self.child.try_wait().expect("wait for Kafka")
        });
        assert!(ended.is_some(), "Kafka did not stop:\n{}", self.stderr.text());
    }

    /// SIGKILL, and gone when this returns.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill_9(mut self) {
        self.child.kill().expect("kill Kafka");
        self.child.wait().expect("wait for Kafka");
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// What it logged at WARN and above.
    pub fn warnings(&self) -> String {
        self.stderr.text()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("Kafka said:\n{}", self.stderr.text());
        }
    }
}

fn leads_everything(bootstrap: &str) -> bool {
    let consumer = clients::consumer(bootstrap, &[("log_level", "0")]);
    let Ok(metadata) = consumer.fetch_metadata(None, Duration::from_secs(2)) else { return false };
    let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
    metadata.brokers().len() == 1 && partitions.into_iter().all(|partition| partition.leader() >= 0)
}
