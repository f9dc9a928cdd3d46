//! Reads what is in partitions: at the end, and all along.

use super::history::{Place, Reads, Record, TransactionId};
use super::journal::Journal;
use crate::clients;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the last stable offset may stay behind the end once nobody writes: longer than any transaction's timeout.
const STABLE_WITHIN: Duration = Duration::from_secs(45);
/// One answer; what takes longer is asked for again.
const CALL: Duration = Duration::from_secs(3);

/// The payload of a record: its value, and its transaction or `-`.
pub fn payload(value: u64, transaction: Option<&TransactionId>) -> String {
    match transaction {
        Some(id) => format!("{value} {id}"),
        None => format!("{value} -"),
    }
}

/// What [`payload`] made; what nobody here made has the value `u64::MAX`.
fn record(offset: i64, payload: &[u8]) -> Record {
    let parsed = std::str::from_utf8(payload).ok().and_then(|text| {
        let (value, label) = text.split_once(' ')?;
        let transaction = match label {
            "-" => None,
            _ => {
                let (client, number) = label.rsplit_once('/')?;
                Some(TransactionId { client: client.to_owned(), number: number.parse().ok()? })
            }
        };
        Some(Record { offset, value: value.parse().ok()?, transaction })
    });
    parsed.unwrap_or(Record { offset, value: u64::MAX, transaction: None })
}

/// Reads all of `places` by read_committed until the faults are over.
pub fn read_live(bootstrap: &str, journal: &Journal, places: &[Place]) -> BTreeMap<Place, Vec<Record>> {
    let consumer = consumer(bootstrap, "read_committed");
    let mut list = TopicPartitionList::new();
    for place in places {
        list.add_partition_offset(&place.topic, place.partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&list).expect("assign");
    let mut seen: BTreeMap<Place, Vec<Record>> = BTreeMap::new();
    while !journal.are_faults_over() {
        // The end of a partition, or a broker that is away, is no record.
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
            let place = Place { topic: message.topic().to_owned(), partition: message.partition() };
            let record = record(message.offset(), message.payload().unwrap_or_default());
            seen.entry(place).or_default().push(record);
        }
    }
    seen
}

/// Waits until nothing is open in `place`, or should not be any more, and reads all of it both ways.
///
/// # Panics
/// When the partition cannot be read.
pub fn read_at_end(bootstrap: &str, place: &Place) -> Reads {
    let (committed, raw) = (consumer(bootstrap, "read_committed"), consumer(bootstrap, "read_uncommitted"));
    let ends = || Some((end(&committed, place)?, end(&raw, place)?));
    let deadline = Instant::now() + STABLE_WITHIN;
    let stable = crate::wait::until_by(deadline, || ends().filter(|(stable, end)| stable == end));
    let (last_stable_offset, end) = stable.or_else(ends).expect("the partition's offsets");
    Reads {
        committed: read(&committed, place),
        raw: read(&raw, place),
        live: Vec::new(),
        last_stable_offset,
        end,
    }
}

/// The offset behind the last record by the consumer's isolation level.
fn end(consumer: &BaseConsumer, place: &Place) -> Option<i64> {
    consumer.fetch_watermarks(&place.topic, place.partition, CALL).ok().map(|(_, end)| end)
}

fn read(consumer: &BaseConsumer, place: &Place) -> Vec<Record> {
    clients::assign(consumer, &place.topic, place.partition, Offset::Beginning);
    let mut records = Vec::new();
    clients::read_to_end(consumer, |message| {
        records.push(record(message.offset(), message.payload().unwrap_or_default()));
    });
    records
}

fn consumer(bootstrap: &str, isolation_level: &str) -> BaseConsumer {
    clients::consumer(bootstrap, &[("isolation.level", isolation_level), ("log_level", "0")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_who_wrote_it() {
        let id = TransactionId { client: "a-b/c".to_owned(), number: 7 };
        for transaction in [None, Some(id)] {
            let text = payload(5, transaction.as_ref());
            assert_eq!(record(3, text.as_bytes()), Record { offset: 3, value: 5, transaction });
        }
        for odd in ["", "5", "x -", "5 nobody", "5 a/b"] {
            assert_eq!(record(3, odd.as_bytes()), Record { offset: 3, value: u64::MAX, transaction: None });
        }
    }
}
