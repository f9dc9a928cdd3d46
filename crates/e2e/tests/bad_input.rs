//! What no well-behaved client sends: the connection is answered or closed, memory stays flat, and other clients
//! notice nothing.
//!
//! Each test starts a broker of its own, lets loose an attack, and meanwhile produces and reads back with librdkafka.

use klamm_e2e::broker::{self, Broker};
use klamm_e2e::clients::{self, Delivery};
use klamm_e2e::raw::{self, Answer, Batch, Bytes};
use klamm_e2e::skip;
use rdkafka::Message;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};

const MIB: u64 = 1024 * 1024;

/// How far an attack may push the broker's peak memory. Room for buffers that are in use for a moment, far below what
/// any of the attacks asks for.
const GROWTH_BYTES_MAX: u64 = 96 * MIB;

/// Attacks a fresh broker while a normal client works, then looks at the broker's memory.
///
/// Never an outside broker: noise that happens to be a valid request can do lasting harm (Kafka ignores trailing
/// bytes, so that some of it unregisters the broker).
fn under(name: &str, growth_bytes_max: u64, attack: impl Fn(SocketAddr) + Sync) {
    if broker::outside().is_some() {
        return skip::note(name, "only a broker of our own is attacked");
    }
    let broker = Broker::start();
    let topic = clients::unique_topic("meanwhile");
    clients::create_topic(&broker.bootstrap(), &topic, 1, &[]);
    // Warm up first, so that what normal work needs is not blamed on the attack.
    let mut produced = work(&broker, &topic, 0);
    let before = broker.process_id().and_then(memory_bytes);
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| attack(broker.address()));
        loop {
            let was_finished = attacker.is_finished();
            produced = work(&broker, &topic, produced);
            if was_finished {
                break;
            }
        }
        if let Err(panic) = attacker.join() {
            std::panic::resume_unwind(panic);
        }
    });
    let after = broker.process_id().and_then(memory_bytes);
    if let (Some((resident, _)), Some((_, peak))) = (before, after) {
        let grown = peak.saturating_sub(resident);
        assert!(grown < growth_bytes_max, "grew by {} MiB from {} MiB", grown / MIB, resident / MIB);
    }
    let output = broker.output();
    assert!(!output.contains("panicked at"), "the broker panicked:\n{output}");
}

/// Produces ten records and reads back exactly those; returns the new end.
fn work(broker: &Broker, topic: &str, from: usize) -> usize {
    let producer = clients::producer(&broker.bootstrap(), &[]);
    for number in from..from + 10 {
        let value = format!("value {number}");
        let record: BaseRecord<'_, [u8], [u8], _> =
            BaseRecord::with_opaque_to(topic, Box::new(number)).partition(0).payload(value.as_bytes());
        clients::send(&producer, record);
    }
    clients::flush(&producer);
    let deliveries = producer.context().so_far();
    assert!(deliveries.iter().all(|(_, d)| matches!(d, Delivery::Acknowledged(..))), "{deliveries:?}");
    let start = Offset::Offset(i64::try_from(from).unwrap());
    let records = clients::read_partition(&broker.bootstrap(), topic, 0, start);
    let values: Vec<_> = records.iter().map(|record| record.payload().unwrap_or_default().to_vec()).collect();
    let expected: Vec<_> = (from..from + 10).map(|number| format!("value {number}").into_bytes()).collect();
    assert_eq!(values, expected);
    from + 10
}

/// Resident and peak resident bytes of a process.
fn memory_bytes(process_id: u32) -> Option<(u64, u64)> {
    let resident = broker::resident_bytes(process_id)?;
    Some((resident, broker::resident_bytes_peak(process_id)?))
}

/// Sends `bytes`, says that nothing follows, and wants an answer or an end.
fn answered_or_closed(address: SocketAddr, bytes: &[u8], what: &str) -> Answer {
    let mut stream = raw::connect(address);
    raw::write(&mut stream, bytes);
    stream.shutdown(Shutdown::Write).ok();
    let answer = raw::read(&mut stream);
    assert_ne!(answer, Answer::Silence, "{what}: neither answered nor closed");
    answer
}

fn assert_closed(address: SocketAddr, bytes: &[u8], what: &str) {
    // The writing side stays open: the broker must end this by itself.
    assert_eq!(raw::exchange(address, bytes), Answer::Closed, "{what}");
}

#[test]
fn random_bytes() {
    under("random_bytes", GROWTH_BYTES_MAX, |address| {
        let mut random = Random(42);
        for round in 0..300 {
            let length = usize::try_from(random.next() % 4096).unwrap();
            let noise: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
            answered_or_closed(address, &noise, &format!("noise {round}"));
            answered_or_closed(address, &raw::framed(&noise), &format!("framed noise {round}"));
            // A believable header in front, so that the noise reaches a decoder.
            let key = i16::try_from(random.next() % 93).unwrap();
            let version = i16::try_from(random.next() % 19).unwrap();
            answered_or_closed(
                address,
                &raw::request(key, version, round, &noise),
                &format!("api {key} v{version}"),
            );
        }
    });
}

