//! The proof: a real file, line by line, through `kill -9`, and every acknowledged line is there exactly once, in
//! order, byte for byte.
//!
//! Each round produces the whole file to a topic of its own with an idempotent producer and `acks=all`, kills the
//! broker at a moment drawn from the round's seed, and restarts it on the same directory. In even rounds the producer
//! survives, retries, and the broker is killed again right behind the last acknowledgement: then the topic is the
//! file. In odd rounds the producer dies with the broker: then the topic is a beginning of the file that holds at
//! least everything acknowledged. Two rounds with each `klamm.durability` follow each other.
//!
//! `KLAMM_PROOF_ROUNDS` (20) and `KLAMM_PROOF_SEED` (1) ask for more, or for other moments.

use klamm_e2e::broker::{self, Broker, Options};
use klamm_e2e::clients::{self, Deliveries, Delivery};
use klamm_e2e::random::{Random, number_from_environment};
use klamm_e2e::{binary, skip, wait};
use rdkafka::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const LINES: usize = 100_000;
const ROUND_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if broker::outside().is_some() {
        return skip::note("what_was_acknowledged_survives_kill_9", "the broker is not ours to kill");
    }
    let rounds = number_from_environment("KLAMM_PROOF_ROUNDS", 20);
    let seed = number_from_environment("KLAMM_PROOF_SEED", 1);
    let folder = broker::folder();
    let file = folder.path().join("lines.txt");
    std::fs::write(&file, real_text()).expect("write the file");
    let text = std::fs::read(&file).expect("read the file");
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').take(LINES).collect();
    assert_eq!(lines.len(), LINES);

    let options = Options::new(&folder.path().join("data")).port(broker::reserve_port());
    let mut random = Random::of(seed);
    let mut found = Vec::new();
    let mut broker = options.start();
    for round in 0..rounds {
        let kill_after = usize::try_from(random.draw() % LINES as u64).expect("below the number of lines");
        let dies_with_it = round % 2 == 1;
        let topic = format!("proof-{round}");
        eprintln!(
            "round {round}: seed {seed}, kill after {kill_after} acknowledged, producer dies: {dies_with_it}"
        );
        let durability = if round % 4 < 2 { "flushed" } else { "page_cache" };
        clients::create_topic(&broker.bootstrap(), &topic, 1, &[("klamm.durability", durability)]);
        let acknowledged;
        (broker, acknowledged) = if dies_with_it {
            round_without_survivor(broker, &options, &topic, &lines, kill_after)
        } else {
            round_with_survivor(broker, &options, &topic, &lines, kill_after)
        };
        let count = verify(&broker, &topic, &lines, &acknowledged);
        assert!(dies_with_it || count == LINES, "{count} of {LINES} lines in {topic}");
        found.push(count);
    }
    // Later crashes took nothing from earlier rounds; a clean stop does not either.
    assert!(broker.stop_gracefully().success());
    let broker = options.start();
    for (round, &count) in found.iter().enumerate() {
        assert_eq!(verify(&broker, &format!("proof-{round}"), &lines, &[]), count);
    }
}

/// The producer outlives the broker; returns the restarted broker after the second kill.
fn round_with_survivor(
    broker: Broker,
    options: &Options,
    topic: &str,
    lines: &[&[u8]],
    kill_after: usize,
) -> (Broker, Vec<(usize, i64)>) {
    let producer = producer(&broker);
    let deliveries: Deliveries = Deliveries::clone(producer.context());
    // Sends as fast as the queue takes them while the broker dies and comes back.
    let (broker, _) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            wait_for_count(&deliveries, kill_after);
            broker.kill_9();
            options.start()
        });
        let sender = scope.spawn(|| {
            send_lines(&producer, topic, lines, || false);
            serve_until(&producer, || deliveries.count() == lines.len());
        });
        (killer.join().expect("restart"), sender.join().expect("send"))
    });
    broker.kill_9();
    let acknowledged = acknowledged(&deliveries);
    assert_eq!(
        acknowledged.len(),
        lines.len(),
        "the producer gave up on some: {:?}",
        first_failure(&deliveries)
    );
    (options.start(), acknowledged)
}

/// The broker and the producer die at the same moment.
fn round_without_survivor(
    broker: Broker,
    options: &Options,
    topic: &str,
    lines: &[&[u8]],
    kill_after: usize,
) -> (Broker, Vec<(usize, i64)>) {
    let producer = producer(&broker);
    let deliveries: Deliveries = Deliveries::clone(producer.context());
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            wait_for_count(&deliveries, kill_after);
            broker.kill_9();
        });
        let is_dead = || killer.is_finished();
        send_lines(&producer, topic, lines, is_dead);
        serve_until(&producer, is_dead);
    });
    producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    producer.poll(Duration::ZERO);
    let acknowledged = acknowledged(&deliveries);
    drop(producer);
    assert!(acknowledged.len() >= kill_after);
    (options.start(), acknowledged)
}

