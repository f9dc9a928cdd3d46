//! Idempotent produce while connections are cut, and the comparison of what was sent with what is there.
//!
//! Records are numbers: record n goes to partition n mod the number of partitions, so a partition holds its numbers in
//! rising order, each once, from offset 0 on. Anything else is counted under the name of what went wrong.

use crate::broker::reserve_port;
use crate::clients::{self, Deliveries, Delivery};
use crate::cutting_proxy::{Cut, CuttingProxy, Plan};
use crate::server::{Product, Server};
use rdkafka::Message;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const PARTITIONS: u64 = 3;
const PRODUCE: &[i16] = &[0];
/// Progress within this time, or something hangs.
const STALL: Duration = Duration::from_secs(60);

/// What a run found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records that are there.
    pub read: u64,
    /// Numbers that are there more than once: each copy after the first.
    pub duplicates: u64,
    /// Numbers that are nowhere.
    pub lost: u64,
    /// Numbers behind a higher one.
    pub out_of_order: u64,
    /// Numbers that nobody sent to this partition.
    pub strangers: u64,
    /// Acknowledged at another offset than where they are.
    pub elsewhere: u64,
    /// Refused, although the producer may retry for ever.
    pub refused: u64,
}

impl Tally {
    /// Compares one partition's `(offset, number)` with `sent`, which rises; `acknowledged` gives offsets by number.
    fn add(&mut self, sent: &[u64], read: &[(i64, u64)], acknowledged: &BTreeMap<u64, i64>) {
        let mut first_at = BTreeMap::new();
        let mut highest = None;
        for &(offset, number) in read {
            self.read += 1;
            self.strangers += u64::from(sent.binary_search(&number).is_err());
            if first_at.contains_key(&number) {
                self.duplicates += 1;
                continue;
            }
            first_at.insert(number, offset);
            self.out_of_order += u64::from(highest > Some(number));
            highest = highest.max(Some(number));
        }
        for number in sent {
            let is_at = first_at.get(number);
            self.lost += u64::from(is_at.is_none());
            let was_promised = acknowledged.get(number);
            self.elsewhere += u64::from(was_promised.is_some() && is_at.is_some() && was_promised != is_at);
        }
    }

    /// Whether all of `count` records are there, as they should be.
    pub fn is_exactly(&self, count: u64) -> bool {
        *self == Self { read: count, ..Self::default() }
    }
}

/// Sends `count` records through a proxy that cuts as `seed` says, with five requests in flight, and reads them back.
///
/// # Panics
/// When the broker does not start, or nothing is acknowledged for a minute.
pub fn run(
    product: Product<'_>,
    folder: &Path,
    settings: &[(&str, &str)],
    count: u64,
    seed: u64,
) -> (Tally, BTreeMap<Cut, u64>) {
    let proxy_port = reserve_port();
    let mut server = Server::new(product, folder, Some(proxy_port), settings);
    server.start();
    let proxy = CuttingProxy::start(proxy_port, server.address(), Plan::new(seed, PRODUCE, 1..=8));
    let topic = clients::unique_topic("cut");
    clients::create_topic(&server.bootstrap(), &topic, i32::try_from(PARTITIONS).expect("few"), &[]);

    let acknowledgements = produce(&server.bootstrap(), &topic, count);
    let mut tally = Tally { refused: count - acknowledgements.len() as u64, ..Tally::default() };
    for partition in 0..PARTITIONS {
        let sent: Vec<u64> = (0..count).filter(|number| number % PARTITIONS == partition).collect();
        let partition = i32::try_from(partition).expect("few");
        tally.add(&sent, &read(&server.bootstrap(), &topic, partition), &acknowledgements);
    }
    (tally, proxy.cuts())
}

/// The offsets of what was acknowledged, by number.
fn produce(bootstrap: &str, topic: &str, count: u64) -> BTreeMap<u64, i64> {
    let settings = [
        ("max.in.flight.requests.per.connection", "5"),
        ("batch.num.messages", "200"),
        ("queue.buffering.max.messages", "20000"),
        ("retry.backoff.ms", "5"),
        ("retry.backoff.max.ms", "20"),
        ("message.timeout.ms", "0"),
        ("log_level", "0"),
    ];
    let producer = clients::producer(bootstrap, &settings);
    let deliveries: Deliveries = Deliveries::clone(producer.context());
    for number in 0..count {
        let partition = i32::try_from(number % PARTITIONS).expect("few");
        let payload = number.to_string();
        let opaque = Box::new(usize::try_from(number).expect("64 bits"));
        let record =
            BaseRecord::with_opaque_to(topic, opaque).partition(partition).payload(payload.as_bytes());
        clients::send(&producer, record);
    }
    let (mut seen, mut deadline) = (0, Instant::now() + STALL);
    while deliveries.count() as u64 != count {
        producer.poll(Duration::from_millis(20));
        if deliveries.count() > seen {
            (seen, deadline) = (deliveries.count(), Instant::now() + STALL);
        }
        assert!(Instant::now() < deadline, "{seen} of {count} answered, and no more for {STALL:?}");
    }
    let answered = deliveries.so_far().into_iter().filter_map(|(number, delivery)| match delivery {
        Delivery::Acknowledged(_, offset) => Some((number as u64, offset)),
        Delivery::Failed(_) => None,
    });
    answered.collect()
}

fn read(bootstrap: &str, topic: &str, partition: i32) -> Vec<(i64, u64)> {
    let consumer = clients::consumer(bootstrap, &[]);
    clients::assign(&consumer, topic, partition, Offset::Beginning);
    let mut records = Vec::new();
    clients::read_to_end(&consumer, |message| {
        let number = message.payload().and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok());
        records.push((message.offset(), number.unwrap_or(u64::MAX)));
    });
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(read: &[(i64, u64)]) -> Tally {
        let mut tally = Tally::default();
        tally.add(&[1, 4, 7], read, &BTreeMap::from([(1, 0), (4, 1), (7, 2)]));
        tally
    }

    #[test]
    fn each_fault_has_its_name() {
        assert!(tally(&[(0, 1), (1, 4), (2, 7)]).is_exactly(3));
        let lost = tally(&[(0, 1), (1, 4)]);
        assert_eq!(lost, Tally { read: 2, lost: 1, ..Tally::default() });
        let twice = tally(&[(0, 1), (1, 4), (2, 7), (3, 4)]);
        assert_eq!(twice, Tally { read: 4, duplicates: 1, ..Tally::default() });
        let swapped = tally(&[(0, 1), (1, 7), (2, 4)]);
        assert_eq!(swapped, Tally { read: 3, out_of_order: 1, elsewhere: 2, ..Tally::default() });
        let stranger = tally(&[(0, 1), (1, 4), (2, 7), (3, 8)]);
        assert_eq!(stranger, Tally { read: 4, strangers: 1, ..Tally::default() });
        assert!(!stranger.is_exactly(4));
    }
}
