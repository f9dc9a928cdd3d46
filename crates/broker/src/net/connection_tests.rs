//! A connection's turns over the simulated network: what waits is woken, what came whole is handled.

use bytes::{Bytes, BytesMut};
use klamm_protocol::ids::PartitionIndex;
use klamm_protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use klamm_protocol::messages::produce::ProduceRequest;
use klamm_protocol::time::MonoMs;
use klamm_protocol::wire::{self, Request};

use super::slots::SLOTS_MAX;
use crate::Running;
use crate::host::Host;
use crate::host::sim::{self, SimHost};
use crate::partition::Partition;
use crate::simulation::{Client, batch, fetch_request, produce_request, start, values};
use std::sync::Arc;

fn partition(running: &Running<SimHost>) -> Arc<Partition> {
    let topics = running.broker().topics.load();
    topics.by_name("t").expect("created").partition(PartitionIndex(0)).expect("open")
}

async fn pass(host: &SimHost, ms: u64) {
    host.sleep_until(MonoMs(host.mono().0 + ms)).await;
}

fn unacknowledged(topic: &str, records: Bytes) -> ProduceRequest {
    ProduceRequest { acks: 0, ..produce_request(topic, 0, records) }
}

fn frame<R: Request>(request: &R, version: i16) -> Bytes {
    wire::encode_request(request, version, 1, Some("sim")).expect("encodes")
}

async fn stored(host: &SimHost, running: &Running<SimHost>) -> Vec<String> {
    pass(host, 10).await;
    let mut client = Client::connect(host, running);
    values(&client.call(&fetch_request("t", 0, 0, 0), 11).await)
}

#[test]
fn a_request_behind_a_queued_append_is_answered_without_another_byte() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        let partition = partition(&running);
        let log = partition.take_role();
        let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
        client.send(&produce_request("t", 0, batch(&["a"])), 9).await;
        client.send(&MetadataRequest { topics: Some(vec![topic]), ..Default::default() }, 9).await;
        pass(&host, 10).await;
        partition.give_role_back(&host, log);
        let answered = async {
            client.receive().await.expect("the append");
            client.receive().await.expect("the metadata");
        };
        tokio::select! { biased;
            () = answered => {}
            () = pass(&host, 1_000) => panic!("nobody woke the connection"),
        }
    });
}

#[test]
fn more_requests_than_slots_are_all_answered() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        let partition = partition(&running);
        let log = partition.take_role();
        let count = SLOTS_MAX + 60;
        for _ in 0..count {
            client.send(&produce_request("t", 0, batch(&["a"])), 9).await;
        }
        pass(&host, 10).await;
        partition.give_role_back(&host, log);
        let answered = async {
            for _ in 0..count {
                client.receive().await.expect("answered");
            }
        };
        tokio::select! { biased;
            () = answered => {}
            () = pass(&host, 1_000) => panic!("frames were read and forgotten"),
        }
    });
}

#[test]
fn who_sends_without_acknowledgement_and_goes_is_heard() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        Client::connect(&host, &running).create_topic("t", 1).await;
        let mut client = Client::connect(&host, &running);
        // One write, and the end of the stream right behind it.
        client.send_bytes(frame(&unacknowledged("t", batch(&["a"])), 9)).await;
        drop(client);
        assert_eq!(stored(&host, &running).await, ["a"]);
        pass(&host, 10).await;
        assert_eq!(running.broker().limits.count(), 0, "connections end with their peers");
    });
}

#[test]
fn records_behind_a_slow_appender_stop_the_reading_even_unacknowledged() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        let partition = partition(&running);
        let log = partition.take_role();
        let (done, mut is_done) = tokio::sync::oneshot::channel();
        let count = 200;
        host.spawn("producer", async move {
            let value = "x".repeat(100_000);
            for _ in 0..count {
                client.send(&unacknowledged("t", batch(&[&value])), 9).await;
            }
            let _ = done.send(client);
        });
        pass(&host, 1_000).await;
        assert!(is_done.try_recv().is_err(), "20 MB wait in memory");
        partition.give_role_back(&host, log);
        pass(&host, 1_000).await;
        assert!(is_done.try_recv().is_ok());
        assert_eq!(partition.view.limits().end.offset.0, count);
    });
}

#[test]
fn a_long_poll_ends_with_its_peer() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        client.send(&fetch_request("t", 0, 0, 1_000_000), 11).await;
        pass(&host, 10).await;
        assert_eq!(running.broker().limits.count(), 1);
        drop(client);
        pass(&host, 10).await;
        assert_eq!(running.broker().limits.count(), 0);
    });
}

#[test]
fn what_came_before_a_refused_or_broken_request_is_stored() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        Client::connect(&host, &running).create_topic("t", 1).await;
        let refused = frame(&unacknowledged("no such topic", batch(&["x"])), 9);
        for (value, bad) in [("a", refused), ("b", Bytes::from_static(&[0, 0, 0, 1, 9]))] {
            let mut client = Client::connect(&host, &running);
            let mut bytes = BytesMut::from(&frame(&unacknowledged("t", batch(&[value])), 9)[..]);
            bytes.extend_from_slice(&bad);
            client.send_bytes(bytes.freeze()).await;
            assert_eq!(client.receive().await, None, "the failure is told by closing");
        }
        assert_eq!(stored(&host, &running).await, ["a", "b"]);
    });
}

#[test]
fn who_asks_in_the_moment_when_its_time_is_over_is_answered() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
        let idle_ms_max = running.broker().idle_ms_max();
        for _ in 0..3 {
            client.send(&request, 9).await;
            client.receive().await.expect("it is not idle");
            pass(&host, idle_ms_max).await;
        }
        client.send(&request, 9).await;
        client.receive().await.expect("it is not idle");
        pass(&host, idle_ms_max + 1).await;
        assert!(client.receive().await.is_none(), "it is idle");
    });
}
