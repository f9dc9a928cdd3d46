//! Kafka's own copier of its system tests: one partition, records as they are, offsets in the transaction, random aborts.
//!
//! It says nothing of its transactions, so that only its copies are judged.

use super::copier::committed_offset;
use super::history::{Copy, History, Place, Write};
use super::journal::Journal;
use super::reader;
use crate::clients::{self, Delivery};
use crate::java::Tools;
use crate::process::Lines;
use rdkafka::producer::{BaseRecord, Producer};
use std::process::{Child, Stdio};

const CLASS: &str = "org.apache.kafka.tools.TransactionalMessageCopier";
/// Some dozens of transactions of ten.
const RECORDS: u64 = 1_500;
/// Apart from the generators'.
const FIRST_VALUE: u64 = 1 << 48;

/// One copier and its input, which is there before it begins: it copies to the end that it finds.
pub struct JavaCopier<'a> {
    tools: &'a Tools,
    bootstrap: String,
    id: String,
    input: Place,
    output: Place,
    written: Vec<Write>,
}

impl<'a> JavaCopier<'a> {
    /// Makes the topics and writes the input.
    ///
    /// # Panics
    /// When the broker does not take it.
    pub fn new(tools: &'a Tools, bootstrap: &str, name: &str) -> Self {
        let place = |stem: &str| {
            let topic = format!("{name}-java-{stem}");
            clients::create_topic(bootstrap, &topic, 1, &[]);
            Place { topic, partition: 0 }
        };
        let (input, output) = (place("in"), place("out"));
        let producer = clients::producer(bootstrap, &[]);
        for number in 0..RECORDS {
            let payload = reader::payload(FIRST_VALUE + number, None);
            let opaque = Box::new(usize::try_from(number).expect("few"));
            let record =
                BaseRecord::with_opaque_to(&input.topic, opaque).partition(0).payload(payload.as_bytes());
            clients::send(&producer, record);
        }
        clients::flush(&producer);
        let written = producer.context().take().into_iter().map(|(number, delivery)| {
            let Delivery::Acknowledged(_, offset) = delivery else { panic!("{number}: {delivery:?}") };
            Write { place: input.clone(), value: FIRST_VALUE + number as u64, offset: Some(offset) }
        });
        let written = written.collect();
        Self { tools, bootstrap: bootstrap.to_owned(), id: format!("{name}-java"), input, output, written }
    }

    /// Runs it until it has copied everything, again if it gives up.
    ///
    /// # Panics
    /// When the round should be over.
    pub fn run(&self, journal: &Journal) {
        loop {
            let mut process = Running(self.start());
            let stderr = Lines::read(process.0.stderr.take().expect("piped"));
            let ended =
                crate::wait::until_by(journal.deadline(), || process.0.try_wait().expect("wait for java"));
            match ended {
                Some(status) if status.success() => return,
                _ => journal.check_time(&self.id, &stderr.text()),
            }
        }
    }

    fn start(&self) -> Child {
        let mut command = self.tools.command(CLASS);
        command
            .args([
                "--broker-list",
                &self.bootstrap,
                "--transactional-id",
                &self.id,
                "--consumer-group",
                &self.id,
            ])
            .args([
                "--input-topic",
                &self.input.topic,
                "--input-partition",
                "0",
                "--output-topic",
                &self.output.topic,
            ])
            .args(["--transaction-size", "10", "--transaction-timeout", "10000"])
            .args(["--enable-random-aborts", "--use-group-metadata"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start java")
    }

    /// Adds what it had to do and what came of it.
    ///
    /// # Panics
    /// When that cannot be read.
    pub fn note(self, history: &mut History) {
        for place in [&self.input, &self.output] {
            history.partitions.insert(place.clone(), reader::read_at_end(&self.bootstrap, place));
        }
        let group = clients::consumer(&self.bootstrap, &[("group.id", &self.id)]);
        let committed_offset = committed_offset(&group, &self.input).expect("the group's offset");
        history.plain.extend(self.written);
        history.copies.push(Copy { input: self.input, outputs: vec![self.output], committed_offset });
    }
}

/// Killed when the round ends before it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
