//! A group coordinator with a log in memory, timers and virtual time.
//!
//! It does what the broker's coordinator host does: records are applied right after the decision that
//! wrote them, replies are handed out, timers fire in the order of their times. A crash replays the
//! log's bytes into a new machine and drops whoever waits. What it is told to refuse, or is too large for a batch, is
//! not applied and answered with an error. What it deliberately does not do: delay a commit.
//!
//! Invariants: a key is answered at most once, and only if it was asked; a record that is read back
//! says what was written.

#![allow(dead_code, reason = "each test binary uses a part")]

mod refusal;
mod shown;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bytes::Bytes;
use klamm_cluster::config::ConfigLayers;
use klamm_cluster::image::{MetadataDelta, MetadataImage};
use klamm_cluster::record::MetadataRecord;
use klamm_coordinator::contract::{At, Coordinator, Ctx, Outcome, ReplyKey, TimerOp};
use klamm_coordinator::group::record::GroupRecord;
use klamm_coordinator::group::settings::GroupSettings;
use klamm_coordinator::group::{Client, GroupCommand, GroupCoordinator, GroupReply, GroupTimer};
use klamm_coordinator::record::Codec;
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerId, TopicId, Uuid};
use klamm_protocol::messages::metadata_records::{PartitionRecord, RemoveTopicRecord, TopicRecord};
use klamm_protocol::time::{MonoMs, WallMs};
use klamm_protocol::wire::WireStr;

/// What a wall clock shows when the world begins.
pub const WALL_START: WallMs = WallMs(1_000_000);

/// One entry of the partition's log, as bytes.
#[derive(Clone, Debug)]
pub enum Entry {
    Record { at: At, key: Bytes, value: Option<Bytes> },
    Marker { producer: ProducerId, is_committed: bool },
}

/// A coordinator, its log, and what was said.
pub struct World {
    pub machine: GroupCoordinator,
    pub log: Vec<Entry>,
    pub now: MonoMs,
    pub image: MetadataImage,
    pub settings: GroupSettings,
    /// What the topic takes.
    pub batch_bytes_max: usize,
    /// So many outcomes with records the log does not take from now on.
    pub refusals_left: u32,
    pub timers: BTreeMap<GroupTimer, MonoMs>,
    /// Asked and not answered yet.
    pub parked: BTreeSet<ReplyKey>,
    /// Answered, and not taken yet.
    replies: BTreeMap<ReplyKey, GroupReply>,
    transcript: String,
    given: BTreeMap<String, String>,
    next_key: u64,
    next_offset: Offset,
    next_topic: u128,
    random: Cell<u128>,
}

impl World {
    /// With Kafka's defaults.
    pub fn new() -> Self {
        Self::with_configs(&[])
    }

    /// With some of the broker's keys set.
    pub fn with_configs(configs: &[(&str, &str)]) -> Self {
        let mut world = Self {
            machine: GroupCoordinator::default(),
            log: Vec::new(),
            now: MonoMs(0),
            image: MetadataImage::default(),
            settings: GroupSettings::from(&ConfigLayers::default()),
            batch_bytes_max: 1_048_588,
            refusals_left: 0,
            timers: BTreeMap::new(),
            parked: BTreeSet::new(),
            replies: BTreeMap::new(),
            transcript: String::new(),
            given: BTreeMap::new(),
            next_key: 1,
            next_offset: Offset(0),
            next_topic: 1,
            random: Cell::new(0),
        };
        for (name, value) in configs {
            world.set_config(name, value);
        }
        world.load();
        world
    }

    /// Changes one of the broker's keys.
    pub fn set_config(&mut self, name: &str, value: &str) {
        self.given.insert(name.to_owned(), value.to_owned());
        self.settings = GroupSettings::from(&ConfigLayers::new(self.given.clone()));
    }

    /// What the wall's clock shows.
    pub fn wall(&self) -> WallMs {
        WallMs(WALL_START.0 + i64::try_from(self.now.0).expect("tests are short"))
    }

    /// Asks; the answer, if there is one yet, waits for [`Self::take_reply`].
    pub fn ask(&mut self, command: GroupCommand) -> ReplyKey {
        let key = ReplyKey(self.next_key);
        self.next_key += 1;
        writeln!(self.transcript, "> #{} {}", key.0, shown::debug(&command)).unwrap();
        self.parked.insert(key);
        self.turn(|machine, cx, out| machine.decide(cx, key, command, out));
        key
    }

