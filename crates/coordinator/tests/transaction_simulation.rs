//! Random transactions in virtual time: answers get lost, requests come twice and late, other producers
//! take an id over, markers take their time, the coordinator crashes and loses what was not committed.
//!
//! The partitions are a naive model of what a log checks. In the end everything has come to rest, and:
//! - a reader of committed data sees each committed transaction whole, once and in order;
//! - it sees nothing of an aborted one; of one whose end its client never learned, all or nothing;
//! - no partition has an open transaction left: the last stable offset reaches the end.

mod transaction_model;
mod transaction_world;

use std::collections::{BTreeMap, BTreeSet};

use klamm_coordinator::contract::ReplyKey;
use klamm_coordinator::transaction::{
    AddPartitions, EPOCH_BUMP_LEVEL, EndTxn, Ending, InitProducerId, Markers, Producer, TransactionCommand,
    TransactionEffect, TransactionReply,
};
use klamm_protocol::ids::{PartitionIndex, ProducerId};
use proptest::prelude::*;
use transaction_model::{Partition, Value};
use transaction_world::{World, partitions};

const IDS: usize = 2;
const PARTITIONS: usize = 3;
const STEPS: usize = 900;
const TIMEOUT_MS: i32 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Committed,
    Aborted,
    Unknown,
}

/// What a client's transaction did, and what it was told.
struct Attempt {
    acked: BTreeSet<(usize, Value)>,
    outcome: Outcome,
}

/// What a client does next.
enum Stage {
    Init {
        expected: Option<Producer>,
        asked: Option<ReplyKey>,
    },
    Writing,
    /// Joins the partition, or asks whether it is in, and writes then.
    Joining {
        partition: usize,
        asked: ReplyKey,
    },
    Ending {
        ending: Ending,
        asked: Option<ReplyKey>,
    },
    /// Another has taken the id over.
    Fenced,
}

struct Client {
    id: String,
    version: i16,
    producer: Producer,
    stage: Stage,
    attempt: usize,
    /// What a client of the first version has added to its transaction.
    joined: BTreeSet<usize>,
    written: usize,
    /// Something of it got no answer: it may not be committed.
    is_doubtful: bool,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// Who writes the markers of one transactional id.
struct Writer {
    markers: Markers,
    /// Where they are still missing.
    left: Vec<usize>,
    /// The coordinator is told that none is.
    asked: Option<ReplyKey>,
}

struct Simulation {
    world: World,
    random: Random,
    partitions: Vec<Partition>,
    clients: Vec<Client>,
    attempts: Vec<Attempt>,
    /// Sent before, and still on some way.
    late: Vec<TransactionCommand>,
    /// Writes that were verified and have not reached their log.
    on_the_way: Vec<(usize, Producer, Value)>,
    writers: Vec<Writer>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut world = World::new(1 + random.below(2) as i16);
        world.commits_at_once = random.one_in(3);
        let mut simulation = Self {
            world,
            random,
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            clients: Vec::new(),
            attempts: Vec::new(),
            late: Vec::new(),
            on_the_way: Vec::new(),
            writers: Vec::new(),
        };
        (0..IDS).for_each(|id| simulation.start_client(id));
        simulation
    }

    fn start_client(&mut self, id: usize) {
        let version = if self.random.one_in(2) { EPOCH_BUMP_LEVEL } else { 0 };
        let attempt = self.begin_attempt();
        self.clients.push(Client {
            id: format!("id{id}"),
            version,
            producer: Producer::default(),
            stage: Stage::Init { expected: None, asked: None },
            attempt,
            joined: BTreeSet::new(),
            written: 0,
            is_doubtful: false,
        });
    }

    fn begin_attempt(&mut self) -> usize {
        self.attempts.push(Attempt { acked: BTreeSet::new(), outcome: Outcome::Aborted });
        self.attempts.len() - 1
    }

    fn begin_transaction(&mut self, index: usize) {
        let attempt = self.begin_attempt();
        let client = &mut self.clients[index];
        client.stage = Stage::Writing;
        client.attempt = attempt;
        client.joined.clear();
        client.written = 0;
        client.is_doubtful = false;
    }

