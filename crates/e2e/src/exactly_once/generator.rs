//! Writes the input: numbered records to its own partition and to one that all generators share, in transactions of
//! which some abort and some are never finished.

use super::client::{Client, Settings};
use super::history::Place;
use super::journal::Journal;
use crate::random::Random;

/// The timeout of a transaction that nobody ends: readers of its partitions wait as long.
const LOST_MS: u32 = 2_000;

/// One generator.
pub struct Generator {
    /// Its transactional id.
    pub id: String,
    /// Values begin here; other generators' begin elsewhere.
    pub first_value: u64,
    /// Where its records go; only the last one is shared, see `order`.
    pub places: Vec<Place>,
}

impl Generator {
    /// Writes until the faults are over.
    pub fn run(&self, settings: &Settings, journal: &Journal, mut random: Random) {
        let mut client = Client::new(settings, journal, &self.id);
        let mut value = self.first_value;
        let mut is_lost_one_due = true;
        while !journal.are_faults_over() {
            journal.check_time(&self.id, &"faults");
            client.begin();
            self.write_some(&mut client, &mut value, &mut random);
            match random.between(0..=99) {
                0..7 => client.abort(),
                7..15 => {
                    client.settle();
                    client.abort()
                }
                15..19 => client.vanish(),
                19..22 => {
                    value += 1;
                    let more = random.percent(50).then(|| (&self.places[0], value));
                    client.be_replaced(more)
                }
                _ => client.commit(),
            };
            // One transaction that nobody ends, on an id that is not used again.
            if is_lost_one_due && random.percent(5) {
                is_lost_one_due = false;
                let settings = Settings { transaction_timeout_ms: LOST_MS, ..settings.clone() };
                let mut lost = Client::new(&settings, journal, &format!("{}-lost", self.id));
                lost.begin();
                self.write_some(&mut lost, &mut value, &mut random);
                lost.vanish_for_ever();
            }
        }
    }

    fn write_some(&self, client: &mut Client<'_>, value: &mut u64, random: &mut Random) {
        for _ in 0..random.between(1..=20) {
            *value += 1;
            let place = random.between(0..=self.places.len() as u64 - 1);
            client.write(&self.places[usize::try_from(place).expect("few")], *value);
        }
    }
}
