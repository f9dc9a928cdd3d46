//! Many groups that only heartbeat, of the classic protocol or by KIP-848.
//!
//! A lane is as many connections as a group has members; its groups are formed one after the other, the n-th member of
//! each on the n-th connection. A connection serves one request at a time, so a join that waits for others must not
//! have them behind it. Then every connection sends its members' heartbeats, evenly spread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use klamm_protocol::ids::Uuid;
use klamm_protocol::wire::WireStr;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::Broker;
use super::classic_member::{Joined, Member};
use super::connection::Connection;
use super::consumer_member::ConsumerMember;
use super::topics;
use klamm_e2e::usage::{Sample, resident_mib};

/// While the other groups are formed, how often those of a lane hear from their members.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Time for the others' joins to arrive before the first member's second one.
const SETTLE: Duration = Duration::from_millis(5);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    broker: Broker,
    #[arg(long, default_value_t = 10_000)]
    groups: usize,
    /// In each group.
    #[arg(long, default_value_t = 5)]
    members: usize,
    #[arg(long, default_value_t = 500)]
    connections: usize,
    /// By KIP-848 instead of the classic protocol. Start the broker with `group.consumer.assignment.interval.ms=0`, or
    /// the groups take long to form.
    #[arg(long)]
    consumer: bool,
    /// What consumers do by default: 3000 in the classic protocol, 5000 by KIP-848.
    #[arg(long)]
    heartbeat_ms: Option<u64>,
    #[arg(long, default_value_t = 45_000)]
    session_timeout_ms: i32,
    /// Measured, after five seconds that are not.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long, default_value = "coordinator-bench-idle")]
    topic: String,
}

/// One connection and its members.
struct Place {
    connection: Connection,
    members: Vec<AnyMember>,
}

enum AnyMember {
    Classic(Member),
    Consumer(ConsumerMember),
}

pub async fn run(options: Options) -> Result<()> {
    const WARM_UP: Duration = Duration::from_secs(5);
    let options = Arc::new(options);
    let address = options.broker.bootstrap;
    let mut admin = Connection::open(address).await?;
    let topic_id = topics::create(&mut admin, &options.topic, i32::try_from(options.members)?).await?;
    let groups = topics::group_ids("idle", options.groups);
    topics::wait_for_coordinators(&mut admin, &groups).await?;

    let lane_count = (options.connections / options.members).clamp(1, options.groups);
    let formed = Arc::new(Barrier::new(lane_count + 1));
    let begin = Instant::now();
    let mut lanes = JoinSet::new();
    for lane in 0..lane_count {
        let ids: Vec<WireStr> = groups.iter().skip(lane).step_by(lane_count).cloned().collect();
        let (options, formed) = (options.clone(), formed.clone());
        lanes.spawn(async move {
            let mut places = Vec::with_capacity(options.members);
            for _ in 0..options.members {
                places.push(Place { connection: Connection::open(address).await?, members: Vec::new() });
            }
            let mut last_beat = Instant::now();
            for id in ids {
                match options.consumer {
                    true => form_consumer(&mut places, &id, &options, topic_id).await?,
                    false => form(&mut places, &id, &options).await?,
                }
                if last_beat.elapsed() > KEEP_ALIVE {
                    for place in &mut places {
                        place.beat_all().await?;
                    }
                    last_beat = Instant::now();
                }
            }
            formed.wait().await;
            anyhow::Ok(places)
        });
    }
    // A lane that fails never comes to the barrier; one that has passed it is not taken here.
    tokio::select! { biased;
        _ = formed.wait() => {}
        Some(Ok(Err(error))) = lanes.join_next() => return Err(error),
    }
    let member_count = options.groups * options.members;
    println!(
        "idle: {} groups, {member_count} members formed within {:.1} s",
        options.groups,
        begin.elapsed().as_secs_f64()
    );

    let default_ms = if options.consumer { 5000 } else { 3000 };
    let interval = Duration::from_millis(options.heartbeat_ms.unwrap_or(default_ms));
    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs(options.seconds);
    let mut beating = JoinSet::new();
    let mut index = 0;
    while let Some(places) = lanes.join_next().await {
        for mut place in places?? {
            // Connections begin at different moments of the interval.
            let phase = interval * index / u32::try_from(lane_count * options.members)?;
            index += 1;
            beating.spawn(async move { place.beat(interval, phase, from, until).await });
        }
    }
    let pacer = tokio::spawn(look_now_and_then());
    tokio::time::sleep_until(from.into()).await;
    let sample = Sample::now(options.broker.pid)?;
    tokio::time::sleep_until(until.into()).await;
    let (cpu, wall) = sample.elapsed()?;
    pacer.abort();
    let memory = resident_mib(options.broker.pid)?;
    let mut count = 0;
    while let Some(beats) = beating.join_next().await {
        count += beats??;
    }
    println!(
        "idle: {count} heartbeats in {:.1} s over {index} connections: {:.0} a second, broker CPU {:.1} % of a core, \
         {:.2} us a heartbeat, resident {memory} MiB",
        wall.as_secs_f64(),
        f64::from(count) / wall.as_secs_f64(),
        cpu.as_secs_f64() / wall.as_secs_f64() * 100.0,
        cpu.as_secs_f64() * 1e6 / f64::from(count),
    );
    Ok(())
}

