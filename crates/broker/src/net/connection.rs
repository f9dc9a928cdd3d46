//! One connection: reads, cuts frames, hands them to the handlers, sends answers in order.
//!
//! Only consecutive Produce requests overlap: what one read brought of them is handled
//! as one group. Every other API, and a Produce that must be verified first, is a barrier that
//! starts when all earlier requests have been answered and ends before the next begins, as
//! Kafka handles one at a time.
//!
//! **Invariants:** a turn handles at most [`TURN_FRAMES_MAX`] frames and sends at most
//! [`TURN_BYTES_MAX`]; nothing is read while [`slots::SLOTS_MAX`] requests are under way
//! or responses are queued faster than the peer takes them; the task ends with a reason.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::api_key::ApiKey;
use klamm_protocol::time::MonoMs;
use tokio::sync::watch;

use super::CloseReason;
use super::input::Input;
use super::limits::ConnectionPermit;
use super::memory::Claim;
use super::seldom::Seldom;
use super::slots::Slots;
use crate::broker::Broker;
use crate::handlers::produce::{Collected, ParkedProduce, ProduceGroup, ProduceWaker, UnverifiedProduce};
use crate::handlers::{self, ConnectionContext, Frame, Handled, Response};
use crate::host::{Host, Interest, OutQueue, Transport};
use crate::log_dirs::DirState;

/// Frames handled before the connection sends and lets others run.
const TURN_FRAMES_MAX: usize = 64;
/// Bytes read or sent before the connection lets others run.
const TURN_BYTES_MAX: usize = 1024 * 1024;
/// Bytes read ahead while a barrier is under way: enough to see the peer go.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;
/// Queued response bytes above which nothing more is handled.
const OUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Record bytes that wait behind appenders above which nothing more is handled: a slow disk
/// reaches producers through TCP, also those that want no answer.
const QUEUED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often a connection that found the memory budget spent looks again.
const MEMORY_RETRY_MS: u64 = 10;

type Answer = Pin<Box<dyn Future<Output = Handled> + Send>>;

/// Serves one connection until it ends.
pub(crate) async fn serve<H: Host>(
    broker: Arc<Broker<H>>,
    transport: H::Transport,
    peer: SocketAddr,
    listener_name: Arc<str>,
    mut stop: watch::Receiver<bool>,
    permit: ConnectionPermit,
) {
    let now = broker.host.mono();
    let input = Input::new(
        broker.memory.clone(),
        usize::try_from(broker.config.socket_request_max_bytes).unwrap_or(0),
    );
    let waker = Arc::<ProduceWaker>::default();
    let mut connection = Connection {
        context: ConnectionContext { listener_name, client_host: format!("/{}", peer.ip()).into() },
        seldom: Seldom::new(waker.clone()),
        waker,
        input,
        out: OutQueue::default(),
        slots: Slots::default(),
        group: ProduceGroup::default(),
        uncommitted: Vec::new(),
        held: None,
        barrier: None,
        is_polling: false,
        is_peer_gone: false,
        last_activity: now,
        is_starved: false,
        is_stopping: false,
        transport,
        broker,
    };
    connection.set_idle_timer(now);
    connection.seldom.push(async move {
        let _ = stop.wait_for(|stop| *stop).await;
        Notice::Stop
    });
    let reason = connection.run().await;
    tracing::debug!(%peer, %reason, "connection closed");
    drop(permit);
}

struct Connection<H: Host> {
    broker: Arc<Broker<H>>,
    transport: H::Transport,
    context: ConnectionContext,
    waker: Arc<ProduceWaker>,
    input: Input,
    out: OutQueue,
    slots: Slots<ParkedProduce, Response>,
    group: ProduceGroup,
    /// What was appended this turn waits for rounds of these.
    uncommitted: Vec<Arc<DirState>>,
    /// What waits until earlier requests have been answered.
    held: Option<Held>,
    barrier: Option<Answer>,
    /// The barrier is a fetch, which may wait for long.
    is_polling: bool,
    /// The peer sends no more.
    is_peer_gone: bool,
    last_activity: MonoMs,
    seldom: Seldom<Notice>,
    /// The memory budget had no room at the last read.
    is_starved: bool,
    is_stopping: bool,
}

/// A request that is a barrier.
enum Held {
    Frame(Frame),
    /// With its part of the memory budget: it may wait for long, and has its records.
    Produce(Box<UnverifiedProduce>, Claim),
}

enum Event {
    Socket,
    Answered(Handled),
    Woken,
    MemoryRetry,
}

/// What seldom happens.
enum Notice {
    IdleTimer,
    Stop,
}

