//! What librdkafka produces comes back as it went in: codecs, headers, null keys, timestamps, sizes, positions.
//!
//! Partitions are assigned, no group is joined.

use klamm_e2e::broker::Broker;
use klamm_e2e::clients::{self, Delivery, TIMEOUT};
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::message::{Header, Headers, OwnedHeaders, OwnedMessage, Timestamp};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

type Bytes<'a> = Option<&'a [u8]>;

/// The contents of record `number`: long enough and repetitive enough that every codec compresses it.
fn value(number: usize) -> Vec<u8> {
    format!("{number:06}: the quick brown fox jumps over the lazy dog; ").repeat(1 + number % 7).into_bytes()
}

fn produce(bootstrap: &str, topic: &str, settings: &[(&str, &str)], count: usize) {
    let producer = clients::producer(bootstrap, settings);
    for number in 0..count {
        let value = value(number);
        let record = BaseRecord::with_opaque_to(topic, Box::new(number)).partition(0).payload(&value[..]);
        let record: BaseRecord<'_, [u8], [u8], _> = record;
        clients::send(&producer, record);
    }
    clients::flush(&producer);
    let deliveries = producer.context().so_far();
    assert_eq!(deliveries.len(), count);
    for (position, (number, delivery)) in deliveries.iter().enumerate() {
        assert_eq!(
            (*number, delivery),
            (position, &Delivery::Acknowledged(0, i64::try_from(position).unwrap()))
        );
    }
}

fn assert_values(records: &[OwnedMessage], first: usize) {
    for (position, record) in records.iter().enumerate() {
        let number = first + position;
        assert_eq!(record.offset(), i64::try_from(number).unwrap());
        assert_eq!(record.payload(), Some(&value(number)[..]), "record {number}");
        assert_eq!(record.key(), None);
    }
}

fn codec(codec: &str) {
    let broker = Broker::start();
    let topic = clients::unique_topic(codec);
    clients::create_topic(&broker.bootstrap(), &topic, 1, &[]);
    produce(&broker.bootstrap(), &topic, &[("compression.type", codec), ("linger.ms", "20")], 2000);
    let records = clients::read_partition(&broker.bootstrap(), &topic, 0, Offset::Beginning);
    assert_eq!(records.len(), 2000);
    assert_values(&records, 0);
}

#[test]
fn uncompressed() {
    codec("none");
}

#[test]
fn gzip() {
    codec("gzip");
}

#[test]
fn snappy() {
    codec("snappy");
}

#[test]
fn lz4() {
    codec("lz4");
}

#[test]
fn zstd() {
    codec("zstd");
}

/// The broker rebuilds batches where the topic asks for another codec.
#[test]
fn topic_codec_differs_from_the_producers() {
    let broker = Broker::start();
    for topic_codec in ["uncompressed", "gzip", "snappy", "lz4", "zstd"] {
        let topic = clients::unique_topic("recompressed");
        clients::create_topic(&broker.bootstrap(), &topic, 1, &[("compression.type", topic_codec)]);
        produce(&broker.bootstrap(), &topic, &[("compression.type", "lz4"), ("linger.ms", "20")], 300);
        let records = clients::read_partition(&broker.bootstrap(), &topic, 0, Offset::Beginning);
        assert_eq!(records.len(), 300, "{topic_codec}");
        assert_values(&records, 0);
    }
}

