//! How long a broker that was killed needs until the groups' offsets are there again.
//!
//! The start is told apart from the load: the one ends with the first answer to ApiVersions, the other when
//! every group has answered OffsetFetch. Afterwards all offsets are fetched and counted.

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use klamm_protocol::messages::api_versions::ApiVersionsRequest;
use klamm_protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponseGroup,
};
use klamm_protocol::wire::WireStr;
use rustix::process::{Pid, Signal, kill_process};

use super::Broker;
use super::connection::{Connection, expect_success, is_coordinator_coming};
use super::{commit, topics};
use klamm_e2e::usage::{Sample, resident_mib};

const FETCH_VERSION: i16 = 8;
/// Groups that one OffsetFetch asks for.
const GROUPS_PER_FETCH: usize = 1000;
const RETRY: Duration = Duration::from_millis(2);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    broker: Broker,
    #[arg(long, default_value_t = 10_000)]
    groups: usize,
    /// Partitions that each group commits.
    #[arg(long, default_value_t = 100)]
    partitions: i32,
    /// The command that starts the broker again, as for `sh -c`; it is ended in the end.
    #[arg(long)]
    restart: String,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value = "coordinator-bench-load")]
    topic: String,
}

pub async fn run(options: Options) -> Result<()> {
    let address = options.broker.bootstrap;
    let groups = topics::group_ids("load", options.groups);
    let mut admin = Connection::open(address).await?;
    topics::create(&mut admin, &options.topic, options.partitions).await?;
    topics::wait_for_coordinators(&mut admin, &groups).await?;
    let begin = Instant::now();
    commit::once_each(address, &options.topic, options.partitions, &groups).await?;
    println!(
        "load: {} groups committed {} offsets each within {:.1} s",
        groups.len(),
        options.partitions,
        begin.elapsed().as_secs_f64()
    );
    let mut pid = options.broker.pid;
    let mut child = None;
    for _ in 0..options.rounds {
        kill(pid, &mut child).await?;
        let begin = Instant::now();
        let mut started = Command::new("sh")
            .args(["-c", &format!("exec {}", options.restart)])
            .spawn()
            .context("start the broker again")?;
        let mut connection = first_answer(address, &mut started).await?;
        pid = started.id();
        child = Some(started);
        let start = begin.elapsed();
        let sample = Sample::now(pid)?;
        wait_for_all(&mut connection, &options.topic, &groups).await?;
        let (cpu, load) = sample.elapsed()?;
        let count = count_offsets(&mut connection, &groups).await?;
        println!(
            "load: {count} offsets of {} groups: start {:.0} ms, load {:.0} ms ({:.0} ms CPU), together {:.0} ms, resident {} MiB",
            groups.len(),
            start.as_secs_f64() * 1e3,
            load.as_secs_f64() * 1e3,
            cpu.as_secs_f64() * 1e3,
            (start + load).as_secs_f64() * 1e3,
            resident_mib(pid)?,
        );
        ensure!(count == groups.len() * usize::try_from(options.partitions)?, "offsets are missing");
    }
    kill(pid, &mut child).await
}

async fn kill(pid: u32, child: &mut Option<Child>) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("not a process id")?;
    kill_process(pid, Signal::KILL).context("kill the broker")?;
    if let Some(mut child) = child.take() {
        child.wait()?;
    }
    // One that somebody else started is gone when signals do not reach it.
    while rustix::process::test_kill_process(pid).is_ok() && !is_zombie(pid) {
        tokio::time::sleep(RETRY).await;
    }
    Ok(())
}

/// Ended, though its parent has not looked yet. While other threads end, its ports are still taken.
fn is_zombie(pid: Pid) -> bool {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let threads = std::fs::read_dir(format!("{folder}/task")).map_or(0, Iterator::count);
    let stat = std::fs::read_to_string(format!("{folder}/stat")).unwrap_or_default();
    threads <= 1 && stat.rsplit_once(')').is_none_or(|(_, fields)| fields.starts_with(" Z"))
}

async fn first_answer(address: SocketAddr, broker: &mut Child) -> Result<Connection> {
    loop {
        if let Some(status) = broker.try_wait()? {
            bail!("the broker did not start: {status}");
        }
        if let Ok(mut connection) = Connection::open(address).await
            && let Ok(answer) = connection.call(0, &ApiVersionsRequest::default()).await
        {
            expect_success("ask for the versions", answer.error_code)?;
            return Ok(connection);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Asks every group for one partition, those that are loading again and again.
async fn wait_for_all(connection: &mut Connection, topic: &str, groups: &[WireStr]) -> Result<()> {
    let one = OffsetFetchRequestTopics {
        name: WireStr::from(topic.to_owned()),
        partition_indexes: vec![0],
        ..Default::default()
    };
    let mut waiting = groups.to_vec();
    while !waiting.is_empty() {
        let mut next = Vec::new();
        for some in waiting.chunks(GROUPS_PER_FETCH) {
            for group in fetch(connection, some, Some(vec![one.clone()])).await? {
                if is_coordinator_coming(group.error_code) {
                    next.push(group.group_id);
                } else {
                    expect_success("fetch an offset", group.error_code)?;
                }
            }
        }
        waiting = next;
        tokio::time::sleep(RETRY).await;
    }
    Ok(())
}

async fn count_offsets(connection: &mut Connection, groups: &[WireStr]) -> Result<usize> {
    let mut count = 0;
    for some in groups.chunks(GROUPS_PER_FETCH) {
        for group in fetch(connection, some, None).await? {
            expect_success("fetch all offsets", group.error_code)?;
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            count += partitions.filter(|partition| partition.committed_offset >= 0).count();
        }
    }
    Ok(count)
}

async fn fetch(
    connection: &mut Connection,
    groups: &[WireStr],
    topics: Option<Vec<OffsetFetchRequestTopics>>,
) -> Result<Vec<OffsetFetchResponseGroup>> {
    let group = |group_id: &WireStr| OffsetFetchRequestGroup {
        group_id: group_id.clone(),
        member_epoch: -1,
        topics: topics.clone(),
        ..Default::default()
    };
    let request = OffsetFetchRequest { groups: groups.iter().map(group).collect(), ..Default::default() };
    Ok(connection.call(FETCH_VERSION, &request).await?.groups)
}
