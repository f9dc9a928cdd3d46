//! Bytes that changed on the disk below the recovery point: never served, never cut, and
//! everything around them is readable.

mod support;

use std::collections::BTreeMap;

use klamm_log::disk::{Disk, MemoryDisk, Patience};
use klamm_log::{
    AppendOrigin, Corruption, FileRegion, Log, LogConfig, PartitionView, ReadError, trusted_batch,
};
use klamm_protocol::ids::Offset;
use klamm_protocol::records::BatchBuilder;
use support::*;

/// Segments of five batches with two records each.
fn filled(disk: &MemoryDisk) -> (Model, Vec<i64>) {
    let config = LogConfig { index_interval_bytes: 600, ..small_config() };
    let mut log = create(disk, config);
    let mut model = Model::default();
    for n in 0..33 {
        let batch = plain(&[n, n]);
        append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
        model.append(&batch, &[n, n]).unwrap();
    }
    let bases: Vec<i64> = log.view().load().1.iter().map(|segment| segment.base_offset().0).collect();
    assert!(bases.len() >= 4, "{bases:?}");
    log.close().unwrap();
    (model, bases)
}

fn open(disk: &MemoryDisk, recovery_point: i64) -> Log {
    let open =
        klamm_log::OpenLog { recovery_point: Offset(recovery_point), ..open_with(disk, small_config()) };
    Log::open(open).unwrap().0
}

fn read_checked(
    view: &PartitionView,
    offset: i64,
    found: &mut Vec<Corruption>,
) -> Result<Option<FileRegion>, ReadError> {
    view.read_checked(Offset(offset), view.limits().end, 1, true, found)
}

/// Reads every offset in turn; tells which are refused. What is served must be right.
fn readable(view: &PartitionView, model: &Model, found: &mut Vec<Corruption>) -> Vec<i64> {
    let mut refused = Vec::new();
    for batch in &model.batches {
        for offset in batch.header.base_offset.0..=batch.header.last_offset().0 {
            match read_checked(view, offset, found) {
                Ok(region) => {
                    let region = region.expect("below the end");
                    assert_eq!(region.read().unwrap(), batch.bytes, "offset {offset}");
                    assert!(region.is_checked());
                }
                Err(ReadError::Quarantined { range, .. }) => {
                    assert!((range.offset.0..range.end_offset.0).contains(&offset), "{range:?}");
                    refused.push(offset);
                }
                Err(other) => panic!("offset {offset}: {other}"),
            }
        }
    }
    refused
}

/// The batches of the segment at `base`, with their positions.
fn batches_at(
    model: &Model,
    bases: &[i64],
    segment: usize,
) -> Vec<(usize, std::ops::Range<usize>, Vec<i64>)> {
    let end = bases.get(segment + 1).copied().unwrap_or(model.end);
    let mut position = 0;
    let mut list = Vec::new();
    for (index, batch) in model.batches.iter().enumerate() {
        if (bases[segment]..end).contains(&batch.header.base_offset.0) {
            let range = position..position + batch.bytes.len();
            position = range.end;
            let offsets = (batch.header.base_offset.0..=batch.header.last_offset().0).collect();
            list.push((index, range, offsets));
        }
    }
    list
}

#[test]
fn a_flipped_bit_in_a_stored_batch_loses_that_batch_and_no_other() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    let mut causes = BTreeMap::<String, usize>::new();
    for (segment, place) in [(0, 0), (1, 2), (bases.len() - 2, 4)] {
        let batches = batches_at(&model, &bases, segment);
        assert_eq!(batches.len(), 5);
        let (_, range, offsets) = &batches[place];
        // Every bit that no CRC covers and every bit of the CRC, and some behind it.
        let header = (0..21 * 8).map(|bit| (bit / 8, bit % 8));
        let rest = (21..range.len()).step_by(7).map(|byte| (byte, byte % 8));
        for (byte, bit) in header.chain(rest) {
            let disk = disk.fork();
            let path = file(bases[segment], ".log");
            disk.tamper(&path, |bytes| bytes[range.start + byte] ^= 1 << bit).unwrap();
            let log = open(&disk, model.end);
            let mut found = Vec::new();
            let what = format!("segment {segment}, batch {place}, byte {byte}, bit {bit}");
            assert_eq!(readable(&log.view(), &model, &mut found), *offsets, "{what}");
            let [Corruption { path: where_, range: bad }] = &found[..] else { panic!("{what}: {found:?}") };
            assert_eq!(*where_, path, "{what}");
            assert_eq!(
                (bad.position as usize, bad.end_position as usize),
                (range.start, range.end),
                "{what}"
            );
            assert_eq!(
                (bad.offset.0, bad.end_offset.0 - 1),
                (offsets[0], *offsets.last().unwrap()),
                "{what}"
            );
            *causes.entry(bad.cause.split(' ').next().unwrap().to_owned()).or_default() += 1;
            // Known by now: nothing is reported twice, nor cut.
            assert!(read_checked(&log.view(), offsets[0], &mut found).is_err());
            assert_eq!(found.len(), 1);
            let len = disk.metadata(&path).unwrap().len_bytes as usize;
            assert_eq!(len, batches.last().unwrap().1.end, "{what}");
        }
    }
    for cause in ["a", "offset", "leader", "magic"] {
        assert!(causes.contains_key(cause), "{causes:?}");
    }
}

