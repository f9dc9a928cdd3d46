//! Moving from Apache Kafka and back on the same files: whoever starts finds everything and goes on.
//!
//! Kafka itself runs here, on loopback. What is refused, and that a refusal changes nothing, is tested beside the code.

use klamm_e2e::broker;
use klamm_e2e::clients::{self, TIMEOUT};
use klamm_e2e::java::Tools;
use klamm_e2e::kafka::{Layout, Node};
use klamm_e2e::raw::{self, Answer, Bytes};
use klamm_e2e::skip;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TOPIC: &str = "events";
/// A rebalance that waits for a member of before takes a session.
const GROUP_LIMIT: Duration = Duration::from_secs(90);
const DUMP_LOG: &str = "org.apache.kafka.tools.DumpLogSegments";
const READ_UNCOMMITTED: i8 = 0;
const READ_COMMITTED: i8 = 1;

/// Values `<stem>0` to `<stem>N` into partition 0, all acknowledged.
fn produce(bootstrap: &str, stem: &str, count: usize) {
    let producer = clients::producer(bootstrap, &[]);
    send(&producer, stem, count);
    assert_eq!(producer.context().count(), count);
}

fn send(producer: &rdkafka::producer::BaseProducer<clients::Deliveries>, stem: &str, count: usize) {
    for number in 0..count {
        let value = format!("{stem}{number}");
        let record = BaseRecord::with_opaque_to(TOPIC, Box::new(number)).partition(0).key(stem.as_bytes());
        clients::send(producer, record.payload(value.as_bytes()));
    }
    clients::flush(producer);
    let refused = producer.context().so_far();
    assert!(refused.iter().all(|(_, delivery)| matches!(delivery, clients::Delivery::Acknowledged(..))));
}

/// A transaction of one producer.
enum End {
    Commit,
    Abort,
    Open,
}

fn transaction(bootstrap: &str, id: &str, stem: &str, count: usize, end: &End) {
    let producer = clients::producer(bootstrap, &[("transactional.id", id)]);
    producer.init_transactions(TIMEOUT).expect("init transactions");
    producer.begin_transaction().expect("begin");
    send(&producer, stem, count);
    match end {
        End::Commit => producer.commit_transaction(TIMEOUT).expect("commit"),
        End::Abort => producer.abort_transaction(TIMEOUT).expect("abort"),
        End::Open => {}
    }
}

/// The values of partition 0, read with one isolation level.
fn values(bootstrap: &str, isolation: &str) -> Vec<String> {
    let consumer = clients::consumer(bootstrap, &[("isolation.level", isolation)]);
    clients::assign(&consumer, TOPIC, 0, Offset::Beginning);
    let mut values = Vec::new();
    clients::read_to_end(&consumer, |message| {
        values.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
    });
    values
}

fn numbered(stem: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{stem}{number}")).collect()
}

fn offsets_of(partition: i32, offset: Offset) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(TOPIC, partition, offset).expect("a partition");
    list
}

fn committed(bootstrap: &str) -> Offset {
    let consumer = clients::consumer(bootstrap, &[("group.id", "moved")]);
    let found =
        consumer.committed_offsets(offsets_of(0, Offset::Invalid), TIMEOUT).expect("committed offsets");
    found.elements()[0].offset()
}

/// Reads on in a group, as a member, and commits.
fn read_in_group(bootstrap: &str, count: usize) -> Vec<String> {
    let settings =
        [("group.id", "readers"), ("auto.offset.reset", "earliest"), ("enable.auto.commit", "false")];
    let consumer = clients::consumer(bootstrap, &settings);
    consumer.subscribe(&[TOPIC]).expect("subscribe");
    let deadline = Instant::now() + GROUP_LIMIT;
    let (mut values, mut next) = (Vec::new(), 0);
    while values.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} read in the group", values.len());
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            next = message.offset() + 1;
            values.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
        }
    }
    consumer.commit(&offsets_of(0, Offset::Offset(next)), CommitMode::Sync).expect("commit");
    values
}

/// What a broker answers to Fetch and ListOffsets, whatever differs by a restart left out.
fn answers(bootstrap: &str) -> BTreeMap<String, Vec<u8>> {
    let ask = |api_key, version, body: &Bytes| {
        let address = bootstrap.parse().expect("an address");
        match raw::exchange(address, &raw::request(api_key, version, 7, &body.0)) {
            Answer::Frame(frame) => frame,
            other => panic!("{other:?}"),
        }
    };
    let mut answers = BTreeMap::new();
    for isolation in [READ_UNCOMMITTED, READ_COMMITTED] {
        for offset in [0, 50, 103, 108, 112, 116, 120] {
            let mut body = Bytes::default();
            body.i32(-1).i32(0).i32(0).i32(1 << 20).i8(isolation).i32(0).i32(-1); // no session
            body.i32(1).string(TOPIC).i32(1).i32(0).i32(-1).i64(offset).i64(-1).i32(1 << 20);
            body.i32(0).string(""); // nothing forgotten, no rack
            answers.insert(format!("Fetch isolation {isolation} offset {offset}"), ask(1, 11, &body));
        }
        // -1 is the latest, -2 the earliest offset; 1 is a timestamp before all others.
        for timestamp in [-1, -2, 1] {
            let mut body = Bytes::default();
            body.i32(-1).i8(isolation).i32(1).string(TOPIC).i32(1).i32(0).i32(-1).i64(timestamp);
            let mut answer = ask(2, 5, &body);
            if timestamp == -1 {
                // The leader epoch rises with each start.
                answer.truncate(answer.len() - 4);
            }
            answers.insert(format!("ListOffsets isolation {isolation} timestamp {timestamp}"), answer);
        }
    }
    answers
}