    fn ask(&mut self, command: TransactionCommand) -> ReplyKey {
        // Before the second version nothing tells a late end from that of the next transaction (KIP-890).
        let may_be_late = !matches!(
            &command,
            TransactionCommand::EndTxn(EndTxn { client_version, .. }) if *client_version < EPOCH_BUMP_LEVEL
        );
        if may_be_late && self.random.one_in(8) {
            self.late.push(command.clone());
        }
        self.world.ask(command)
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0 => self.world.commit(),
            1 => self.perform_some(),
            2 => self.perform_some(),
            3 if self.random.one_in(3) => {
                let kept = self.random.below(self.world.uncommitted_count() + 1);
                self.world.crash(kept);
                if self.random.one_in(2) {
                    // The whole process: what it was at is forgotten, and what a load asks for is not.
                    self.writers.clear();
                    self.world.effects.clear();
                    self.world.crash(0);
                }
            }
            4 => {
                let ms = [1, 50, 200, 5_000, 20_000][self.random.below(5)];
                self.world.advance(ms);
            }
            5 if !self.late.is_empty() => {
                let command = self.late.remove(self.random.below(self.late.len()));
                self.world.ask(command);
            }
            6 if !self.on_the_way.is_empty() => {
                let (partition, producer, value) =
                    self.on_the_way.remove(self.random.below(self.on_the_way.len()));
                // Nobody waits for its answer any more.
                self.partitions[partition].append(producer, value);
            }
            7 if self.random.one_in(6) => {
                let id = self.random.below(IDS);
                self.start_client(id);
            }
            8 => self.world.commits_at_once = self.random.one_in(3),
            _ => {
                let client = self.random.below(self.clients.len());
                self.client_step(client);
            }
        }
    }

    /// As the broker does: of one id one writer at a time, which asks first what it shall write.
    fn perform_some(&mut self) {
        if let Some(place) = (!self.writers.is_empty()).then(|| self.random.below(self.writers.len())) {
            let Writer { markers, left, asked } = &mut self.writers[place];
            let Markers { producer, ending, transaction_version, prepared_at, .. } = *markers;
            if let Some(partition) = left.pop() {
                self.partitions[partition].end(producer, ending, transaction_version);
            } else if let Some(key) = *asked {
                if self.world.take_reply(key).is_some() {
                    self.writers.remove(place);
                } else if !self.world.is_parked(key) {
                    // The coordinator is a new one, and has heard or not.
                    *asked = None;
                }
            } else {
                let transactional_id = markers.transactional_id.clone();
                let written = TransactionCommand::MarkersWritten { transactional_id, prepared_at };
                *asked = Some(self.world.ask(written));
            }
        }
        let Some(effect) = self.world.effects.pop_front() else { return };
        match effect {
            TransactionEffect::WriteMarkers(id) => {
                let is_under_way = self.writers.iter().any(|writer| writer.markers.transactional_id == id);
                let key = self.world.ask(TransactionCommand::Markers(id.clone()));
                match self.world.take_reply(key) {
                    Some(TransactionReply::Markers(markers)) if !is_under_way => {
                        self.writers.extend(markers.map(|markers| {
                            let left = markers.partitions.iter().map(|(_, index)| index.0 as usize).collect();
                            Writer { markers, left, asked: None }
                        }));
                    }
                    _ => self.world.effects.push_back(TransactionEffect::WriteMarkers(id)),
                }
            }
            TransactionEffect::FetchProducerId { transactional_id, producer } => {
                let fresh = self.world.fresh_id();
                self.world.ask(TransactionCommand::AbortTimedOut { transactional_id, producer, fresh });
            }
        }
    }

    /// The answer; `Some(None)` if there will be none, or the client does not wait any longer.
    fn answer(&mut self, key: ReplyKey) -> Option<Option<TransactionReply>> {
        if let Some(reply) = self.world.take_reply(key) {
            return Some((!self.random.one_in(10)).then_some(reply));
        }
        let gives_up = !self.world.is_parked(key) || self.random.one_in(12);
        gives_up.then_some(None)
    }

    fn client_step(&mut self, index: usize) {
        match self.clients[index].stage {
            Stage::Init { expected, asked: None } => self.init(index, expected, None),
            Stage::Init { expected, asked: Some(key) } => self.hear_init(index, expected, key),
            Stage::Writing => self.write_or_end(index),
            Stage::Joining { partition, asked } => self.hear_join(index, partition, asked),
            Stage::Ending { ending, asked: None } => self.end(index, ending),
            Stage::Ending { ending, asked: Some(key) } => self.hear_end(index, ending, key),
            Stage::Fenced => {}
        }
    }

    fn init(&mut self, index: usize, expected: Option<Producer>, fresh: Option<ProducerId>) {
        let transactional_id = (*self.clients[index].id).into();
        let request = InitProducerId { transactional_id, timeout_ms: TIMEOUT_MS, expected, fresh };
        let key = self.ask(TransactionCommand::InitProducerId(request));
        self.clients[index].stage = Stage::Init { expected, asked: Some(key) };
    }

    fn hear_init(&mut self, index: usize, expected: Option<Producer>, key: ReplyKey) {
        let Some(reply) = self.answer(key) else { return };
        match reply {
            Some(TransactionReply::NeedsProducerId) => {
                let fresh = self.world.fresh_id();
                self.init(index, expected, Some(fresh));
            }
            Some(TransactionReply::InitProducerId(Ok(producer))) => {
                self.begin_transaction(index);
                self.clients[index].producer = producer;
            }
            Some(TransactionReply::InitProducerId(Err(error))) if error.name() == "PRODUCER_FENCED" => {
                self.clients[index].stage = Stage::Fenced;
            }
            _ => self.clients[index].stage = Stage::Init { expected, asked: None },
        }
    }

    fn write_or_end(&mut self, index: usize) {
        if self.clients[index].is_doubtful {
            return self.end(index, Ending::Abort);
        }
        if self.clients[index].written > 0 && self.random.one_in(3) {
            let ending = if self.random.one_in(3) { Ending::Abort } else { Ending::Commit };
            return self.end(index, ending);
        }
        let partition = self.random.below(PARTITIONS);
        let Client { producer, version, ref joined, .. } = self.clients[index];
        let is_second = version >= EPOCH_BUMP_LEVEL;
        if !is_second && !joined.contains(&partition)
            || is_second && self.needs_verification(index, partition)
        {
            let transactional_id = (*self.clients[index].id).into();
            let partitions = partitions(&[partition as i32]);
            let request = AddPartitions { transactional_id, producer, partitions, client_version: version };
            let asked = self.ask(TransactionCommand::AddPartitions(request));
            self.partitions[partition].begin_verification(producer, asked);
            self.clients[index].stage = Stage::Joining { partition, asked };
        } else if self.needs_verification(index, partition) {
            self.verify(index, partition);
        } else {
            self.write(index, partition);
        }
    }

    fn needs_verification(&self, index: usize, partition: usize) -> bool {
        self.partitions[partition].needs_verification(self.clients[index].producer)
    }

    fn verify(&mut self, index: usize, partition: usize) {
        let transactional_id = (*self.clients[index].id).into();
        let (producer, partitions) = (self.clients[index].producer, partitions(&[partition as i32]));
        let command = TransactionCommand::VerifyPartitions { transactional_id, producer, partitions };
        let asked = self.ask(command);
        self.partitions[partition].begin_verification(producer, asked);
        self.clients[index].stage = Stage::Joining { partition, asked };
    }

    /// A client of the first version adds the partition itself, and its leader verifies that.
    fn hear_join(&mut self, index: usize, partition: usize, key: ReplyKey) {
        let Some(reply) = self.answer(key) else { return };
        let Client { producer, version, .. } = self.clients[index];
        match reply {
            Some(TransactionReply::AddPartitions(Ok(()))) if version < EPOCH_BUMP_LEVEL => {
                self.clients[index].joined.insert(partition);
                self.clients[index].stage = Stage::Writing;
                return;
            }
            Some(TransactionReply::AddPartitions(Ok(()))) => {}
            Some(TransactionReply::VerifyPartitions(Ok(missing))) if missing.is_empty() => {}
            _ => {
                self.clients[index].is_doubtful = true;
                self.clients[index].stage = Stage::Writing;
                return;
            }
        }
        self.partitions[partition].confirm_verification(producer, key);
        self.write(index, partition);
    }

    fn write(&mut self, index: usize, partition: usize) {
        let client = &mut self.clients[index];
        let value = (client.attempt, client.written);
        client.written += 1;
        client.stage = Stage::Writing;
        let producer = client.producer;
        if self.random.one_in(10) {
            // It gets no answer, and may arrive at any time.
            self.on_the_way.push((partition, producer, value));
            self.clients[index].is_doubtful = true;
        } else if self.partitions[partition].append(producer, value) {
            self.attempts[value.0].acked.insert((partition, value));
        } else {
            self.clients[index].is_doubtful = true;
        }
    }

    fn end(&mut self, index: usize, ending: Ending) {
        self.end_with(index, ending, None);
    }

    fn end_with(&mut self, index: usize, ending: Ending, fresh: Option<ProducerId>) {
        let Client { producer, version, attempt, .. } = self.clients[index];
        if ending == Ending::Commit {
            self.attempts[attempt].outcome = Outcome::Unknown;
        }
        let transactional_id = (*self.clients[index].id).into();
        let client_version = version;
        let request = EndTxn { transactional_id, producer, ending, client_version, fresh };
        let key = self.ask(TransactionCommand::EndTxn(request));
        self.clients[index].stage = Stage::Ending { ending, asked: Some(key) };
    }

    fn hear_end(&mut self, index: usize, ending: Ending, key: ReplyKey) {
        let Some(reply) = self.answer(key) else { return };
        let Client { producer, version, attempt, is_doubtful, .. } = self.clients[index];
        match reply {
            Some(TransactionReply::NeedsProducerId) => {
                let fresh = self.world.fresh_id();
                self.end_with(index, ending, Some(fresh));
            }
            Some(TransactionReply::EndTxn(Ok(next))) => {
                if ending == Ending::Commit {
                    self.attempts[attempt].outcome = Outcome::Committed;
                }
                self.begin_transaction(index);
                let client = &mut self.clients[index];
                if version >= EPOCH_BUMP_LEVEL {
                    client.producer = next;
                } else if is_doubtful {
                    // Without an epoch for each transaction the client takes care of what may still arrive.
                    client.stage = Stage::Init { expected: Some(producer), asked: None };
                }
            }
            Some(TransactionReply::EndTxn(Err(error))) => {
                let client = &mut self.clients[index];
                client.stage = match error.name() {
                    "CONCURRENT_TRANSACTIONS" => Stage::Ending { ending, asked: None },
                    // There was nothing to end, or it timed out.
                    "INVALID_TXN_STATE" => Stage::Init { expected: Some(producer), asked: None },
                    _ => Stage::Fenced,
                };
            }
            _ => self.clients[index].stage = Stage::Ending { ending, asked: None },
        }
    }

    /// Nobody asks any more; time passes until all is over.
    fn come_to_rest(&mut self) {
        self.world.commits_at_once = true;
        self.world.commit();
        for _ in 0..100 {
            self.world.advance(1_000);
            while !self.world.effects.is_empty() || !self.writers.is_empty() {
                self.perform_some();
            }
        }
        for (partition, producer, value) in std::mem::take(&mut self.on_the_way) {
            self.partitions[partition].append(producer, value);
        }
    }

    fn check(&self) {
        let mut seen: BTreeSet<(usize, Value)> = BTreeSet::new();
        for (index, partition) in self.partitions.iter().enumerate() {
            assert_eq!(partition.open_producer(), None, "it hangs in partition {index}");
            let committed = partition.committed();
            assert!(
                committed.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1 < pair[1].1),
                "out of order in partition {index}: {committed:?}"
            );
            for value in committed {
                assert!(seen.insert((index, value)), "{value:?} twice in partition {index}");
            }
        }
        for (number, attempt) in self.attempts.iter().enumerate() {
            let visible: BTreeSet<_> = seen.iter().filter(|(_, value)| value.0 == number).copied().collect();
            match attempt.outcome {
                Outcome::Committed => {
                    assert_eq!(visible, attempt.acked, "transaction {number} was committed")
                }
                Outcome::Aborted => {
                    assert!(visible.is_empty(), "transaction {number} was aborted: {visible:?}");
                }
                Outcome::Unknown => assert!(
                    visible.is_empty() || visible == attempt.acked,
                    "transaction {number} is torn: {visible:?} of {:?}",
                    attempt.acked
                ),
            }
        }
    }
}

fn run(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    (0..STEPS).for_each(|_| simulation.step());
    simulation.come_to_rest();
    simulation
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn transactions_are_whole_or_not_at_all(seed in any::<u64>()) {
        run(seed).check();
    }
}

/// What the property rests on does happen.
#[test]
fn the_simulation_commits_aborts_crashes_and_leaves_in_doubt() {
    let mut counts = BTreeMap::new();
    for seed in 0..20 {
        for attempt in run(seed).attempts.iter().filter(|attempt| !attempt.acked.is_empty()) {
            *counts.entry(format!("{:?}", attempt.outcome)).or_insert(0) += 1;
        }
    }
    for outcome in ["Committed", "Aborted", "Unknown"] {
        assert!(counts.get(outcome).is_some_and(|count| *count >= 10), "{counts:?}");
    }
}

#[test]
fn partitions_of_the_topic_are_numbered_as_their_models() {
    assert!(partitions(&[2]).contains("t", PartitionIndex(2)));
}
