//! One consumer group (KIP-848) that all members join at once, each over its own connection.
//!
//! The target is there when somebody first has the group's last epoch; the group is reconciled when every
//! member has that epoch, and together they have every partition once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;

use super::Broker;
use super::connection::Connection;
use super::consumer_member::ConsumerMember;
use super::topics;
use klamm_e2e::usage::Sample;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    broker: Broker,
    #[arg(long, default_value_t = 1000)]
    members: usize,
    /// Groups, one after the other.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Has a partition for each member.
    #[arg(long, default_value = "coordinator-bench-join")]
    topic: String,
}

/// What the members have come to.
struct Progress {
    of_members: Mutex<Vec<Standing>>,
    complete: watch::Sender<Option<Times>>,
}

#[derive(Clone, Default)]
struct Standing {
    epoch: i32,
    /// When it heard of this epoch first.
    since: Option<Instant>,
    owned: Vec<i32>,
}

#[derive(Clone, Copy)]
struct Times {
    target: Instant,
    reconciled: Instant,
    epoch: i32,
}

pub async fn run(options: Options) -> Result<()> {
    let options = Arc::new(options);
    let mut admin = Connection::open(options.broker.bootstrap).await?;
    let topic_id = topics::create(&mut admin, &options.topic, i32::try_from(options.members)?).await?;
    let groups = topics::group_ids("join-consumer", options.rounds);
    topics::wait_for_coordinators(&mut admin, &groups).await?;
    for group in groups {
        let progress = Arc::new(Progress {
            of_members: Mutex::new(vec![Standing::default(); options.members]),
            complete: watch::channel(None).0,
        });
        let mut complete = progress.complete.subscribe();
        let go = Arc::new(Barrier::new(options.members + 1));
        let mut members = JoinSet::new();
        for index in 0..options.members {
            let id = format!("{}-{index}", &*group);
            let lone = Lone {
                index,
                connection: Connection::open(options.broker.bootstrap).await?,
                member: ConsumerMember::new(group.clone(), id, &options.topic, topic_id),
                progress: progress.clone(),
            };
            members.spawn(lone.live(go.clone()));
        }
        go.wait().await;
        let (begin, sample) = (Instant::now(), Sample::now(options.broker.pid)?);
        let times = tokio::select! {
            done = complete.wait_for(Option::is_some) => done?.context("times")?,
            Some(ended) = members.join_next() => {
                ended??;
                anyhow::bail!("a member ended");
            }
        };
        let (cpu, _) = sample.elapsed()?;
        println!(
            "join-consumer: {} members: last target after {:.0} ms, all reconciled after {:.0} ms, epoch {}, broker CPU {:.0} ms",
            options.members,
            (times.target - begin).as_secs_f64() * 1e3,
            (times.reconciled - begin).as_secs_f64() * 1e3,
            times.epoch,
            cpu.as_secs_f64() * 1e3,
        );
        members.shutdown().await;
    }
    Ok(())
}

struct Lone {
    index: usize,
    connection: Connection,
    member: ConsumerMember,
    progress: Arc<Progress>,
}

impl Lone {
    async fn live(mut self, go: Arc<Barrier>) -> Result<()> {
        go.wait().await;
        loop {
            let Some(beat) = self.member.heartbeat(&mut self.connection).await? else {
                tokio::task::yield_now().await;
                continue;
            };
            self.progress.note(self.index, beat.epoch, &self.member.owned);
            if !beat.has_news {
                tokio::time::sleep(Duration::from_millis(beat.interval_ms)).await;
            }
        }
    }
}

impl Progress {
    fn note(&self, index: usize, epoch: i32, owned: &[i32]) {
        let mut members = self.of_members.lock().expect("nobody panics with it");
        let standing = &mut members[index];
        if standing.epoch == epoch && standing.owned == owned {
            return;
        }
        if standing.epoch != epoch {
            standing.since = Some(Instant::now());
        }
        standing.epoch = epoch;
        standing.owned = owned.to_vec();
        if members.iter().any(|other| other.epoch != epoch) {
            return;
        }
        let mut partitions: Vec<i32> = members.iter().flat_map(|other| other.owned.iter().copied()).collect();
        partitions.sort_unstable();
        let is_each_once = partitions.iter().enumerate().all(|(at, index)| usize::try_from(*index) == Ok(at));
        if is_each_once && partitions.len() == members.len() {
            let target = members.iter().filter_map(|member| member.since).min();
            let reconciled = Instant::now();
            let target = target.unwrap_or(reconciled);
            self.complete.send_replace(Some(Times { target, reconciled, epoch }));
        }
    }
}
