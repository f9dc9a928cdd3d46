//! Several connections, each with a partition of its own, append 4 KB and wait for the flush: who should flush?

use crate::files::{APPEND_BYTES, Partitions, Placement};
use crate::measure::{Samples, load_average, process_cpu, us};
use crate::pool::{Pool, Shared};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long one policy runs at a time.
const SLICE: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, PartialEq)]
enum Policy {
    /// Every waiter flushes its own file.
    Own,
    /// Who finds nobody flushing takes the whole dirty set and flushes it; the others wait for a round.
    FirstWaiter,
    /// A thread of its own takes the whole dirty set.
    Flusher {
        threads: usize,
    },
    FlusherSyncfs,
    /// Threads that each take one dirty file at a time: no round, nobody waits for another's file.
    Queue {
        threads: usize,
    },
}

const POLICIES: &[(&str, Policy)] = &[
    ("each flushes its own file", Policy::Own),
    ("first waiter flushes all", Policy::FirstWaiter),
    ("flusher, 1 thr", Policy::Flusher { threads: 1 }),
    ("flusher, 4 thr", Policy::Flusher { threads: 4 }),
    ("flusher, 16 thr", Policy::Flusher { threads: 16 }),
    ("flusher, syncfs", Policy::FlusherSyncfs),
    ("queue without rounds, 4 thr", Policy::Queue { threads: 4 }),
    ("queue without rounds, 16 thr", Policy::Queue { threads: 16 }),
];

#[derive(Default)]
struct State {
    dirty: Vec<usize>,
    is_flushing: bool,
    is_stopped: bool,
    /// The round that the dirty set will be flushed by, and the last one that ended.
    next_round: u64,
    ended_round: u64,
    /// For the queue: which connections wait for their file.
    is_pending: Vec<bool>,
}

#[derive(Default)]
struct Group {
    state: Mutex<State>,
    changed: Condvar,
    work: Condvar,
    own: Vec<Condvar>,
}

pub fn run(root: &Path, connections: &[usize], repeats: usize) -> io::Result<()> {
    for &count in connections {
        let load_before = load_average();
        let mut rows = vec![(Samples::default(), Duration::ZERO, Duration::ZERO); POLICIES.len()];
        let mut partitions = Partitions::create(&root.join("waiters"), count, Placement::Append)?;
        for repeat in 0..repeats {
            for turn in 0..POLICIES.len() {
                let which = (repeat + turn) % POLICIES.len();
                partitions.rewind()?;
                let (cpu, start) = (process_cpu(), Instant::now());
                let samples = slice(&partitions, POLICIES[which].1)?;
                rows[which].0.extend(samples);
                rows[which].1 += process_cpu() - cpu;
                rows[which].2 += start.elapsed();
            }
        }
        partitions.remove()?;
        println!("\n### {count} connections; load {load_before} to {}\n", load_average());
        println!("| policy | appends/s | p50 us | p99 us | process CPU us an append |");
        println!("|---|---|---|---|---|");
        for ((name, _), (samples, cpu, wall)) in POLICIES.iter().zip(rows) {
            println!(
                "| {name} | {:.0} | {} | {} | {} |",
                samples.count() as f64 / wall.as_secs_f64(),
                us(samples.median()),
                us(samples.quantile(0.99)),
                us(cpu / samples.count().max(1) as u32),
            );
        }
    }
    Ok(())
}

fn slice(partitions: &Partitions, policy: Policy) -> io::Result<Samples> {
    let count = partitions.files.len();
    let state = State { next_round: 1, is_pending: vec![false; count], ..State::default() };
    let own = (0..count).map(|_| Condvar::new()).collect();
    let group = Arc::new(Group { state: Mutex::new(state), own, ..Group::default() });
    let all: Shared<Samples> = Shared::default();
    let until = Instant::now() + SLICE;
    let flushers = flushers(partitions, policy, &group)?;
    std::thread::scope(|scope| -> io::Result<()> {
        let connections: Vec<_> = (0..count)
            .map(|index| {
                let (group, all, files) = (&group, &all, &partitions.files);
                scope.spawn(move || -> io::Result<()> {
                    let samples = connection(files, index, policy, group, until)?;
                    all.lock().unwrap().extend(samples);
                    Ok(())
                })
            })
            .collect();
        connections.into_iter().try_for_each(|one| one.join().expect("a connection panicked"))
    })?;
    group.state.lock().unwrap().is_stopped = true;
    group.work.notify_all();
    for thread in flushers {
        thread.join().expect("the flusher panicked")?;
    }
    Ok(std::mem::take(&mut *all.lock().unwrap()))
}

