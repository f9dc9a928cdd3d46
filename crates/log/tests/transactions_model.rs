//! Whatever batches, markers and verifications come in whatever order, the log takes and knows what a plain
//! model says, also after a stop, a kill and a truncation, and with records deleted.

mod support;

use std::collections::BTreeMap;

use klamm_log::disk::MemoryDisk;
use klamm_log::{Log, VerificationTicket};
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use proptest::prelude::*;
use support::transactions::*;
use support::*;

/// What the model knows of a batch in the log.
#[derive(Clone, Debug)]
enum Written {
    Data { id: i64, epoch: i16, sequence: i32, is_transactional: bool },
    Marker(Marker),
}

/// Told from all that was written, by one producer.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    /// None before the first batch.
    epoch: Option<i16>,
    coordinator_epoch: Option<i32>,
    open_since: Option<i64>,
    /// Sequence and offset of the last five.
    last: Vec<(i32, i64)>,
}

#[derive(Clone, Debug)]
struct Asked {
    ticket: VerificationTicket,
    lowest: i32,
    bumps_epoch: bool,
    is_verified: bool,
    waiting: u32,
}

#[derive(Default)]
struct PlainLog {
    /// One record each.
    written: Vec<Written>,
    log_start: i64,
    /// By producer, the first batch that is known: a start finds no repetition of those in files that are gone.
    known_from: BTreeMap<i64, i64>,
    asked: BTreeMap<(i64, i16), Asked>,
}

impl PlainLog {
    fn told(&self, id: i64) -> Told {
        let mut told = Told::default();
        for (offset, written) in (0..).zip(&self.written) {
            match written {
                Written::Data { id: of, epoch, sequence, is_transactional } if *of == id => {
                    if told.epoch != Some(*epoch) {
                        told.last.clear();
                    }
                    told.epoch = Some(*epoch);
                    told.last.push((*sequence, offset));
                    told.last.drain(..told.last.len().saturating_sub(5));
                    if *is_transactional && told.open_since.is_none() {
                        told.open_since = Some(offset);
                    }
                }
                Written::Marker(marker) if marker.id == id => {
                    if told.epoch != Some(marker.epoch) {
                        told.last.clear();
                    }
                    told.epoch = Some(marker.epoch);
                    told.coordinator_epoch = Some(marker.coordinator_epoch);
                    told.open_since = None;
                }
                _ => {}
            }
        }
        let known_from = self.known_from.get(&id).copied().unwrap_or(0);
        told.last.retain(|(_, offset)| *offset >= known_from);
        told
    }

    fn is_open(&self, id: i64, epoch: i16) -> bool {
        let told = self.told(id);
        told.open_since.is_some() && told.epoch == Some(epoch)
    }

    fn forget_asked(&mut self, id: i64, goes: impl Fn(i16, &Asked) -> bool) {
        self.asked.retain(|(of, epoch), asked| *of != id || !goes(*epoch, asked));
    }

