//! A log directory (one of `log.dirs`): its lock, its small files and its partitions.
//!
//! Files: `meta.properties`, `.lock`, `.kafka_cleanshutdown`, the four offset checkpoints;
//! one directory for each partition. All small files are replaced whole and durably.
//! Deliberately absent: which partitions belong here, and removing what is marked.

pub mod checkpoint;
pub mod meta_properties;
pub mod partition_metadata;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_protocol::ids::{BrokerEpoch, PartitionIndex, Uuid};

pub use self::checkpoint::OffsetCheckpoint;
pub use self::meta_properties::MetaProperties;
use crate::disk::{Disk, DiskLock};
use crate::error::LogError;

const LOCK: &str = ".lock";
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const LOG_STARTS: &str = "log-start-offset-checkpoint";
const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";
const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
/// The longest file name that all file systems take.
const NAME_BYTES_MAX: usize = 255;

/// A log directory that this process has locked.
pub struct LogDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    _lock: Box<dyn DiskLock>,
    made_lock: bool,
}

/// What a clean stop leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanShutdown {
    /// The broker epoch of the process that stopped; -1 if the file does not say.
    pub broker_epoch: BrokerEpoch,
}

/// What a partition's directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DirectoryKind {
    /// `<topic>-<partition>`.
    Live,
    /// `….<id>-delete`: to be removed.
    Delete,
    /// `….<id>-stray`: does not belong here, kept.
    Stray,
    /// `….<id>-future`: a copy on its way from another log directory.
    Future,
}

/// A partition's directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionDirectory {
    /// The topic; cut short if the name was too long for its mark.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// What the name says of it.
    pub kind: DirectoryKind,
    /// The name.
    pub name: String,
}

impl DirectoryKind {
    fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Live => None,
            Self::Delete => Some("-delete"),
            Self::Stray => Some("-stray"),
            Self::Future => Some("-future"),
        }
    }
}

impl PartitionDirectory {
    /// The name of a partition's directory.
    #[must_use]
    pub fn live_name(topic: &str, partition: PartitionIndex) -> String {
        format!("{topic}-{partition}")
    }

    /// The name with a mark and a random id, the topic cut where it would be too long.
    #[must_use]
    pub fn marked_name(topic: &str, partition: PartitionIndex, kind: DirectoryKind, id: Uuid) -> String {
        let Some(suffix) = kind.suffix() else { return Self::live_name(topic, partition) };
        let end = format!("-{partition}.{:032x}{suffix}", id.0);
        // Topic names are ASCII.
        let kept = topic.len().min(NAME_BYTES_MAX - end.len());
        format!("{}{end}", topic.get(..kept).unwrap_or(topic))
    }

    /// Reads a name; `None` if it is no partition's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let marked = [DirectoryKind::Delete, DirectoryKind::Stray, DirectoryKind::Future]
            .into_iter()
            .find_map(|kind| Some((kind, name.strip_suffix(kind.suffix()?)?)))
            .and_then(|(kind, rest)| {
                let (stem, id) = rest.rsplit_once('.')?;
                let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
                is_id.then_some((kind, stem))
            });
        let (kind, stem) = marked.unwrap_or((DirectoryKind::Live, name));
        let (topic, digits) = stem.rsplit_once('-')?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let partition = PartitionIndex(digits.parse().ok().filter(|_| is_number)?);
        if topic.is_empty() && kind == DirectoryKind::Live {
            return None;
        }
        Some(Self { topic: topic.to_owned(), partition, kind, name: name.to_owned() })
    }
}