#[test]
fn keys_headers_and_tombstones() {
    let broker = Broker::start();
    let topic = clients::unique_topic("headers");
    clients::create_topic(&broker.bootstrap(), &topic, 1, &[]);
    let producer = clients::producer(&broker.bootstrap(), &[]);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("first") })
        .insert(Header { key: "trace", value: Some("second") })
        .insert(Header { key: "empty", value: Some("") })
        .insert(Header { key: "null", value: None::<&str> });
    let to = |number: usize| -> BaseRecord<'_, [u8], [u8], Box<usize>> {
        BaseRecord::with_opaque_to(&topic, Box::new(number)).partition(0)
    };
    clients::send(&producer, to(0).key(&b"key"[..]).payload(&b"value"[..]).headers(headers));
    clients::send(&producer, to(1).key(&b""[..]).payload(&b""[..]));
    clients::send(&producer, to(2).key(&b"gone"[..]));
    clients::send(&producer, to(3));
    clients::flush(&producer);

    let records = clients::read_partition(&broker.bootstrap(), &topic, 0, Offset::Beginning);
    let pairs: Vec<_> = records.iter().map(|record| (record.key(), record.payload())).collect();
    let expected: [(Bytes<'_>, Bytes<'_>); 4] =
        [(Some(b"key"), Some(b"value")), (Some(b""), Some(b"")), (Some(b"gone"), None), (None, None)];
    assert_eq!(pairs, expected);
    let headers = records[0].headers().expect("headers");
    let headers: Vec<_> = headers.iter().map(|header| (header.key, header.value)).collect();
    let expected: [(&str, Bytes<'_>); 4] =
        [("trace", Some(b"first")), ("trace", Some(b"second")), ("empty", Some(b"")), ("null", None)];
    assert_eq!(headers, expected);
}

#[test]
fn timestamps_are_the_producers_or_the_brokers() {
    let broker = Broker::start();
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let (created, appended) = (clients::unique_topic("create-time"), clients::unique_topic("append-time"));
    clients::create_topic(&broker.bootstrap(), &created, 1, &[]);
    clients::create_topic(&broker.bootstrap(), &appended, 1, &[("message.timestamp.type", "LogAppendTime")]);
    let producer = clients::producer(&broker.bootstrap(), &[]);
    for topic in [&created, &appended] {
        for number in 0..3 {
            let at = now - 100_000 + i64::try_from(number).unwrap();
            let record: BaseRecord<'_, [u8], [u8], _> = BaseRecord::with_opaque_to(topic, Box::new(number))
                .partition(0)
                .payload(&b"x"[..])
                .timestamp(at);
            clients::send(&producer, record);
        }
    }
    clients::flush(&producer);
    let stamps = |topic: &str| -> Vec<Timestamp> {
        let records = clients::read_partition(&broker.bootstrap(), topic, 0, Offset::Beginning);
        records.iter().map(OwnedMessage::timestamp).collect()
    };
    let expected: Vec<_> = (0..3).map(|n| Timestamp::CreateTime(now - 100_000 + n)).collect();
    assert_eq!(stamps(&created), expected);
    for stamp in stamps(&appended) {
        let Timestamp::LogAppendTime(at) = stamp else { panic!("{stamp:?}") };
        assert!((now - 1000..now + 120_000).contains(&at), "{at} against {now}");
    }
}

/// The default of `max.message.bytes` is 1 MiB and 12 bytes.
#[test]
fn a_record_of_one_megabyte_and_one_too_large() {
    let broker = Broker::start();
    let topic = clients::unique_topic("large");
    clients::create_topic(&broker.bootstrap(), &topic, 1, &[]);
    let producer = clients::producer(&broker.bootstrap(), &[("message.max.bytes", "10000000")]);
    let large: Vec<u8> =
        (0..1_000_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    for number in 0..5 {
        let record: BaseRecord<'_, [u8], [u8], _> =
            BaseRecord::with_opaque_to(&topic, Box::new(number)).partition(0).payload(&large[..]);
        clients::send(&producer, record);
    }
    clients::flush(&producer);
    let too_large = vec![7; 2_000_000];
    let plain = clients::producer(
        &broker.bootstrap(),
        &[("message.max.bytes", "10000000"), ("enable.idempotence", "false")],
    );
    let record: BaseRecord<'_, [u8], [u8], _> =
        BaseRecord::with_opaque_to(&topic, Box::new(0)).partition(0).payload(&too_large[..]);
    clients::send(&plain, record);
    clients::flush(&plain);
    let refused = plain.context().so_far();
    assert!(
        matches!(&refused[..], [(0, Delivery::Failed(why))] if why.contains("MessageSizeTooLarge")),
        "{refused:?}"
    );

    let records = clients::read_partition(&broker.bootstrap(), &topic, 0, Offset::Beginning);
    assert_eq!(records.len(), 5);
    assert!(records.iter().all(|record| record.payload() == Some(&large[..])));
}

#[test]
fn positions_by_offset_and_timestamp() {
    let broker = Broker::start();
    let topic = clients::unique_topic("positions");
    clients::create_topic(&broker.bootstrap(), &topic, 1, &[]);
    let producer = clients::producer(&broker.bootstrap(), &[("batch.num.messages", "10")]);
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap() - 1_000_000;
    for number in 0..500 {
        let value = value(number);
        let record: BaseRecord<'_, [u8], [u8], _> = BaseRecord::with_opaque_to(&topic, Box::new(number))
            .partition(0)
            .payload(&value[..])
            .timestamp(now + 10 * i64::try_from(number).unwrap());
        clients::send(&producer, record);
    }
    clients::flush(&producer);

    let consumer = clients::consumer(&broker.bootstrap(), &[]);
    assert_eq!(consumer.fetch_watermarks(&topic, 0, TIMEOUT).expect("watermarks"), (0, 500));
    let at = |timestamp: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(timestamp)).unwrap();
        let found = consumer.offsets_for_times(list, TIMEOUT).expect("offsets for times");
        found.elements()[0].offset()
    };
    assert_eq!(at(now), Offset::Offset(0));
    assert_eq!(at(now - 5), Offset::Offset(0));
    assert_eq!(at(now + 2500), Offset::Offset(250));
    assert_eq!(at(now + 2501), Offset::Offset(251));
    assert_eq!(at(now + 4990), Offset::Offset(499));
    assert_eq!(at(now + 4991), Offset::End);

    // The middle of a batch, the last record, the end.
    for first in [0, 123, 499, 500] {
        let records = clients::read_partition(
            &broker.bootstrap(),
            &topic,
            0,
            Offset::Offset(i64::try_from(first).unwrap()),
        );
        assert_eq!(records.len(), 500 - first);
        assert_values(&records, first);
    }
    clients::assign(&consumer, &topic, 0, Offset::Offset(400));
    let mut count = 0;
    clients::read_to_end(&consumer, |_| count += 1);
    assert_eq!(count, 100);
    consumer.seek(&topic, 0, Offset::Offset(10), TIMEOUT).expect("seek");
    let mut again = Vec::new();
    clients::read_to_end(&consumer, |message| again.push(message.detach()));
    assert_eq!(again.len(), 490);
    assert_values(&again, 10);
}