fn assert_same_answers(kafka: &BTreeMap<String, Vec<u8>>, klamm: &BTreeMap<String, Vec<u8>>) {
    // The isolation levels must differ, or the comparison would say nothing about transactions.
    assert_ne!(kafka["Fetch isolation 0 offset 103"], kafka["Fetch isolation 1 offset 103"]);
    for (request, answer) in kafka {
        assert_eq!(answer, &klamm[request], "{request}: Kafka left, Klamm right");
    }
}

fn files(folder: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .flat_map(|path| if path.is_dir() { files(&path, is_wanted) } else { vec![path] })
        .filter(|path| is_wanted(&path.to_string_lossy()))
        .collect();
    found.sort();
    found
}

/// The batches of the internal topics.
fn internal(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_wanted = |path: &str| {
        path.ends_with(".log")
            && (path.contains("__consumer_offsets") || path.contains("__transaction_state"))
    };
    let found = files(data, &is_wanted);
    assert!(found.len() >= 2, "{found:?}");
    found.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect()
}

/// What Kafka left in internal topics stays byte for byte; groups may have written behind it.
fn assert_grown(kept: &BTreeMap<PathBuf, Vec<u8>>, now: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in kept {
        assert!(now[path].starts_with(bytes), "{} was changed", path.display());
    }
}

/// Kafka's dump tool finds no fault in anything that a clean stop left.
fn assert_dump_is_faultless(tools: &Tools, folder: &Path) {
    let wanted = |path: &str| {
        [".log", ".index", ".timeindex", ".txnindex", ".snapshot"].iter().any(|suffix| path.ends_with(suffix))
    };
    let list: Vec<String> =
        files(folder, &wanted).iter().map(|path| path.to_string_lossy().into_owned()).collect();
    assert!(list.len() > 10, "{list:?}");
    let arguments = ["--deep-iteration", "--files", &list.join(",")];
    let dumped = tools.run(DUMP_LOG, &arguments, b"").success();
    for fault in ["isvalid: false", "ismatch", "out of order", "onsecutive", "Exception", "could not"] {
        let line = dumped.lines().find(|line| line.contains(fault));
        assert!(line.is_none(), "{line:?}");
    }
    assert!(dumped.contains("isvalid: true"), "{dumped}");
}