    /// Asks what is answered at once.
    pub fn call(&mut self, command: GroupCommand) -> GroupReply {
        let key = self.ask(command);
        self.take_reply(key).expect("answered at once")
    }

    /// The answer to `key`, once.
    pub fn take_reply(&mut self, key: ReplyKey) -> Option<GroupReply> {
        self.replies.remove(&key)
    }

    /// Whether nobody has answered `key`.
    pub fn is_parked(&self, key: ReplyKey) -> bool {
        self.parked.contains(&key)
    }

    /// Lets `ms` milliseconds pass; timers fire on the way.
    pub fn advance(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        while let Some((timer, at)) = self.next_timer().filter(|(_, at)| *at <= until) {
            self.now = self.now.max(at);
            self.timers.remove(&timer);
            let start = self.transcript.len();
            writeln!(self.transcript, "@ {} ms: {}", self.now.0, shown::debug(&timer)).unwrap();
            let heard = self.transcript.len();
            self.turn(|machine, cx, out| machine.expire(cx, timer, out));
            if self.transcript.len() == heard + 1 {
                // Nothing came of it.
                self.transcript.truncate(start);
            }
        }
        self.now = until;
    }

    /// The timer that fires first.
    pub fn next_timer(&self) -> Option<(GroupTimer, MonoMs)> {
        let (timer, at) = self.timers.iter().min_by_key(|(_, at)| **at)?;
        Some((timer.clone(), *at))
    }

    /// Ends the machine and loads a new one from the log's bytes. Gives those who waited: nobody answers them.
    pub fn crash(&mut self) -> BTreeSet<ReplyKey> {
        writeln!(self.transcript, "! crash").unwrap();
        self.machine = GroupCoordinator::default();
        self.timers.clear();
        let dropped = std::mem::take(&mut self.parked);
        self.load();
        dropped
    }

    fn load(&mut self) {
        for entry in &self.log {
            match entry {
                Entry::Record { at, key, value } => {
                    let decoded = GroupRecord::decode(Some(key.clone()), value.clone());
                    self.machine.apply(*at, &decoded.expect("written here").expect("a kind of ours"));
                }
                Entry::Marker { producer, is_committed } => {
                    self.machine.end_transaction(*producer, *is_committed);
                }
            }
        }
        self.turn(|machine, cx, out| machine.loaded(cx, out));
    }

    /// Cleans the log as the log cleaner does: of every key the last record stays, tombstones go.
    /// Only for a log without transactions.
    pub fn compact(&mut self) {
        let mut seen = BTreeSet::new();
        self.log.reverse();
        self.log.retain(|entry| match entry {
            Entry::Record { key, value, .. } => seen.insert(key.clone()) && value.is_some(),
            Entry::Marker { .. } => panic!("a transaction"),
        });
        self.log.reverse();
    }

    /// Ends a producer's transaction.
    pub fn end_transaction(&mut self, producer: ProducerId, is_committed: bool) {
        let at = self.take_offset();
        let outcome = if is_committed { "committed" } else { "aborted" };
        writeln!(self.transcript, "  {}: transaction of {} {outcome}\n", at.0, producer.0).unwrap();
        self.log.push(Entry::Marker { producer, is_committed });
        self.machine.end_transaction(producer, is_committed);
    }

    /// Takes a record that somebody else wrote into the log.
    pub fn append(&mut self, record: GroupRecord) {
        self.apply_and_keep(record, None);
    }

    /// All records of the log, in their order.
    pub fn records(&self) -> Vec<GroupRecord> {
        let records = self.log.iter().filter_map(|entry| match entry {
            Entry::Record { key, value, .. } => {
                Some(GroupRecord::decode(Some(key.clone()), value.clone()).unwrap().unwrap())
            }
            Entry::Marker { .. } => None,
        });
        records.collect()
    }

    /// Everything since the last call.
    pub fn take_transcript(&mut self) -> String {
        shown::shorten_uuids(&std::mem::take(&mut self.transcript))
    }

