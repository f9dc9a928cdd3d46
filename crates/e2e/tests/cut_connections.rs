//! An idempotent producer over connections that are cut: before the request is whole, behind it, before its answer, in
//! the answer, and with a request on its way that arrives later. Every record is there once, in order, at the offset
//! that was acknowledged.
//!
//! `KLAMM_CUT_RECORDS` (20,000) and `KLAMM_CUT_SEED` (1) ask for more, or for other cuts.

use klamm_e2e::broker;
use klamm_e2e::cut_produce;
use klamm_e2e::cutting_proxy::Cut;
use klamm_e2e::random::number_from_environment;
use klamm_e2e::server::Product;
use klamm_e2e::skip;

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