/// A static quorum: Kafka stopped, Klamm, Kafka again, killed, Klamm again.
#[test]
fn kafka_then_klamm_then_kafka_on_one_directory() {
    const NAME: &str = "kafka_then_klamm_then_kafka_on_one_directory";
    let Some(tools) = Tools::need(NAME) else { return };
    if broker::outside().is_some() {
        return skip::note(NAME, "the broker's directory is not ours");
    }
    let folder = broker::folder();
    let data = folder.path().join("data");
    let node =
        Node::new(&tools, folder.path(), Layout::Static, 1, &[("log.dirs", data.to_str().expect("UTF-8"))]);
    let bootstrap = node.bootstrap();
    node.format();

    let kafka = node.start_kafka();
    clients::create_topic(&bootstrap, TOPIC, 2, &[("retention.ms", "777000000")]);
    produce(&bootstrap, "plain", 100); // 0..100
    transaction(&bootstrap, "a", "committed", 5, &End::Commit); // 100..105, marker 105
    transaction(&bootstrap, "b", "aborted", 5, &End::Abort); // 106..111, marker 111
    produce(&bootstrap, "more", 3); // 112..115
    transaction(&bootstrap, "c", "open", 4, &End::Open); // 115..119
    produce(&bootstrap, "behind", 3); // 119..122
    let consumer = clients::consumer(&bootstrap, &[("group.id", "moved")]);
    consumer.commit(&offsets_of(0, Offset::Offset(42)), CommitMode::Sync).expect("commit");
    drop(consumer);
    assert_eq!(read_in_group(&bootstrap, 10), numbered("plain", 10));
    let stable = [numbered("plain", 100), numbered("committed", 5), numbered("more", 3)].concat();
    assert_eq!(values(&bootstrap, "read_committed"), stable);
    let of_kafka = answers(&bootstrap);
    kafka.stop();
    let kept = internal(&data);

    let klamm = node.klamm().start();
    assert_same_answers(&of_kafka, &answers(&bootstrap));
    assert_eq!(values(&bootstrap, "read_committed"), stable);
    // Groups go on where they were, and what they commit here counts there.
    assert_eq!(committed(&bootstrap), Offset::Offset(42));
    assert_eq!(read_in_group(&bootstrap, 10), numbered("plain", 20)[10..]);
    let consumer = clients::consumer(&bootstrap, &[("group.id", "moved")]);
    consumer.commit(&offsets_of(0, Offset::Offset(43)), CommitMode::Sync).expect("commit");
    drop(consumer);
    produce(&bootstrap, "klamm", 50); // 122..172
    // The producer comes back: what it left open is aborted, and all behind it becomes visible.
    transaction(&bootstrap, "c", "here", 2, &End::Commit);
    let stable = [stable, numbered("behind", 3), numbered("klamm", 50), numbered("here", 2)].concat();
    assert_eq!(values(&bootstrap, "read_committed"), stable);
    transaction(&bootstrap, "d", "left", 4, &End::Open);
    produce(&bootstrap, "last", 3);
    let all = values(&bootstrap, "read_uncommitted");
    let since =
        [numbered("behind", 3), numbered("klamm", 50), numbered("here", 2), numbered("left", 4)].concat();
    assert_eq!(all[all.len() - 62..], [since, numbered("last", 3)].concat());
    assert!(klamm.stop_gracefully().success());
    assert_grown(&kept, &internal(&data));
    assert_dump_is_faultless(&tools, &data);

    let kafka = node.start_kafka();
    assert_eq!(values(&bootstrap, "read_uncommitted"), all);
    assert_eq!(committed(&bootstrap), Offset::Offset(43));
    assert_eq!(read_in_group(&bootstrap, 10), numbered("plain", 30)[20..]);
    // And so does the one that left something open at Klamm.
    assert_eq!(values(&bootstrap, "read_committed"), stable);
    transaction(&bootstrap, "d", "again", 2, &End::Commit);
    transaction(&bootstrap, "c", "too", 2, &End::Commit);
    let stable = [stable, numbered("last", 3), numbered("again", 2), numbered("too", 2)].concat();
    assert_eq!(values(&bootstrap, "read_committed"), stable);
    let of_kafka = answers(&bootstrap);
    let kept = internal(&data);
    kafka.kill_9();

    let klamm = node.klamm().start();
    assert_same_answers(&of_kafka, &answers(&bootstrap));
    assert_eq!(values(&bootstrap, "read_committed"), stable);
    assert_eq!(committed(&bootstrap), Offset::Offset(43));
    assert_eq!(read_in_group(&bootstrap, 10), numbered("plain", 40)[30..]);
    transaction(&bootstrap, "d", "end", 2, &End::Commit);
    assert_eq!(values(&bootstrap, "read_committed"), [stable, numbered("end", 2)].concat());
    assert!(klamm.stop_gracefully().success());
    assert_grown(&kept, &internal(&data));
    assert_dump_is_faultless(&tools, &data);
}

/// A quorum of `format --standalone`, several directories, another node id: formatted and never started, Klamm,
/// killed, Kafka, killed, Klamm, Kafka.
#[test]
fn klamm_begins_a_formatted_directory_and_kafka_goes_on() {
    const NAME: &str = "klamm_begins_a_formatted_directory_and_kafka_goes_on";
    let Some(tools) = Tools::need(NAME) else { return };
    if broker::outside().is_some() {
        return skip::note(NAME, "the broker's directory is not ours");
    }
    let folder = broker::folder();
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let dirs = format!("{},{}", at("one"), at("two"));
    let more = [("log.dirs", dirs.as_str()), ("metadata.log.dir", &at("metadata"))];
    let node = Node::new(&tools, folder.path(), Layout::Standalone, 7, &more);
    let bootstrap = node.bootstrap();
    node.format();
    let properties =
        |name: &str| std::fs::read(folder.path().join(name).join("meta.properties")).expect("read");
    let formatted = ["one", "two", "metadata"].map(properties);

    let klamm = node.klamm().start();
    clients::create_topic(&bootstrap, TOPIC, 4, &[]);
    produce(&bootstrap, "first", 100);
    klamm.kill_9();

    let kafka = node.start_kafka();
    produce(&bootstrap, "kafka", 100);
    kafka.kill_9();

    let klamm = node.klamm().start();
    let expected = [numbered("first", 100), numbered("kafka", 100)].concat();
    assert_eq!(values(&bootstrap, "read_committed"), expected);
    produce(&bootstrap, "second", 50);
    assert!(klamm.stop_gracefully().success());
    assert_dump_is_faultless(&tools, folder.path());
    assert_eq!(["one", "two", "metadata"].map(properties), formatted, "identities stay");

    let kafka = node.start_kafka();
    assert_eq!(values(&bootstrap, "read_committed"), [expected, numbered("second", 50)].concat());
    produce(&bootstrap, "third", 10);
    kafka.stop();
}