    /// Creates a topic, or more partitions for one that is there.
    pub fn create_topic(&mut self, name: &str, partition_count: i32) -> TopicId {
        let known = self.image.topic_by_name(name).map(|topic| (topic.id, topic.partitions.len()));
        let mut records = Vec::new();
        let (id, first) = known.unwrap_or_else(|| {
            let id = TopicId(Uuid(self.next_topic));
            self.next_topic += 1;
            let name = WireStr::from(name.to_owned());
            records.push(MetadataRecord::Topic(TopicRecord { name, topic_id: id.0 }));
            (id, 0)
        });
        for partition_id in i32::try_from(first).unwrap()..partition_count {
            records.push(MetadataRecord::Partition(PartitionRecord {
                partition_id,
                topic_id: id.0,
                replicas: vec![1],
                isr: vec![1],
                leader: 1,
                leader_epoch: 0,
                partition_epoch: 0,
                ..Default::default()
            }));
        }
        self.change_image(&records);
        id
    }

    /// Deletes a topic.
    pub fn delete_topic(&mut self, name: &str) {
        let topic_id = self.image.topic_by_name(name).expect("the topic exists").id.0;
        self.change_image(&[MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id })]);
    }

    /// Takes records into the image and lets the machine follow.
    pub fn change_image(&mut self, records: &[MetadataRecord]) {
        let mut delta = MetadataDelta::default();
        for record in records {
            self.image.apply(self.image.next_offset(), record, &mut delta);
        }
        writeln!(self.transcript, "> new image").unwrap();
        self.turn(|machine, cx, out| machine.follow_image(cx, &delta, out));
    }

    /// One call of the machine, and what a host does with its outcome.
    fn turn(
        &mut self,
        call: impl FnOnce(&mut GroupCoordinator, &Ctx<'_, GroupSettings>, &mut Outcome<GroupCoordinator>),
    ) {
        let mut out = Outcome::default();
        let random = || {
            self.random.set(self.random.get() + 1);
            self.random.get()
        };
        let cx = Ctx {
            mono: self.now,
            wall: self.wall(),
            leader_epoch: LeaderEpoch(0),
            image: &self.image,
            settings: &self.settings,
            batch_bytes_max: self.batch_bytes_max,
            random: &random,
        };
        call(&mut self.machine, &cx, &mut out);
        if let Some(error) = refusal::why(&out, &mut self.refusals_left, self.batch_bytes_max) {
            writeln!(self.transcript, "! refused: {}", error.name()).unwrap();
            refusal::refuse(&mut self.machine, &cx, &mut out, error);
        }
        let transaction = out.transaction.map(|(producer, _)| producer);
        for record in out.records {
            self.apply_and_keep(record, transaction);
        }
        for (key, reply) in out.replies {
            assert!(self.parked.remove(&key), "#{} is answered twice, or was not asked", key.0);
            writeln!(self.transcript, "< #{} {}", key.0, shown::debug(&reply)).unwrap();
            self.replies.insert(key, reply);
        }
        for op in out.timers {
            match op {
                TimerOp::Set(timer, at) => self.timers.insert(timer, at),
                TimerOp::Cancel(timer) => self.timers.remove(&timer),
            };
        }
        if !self.transcript.is_empty() && !self.transcript.ends_with("\n\n") {
            self.transcript.push('\n');
        }
    }

    fn apply_and_keep(&mut self, record: GroupRecord, transaction: Option<ProducerId>) {
        let at = At { offset: self.take_offset(), transaction };
        writeln!(self.transcript, "  {}: {}", at.offset.0, shown::debug(&record)).unwrap();
        let (key, value) = record.encode().expect("a record that its version can say");
        let decoded = GroupRecord::decode(Some(key.clone()), value.clone()).unwrap();
        assert_eq!(decoded.as_ref(), Some(&record), "read back");
        self.machine.apply(at, &record);
        self.log.push(Entry::Record { at, key, value });
    }

    fn take_offset(&mut self) -> Offset {
        let offset = self.next_offset;
        self.next_offset = offset.plus(1);
        offset
    }
}

/// A client by its id, on this machine.
pub fn client(id: &str) -> Client {
    Client { id: id.to_owned().into(), host: "/127.0.0.1".into() }
}
