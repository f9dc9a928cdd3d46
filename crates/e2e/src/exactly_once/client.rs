//! A transactional producer that writes down what it did, over as many librdkafka instances as it takes.
//!
//! Invariants: what is written down as aborted was never asked to commit, or its abort was answered; what is written
//! down as committed had its commit answered. After anything but a commit the next transaction begins on an instance
//! whose predecessor's transaction is over.

use super::history::{Outcome, Place, Transaction, TransactionId, Write};
use super::journal::Journal;
use crate::clients::{self, Deliveries, Delivery};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// One call; what takes longer is asked for again.
const CALL: Duration = Duration::from_secs(3);

/// What a round sets for all clients.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where they begin.
    pub bootstrap: String,
    /// How long a transaction may stay open.
    pub transaction_timeout_ms: u32,
}

/// See the module.
pub struct Client<'a> {
    settings: &'a Settings,
    journal: &'a Journal,
    id: String,
    producer: ThreadedProducer<Deliveries>,
    next_number: u64,
    next_delivery: usize,
    open: Option<Open>,
}

struct Open {
    number: u64,
    began: u64,
    /// With the number under which its delivery is told.
    writes: Vec<(usize, Write)>,
    /// A call failed, so that it can only be aborted.
    has_failed: bool,
    remarks: Vec<String>,
}

impl<'a> Client<'a> {
    /// Takes the transactional id over from whoever had it.
    ///
    /// # Panics
    /// When that does not succeed before the round must be over.
    pub fn new(settings: &'a Settings, journal: &'a Journal, id: &str) -> Self {
        let producer = successor(settings, journal, id);
        Self { settings, journal, id: id.to_owned(), producer, next_number: 0, next_delivery: 0, open: None }
    }

    /// Begins a transaction.
    pub fn begin(&mut self) {
        let began = self.journal.moment();
        while let Err(error) = self.producer.begin_transaction() {
            self.remark("begin", &error);
            self.renew();
        }
        self.open = Some(Open {
            number: self.next_number,
            began,
            writes: Vec::new(),
            has_failed: false,
            remarks: Vec::new(),
        });
        self.next_number += 1;
    }

