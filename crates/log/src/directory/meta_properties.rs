//! `meta.properties`: whose log directory this is.
//!
//! Java's properties format. Version 1, as KRaft writes it, is read and written; keys that
//! are not known are kept.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use klamm_protocol::ids::{DirectoryId, NodeId, Uuid};

use crate::disk::Disk;
use crate::error::LogError;

const NAME: &str = "meta.properties";
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Whose log directory this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// `cluster.id`.
    pub cluster_id: String,
    /// `node.id`.
    pub node_id: NodeId,
    /// `directory.id` (KIP-858); Kafka before 3.7 wrote none.
    pub directory_id: Option<DirectoryId>,
    /// Everything else in the file.
    pub others: BTreeMap<String, String>,
}

/// Reads it; `None` if the directory has none yet.
pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<MetaProperties>, LogError> {
    let path = dir.join(NAME);
    let bytes = match disk.read_file(&path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogError::io("read", &path)(error)),
    };
    let malformed = |line, reason: String| LogError::Malformed { path: path.clone(), line, reason };
    let mut found: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (index, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let (key, value) = split(line);
        found.insert(key, (index + 1, value));
    }
    let mut take = |key: &str| found.remove(key);
    let required = |key: &str, value: Option<(usize, String)>| {
        value.ok_or_else(|| malformed(1, format!("{key} is missing")))
    };
    let (line, version) = required("version", take("version"))?;
    if version != "1" {
        return Err(malformed(line, format!("version {version} is not supported, only 1")));
    }
    let (_, cluster_id) = required("cluster.id", take("cluster.id"))?;
    let (line, node) = required("node.id", take("node.id"))?;
    let node_id =
        node.parse().map(NodeId).map_err(|_| malformed(line, format!("node.id={node} is not a number")))?;
    let directory_id = match take("directory.id") {
        None => None,
        Some((line, text)) => {
            Some(DirectoryId(Uuid::parse(&text).map_err(|error| malformed(line, error.to_string()))?))
        }
    };
    let others = found.into_iter().map(|(key, (_, value))| (key, value)).collect();
    Ok(Some(MetaProperties { cluster_id, node_id, directory_id, others }))
}

/// Replaces it, durably.
pub fn write(disk: &dyn Disk, dir: &Path, properties: &MetaProperties) -> Result<(), LogError> {
    let mut pairs = properties.others.clone();
    pairs.insert("version".to_owned(), "1".to_owned());
    pairs.insert("cluster.id".to_owned(), properties.cluster_id.clone());
    pairs.insert("node.id".to_owned(), properties.node_id.to_string());
    if let Some(id) = properties.directory_id {
        pairs.insert("directory.id".to_owned(), id.to_string());
    }
    let mut text = "#\n".to_owned();
    for (key, value) in pairs {
        text.push_str(&format!("{}={}\n", escape(&key), escape(&value)));
    }
    let path = dir.join(NAME);
    disk.write_file_atomically(&path, text.as_bytes()).map_err(LogError::io("replace", &path))
}

/// Key and value of a line, with Java's backslashes taken off.
fn split(line: &str) -> (String, String) {
    let (mut key, mut value) = (String::new(), String::new());
    let mut in_value = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let part = if in_value { &mut value } else { &mut key };
        match character {
            '\\' => part.extend(characters.next()),
            '=' | ':' if !in_value => in_value = true,
            other => part.push(other),
        }
    }
    (key.trim().to_owned(), value.trim().to_owned())
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\\' | '=' | ':' | '#' | '!') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, OpenMode, write_all_at};

    #[test]
    fn kafkas_file_is_read_and_ours_is_read_back() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/d");
        disk.create_dir_all(dir).unwrap();
        assert_eq!(read(&disk, dir).unwrap(), None);
        let text = "#\n#Sat Nov 21 10:00:00 UTC 2026\ncluster.id=a\\=b\ndirectory.id=AAAAAAAAAAAAAAAAAAAAZA\n\
                    node.id=1\nversion=1\nextra=x\n";
        let file = disk.open(&dir.join(NAME), OpenMode::Create).unwrap();
        write_all_at(&*file, text.as_bytes(), 0).unwrap();
        let properties = read(&disk, dir).unwrap().unwrap();
        assert_eq!(properties.cluster_id, "a=b");
        assert_eq!(properties.node_id, NodeId(1));
        assert_eq!(properties.directory_id, Some(DirectoryId(Uuid(100))));
        assert_eq!(properties.others["extra"], "x");
        write(&disk, dir, &properties).unwrap();
        assert_eq!(read(&disk, dir).unwrap(), Some(properties));
    }

    #[test]
    fn another_version_names_its_line() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let file = disk.open(Path::new("/d/meta.properties"), OpenMode::Create).unwrap();
        write_all_at(&*file, b"#\nversion=0\nbroker.id=1\n", 0).unwrap();
        match read(&disk, Path::new("/d")).unwrap_err() {
            LogError::Malformed { line, .. } => assert_eq!(line, 2),
            other => panic!("{other}"),
        }
    }
}
