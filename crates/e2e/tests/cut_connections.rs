//! An idempotent producer over connections that are cut: before the request is whole, behind it, before its answer, in
//! the answer, and with a request on its way that arrives later. Every record is there once, in order, at the offset
//! that was acknowledged.
//!
//! `KLAMM_CUT_RECORDS` (20,000) and `KLAMM_CUT_SEED` (1) ask for more, or for other cuts.

use klamm_e2e::broker;
use klamm_e2e::clients::{self, Deliveries};
use klamm_e2e::cut_produce;
use klamm_e2e::cutting_proxy::{Cut, CuttingProxy, Plan};
use klamm_e2e::random::number_from_environment;
use klamm_e2e::server::{Product, Server};
use klamm_e2e::skip;
use klamm_e2e::wait;
use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

#[test]
fn idempotent_produce_is_exactly_once_with_flushed_acknowledgements() {
    produce_under_cuts("idempotent_produce_is_exactly_once_with_flushed_acknowledgements", "flushed");
}

#[test]
fn idempotent_produce_is_exactly_once_from_the_page_cache() {
    produce_under_cuts("idempotent_produce_is_exactly_once_from_the_page_cache", "page_cache");
}

fn produce_under_cuts(name: &str, durability: &str) {
    if broker::outside().is_some() {
        return skip::note(name, "the broker would have to advertise the proxy");
    }
    let count = number_from_environment("KLAMM_CUT_RECORDS", 20_000);
    let seed = number_from_environment("KLAMM_CUT_SEED", 1);
    let folder = broker::folder();
    let settings = [("klamm.durability", durability)];
    let (tally, cuts) = cut_produce::run(Product::Klamm, folder.path(), &settings, count, seed);
    eprintln!("{durability}, seed {seed}: {tally:?}, {cuts:?}");
    assert!(tally.is_exactly(count), "{count} sent, seed {seed}: {tally:?}");
    for kind in Cut::ALL {
        assert!(cuts.contains_key(&kind), "no cut of the kind {kind:?}: {cuts:?}");
    }
}

/// Produce.
const PRODUCE: &[i16] = &[0];

#[test]
fn a_batch_that_arrives_behind_its_transactions_abort_begins_none() {
    let name = "a_batch_that_arrives_behind_its_transactions_abort_begins_none";
    if broker::outside().is_some() {
        return skip::note(name, "the broker would have to advertise the proxy");
    }
    let folder = broker::folder();
    let proxy_port = broker::reserve_port();
    let mut server = Server::new(Product::Klamm, folder.path(), Some(proxy_port), &[]);
    server.start();
    let proxy = CuttingProxy::start(proxy_port, server.address(), Plan::only(Cut::Late, PRODUCE));
    proxy.hold_late(true);
    let bootstrap = server.bootstrap();
    let topic = clients::unique_topic("late");
    clients::create_topic(&bootstrap, &topic, 1, &[]);
    let producer: ThreadedProducer<Deliveries> = clients::config(&bootstrap)
        .set("transactional.id", &topic)
        // Tries again only when it is all over.
        .set("retry.backoff.ms", "20000")
        .set("retry.backoff.max.ms", "20000")
        .create_with_context(Deliveries::default())
        .expect("make a producer");
    producer.init_transactions(clients::TIMEOUT).expect("init");
    producer.begin_transaction().expect("begin");
    let record =
        BaseRecord::<[u8], [u8], _>::with_opaque_to(&topic, Box::new(0)).partition(0).payload(b"late");
    producer.send(record).map_err(|(error, _)| error).expect("send");
    wait::until("a late batch", || proxy.cuts().get(&Cut::Late).copied());
    producer.abort_transaction(clients::TIMEOUT).expect("abort");
    proxy.hold_late(false);
    wait::until("its answer", || (proxy.late_answered() > 0).then_some(()));
    for isolation in ["read_committed", "read_uncommitted"] {
        let consumer = clients::consumer(&bootstrap, &[("isolation.level", isolation)]);
        let (_, end) = consumer.fetch_watermarks(&topic, 0, clients::TIMEOUT).expect("watermarks");
        // The abort's marker is all there is.
        assert_eq!(end, 1, "{isolation}");
    }
}
