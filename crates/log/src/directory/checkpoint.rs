//! Kafka's checkpoint files: a version line, a count line, then one entry a line.
//!
//! `recovery-point-offset-checkpoint`, `log-start-offset-checkpoint`, `cleaner-offset-checkpoint` and
//! `replication-offset-checkpoint` hold `topic partition offset`. Always replaced whole.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use klamm_protocol::ids::{Offset, PartitionIndex};

use crate::disk::Disk;
use crate::error::LogError;
use crate::limits::OFFSET_MAX;

/// More than a million partitions with the longest names.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// What an offset checkpoint holds: an offset for each partition of a log directory.
pub type OffsetCheckpoint = BTreeMap<(String, PartitionIndex), Offset>;

/// Reads an offset checkpoint; empty if the file does not exist.
pub fn read_offsets(disk: &dyn Disk, path: &Path) -> Result<OffsetCheckpoint, LogError> {
    let mut offsets = OffsetCheckpoint::new();
    for (number, line) in read_lines(disk, path)?.unwrap_or_default() {
        let mut words = line.split_ascii_whitespace();
        let parsed = (|| {
            let topic = words.next()?.to_owned();
            let partition = PartitionIndex(words.next()?.parse().ok()?);
            let offset = Offset(words.next()?.parse().ok()?);
            (0..=OFFSET_MAX.0).contains(&offset.0).then_some(())?;
            words.next().is_none().then_some(((topic, partition), offset))
        })();
        let (key, offset) = parsed.ok_or_else(|| LogError::Malformed {
            path: path.to_owned(),
            line: number,
            reason: format!("{line:?} is not a topic, a partition and an offset"),
        })?;
        offsets.insert(key, offset);
    }
    Ok(offsets)
}

/// Replaces an offset checkpoint.
pub fn write_offsets(disk: &dyn Disk, path: &Path, offsets: &OffsetCheckpoint) -> Result<(), LogError> {
    let lines = offsets.iter().map(|((topic, partition), offset)| format!("{topic} {partition} {offset}"));
    write_lines(disk, path, lines)
}

/// The entries with their line numbers; `None` if the file does not exist. Kafka makes these files
/// empty and fills them later.
pub(crate) fn read_lines(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<(usize, String)>>, LogError> {
    let bytes = match disk.read_file(path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogError::io("read", path)(error)),
    };
    let malformed = |line, reason| LogError::Malformed { path: path.to_owned(), line, reason };
    let text = String::from_utf8(bytes).map_err(|_| malformed(1, "not a text".to_owned()))?;
    if text.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.to_owned()));
    match lines.next() {
        Some((_, version)) if version.trim() == "0" => {}
        version => return Err(malformed(1, format!("version 0 is expected, not {version:?}"))),
    }
    let count = lines.next().and_then(|(_, line)| line.trim().parse::<usize>().ok());
    let entries: Vec<(usize, String)> = lines.filter(|(_, line)| !line.trim().is_empty()).collect();
    match count {
        Some(count) if count == entries.len() => Ok(Some(entries)),
        _ => Err(malformed(2, format!("{} entries follow, not {count:?}", entries.len()))),
    }
}

pub(crate) fn write_lines(
    disk: &dyn Disk,
    path: &Path,
    lines: impl Iterator<Item = String>,
) -> Result<(), LogError> {
    let lines: Vec<String> = lines.collect();
    let mut text = format!("0\n{}\n", lines.len());
    for line in &lines {
        text.push_str(line);
        text.push('\n');
    }
    disk.write_file_atomically(path, text.as_bytes()).map_err(LogError::io("replace", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, OpenMode, write_all_at};

    #[test]
    fn offsets_round_trip_in_kafkas_form() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let path = Path::new("/d/recovery-point-offset-checkpoint");
        assert!(read_offsets(&disk, path).unwrap().is_empty());
        let offsets = OffsetCheckpoint::from([
            (("a".to_owned(), PartitionIndex(1)), Offset(7)),
            (("b.c".to_owned(), PartitionIndex(0)), Offset(0)),
        ]);
        write_offsets(&disk, path, &offsets).unwrap();
        assert_eq!(disk.read_file(path, 100).unwrap(), b"0\n2\na 1 7\nb.c 0 0\n");
        assert_eq!(read_offsets(&disk, path).unwrap(), offsets);
    }

    #[test]
    fn a_file_that_kafka_has_only_made_is_empty() {
        let disk = MemoryDisk::new();
        disk.open(Path::new("/c"), OpenMode::Create).unwrap();
        assert_eq!(read_offsets(&disk, Path::new("/c")).unwrap(), OffsetCheckpoint::new());
    }

    #[test]
    fn what_is_malformed_names_its_line() {
        let disk = MemoryDisk::new();
        let path = Path::new("/c");
        for (text, wrong) in [
            ("\n", 1),
            ("1\n0\n", 1),
            ("0\n2\na 0 1\n", 2),
            ("0\n1\na 0\n", 3),
            ("0\n1\na 0 1 2\n", 3),
            ("0\n1\na 0 -1\n", 3),
            ("0\n1\na 0 9223372036854775807\n", 3),
        ] {
            let file = disk.open(path, OpenMode::Create).unwrap();
            file.set_len(0).unwrap();
            write_all_at(&*file, text.as_bytes(), 0).unwrap();
            match read_offsets(&disk, path).unwrap_err() {
                LogError::Malformed { line, .. } => assert_eq!(line, wrong, "{text:?}"),
                other => panic!("{other}"),
            }
        }
    }
}
