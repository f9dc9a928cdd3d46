//! librdkafka clients, configured the way the tests need them.

use rdkafka::admin::AdminClient;
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long one client operation may take.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// What the broker answered for one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Acknowledged at this partition and offset.
    Acknowledged(i32, i64),
    /// Refused, with the client's words.
    Failed(String),
}

/// Collects the deliveries of a producer, each under the number given at sending.
#[derive(Clone, Default)]
pub struct Deliveries(Arc<Mutex<Vec<(usize, Delivery)>>>);

impl Deliveries {
    /// Those so far, in the order in which they came.
    ///
    /// # Panics
    /// When another thread panicked.
    pub fn so_far(&self) -> Vec<(usize, Delivery)> {
        self.0.lock().expect("deliveries").clone()
    }

    /// Those since the last call.
    ///
    /// # Panics
    /// When another thread panicked.
    pub fn take(&self) -> Vec<(usize, Delivery)> {
        std::mem::take(&mut self.0.lock().expect("deliveries"))
    }

    /// How many there are so far.
    ///
    /// # Panics
    /// When another thread panicked.
    pub fn count(&self) -> usize {
        self.0.lock().expect("deliveries").len()
    }
}

impl ClientContext for Deliveries {
    // Lost connections are what some tests are about: not worth a line on standard error each.
    fn error(&self, _error: rdkafka::error::KafkaError, _reason: &str) {}
    fn log(&self, _level: rdkafka::config::RDKafkaLogLevel, _fac: &str, _message: &str) {}
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<usize>) {
        let delivery = match result {
            Ok(message) => Delivery::Acknowledged(message.partition(), message.offset()),
            Err((error, _)) => Delivery::Failed(error.to_string()),
        };
        self.0.lock().expect("deliveries").push((*number, delivery));
    }
}

/// A configuration with nothing but the address and quick reconnects.
pub fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        .set("broker.address.family", "v4");
    config
}

/// An idempotent producer with `acks=all`.
///
/// # Panics
/// When librdkafka refuses the settings.
pub fn producer(bootstrap: &str, settings: &[(&str, &str)]) -> BaseProducer<Deliveries> {
    let mut config = config(bootstrap);
    config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "1");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create_with_context(Deliveries::default()).expect("make a producer")
}

/// Queues one record, serving deliveries while the queue is full.
///
/// # Panics
/// When the producer refuses it for another reason.
pub fn send(producer: &BaseProducer<Deliveries>, record: BaseRecord<'_, [u8], [u8], Box<usize>>) {
    let mut record = record;
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((error, back))
                if error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull) =>
            {
                record = back;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => panic!("send: {error}"),
        }
    }
}

/// Sends everything queued and waits for all answers.
///
/// # Panics
/// When they do not come in time.
pub fn flush(producer: &BaseProducer<Deliveries>) {
    producer.flush(TIMEOUT).expect("flush");
}

/// A consumer for assigned partitions: no group is joined, nothing is committed.
///
/// # Panics
/// When librdkafka refuses the settings.
pub fn consumer(bootstrap: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = config(bootstrap);
    // librdkafka wants a group id before it lets anybody assign; no coordinator is asked for anything.
    config
        .set("group.id", "assigned-only")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        .set("check.crcs", "true");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create().expect("make a consumer")
}

/// Assigns one partition from `offset` on.
///
/// # Panics
/// When the client refuses.
pub fn assign(consumer: &BaseConsumer, topic: &str, partition: i32, offset: Offset) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, offset).expect("a partition");
    consumer.assign(&list).expect("assign");
}

/// Reads the assigned partition to its end.
///
/// # Panics
/// On an error, or when the end does not come in time.
pub fn read_to_end(consumer: &BaseConsumer, mut each: impl FnMut(&BorrowedMessage<'_>)) {
    let deadline = Instant::now() + 3 * TIMEOUT;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => each(&message),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return,
            Some(Err(error)) if is_transient(&error) => {}
            Some(Err(error)) => panic!("consume: {error}"),
            None => {}
        }
    }
    panic!("no end of the partition in time");
}

/// All records of one partition from `offset` to its end.
///
/// # Panics
/// As [`read_to_end`].
pub fn read_partition(bootstrap: &str, topic: &str, partition: i32, offset: Offset) -> Vec<OwnedMessage> {
    let consumer = consumer(bootstrap, &[]);
    assign(&consumer, topic, partition, offset);
    let mut records = Vec::new();
    read_to_end(&consumer, |message| records.push(message.detach()));
    records
}

/// An admin client.
///
/// # Panics
/// When librdkafka refuses the settings.
pub fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    config(bootstrap).create().expect("make an admin client")
}

/// Runs one of the admin client's futures to its end.
///
/// # Panics
/// When no runtime can be made.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Creates a topic and waits until the metadata names all its partitions.
///
/// # Panics
/// When the broker refuses.
pub fn create_topic(bootstrap: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (key, value) in settings {
        new = new.set(key, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let results = block_on(admin(bootstrap).create_topics([&new], &options)).expect("create topics");
    assert_eq!(results, [Ok(topic.to_owned())]);
}

/// A topic name that no other test uses, so that tests may share a broker.
pub fn unique_topic(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn is_transient(error: &rdkafka::error::KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
    error
        .rdkafka_error_code()
        .is_some_and(|code| matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut))
}
