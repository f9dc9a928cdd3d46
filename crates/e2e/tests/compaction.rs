//! A compacted topic ends with the last values, as librdkafka reads it, and Kafka's own tool
//! finds no fault in its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use klamm_e2e::broker::{self, Options};
use klamm_e2e::clients;
use klamm_e2e::java::Tools;
use klamm_e2e::wait;
use rdkafka::Message;
use rdkafka::producer::BaseRecord;
use rdkafka::topic_partition_list::Offset;

const DUMP_LOG: &str = "org.apache.kafka.tools.DumpLogSegments";
const KEYS: usize = 97;
/// Enough for several segments of the smallest size that a topic may have.
const RECORDS: usize = 6_000;

/// Every seventh is a tombstone. No two are alike, so that segments of compressed batches fill too.
fn value(number: usize) -> Option<Vec<u8>> {
    let mut state = number as u64 + 1;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    (number % 7 != 3).then(|| number.to_be_bytes().into_iter().chain(noise.take(800)).collect())
}

fn key(number: usize) -> String {
    format!("key-{}", number * 31 % KEYS)
}

#[test]
fn the_last_values_stay_and_kafka_finds_no_fault() {
    let data = broker::folder();
    let broker = Options::new(data.path()).set("log.cleaner.backoff.ms", 100).start();
    let topic = clients::unique_topic("compacted");
    let settings =
        [("cleanup.policy", "compact"), ("segment.bytes", "1048576"), ("min.cleanable.dirty.ratio", "0.1")];
    clients::create_topic(&broker.bootstrap(), &topic, 1, &settings);
    let mut last = BTreeMap::new();
    let all = [
        ("compression.type", "none"),
        ("compression.type", "lz4"),
        ("compression.type", "zstd"),
        ("enable.idempotence", "true"),
    ];
    for (round, setting) in all.into_iter().enumerate() {
        let producer = clients::producer(&broker.bootstrap(), &[setting, ("linger.ms", "10")]);
        for number in round * RECORDS / 4..(round + 1) * RECORDS / 4 {
            let (key, value) = (key(number), value(number));
            let record: BaseRecord<'_, [u8], [u8], _> =
                BaseRecord::with_opaque_to(&topic, Box::new(number)).partition(0).key(key.as_bytes());
            clients::send(&producer, if let Some(value) = &value { record.payload(value) } else { record });
            last.insert(key, value);
        }
        clients::flush(&producer);
    }
    let checkpoint = data.path().join("cleaner-offset-checkpoint");
    // All but the segment that is being written.
    wait::until("the log to be compacted", || {
        let text = std::fs::read_to_string(&checkpoint).ok()?;
        let end: usize = text.lines().last()?.rsplit(' ').next()?.parse().ok()?;
        (end > RECORDS * 3 / 5).then_some(())
    });
    let records = clients::read_partition(&broker.bootstrap(), &topic, 0, Offset::Beginning);
    assert!(records.len() < RECORDS * 3 / 5, "{} records are left", records.len());
    assert!(records.is_sorted_by(|a, b| a.offset() < b.offset()));
    let mut seen = BTreeMap::new();
    for record in &records {
        let number = usize::try_from(record.offset()).expect("an offset");
        let (key, value) = (key(number), value(number));
        assert_eq!((record.key(), record.payload()), (Some(key.as_bytes()), value.as_deref()));
        seen.insert(key, value);
    }
    assert_eq!(seen, last);
    assert!(broker.stop_gracefully().success());
    let Some(tools) = Tools::need("the_last_values_stay_and_kafka_finds_no_fault") else { return };
    check_files(&tools, &data.path().join(format!("{topic}-0")));
}

fn check_files(tools: &Tools, folder: &Path) {
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the partition")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let of = |extension: &str| -> String {
        let found = files.iter().filter(|file| file.extension().is_some_and(|found| found == extension));
        found.map(|file| file.to_str().expect("UTF-8")).collect::<Vec<_>>().join(",")
    };
    for left in ["cleaned", "swap", "deleted"] {
        assert_eq!(of(left), "");
    }
    let dump =
        |extension: &str, more: &str| tools.run(DUMP_LOG, &["--files", &of(extension), more], b"").success();
    let batches = dump("log", "--deep-iteration");
    assert!(batches.contains("deleteHorizonMs: OptionalLong["), "a tombstone has a horizon: {batches}");
    let times = dump("timeindex", "--deep-iteration");
    let indexes = dump("index", "--deep-iteration");
    for dumped in [batches, times, indexes] {
        let lower = dumped.to_lowercase();
        for fault in
            ["isvalid: false", "mismatch", "out of order", "non-consecutive", "not found", "exception"]
        {
            assert!(!lower.contains(fault), "{fault}: {dumped}");
        }
    }
}
