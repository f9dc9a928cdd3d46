//! Exactly-once over real processes: clients copy in transactions while the broker is killed and suspended, and what
//! was done and seen is judged. `klamm_e2e::exactly_once` says what is asked.
//!
//! `KLAMM_EOS_ROUNDS` (2, and 1 over cut connections), `KLAMM_EOS_SEED` (1) and `KLAMM_EOS_FAULTS` (4, in each round)
//! ask for more; the program `eos_check` runs single rounds again, and the same against Kafka.

use klamm_e2e::broker;
use klamm_e2e::exactly_once::faults::Kinds;
use klamm_e2e::exactly_once::series::Series;
use klamm_e2e::java::Tools;
use klamm_e2e::random::number_from_environment;
use klamm_e2e::server::Product;
use klamm_e2e::skip;
use std::path::Path;

#[test]
fn transactions_are_exactly_once_under_kills_and_suspensions() {
    run("transactions_are_exactly_once_under_kills_and_suspensions", false, 0, 2);
}

#[test]
fn transactions_are_exactly_once_over_cut_connections() {
    run("transactions_are_exactly_once_over_cut_connections", true, 1, 1);
}

fn run(name: &str, cuts: bool, first_round: u64, rounds: u64) {
    if broker::outside().is_some() {
        return skip::note(name, "the broker is not ours to kill");
    }
    // Without Java, Kafka's own copier is missed and the rest takes place.
    let tools = Tools::need(name);
    let folder = broker::folder();
    let series = Series {
        product: Product::Klamm,
        seed: number_from_environment("KLAMM_EOS_SEED", 1),
        rounds: first_round..first_round + number_from_environment("KLAMM_EOS_ROUNDS", rounds),
        faults: usize::try_from(number_from_environment("KLAMM_EOS_FAULTS", 4)).expect("a number of faults"),
        kinds: Kinds::Both,
        cuts,
        java: tools.as_ref(),
    };
    if let Err(failure) = series.run(folder.path()) {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.txt"));
        std::fs::write(&file, failure.history.to_string()).expect("write the history");
        panic!("round {}: {:#?}\nits history is in {}", failure.round, failure.anomalies, file.display());
    }
}