/// Keeps the runtime (of one thread, if it is pinned to one core) from sleeping where an answer wakes it: on the loopback
/// the broker would pay for that, an interrupt for the other core each time, and members elsewhere do not charge it.
/// Timers are no finer anyway.
async fn look_now_and_then() {
    loop {
        std::thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
}

/// Makes a stable group of as many members as there are places.
async fn form(places: &mut [Place], id: &WireStr, options: &Options) -> Result<()> {
    let mut members: Vec<Member> =
        places.iter().map(|_| Member::new(id.clone(), &options.topic, options.session_timeout_ms)).collect();
    for (place, member) in places.iter_mut().zip(&mut members) {
        member.introduce(&mut place.connection).await?;
    }
    // The first one alone begins the group; then its second join is the one that all others wait for.
    members[0].join(&mut places[0].connection).await?;
    let joined = loop {
        let joins =
            places.iter_mut().zip(&mut members).enumerate().map(|(index, (place, member))| async move {
                if index == 0 {
                    tokio::time::sleep(SETTLE).await;
                }
                member.join(&mut place.connection).await
            });
        let joined: Vec<Joined> = together(joins).await?;
        let is_complete = joined.iter().any(|one| one.members.len() == options.members);
        if is_complete && members.iter().all(|member| member.generation_id == members[0].generation_id) {
            break joined;
        }
    };
    let syncs = places
        .iter_mut()
        .zip(&members)
        .zip(&joined)
        .map(|((place, member), joined)| member.sync(&mut place.connection, joined, options.members));
    for is_stable in together(syncs).await? {
        ensure!(is_stable, "group {} rebalances though nobody came or went", &**id);
    }
    for (place, member) in places.iter_mut().zip(members) {
        place.members.push(AnyMember::Classic(member));
    }
    Ok(())
}

/// The same by KIP-848: heartbeats until nobody hears anything new.
async fn form_consumer(places: &mut [Place], id: &WireStr, options: &Options, topic_id: Uuid) -> Result<()> {
    let mut members: Vec<ConsumerMember> = (0..places.len())
        .map(|index| ConsumerMember::new(id.clone(), format!("{}-{index}", &**id), &options.topic, topic_id))
        .collect();
    loop {
        let mut has_news = false;
        for (place, member) in places.iter_mut().zip(&mut members) {
            let epoch_before = member.epoch();
            let beat = member.heartbeat(&mut place.connection).await?;
            has_news |= beat.is_none_or(|beat| beat.has_news || beat.epoch != epoch_before);
        }
        if !has_news {
            break;
        }
    }
    ensure!(members.iter().all(|member| member.owned.len() == 1), "group {} is not balanced", &**id);
    for (place, member) in places.iter_mut().zip(members) {
        place.members.push(AnyMember::Consumer(member));
    }
    Ok(())
}

impl AnyMember {
    /// False if its group is no longer what it was.
    async fn heartbeat(&mut self, connection: &mut Connection) -> Result<bool> {
        match self {
            Self::Classic(member) => member.heartbeat(connection).await,
            Self::Consumer(member) => {
                let epoch = member.epoch();
                let beat = member.heartbeat(connection).await?;
                Ok(beat.is_some_and(|beat| !beat.has_news && beat.epoch == epoch))
            }
        }
    }
}

/// Runs all at once on this task.
async fn together<T>(futures: impl Iterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    let mut waiting: Vec<_> = futures.map(Box::pin).map(Some).collect();
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut is_pending = false;
        for (future, done) in waiting.iter_mut().zip(&mut done) {
            let Some(running) = future else { continue };
            match running.as_mut().poll(cx) {
                std::task::Poll::Ready(Ok(value)) => (*done, *future) = (Some(value), None),
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => is_pending = true,
            }
        }
        if is_pending { std::task::Poll::Pending } else { std::task::Poll::Ready(Ok(())) }
    })
    .await?;
    Ok(done.into_iter().flatten().collect())
}

impl Place {
    async fn beat_all(&mut self) -> Result<()> {
        for member in &mut self.members {
            ensure!(member.heartbeat(&mut self.connection).await?, "an idle group rebalances");
        }
        Ok(())
    }

    /// Every member once an interval; the number of heartbeats between `from` and `until`.
    async fn beat(
        &mut self,
        interval: Duration,
        phase: Duration,
        from: Instant,
        until: Instant,
    ) -> Result<u32> {
        let Ok(member_count) = u32::try_from(self.members.len()) else { return Ok(0) };
        let mut next = Instant::now() + phase / member_count.max(1);
        let mut count = 0;
        loop {
            for member in &mut self.members {
                tokio::time::sleep_until(next.into()).await;
                next += interval / member_count;
                ensure!(member.heartbeat(&mut self.connection).await?, "an idle group rebalances");
                let now = Instant::now();
                if now >= until {
                    return Ok(count);
                }
                count += u32::from(now >= from);
            }
        }
    }
}