impl<H: Host> Connection<H> {
    async fn run(&mut self) -> CloseReason {
        match self.turns().await {
            Ok(never) => match never {},
            Err(reason) => {
                // What is ready goes out as far as the socket takes it without waiting.
                let _ = self.transport.try_send(&mut self.out, TURN_BYTES_MAX);
                reason
            }
        }
    }

    async fn turns(&mut self) -> Result<std::convert::Infallible, CloseReason> {
        loop {
            let read_bytes = self.read()?;
            // Behind the read: who asks in the moment when its time is over is not idle.
            while let Some(notice) = self.seldom.take() {
                match notice {
                    Notice::IdleTimer => self.on_timer()?,
                    Notice::Stop => self.is_stopping = true,
                }
            }
            // Before the frames: a held or unread one may wait for exactly these slots, and their
            // wake is spent.
            self.finish_parked()?;
            let handled = self.handle_frames();
            if handled.is_err() {
                // What came whole before the bad frame is as good as ever.
                let _ = self.append_group();
            }
            self.send_ready();
            handled?;
            let is_full = self.flush()?;
            // After all appends: one flush for what one read brought.
            while let Some(dir) = self.uncommitted.pop() {
                dir.commit(&self.broker.host).await;
            }
            let has_more = self.has_more();
            if self.is_stopping && self.is_quiet() {
                return Err(CloseReason::Stopping);
            }
            if self.is_peer_gone && !has_more && self.is_quiet() {
                return Err(CloseReason::PeerClosed);
            }
            if has_more || read_bytes >= TURN_BYTES_MAX || !self.out.is_empty() && !is_full {
                tokio::task::yield_now().await;
                continue;
            }
            self.input.settle();
            self.out.shrink();
            match self.next_event().await? {
                Event::Answered(handled) => {
                    self.barrier = None;
                    self.take(handled)?;
                }
                Event::Socket | Event::Woken | Event::MemoryRetry => {}
            }
        }
    }

