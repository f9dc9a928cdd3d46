//! A proxy on loopback that cuts connections at chosen points of a request's life.
//!
//! Clients reach the broker through it (the broker advertises the proxy's port). Of the requests that the plan looks
//! at, now and then one loses its connection: with half of it sent, with all of it sent, with its answer made but not
//! delivered, with the answer's last bytes missing, or with the request still on its way: then it arrives when the
//! client has long gone on elsewhere. What it deliberately does not do: change bytes, or reorder those of a connection.
//!
//! Invariant: which of the counted requests are cut, and how, depends on the seed alone.

use crate::random::Random;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// The broker gets a part of the request.
    InRequest,
    /// The broker gets the request, and finds nobody to answer.
    BehindRequest,
    /// The broker has answered, so what was asked is done; the client gets nothing.
    BeforeResponse,
    /// The client gets the answer without its last bytes.
    InResponse,
    /// The client finds its connection closed; the broker gets the request after others that the client sends later.
    Late,
}

impl Cut {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::InRequest, Self::BehindRequest, Self::BeforeResponse, Self::InResponse, Self::Late];
}

/// Which requests lose their connection.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Only these count; a client whose connection dies at every hello gets nowhere.
    api_keys: &'static [i16],
    spared_between: RangeInclusive<u64>,
    random: Random,
    spared: u64,
    /// Of five cuts in a row each kind is one, so that short runs see all.
    kinds: Vec<Cut>,
    /// Where these run out.
    all_kinds: Vec<Cut>,
}

impl Plan {
    /// After a number of requests in `spared_between` with one of `api_keys`, the next one is cut.
    pub fn new(seed: u64, api_keys: &'static [i16], spared_between: RangeInclusive<u64>) -> Self {
        let mut random = Random::of(seed);
        let spared = random.between(spared_between.clone());
        Self { api_keys, spared_between, random, spared, kinds: Vec::new(), all_kinds: Cut::ALL.to_vec() }
    }

    /// Every request with one of `api_keys` is cut, each in the same way.
    pub fn only(cut: Cut, api_keys: &'static [i16]) -> Self {
        Self { all_kinds: vec![cut], ..Self::new(0, api_keys, 0..=0) }
    }

    /// What happens to the next request.
    fn next(&mut self, api_key: i16, api_version: i16) -> Option<Incision> {
        if !self.api_keys.contains(&api_key) {
            return None;
        }
        if self.spared > 0 {
            self.spared -= 1;
            return None;
        }
        self.spared = self.random.between(self.spared_between.clone());
        if self.kinds.is_empty() {
            self.kinds.extend(&self.all_kinds);
        }
        let drawn = self.random.draw() % self.kinds.len() as u64;
        let cut = self.kinds.swap_remove(usize::try_from(drawn).expect("below five"));
        let is_too_late = cut == Cut::Late && !may_be_late(api_key, api_version);
        let cut = if is_too_late { Cut::BehindRequest } else { cut };
        Some(Incision { cut, drawn: self.random.draw() })
    }
}

/// Of EndTxn and TxnOffsetCommit below version 5 a late copy takes effect on the producer's next transaction, which has
/// the same epoch: a flaw of the protocol before KIP-890, of which brokers cannot know.
fn may_be_late(api_key: i16, api_version: i16) -> bool {
    const END_TXN: i16 = 26;
    const TXN_OFFSET_COMMIT: i16 = 28;
    !matches!(api_key, END_TXN | TXN_OFFSET_COMMIT) || api_version >= 5
}

/// A cut, and the number that says where in the frame it falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incision {
    cut: Cut,
    drawn: u64,
}

impl Incision {
    /// How many of `bytes` are let through: at least one, never all.
    fn part_of(self, bytes: usize) -> usize {
        let choices = u64::try_from(bytes.max(2) - 1).expect("a length");
        1 + usize::try_from(self.drawn % choices).expect("below the length")
    }
}

/// A running proxy. Dropped, it takes no more connections.
pub struct CuttingProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    broker: SocketAddr,
    plan: Mutex<Plan>,
    done: Mutex<BTreeMap<Cut, u64>>,
    /// Requests forwarded, over all connections.
    forwarded: AtomicU64,
    /// Late requests stay away as long as this holds.
    holds_late: AtomicBool,
    /// Late requests that the broker has answered.
    late_answered: AtomicU64,
    stops: AtomicBool,
}