#[test]
fn half_frames() {
    under("half_frames", GROWTH_BYTES_MAX, |address| {
        let whole = raw::request(18, 0, 7, &[]);
        for length in 0..whole.len() {
            answered_or_closed(address, &whole[..length], &format!("{length} bytes of a frame"));
        }
        assert!(matches!(raw::exchange(address, &whole), Answer::Frame(_)), "the whole frame is answered");
        // Byte by byte it is still a frame.
        let mut slow = raw::connect(address);
        for byte in &whole {
            raw::write(&mut slow, &[*byte]);
        }
        assert!(matches!(raw::read(&mut slow), Answer::Frame(_)));
    });
}

#[test]
fn impossible_frame_lengths() {
    under("impossible_frame_lengths", GROWTH_BYTES_MAX, |address| {
        for length in [-1, i32::MIN, i32::MAX, i32::MAX - 4, 104_857_601] {
            assert_closed(address, &length.to_be_bytes(), &format!("a frame of {length} bytes"));
        }
        answered_or_closed(address, &0_i32.to_be_bytes(), "an empty frame");
        // The largest frame allowed, announced by many and sent by none: nothing is set aside for it.
        let mut announced = Vec::new();
        for _ in 0..100 {
            let mut stream = raw::connect(address);
            raw::write(&mut stream, &104_857_600_i32.to_be_bytes());
            raw::write(&mut stream, &[0, 0, 0, 9, 0, 0, 0, 1]);
            announced.push(stream);
        }
        assert!(matches!(raw::exchange(address, &raw::request(18, 0, 7, &[])), Answer::Frame(_)));
    });
}

#[test]
fn unknown_apis_and_versions() {
    under("unknown_apis_and_versions", GROWTH_BYTES_MAX, |address| {
        for key in [-1, 4, 93, 999, i16::MAX, i16::MIN] {
            assert_closed(address, &raw::request(key, 0, 7, &[]), &format!("api key {key}"));
        }
        for (key, version) in [(0, 99), (1, 99), (3, 99), (3, -1), (19, 99), (0, i16::MAX)] {
            assert_closed(address, &raw::request(key, version, 7, &[]), &format!("api {key} v{version}"));
        }
        // Only ApiVersions answers, in version 0, so that a newer client can find out.
        for version in [5, 99, i16::MAX] {
            let Answer::Frame(frame) = raw::exchange(address, &raw::request(18, version, 7, &[0xff; 40]))
            else {
                panic!("ApiVersions v{version} was not answered")
            };
            assert_eq!(frame[..4], 7_i32.to_be_bytes(), "correlation id");
            assert_eq!(frame[4..6], 35_i16.to_be_bytes(), "UNSUPPORTED_VERSION");
        }
    });
}

/// Every API in every version with counts and lengths that no frame can hold.
#[test]
fn absurd_counts() {
    under("absurd_counts", GROWTH_BYTES_MAX, |address| {
        let many = i32::MAX.to_be_bytes().repeat(16);
        let nested: Vec<u8> = [0, 0, 0, 1].repeat(4).into_iter().chain(many.iter().copied()).collect();
        let compact = [0xff, 0xff, 0xff, 0xff, 0x0f].repeat(16);
        let endless_varint = vec![0xff; 64];
        for key in 0..93 {
            for version in 0..19 {
                for (name, body) in
                    [("i32", &many), ("nested", &nested), ("compact", &compact), ("varint", &endless_varint)]
                {
                    let what = format!("api {key} v{version} {name}");
                    answered_or_closed(address, &raw::request(key, version, 7, body), &what);
                    answered_or_closed(address, &raw::flexible_request(key, version, 7, body), &what);
                }
            }
        }
        // A megabyte of claims, each small, that expand when decoded: a million one-byte topics in one Metadata.
        let mut body = Bytes::default();
        body.i32(1_000_000);
        for _ in 0..1_000_000 {
            body.string("");
        }
        answered_or_closed(address, &raw::request(3, 1, 7, &body.0), "a million empty topic names");
    });
}