#[test]
fn an_offset_out_of_range_is_an_error() {
    let broker = Broker::start();
    let topic = clients::unique_topic("out-of-range");
    clients::create_topic(&broker.bootstrap(), &topic, 1, &[]);
    produce(&broker.bootstrap(), &topic, &[], 3);
    let consumer = clients::consumer(&broker.bootstrap(), &[]);
    clients::assign(&consumer, &topic, 0, Offset::Offset(1000));
    let error = klamm_e2e::wait::until("an error", || consumer.poll(TIMEOUT)).expect_err("beyond the end");
    assert!(
        error.to_string().contains("OffsetOutOfRange") || error.to_string().contains("AutoOffsetReset"),
        "{error}"
    );
}

/// Records go to several partitions; what is produced while a consumer waits reaches it.
#[test]
fn a_waiting_consumer_is_woken() {
    let broker = Broker::start();
    let topic = clients::unique_topic("tail");
    clients::create_topic(&broker.bootstrap(), &topic, 3, &[]);
    let consumer = clients::consumer(
        &broker.bootstrap(),
        &[("fetch.wait.max.ms", "3000"), ("enable.partition.eof", "false")],
    );
    let mut list = TopicPartitionList::new();
    for partition in 0..3 {
        list.add_partition_offset(&topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let producer = clients::producer(&broker.bootstrap(), &[]);
    let mut seen = Vec::new();
    let mut begun = Instant::now();
    for number in 0..12 {
        if number == 3 {
            // All three partitions are being fetched now.
            begun = Instant::now();
        }
        let value = value(number);
        let record: BaseRecord<'_, [u8], [u8], _> = BaseRecord::with_opaque_to(&topic, Box::new(number))
            .partition(i32::try_from(number % 3).unwrap())
            .payload(&value[..]);
        clients::send(&producer, record);
        clients::flush(&producer);
        let message =
            klamm_e2e::wait::until("the record", || consumer.poll(TIMEOUT)).expect("consume").detach();
        assert_eq!(message.payload(), Some(&value[..]));
        seen.push((message.partition(), message.offset()));
    }
    let expected: Vec<_> = (0..12).map(|n| (n % 3, i64::from(n / 3))).collect();
    assert_eq!(seen, expected);
    // Nine fetches that ran into their limit would have taken 27 s.
    assert!(begun.elapsed() < Duration::from_secs(13), "woken late: {:?}", begun.elapsed());
}