impl CuttingProxy {
    /// Listens on `port` and forwards to `broker`.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start(port: u16, broker: SocketAddr, plan: Plan) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("bind the proxy's port");
        let address = listener.local_addr().expect("the bound address");
        let stops = AtomicBool::new(false);
        let shared = Arc::new(Shared {
            broker,
            plan: Mutex::new(plan),
            done: Mutex::default(),
            forwarded: AtomicU64::new(0),
            holds_late: AtomicBool::new(false),
            late_answered: AtomicU64::new(0),
            stops,
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if accepting.stops.load(Ordering::Acquire) {
                    return;
                }
                // A broker that is down refuses: the client finds its connection closed.
                if let Ok(broker) = TcpStream::connect_timeout(&accepting.broker, CONNECT_TIMEOUT) {
                    Connection::start(client, broker, accepting.clone());
                }
            }
        });
        Self { address, shared }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often each cut was made so far.
    ///
    /// # Panics
    /// When a thread of the proxy panicked.
    pub fn cuts(&self) -> BTreeMap<Cut, u64> {
        self.shared.done.lock().expect("cuts").clone()
    }

    /// Keeps late requests away, or lets those that were kept away arrive.
    pub fn hold_late(&self, holds: bool) {
        self.shared.holds_late.store(holds, Ordering::Release);
    }

    /// How many late requests the broker has answered; nobody is there to hear it.
    pub fn late_answered(&self) -> u64 {
        self.shared.late_answered.load(Ordering::Acquire)
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Release);
        // Wakes the acceptor.
        TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT).ok();
    }
}

/// Loopback answers at once, or nobody listens.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a late request is held back if nobody sends others.
const LATE_MAX: Duration = Duration::from_millis(300);
/// How many others go before it, at most.
const LATE_BEHIND_MAX: u64 = 30;
/// No client or broker in these tests sends larger ones.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// One client's connection: a thread for each direction, ended by the end of either side.
struct Connection {
    client: TcpStream,
    broker: TcpStream,
    shared: Arc<Shared>,
    /// By correlation id, what is to happen to responses.
    doomed: Mutex<BTreeMap<i32, Incision>>,
    /// The client is gone, and the broker does not know it.
    is_half: AtomicBool,
}

impl Connection {
    fn start(client: TcpStream, broker: TcpStream, shared: Arc<Shared>) {
        client.set_nodelay(true).ok();
        broker.set_nodelay(true).ok();
        let connection = Arc::new(Self {
            client,
            broker,
            shared,
            doomed: Mutex::default(),
            is_half: AtomicBool::new(false),
        });
        let responding = connection.clone();
        std::thread::spawn(move || {
            connection.forward_requests().ok();
            // Else the broker's last answer closes it.
            if !connection.is_half.load(Ordering::Acquire) {
                connection.close();
            }
        });
        std::thread::spawn(move || {
            responding.forward_responses().ok();
            responding.close();
        });
    }