#[test]
fn broken_batches() {
    under("broken_batches", GROWTH_BYTES_MAX, |address| {
        let broker = address.to_string();
        let topic = clients::unique_topic("broken");
        clients::create_topic(&broker, &topic, 1, &[]);
        let good = Batch::of_one_record();
        let produce = |batch: &[u8]| match raw::exchange(address, &raw::produce_request(&topic, 7, batch)) {
            Answer::Frame(frame) => Some(raw::produce_result(&frame, &topic)),
            Answer::Closed => None,
            Answer::Silence => panic!("neither answered nor closed"),
        };
        assert_eq!(produce(&good.bytes()), Some((0, 0)), "the unbroken one is taken");

        const CORRUPT_MESSAGE: i16 = 2;
        let wrong_crc = Batch { crc_error: 1, ..good.clone() };
        assert_eq!(produce(&wrong_crc.bytes()), Some((CORRUPT_MESSAGE, -1)));
        let broken = [
            ("a lying count", Batch { count: i32::MAX, ..good.clone() }),
            ("a negative count", Batch { count: -1, ..good.clone() }),
            ("no records", Batch { count: 0, ..good.clone() }),
            ("a lying last offset", Batch { last_offset_delta: i32::MAX, ..good.clone() }),
            ("magic 0", Batch { magic: 0, ..good.clone() }),
            ("magic 1", Batch { magic: 1, ..good.clone() }),
            ("magic 9", Batch { magic: 9, ..good.clone() }),
            ("a length beyond the bytes", Batch { length_error: 1, ..good.clone() }),
            ("a length below the bytes", Batch { length_error: -1, ..good.clone() }),
            ("an absurd length", Batch { length_error: i32::MAX / 2, ..good.clone() }),
            ("a negative length", Batch { length_error: -1000, ..good.clone() }),
            ("a control batch", Batch { attributes: 0x20, ..good.clone() }),
            ("an unknown codec", Batch { attributes: 7, ..good.clone() }),
            ("gzip that is none", Batch { attributes: 1, ..good.clone() }),
            ("snappy that is none", Batch { attributes: 2, ..good.clone() }),
            ("lz4 that is none", Batch { attributes: 3, ..good.clone() }),
            ("bytes left over", Batch::of(vec![14, 0, 0, 0, 1, 2, b'x', 0, 0, 0])),
            ("a record of negative length", Batch::of(vec![1, 0, 0, 0, 1, 2, b'x', 0])),
            ("a value beyond the record", Batch::of(vec![14, 0, 0, 0, 1, 0x7e, b'x', 0])),
            ("half a record", Batch::of(vec![14, 0, 0])),
            ("absurd header count", Batch::of(vec![22, 0, 0, 0, 1, 2, b'x', 0xfe, 0xff, 0xff, 0xff, 0x0f])),
        ];
        for (what, batch) in &broken {
            let result = produce(&batch.bytes());
            assert!(result.is_none_or(|(error, _)| error != 0), "{what} was taken: {result:?}");
        }
        let twice = [good.bytes(), good.bytes()].concat();
        assert!(produce(&twice).is_none_or(|(error, _)| error != 0), "two batches in one partition");
        for length in 0..good.bytes().len() {
            let result = produce(&good.bytes()[..length]);
            assert!(result.is_none_or(|(error, _)| error != 0), "{length} bytes of a batch: {result:?}");
        }
        assert_eq!(produce(&good.bytes()), Some((0, 1)), "none of the broken ones left a trace");
    });
}

/// Half a gigabyte of zeros in half a megabyte, or far less: the broker may take it or not, in flat memory.
#[test]
fn compression_bombs() {
    const EXPANDED_BYTES: usize = 512 * 1024 * 1024;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    raw::write_record_of_zeros(&mut gzip, EXPANDED_BYTES / 4).expect("compress");
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    raw::write_record_of_zeros(&mut zstd, EXPANDED_BYTES).expect("compress");
    let bombs = [(1, gzip.finish().expect("compress")), (4, zstd.finish().expect("compress"))];
    under("compression_bombs", GROWTH_BYTES_MAX, |address| {
        let topic = clients::unique_topic("bombs");
        clients::create_topic(&address.to_string(), &topic, 1, &[]);
        std::thread::scope(|scope| {
            for (attributes, records) in bombs.iter().cycle().take(6) {
                let batch = Batch { attributes: *attributes, ..Batch::of(records.clone()) };
                // Zstandard needs Produce 7, which differs from 3 in the response alone.
                let mut request = raw::produce_request(&topic, 7, &batch.bytes());
                request[7] = 7;
                scope.spawn(move || answered_or_closed(address, &request, &format!("codec {attributes}")));
            }
        });
    });
}

#[test]
fn ten_thousand_connections() {
    const WANTED: u64 = 10_000;
    /// Per connection: a task, its socket's state, and no buffer.
    const BYTES_PER_CONNECTION_MAX: u64 = 12 * 1024;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
    let allowed = limit.maximum.unwrap_or(u64::MAX).saturating_sub(1000);
    let count = WANTED.min(allowed);
    if count < WANTED {
        eprintln!("{count} connections instead of {WANTED}: the hard limit of open files allows no more");
    }
    under("ten_thousand_connections", GROWTH_BYTES_MAX + count * BYTES_PER_CONNECTION_MAX, |address| {
        let mut connections = Vec::new();
        for number in 0..count {
            let mut stream = raw::connect(address);
            stream.write_all(&[0]).unwrap_or_else(|error| panic!("connection {number}: {error}"));
            connections.push(stream);
        }
        // With all of them open, a new one is answered.
        assert!(matches!(raw::exchange(address, &raw::request(18, 0, 7, &[])), Answer::Frame(_)));
        // And each of them is still served: the rest of its frame brings the answer.
        let rest = &raw::request(18, 0, 7, &[])[1..];
        for stream in connections.iter_mut().step_by(500) {
            raw::write(stream, rest);
            assert!(matches!(raw::read(stream), Answer::Frame(_)));
        }
    });
}

/// Xorshift: noise that repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
