//! The topics: a large old one, and a small one for each producer; and how the old one leaves memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use klamm_e2e::random::Random;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use klamm_protocol::records::BatchBuilder;
use klamm_protocol::wire::WireStr;

use super::wire::{Connection, Partition, expect_success};

/// What is read from the old topic at once is many batches of a middle size.
const RECORDS_PER_BATCH: i64 = 64;
const RECORD_BYTES: usize = 1024;
/// So that all but the last are closed.
const SEGMENT_BYTES: &str = "268435456";
const RETRY: Duration = Duration::from_millis(50);

/// Creates `name` unless it is there; returns once every partition has a leader.
pub fn create(connection: &mut Connection, name: &str, partition_count: i32) -> Result<()> {
    let config = |name: &str, value: &str| CreatableTopicConfig {
        name: WireStr::from(name.to_owned()),
        value: Some(WireStr::from(value.to_owned())),
    };
    let topic = CreatableTopic {
        name: WireStr::from(name.to_owned()),
        num_partitions: partition_count,
        replication_factor: 1,
        configs: vec![config("segment.bytes", SEGMENT_BYTES)],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 60_000, ..Default::default() };
    for created in connection.call(7, &request)?.topics {
        if created.error_code != ErrorCode::TopicAlreadyExists.code() {
            expect_success("create the topic", created.error_code)?;
        }
    }
    for index in 0..partition_count {
        let partition = Partition { topic: name.to_owned(), index };
        while connection.end_offset(&partition)?.is_none() {
            std::thread::sleep(RETRY);
        }
    }
    Ok(())
}

/// A batch of records that no device makes smaller.
pub fn batch(record_count: i64, record_bytes: usize) -> Bytes {
    let mut random = Random::of(1);
    let mut value = vec![0; record_bytes];
    let mut builder = BatchBuilder::new();
    for _ in 0..record_count {
        value.fill_with(|| random.draw() as u8);
        builder.push(now_ms(), None, Some(&value), &[]);
    }
    builder.build()
}

/// Fills the old topic up to `bytes`; returns its end offset.
pub fn fill(connection: &mut Connection, old: &Partition, bytes: u64) -> Result<i64> {
    const IN_FLIGHT: usize = 16;
    let end = connection.end_offset(old)?.context("the old topic has no leader")?;
    let batch = batch(RECORDS_PER_BATCH, RECORD_BYTES);
    let wanted = i64::try_from(bytes / batch.len() as u64)? * RECORDS_PER_BATCH;
    let missing = (wanted - end).max(0) / RECORDS_PER_BATCH;
    let mut in_flight = 0;
    for _ in 0..missing {
        connection.begin_produce(old, 1, batch.clone())?;
        in_flight += 1;
        if in_flight == IN_FLIGHT {
            connection.finish_produce()?;
            in_flight -= 1;
        }
    }
    for _ in 0..in_flight {
        connection.finish_produce()?;
    }
    connection.end_offset(old)?.context("the old topic lost its leader")
}

/// The segments of the old topic's partition.
pub struct OldSegments(Vec<PathBuf>);

impl OldSegments {
    pub fn find(log_dir: &Path, old: &Partition) -> Result<Self> {
        let folder = log_dir.join(format!("{}-{}", old.topic, old.index));
        let entries = std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "log" || kind == "index") {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            bail!("no segments in {}", folder.display());
        }
        paths.sort();
        Ok(Self(paths))
    }

    pub fn logs(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().filter(|path| path.extension().is_some_and(|kind| kind == "log"))
    }

    /// Takes them out of the page cache, indexes too: what is dirty is written first, or it would stay.
    pub fn evict(&self) -> Result<()> {
        for path in &self.0 {
            let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            file.sync_data()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
