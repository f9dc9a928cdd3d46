//! Old segments that are read past the page cache: the same bytes as through it, and nothing corrupt.

mod support;

use klamm_log::disk::{Disk, MemoryDisk, OpenMode, Residency};
use klamm_log::{CheckedRead, Corruption, Log, LogConfig, PartitionView, ReadError, Room};
use klamm_protocol::ids::Offset;
use support::*;

/// What a look for a batch brings into memory is less than one.
const RECORDS: usize = 100;

/// Three segments of four batches, and one that grows.
fn filled(disk: &MemoryDisk) -> (Model, Log) {
    let config = LogConfig { segment_bytes: 45_000, index_interval_bytes: 4096, ..small_config() };
    let mut log = create(disk, config.clone());
    let mut model = Model::default();
    for n in 0..14 {
        let batch = plain(&[n; RECORDS]);
        append(&mut log, std::slice::from_ref(&batch))[0].as_ref().unwrap();
        model.append(&batch, &[n; RECORDS]).unwrap();
    }
    let open = klamm_log::OpenLog { recovery_point: Offset(model.end), ..open_with(disk, config) };
    log.close().unwrap();
    let log = Log::open(open).unwrap().0;
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
fn closed_segments_come_past_the_cache_and_the_active_one_through_it() {
    let disk = MemoryDisk::new();
    let (model, log) = filled(&disk);
    let view = log.view();
    let mut room = Room::new(1 << 20);
    for (number, batch) in model.batches.iter().enumerate() {
        for bytes_max in [1, 15_000, u32::MAX] {
            evict_all(&disk, &view);
            let offset = batch.header.base_offset.0 + 50;
            // Of a segment as many bytes as it has come past the cache, then as many through it.
            let mut ways = [false; 2];
            for _ in 0..12 {
                evict_all(&disk, &view);
                let read = read(&view, offset, bytes_max, &mut room, &mut Vec::new()).unwrap();
                let end = read.region.position as usize + read.region.len_bytes as usize;
                let of_segment: Vec<u8> = model.batches[number / 4 * 4..(number / 4 * 4 + 4).min(14)]
                    .iter()
                    .flat_map(|batch| batch.bytes.clone())
                    .collect();
                assert_eq!(bytes(&read, &room), of_segment[read.region.position as usize..end]);
                ways[usize::from(read.place.is_some())] = true;
            }
            assert!(ways[0], "some through it");
            assert_eq!(ways[1], number < 12, "batch {number}");
        }
    }
}

#[test]
fn what_is_read_a_second_time_may_stay_in_memory() {
    let disk = MemoryDisk::new();
    let (_, log) = filled(&disk);
    let view = log.view();
    let mut room = Room::new(1 << 20);
    let path = view.load().1[1].file().path().to_owned();
    let first = view.load().1[1].base_offset().0;
    let residency = || {
        let file = disk.open(&path, OpenMode::Read).unwrap();
        file.residency(0, file.len().unwrap())
    };
    for pass in 0..2 {
        disk.evict(&path);
        let mut come = || read(&view, first, u32::MAX, &mut room, &mut Vec::new()).unwrap().place.is_some();
        assert!(come(), "pass {pass}");
        assert_eq!(residency(), Residency::Cold, "nothing is left behind");
        assert!(!come(), "pass {pass}");
        assert_eq!(residency(), Residency::Hot);
        assert!(!come(), "it is in memory");
    }
}

#[test]
fn bytes_past_the_cache_say_nothing_of_those_in_it() {
    let disk = MemoryDisk::new();
    let (_, log) = filled(&disk);
    let view = log.view();
    let mut room = Room::new(1 << 20);
    evict_all(&disk, &view);
    let region = read(&view, 0, u32::MAX, &mut room, &mut Vec::new()).unwrap().region;
    assert!(!region.is_checked());
}

#[test]
fn a_region_ends_where_the_room_does_and_a_batch_without_room_comes_through_the_cache() {
    let disk = MemoryDisk::new();
    let (model, log) = filled(&disk);
    let view = log.view();
    for (room_bytes, len_bytes) in
        [(20_000, 20_000), (1, u32::try_from(model.batches[0].bytes.len()).unwrap())]
    {
        evict_all(&disk, &view);
        let mut room = Room::new(room_bytes);
        let read = read(&view, 0, u32::MAX, &mut room, &mut Vec::new()).unwrap();
        assert_eq!(read.region.len_bytes, len_bytes);
        assert_eq!(read.place.is_some(), room_bytes >= len_bytes);
    }
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
        let config = LogConfig { segment_bytes: 45_000, index_interval_bytes: 4096, ..small_config() };
        let open = klamm_log::OpenLog { recovery_point: Offset(model.end), ..open_with(&disk, config) };
        let log = Log::open(open).unwrap().0;
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
        assert_eq!((found.len(), past_count), (1, 11), "byte {byte}, bit {bit}: {found:?}");
    }
}
