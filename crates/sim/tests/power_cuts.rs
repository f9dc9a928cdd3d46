//! What was acknowledged survives every simulated power cut, and broken promises are noticed.

use klamm_sim::{Case, Sabotage, Stats, minimise, run, transcript};

/// Enough for more than 10,000 power cuts.
const SEEDS: u64 = 2_400;
/// Within so many seeds every sabotage must be noticed.
const SABOTAGE_SEEDS: u64 = 300;

/// `None` if the run ends in a violation or a panic.
fn stats_of(case: &Case, sabotage: Sabotage) -> Option<Stats> {
    std::panic::catch_unwind(|| run(case, sabotage)).ok()?.ok()
}

#[test]
fn what_was_acknowledged_survives_ten_thousand_power_cuts() {
    let mut total = Stats::default();
    for seed in 0..SEEDS {
        let case = Case::draw(seed);
        let Some(stats) = stats_of(&case, Sabotage::None) else {
            let small = minimise(&case, Sabotage::None);
            panic!("seed {seed} fails; its smallest form:\n{}", transcript(&small, Sabotage::None));
        };
        total.add(stats);
    }
    assert!(total.power_cuts >= 10_000 && total.cut_starts >= 1_000, "{total:?}");
    assert!(total.faults >= 1_000 && total.batches >= 50_000, "{total:?}");
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        let case = Case::draw(seed);
        assert_eq!(transcript(&case, Sabotage::None), transcript(&Case::draw(seed), Sabotage::None));
        assert_eq!(run(&case, Sabotage::None), run(&case, Sabotage::None));
    }
}

#[test]
fn every_sabotage_is_noticed_and_told_in_few_steps() {
    for sabotage in Sabotage::ALL {
        let found = (0..SABOTAGE_SEEDS).map(Case::draw).find(|case| stats_of(case, sabotage).is_none());
        let case = found.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
        let small = minimise(&case, sabotage);
        assert!(small.steps.len() <= 12, "{sabotage:?}: {}", transcript(&small, sabotage));
    }
}
