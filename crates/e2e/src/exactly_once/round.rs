//! One round: topics of its own, all clients, the faults, and the history of it.
//!
//! Clients share at most one partition with each other (see `order`).

use super::client::Settings;
use super::copier::{Copier, committed_offset};
use super::faults::{self, Fault};
use super::generator::Generator;
use super::history::{Copy, History, Place};
use super::java_copier::JavaCopier;
use super::journal::Journal;
use super::reader;
use crate::clients;
use crate::java::Tools;
use crate::random::Random;
use crate::server::Server;
use std::sync::OnceLock;

/// Generators; each has an input partition of its own, and they share one more.
const GENERATORS: i32 = 2;
/// One for each input partition.
const COPIERS: i32 = GENERATORS + 1;

/// What a round is made of.
pub struct Round<'a> {
    /// Names its topics and clients.
    pub name: String,
    /// All that is drawn.
    pub random: Random,
    /// What happens to the broker.
    pub faults: Vec<(u64, Fault)>,
    /// Kafka's own copier takes part.
    pub java: Option<&'a Tools>,
}

impl Round<'_> {
    /// Runs it on a started server, which runs at the end.
    ///
    /// # Panics
    /// When anything hangs, or the broker does not come back.
    pub fn run(&self, server: &mut Server<'_>) -> History {
        let settings = Settings { bootstrap: server.bootstrap(), transaction_timeout_ms: 6_000 };
        let (input, output) = (format!("{}-in", self.name), format!("{}-out", self.name));
        clients::create_topic(&settings.bootstrap, &input, GENERATORS + 1, &[]);
        clients::create_topic(&settings.bootstrap, &output, COPIERS + 1, &[]);
        let at = |topic: &str, partition| Place { topic: topic.to_owned(), partition };
        let generators: Vec<_> = (0..GENERATORS)
            .map(|number| Generator {
                id: format!("{}-generator-{number}", self.name),
                first_value: u64::try_from(number).expect("few") << 32,
                places: vec![at(&input, number), at(&input, GENERATORS)],
            })
            .collect();
        let copiers: Vec<_> = (0..COPIERS)
            .map(|number| Copier {
                id: format!("{}-copier-{number}", self.name),
                input: at(&input, number),
                outputs: [at(&output, number), at(&output, COPIERS)],
            })
            .collect();
        let java = self.java.map(|tools| JavaCopier::new(tools, &settings.bootstrap, &self.name));
        let inputs: Vec<_> = (0..=GENERATORS).map(|number| at(&input, number)).collect();
        let outputs: Vec<_> = (0..=COPIERS).map(|number| at(&output, number)).collect();

        let journal = Journal::default();
        let last_inputs: Vec<OnceLock<Option<i64>>> = copiers.iter().map(|_| OnceLock::new()).collect();
        let mut history = History::default();
        std::thread::scope(|scope| {
            let (journal, settings) = (&journal, &settings);
            let _guard = FailOnPanic(journal);
            let java = java.as_ref().map(|java| scope.spawn(move || java.run(journal)));
            let random = |number: usize| self.random.part(number as u64);
            for (number, (copier, last_input)) in copiers.iter().zip(&last_inputs).enumerate() {
                let random = random(number);
                scope.spawn(move || copier.run(settings, journal, random, last_input));
            }
            let writing: Vec<_> = generators
                .iter()
                .enumerate()
                .map(|(number, generator)| {
                    let random = random(100 + number);
                    scope.spawn(move || generator.run(settings, journal, random))
                })
                .collect();
            let places = [&inputs[..], &outputs[..]].concat();
            let live = scope.spawn(move || reader::read_live(&settings.bootstrap, journal, &places));
            faults::run(server, journal, &self.faults);
            writing.into_iter().for_each(|thread| thread.join().expect("a generator"));
            for (place, last_input) in inputs.iter().zip(&last_inputs) {
                let reads = reader::read_at_end(&settings.bootstrap, place);
                last_input.set(reads.committed.last().map(|record| record.offset)).expect("once");
                history.partitions.insert(place.clone(), reads);
            }
            for (place, records) in live.join().expect("a reader") {
                history.partitions.entry(place).or_default().live.push(records);
            }
            if let Some(java) = java {
                java.join().expect("Kafka's copier");
            }
        });
        for place in &outputs {
            let live = history.partitions.remove(place).unwrap_or_default().live;
            let reads = reader::read_at_end(&settings.bootstrap, place);
            history.partitions.insert(place.clone(), super::history::Reads { live, ..reads });
        }
        for Copier { id, input, outputs } in &copiers {
            let group = clients::consumer(&settings.bootstrap, &[("group.id", id)]);
            let committed_offset = committed_offset(&group, input).expect("the group's offset");
            history.copies.push(Copy { input: input.clone(), outputs: outputs.to_vec(), committed_offset });
        }
        if let Some(java) = java {
            java.note(&mut history);
        }
        history.transactions = journal.into_transactions();
        history
    }
}

/// Lets clients come to an end when the round itself fails.
struct FailOnPanic<'a>(&'a Journal);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}