#[test]
fn a_check_in_passing_says_no_and_leaves_the_rest_to_who_may_block() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    disk.tamper(&file(bases[1], ".log"), |bytes| bytes[100] ^= 4).unwrap();
    let log = open(&disk, model.end);
    let view = log.view();
    let end = view.limits().end;
    let good = view.read(Offset(0), end, 1 << 20, true).unwrap().unwrap();
    assert!(!good.is_checked(), "another process wrote it");
    assert!(view.check(&good) && good.is_checked());
    let bad = view.read(Offset(bases[1]), end, 1 << 20, true).unwrap().unwrap();
    assert!(!view.check(&bad) && !bad.is_checked());
    assert!(bad.file.quarantined().is_empty());
    let mut found = Vec::new();
    assert!(read_checked(&view, bases[1], &mut found).is_err());
    assert_eq!(bad.file.quarantined(), [found[0].range.clone()]);
}

#[test]
fn many_faults_in_one_segment_and_a_hole_of_garbage_lose_what_they_hit() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    let batches = batches_at(&model, &bases, 1);
    disk.tamper(&file(bases[1], ".log"), |bytes| {
        bytes[batches[0].1.start + 70] ^= 1;
        // From the middle of the third batch into the fourth: lengths and offsets are gone.
        bytes[batches[2].1.start + 5..batches[3].1.start + 30].fill(0xA5);
        let last = batches.last().unwrap().1.clone();
        bytes[last].fill(0);
    })
    .unwrap();
    let log = open(&disk, model.end);
    let mut found = Vec::new();
    let lost: Vec<i64> = [0, 2, 3, batches.len() - 1].iter().flat_map(|n| batches[*n].2.clone()).collect();
    assert_eq!(readable(&log.view(), &model, &mut found), lost);
    // The garbage and the zeros behind it are one range: nothing good lies between.
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(readable(&log.view(), &model, &mut found) == lost && found.len() == 2);
}

#[test]
fn a_gap_that_compaction_left_is_no_corruption() {
    let disk = MemoryDisk::new();
    let config = LogConfig { segment_bytes: 1 << 20, is_compacted: true, ..small_config() };
    let mut log = create(&disk, config.clone());
    for base in [0, 5, 6, 50, 51] {
        let mut batch = plain(&[1]);
        batch.header.base_offset = Offset(base);
        batch.header.leader_epoch = EPOCH;
        let plan = log.plan(&context(AppendOrigin::Replication), &[batch]);
        log.write(plan)[0].as_ref().unwrap();
    }
    log.view().raise_high_watermark_to_end();
    log.close().unwrap();
    let (log, _) = Log::open(open_with(&disk, config)).unwrap();
    let mut found = Vec::new();
    for (asked, given) in [(0, 0), (1, 5), (7, 50), (51, 51)] {
        let region = read_checked(&log.view(), asked, &mut found).unwrap().unwrap();
        assert_eq!(region.base_offset.0, given);
    }
    assert_eq!(found, []);
}

#[test]
fn what_was_checked_is_not_read_again_until_it_was_seen_cold() {
    let disk = MemoryDisk::new();
    let config = LogConfig { segment_bytes: 64 << 20, ..LogConfig::default() };
    let mut log = create(&disk, config.clone());
    let big = |n: i64| {
        let mut builder = BatchBuilder::new();
        builder.push(n, None, Some(&[7; 10_000]), &[]);
        trusted_batch(builder.build()).unwrap()
    };
    for n in 0..40 {
        append(&mut log, &[big(n)])[0].as_ref().unwrap();
    }
    let view = log.view();
    let all = view.read(Offset(0), view.limits().end, u32::MAX, true).unwrap().unwrap();
    assert!(all.is_checked(), "its own appends");
    // Seen cold in the middle: that part is looked at again, the rest is not.
    let middle = view.read(Offset(10), view.limits().end, 20_000, true).unwrap().unwrap();
    middle.forget_checked();
    assert!(!middle.is_checked() && !all.is_checked());
    let first = view.read(Offset(0), view.limits().end, 20_000, true).unwrap().unwrap();
    assert!(first.is_checked());
    assert!(view.check(&all) && all.is_checked() && middle.is_checked());
    // Appends go on being known.
    append(&mut log, &[big(40)])[0].as_ref().unwrap();
    let last = view.read(Offset(40), view.limits().end, u32::MAX, true).unwrap().unwrap();
    assert!(last.is_checked());
    // Another process knows nothing of it, and flips in an unread place do not matter to others.
    log.close().unwrap();
    disk.tamper(&file(0, ".log"), |bytes| bytes[300_000] ^= 1).unwrap();
    let (log, _) = Log::open(open_with(&disk, config)).unwrap();
    let view = log.view();
    let mut found = Vec::new();
    for offset in (0..41).filter(|offset| *offset != 29) {
        assert!(read_checked(&view, offset, &mut found).is_ok(), "offset {offset}");
    }
    assert!(read_checked(&view, 29, &mut found).is_err());
    assert_eq!(found.len(), 1);
}

