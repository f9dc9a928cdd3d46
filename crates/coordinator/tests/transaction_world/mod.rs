//! A transaction coordinator with a log in memory that commits late, timers and virtual time.
//!
//! It does what the broker's coordinator host does: records are applied right after the decision that
//! wrote them; answers and effects leave once the log is committed as far as it was written then. A
//! crash loses what was not committed and replays the rest. What it deliberately does not do: write
//! markers; the tests perform the effects.
//!
//! Invariant: a key is answered at most once, and only if it was asked.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use bytes::Bytes;
use klamm_cluster::config::ConfigLayers;
use klamm_cluster::features::TRANSACTION_VERSION;
use klamm_cluster::image::{MetadataDelta, MetadataImage};
use klamm_cluster::record::MetadataRecord;
use klamm_coordinator::contract::{At, Coordinator, Ctx, Outcome, ReplyKey, TimerOp};
use klamm_coordinator::record::Codec;
use klamm_coordinator::transaction::{
    Partitions, Producer, Transaction, TransactionCommand, TransactionCoordinator, TransactionCtx,
    TransactionEffect, TransactionOutcome, TransactionRecord, TransactionReply, TransactionSettings,
    TransactionTimer,
};
use klamm_protocol::ids::{LeaderEpoch, Offset, PartitionIndex, ProducerId};
use klamm_protocol::messages::metadata_records::FeatureLevelRecord;
use klamm_protocol::time::{MonoMs, WallMs};
use klamm_protocol::wire::WireStr;

/// What a wall clock shows when the world begins.
const WALL_START: WallMs = WallMs(1_000_000);

/// What waits for a commit.
enum Held {
    Reply(ReplyKey, TransactionReply),
    Effect(TransactionEffect),
}

/// A coordinator, its log, and what was said.
pub struct World {
    pub machine: TransactionCoordinator,
    pub now: MonoMs,
    pub settings: TransactionSettings,
    /// Committed, and not performed yet.
    pub effects: VecDeque<TransactionEffect>,
    /// Commits at once what is written.
    pub commits_at_once: bool,
    log: Vec<(Bytes, Option<Bytes>)>,
    committed: usize,
    held: VecDeque<(usize, Held)>,
    image: MetadataImage,
    timers: BTreeMap<TransactionTimer, MonoMs>,
    parked: BTreeSet<ReplyKey>,
    replies: BTreeMap<ReplyKey, TransactionReply>,
    transcript: String,
    next_key: u64,
    next_producer_id: i64,
    epoch: LeaderEpoch,
}

impl World {
    /// With `transaction.version` finalized at `level`.
    pub fn new(level: i16) -> Self {
        let mut image = MetadataImage::default();
        let feature = FeatureLevelRecord {
            name: WireStr::from_static(TRANSACTION_VERSION),
            feature_level: level,
            ..Default::default()
        };
        let record = MetadataRecord::FeatureLevel(feature);
        image.apply(image.next_offset(), &record, &mut MetadataDelta::default());
        let mut world = Self {
            machine: TransactionCoordinator::default(),
            now: MonoMs(0),
            settings: TransactionSettings::from(&ConfigLayers::default()),
            effects: VecDeque::new(),
            commits_at_once: true,
            log: Vec::new(),
            committed: 0,
            held: VecDeque::new(),
            image,
            timers: BTreeMap::new(),
            parked: BTreeSet::new(),
            replies: BTreeMap::new(),
            transcript: String::new(),
            next_key: 0,
            next_producer_id: 1000,
            epoch: LeaderEpoch(0),
        };
        world.turn(|machine, cx, out| machine.loaded(cx, out));
        world
    }

    /// An id that nobody had before.
    pub fn fresh_id(&mut self) -> ProducerId {
        self.next_producer_id += 1;
        ProducerId(self.next_producer_id - 1)
    }

    /// Asks; the answer, once there is one, waits for [`Self::take_reply`].
    pub fn ask(&mut self, command: TransactionCommand) -> ReplyKey {
        let key = ReplyKey(self.next_key);
        self.next_key += 1;
        writeln!(self.transcript, "> #{} {}", key.0, shown(&command)).unwrap();
        self.parked.insert(key);
        self.turn(|machine, cx, out| machine.decide(cx, key, command, out));
        key
    }

    /// Asks what is answered at once.
    pub fn call(&mut self, command: TransactionCommand) -> TransactionReply {
        let key = self.ask(command);
        self.take_reply(key).expect("answered at once")
    }

    /// The answer to `key`, once.
    pub fn take_reply(&mut self, key: ReplyKey) -> Option<TransactionReply> {
        self.replies.remove(&key)
    }

    /// Whether an answer to `key` may still come.
    pub fn is_parked(&self, key: ReplyKey) -> bool {
        self.parked.contains(&key)
    }

    /// Everything that was written counts.
    pub fn commit(&mut self) {
        self.committed = self.log.len();
        while let Some((_, held)) = self.held.pop_front_if(|(end, _)| *end <= self.committed) {
            match held {
                Held::Reply(key, reply) => {
                    assert!(self.parked.remove(&key), "#{} is answered twice, or was not asked", key.0);
                    writeln!(self.transcript, "< #{} {}", key.0, shown(&reply)).unwrap();
                    self.replies.insert(key, reply);
                }
                Held::Effect(effect) => {
                    writeln!(self.transcript, "* {}", shown(&effect)).unwrap();
                    self.effects.push_back(effect);
                }
            }
        }
    }

