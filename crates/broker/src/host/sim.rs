//! A simulated host: one thread, a paused clock, a network and a disk in memory, one seed.
//!
//! Every event that crosses the host is written to a trace; the same seed gives the
//! same trace. What it deliberately does not have yet: faults (loss, partitions,
//! power cuts); the disk's own simulation brings those.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "implements Host on simulated time")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use klamm_log::disk::{Disk, MemoryDisk};
use klamm_protocol::time::{MonoMs, WallMs};
use tokio::sync::{Notify, mpsc};

use super::{DirPressure, Host, Interest, Listener, OutPart, OutQueue, Pool, Sent, Transport};

/// Bytes a simulated socket holds before the sender must wait.
const PIPE_BYTES_MAX: usize = 64 * 1024;
/// Of so many writes one is told to have been slow, though no time passes.
const SLOW_WRITE_EVERY: u64 = 32;
/// The wall's clock when a simulation starts: 2026-01-01 UTC.
pub(crate) const WALL_START_MS: i64 = 1_767_225_600_000;

/// Everything one simulated world shares.
struct World {
    rng: u64,
    trace: Vec<String>,
    listeners: BTreeMap<SocketAddr, mpsc::UnboundedSender<(SimTransport, SocketAddr)>>,
    next_port: u16,
}

/// A host on simulated time; see the module.
#[derive(Clone)]
pub struct SimHost {
    world: Arc<Mutex<World>>,
    disk: Arc<MemoryDisk>,
    started: tokio::time::Instant,
}

/// Runs `scenario` in a world of its own and returns its result with the trace of events.
pub fn run<T, F: Future<Output = T>>(seed: u64, scenario: impl FnOnce(SimHost) -> F) -> (T, Vec<String>) {
    run_on(seed, Arc::new(MemoryDisk::default()), scenario)
}

/// As [`run`], on a disk that an earlier run left behind.
pub fn run_on<T, F: Future<Output = T>>(
    seed: u64,
    disk: Arc<MemoryDisk>,
    scenario: impl FnOnce(SimHost) -> F,
) -> (T, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be built");
    runtime.block_on(async {
        let world = World { rng: seed, trace: Vec::new(), listeners: BTreeMap::new(), next_port: 40_000 };
        let host = SimHost { world: Arc::new(Mutex::new(world)), disk, started: tokio::time::Instant::now() };
        // What is not offloaded must not wait for the device.
        host.disk.forbid_waits(true);
        let result = scenario(host.clone()).await;
        host.disk.forbid_waits(false);
        let trace = std::mem::take(&mut host.world().trace);
        (result, trace)
    })
}

