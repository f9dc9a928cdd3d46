//! Many threads at one partition: what the simulation's single thread cannot show.
//!
//! Each thread plays connections that append groups and collect answers; in the end
//! every batch has exactly one answer, offsets have no gap, and each connection's batches
//! stand in the order in which they were sent.
#![allow(clippy::disallowed_methods, reason = "the test is about real threads")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use klamm_cluster::config::{Durability, TopicConfig};
use klamm_log::disk::MemoryDisk;
use klamm_log::{AppendOrigin, Log, LogConfig, OpenLog, trusted_batch};
use klamm_protocol::ids::{DirectoryId, LeaderEpoch, Offset, PartitionIndex, TopicId, Uuid};
use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchBuilder, RecordIter, Scanned, scan_batches};
use klamm_protocol::time::WallMs;

use super::acks::AppendOwner;
use super::{Append, AppendGroup, FlushPolicy, Partition, Ticket};
use crate::flusher::DirFlusher;
use crate::handlers::produce::ProduceWaker;
use crate::host::{Host as _, RealHost};
use crate::log_dirs::DirState;

const CONNECTIONS: u64 = 8;
const GROUPS: u64 = 300;
const BATCHES: u64 = 3;

fn batch(text: &str) -> Bytes {
    let mut builder = BatchBuilder::new();
    builder.push(1, None, Some(text.as_bytes()), &[]);
    builder.build()
}

/// Appends groups without waiting in between, then collects what was left to others.
async fn connection(host: RealHost, partition: Arc<Partition>, number: u64) -> Vec<Offset> {
    let waker = Arc::<ProduceWaker>::default();
    let owner: Arc<dyn AppendOwner> = waker.clone();
    let mut offsets = vec![None; (GROUPS * BATCHES) as usize];
    for group in 0..GROUPS {
        let of = |index: u64| group * BATCHES + index;
        let group = AppendGroup {
            batches: (0..BATCHES)
                .map(|index| trusted_batch(batch(&format!("{number} {}", of(index)))).expect("a batch"))
                .collect(),
            tickets: (0..BATCHES)
                .map(|index| Ticket { slot: of(index), place: (0, 0), waits_for_commit: true })
                .collect(),
            origin: AppendOrigin::Client,
        };
        let tickets = group.tickets.clone();
        match partition.append(&host, group, &owner) {
            Append::Queued => {}
            Append::Done(results) => {
                let mut waits = false;
                for (ticket, result) in tickets.into_iter().zip(results) {
                    let Some(result) = result else {
                        waits = true;
                        continue;
                    };
                    let placed = result.expect("nothing fails");
                    assert_eq!(offsets[ticket.slot as usize].replace(placed.base_offset), None);
                }
                if waits {
                    partition.want_commit(&host).commit(&host).await;
                }
            }
        }
        if number.is_multiple_of(2) {
            tokio::task::yield_now().await;
        }
    }
    loop {
        for completion in waker.take() {
            let placed = completion.result.expect("nothing fails");
            assert_eq!(offsets[completion.slot as usize].replace(placed.base_offset), None);
        }
        if offsets.iter().all(Option::is_some) {
            return offsets.into_iter().flatten().collect();
        }
        tokio::time::timeout(Duration::from_secs(30), waker.woken()).await.expect("an answer was lost");
    }
}

#[test]
fn every_batch_is_answered_once_and_in_order_under_contention() {
    contend(Durability::PageCache, false);
}

#[test]
fn a_slow_directory_loses_no_answer_and_keeps_the_order() {
    contend(Durability::PageCache, true);
    contend(Durability::Flushed, true);
}

#[test]
fn no_answer_that_waits_for_a_flush_is_lost_under_contention() {
    contend(Durability::Flushed, false);
}

#[test]
fn an_append_to_a_slow_directory_is_left_to_its_lane() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async {
        let (disk, host, waker) = (MemoryDisk::new(), RealHost::new(), Arc::<ProduceWaker>::default());
        let dir = directory_on(&disk);
        let partition = partition_in(&dir, &disk, 0, Durability::PageCache);
        slow_down(&dir, &host);
        let group = AppendGroup {
            batches: vec![trusted_batch(batch("one")).expect("a batch")],
            tickets: vec![Ticket { slot: 0, place: (0, 0), waits_for_commit: true }],
            origin: AppendOrigin::Client,
        };
        let owner: Arc<dyn AppendOwner> = waker.clone();
        assert!(matches!(partition.append(&host, group, &owner), Append::Queued));
        tokio::time::timeout(Duration::from_secs(30), waker.woken()).await.expect("the lane appends");
        assert_eq!(waker.take().pop().expect("one").result.expect("nothing fails").base_offset, Offset(0));
    });
}