    /// Lets `ms` milliseconds pass; timers fire on the way.
    pub fn advance(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        while let Some((timer, at)) =
            self.timers.iter().map(|(timer, at)| (timer.clone(), *at)).min_by_key(|(_, at)| *at)
            && at <= until
        {
            self.now = self.now.max(at);
            self.timers.remove(&timer);
            let start = self.transcript.len();
            writeln!(self.transcript, "@ {} ms: {timer:?}", self.now.0).unwrap();
            let heard = self.transcript.len();
            self.turn(|machine, cx, out| machine.expire(cx, timer, out));
            if self.transcript.trim_end().len() < heard {
                // Nothing came of it.
                self.transcript.truncate(start);
            }
        }
        self.now = until;
    }

    /// Loses all that is not committed but the first `kept` entries of it, ends the machine and loads a new
    /// one. Nobody answers those who wait.
    pub fn crash(&mut self, kept: usize) {
        writeln!(self.transcript, "! crash").unwrap();
        self.log.truncate(self.committed + kept);
        self.committed = self.log.len();
        self.held.clear();
        self.timers.clear();
        self.parked.clear();
        self.epoch.0 += 1;
        self.machine = TransactionCoordinator::default();
        for (offset, (key, value)) in (0..).zip(&self.log) {
            let record = TransactionRecord::decode(Some(key.clone()), value.clone());
            let record = record.expect("written here").expect("a kind of ours");
            self.machine.apply(At { offset: Offset(offset), transaction: None }, &record);
        }
        self.turn(|machine, cx, out| machine.loaded(cx, out));
    }

    /// How much is written and not committed.
    pub fn uncommitted_count(&self) -> usize {
        self.log.len() - self.committed
    }

    /// Everything since the last call.
    pub fn take_transcript(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }

    fn turn(
        &mut self,
        call: impl FnOnce(&mut TransactionCoordinator, &TransactionCtx<'_>, &mut TransactionOutcome),
    ) {
        let mut out = Outcome::default();
        let cx = Ctx {
            mono: self.now,
            wall: WallMs(WALL_START.0 + i64::try_from(self.now.0).expect("tests are short")),
            leader_epoch: self.epoch,
            image: &self.image,
            settings: &self.settings,
            batch_bytes_max: 1_048_588,
            random: &|| 0,
        };
        call(&mut self.machine, &cx, &mut out);
        for record in out.records {
            let at = At { offset: Offset(self.log.len() as i64), transaction: None };
            writeln!(self.transcript, "  {}: {}", at.offset.0, written(&record)).unwrap();
            let (key, value) = record.encode().expect("a record that its version can say");
            let decoded = TransactionRecord::decode(Some(key.clone()), value.clone()).unwrap();
            assert_eq!(decoded.as_ref(), Some(&record), "read back");
            self.machine.apply(at, &record);
            self.log.push((key, value));
        }
        let end = self.log.len();
        let replies = out.replies.into_iter().map(|(key, reply)| Held::Reply(key, reply));
        let effects = out.effects.into_iter().map(Held::Effect);
        self.held.extend(replies.chain(effects).map(|held| (end, held)));
        for op in out.timers {
            match op {
                TimerOp::Set(timer, at) => self.timers.insert(timer, at),
                TimerOp::Cancel(timer) => self.timers.remove(&timer),
            };
        }
        if self.commits_at_once || self.committed == end {
            self.commit();
        }
        if !self.transcript.is_empty() && !self.transcript.ends_with("\n\n") {
            self.transcript.push('\n');
        }
    }
}

/// A producer.
pub fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: klamm_protocol::ids::ProducerEpoch(epoch) }
}

/// Partitions of the topic `t`.
pub fn partitions(indexes: &[i32]) -> Partitions {
    let mut partitions = Partitions::default();
    indexes.iter().for_each(|index| partitions.insert("t", PartitionIndex(*index)));
    partitions
}

fn shown_partitions(partitions: &Partitions) -> String {
    let each: Vec<String> =
        partitions.iter().map(|(topic, partition)| format!("{topic}-{partition}")).collect();
    each.join(" ")
}

fn written(record: &TransactionRecord) -> String {
    let id = &record.transactional_id;
    let Some(Transaction { producer, previous_producer_id, next_producer_id, state, partitions, .. }) =
        &record.transaction
    else {
        return format!("{id} is forgotten");
    };
    let mut text = format!("{id} {} {}/{}", state.name(), producer.id, producer.epoch);
    if *previous_producer_id != producer.id {
        write!(text, " after {previous_producer_id}").unwrap();
    }
    if *next_producer_id != ProducerId::default() {
        write!(text, " before {next_producer_id}").unwrap();
    }
    if !partitions.is_empty() {
        write!(text, " [{}]", shown_partitions(partitions)).unwrap();
    }
    text
}

/// `Debug` without what a reader stumbles over.
fn shown(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
        .replace("transactional_id: ", "")
        .replace("Producer { id: ", "Producer { ")
        .replace("partitions: Partitions(", "(")
}
