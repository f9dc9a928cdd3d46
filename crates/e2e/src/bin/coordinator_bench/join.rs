//! One classic group that all members join at once, each over its own connection.
//!
//! Members behave as consumers do: whoever hears of a rebalance joins again. The group is complete when every
//! member has an assignment of one and the same generation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;

use super::Broker;
use super::classic_member::Member;
use super::connection::Connection;
use super::topics;
use klamm_e2e::usage::Sample;

/// A group that takes longer will never come.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    broker: Broker,
    #[arg(long, default_value_t = 1000)]
    members: usize,
    #[arg(long, default_value_t = 3000)]
    heartbeat_ms: u64,
    #[arg(long, default_value_t = 45_000)]
    session_timeout_ms: i32,
    /// Groups, one after the other.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Has a partition for each member.
    #[arg(long, default_value = "coordinator-bench-join")]
    topic: String,
}

/// What a member waits for, in which generation.
type Place = (&'static str, i32);

/// What the members have come to.
struct Progress {
    member_count: usize,
    /// Who has an assignment, by generation.
    assigned: Mutex<BTreeMap<i32, usize>>,
    /// How many members wait for what; to be told if it never comes.
    at: Mutex<BTreeMap<Place, usize>>,
    /// The moment when all had one.
    complete: watch::Sender<Option<Instant>>,
}

pub async fn run(options: Options) -> Result<()> {
    let options = Arc::new(options);
    let mut admin = Connection::open(options.broker.bootstrap).await?;
    topics::create(&mut admin, &options.topic, i32::try_from(options.members)?).await?;
    let groups = topics::group_ids("join", options.rounds);
    topics::wait_for_coordinators(&mut admin, &groups).await?;
    for group in groups {
        let progress = Arc::new(Progress {
            member_count: options.members,
            assigned: Mutex::default(),
            at: Mutex::default(),
            complete: watch::channel(None).0,
        });
        let mut complete = progress.complete.subscribe();
        let go = Arc::new(Barrier::new(options.members + 1));
        let mut members = JoinSet::new();
        for _ in 0..options.members {
            let connection = Connection::open(options.broker.bootstrap).await?;
            let member = Member::new(group.clone(), &options.topic, options.session_timeout_ms);
            members.spawn(live(connection, member, go.clone(), progress.clone(), options.clone()));
        }
        go.wait().await;
        let (begin, sample) = (Instant::now(), Sample::now(options.broker.pid)?);
        let end = tokio::select! {
            done = complete.wait_for(Option::is_some) => done?.context("a time")?,
            Some(ended) = members.join_next() => {
                ended??;
                bail!("a member ended");
            }
            () = tokio::time::sleep(PATIENCE) => {
                bail!("no group after {PATIENCE:?}; members at, by generation: {:?}", progress.at());
            }
        };
        let (cpu, _) = sample.elapsed()?;
        let generation = progress.assigned.lock().expect("nobody panics with it").keys().max().copied();
        println!(
            "join: {} members have their assignment after {:.0} ms, generation {}, broker CPU {:.0} ms",
            options.members,
            (end - begin).as_secs_f64() * 1e3,
            generation.unwrap_or(-1),
            cpu.as_secs_f64() * 1e3,
        );
        members.shutdown().await;
    }
    Ok(())
}

async fn live(
    mut connection: Connection,
    mut member: Member,
    go: Arc<Barrier>,
    progress: Arc<Progress>,
    options: Arc<Options>,
) -> Result<()> {
    go.wait().await;
    let mut place = progress.enter(("asking for an id", -1));
    member.introduce(&mut connection).await?;
    loop {
        place = progress.moves(place, ("joining", member.generation_id));
        let joined = member.join(&mut connection).await?;
        place = progress.moves(place, ("syncing", member.generation_id));
        if !member.sync(&mut connection, &joined, options.members).await? {
            continue;
        }
        place = progress.moves(place, ("assigned", member.generation_id));
        progress.note_assigned(member.generation_id);
        loop {
            tokio::time::sleep(Duration::from_millis(options.heartbeat_ms)).await;
            if !member.heartbeat(&mut connection).await? {
                break;
            }
        }
    }
}

impl Progress {
    fn enter(&self, place: Place) -> Place {
        *self.at.lock().expect("nobody panics with it").entry(place).or_default() += 1;
        place
    }

    fn moves(&self, from: Place, to: Place) -> Place {
        let mut at = self.at.lock().expect("nobody panics with it");
        if let Some(count) = at.get_mut(&from) {
            *count -= 1;
        }
        drop(at);
        self.enter(to)
    }

    fn at(&self) -> Vec<(Place, usize)> {
        let at = self.at.lock().expect("nobody panics with it");
        at.iter().filter(|(_, count)| **count > 0).map(|(place, count)| (*place, *count)).collect()
    }

    fn note_assigned(&self, generation: i32) {
        let mut assigned = self.assigned.lock().expect("nobody panics with it");
        let count = assigned.entry(generation).or_default();
        *count += 1;
        if *count == self.member_count {
            self.complete.send_replace(Some(Instant::now()));
        }
    }
}