impl LogDirectory {
    /// Creates the directory if needed and locks it.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, LogError> {
        create_durably(&*disk, path)?;
        let lock_path = path.join(LOCK);
        let made_lock = !disk.exists(&lock_path).map_err(LogError::io("look at", &lock_path))?;
        let lock = disk.lock_file(&lock_path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LogError::Locked { path: lock_path.clone() },
            _ => LogError::io("lock", &lock_path)(error),
        })?;
        Ok(Self { disk, path: path.to_owned(), _lock: lock, made_lock })
    }

    /// Lets go of a directory that will not be used after all: what opening made goes again.
    pub fn leave(self) {
        if self.made_lock {
            // Kafka removes the file at every stop; one that stays hurts nobody.
            let _ = self.disk.remove_file(&self.path.join(LOCK));
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it lies.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where a partition's log is.
    #[must_use]
    pub fn partition_path(&self, topic: &str, partition: PartitionIndex) -> PathBuf {
        self.path.join(PartitionDirectory::live_name(topic, partition))
    }

    /// `meta.properties`.
    pub fn meta_properties(&self) -> Result<Option<MetaProperties>, LogError> {
        meta_properties::read(&*self.disk, &self.path)
    }

    /// Replaces `meta.properties`.
    pub fn write_meta_properties(&self, properties: &MetaProperties) -> Result<(), LogError> {
        meta_properties::write(&*self.disk, &self.path, properties)
    }

    /// The partitions' directories, by topic and partition.
    pub fn partitions(&self) -> Result<Vec<PartitionDirectory>, LogError> {
        let entries = self.disk.list_dir(&self.path).map_err(LogError::io("list", &self.path))?;
        let mut found: Vec<PartitionDirectory> = entries
            .iter()
            .filter(|entry| entry.is_dir)
            .filter_map(|entry| PartitionDirectory::parse(&entry.name))
            .collect();
        found.sort();
        Ok(found)
    }

    /// Renames a partition's directory, durably: the mark survives a crash.
    pub fn rename_partition(&self, from: &str, to: &str) -> Result<(), LogError> {
        let from = self.path.join(from);
        self.disk.rename(&from, &self.path.join(to)).map_err(LogError::io("rename", &from))?;
        self.disk.sync_dir(&self.path).map_err(LogError::io("sync", &self.path))
    }

    /// Removes a partition's directory and all in it.
    pub fn remove_partition(&self, name: &str) -> Result<(), LogError> {
        let path = self.path.join(name);
        self.disk.remove_dir_all(&path).map_err(LogError::io("remove", &path))
    }

    /// What the last stop left: `None` after a crash. Does not change anything.
    pub fn clean_shutdown(&self) -> Result<Option<CleanShutdown>, LogError> {
        let path = self.path.join(CLEAN_SHUTDOWN);
        let bytes = match self.disk.read_file(&path, 4096) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // That it is there is what counts.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Vec::new(),
            Err(error) => return Err(LogError::io("read", &path)(error)),
        };
        // Kafka before 3.8 left an empty file.
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let broker_epoch = BrokerEpoch(value["brokerEpoch"].as_i64().unwrap_or(-1));
        Ok(Some(CleanShutdown { broker_epoch }))
    }

    /// Removes the mark durably: before the first write after a start.
    pub fn remove_clean_shutdown(&self) -> Result<(), LogError> {
        let path = self.path.join(CLEAN_SHUTDOWN);
        match self.disk.remove_file(&path) {
            Ok(()) => self.disk.sync_dir(&self.path).map_err(LogError::io("sync", &self.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(LogError::io("remove", &path)(error)),
        }
    }

    /// Marks a clean stop: the last thing a process does here.
    pub fn write_clean_shutdown(&self, shutdown: CleanShutdown) -> Result<(), LogError> {
        let path = self.path.join(CLEAN_SHUTDOWN);
        let text = format!("{{\"version\":0,\"brokerEpoch\":{}}}", shutdown.broker_epoch);
        self.disk.write_file_atomically(&path, text.as_bytes()).map_err(LogError::io("replace", &path))
    }

    /// Up to where each log is durable.
    pub fn recovery_points(&self) -> Result<OffsetCheckpoint, LogError> {
        checkpoint::read_offsets(&*self.disk, &self.path.join(RECOVERY_POINTS))
    }

    /// Replaces the recovery points.
    pub fn write_recovery_points(&self, offsets: &OffsetCheckpoint) -> Result<(), LogError> {
        checkpoint::write_offsets(&*self.disk, &self.path.join(RECOVERY_POINTS), offsets)
    }

    /// Where each log starts; only those that records were deleted from need an entry.
    pub fn log_starts(&self) -> Result<OffsetCheckpoint, LogError> {
        checkpoint::read_offsets(&*self.disk, &self.path.join(LOG_STARTS))
    }

    /// Replaces the log starts.
    pub fn write_log_starts(&self, offsets: &OffsetCheckpoint) -> Result<(), LogError> {
        checkpoint::write_offsets(&*self.disk, &self.path.join(LOG_STARTS), offsets)
    }

    /// Up to where each compacted log was cleaned.
    pub fn cleaner_offsets(&self) -> Result<OffsetCheckpoint, LogError> {
        checkpoint::read_offsets(&*self.disk, &self.path.join(CLEANER_OFFSETS))
    }

    /// Replaces the offsets up to which logs were cleaned.
    pub fn write_cleaner_offsets(&self, offsets: &OffsetCheckpoint) -> Result<(), LogError> {
        checkpoint::write_offsets(&*self.disk, &self.path.join(CLEANER_OFFSETS), offsets)
    }

    /// The last known high watermarks.
    pub fn high_watermarks(&self) -> Result<OffsetCheckpoint, LogError> {
        checkpoint::read_offsets(&*self.disk, &self.path.join(HIGH_WATERMARKS))
    }

    /// Replaces the high watermarks.
    pub fn write_high_watermarks(&self, offsets: &OffsetCheckpoint) -> Result<(), LogError> {
        checkpoint::write_offsets(&*self.disk, &self.path.join(HIGH_WATERMARKS), offsets)
    }
}

/// Creates a directory with its missing parents, each under a durable name: what is flushed in it
/// must not go with it.
fn create_durably(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        if disk.exists(ancestor).map_err(LogError::io("look at", ancestor))? {
            break;
        }
        missing.push(ancestor);
    }
    disk.create_dir_all(path).map_err(LogError::io("create", path))?;
    for parent in missing.iter().rev().filter_map(|made| made.parent()) {
        disk.sync_dir(parent).map_err(LogError::io("sync", parent))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn names_tell_what_a_directory_is() {
        let parse = |name: &str| PartitionDirectory::parse(name).map(|d| (d.topic, d.partition.0, d.kind));
        assert_eq!(parse("a-b-12"), Some(("a-b".to_owned(), 12, DirectoryKind::Live)));
        for name in ["a", "a-", "-1", "a-1x", "__cluster_metadata", "a--1.lock"] {
            assert_eq!(parse(name), None, "{name}");
        }
        let long = "t".repeat(249);
        for kind in [DirectoryKind::Delete, DirectoryKind::Stray, DirectoryKind::Future] {
            let name = PartitionDirectory::marked_name("x.y", PartitionIndex(3), kind, Uuid(7));
            assert_eq!(parse(&name), Some(("x.y".to_owned(), 3, kind)), "{name}");
            let name = PartitionDirectory::marked_name(&long, PartitionIndex(3), kind, Uuid(7));
            assert_eq!(name.len(), 255);
            assert_eq!(parse(&name).unwrap().2, kind);
        }
    }

    #[test]
    fn a_directory_is_locked_and_remembers_a_clean_stop() {
        let disk = MemoryDisk::new();
        let open = || LogDirectory::open(Arc::new(disk.clone()), Path::new("/d"));
        let directory = open().unwrap();
        assert!(matches!(open(), Err(LogError::Locked { .. })));
        assert_eq!(directory.clean_shutdown().unwrap(), None);
        let shutdown = CleanShutdown { broker_epoch: BrokerEpoch(12) };
        directory.write_clean_shutdown(shutdown).unwrap();
        let text = disk.read_file(Path::new("/d/.kafka_cleanshutdown"), 99).unwrap();
        assert_eq!(text, br#"{"version":0,"brokerEpoch":12}"#);
        assert_eq!(directory.clean_shutdown().unwrap(), Some(shutdown));
        directory.remove_clean_shutdown().unwrap();
        directory.remove_clean_shutdown().unwrap();
        assert_eq!(directory.clean_shutdown().unwrap(), None);
        drop(directory);
        open().unwrap();
    }
}