    fn forward_requests(&self) -> std::io::Result<()> {
        while let Some(frame) = read_frame(&self.client)? {
            let (api_key, api_version) = (i16_at(&frame, 4), i16_at(&frame, 6));
            let correlation_id = i32_at(&frame, 8);
            let incision = self.shared.plan.lock().expect("plan").next(api_key, api_version);
            let Some(incision) = incision else {
                self.shared.forwarded.fetch_add(1, Ordering::Relaxed);
                (&self.broker).write_all(&frame)?;
                continue;
            };
            // A quick answer must not slip through while this side closes.
            self.doomed.lock().expect("doomed").insert(correlation_id, incision);
            if incision.cut == Cut::Late {
                self.count(Cut::Late);
                return self.forward_late(&frame, incision);
            }
            let is_part = incision.cut == Cut::InRequest;
            let part = if is_part { incision.part_of(frame.len()) } else { frame.len() };
            (&self.broker).write_all(&frame[..part])?;
            if matches!(incision.cut, Cut::InRequest | Cut::BehindRequest) {
                self.count(incision.cut);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends the connection's last request when others have overtaken it.
    fn forward_late(&self, frame: &[u8], incision: Incision) -> std::io::Result<()> {
        self.is_half.store(true, Ordering::Release);
        self.client.shutdown(Shutdown::Both).ok();
        let forwarded = &self.shared.forwarded;
        let until = forwarded.load(Ordering::Relaxed) + 1 + incision.drawn % LATE_BEHIND_MAX;
        let overtaken = || (forwarded.load(Ordering::Relaxed) >= until).then_some(());
        crate::wait::until_by(Instant::now() + LATE_MAX, overtaken);
        let is_let_go = || (!self.shared.holds_late.load(Ordering::Acquire)).then_some(());
        crate::wait::until_by(Instant::now() + crate::wait::DEADLINE, is_let_go);
        (&self.broker).write_all(frame)
    }

    fn forward_responses(&self) -> std::io::Result<()> {
        while let Some(frame) = read_frame(&self.broker)? {
            let incision = self.doomed.lock().expect("doomed").remove(&i32_at(&frame, 4));
            let Some(incision) = incision else {
                let written = (&self.client).write_all(&frame);
                if !self.is_half.load(Ordering::Acquire) {
                    written?;
                }
                continue;
            };
            match incision.cut {
                // Counted where the request was cut.
                Cut::InRequest | Cut::BehindRequest => return Ok(()),
                Cut::Late => {
                    self.shared.late_answered.fetch_add(1, Ordering::Release);
                    return Ok(());
                }
                Cut::BeforeResponse => {}
                Cut::InResponse => {
                    (&self.client).write_all(&frame[..incision.part_of(frame.len())])?;
                }
            }
            self.count(incision.cut);
            return Ok(());
        }
        Ok(())
    }

    fn count(&self, cut: Cut) {
        *self.shared.done.lock().expect("cuts").entry(cut).or_default() += 1;
    }

    fn close(&self) {
        self.client.shutdown(Shutdown::Both).ok();
        self.broker.shutdown(Shutdown::Both).ok();
    }
}

/// The next frame with its length, `None` at the end.
fn read_frame(mut from: &TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; 4];
    match from.read_exact(&mut frame) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = usize::try_from(i32_at(&frame, 0)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    frame.resize(4 + length, 0);
    from.read_exact(&mut frame[4..])?;
    Ok(Some(frame))
}

/// 0 where the frame is too short: no such request or response exists.
fn i32_at(frame: &[u8], at: usize) -> i32 {
    frame.get(at..at + 4).map_or(0, |bytes| i32::from_be_bytes(bytes.try_into().expect("four bytes")))
}

fn i16_at(frame: &[u8], at: usize) -> i16 {
    frame.get(at..at + 2).map_or(0, |bytes| i16::from_be_bytes(bytes.try_into().expect("two bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{self, Answer};

    const API_KEY: i16 = 0;
    const OTHER_API_KEY: i16 = 3;

    #[test]
    fn a_plan_is_its_seed() {
        let draw = |seed| {
            let mut plan = Plan::new(seed, &[API_KEY], 2..=4);
            let cuts: Vec<_> = (0..400).map(|_| plan.next(API_KEY, 3)).collect();
            cuts
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let cuts = draw(1);
        assert!(Cut::ALL.iter().all(|kind| cuts.iter().flatten().any(|made| made.cut == *kind)));
        assert!((80..=134).contains(&cuts.iter().flatten().count()), "one in three to five");
    }

    #[test]
    fn other_requests_are_not_counted() {
        let mut plan = Plan::new(1, &[API_KEY], 0..=0);
        assert_eq!(plan.next(OTHER_API_KEY, 3), None);
        assert!(plan.next(API_KEY, 3).is_some());
    }

    #[test]
    fn what_would_end_another_transaction_is_not_late() {
        let mut cuts = Plan::new(1, &[26], 0..=0);
        let mut is_ever_late =
            |version| (0..100).any(|_| cuts.next(26, version).expect("a cut").cut == Cut::Late);
        assert!(!is_ever_late(4));
        assert!(is_ever_late(5));
    }

    /// A broker that answers each frame with its correlation id and a few bytes, and keeps what came.
    fn echo() -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let keep = received.clone();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut all = Vec::new();
                while let Ok(Some(frame)) = read_frame(&stream) {
                    let answer = [&frame[8..12], b"answer"].concat();
                    all.extend_from_slice(&frame);
                    stream.write_all(&raw::framed(&answer)).ok();
                }
                keep.lock().expect("received").push(all);
            }
        });
        (address, received)
    }

    #[test]
    fn each_cut_lets_through_what_it_says() {
        let request = raw::request(API_KEY, 3, 77, b"a body");
        for seed in 0..40 {
            let mut plan = Plan::new(seed, &[API_KEY], 0..=0);
            let expected = plan.clone().next(API_KEY, 3).expect("a cut").cut;
            plan.spared = 1;
            let (broker, received) = echo();
            let proxy = CuttingProxy::start(0, broker, plan);
            let mut stream = raw::connect(proxy.address());
            // The first one is spared, and so is another API.
            for spared in [raw::request(API_KEY, 3, 76, b"a body"), raw::request(OTHER_API_KEY, 3, 75, b"")] {
                raw::write(&mut stream, &spared);
                assert!(matches!(raw::read(&mut stream), Answer::Frame(frame) if frame.ends_with(b"answer")));
            }
            raw::write(&mut stream, &request);
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).ok();
            let made = crate::wait::until("a cut", || proxy.cuts().into_iter().next());
            let arrived = crate::wait::until("the end", || received.lock().unwrap().first().cloned());
            let is_whole = arrived.ends_with(&request);
            assert_eq!(made, (expected, 1));
            match expected {
                Cut::InRequest => assert!(!is_whole && rest.is_empty()),
                Cut::BehindRequest | Cut::BeforeResponse | Cut::Late => assert!(is_whole && rest.is_empty()),
                Cut::InResponse => {
                    let answer = raw::framed(&[&77_i32.to_be_bytes()[..], b"answer"].concat());
                    assert!(is_whole && !rest.is_empty() && rest.len() < answer.len());
                    assert!(answer.starts_with(&rest));
                }
            }
        }
    }
}