impl SimHost {
    /// Opens a connection to a listener of this world.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens there.
    pub fn connect(&self, address: SocketAddr) -> io::Result<SimTransport> {
        let mut world = self.world();
        world.next_port += 1;
        let from = SocketAddr::from(([127, 0, 0, 1], world.next_port));
        let listener = world.listeners.get(&address).ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = SimTransport::pair(self.clone(), from);
        listener.send((far, from)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        drop(world);
        self.note(format_args!("connect {from} -> {address}"));
        Ok(near)
    }

    /// Writes a line to the trace.
    pub fn note(&self, event: std::fmt::Arguments<'_>) {
        let now = self.mono().0;
        self.world().trace.push(format!("{now:>8} {event}"));
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no thread panicked while it held the world")
    }

    fn draw(&self) -> u64 {
        // SplitMix64: small, and good enough to vary delays and ids.
        let mut world = self.world();
        world.rng = world.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = world.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Host for SimHost {
    type Transport = SimTransport;
    type Listener = SimListener;

    fn mono(&self) -> MonoMs {
        MonoMs(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> WallMs {
        WallMs(WALL_START_MS + i64::try_from(self.mono().0).unwrap_or(i64::MAX))
    }

    fn random(&self) -> u128 {
        u128::from(self.draw()) << 64 | u128::from(self.draw())
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.note(format_args!("spawn {name}"));
        tokio::task::spawn(task);
    }

    fn sleep_until(&self, at: MonoMs) -> impl Future<Output = ()> + Send + 'static {
        let ahead = at.since_ms(self.mono()).min(365 * 24 * 3_600_000);
        tokio::time::sleep(Duration::from_millis(ahead))
    }

    async fn offload<T: Send + 'static>(&self, pool: Pool, job: impl FnOnce() -> T + Send + 'static) -> T {
        let delay_ms = self.draw() % 4;
        self.note(format_args!("offload {pool:?} takes {delay_ms} ms"));
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        self.disk.forbid_waits(false);
        let result = job();
        self.disk.forbid_waits(true);
        result
    }

    fn run_parallel(&self, work: &(dyn Fn() + Sync), _threads: usize) {
        work();
    }

    fn maybe_slow<T>(&self, pressure: &DirPressure, job: impl FnOnce() -> T) -> T {
        let result = job();
        if self.draw().is_multiple_of(SLOW_WRITE_EVERY) {
            let now = self.mono();
            pressure.note_write(now, now.plus_ms(DirPressure::SLOW_WRITE_MS), Some(true));
        }
        result
    }

    async fn listen(&self, name: &str, port: u16) -> io::Result<SimListener> {
        let ip = name.parse::<std::net::IpAddr>().map_err(io::Error::other)?;
        let mut address = SocketAddr::from((ip, port));
        let mut world = self.world();
        if address.port() == 0 {
            world.next_port += 1;
            address.set_port(world.next_port);
        }
        if world.listeners.get(&address).is_some_and(|listener| !listener.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, incoming) = mpsc::unbounded_channel();
        world.listeners.insert(address, sender);
        Ok(SimListener { address, incoming })
    }
}

/// A listening socket of a [`SimHost`].
pub struct SimListener {
    address: SocketAddr,
    incoming: mpsc::UnboundedReceiver<(SimTransport, SocketAddr)>,
}

impl Listener for SimListener {
    type Transport = SimTransport;

    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    async fn accept(&mut self) -> io::Result<(SimTransport, SocketAddr)> {
        match self.incoming.recv().await {
            Some(connection) => Ok(connection),
            None => std::future::pending().await,
        }
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    state: Mutex<PipeState>,
    changed: Notify,
}

#[derive(Default)]
struct PipeState {
    bytes: BytesMut,
    is_closed: bool,
}

/// One end of a simulated connection. Sending copies at delivery, so that a file region
/// that changes before it is delivered shows.
pub struct SimTransport {
    host: SimHost,
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    name: String,
}

impl SimTransport {
    fn pair(host: SimHost, from: SocketAddr) -> (Self, Self) {
        let (up, down) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
        let near = Self {
            host: host.clone(),
            incoming: down.clone(),
            outgoing: up.clone(),
            name: format!("client {from}"),
        };
        let far = Self { host, incoming: up, outgoing: down, name: format!("broker {from}") };
        (near, far)
    }
}

fn locked(pipe: &Pipe) -> MutexGuard<'_, PipeState> {
    pipe.state.lock().expect("no thread panicked while it held a pipe")
}

impl Transport for SimTransport {
    fn try_read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        let mut state = locked(&self.incoming);
        if state.bytes.is_empty() {
            return if state.is_closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = (into.capacity() - into.len()).min(state.bytes.len());
        into.put_slice(&state.bytes[..count]);
        state.bytes.advance(count);
        drop(state);
        self.incoming.changed.notify_waiters();
        Ok(count)
    }

    fn try_send(&mut self, queue: &mut OutQueue, bytes_max: usize) -> io::Result<Sent> {
        let mut sent = Sent::default();
        while sent.bytes < bytes_max {
            let Some(part) = queue.parts().next() else { break };
            let mut state = locked(&self.outgoing);
            if state.is_closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let room = PIPE_BYTES_MAX.saturating_sub(state.bytes.len()).min(bytes_max - sent.bytes);
            if room == 0 {
                sent.is_full = PIPE_BYTES_MAX <= state.bytes.len();
                break;
            }
            let count = match part {
                OutPart::Bytes(bytes) => {
                    let count = room.min(bytes.len());
                    state.bytes.put_slice(&bytes[..count]);
                    count
                }
                OutPart::File(region) => {
                    let mut copy = vec![0; room.min(region.len_bytes as usize)];
                    let count = region.read_at(&mut copy, region.position)?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    state.bytes.put_slice(&copy[..count]);
                    count
                }
            };
            drop(state);
            queue.advance(count);
            sent.bytes += count;
        }
        if sent.bytes > 0 {
            self.host.note(format_args!("{} sends {} bytes", self.name, sent.bytes));
            self.outgoing.changed.notify_waiters();
        }
        Ok(sent)
    }

    async fn ready(&mut self, interest: Interest) -> io::Result<()> {
        loop {
            let readable = self.incoming.changed.notified();
            let writable = self.outgoing.changed.notified();
            {
                let state = locked(&self.incoming);
                if interest.read && (!state.bytes.is_empty() || state.is_closed) {
                    return Ok(());
                }
            }
            {
                let state = locked(&self.outgoing);
                if interest.write && (state.bytes.len() < PIPE_BYTES_MAX || state.is_closed) {
                    return Ok(());
                }
            }
            tokio::select! { biased;
                () = readable => {}
                () = writable => {}
            }
        }
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        for pipe in [&self.incoming, &self.outgoing] {
            locked(pipe).is_closed = true;
            pipe.changed.notify_waiters();
        }
    }
}
