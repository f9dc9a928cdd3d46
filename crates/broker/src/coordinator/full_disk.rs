//! Appends that wait for the log's turn, and then find no room.
#![allow(clippy::disallowed_methods, reason = "the test is about real threads")]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use klamm_cluster::config::{ConfigLayers, Durability};
use klamm_coordinator::group::{GroupCommand, GroupCoordinator, GroupReply};
use klamm_log::disk::MemoryDisk;
use klamm_log::trusted_batch;
use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::records::{BatchBuilder, Codec, ValidatedBatch};
use tokio::sync::watch;

use super::effects::Effects;
use super::{Shard, Unavailable, World};
use crate::host::RealHost;
use crate::partition::Partition;
use crate::partition::stress::{directory_on, partition_in};

type Groups = Arc<Shard<RealHost, GroupCoordinator>>;

fn commit(offset: i64) -> GroupCommand {
    let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
    let topic =
        OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    GroupCommand::OffsetCommit { request, version: 8 }
}

fn marker() -> ValidatedBatch {
    let (id, epoch) = (ProducerId(1), ProducerEpoch(0));
    trusted_batch(BatchBuilder::end_transaction_marker(true, 1, id, epoch, 1).build()).expect("just built")
}

/// What a commit is answered, once the shard has loaded.
async fn committed(shard: &Groups, offset: i64) -> Result<i16, Unavailable> {
    loop {
        match shard.ask(commit(offset)).await {
            Err(Unavailable::Loading) => tokio::task::yield_now().await,
            Ok(GroupReply::OffsetCommit(response)) => {
                return Ok(response.topics[0].partitions[0].error_code);
            }
            Ok(other) => panic!("{other:?}"),
            Err(unavailable) => return Err(unavailable),
        }
    }
}

async fn with_shard<F: Future<Output = ()>>(test: impl FnOnce(MemoryDisk, Arc<Partition>, Groups) -> F) {
    let disk = MemoryDisk::new();
    let partition = partition_in(&directory_on(&disk), &disk, 0, Durability::PageCache);
    let world = Arc::new(World {
        host: RealHost::new(),
        image: Arc::default(),
        settings: ArcSwap::from_pointee((&ConfigLayers::default()).into()),
        effects: Arc::new(Effects::new()),
        codec: Codec::None,
        load_buffer_bytes: 1024,
        batch_bytes_max: AtomicUsize::new(usize::MAX),
    });
    let (_stop, stopped) = watch::channel(false);
    let shard = Shard::start(world, partition.clone(), stopped);
    assert_eq!(committed(&shard, 1).await, Ok(0));
    test(disk, partition, shard).await;
}

/// The log is busy when it comes, and full when it is its turn.
#[tokio::test]
async fn a_marker_that_waited_and_finds_no_room_costs_no_group_its_coordinator() {
    with_shard(|disk, partition, shard| async move {
        let host = RealHost::new();
        let log = partition.take_role();
        let asked = shard.clone();
        let ended = tokio::spawn(async move { asked.end_transaction(marker(), 1, true).await });
        tokio::task::yield_now().await;
        disk.set_capacity_bytes(Some(0));
        partition.give_role_back(&host, log);
        assert!(matches!(ended.await, Ok(Ok(Err(_)))));
        disk.set_capacity_bytes(None);
        // One that loads again would say so.
        assert!(shard.ask(commit(2)).await.is_ok());
    })
    .await;
}

/// Behind another append nobody can say at once that there is no room: what was decided is applied by then.
#[tokio::test]
async fn a_commit_that_was_left_to_another_thread_and_fails_is_read_back_from_the_log() {
    with_shard(|disk, partition, shard| async move {
        let host = RealHost::new();
        let log = partition.take_role();
        let asked = shard.clone();
        let left = tokio::spawn(async move { asked.ask(commit(2)).await.map(|_| ()) });
        tokio::task::yield_now().await;
        disk.set_capacity_bytes(Some(0));
        partition.give_role_back(&host, log);
        assert_eq!(left.await.expect("no panic"), Err(Unavailable::Lost));
        assert_eq!(committed(&shard, 3).await, Err(Unavailable::Lost), "there is no room, and it has loaded");
        disk.set_capacity_bytes(None);
        assert_eq!(shard.ask(commit(4)).await.map(|_| ()), Ok(()));
    })
    .await;
}

/// The log was free when it was asked about the marker, and busy when it was to be written.
#[tokio::test]
async fn a_marker_that_nobody_waits_for_any_more_leaves_the_end_where_it_was() {
    with_shard(|_disk, partition, shard| async move {
        let host = RealHost::new();
        let log = partition.take_role();
        let asked = shard.clone();
        let ended = tokio::spawn(async move { asked.end_transaction(marker(), 1, true).await });
        tokio::task::yield_now().await;
        partition.give_role_back(&host, log);
        let log = partition.take_role();
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        ended.abort();
        assert!(ended.await.is_err(), "it waits for the log");
        partition.give_role_back(&host, log);
        assert!(shard.ask(commit(2)).await.is_ok());
    })
    .await;
}
