//! A byte that changed in a closed segment while the broker was stopped: librdkafka gets everything before it, then an
//! error, never the bytes; and everything behind it once the reader seeks there.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use klamm_e2e::broker::{self, Options};
use klamm_e2e::{clients, skip};
use rdkafka::Message;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseRecord;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;

const RECORDS: usize = 3_000;
const LIMIT: Duration = Duration::from_secs(30);

fn value(number: usize) -> Vec<u8> {
    format!("{number:08} ").repeat(110).into_bytes()
}

#[test]
fn a_changed_byte_is_never_served_and_everything_around_it_is() {
    if broker::outside().is_some() {
        return skip::note(
            "a_changed_byte_is_never_served_and_everything_around_it_is",
            "the broker's files are not ours to change",
        );
    }
    let folder = broker::folder();
    let data = folder.path().join("data");
    let options = Options::new(&data);
    let broker = options.start();
    clients::create_topic(&broker.bootstrap(), "t", 1, &[("segment.bytes", "1048576")]);
    let producer = clients::producer(&broker.bootstrap(), &[("batch.size", "16384")]);
    for number in 0..RECORDS {
        let payload = value(number);
        clients::send(
            &producer,
            BaseRecord::with_opaque_to("t", Box::new(number)).key(&[][..]).payload(&payload),
        );
    }
    clients::flush(&producer);
    drop(producer);
    assert!(broker.stop_gracefully().success());

    let partition = data.join("t-0");
    let segments: BTreeSet<_> = std::fs::read_dir(&partition)
        .expect("the partition")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    assert!(segments.len() >= 3, "{segments:?}");
    let path = segments.first().expect("a segment");
    let file = std::fs::File::options().read(true).write(true).open(path).expect("open the segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 500_000).expect("read");
    file.write_all_at(&[byte[0] ^ 0x20], 500_000).expect("write");
    drop(file);

    let broker = options.start();
    // librdkafka's own check is off: what the broker sends would be taken for records.
    let consumer = clients::consumer(&broker.bootstrap(), &[("check.crcs", "false")]);
    clients::assign(&consumer, "t", 0, Offset::Beginning);
    let deadline = Instant::now() + LIMIT;
    let mut next = 0;
    let mut error_count = 0;
    while error_count < 2 {
        assert!(Instant::now() < deadline, "no error in time: {}", broker.output());
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                assert_eq!(message.offset(), next);
                assert!(message.payload() == Some(&value(usize::try_from(next).expect("an offset"))));
                next += 1;
            }
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::InvalidMessage))) => error_count += 1,
            Some(Err(error)) => panic!("offset {next}: {error}"),
        }
    }
    assert!(next > 300, "nearly half a segment lies before it, but only {next} records came");
    drop(consumer);

    let output = broker.output();
    let line =
        output.lines().find(|line| line.contains("CORRUPT_MESSAGE")).unwrap_or_else(|| panic!("{output}"));
    assert_eq!(output.matches("readable_from").count(), 1, "told once: {output}");
    assert!(line.contains("00000000000000000000.log") && line.contains("a wrong CRC"), "{line}");
    let readable_from: i64 = line
        .split("readable_from=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{line}"));
    assert!(readable_from > next && readable_from < next + 100, "one batch is lost: {next}, {readable_from}");
    let behind = clients::read_partition(&broker.bootstrap(), "t", 0, Offset::Offset(readable_from));
    assert_eq!(behind.len(), RECORDS - usize::try_from(readable_from).expect("an offset"));
    for (message, offset) in behind.iter().zip(readable_from..) {
        assert_eq!(message.offset(), offset);
        assert!(message.payload() == Some(&value(usize::try_from(offset).expect("an offset"))));
    }
    assert!(broker.stop_gracefully().success());
}
