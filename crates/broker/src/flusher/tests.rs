//! Rounds at a bad moment: behind a deletion, behind a failure, beside a waiter that flushes itself.

#![allow(clippy::disallowed_methods, reason = "the test is about real threads")]

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use klamm_cluster::config::Durability;
use klamm_log::disk::{Disk, DiskOperation, Fault, MemoryDisk};

use super::*;
use crate::handlers::produce::ProduceWaker;
use crate::host::RealHost;
use crate::partition::stress::{append_one, directory_on, partition_in};

fn is_sync(operation: &DiskOperation) -> bool {
    matches!(operation, DiskOperation::Sync(_) | DiskOperation::SyncDir(_) | DiskOperation::SyncAll)
}

#[tokio::test]
async fn a_partition_that_was_deleted_before_its_flush_takes_nothing_offline() {
    let (host, disk, waker) = (RealHost::new(), MemoryDisk::new(), Arc::<ProduceWaker>::default());
    let dir = directory_on(&disk);
    let partition = partition_in(&dir, &disk, 0, Durability::Flushed);
    assert!(append_one(&host, &partition, &waker));
    // Its next flush makes names durable, too.
    partition.with_log(&host, |log| log.snapshot_producers()).await.expect("open").expect("written");
    drop(partition.close(&host).await.expect("the log"));
    disk.rename(Path::new("/d/t-0"), Path::new("/d/t-0.x-delete")).expect("renamed");
    let dirty = dir.flusher.take_due(host.mono());
    assert_eq!(dirty.len(), 1);
    dir.flush(&host, dirty);
    assert!(!dir.is_offline());
    assert!(waker.take().iter().all(|answer| answer.result.is_err()), "deleted, not durable");
}

#[tokio::test]
async fn behind_a_failed_round_nothing_is_flushed_and_every_answer_is_an_error() {
    let (host, disk) = (RealHost::new(), MemoryDisk::new());
    let dir = directory_on(&disk);
    let wakers: [Arc<ProduceWaker>; 2] = Default::default();
    let partitions = [0, 1].map(|index| partition_in(&dir, &disk, index, Durability::Flushed));
    assert!(append_one(&host, &partitions[0], &wakers[0]));
    let first = dir.flusher.take_due(host.mono());
    // Appended while the first round fails.
    assert!(append_one(&host, &partitions[1], &wakers[1]));
    disk.inject(Fault::Sync(ErrorKind::Other));
    dir.flush(&host, first);
    assert!(dir.is_offline());
    let _ = disk.take_journal();
    dir.flush(&host, dir.flusher.take_due(host.mono()));
    assert!(!disk.take_journal().iter().any(is_sync), "a flush behind a failed one");
    for (partition, waker) in partitions.iter().zip(&wakers) {
        assert_eq!(partition.view.limits().flushed.offset.0, 0);
        let answers = waker.take();
        assert!(answers.len() == 1 && answers[0].result.is_err());
    }
}

#[tokio::test]
async fn what_is_due_while_a_waiter_flushes_itself_is_flushed_behind_it() {
    let (host, disk, waker) = (RealHost::new(), MemoryDisk::new(), Arc::<ProduceWaker>::default());
    let dir = directory_on(&disk);
    let partition = partition_in(&dir, &disk, 0, Durability::PageCache);
    // A waiter has the role, and has not yet taken what it flushes.
    assert!(dir.flusher.take_role());
    assert!(!append_one(&host, &partition, &waker));
    dir.add_for_write_back(&host, &partition, u64::from(u32::MAX), 0);
    tokio::spawn(dir.clone().run_flusher(host.clone()));
    while !dir.flusher.is_awaited.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    let commits = dir.flusher.take_commits(&mut dir.flusher.locked());
    dir.flush(&host, commits);
    dir.flusher.free_role();
    let flushed = async {
        while partition.view.limits().flushed.offset.0 == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), flushed).await.expect("the round was lost");
    dir.stop_flusher();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_waiter_flushes_itself_on_a_slow_directory_too() {
    let (host, disk, waker) = (RealHost::new(), MemoryDisk::new(), Arc::<ProduceWaker>::default());
    let dir = directory_on(&disk);
    let partition = partition_in(&dir, &disk, 0, Durability::Flushed);
    let slow_ms = DirPressure::SLOW_WRITE_MS;
    dir.flusher.pressure.note_write(host.mono(), host.mono().plus_ms(slow_ms), Some(true));
    assert!(append_one(&host, &partition, &waker));
    // No task of the directory runs: what is answered was flushed here.
    dir.commit(&host).await;
    let answers = waker.take();
    assert!(answers.len() == 1 && answers[0].result.is_ok());
}

#[tokio::test]
async fn who_is_ready_to_append_is_covered_by_the_same_round() {
    let (host, disk) = (RealHost::new(), MemoryDisk::new());
    let dir = directory_on(&disk);
    tokio::spawn(dir.clone().run_flusher(host.clone()));
    let producers = (0..8).map(|index| {
        let partition = partition_in(&dir, &disk, index, Durability::Flushed);
        let (host, dir, waker) = (host.clone(), dir.clone(), Arc::<ProduceWaker>::default());
        tokio::spawn(async move {
            assert!(append_one(&host, &partition, &waker));
            dir.commit(&host).await;
            tokio::time::timeout(Duration::from_secs(30), waker.woken()).await.expect("an answer was lost");
        })
    });
    for producer in producers.collect::<Vec<_>>() {
        producer.await.expect("answered");
    }
    // It is counted behind its answers.
    assert!(dir.round_count() <= 1, "{} rounds", dir.round_count());
    dir.stop_flusher();
}

#[test]
fn a_round_that_panics_takes_the_directory_offline() {
    let dir = directory_on(&MemoryDisk::new());
    let round = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = RoundGuard(&dir);
        panic!("as this test wants it");
    }));
    assert!(round.is_err() && dir.is_offline());
}
