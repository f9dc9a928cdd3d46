//! Many threads at one shard: what the simulation's single thread cannot show.
#![allow(clippy::disallowed_methods, reason = "the test is about real threads")]

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use klamm_cluster::config::Durability;
use klamm_cluster::image::MetadataDelta;
use klamm_coordinator::contract::{At, Coordinator, Ctx, Outcome, ReplyKey};
use klamm_coordinator::group::record::GroupRecord;
use klamm_log::disk::MemoryDisk;
use klamm_protocol::ids::ProducerId;
use klamm_protocol::messages::group_records::GroupMetadataKey;
use klamm_protocol::records::Codec;
use tokio::sync::watch;

use super::effects::Effects;
use super::{Shard, Unavailable, World};
use crate::host::RealHost;
use crate::partition::stress::{directory_on, partition_in};

const ASKERS: usize = 8;
const ROUNDS: usize = 300;
const YIELDS: usize = 20;

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
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("threads");
    runtime.block_on(async {
        let disk = MemoryDisk::new();
        let partition = partition_in(&directory_on(&disk), &disk, 0, Durability::PageCache);
        let world = Arc::new(World {
            host: RealHost::new(),
            image: Arc::default(),
            settings: ArcSwap::from_pointee(()),
            effects: Arc::new(Effects::new()),
            codec: Codec::None,
            load_buffer_bytes: 1024,
        });
        let (_stop, stopped) = watch::channel(false);
        let shard = Shard::<RealHost, Bell>::start(world, partition, stopped);
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
