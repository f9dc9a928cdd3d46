//! librdkafka's admin client: topics, partitions, configurations.

use klamm_e2e::broker::Broker;
use klamm_e2e::clients::{TIMEOUT, admin, block_on, consumer, create_topic, unique_topic};
use rdkafka::admin::{
    AdminOptions, AlterConfig, ConfigEntry, ConfigResource, ConfigSource, NewPartitions, NewTopic,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::Consumer;
use rdkafka::types::RDKafkaErrorCode;

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT))
}

fn partition_count(bootstrap: &str, topic: &str) -> usize {
    let metadata = consumer(bootstrap, &[])
        .fetch_metadata(None, TIMEOUT)
        .expect("metadata")
        .topics()
        .iter()
        .find(|found| found.name() == topic)
        .map(|found| found.partitions().len());
    metadata.unwrap_or(0)
}

fn describe(bootstrap: &str, resource: &ResourceSpecifier<'_>) -> ConfigResource {
    let described =
        block_on(admin(bootstrap).describe_configs([resource], &options())).expect("describe configs");
    described.into_iter().next().expect("one resource").expect("described")
}

fn entry<'a>(described: &'a ConfigResource, name: &str) -> &'a ConfigEntry {
    described.get(name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn topics_come_and_go() {
    let broker = Broker::start();
    let bootstrap = broker.bootstrap();
    let admin = admin(&bootstrap);
    let (one, three) = (unique_topic("one"), unique_topic("three"));
    create_topic(&bootstrap, &one, 1, &[]);
    create_topic(&bootstrap, &three, 3, &[("retention.ms", "60000")]);
    assert_eq!(partition_count(&bootstrap, &one), 1);
    assert_eq!(partition_count(&bootstrap, &three), 3);

    let again = NewTopic::new(&one, 1, TopicReplication::Fixed(1));
    let bad_name = NewTopic::new("no spaces", 1, TopicReplication::Fixed(1));
    let results = block_on(admin.create_topics([&again, &bad_name], &options())).expect("create topics");
    assert_eq!(results[0], Err((one.clone(), RDKafkaErrorCode::TopicAlreadyExists)));
    assert_eq!(results[1], Err(("no spaces".to_owned(), RDKafkaErrorCode::InvalidTopic)));

    let results = block_on(admin.delete_topics(&[&one, "never-there"], &options())).expect("delete topics");
    assert_eq!(results[0], Ok(one.clone()));
    assert_eq!(results[1], Err(("never-there".to_owned(), RDKafkaErrorCode::UnknownTopicOrPartition)));
    klamm_e2e::wait::until("the topic to be gone", || (partition_count(&bootstrap, &one) == 0).then_some(()));
    assert_eq!(partition_count(&bootstrap, &three), 3);

    // The name is free again, and the new topic is empty.
    create_topic(&bootstrap, &one, 2, &[]);
    assert_eq!(partition_count(&bootstrap, &one), 2);
}

#[test]
fn bad_requests_are_refused_with_kafkas_errors() {
    let broker = Broker::start();
    let admin = admin(&broker.bootstrap());
    let topic = unique_topic("refused");
    let refuse = |new: &NewTopic<'_>| {
        block_on(admin.create_topics([new], &options())).expect("create topics")[0].clone()
    };
    let name = topic.clone();
    let no_partitions = NewTopic::new(&topic, 0, TopicReplication::Fixed(1));
    assert_eq!(refuse(&no_partitions), Err((name.clone(), RDKafkaErrorCode::InvalidPartitions)));
    let many_replicas = NewTopic::new(&topic, 1, TopicReplication::Fixed(30));
    assert_eq!(refuse(&many_replicas), Err((name.clone(), RDKafkaErrorCode::InvalidReplicationFactor)));
    let bad_value = NewTopic::new(&topic, 1, TopicReplication::Fixed(1)).set("retention.ms", "soon");
    assert_eq!(refuse(&bad_value), Err((name.clone(), RDKafkaErrorCode::InvalidConfig)));
    let bad_key = NewTopic::new(&topic, 1, TopicReplication::Fixed(1)).set("no.such.key", "1");
    assert_eq!(refuse(&bad_key), Err((name, RDKafkaErrorCode::InvalidConfig)));
    assert_eq!(partition_count(&broker.bootstrap(), &topic), 0);
}

#[test]
fn partitions_can_be_added() {
    let broker = Broker::start();
    let bootstrap = broker.bootstrap();
    let topic = unique_topic("grows");
    create_topic(&bootstrap, &topic, 1, &[]);
    let grow = |to: usize| {
        block_on(admin(&bootstrap).create_partitions([&NewPartitions::new(&topic, to)], &options()))
            .expect("create partitions")[0]
            .clone()
    };
    assert_eq!(grow(4), Ok(topic.clone()));
    klamm_e2e::wait::until("four partitions", || (partition_count(&bootstrap, &topic) == 4).then_some(()));
    assert_eq!(grow(2), Err((topic.clone(), RDKafkaErrorCode::InvalidPartitions)));
}

#[test]
fn configurations_are_described_and_altered() {
    let broker = Broker::start();
    let bootstrap = broker.bootstrap();
    let topic = unique_topic("configured");
    create_topic(&bootstrap, &topic, 1, &[("retention.ms", "60000"), ("cleanup.policy", "compact")]);
    let resource = ResourceSpecifier::Topic(&topic);

    let described = describe(&bootstrap, &resource);
    let retention = entry(&described, "retention.ms");
    assert_eq!((retention.value.as_deref(), &retention.source), (Some("60000"), &ConfigSource::DynamicTopic));
    assert_eq!(entry(&described, "cleanup.policy").value.as_deref(), Some("compact"));
    let segment = entry(&described, "segment.bytes");
    assert_eq!((segment.value.as_deref(), segment.is_default), (Some("1073741824"), true));

    // The old AlterConfigs replaces all: what is not named falls back to its default.
    let alter = AlterConfig::new(resource).set("retention.ms", "120000");
    let results = block_on(admin(&bootstrap).alter_configs([&alter], &options())).expect("alter configs");
    assert!(results[0].is_ok(), "{results:?}");
    klamm_e2e::wait::until("the new value", || {
        let described = describe(&bootstrap, &ResourceSpecifier::Topic(&topic));
        (entry(&described, "retention.ms").value.as_deref() == Some("120000")
            && entry(&described, "cleanup.policy").value.as_deref() == Some("delete"))
        .then_some(())
    });

    // The client drops the error of a single resource here, so look at what it left.
    let bad = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("retention.ms", "soon");
    block_on(admin(&bootstrap).alter_configs([&bad], &options())).expect("alter configs");
    let described = describe(&bootstrap, &ResourceSpecifier::Topic(&topic));
    assert_eq!(entry(&described, "retention.ms").value.as_deref(), Some("120000"));
}

#[test]
fn the_broker_describes_itself() {
    let broker = Broker::start();
    let bootstrap = broker.bootstrap();
    let metadata =
        consumer(&bootstrap, &[]).fetch_metadata(None, TIMEOUT).expect("metadata").brokers()[0].id();
    let described = describe(&bootstrap, &ResourceSpecifier::Broker(metadata));
    for name in ["log.dirs", "num.partitions", "log.retention.hours", "message.max.bytes", "listeners"] {
        assert!(described.get(name).is_some(), "{name} is missing");
    }
}