    /// Reads what the socket holds, up to a turn's worth.
    fn read(&mut self) -> Result<usize, CloseReason> {
        let mut read_bytes = 0;
        while self.may_read() && read_bytes < TURN_BYTES_MAX {
            let Some(room) = self.input.room() else {
                self.is_starved = true;
                break;
            };
            self.is_starved = false;
            let spare = room.capacity() - room.len();
            match self.transport.try_read(room) {
                // What it sent before is handled: a producer with acks=0 may send and go.
                Ok(0) => self.is_peer_gone = true,
                Ok(count) => {
                    read_bytes += count;
                    if count < spare {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CloseReason::Io(error.to_string())),
            }
        }
        if read_bytes > 0 {
            self.last_activity = self.broker.host.mono();
            self.broker.metrics.bytes_in.inc_by(read_bytes as u64);
        }
        Ok(read_bytes)
    }

    fn may_read(&self) -> bool {
        if self.is_peer_gone {
            return false;
        }
        if self.is_blocked() || self.is_stopping {
            // Enough to notice that the peer went; more would only be memory.
            return !self.is_stopping && self.input.len() < READ_AHEAD_BYTES_MAX;
        }
        true
    }

    /// No frame may be handled now.
    fn is_blocked(&self) -> bool {
        self.barrier.is_some()
            || self.held.is_some()
            || self.slots.is_full()
            || self.out.bytes() > OUT_BYTES_MAX
            || self.waker.queued_bytes() > QUEUED_BYTES_MAX
    }

    /// Something that was read could be handled now: never sleep on it, nobody would wake us.
    fn has_more(&self) -> bool {
        if self.is_stopping || self.barrier.is_some() {
            return false;
        }
        match self.held {
            Some(_) => self.slots.is_empty(),
            None => !self.is_blocked() && self.input.has_frame(),
        }
    }

    fn is_quiet(&self) -> bool {
        self.barrier.is_none() && self.held.is_none() && self.slots.is_empty() && self.out.is_empty()
    }

    /// Handles complete frames, up to a turn's worth.
    fn handle_frames(&mut self) -> Result<(), CloseReason> {
        let mut handled_count = 0;
        if self.is_peer_gone && self.is_polling {
            // Nobody hears what a long poll would find.
            self.barrier = None;
        }
        if self.slots.is_empty()
            && self.barrier.is_none()
            && let Some(held) = self.held.take()
        {
            self.dispatch(held)?;
        }
        while !self.is_blocked() && !self.is_stopping {
            if handled_count == TURN_FRAMES_MAX {
                break;
            }
            let Some(bytes) = self.input.cut()? else { break };
            handled_count += 1;
            let frame = self.parse(bytes)?;
            let barrier = if frame.api == ApiKey::Produce {
                let slot = self.slots.next();
                match handlers::produce::collect(&self.broker, &mut self.group, frame, slot)? {
                    Collected::Parked(parked) => {
                        self.slots.push_parked(parked);
                        continue;
                    }
                    Collected::Unanswered => continue,
                    Collected::Unverified(produce) => {
                        Held::Produce(Box::new(produce), self.input.take_claim())
                    }
                }
            } else {
                Held::Frame(frame)
            };
            self.append_group()?;
            self.send_ready();
            if self.slots.is_empty() {
                self.dispatch(barrier)?;
            } else {
                self.held = Some(barrier);
            }
        }
        self.append_group()
    }

    fn parse(&mut self, bytes: Bytes) -> Result<Frame, CloseReason> {
        let frame = Frame::parse(bytes)?;
        self.broker.metrics.requests.inc();
        Ok(frame)
    }

    fn append_group(&mut self) -> Result<(), CloseReason> {
        let Self { broker, group, slots, waker, uncommitted, .. } = self;
        handlers::produce::append(broker, group, slots, waker, uncommitted)
    }

    /// Starts a request that is a barrier.
    fn dispatch(&mut self, barrier: Held) -> Result<(), CloseReason> {
        self.is_polling = matches!(&barrier, Held::Frame(frame) if frame.api == ApiKey::Fetch);
        let handled = match barrier {
            Held::Frame(frame) => handlers::handle(&self.broker, &self.context, frame),
            Held::Produce(produce, claim) => {
                let answer = produce.run(self.broker.clone());
                Handled::Later(Box::pin(async move {
                    let handled = answer.await;
                    drop(claim);
                    handled
                }))
            }
        };
        self.take(handled)
    }

    fn take(&mut self, handled: Handled) -> Result<(), CloseReason> {
        match handled {
            Handled::Reply(response) => {
                self.send(response);
                Ok(())
            }
            Handled::Later(answer) => {
                self.barrier = Some(answer);
                Ok(())
            }
            Handled::Close(reason) => Err(reason),
        }
    }

    /// Puts the answers that other threads left into their slots.
    fn finish_parked(&mut self) -> Result<(), CloseReason> {
        for completion in self.waker.take() {
            handlers::produce::complete(&mut self.slots, completion)?;
        }
        self.send_ready();
        Ok(())
    }

    /// Queues the responses that every earlier one has left before.
    fn send_ready(&mut self) {
        while let Some(response) = self.slots.pop_ready() {
            self.send(response);
        }
    }

    fn send(&mut self, response: Response) {
        for part in response.parts {
            self.out.push(part);
        }
    }

    /// Sends; true when the socket takes no more.
    fn flush(&mut self) -> Result<bool, CloseReason> {
        if self.out.is_empty() {
            return Ok(false);
        }
        let sent = self
            .transport
            .try_send(&mut self.out, TURN_BYTES_MAX)
            .map_err(|error| CloseReason::Io(error.to_string()))?;
        if sent.bytes > 0 {
            self.last_activity = self.broker.host.mono();
            self.broker.metrics.bytes_out.inc_by(sent.bytes as u64);
        }
        Ok(sent.is_full)
    }

    async fn next_event(&mut self) -> Result<Event, CloseReason> {
        let interest = Interest { read: self.may_read() && !self.is_starved, write: !self.out.is_empty() };
        let is_starved = self.is_starved;
        let host = &self.broker.host;
        let retry = async { host.sleep_until(host.mono().plus_ms(MEMORY_RETRY_MS)).await };
        tokio::select! { biased;
            answer = poll_answer(&mut self.barrier) => Ok(Event::Answered(answer)),
            () = self.waker.woken() => Ok(Event::Woken),
            ready = self.transport.ready(interest) => match ready {
                Ok(()) => Ok(Event::Socket),
                Err(error) => Err(CloseReason::Io(error.to_string())),
            },
            () = retry, if is_starved => Ok(Event::MemoryRetry),
        }
    }

    fn on_timer(&mut self) -> Result<(), CloseReason> {
        let now = self.broker.host.mono();
        let idle_ms_max = self.broker.idle_ms_max();
        // A long poll under way is not idleness.
        let is_waiting = self.barrier.is_some() || !self.slots.is_empty();
        if !is_waiting && now.since_ms(self.last_activity) >= idle_ms_max {
            return Err(CloseReason::Idle);
        }
        self.set_idle_timer(if is_waiting { now } else { self.last_activity });
        Ok(())
    }

    fn set_idle_timer(&mut self, from: MonoMs) {
        let sleep = self.broker.host.sleep_until(from.plus_ms(self.broker.idle_ms_max()));
        self.seldom.push(async move {
            sleep.await;
            Notice::IdleTimer
        });
    }
}

async fn poll_answer(barrier: &mut Option<Answer>) -> Handled {
    match barrier {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}
