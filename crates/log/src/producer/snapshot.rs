//! Kafka's `.snapshot` files (ProducerSnapshot version 1): every producer at one offset.
//!
//! `version: int16, crc: uint32` (CRC-32C of what follows), then the entries. Only the last
//! batch of a producer is in it. Invariant: a file that is cut, changed or of another
//! version is never half believed; its reader goes on with an older one.

use std::io;
use std::path::{Path, PathBuf};

use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};
use klamm_protocol::records::crc32c;

use crate::disk::{Disk, OpenMode, write_all_at};
use crate::files::{self, SNAPSHOT};
use crate::producer::{BatchMetadata, ProducerEntry, ProducerState};

const VERSION: i16 = 1;
const HEADER_BYTES: usize = 10;
const ENTRY_BYTES: usize = 46;
/// More than twenty million producers.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Where the snapshot at `offset` lies.
pub(crate) fn snapshot_path(dir: &Path, offset: Offset) -> PathBuf {
    files::segment_file(dir, offset, SNAPSHOT)
}

/// The offsets of all snapshots in a partition's directory, rising.
pub(crate) fn list_snapshots(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<Offset>> {
    let entries = disk.list_dir(dir)?;
    let mut offsets: Vec<Offset> =
        entries.iter().filter_map(|entry| files::base_of(&entry.name, SNAPSHOT)).collect();
    offsets.sort_unstable();
    Ok(offsets)
}

/// Writes the state as it is at `offset`; durable only if `is_durable`. A snapshot that is
/// torn by a crash fails its CRC and is passed over.
pub(crate) fn write_snapshot(
    disk: &dyn Disk,
    dir: &Path,
    offset: Offset,
    state: &ProducerState,
    is_durable: bool,
) -> io::Result<()> {
    let file = disk.open(&snapshot_path(dir, offset), OpenMode::Create)?;
    file.set_len(0)?;
    write_all_at(&*file, &encode(state), 0)?;
    if is_durable { file.sync_data() } else { Ok(()) }
}

/// The producers in a snapshot; `None` if it is not intact.
pub(crate) fn read_snapshot(
    disk: &dyn Disk,
    path: &Path,
) -> io::Result<Option<Vec<(ProducerId, ProducerEntry)>>> {
    Ok(decode(&disk.read_file(path, FILE_BYTES_MAX)?))
}

fn encode(state: &ProducerState) -> Vec<u8> {
    let count = state.iter().count();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + count * ENTRY_BYTES);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(i32::try_from(count).expect("one log's producers fit their count").to_be_bytes());
    for (id, entry) in state.iter() {
        let none =
            BatchMetadata { last_sequence: -1, last_offset: Offset(-1), offset_delta: 0, timestamp: -1 };
        let last = entry.batches().last().copied().unwrap_or(none);
        bytes.extend(id.0.to_be_bytes());
        bytes.extend(entry.producer_epoch.0.to_be_bytes());
        bytes.extend(last.last_sequence.to_be_bytes());
        bytes.extend(last.last_offset.0.to_be_bytes());
        bytes.extend(last.offset_delta.to_be_bytes());
        bytes.extend(entry.last_timestamp.to_be_bytes());
        bytes.extend(entry.coordinator_epoch.to_be_bytes());
        bytes.extend(entry.current_txn_first_offset.map_or(-1, |offset| offset.0).to_be_bytes());
    }
    let crc = crc32c(&bytes[6..]);
    bytes[2..6].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<(ProducerId, ProducerEntry)>> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let crc = u32::from_be_bytes(header[2..6].try_into().expect("four bytes"));
    let count = usize::try_from(i32::from_be_bytes(header[6..10].try_into().expect("four bytes"))).ok()?;
    let entries = bytes[HEADER_BYTES..].chunks_exact(ENTRY_BYTES);
    let is_intact = header[..2] == VERSION.to_be_bytes()
        && crc == crc32c(&bytes[6..])
        && entries.len() == count
        && entries.remainder().is_empty();
    is_intact.then(|| entries.map(decode_entry).collect())
}

fn decode_entry(bytes: &[u8]) -> (ProducerId, ProducerEntry) {
    let i64_at = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let i32_at = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (last_sequence, last_offset, timestamp) = (i32_at(10), Offset(i64_at(14)), i64_at(26));
    let first_offset = i64_at(38);
    let mut entry = ProducerEntry::default();
    entry.producer_epoch = ProducerEpoch(i16::from_be_bytes([bytes[8], bytes[9]]));
    entry.coordinator_epoch = i32_at(34);
    entry.last_timestamp = timestamp;
    entry.current_txn_first_offset = (first_offset >= 0).then_some(Offset(first_offset));
    let entry = if last_offset.0 >= 0 {
        entry.with_last_batch(BatchMetadata {
            last_sequence,
            last_offset,
            offset_delta: i32_at(22),
            timestamp,
        })
    } else {
        entry
    };
    (ProducerId(i64_at(0)), entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn entries_round_trip_and_any_changed_byte_is_noticed() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/t-0");
        disk.create_dir_all(dir).unwrap();
        let mut state = ProducerState::default();
        let batch =
            BatchMetadata { last_sequence: 4, last_offset: Offset(9), offset_delta: 2, timestamp: 77 };
        let mut entry = ProducerEntry::default();
        entry.producer_epoch = ProducerEpoch(3);
        entry.coordinator_epoch = 5;
        entry.last_timestamp = 77;
        entry.current_txn_first_offset = Some(Offset(7));
        state.restore(ProducerId(1), entry.with_last_batch(batch), None);
        state.restore(ProducerId(2), ProducerEntry::default(), None);
        write_snapshot(&disk, dir, Offset(10), &state, true).unwrap();
        assert_eq!(list_snapshots(&disk, dir).unwrap(), [Offset(10)]);
        let path = snapshot_path(dir, Offset(10));
        let read = read_snapshot(&disk, &path).unwrap().unwrap();
        assert_eq!(read, state.iter().map(|(id, entry)| (id, *entry)).collect::<Vec<_>>());
        let intact = disk.read_file(&path, 1000).unwrap();
        for at in 0..intact.len() {
            let mut changed = intact.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed), None, "byte {at}");
            assert_eq!(decode(&intact[..at]), None, "cut at {at}");
        }
    }
}
