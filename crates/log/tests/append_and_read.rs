//! Appending, reading and reopening on both disks: what a user of the crate sees first.

use std::path::Path;
use std::sync::Arc;

use klamm_log::disk::{Disk, MemoryDisk, RealDisk};
use klamm_log::{AppendContext, AppendOrigin, Log, LogConfig, OpenLog, trusted_batch};
use klamm_protocol::ids::{LeaderEpoch, Offset, TopicId, Uuid};
use klamm_protocol::records::{BatchBuilder, BatchHeader, ValidatedBatch};
use klamm_protocol::time::WallMs;

fn open_with(disk: Arc<dyn Disk>, dir: &Path, was_clean: bool) -> OpenLog {
    OpenLog {
        disk,
        dir: dir.to_owned(),
        topic_id: TopicId(Uuid(5000)),
        config: LogConfig { segment_bytes: 2000, index_interval_bytes: 300, ..LogConfig::default() },
        recovery_point: Offset(0),
        log_start: Offset(0),
        high_watermark: None,
        was_clean,
        now: WallMs(1000),
    }
}

fn batch(timestamp: i64, records: usize) -> ValidatedBatch {
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        builder.push(timestamp + n as i64, Some(b"key"), Some(&[b'v'; 80]), &[]);
    }
    trusted_batch(builder.build()).unwrap()
}

fn append(log: &mut Log, batches: &[ValidatedBatch]) -> Vec<i64> {
    let context =
        AppendContext { now: WallMs(1000), leader_epoch: LeaderEpoch(3), origin: AppendOrigin::Client };
    let plan = log.plan(&context, batches);
    let placed = log.write(plan);
    log.view().raise_high_watermark_to_end();
    placed.into_iter().map(|result| result.unwrap().base_offset.0).collect()
}

fn exercise(disk: Arc<dyn Disk>, dir: &Path) {
    let mut log = Log::create(open_with(Arc::clone(&disk), dir, true)).unwrap();
    log.assign_leader_epoch(LeaderEpoch(3)).unwrap();
    for round in 0..20 {
        let offsets = append(&mut log, &[batch(round * 10, 2), batch(round * 10 + 5, 1)]);
        assert_eq!(offsets, [round * 3, round * 3 + 2]);
    }
    let check = |log: &Log| {
        let view = log.view();
        let limits = view.limits();
        assert_eq!(limits.end.offset, Offset(60));
        assert!(view.load().1.len() > 2, "segments roll");
        for from in 0..60 {
            let region = view.read(Offset(from), limits.high_watermark, 1, true).unwrap().unwrap();
            let bytes = region.read().unwrap();
            let header = BatchHeader::parse(&bytes).unwrap();
            assert_eq!(header.batch_bytes as usize, bytes.len());
            assert_eq!(header.leader_epoch, LeaderEpoch(3));
            assert!(header.base_offset.0 <= from && from <= header.last_offset().0);
            assert!(klamm_protocol::records::check_crc(&bytes));
        }
        assert!(view.read(Offset(60), limits.high_watermark, 1, true).unwrap().is_none());
        assert!(view.read(Offset(61), limits.high_watermark, 1, true).is_err());
        let found = view.offset_for_timestamp(101, limits.end).unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp), (Offset(31), 101));
        let found = view.max_timestamp(limits.end).unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp), (Offset(59), 195));
        assert_eq!(view.end_offset_for_epoch(LeaderEpoch(3)).end_offset, Offset(60));
    };
    check(&log);
    log.close().unwrap();
    for was_clean in [true, false, true] {
        let (log, report) = Log::open(open_with(Arc::clone(&disk), dir, was_clean)).unwrap();
        assert!(report.truncations.is_empty() && report.rebuilt_indexes.is_empty(), "{report:?}");
        check(&log);
        log.close().unwrap();
    }
}

#[test]
fn on_memory() {
    exercise(Arc::new(MemoryDisk::new()), Path::new("/logs/t-0"));
}

#[test]
fn on_files() {
    let dir = tempfile::tempdir().unwrap();
    exercise(Arc::new(RealDisk), &dir.path().join("t-0"));
}
