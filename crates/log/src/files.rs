//! Names of the files in a partition's directory, as Kafka has them.
//!
//! A segment's files share a stem: its base offset in 20 digits.

use std::path::{Path, PathBuf};

use klamm_protocol::ids::Offset;

use crate::disk::{Disk, OpenMode};
use crate::error::LogError;
use crate::limits::OFFSET_MAX;

/// The batches.
pub(crate) const LOG: &str = ".log";
/// Offset to position.
pub(crate) const INDEX: &str = ".index";
/// Timestamp to offset.
pub(crate) const TIME_INDEX: &str = ".timeindex";
/// Aborted transactions.
pub(crate) const TXN_INDEX: &str = ".txnindex";
/// The indexes of a segment.
const INDEXES: [&str; INDEX_FILES] = [INDEX, TIME_INDEX, TXN_INDEX];
/// How many they are at most.
pub(crate) const INDEX_FILES: usize = 3;
/// Producer state at an offset.
pub(crate) const SNAPSHOT: &str = ".snapshot";
/// A file that is about to be removed.
pub(crate) const DELETED: &str = ".deleted";
/// A cleaned segment that is still being written.
pub(crate) const CLEANED: &str = ".cleaned";
/// A finished segment that is about to replace others.
pub(crate) const SWAP: &str = ".swap";
/// A tail that was set aside, and where it began in its segment.
const KEPT: &str = ".corrupt-";
/// Where epochs began.
pub(crate) const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";

/// The path of a segment's file with `suffix`.
pub(crate) fn segment_file(dir: &Path, base: Offset, suffix: &str) -> PathBuf {
    dir.join(format!("{:020}{suffix}", base.0))
}

/// The base offset in a name that ends in `suffix`; `None` for other names.
pub(crate) fn base_of(name: &str, suffix: &str) -> Option<Offset> {
    let digits = name.strip_suffix(suffix)?;
    if digits.len() < 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Offset).filter(|base| *base <= OFFSET_MAX)
}

/// A free name for a tail of a segment that is set aside: what was kept before stays.
pub(crate) fn kept_file(
    disk: &dyn Disk,
    dir: &Path,
    base: Offset,
    position: u64,
) -> Result<PathBuf, LogError> {
    let mut path = segment_file(dir, base, &format!("{LOG}{KEPT}{position}"));
    let mut again = 1;
    while disk.exists(&path).map_err(LogError::io("look at", &path))? {
        path = segment_file(dir, base, &format!("{LOG}{KEPT}{position}.{again}"));
        again += 1;
    }
    Ok(path)
}

/// True for the name of a tail that was set aside.
pub(crate) fn is_kept(name: &str) -> bool {
    name.contains(KEPT)
}

/// Makes a segment's indexes durable, those that it has.
pub(crate) fn sync_indexes(disk: &dyn Disk, dir: &Path, base: Offset) -> Result<(), LogError> {
    for path in INDEXES.map(|suffix| segment_file(dir, base, suffix)) {
        match disk.open(&path, OpenMode::Write) {
            Ok(file) => file.sync_data().map_err(LogError::io("flush", &path))?,
            // Not every segment has a transaction index, and segments may be deleted.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(LogError::io("open", &path)(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        let path = segment_file(Path::new("/d"), Offset(42), LOG);
        assert_eq!(path, Path::new("/d/00000000000000000042.log"));
        assert_eq!(base_of("00000000000000000042.log", LOG), Some(Offset(42)));
        for name in ["42.log", "00000000000000000042.index", "0000000000000000004x.log", ".log"] {
            assert_eq!(base_of(name, LOG), None, "{name}");
        }
    }
}