#[test]
fn a_region_ends_where_the_corrupt_range_begins() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    let batches = batches_at(&model, &bases, 0);
    disk.tamper(&file(0, ".log"), |bytes| bytes[batches[3].1.start + 65] ^= 1).unwrap();
    let log = open(&disk, model.end);
    let view = log.view();
    let mut found = Vec::new();
    let whole = view.read_checked(Offset(0), view.limits().end, u32::MAX, true, &mut found).unwrap().unwrap();
    assert_eq!(u64::from(whole.len_bytes), batches[3].1.start as u64);
    let behind = view.read_checked(Offset(batches[4].2[0]), view.limits().end, u32::MAX, true, &mut found);
    let behind = behind.unwrap().unwrap();
    assert_eq!(behind.position, batches[4].1.start as u64);
    assert_eq!(behind.position + u64::from(behind.len_bytes), batches.last().unwrap().1.end as u64);
    assert_eq!(found.len(), 1);
}

#[test]
fn timestamps_are_not_looked_up_in_what_is_corrupt() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    let batches = batches_at(&model, &bases, 1);
    let (index, range, _) = &batches[1];
    let timestamp = model.batches[*index].timestamps[0];
    disk.tamper(&file(bases[1], ".log"), |bytes| bytes[range.end - 1] ^= 1).unwrap();
    let log = open(&disk, model.end);
    let view = log.view();
    assert!(matches!(
        view.offset_for_timestamp(timestamp, view.limits().end),
        Err(ReadError::Corrupt { .. })
    ));
    assert!(view.offset_for_timestamp(timestamp - 1, view.limits().end).is_ok());
}

#[test]
fn a_whole_segment_is_checked_for_who_copies_it() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    let batches = batches_at(&model, &bases, 2);
    disk.tamper(&file(bases[2], ".log"), |bytes| bytes[batches[1].1.start + 90] ^= 1).unwrap();
    let log = open(&disk, model.end);
    let view = log.view();
    let (_, segments) = view.load();
    let mut found = Vec::new();
    assert_eq!(view.check_segment(&segments[1], &mut found).unwrap(), []);
    let bad = view.check_segment(&segments[2], &mut found).unwrap();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].position as usize, batches[1].1.start);
    assert_eq!(view.check_segment(&segments[2], &mut found).unwrap(), bad);
    assert_eq!(found.len(), 1, "told once");
}

#[test]
fn who_may_not_wait_is_told_so_and_reads_nothing_that_lies_cold() {
    let disk = MemoryDisk::new();
    let (model, bases) = filled(&disk);
    let log = open(&disk, model.end);
    let view = log.view();
    let end = view.limits().end;
    let look = |offset: i64| view.read_as(Patience::OnlyMemory, Offset(offset), end, 1, true);
    let offset = bases[1] + 3;
    assert!(look(offset).is_err_and(|error| error.is_wait()), "nobody has opened it");
    let region = read_checked(&view, offset, &mut Vec::new()).unwrap().unwrap();
    let listed = |patience| view.aborted_transactions_as(patience, Offset(offset), &region, end);
    assert!(listed(Patience::OnlyMemory).is_err_and(|error| error.is_wait()), "nobody has read the lists");
    assert!(listed(Patience::Waits).unwrap().is_empty());
    disk.forbid_waits(true);
    assert!(listed(Patience::OnlyMemory).unwrap().is_empty());
    for suffix in [".log", ".index"] {
        assert_eq!(look(offset).unwrap().unwrap().position, region.position);
        region.forget_checked();
        assert!(view.check(&region) && region.is_checked());
        disk.evict(&file(bases[1], suffix));
        assert!(look(offset).is_err_and(|error| error.is_wait()), "{suffix}");
        region.forget_checked();
        assert!(!view.check(&region) && !region.is_checked(), "{suffix}");
        disk.forbid_waits(false);
        read_checked(&view, offset, &mut Vec::new()).unwrap().unwrap();
        disk.forbid_waits(true);
    }
}