fn connection(
    files: &[File],
    index: usize,
    policy: Policy,
    group: &Group,
    until: Instant,
) -> io::Result<Samples> {
    let payload = [0x5a; APPEND_BYTES];
    let mut samples = Samples::default();
    let mut position = 0;
    while Instant::now() < until {
        let start = Instant::now();
        files[index].write_all_at(&payload, position)?;
        position += APPEND_BYTES as u64;
        match policy {
            Policy::Own => files[index].sync_data()?,
            Policy::Queue { .. } => wait_for_own(index, group),
            _ => wait(files, index, policy, group)?,
        }
        samples.push(start.elapsed());
    }
    Ok(samples)
}

fn wait(files: &[File], index: usize, policy: Policy, group: &Group) -> io::Result<()> {
    let mut state = group.state.lock().unwrap();
    state.dirty.push(index);
    let round = state.next_round;
    if policy != Policy::FirstWaiter && !state.is_flushing {
        group.work.notify_one();
    }
    while state.ended_round < round {
        if policy == Policy::FirstWaiter && !state.is_flushing {
            let (dirty, taken) = take(&mut state);
            drop(state);
            dirty.iter().try_for_each(|&index| files[index].sync_data())?;
            state = group.state.lock().unwrap();
            end(&mut state, taken, group);
        } else {
            state = group.changed.wait(state).unwrap();
        }
    }
    Ok(())
}

fn take(state: &mut State) -> (Vec<usize>, u64) {
    state.is_flushing = true;
    state.next_round += 1;
    (std::mem::take(&mut state.dirty), state.next_round - 1)
}

fn end(state: &mut State, round: u64, group: &Group) {
    state.is_flushing = false;
    state.ended_round = round;
    group.changed.notify_all();
}

type Thread = std::thread::JoinHandle<io::Result<()>>;

/// Waits until a thread of the queue has flushed this file; the others' files do not matter.
fn wait_for_own(index: usize, group: &Group) {
    let mut state = group.state.lock().unwrap();
    state.dirty.push(index);
    state.is_pending[index] = true;
    group.work.notify_one();
    while state.is_pending[index] {
        state = group.own[index].wait(state).unwrap();
    }
}

fn flush_queue(files: &[File], group: &Group) -> io::Result<()> {
    let mut state = group.state.lock().unwrap();
    loop {
        if state.dirty.is_empty() {
            if state.is_stopped {
                return Ok(());
            }
            state = group.work.wait(state).unwrap();
            continue;
        }
        let index = state.dirty.remove(0);
        drop(state);
        files[index].sync_data()?;
        state = group.state.lock().unwrap();
        state.is_pending[index] = false;
        group.own[index].notify_one();
    }
}

fn flushers(partitions: &Partitions, policy: Policy, group: &Arc<Group>) -> io::Result<Vec<Thread>> {
    let threads = match policy {
        Policy::Own | Policy::FirstWaiter => return Ok(Vec::new()),
        Policy::Queue { threads } => {
            let one = || {
                let (group, files) = (Arc::clone(group), Arc::clone(&partitions.files));
                std::thread::spawn(move || flush_queue(&files, &group))
            };
            return Ok((0..threads).map(|_| one()).collect());
        }
        Policy::Flusher { threads } => threads,
        Policy::FlusherSyncfs => 1,
    };
    let (group, files) = (Arc::clone(group), Arc::clone(&partitions.files));
    let directory = partitions.directory.try_clone()?;
    let pool = (threads > 1).then(|| Pool::new(threads));
    Ok(vec![std::thread::spawn(move || {
        let mut state = group.state.lock().unwrap();
        loop {
            if state.dirty.is_empty() {
                if state.is_stopped {
                    return Ok(());
                }
                state = group.work.wait(state).unwrap();
                continue;
            }
            let (dirty, round) = take(&mut state);
            drop(state);
            match (&pool, policy) {
                (_, Policy::FlusherSyncfs) => rustix::fs::syncfs(&directory)?,
                (Some(pool), _) if dirty.len() > 1 => {
                    let files = Arc::clone(&files);
                    pool.run(threads, dirty.len(), move |index| files[dirty[index]].sync_data())?;
                }
                _ => dirty.iter().try_for_each(|&index| files[index].sync_data())?,
            }
            state = group.state.lock().unwrap();
            end(&mut state, round, &group);
        }
    })])
}
