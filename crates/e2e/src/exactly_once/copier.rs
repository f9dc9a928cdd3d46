//! Reads one input partition, and writes what it read together with its offset: half to a partition of its own, half to
//! one that all copiers share.

use super::client::{Client, Settings};
use super::history::{Outcome, Place};
use super::journal::Journal;
use crate::clients;
use crate::random::Random;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::OnceLock;
use std::time::Duration;

/// One answer; what takes longer is asked for again.
const CALL: Duration = Duration::from_secs(3);

/// One copier.
pub struct Copier {
    /// Its transactional id, and the name of its group.
    pub id: String,
    /// What it reads.
    pub input: Place,
    /// Its own partition, and the one that is shared.
    pub outputs: [Place; 2],
}

impl Copier {
    /// Copies until the group's offset lies behind the input's last record, which is told once there are no more.
    ///
    /// # Panics
    /// When the round should be over.
    pub fn run(
        &self,
        settings: &Settings,
        journal: &Journal,
        mut random: Random,
        last_input: &OnceLock<Option<i64>>,
    ) {
        let consumer = clients::consumer(
            &settings.bootstrap,
            &[("group.id", &self.id), ("auto.offset.reset", "earliest"), ("log_level", "0")],
        );
        // The predecessor's transaction is over before the group's offset is asked for.
        let mut client = Client::new(settings, journal, &self.id);
        let mut position = None;
        loop {
            let next = match position {
                Some(next) => next,
                None => {
                    let next = self.committed_offset(&consumer, journal);
                    clients::assign(
                        &consumer,
                        &self.input.topic,
                        self.input.partition,
                        next.map_or(Offset::Beginning, Offset::Offset),
                    );
                    next.unwrap_or(0)
                }
            };
            position = Some(next);
            if last_input.get().is_some_and(|last| last.is_none_or(|last| last < next)) {
                return;
            }
            let records = poll(&consumer, usize::try_from(random.between(1..=20)).expect("few"));
            let Some(&(last, _)) = records.last() else {
                journal.check_time(&self.id, &"no input");
                continue;
            };
            client.begin();
            for (_, value) in &records {
                client.write(&self.outputs[usize::from(random.percent(50))], *value);
            }
            let group = consumer.group_metadata().expect("a group");
            client.write_offset(&self.input, last + 1, &group);
            let outcome = match random.between(0..=99) {
                0..7 => client.abort(),
                7..15 => {
                    client.settle();
                    client.abort()
                }
                15..19 => client.vanish(),
                19..22 => client.be_replaced(None),
                _ => client.commit(),
            };
            position = (outcome == Outcome::Committed).then_some(last + 1);
        }
    }

    /// The group's offset once no transaction is open that may change it.
    fn committed_offset(&self, consumer: &BaseConsumer, journal: &Journal) -> Option<i64> {
        loop {
            match committed_offset(consumer, &self.input) {
                Ok(offset) => return offset,
                Err(error) => journal.check_time(&self.id, &error),
            }
        }
    }
}

/// The offset that the consumer's group has committed for `place`.
///
/// # Errors
/// What the client says when there is no answer in time.
pub fn committed_offset(consumer: &BaseConsumer, place: &Place) -> Result<Option<i64>, String> {
    let mut list = TopicPartitionList::new();
    list.add_partition(&place.topic, place.partition);
    let answer = consumer.committed_offsets(list, CALL).map_err(|error| error.to_string())?;
    let element = answer.find_partition(&place.topic, place.partition).ok_or("no such partition")?;
    element.error().map_err(|error| error.to_string())?;
    Ok(match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}

/// A few records: offset and value.
fn poll(consumer: &BaseConsumer, count_max: usize) -> Vec<(i64, u64)> {
    let mut records = Vec::new();
    while records.len() < count_max {
        match consumer.poll(Duration::from_millis(20)) {
            Some(Ok(message)) => {
                let payload = std::str::from_utf8(message.payload().unwrap_or_default()).unwrap_or_default();
                let value = payload.split(' ').next().and_then(|value| value.parse().ok());
                records.push((message.offset(), value.expect("a record of a generator")));
            }
            // The end, or a broker that is away.
            Some(Err(_)) | None => break,
        }
    }
    records
}