/// Reads the topic and compares; returns how many lines it holds.
fn verify(broker: &Broker, topic: &str, lines: &[&[u8]], acknowledged: &[(usize, i64)]) -> usize {
    let consumer = clients::consumer(&broker.bootstrap(), &[]);
    clients::assign(&consumer, topic, 0, Offset::Beginning);
    let mut count = 0;
    clients::read_to_end(&consumer, |message| {
        assert!(count < lines.len(), "{topic}: more records than lines, so something is there twice");
        assert_eq!(message.offset(), i64::try_from(count).unwrap(), "{topic}: a hole or a repetition");
        let (is, should) = (message.payload().unwrap_or_default(), lines[count]);
        assert!(is == should, "{topic} at {count}: {:?} is not {:?}", show(is), show(should));
        count += 1;
    });
    // Line n stands at offset n, so an acknowledgement is kept when its offset is the line and below the end.
    for &(line, offset) in acknowledged {
        assert_eq!(offset, i64::try_from(line).unwrap(), "{topic}: line {line} acknowledged elsewhere");
        assert!(line < count, "{topic}: line {line} was acknowledged and is lost; {count} records are there");
    }
    count
}

fn producer(broker: &Broker) -> BaseProducer<Deliveries> {
    // Small batches: the kill falls between, before and inside many of them.
    let settings = [("batch.num.messages", "300"), ("queue.buffering.max.messages", "20000")];
    clients::producer(&broker.bootstrap(), &settings)
}

fn send_lines(producer: &BaseProducer<Deliveries>, topic: &str, lines: &[&[u8]], stop: impl Fn() -> bool) {
    for (number, line) in lines.iter().enumerate() {
        let mut record = BaseRecord::with_opaque_to(topic, Box::new(number)).partition(0).payload(*line);
        while let Err((error, back)) = producer.send::<[u8], [u8]>(record) {
            use rdkafka::types::RDKafkaErrorCode::QueueFull;
            assert_eq!(error.rdkafka_error_code(), Some(QueueFull), "line {number}: {error}");
            if stop() {
                return;
            }
            record = back;
            producer.poll(Duration::from_millis(5));
        }
        if number % 256 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
}

fn serve_until(producer: &BaseProducer<Deliveries>, done: impl Fn() -> bool) {
    let deadline = Instant::now() + ROUND_LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "not done within {ROUND_LIMIT:?}");
        producer.poll(Duration::from_millis(5));
    }
}

fn wait_for_count(deliveries: &Deliveries, count: usize) {
    let deadline = Instant::now() + ROUND_LIMIT;
    wait::until_by(deadline, || (deliveries.count() >= count).then_some(()))
        .expect("enough acknowledgements");
}

/// (line, offset) of everything acknowledged.
fn acknowledged(deliveries: &Deliveries) -> Vec<(usize, i64)> {
    let so_far = deliveries.so_far();
    let pairs = so_far.iter().filter_map(|(line, delivery)| match delivery {
        Delivery::Acknowledged(0, offset) => Some((*line, *offset)),
        _ => None,
    });
    pairs.collect()
}

fn first_failure(deliveries: &Deliveries) -> Option<(usize, Delivery)> {
    deliveries.so_far().into_iter().find(|(_, delivery)| matches!(delivery, Delivery::Failed(_)))
}

/// Numbered lines of files that every checkout has, repeated: empty lines, long lines and other alphabets among them.
fn real_text() -> String {
    let mut sources = String::new();
    for file in
        ["Cargo.lock", "LICENSE", "CONTRIBUTING.md", "docs/quick-start.md", "crates/e2e/tests/proof.rs"]
    {
        sources.push_str(&std::fs::read_to_string(binary::workspace_root().join(file)).expect(file));
    }
    sources.push_str("\nΣὲ γνωρίζω ἀπὸ τὴν κόψη · 東京都 · ☃\n");
    sources.push_str(&"a long line ".repeat(400));
    let mut text = String::new();
    for (number, line) in sources.lines().cycle().take(LINES).enumerate() {
        // An unnumbered line now and then: the same bytes at many offsets, the empty line among them.
        if number % 10 == 9 {
            text.push_str(line);
        } else {
            write!(text, "{number:>7} {line}").expect("a string grows");
        }
        text.push('\n');
    }
    text
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}

#[test]
fn the_file_is_the_same_each_time() {
    assert_eq!(real_text(), real_text());
    assert_eq!(real_text().lines().count(), LINES);
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proof.rs").exists());
}
