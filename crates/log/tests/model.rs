//! Any sequence of operations leaves the log as the plain model says, also after a stop, a
//! kill, a torn tail and lost index files.

mod support;

use klamm_log::disk::{Disk, MemoryDisk};
use klamm_log::{AppendError, Log, OpenLog, Removal, RetentionLimits};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::{BATCH_HEADER_BYTES, RecordIter, ValidatedBatch};
use proptest::prelude::*;
use support::*;

#[derive(Clone, Debug)]
enum Op {
    Append(Vec<Draw>),
    Truncate(u8),
    AdvanceStart(u8, Fate),
    Retain { bytes_max: Option<u64>, age_ms_max: Option<i64>, fate: Fate },
    Flush,
    Roll,
    Restart,
    Kill { cut: u16, garbage: Vec<u8>, lost_index: bool },
}

/// How far the files of what left the head get.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Named,
    Marked,
    Unlinked,
}

#[derive(Clone, Debug)]
struct Draw {
    timestamps: Vec<i64>,
    producer: u8,
    /// 0..6: the next sequence; else a repetition, a gap, a new epoch, an old epoch.
    kind: u8,
}

fn draw() -> impl Strategy<Value = Draw> {
    (proptest::collection::vec(0i64..200, 1..4), 0u8..4, 0u8..10)
        .prop_map(|(timestamps, producer, kind)| Draw { timestamps, producer, kind })
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![Just(Fate::Named), Just(Fate::Marked), Just(Fate::Unlinked)]
}

fn op() -> impl Strategy<Value = Op> {
    let garbage = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (0usize..300).prop_map(|zeros| vec![0; zeros]),
    ];
    prop_oneof![
        12 => proptest::collection::vec(draw(), 1..5).prop_map(Op::Append),
        1 => any::<u8>().prop_map(Op::Truncate),
        1 => (any::<u8>(), fate()).prop_map(|(share, fate)| Op::AdvanceStart(share, fate)),
        1 => (proptest::option::of(0u64..6000), proptest::option::of(800i64..1000), fate())
            .prop_map(|(bytes_max, age_ms_max, fate)| Op::Retain { bytes_max, age_ms_max, fate }),
        1 => Just(Op::Flush),
        1 => Just(Op::Roll),
        1 => Just(Op::Restart),
        2 => (any::<u16>(), garbage, any::<bool>())
            .prop_map(|(cut, garbage, lost_index)| Op::Kill { cut, garbage, lost_index }),
    ]
}

/// A batch for what is drawn, given what the producer has written.
fn batch_for(draw: &Draw, model: &Model) -> ValidatedBatch {
    if draw.producer == 0 {
        return plain(&draw.timestamps);
    }
    let id = i64::from(draw.producer);
    let producers = model.producers();
    let Some((epoch, batches)) = producers.get(&id) else {
        return idempotent(id, 0, 0, &draw.timestamps);
    };
    let last = batches.last().unwrap();
    match draw.kind {
        6 => {
            let again = batches[usize::from(draw.producer) % batches.len()];
            let len = (again.1 - again.0 + 1) as usize;
            idempotent(id, *epoch, again.0, &vec![1; len])
        }
        7 => idempotent(id, *epoch, last.1 + 2, &draw.timestamps),
        8 => idempotent(id, epoch + 1, 0, &draw.timestamps),
        9 => idempotent(id, epoch - 1, last.1 + 1, &draw.timestamps),
        _ => idempotent(id, *epoch, last.1 + 1, &draw.timestamps),
    }
}

fn timestamps_of(batch: &ValidatedBatch) -> Vec<i64> {
    RecordIter::new(&batch.header, &batch.bytes[BATCH_HEADER_BYTES..]).map(|r| r.unwrap().timestamp).collect()
}

struct World {
    disk: MemoryDisk,
    log: Option<Log>,
    model: Model,
    /// A start that moves takes batches of producers away, and a state rebuilt from what is
    /// left knows less than one that lived: a run has the one or the other.
    has_producers: bool,
}