    fn append(
        &mut self,
        id: i64,
        epoch: i16,
        sequence: i32,
        in_transaction: bool,
    ) -> Result<i64, &'static str> {
        let told = self.told(id);
        if told.epoch == Some(epoch)
            && let Some((_, offset)) = told.last.iter().find(|(known, _)| *known == sequence)
        {
            return Ok(*offset);
        }
        if told.epoch.is_some_and(|known| epoch < known) {
            return Err("epoch");
        }
        if in_transaction && !self.is_open(id, epoch) {
            let asked =
                self.asked.get(&(id, epoch)).filter(|asked| asked.is_verified).ok_or("transaction")?;
            if asked.lowest < sequence || asked.bumps_epoch && sequence != 0 && told.last.is_empty() {
                return Err("sequence");
            }
        }
        let expected = match told.epoch {
            None => sequence,
            Some(known) if known != epoch => 0,
            Some(_) => told.last.last().map_or(0, |(last, _)| last + 1),
        };
        if sequence != expected {
            return Err("sequence");
        }
        if !in_transaction && told.open_since.is_some() {
            return Err("transaction");
        }
        self.written.push(Written::Data { id, epoch, sequence, is_transactional: in_transaction });
        if in_transaction {
            self.forget_asked(id, |asked_epoch, _| asked_epoch <= epoch);
        }
        Ok(self.written.len() as i64 - 1)
    }

    fn mark(&mut self, marker: Marker) -> Result<i64, &'static str> {
        let told = self.told(marker.id);
        let known = told.epoch.unwrap_or(-1);
        let is_repeated = marker.epoch == known && told.open_since.is_none();
        if marker.epoch < known || marker.version == 2 && marker.epoch == known && !is_repeated {
            return Err("epoch");
        }
        if told.coordinator_epoch.is_some_and(|known| marker.coordinator_epoch < known) {
            return Err("coordinator");
        }
        self.written.push(Written::Marker(marker));
        self.forget_asked(marker.id, |epoch, asked| {
            epoch < marker.epoch || epoch == marker.epoch && !asked.bumps_epoch
        });
        Ok(self.written.len() as i64 - 1)
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// An epoch relative to the one that is known, a sequence relative to the next.
    Append {
        id: i64,
        epoch: i16,
        sequence: i32,
        in_transaction: bool,
    },
    Begin {
        id: i64,
        epoch: i16,
        sequence: i32,
        bumps_epoch: bool,
    },
    Confirm(prop::sample::Index),
    Refuse(prop::sample::Index),
    Mark {
        id: i64,
        epoch: i16,
        coordinator_epoch: i32,
        version: i16,
        is_commit: bool,
    },
    Truncate(u8),
    DeleteRecords(u8),
    Reopen {
        was_clean: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let id = || 1i64..4;
    let epoch = || prop_oneof![8 => Just(0i16), 2 => Just(1), 1 => Just(-1)];
    let sequence = || prop_oneof![8 => Just(0i32), 1 => 1..3i32, 2 => -6..0i32, 1 => Just(-100)];
    prop_oneof![
        12 => (id(), epoch(), sequence(), prop::bool::weighted(0.8))
            .prop_map(|(id, epoch, sequence, in_transaction)| Op::Append { id, epoch, sequence, in_transaction }),
        8 => (id(), epoch(), sequence(), any::<bool>())
            .prop_map(|(id, epoch, sequence, bumps_epoch)| Op::Begin { id, epoch, sequence, bumps_epoch }),
        8 => any::<prop::sample::Index>().prop_map(Op::Confirm),
        1 => any::<prop::sample::Index>().prop_map(Op::Refuse),
        5 => (id(), epoch(), -1..2i32, prop_oneof![Just(1i16), Just(2)], any::<bool>()).prop_map(
            |(id, epoch, coordinator_epoch, version, is_commit)| {
                Op::Mark { id, epoch, coordinator_epoch, version, is_commit }
            }
        ),
        1 => any::<u8>().prop_map(Op::Truncate),
        2 => any::<u8>().prop_map(Op::DeleteRecords),
        1 => any::<bool>().prop_map(|was_clean| Op::Reopen { was_clean }),
    ]
}

struct World {
    disk: MemoryDisk,
    log: Option<Log>,
    model: PlainLog,
    tickets: Vec<(i64, i16, VerificationTicket)>,
    /// Then a kill leaves the snapshots of what is flushed; else all is replayed.
    deletes_records: bool,
}

impl World {
    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn epoch(&self, id: i64, relative: i16) -> i16 {
        (self.model.told(id).epoch.unwrap_or(0) + relative).max(0)
    }

