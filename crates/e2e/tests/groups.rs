//! Six consumers of three client libraries in one group read a real file, while members are killed and added.
//!
//! kcat is librdkafka, the console consumer is Java's client, and kafka-python is neither. All speak the classic
//! protocol, and only the `range` strategy is known to all three.

use klamm_e2e::broker::{self, Broker, Options};
use klamm_e2e::clients::{self, unique_topic};
use klamm_e2e::java::Tools;
use klamm_e2e::process::Lines;
use klamm_e2e::{binary, python, skip, wait};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Lines between two looks at the members.
const FEW: usize = 120;
const MANY: usize = 10_000;
const PARTITIONS: i32 = 12;
const LIMIT: Duration = Duration::from_secs(180);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Prints partition, tab and line of every record.
const PYTHON: &str = "
import sys
from kafka import KafkaConsumer
from kafka.coordinator.assignors.range import RangePartitionAssignor
bootstrap, topic, group = sys.argv[1:]
consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset='earliest',
    session_timeout_ms=6000, heartbeat_interval_ms=500, auto_commit_interval_ms=200,
    partition_assignment_strategy=[RangePartitionAssignor])
for record in consumer:
    sys.stdout.write('%d\\t%s\\n' % (record.partition, record.value.decode()))
    sys.stdout.flush()
";

struct Member {
    child: Child,
    lines: Lines,
}

impl Member {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let lines = Lines::read(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// As by `kill -9`: it says goodbye to nobody.
    fn kill(&mut self) {
        self.child.kill().expect("kill a member");
        self.child.wait().expect("wait for a member");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How members of each library are started.
struct Libraries {
    tools: Tools,
    kcat: PathBuf,
    python: PathBuf,
    bootstrap: String,
    topic: String,
    group: String,
}

impl Libraries {
    fn kcat(&self) -> Member {
        let mut command = Command::new(&self.kcat);
        command.args(["-b", &self.bootstrap, "-G", &self.group, "-q", "-u", "-f", "%p\\t%s\\n"]);
        for setting in [
            "auto.offset.reset=earliest",
            "session.timeout.ms=6000",
            "heartbeat.interval.ms=500",
            "auto.commit.interval.ms=200",
            "partition.assignment.strategy=range",
        ] {
            command.args(["-X", setting]);
        }
        command.arg(&self.topic);
        Member::start(command)
    }

    fn java(&self) -> Member {
        let mut command = self.tools.command("org.apache.kafka.tools.consumer.ConsoleConsumer");
        command.args(["--bootstrap-server", &self.bootstrap, "--topic", &self.topic, "--group", &self.group]);
        for setting in [
            "auto.offset.reset=earliest",
            "session.timeout.ms=6000",
            "heartbeat.interval.ms=500",
            "auto.commit.interval.ms=200",
            "partition.assignment.strategy=org.apache.kafka.clients.consumer.RangeAssignor",
        ] {
            command.args(["--command-property", setting]);
        }
        command.args(["--formatter-property", "print.partition=true"]);
        Member::start(command)
    }

    fn python(&self) -> Member {
        let mut command = Command::new(&self.python);
        command.args(["-c", PYTHON, &self.bootstrap, &self.topic, &self.group]);
        Member::start(command)
    }
}

#[test]
fn every_line_is_processed_while_members_come_and_go() {
    let name = "every_line_is_processed_while_members_come_and_go";
    let Some(tools) = Tools::need(name) else { return };
    let Some(kcat) = skip::need(name, "kcat") else { return };
    let Some(python) = python::need(name) else { return };
    let folder = broker::folder();
    let broker = match broker::outside() {
        Some(_) => Broker::start(),
        None => {
            Options::new(&folder.path().join("data")).set("group.initial.rebalance.delay.ms", 200).start()
        }
    };
    let (topic, group) = (unique_topic("file"), unique_topic("readers"));
    clients::create_topic(&broker.bootstrap(), &topic, PARTITIONS, &[]);
    let with = Libraries { tools, kcat, python, bootstrap: broker.bootstrap(), topic, group };
    let mut members = vec![with.kcat(), with.kcat(), with.java(), with.java(), with.python(), with.python()];

    let mut file = File::open(&with);
    // Every library has its part before the first member dies.
    file.send_until(|| members.iter().all(|member| !member.lines.text().is_empty()), "all have read");
    for doomed in [0, 2, 4] {
        members[doomed].kill();
    }
    file.send(MANY);
    members.extend([with.kcat(), with.java(), with.python()]);
    file.send_until(
        || members.iter().all(|member| !member.lines.text().is_empty()),
        "the new ones have read",
    );
    members[1].kill();
    file.send(MANY);

    let lines = file.sent;
    let missing = || {
        let mut missing: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
        for member in &members {
            for line in member.lines.text().lines() {
                missing.remove(line.split_once('\t').map_or(line, |(_partition, line)| line));
            }
        }
        missing.len()
    };
    let done = wait::until_by(Instant::now() + LIMIT, || {
        std::thread::sleep(LOOK_INTERVAL);
        (missing() == 0).then_some(())
    });
    assert!(done.is_some(), "{} of {} lines reached nobody", missing(), lines.len());
}

/// A file that every machine has, sent line by line, each with its number.
struct File {
    text: String,
    producer: BaseProducer,
    topic: String,
    sent: Vec<String>,
}

impl File {
    fn open(with: &Libraries) -> Self {
        let mut config = clients::config(&with.bootstrap);
        Self {
            text: std::fs::read_to_string(binary::workspace_root().join("Cargo.lock")).expect("Cargo.lock"),
            producer: config.set("enable.idempotence", "true").create().expect("a producer"),
            topic: with.topic.clone(),
            sent: Vec::new(),
        }
    }

    /// Sends so many more lines, evenly over the partitions, and waits for all answers.
    fn send(&mut self, count: usize) {
        let begin = self.sent.len();
        let numbered = self.text.lines().cycle().enumerate().skip(begin).take(count);
        self.sent.extend(numbered.map(|(number, line)| format!("{number} {line}")));
        for (number, line) in self.sent.iter().enumerate().skip(begin) {
            let partition = i32::try_from(number % PARTITIONS as usize).expect("a partition");
            let record = BaseRecord::<(), _>::to(&self.topic).partition(partition).payload(line);
            self.producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
        }
        self.producer.flush(LIMIT).expect("every line is acknowledged");
    }

    /// Goes on until what is awaited has happened: whoever joins late reads what comes then.
    fn send_until(&mut self, mut has_happened: impl FnMut() -> bool, what: &str) {
        let deadline = Instant::now() + LIMIT;
        while !has_happened() {
            assert!(Instant::now() < deadline, "waited {LIMIT:?} until {what}");
            self.send(FEW);
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}
