//! Many threads at one shard: what the simulation's single thread cannot show.
#![allow(clippy::disallowed_methods, reason = "the test is about real threads")]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use klamm_cluster::config::Durability;
use klamm_cluster::image::MetadataDelta;
use klamm_coordinator::contract::{At, Coordinator, Ctx, Outcome, ReplyKey};
use klamm_coordinator::group::record::GroupRecord;
use klamm_log::disk::MemoryDisk;
use klamm_log::{TransactionClaim, trusted_batch};
use klamm_protocol::ids::{ProducerEpoch, ProducerId};
use klamm_protocol::messages::group_records::GroupMetadataKey;
use klamm_protocol::records::{BatchBuilder, Codec, ValidatedBatch};
use klamm_protocol::time::WallMs;
use tokio::sync::watch;

use super::effects::Effects;
use super::{Asked, Shard, Unavailable, World};
use crate::host::RealHost;
use crate::partition::stress::{directory_on, partition_in, slow_down};

const ASKERS: usize = 8;
const ROUNDS: usize = 300;
const YIELDS: usize = 20;

fn on_threads(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("threads");
    runtime.block_on(test);
}

fn world<C: Coordinator<Settings = ()>>(host: RealHost) -> Arc<World<RealHost, C>> {
    Arc::new(World {
        host,
        image: Arc::default(),
        settings: ArcSwap::from_pointee(()),
        effects: Arc::new(Effects::new()),
        codec: Codec::None,
        load_buffer_bytes: 1024,
        batch_bytes_max: AtomicUsize::new(usize::MAX),
    })
}

/// Answers when a timer fires that is due at once.
#[derive(Default)]
struct Bell;

impl Coordinator for Bell {
    type Command = ();
    type Reply = ();
    type Record = GroupRecord;
    type Timer = u64;
    type Effect = std::convert::Infallible;
    type Settings = ();

    fn decide(&mut self, cx: &Ctx<'_, ()>, key: ReplyKey, (): (), out: &mut Outcome<Self>) {
        out.set_timer(key.0, cx.mono);
        out.write(GroupRecord::GroupMetadata(GroupMetadataKey::default(), None));
    }

    fn expire(&mut self, _: &Ctx<'_, ()>, timer: u64, out: &mut Outcome<Self>) {
        out.reply(ReplyKey(timer), ());
    }

