//! No CRC covers a base offset: the batch that has a wrong one is blamed, not the good one behind it.

mod support;

use klamm_log::disk::{Disk, MemoryDisk};
use klamm_log::{AppendOrigin, Corruption, Log, LogConfig, ReadError, RecoveryReport};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::ValidatedBatch;
use support::*;

/// A log of these batches, killed.
struct Killed {
    disk: MemoryDisk,
    config: LogConfig,
    model: Model,
}

fn killed(config: LogConfig, batches: &[&[i64]]) -> Killed {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config.clone());
    let mut model = Model::default();
    for timestamps in batches {
        let batch = plain(timestamps);
        append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
        model.append(&batch, timestamps).unwrap();
    }
    log.flush().unwrap();
    Killed { disk, config, model }
}

fn one_segment(is_compacted: bool) -> LogConfig {
    LogConfig { is_compacted, segment_bytes: 1 << 20, ..small_config() }
}

impl Killed {
    /// Adds so much to the base offset of a batch in the segment that begins at `base`.
    fn move_batch(&self, base: i64, index: usize, by: u8) {
        let before = self.model.batches[..index].iter().filter(|one| one.header.base_offset.0 >= base);
        let position: usize = before.map(|one| one.bytes.len()).sum();
        self.disk.tamper(&file(base, ".log"), |bytes| bytes[position + 7] += by).unwrap();
    }

    /// Only the batch at `index` is refused, whatever of the log is durable. A start looks at its segment
    /// if that reaches to the recovery point.
    fn check(&self, index: usize, segment_end: i64) {
        let ends = self.model.batches[index..].iter().map(|batch| batch.header.next_offset());
        for point in ends {
            let disk = self.disk.fork();
            let (log, report) = reopen_unclean(&disk, self.config.clone(), point);
            let what = format!("recovery point {point}: {report:?}");
            self.check_log(&log, &report, index, &what);
            assert_eq!(report.corrupt.len(), usize::from(point.0 <= segment_end), "{what}");
            log.close().unwrap();
            let clean = klamm_log::OpenLog {
                recovery_point: Offset(self.model.end),
                ..open_with(&disk, self.config.clone())
            };
            let (log, report) = Log::open(clean).unwrap();
            self.check_log(&log, &report, index, &format!("{what}, and after a clean stop"));
        }
    }

    fn check_log(&self, log: &Log, report: &RecoveryReport, index: usize, what: &str) {
        assert_eq!(report.truncations, [], "{what}");
        let view = log.view();
        assert_eq!(view.limits().end.offset.0, self.model.end, "{what}");
        let mut found = Vec::new();
        for (at, batch) in self.model.batches.iter().enumerate() {
            for offset in batch.header.base_offset.0..batch.header.next_offset().0 {
                let read = view.read_checked(Offset(offset), view.limits().end, 1, true, &mut found);
                match read {
                    Err(ReadError::Quarantined { .. }) => assert_eq!(at, index, "offset {offset}, {what}"),
                    read => {
                        assert_ne!(at, index, "offset {offset}, {what}");
                        assert_eq!(read.unwrap().unwrap().read().unwrap(), batch.bytes, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_durable_batch_that_seems_to_reach_beyond_the_recovery_point_hides_nothing_behind_it() {
    for is_compacted in [false, true] {
        let killed = killed(one_segment(is_compacted), &[&[1], &[2, 2, 2, 2], &[3, 3], &[4]]);
        killed.move_batch(0, 1, 2);
        killed.check(1, i64::MAX);
    }
}

/// The batch behind it lies below the recovery point itself, and what it claims ends behind that.
#[test]
fn a_durable_batch_that_seems_to_reach_over_several_others_hides_none_of_them() {
    for by in [1, 2, 3, 4, 8] {
        let killed = killed(one_segment(false), &[&[1], &[2, 2, 2], &[3], &[4, 4, 4], &[5], &[6, 6]]);
        killed.move_batch(0, 1, by);
        killed.check(1, i64::MAX);
    }
}

#[test]
fn the_last_batch_of_a_segment_is_held_against_the_next_segment() {
    for is_compacted in [false, true] {
        let config = LogConfig { is_compacted, ..small_config() };
        let killed = killed(config, &[[1; 2].as_slice(); 10]);
        assert!(killed.disk.exists(&file(10, ".log")).unwrap());
        killed.move_batch(0, 4, 1);
        killed.check(4, 10);
    }
}

/// The offset index names the moved batch, the time index ends before the one behind it.
#[test]
fn a_walk_begins_nowhere_that_no_header_confirms() {
    let config = LogConfig { index_interval_bytes: 1, ..one_segment(false) };
    let killed = killed(config, &[&[1], &[2, 2], &[9, 9, 9], &[3], &[4, 4], &[5]]);
    killed.move_batch(0, 2, 4);
    killed.check(2, i64::MAX);
}

/// Compaction left a gap before a good batch; the one behind it is broken altogether.
#[test]
fn a_broken_batch_whose_offset_goes_back_is_blamed_itself() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, one_segment(true));
    let batches: Vec<ValidatedBatch> = [0, 10, 11, 12].into_iter().map(at).collect();
    for batch in &batches {
        let plan = log.plan(&context(AppendOrigin::Replication), std::slice::from_ref(batch));
        log.write(plan)[0].as_ref().unwrap();
    }
    log.close().unwrap();
    let len = batches[0].bytes.len();
    disk.tamper(&file(0, ".log"), |bytes| {
        bytes[2 * len + 7] = 5;
        bytes[2 * len + 90] ^= 1;
    })
    .unwrap();
    let open = klamm_log::OpenLog { recovery_point: Offset(13), ..open_with(&disk, one_segment(true)) };
    let (log, _) = Log::open(open).unwrap();
    let view = log.view();
    let mut found: Vec<Corruption> = Vec::new();
    for (from, good) in [(0, 0), (10, 10), (12, 12)] {
        let region = view.read_checked(Offset(from), view.limits().end, 1, true, &mut found);
        assert_eq!(region.unwrap().unwrap().base_offset, Offset(good));
    }
    let [Corruption { range, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!((range.position as usize, range.end_position as usize), (2 * len, 3 * len));
    assert_eq!((range.offset, range.end_offset), (Offset(11), Offset(12)));
}

fn at(base: i64) -> ValidatedBatch {
    let mut batch = plain(&[1]);
    batch.header.base_offset = Offset(base);
    batch.header.leader_epoch = EPOCH;
    batch
}
