//! `partition.metadata`: the topic id of a partition's directory.
//!
//! Durable before the first append; Kafka takes a log without it for a stray.

use std::io;
use std::path::{Path, PathBuf};

use klamm_protocol::ids::{TopicId, Uuid};

use crate::disk::Disk;
use crate::error::LogError;

const NAME: &str = "partition.metadata";
const FILE_BYTES_MAX: u64 = 4096;

/// The topic id in a partition's directory; `None` without the file.
pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<TopicId>, LogError> {
    let path = dir.join(NAME);
    let bytes = match disk.read_file(&path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // As good as any other content that is not the file's.
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Vec::new(),
        Err(error) => return Err(LogError::io("read", &path)(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let malformed =
        |line, reason: &str| LogError::Malformed { path: path.clone(), line, reason: reason.to_owned() };
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some("version: 0") {
        return Err(malformed(1, "`version: 0` is expected"));
    }
    let id = lines.next().and_then(|line| line.trim().strip_prefix("topic_id: "));
    let id = id.and_then(|text| Uuid::parse(text).ok()).filter(|id| *id != Uuid::ZERO);
    id.map(|id| Some(TopicId(id))).ok_or_else(|| malformed(2, "`topic_id: ` and an id are expected"))
}

/// The same; `None` too for a file that says nothing, which is as good as lost.
pub fn read_intact(disk: &dyn Disk, dir: &Path) -> Result<Option<TopicId>, LogError> {
    match read(disk, dir) {
        Err(LogError::Malformed { .. }) => Ok(None),
        read => read,
    }
}

/// Writes it, durably.
pub fn write(disk: &dyn Disk, dir: &Path, topic_id: TopicId) -> Result<(), LogError> {
    let path = dir.join(NAME);
    let text = format!("version: 0\ntopic_id: {topic_id}");
    disk.write_file_atomically(&path, text.as_bytes()).map_err(LogError::io("replace", &path))
}

/// Refuses a directory of another topic; writes the file where it is missing or says nothing. In the
/// latter case gives its path.
pub(crate) fn check(disk: &dyn Disk, dir: &Path, expected: TopicId) -> Result<Option<PathBuf>, LogError> {
    match read(disk, dir) {
        Ok(Some(found)) if found == expected => Ok(None),
        Ok(Some(found)) => Err(LogError::TopicIdMismatch { path: dir.join(NAME), found, expected }),
        Ok(None) => write(disk, dir, expected).map(|()| None),
        Err(LogError::Malformed { path, .. }) => write(disk, dir, expected).map(|()| Some(path)),
        Err(error) => Err(error),
    }
}