    fn follow_image(&mut self, _: &Ctx<'_, ()>, _: &MetadataDelta, _: &mut Outcome<Self>) {}

    fn loaded(&mut self, _: &Ctx<'_, ()>, _: &mut Outcome<Self>) {}

    /// Long enough for the shard's task to look at the timers while somebody has the role.
    fn apply(&mut self, _: At, _: &GroupRecord) {
        (0..YIELDS).for_each(|_| std::thread::yield_now());
    }

    fn end_transaction(&mut self, _: ProducerId, _: bool) {}
}

/// Every round ends with nobody there whose next command would wake the shard's task by chance.
#[test]
fn no_timer_is_lost_under_contention() {
    on_threads(async {
        let disk = MemoryDisk::new();
        let partition = partition_in(&directory_on(&disk), &disk, 0, Durability::PageCache);
        let (_stop, stopped) = watch::channel(false);
        let shard = Shard::<RealHost, Bell>::start(world(RealHost::new()), partition, stopped);
        for round in 0..ROUNDS {
            let askers: Vec<_> = (0..ASKERS)
                .map(|_| {
                    let shard = shard.clone();
                    tokio::spawn(async move {
                        while shard.ask(()).await == Err(Unavailable::Loading) {
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            for asker in askers {
                let answered = tokio::time::timeout(Duration::from_secs(30), asker).await;
                answered.unwrap_or_else(|_| panic!("a timer was lost in round {round}")).expect("no panic");
            }
        }
    });
}

/// Answers once its record is written, in a transaction of producer 2 or in none.
#[derive(Default)]
struct Scribe;

const SCRIBE: (ProducerId, ProducerEpoch) = (ProducerId(2), ProducerEpoch(0));

impl Coordinator for Scribe {
    type Command = bool;
    type Reply = ();
    type Record = GroupRecord;
    type Timer = ();
    type Effect = std::convert::Infallible;
    type Settings = ();

    fn decide(&mut self, _: &Ctx<'_, ()>, key: ReplyKey, in_transaction: bool, out: &mut Outcome<Self>) {
        out.transaction = in_transaction.then_some(SCRIBE);
        out.write(GroupRecord::GroupMetadata(GroupMetadataKey::default(), None));
        out.reply(key, ());
    }

    fn expire(&mut self, _: &Ctx<'_, ()>, (): (), _: &mut Outcome<Self>) {}

    fn follow_image(&mut self, _: &Ctx<'_, ()>, _: &MetadataDelta, _: &mut Outcome<Self>) {}

    fn loaded(&mut self, _: &Ctx<'_, ()>, _: &mut Outcome<Self>) {}

    fn apply(&mut self, _: At, _: &GroupRecord) {}

    fn end_transaction(&mut self, _: ProducerId, _: bool) {}
}

fn marker(coordinator_epoch: i32) -> ValidatedBatch {
    let (id, epoch) = (ProducerId(1), ProducerEpoch(0));
    let marker = BatchBuilder::end_transaction_marker(true, coordinator_epoch, id, epoch, 1).build();
    trusted_batch(marker).expect("a batch that was just built")
}

/// What a connection brought can be answered in one piece only if asking itself never flushes.
#[test]
fn asking_flushes_nothing_and_waits_only_for_a_flush() {
    on_threads(async {
        for durability in [Durability::PageCache, Durability::Flushed] {
            let disk = MemoryDisk::new();
            let partition = partition_in(&directory_on(&disk), &disk, 0, durability);
            let host = RealHost::new();
            let (_stop, stopped) = watch::channel(false);
            let shard = Shard::<RealHost, Scribe>::start(world(host.clone()), partition.clone(), stopped);
            while shard.ask(false).await == Err(Unavailable::Loading) {
                tokio::task::yield_now().await;
            }
            match shard.ask_now(false).expect("it has loaded") {
                Asked::Answered(()) => assert_eq!(durability, Durability::PageCache),
                Asked::Waits(pending) => {
                    assert_eq!(durability, Durability::Flushed);
                    let limits = partition.view.limits();
                    assert!(limits.flushed.offset < limits.end.offset);
                    assert_eq!(pending.answer(&host).await, Ok(()));
                }
            }
        }
    });
}

#[test]
fn the_role_is_lent_and_comes_back_under_contention() {
    contend(false);
}

#[test]
fn the_role_comes_back_from_a_slow_directorys_threads() {
    contend(true);
}

/// Markers, transactions and plain commands, refused ones and such as nobody waits for any more: none of them costs
/// the machine, and all get an answer.
fn contend(is_slow: bool) {
    on_threads(async move {
        let disk = MemoryDisk::new();
        let dir = directory_on(&disk);
        let partition = partition_in(&dir, &disk, 0, Durability::PageCache);
        let host = RealHost::new();
        if is_slow {
            slow_down(&dir, &host);
        }
        let (_stop, stopped) = watch::channel(false);
        let shard = Shard::<RealHost, Scribe>::start(world(host.clone()), partition.clone(), stopped);
        while shard.ask(false).await == Err(Unavailable::Loading) {
            tokio::task::yield_now().await;
        }
        let (id, epoch) = SCRIBE;
        let claim = TransactionClaim {
            producer_id: id,
            producer_epoch: epoch,
            base_sequence: -1,
            bumps_epoch: false,
        };
        let verified = partition.with_log(&host, move |log| {
            let ticket = log.begin_verification(&claim, WallMs(0)).expect("not stale").expect("not open");
            log.confirm_verification(id, epoch, ticket);
        });
        verified.await.expect("the log is there");
        assert!(matches!(shard.end_transaction(marker(5), 1, true).await, Ok(Ok(_))));
        let mut tasks = Vec::new();
        for task in 0..ASKERS {
            let (shard, partition, host) = (shard.clone(), partition.clone(), host.clone());
            tasks.push(tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    match task % 6 {
                        0 => assert_eq!(shard.ask(false).await, Ok(())),
                        1 => assert!(matches!(shard.end_transaction(marker(5), 1, true).await, Ok(Ok(_)))),
                        2 => assert!(matches!(shard.ask_in_transaction(true, id, epoch).await, Ok(Ok(())))),
                        3 => assert!(matches!(shard.end_transaction(marker(4), 1, true).await, Ok(Err(_)))),
                        4 => tokio::select! { biased;
                            () = tokio::task::yield_now() => {}
                            _ = shard.end_transaction(marker(5), 1, true) => {}
                        },
                        // Who appends must wait for the log.
                        _ => partition.with_log_aside(&host, |_| ()).await.expect("the log is there"),
                    }
                }
            }));
        }
        for task in tasks {
            let done = tokio::time::timeout(Duration::from_secs(30), task).await;
            done.expect("nobody waits for ever").expect("no answer was lost");
        }
        assert_eq!(shard.ask(false).await, Ok(()));
    });
}