    /// Sends a record in the open transaction.
    ///
    /// # Panics
    /// Without one.
    pub fn write(&mut self, place: &Place, value: u64) {
        let delivery = self.next_delivery;
        self.next_delivery += 1;
        let open = self.open.as_mut().expect("a transaction");
        let payload = format!("{value} {}/{}", self.id, open.number);
        let record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&place.topic, Box::new(delivery))
            .partition(place.partition)
            .payload(payload.as_bytes());
        open.has_failed |= self.producer.send(record).is_err();
        open.writes.push((delivery, Write { place: place.clone(), value, offset: None }));
    }

    /// Sends the group's next offset of `place` in the open transaction.
    ///
    /// # Panics
    /// Without one.
    pub fn write_offset(&mut self, place: &Place, offset: i64, group: &ConsumerGroupMetadata) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&place.topic, place.partition, Offset::Offset(offset)).expect("an offset");
        while let Err(error) = self.producer.send_offsets_to_transaction(&list, group, CALL) {
            self.remark("send offsets", &error);
            if !is_retriable(&error) {
                self.open.as_mut().expect("a transaction").has_failed = true;
                return;
            }
        }
    }

    /// Commits, or aborts what cannot be committed.
    pub fn commit(&mut self) -> Outcome {
        if self.open.as_ref().is_some_and(|open| open.has_failed) {
            return self.abort();
        }
        self.settle();
        while let Err(error) = self.producer.commit_transaction(CALL) {
            self.remark("commit", &error);
            match &error {
                KafkaError::Transaction(reason) if reason.txn_requires_abort() => {
                    return self.abort_or(Outcome::Unknown);
                }
                KafkaError::Transaction(reason) if !reason.is_retriable() => {
                    self.renew();
                    return self.end(Outcome::Unknown, false);
                }
                // Either a flush that takes too long, or a commit that is under way.
                _ => {}
            }
        }
        self.end(Outcome::Committed, false)
    }

    /// Waits until everything sent is answered, or a call's time is over.
    pub fn settle(&self) {
        // The client's own flush looks ten times a second, which would be most of a transaction's time.
        let all = || (self.producer.in_flight_count() == 0).then_some(());
        crate::wait::until_by(Instant::now() + CALL, all);
    }

    /// Aborts; if the broker will not hear of it, the next instance sees to it.
    pub fn abort(&mut self) -> Outcome {
        self.abort_or(Outcome::Aborted)
    }

    /// As [`Self::abort`], and says how it ended if the abort has no answer.
    fn abort_or(&mut self, outcome: Outcome) -> Outcome {
        while let Err(error) = self.producer.abort_transaction(CALL) {
            self.remark("abort", &error);
            if !is_retriable(&error) {
                self.renew();
                return self.end(outcome, false);
            }
        }
        if self.note_deliveries() {
            self.renew();
        }
        self.end(Outcome::Aborted, false)
    }

    /// Ends without a word, whatever is on its way; the next instance finds an open transaction.
    pub fn vanish(&mut self) -> Outcome {
        self.renew();
        self.end(Outcome::Aborted, false)
    }

    /// Vanishes, and nobody takes its id over: only the transaction's timeout ends it.
    pub fn vanish_for_ever(mut self) {
        self.settle();
        self.end(Outcome::Aborted, false);
    }

    /// Another instance takes over while the transaction is ready to commit; then this one writes `more` and commits,
    /// which must fail.
    pub fn be_replaced(&mut self, more: Option<(&Place, u64)>) -> Outcome {
        self.settle();
        let next = successor(self.settings, self.journal, &self.id);
        if let Some((place, value)) = more {
            self.write(place, value);
        }
        let answer = self.producer.commit_transaction(CALL);
        if let Err(error) = &answer {
            self.remark("commit when replaced", error);
        }
        self.producer = next;
        self.end(if answer.is_ok() { Outcome::Committed } else { Outcome::Aborted }, true)
    }

    /// A new instance in place of the present one, which is gone before the new one begins.
    fn renew(&mut self) {
        self.note_deliveries();
        self.producer = instance(self.settings, &self.id);
        while !initialise(&self.producer, self.journal, &self.id) {
            self.producer = instance(self.settings, &self.id);
        }
    }

    /// Writes an error down, and panics if the round should be over.
    fn remark(&mut self, call: &str, error: &KafkaError) {
        self.journal.check_time(&self.id, error);
        if let Some(open) = &mut self.open {
            open.remarks.push(format!("{call}: {error}"));
        }
    }

    /// Writes down where records are. True if some were thrown away unanswered by an abort, after which this instance
    /// must not go on: librdkafka 2.12.1 gives their sequence numbers to the next transaction's records, also if they
    /// were sent and wait to be sent again. A broker that has them takes the new ones for duplicates, and they are lost.
    fn note_deliveries(&mut self) -> bool {
        let mut were_purged = false;
        let Some(open) = &mut self.open else { return false };
        for (number, delivery) in self.producer.context().take() {
            match delivery {
                Delivery::Acknowledged(_, offset) => {
                    if let Some((_, write)) = open.writes.iter_mut().find(|(of, _)| *of == number) {
                        write.offset = Some(offset);
                    }
                }
                Delivery::Failed(reason) => were_purged |= reason.contains("Purged in queue"),
            }
        }
        were_purged
    }

    fn end(&mut self, outcome: Outcome, is_fenced: bool) -> Outcome {
        self.note_deliveries();
        let Open { number, began, writes, remarks, .. } = self.open.take().expect("a transaction");
        let ended = if outcome == Outcome::Unknown { u64::MAX } else { self.journal.moment() };
        let writes = writes.into_iter().map(|(_, write)| write).collect();
        let transaction = Transaction { outcome, is_fenced, began, ended, writes, remarks };
        self.journal.note(TransactionId { client: self.id.clone(), number }, transaction);
        outcome
    }
}

/// An instance that has taken the id over.
fn successor(settings: &Settings, journal: &Journal, id: &str) -> ThreadedProducer<Deliveries> {
    loop {
        let producer = instance(settings, id);
        if initialise(&producer, journal, id) {
            return producer;
        }
    }
}

fn instance(settings: &Settings, id: &str) -> ThreadedProducer<Deliveries> {
    clients::config(&settings.bootstrap)
        .set("transactional.id", id)
        .set("transaction.timeout.ms", settings.transaction_timeout_ms.to_string())
        // A suspended broker is given up and asked again over another connection, while what was sent over the first
        // one waits in its buffers.
        .set("socket.timeout.ms", "1000")
        .set("retry.backoff.ms", "10")
        .set("retry.backoff.max.ms", "50")
        // Several batches a transaction and partition.
        .set("batch.num.messages", "5")
        .set("linger.ms", "1")
        .set("log_level", "0")
        .create_with_context(Deliveries::default())
        .expect("make a producer")
}

/// Whether it worked; if not, the instance is of no use.
fn initialise(producer: &ThreadedProducer<Deliveries>, journal: &Journal, id: &str) -> bool {
    while let Err(error) = producer.init_transactions(CALL) {
        journal.check_time(id, &error);
        if !is_retriable(&error) {
            return false;
        }
    }
    true
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(reason) => reason.is_retriable(),
        _ => false,
    }
}
