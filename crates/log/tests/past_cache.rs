//! Old segments that are read past the page cache: the same bytes as through it, and nothing corrupt.

mod support;

use klamm_log::disk::{Disk, Fault, MemoryDisk, OpenMode, Residency};
use klamm_log::{CheckedRead, Corruption, Log, LogConfig, PartitionView, ReadError, Room};
use klamm_protocol::ids::Offset;
use support::*;

/// What a look for a batch brings into memory is less than one.
const RECORDS: usize = 100;

/// Segments of four batches.
fn config() -> LogConfig {
    LogConfig { segment_bytes: 45_000, index_interval_bytes: 4096, ..small_config() }
}

fn open(disk: &MemoryDisk, recovery_point: i64) -> Log {
    let recovery_point = Offset(recovery_point);
    Log::open(klamm_log::OpenLog { recovery_point, ..open_with(disk, config()) }).unwrap().0
}

/// Three segments, and one that grows.
fn filled(disk: &MemoryDisk) -> (Model, Log) {
    let mut log = create(disk, config());
    let mut model = Model::default();
    for n in 0..14 {
        let batch = plain(&[n; RECORDS]);
        append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
        model.append(&batch, &[n; RECORDS]).unwrap();
    }
    log.close().unwrap();
    let log = open(disk, model.end);
    assert_eq!(log.view().load().1.len(), 4);
    (model, log)
}

fn evict_all(disk: &MemoryDisk, view: &PartitionView) {
    view.load().1.iter().for_each(|segment| disk.evict(segment.file().path()));
}

fn read(
    view: &PartitionView,
    offset: i64,
    bytes_max: u32,
    room: &mut Room,
    found: &mut Vec<Corruption>,
) -> Result<CheckedRead, ReadError> {
    let read = view.read_into(Offset(offset), view.limits().end, bytes_max, true, room, found)?;
    Ok(read.expect("below the end"))
}

fn bytes(read: &CheckedRead, room: &Room) -> Vec<u8> {
    match &read.place {
        Some(place) => room.bytes(place.clone()).to_vec(),
        None => read.region.read().unwrap(),
    }
}

#[test]
fn closed_segments_come_past_the_cache_once_and_the_active_one_through_it() {
    for bytes_max in [1, 15_000, 25_000, u32::MAX] {
        let disk = MemoryDisk::new();
        let (model, log) = filled(&disk);
        let view = log.view();
        let mut room = Room::new(1 << 20);
        for is_first_pass in [true, false] {
            let mut offset = 0;
            while offset < model.end {
                evict_all(&disk, &view);
                let read = read(&view, offset, bytes_max, &mut room, &mut Vec::new()).unwrap();
                let number = (offset / RECORDS as i64) as usize;
                let of_segment: Vec<u8> = model.batches[number / 4 * 4..(number / 4 * 4 + 4).min(14)]
                    .iter()
                    .flat_map(|batch| batch.bytes.clone())
                    .collect();
                let start = read.region.position as usize;
                let end = start + read.region.len_bytes as usize;
                assert_eq!(bytes(&read, &room), of_segment[start..end]);
                assert_eq!(read.place.is_some(), is_first_pass && number < 12, "batch {number}");
                // Whole batches; what was cut is asked for again.
                let whole = (end - start) / model.batches[number].bytes.len();
                offset += (whole * RECORDS) as i64;
            }
        }
    }
}

#[test]
fn what_is_read_a_second_time_may_stay_in_memory() {
    let disk = MemoryDisk::new();
    let (_, log) = filled(&disk);
    let view = log.view();
    let mut room = Room::new(1 << 20);
    let segments = view.load().1;
    let (path, first) = (segments[1].file().path(), segments[1].base_offset().0);
    let residency = || {
        let file = disk.open(path, OpenMode::Read).unwrap();
        file.residency(0, file.len().unwrap())
    };
    disk.evict(path);
    let mut come = || read(&view, first, u32::MAX, &mut room, &mut Vec::new()).unwrap();
    let past = come();
    assert!(past.place.is_some() && !past.region.is_checked(), "nothing is said of what the cache will have");
    assert_eq!(residency(), Residency::Cold, "nothing is left behind");
    let through = come();
    assert!(through.place.is_none() && through.region.is_checked());
    assert_eq!(residency(), Residency::Hot);
    assert!(come().place.is_none(), "it is in memory");
}