    /// A sequence of before as a repetition, the next one, or one too far.
    fn sequence(&self, id: i64, epoch: i16, relative: i32) -> i32 {
        let told = self.model.told(id);
        let next = told.last.last().filter(|_| told.epoch == Some(epoch)).map_or(0, |(last, _)| last + 1);
        (next + relative).max(0)
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Append { id, epoch, sequence, in_transaction } => {
                let epoch = self.epoch(id, epoch);
                let sequence = self.sequence(id, epoch, sequence);
                let found = put(self.log(), data(id, epoch, sequence, in_transaction));
                let expected = self.model.append(id, epoch, sequence, in_transaction);
                assert_eq!(found.map(|placed| placed.base_offset.0).map_err(|e| code(&e)), expected);
            }
            Op::Begin { id, epoch, sequence, bumps_epoch } => {
                let epoch = self.epoch(id, epoch);
                let sequence = self.sequence(id, epoch, sequence);
                let found = self.log().begin_verification(&claim(id, epoch, sequence, bumps_epoch), NOW);
                if self.model.told(id).epoch.is_some_and(|known| epoch < known) {
                    assert_eq!(code(&found.unwrap_err()), "epoch");
                } else if self.model.is_open(id, epoch) {
                    assert_eq!(found.unwrap(), None);
                } else {
                    let ticket = found.unwrap().unwrap();
                    let is_joined = self.model.asked.contains_key(&(id, epoch));
                    assert_eq!(self.tickets.iter().any(|known| known.2 == ticket), is_joined);
                    let new = Asked { ticket, lowest: sequence, bumps_epoch, is_verified: false, waiting: 0 };
                    let asked = self.model.asked.entry((id, epoch)).or_insert(new);
                    asked.lowest = asked.lowest.min(sequence);
                    asked.waiting += 1;
                    self.tickets.push((id, epoch, ticket));
                }
            }
            Op::Confirm(index) | Op::Refuse(index) => {
                if self.tickets.is_empty() {
                    return;
                }
                let (id, epoch, ticket) = *index.get(&self.tickets);
                let is_confirmed = matches!(op, Op::Confirm(_));
                if is_confirmed {
                    self.log().confirm_verification(ProducerId(id), ProducerEpoch(epoch), ticket);
                } else {
                    self.log().refuse_verification(ProducerId(id), ProducerEpoch(epoch), ticket);
                }
                if let Some(asked) =
                    self.model.asked.get_mut(&(id, epoch)).filter(|asked| asked.ticket == ticket)
                {
                    asked.waiting = asked.waiting.saturating_sub(1);
                    asked.is_verified |= is_confirmed;
                    if asked.waiting == 0 && !asked.is_verified {
                        self.model.asked.remove(&(id, epoch));
                    }
                }
            }
            Op::Mark { id, epoch, coordinator_epoch, version, is_commit } => {
                let told = self.model.told(id);
                let coordinator_epoch = (told.coordinator_epoch.unwrap_or(0) + coordinator_epoch).max(0);
                let marker =
                    Marker { id, epoch: self.epoch(id, epoch), coordinator_epoch, version, is_commit };
                let found = write_marker(self.log(), marker);
                let expected = self.model.mark(marker);
                assert_eq!(found.map(|placed| placed.base_offset.0).map_err(|e| code(&e)), expected);
            }
            Op::Truncate(share) => {
                let to = self.model.written.len() * usize::from(share) / 255;
                // Below, everything goes, and what was known with it.
                let first = self.log().view().load().1[0].base_offset().0.max(self.model.log_start);
                if to < self.model.written.len() && (first == 0 || to as i64 > first) {
                    self.log().truncate_to(Offset(to as i64), NOW).unwrap();
                    self.log().assign_leader_epoch(EPOCH).unwrap();
                    self.model.written.truncate(to);
                    self.model.asked.clear();
                    self.note_known();
                }
            }
            Op::DeleteRecords(share) => {
                if self.deletes_records {
                    let end = self.model.written.len() as i64;
                    self.model.log_start += (end - self.model.log_start) * i64::from(share) / 255;
                    let log_start = Offset(self.model.log_start);
                    let removal = self.log().advance_log_start(log_start).unwrap();
                    if share % 2 == 0 {
                        removal.mark(true).and_then(|()| removal.unlink()).unwrap();
                    }
                }
            }
            Op::Reopen { was_clean } => {
                let mut log = self.log.take().unwrap();
                let mut open = open_with(&self.disk, config());
                open.log_start = log.view().limits().log_start;
                open.was_clean = was_clean;
                if was_clean {
                    log.close().unwrap();
                } else if self.deletes_records {
                    log.flush().unwrap();
                    open.recovery_point = log.recovery_point();
                    drop(log);
                } else {
                    drop(log);
                }
                let (mut log, _) = Log::open(open).unwrap();
                log.assign_leader_epoch(EPOCH).unwrap();
                self.log = Some(log);
                // Who asked has gone with the log.
                self.model.asked.clear();
                self.tickets.clear();
                self.note_known();
            }
        }
    }

    /// A producer's last batch is known after a start too, and those before it that are still in the files.
    fn note_known(&mut self) {
        let log = self.log.as_ref().unwrap();
        let first_base = log.view().load().1[0].base_offset().0;
        for id in 1..4 {
            self.model.known_from.remove(&id);
            let entry = log.producers().get(ProducerId(id));
            let known_from = entry.and_then(|entry| entry.batches().first()).map(|b| b.first_offset().0);
            let told = self.model.told(id).last;
            let must_know = told.iter().map(|(_, offset)| *offset).find(|offset| *offset >= first_base);
            let must_know = must_know.or(told.last().map(|(_, offset)| *offset));
            assert!(known_from.is_some() == must_know.is_some() && known_from <= must_know, "{told:?}");
            self.model.known_from.extend(known_from.map(|known_from| (id, known_from)));
        }
    }

    fn check(&mut self) {
        let log = self.log.as_ref().unwrap();
        for id in 1..4 {
            let expected = self.model.told(id);
            let found = log.producers().get(ProducerId(id)).map_or_else(Told::default, |entry| Told {
                epoch: Some(entry.producer_epoch.0),
                coordinator_epoch: Some(entry.coordinator_epoch).filter(|epoch| *epoch >= 0),
                open_since: entry.current_txn_first_offset.map(|offset| offset.0),
                last: entry.batches().iter().map(|b| (b.first_sequence(), b.first_offset().0)).collect(),
            });
            assert_eq!(found, expected, "producer {id}");
        }
        let limits = log.view().limits();
        let open = (1..4).filter_map(|id| self.model.told(id).open_since).min();
        let log_start = self.model.log_start;
        assert_eq!(limits.last_stable.offset.0, open.map_or(limits.end.offset.0, |open| open.max(log_start)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_log_takes_what_the_model_takes(
        ops in proptest::collection::vec(op(), 1..60),
        deletes_records: bool,
    ) {
        let disk = MemoryDisk::new();
        let log = create(&disk, config());
        let model = PlainLog::default();
        let mut world = World { disk, log: Some(log), model, tickets: Vec::new(), deletes_records };
        for op in &ops {
            world.apply(op);
            world.check();
        }
    }
}