impl World {
    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn reopen(&mut self, was_clean: bool, recovery_point: Offset) {
        let log_start = Offset(self.model.log_start);
        let open = OpenLog { was_clean, recovery_point, log_start, ..open_with(&self.disk, small_config()) };
        let (mut log, report) = Log::open(open).unwrap();
        log.assign_leader_epoch(EPOCH).unwrap();
        // Not what a start left behind whose tail was lost: that is kept, whatever it is.
        let is_kept = |t: &klamm_log::Truncation| matches!(&t.tail, klamm_log::Tail::Corrupt { reason, .. } if !reason.starts_with("the log start"));
        assert!(!report.truncations.iter().any(is_kept), "{report:?}");
        assert!(!was_clean || report.truncations.is_empty(), "{report:?}");
        self.log = Some(log);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(draws) => self.append(draws),
            Op::Truncate(share) => {
                let span = self.model.end - self.model.log_start;
                let to = self.model.log_start + span * i64::from(*share) / 255;
                let starts_inside =
                    self.model.batches.first().is_some_and(|b| b.header.base_offset.0 < self.model.log_start);
                if to <= self.model.log_start || starts_inside {
                    return;
                }
                self.log().truncate_to(Offset(to), NOW).unwrap();
                self.model.truncate(to);
                self.model.end = self.model.end.max(self.model.log_start);
                self.log().assign_leader_epoch(EPOCH).unwrap();
            }
            Op::AdvanceStart(share, fate) => {
                let span = self.model.end - self.model.log_start;
                let to = self.model.log_start + span * i64::from(*share) / 255;
                if self.has_producers {
                    return;
                }
                let removal = self.log().advance_log_start(Offset(to)).unwrap();
                self.model.log_start = to;
                self.follow(removal, *fate);
            }
            Op::Retain { bytes_max, age_ms_max, fate } => {
                if !self.has_producers {
                    self.retain(RetentionLimits { bytes_max: *bytes_max, age_ms_max: *age_ms_max }, *fate);
                }
            }
            Op::Flush => self.log().flush().unwrap(),
            Op::Roll => {
                self.log().roll_if_due(klamm_protocol::time::WallMs(i64::MAX)).unwrap();
            }
            Op::Restart => {
                self.log.take().unwrap().close().unwrap();
                self.reopen(true, Offset(0));
            }
            Op::Kill { cut, garbage, lost_index } => self.kill(*cut, garbage, *lost_index),
        }
    }

    /// The model's segments are the log's: which of them go is the unit tests' business.
    fn retain(&mut self, limits: RetentionLimits, fate: Fate) {
        let cut = self.log().view().decide_retention(&limits, NOW).unwrap();
        let removal = self.log().cut_head(&cut, NOW).unwrap();
        assert_eq!(removal.segment_count(), cut.segment_count());
        assert_eq!(self.log().view().limits().log_start, cut.log_start);
        self.model.log_start = cut.log_start.0;
        self.follow(removal, fate);
        let view = self.log().view();
        assert!(limits.bytes_max.is_none_or(|max| self.log().size_bytes() < max + 1500));
        let age = |segment: &klamm_log::Segment| segment.max_timestamp().unwrap();
        let is_old = |at: i64| at >= 0 && limits.age_ms_max.is_some_and(|max| NOW.0 - at > max);
        assert!(!is_old(age(&view.load().1[0])), "the oldest that is left is not too old");
        assert!(view.decide_retention(&limits, NOW).unwrap().segment_count() == 0, "once is enough");
    }

    fn follow(&mut self, removal: Removal, fate: Fate) {
        let first = self.log().view().load().1[0].base_offset();
        self.model.batches.retain(|batch| batch.header.base_offset >= first);
        match fate {
            Fate::Named => {}
            Fate::Marked => removal.mark(true).unwrap(),
            Fate::Unlinked => {
                removal.mark(false).unwrap();
                removal.unlink().unwrap();
            }
        }
    }

    fn append(&mut self, draws: &[Draw]) {
        // Drawn against the state before the group: within it, some become duplicates.
        let batches: Vec<_> = draws
            .iter()
            .map(
                |draw| {
                    if self.has_producers { batch_for(draw, &self.model) } else { plain(&draw.timestamps) }
                },
            )
            .collect();
        let results = append(self.log(), &batches);
        for (batch, result) in batches.iter().zip(results) {
            let timestamps = timestamps_of(batch);
            let expected = self.model.append(batch, &timestamps);
            match (result, expected) {
                (Ok(placed), Ok(expected)) => {
                    assert_eq!((placed.base_offset.0, placed.is_duplicate), expected);
                }
                (Err(AppendError::InvalidProducerEpoch(_)), Err("epoch")) => {}
                (Err(AppendError::OutOfOrderSequence(_)), Err("sequence")) => {}
                (result, expected) => panic!("{result:?} instead of {expected:?}"),
            }
        }
    }

    fn kill(&mut self, cut: u16, garbage: &[u8], lost_index: bool) {
        let log = self.log.take().unwrap();
        let view = log.view();
        let limits = view.limits();
        let base = limits.end.segment_base;
        let durable = if limits.flushed.segment_base == base { limits.flushed.position } else { 0 };
        let size = limits.end.position;
        let kept = size - (u32::from(cut) % (size - durable + 1));
        let mut position = 0;
        self.model.batches.retain(|batch| {
            let is_in_active = batch.header.base_offset >= base;
            position += if is_in_active { batch.header.batch_bytes } else { 0 };
            !is_in_active || position <= kept
        });
        let last = self.model.batches.last().map(|batch| batch.header.next_offset().0);
        self.model.end = last.unwrap_or(base.0).max(base.0);
        if self.model.end < self.model.log_start {
            self.model.batches.clear();
            self.model.end = self.model.log_start;
        }
        drop(log);
        self.disk
            .tamper(&file(base.0, ".log"), |bytes| {
                let lost = bytes.get(kept as usize).copied();
                bytes.truncate(kept as usize);
                // Garbage must not happen to be what was lost.
                if lost.is_none() || lost != garbage.first().copied() {
                    bytes.extend_from_slice(garbage);
                }
            })
            .unwrap();
        if lost_index {
            let _ = self.disk.remove_file(&file(base.0, ".index"));
        }
        self.reopen(false, limits.flushed.offset);
    }

    fn check(&mut self) {
        let (log, model) = (self.log.as_ref().unwrap(), &self.model);
        check_reads(log, model, 1);
        check_reads(log, model, 400);
        for asked in [0, 1, 50, 120, 199, 200] {
            check_timestamps(log, model, asked);
        }
        let view = log.view();
        let found = view.max_timestamp(view.limits().end).unwrap().map(|f| (f.offset.0, f.timestamp));
        if model.batches.first().is_none_or(|batch| batch.header.base_offset.0 >= model.log_start) {
            assert_eq!(found, model.record_with_max_timestamp());
        }
        check_producers(log, model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]
    #[test]
    fn the_log_is_what_the_model_is(has_producers: bool, ops in proptest::collection::vec(op(), 1..40)) {
        let disk = MemoryDisk::new();
        let log = create(&disk, small_config());
        let mut world = World { disk, log: Some(log), model: Model::default(), has_producers };
        for op in &ops {
            world.apply(op);
            world.check();
        }
    }
}