#[test]
fn what_this_process_wrote_is_checked_once_it_was_seen_cold() {
    let disk = MemoryDisk::new();
    let mut log = create(&disk, config());
    for n in 0..6 {
        append(&mut log, &[plain(&[n; RECORDS])])[0].as_ref().unwrap();
    }
    let view = log.view();
    let region = |view: &PartitionView| view.read(Offset(0), view.limits().end, 1, true).unwrap().unwrap();
    assert!(region(&view).is_checked());
    evict_all(&disk, &view);
    let mut room = Room::new(1 << 20);
    assert!(read(&view, 0, 1, &mut room, &mut Vec::new()).unwrap().place.is_some());
    assert!(!region(&view).is_checked());
}

#[test]
fn a_region_ends_where_the_room_does_unless_that_is_in_its_first_batch() {
    for (room_bytes, len_bytes, comes_past) in [(20_000, 20_000, true), (1, 4 * 9897, false)] {
        let disk = MemoryDisk::new();
        let (model, log) = filled(&disk);
        assert_eq!(model.batches[0].bytes.len(), 9897);
        let view = log.view();
        evict_all(&disk, &view);
        let mut room = Room::new(room_bytes);
        let read = read(&view, 0, u32::MAX, &mut room, &mut Vec::new()).unwrap();
        assert_eq!((read.region.len_bytes, read.place.is_some()), (len_bytes, comes_past));
    }
}

#[test]
fn one_bad_read_past_the_cache_quarantines_nothing() {
    let disk = MemoryDisk::new();
    let (model, log) = filled(&disk);
    let view = log.view();
    evict_all(&disk, &view);
    disk.inject(Fault::FlippedPastCache);
    let (mut room, mut found) = (Room::new(1 << 20), Vec::new());
    let read = read(&view, 0, u32::MAX, &mut room, &mut found).unwrap();
    assert!(read.place.is_none() && found.is_empty(), "{found:?}");
    let of_segment: Vec<u8> = model.batches[..4].iter().flat_map(|batch| batch.bytes.clone()).collect();
    assert_eq!(bytes(&read, &room), of_segment);
}

#[test]
fn nothing_corrupt_comes_past_the_cache() {
    let disk = MemoryDisk::new();
    let (model, log) = filled(&disk);
    let base = log.view().load().1[1].base_offset().0;
    let path = log.view().load().1[1].file().path().to_owned();
    drop(log);
    let bad = model.batches.iter().position(|batch| batch.header.base_offset.0 == base).unwrap() + 2;
    let start: usize = model.batches[bad - 2..bad].iter().map(|batch| batch.bytes.len()).sum();
    let header = (0..21 * 8).map(|bit| (bit / 8, bit % 8));
    let rest = (21..model.batches[bad].bytes.len()).step_by(331).map(|byte| (byte, byte % 8));
    for (byte, bit) in header.chain(rest) {
        let disk = disk.fork();
        disk.tamper(&path, |bytes| bytes[start + byte] ^= 1 << bit).unwrap();
        let log = open(&disk, model.end);
        let view = log.view();
        let mut room = Room::new(1 << 20);
        let (mut found, mut past_count) = (Vec::new(), 0);
        for batch in &model.batches {
            let what = format!("byte {byte}, bit {bit}, offset {}", batch.header.base_offset);
            evict_all(&disk, &view);
            match read(&view, batch.header.base_offset.0, 1, &mut room, &mut found) {
                Ok(read) => {
                    assert_ne!(batch.header.base_offset, model.batches[bad].header.base_offset, "{what}");
                    assert_eq!(bytes(&read, &room), batch.bytes, "{what}");
                    past_count += usize::from(read.place.is_some());
                }
                Err(ReadError::Quarantined { .. }) => {
                    assert_eq!(batch.header.base_offset, model.batches[bad].header.base_offset, "{what}");
                }
                Err(other) => panic!("{what}: {other}"),
            }
        }
        assert_eq!(found.len(), 1, "byte {byte}, bit {bit}: {found:?}");
        // A wrong offset may lead to another batch first, which then has had its turn.
        assert!(past_count >= 10, "byte {byte}, bit {bit}: {past_count}");
    }
}
