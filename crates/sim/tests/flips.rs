//! A flipped bit never reaches a reader as data.

use klamm_sim::flips::flip;

/// In two logs, side by side.
const FLIPS_PER_LOG: u64 = 50_000;

fn check(seed: u64) {
    let flips = flip(seed, FLIPS_PER_LOG).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    assert_eq!(flips.count, FLIPS_PER_LOG);
    assert!(flips.noticed > FLIPS_PER_LOG / 2, "most bits are records' or their headers': {flips:?}");
    assert!(flips.mistaken_headers < FLIPS_PER_LOG / 200, "rare, and only in what no CRC covers: {flips:?}");
}

#[test]
fn no_flipped_bit_is_served_as_data() {
    check(1);
}

#[test]
fn no_flipped_bit_of_another_log_is_served_as_data() {
    check(2);
}