/// Makes the directory slow for longer than any test takes.
pub(crate) fn slow_down(dir: &DirState, host: &RealHost) {
    let now = host.mono();
    dir.pressure.note_write(now, now.plus_ms(3_600_000), Some(true));
    assert!(dir.is_slow(host));
}

/// A log directory `/d`.
pub(crate) fn directory_on(disk: &MemoryDisk) -> Arc<DirState> {
    let path = Path::new("/d");
    DirState::new(path, DirectoryId(Uuid(1)), Arc::default(), DirFlusher::new(disk, path))
}

/// A new partition in it, whose directory is `/d/t-<index>`.
pub(crate) fn partition_in(
    dir: &Arc<DirState>,
    disk: &MemoryDisk,
    index: i32,
    durability: Durability,
) -> Arc<Partition> {
    let log = Log::create(OpenLog {
        disk: Arc::new(disk.clone()),
        dir: PathBuf::from(format!("/d/t-{index}")),
        topic_id: TopicId(Uuid(7)),
        config: LogConfig::default(),
        recovery_point: Offset(0),
        log_start: Offset(0),
        high_watermark: None,
        was_clean: true,
        now: WallMs(1),
    })
    .expect("a log");
    let policy = FlushPolicy::from(&TopicConfig { durability, ..TopicConfig::default() });
    let (topic, epoch) = (TopicId(Uuid(7)), LeaderEpoch(1));
    Partition::new("t".into(), topic, PartitionIndex(index), epoch, log, policy, dir.clone())
}

/// Appends one batch with acks=all; true if its answer waits for a flush.
pub(crate) fn append_one(host: &RealHost, partition: &Arc<Partition>, waker: &Arc<ProduceWaker>) -> bool {
    let group = AppendGroup {
        batches: vec![trusted_batch(batch("one")).expect("a batch")],
        tickets: vec![Ticket { slot: 0, place: (0, 0), waits_for_commit: true }],
        origin: AppendOrigin::Client,
    };
    let owner: Arc<dyn AppendOwner> = waker.clone();
    match partition.append(host, group, &owner) {
        Append::Done(results) => results.iter().any(Option::is_none),
        Append::Queued => panic!("nobody else appends, and the directory is not slow"),
    }
}

fn contend(durability: Durability, is_slow: bool) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("threads");
    runtime.block_on(async {
        let disk = MemoryDisk::new();
        let dir = directory_on(&disk);
        let partition = partition_in(&dir, &disk, 0, durability);
        let host = RealHost::new();
        if is_slow {
            slow_down(&dir, &host);
        }
        tokio::spawn(dir.run_flusher(host.clone()));
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|number| tokio::spawn(connection(host.clone(), partition.clone(), number)))
            .collect();
        let mut all = BTreeSet::new();
        for task in tasks {
            let offsets = task.await.expect("no connection failed");
            assert!(offsets.is_sorted(), "a connection's batches keep their order");
            all.extend(offsets);
        }
        let expected = i64::try_from(CONNECTIONS * GROUPS * BATCHES).expect("small");
        assert_eq!(all.iter().copied().collect::<Vec<_>>(), (0..expected).map(Offset).collect::<Vec<_>>());
        let limits = partition.view.limits();
        assert_eq!(limits.high_watermark.offset, Offset(expected));
        let region =
            partition.view.read(Offset(0), limits.end, u32::MAX, true).expect("readable").expect("there");
        let bytes = region.read().expect("readable");
        let mut next = [0u64; CONNECTIONS as usize];
        for scanned in scan_batches(&bytes) {
            let Ok(Scanned::Batch(batch)) = scanned else { panic!("whole batches") };
            let record =
                RecordIter::new(&batch.header, &batch.bytes[BATCH_HEADER_BYTES..]).next().expect("one");
            let value = record.expect("valid").value.expect("a value").to_vec();
            let text = String::from_utf8(value).expect("text");
            let (number, sequence) = text.split_once(' ').expect("two numbers");
            let number: usize = number.parse().expect("a number");
            assert_eq!(sequence.parse::<u64>().expect("a number"), next[number]);
            next[number] += 1;
        }
        assert_eq!(next, [GROUPS * BATCHES; CONNECTIONS as usize]);
    });
}
