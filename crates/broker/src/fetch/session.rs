//! Fetch sessions (KIP-227): what a consumer reads is remembered, so that a request names only
//! what changed and an answer carries only what is new.
//!
//! Pure: time is an argument, ids come from the caller. What it deliberately does not
//! do: read anything.
//!
//! **Invariants:** a session's epoch grows by one with each request and wraps to 1; at
//! most `slots_max` sessions exist; partitions are answered in the order of the session,
//! and one that had records moves to the end so that no partition starves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use klamm_protocol::ids::{PartitionIndex, TopicId};
use klamm_protocol::time::MonoMs;

/// A session that was not used for this long may make room for a new one
/// (Kafka's `min.incremental.fetch.session.eviction.ms`, fixed there too).
const EVICTION_MS: u64 = 120_000;

/// The epoch that opens a session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch that closes one, or wants none.
const FINAL_EPOCH: i32 = -1;

/// Names a partition in a session: by id since Fetch 13, by name before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FetchKey {
    pub(crate) topic_id: TopicId,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: PartitionIndex,
}

/// What a client wants of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchWanted {
    pub(crate) fetch_offset: i64,
    pub(crate) bytes_max: i32,
    pub(crate) current_leader_epoch: i32,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) log_start_offset: i64,
}

/// What the client last heard of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start_offset: i64,
}

#[derive(Clone, Debug)]
struct Cached {
    key: FetchKey,
    wanted: FetchWanted,
    told: Option<Told>,
}

/// One session's partitions in order.
#[derive(Debug, Default)]
pub(crate) struct SessionState {
    next_epoch: i32,
    uses_topic_ids: bool,
    next_place: u64,
    places: BTreeMap<FetchKey, u64>,
    order: BTreeMap<u64, Cached>,
}

/// Why a session request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionError {
    /// FETCH_SESSION_ID_NOT_FOUND
    NotFound,
    /// INVALID_FETCH_SESSION_EPOCH
    InvalidEpoch,
    /// FETCH_SESSION_TOPIC_ID_ERROR
    TopicIdError,
}

/// How a request is answered.
#[derive(Clone, Debug)]
pub(crate) enum Context {
    /// Everything that was asked for; no session.
    Sessionless,
    /// Everything that was asked for; the session is new.
    Full { session_id: i32, session: Arc<Mutex<SessionState>> },
    /// Only what changed.
    Incremental { session_id: i32, session: Arc<Mutex<SessionState>> },
}

/// What a request says of its session.
#[derive(Clone, Debug)]
pub(crate) struct SessionRequest {
    pub(crate) session_id: i32,
    pub(crate) epoch: i32,
    pub(crate) uses_topic_ids: bool,
    pub(crate) wanted: Vec<(FetchKey, FetchWanted)>,
    pub(crate) forgotten: Vec<FetchKey>,
}

struct Slot {
    session: Arc<Mutex<SessionState>>,
    last_used: MonoMs,
}

/// Every session of the broker.
#[derive(Default)]
pub(crate) struct FetchSessions {
    slots_max: usize,
    by_id: Mutex<BTreeMap<i32, Slot>>,
}

impl FetchSessions {
    pub(crate) fn new(slots_max: usize) -> Self {
        Self { slots_max, by_id: Mutex::default() }
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.lock().expect("nothing panics in here").len()
    }

    /// Resolves a request to its context and the partitions to read, in order.
    /// `draw` gives random ids; 0 and negative ones are passed over.
    pub(crate) fn resolve(
        &self,
        now: MonoMs,
        request: SessionRequest,
        mut draw: impl FnMut() -> i32,
    ) -> Result<(Context, Vec<(FetchKey, FetchWanted)>), SessionError> {
        let mut by_id = self.by_id.lock().expect("nothing panics in here");
        if request.epoch == FINAL_EPOCH || request.epoch == INITIAL_EPOCH {
            by_id.remove(&request.session_id);
            if request.epoch == FINAL_EPOCH
                || request.wanted.is_empty()
                || !make_room(&mut by_id, self.slots_max, now)
            {
                return Ok((Context::Sessionless, request.wanted));
            }
            let session_id = loop {
                let id = draw();
                if id > 0 && !by_id.contains_key(&id) {
                    break id;
                }
            };
            let mut state =
                SessionState { next_epoch: 1, uses_topic_ids: request.uses_topic_ids, ..Default::default() };
            for (key, wanted) in &request.wanted {
                state.put(key.clone(), wanted.clone());
            }
            let session = Arc::new(Mutex::new(state));
            by_id.insert(session_id, Slot { session: session.clone(), last_used: now });
            return Ok((Context::Full { session_id, session }, request.wanted));
        }
        let slot = by_id.get_mut(&request.session_id).ok_or(SessionError::NotFound)?;
        slot.last_used = now;
        let session = slot.session.clone();
        drop(by_id);
        let mut state = session.lock().expect("nothing panics in here");
        if state.next_epoch != request.epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if state.uses_topic_ids != request.uses_topic_ids {
            return Err(SessionError::TopicIdError);
        }
        state.next_epoch = if request.epoch == i32::MAX { 1 } else { request.epoch + 1 };
        for key in &request.forgotten {
            state.forget(key);
        }
        for (key, wanted) in request.wanted {
            state.put(key, wanted);
        }
        if state.order.is_empty() {
            // Nothing is left to remember: the client gets session id 0 and begins anew, as in Kafka.
            drop(state);
            self.by_id.lock().expect("nothing panics in here").remove(&request.session_id);
            return Ok((Context::Sessionless, Vec::new()));
        }
        let all = state.order.values().map(|cached| (cached.key.clone(), cached.wanted.clone())).collect();
        drop(state);
        Ok((Context::Incremental { session_id: request.session_id, session }, all))
    }
}

impl Context {
    /// The id that the response carries.
    pub(crate) fn session_id(&self) -> i32 {
        match self {
            Self::Sessionless => 0,
            Self::Full { session_id, .. } | Self::Incremental { session_id, .. } => *session_id,
        }
    }

    /// True if the partition belongs into the response; remembers what the client is told.
    pub(crate) fn tell(&self, key: &FetchKey, answer: Answer) -> bool {
        let (session, is_incremental) = match self {
            Self::Sessionless => return true,
            Self::Full { session, .. } => (session, false),
            Self::Incremental { session, .. } => (session, true),
        };
        session.lock().expect("nothing panics in here").tell(key, answer) || !is_incremental
    }
}

/// What a response says of one partition, as far as sessions care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) has_records: bool,
    /// An error, a diverging epoch or a preferred replica: told every time.
    pub(crate) is_special: bool,
    /// An error: the next answer is told whatever it says.
    pub(crate) is_error: bool,
    pub(crate) high_watermark: i64,
    pub(crate) log_start_offset: i64,
}

impl SessionState {
    fn put(&mut self, key: FetchKey, wanted: FetchWanted) {
        if let Some(cached) = self.places.get(&key).and_then(|place| self.order.get_mut(place)) {
            cached.wanted = wanted;
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.places.insert(key.clone(), place);
        self.order.insert(place, Cached { key, wanted, told: None });
    }

    fn forget(&mut self, key: &FetchKey) {
        if let Some(place) = self.places.remove(key) {
            self.order.remove(&place);
        }
    }

    fn tell(&mut self, key: &FetchKey, answer: Answer) -> bool {
        let Some(place) = self.places.get(key).copied() else { return true };
        let Some(mut cached) = self.order.remove(&place) else { return true };
        let now_told =
            Told { high_watermark: answer.high_watermark, log_start_offset: answer.log_start_offset };
        let is_new = answer.has_records || answer.is_special || cached.told != Some(now_told);
        cached.told = if answer.is_error { None } else { Some(now_told) };
        let mut new_place = place;
        if answer.has_records {
            new_place = self.next_place;
            self.next_place += 1;
            self.places.insert(cached.key.clone(), new_place);
        }
        self.order.insert(new_place, cached);
        is_new
    }
}

/// True if there is room for one more, after evicting the longest unused session if it is old enough.
fn make_room(by_id: &mut BTreeMap<i32, Slot>, slots_max: usize, now: MonoMs) -> bool {
    if by_id.len() < slots_max {
        return true;
    }
    let oldest = by_id.iter().min_by_key(|(_, slot)| slot.last_used).map(|(id, slot)| (*id, slot.last_used));
    match oldest {
        Some((id, last_used)) if now.since_ms(last_used) > EVICTION_MS => {
            by_id.remove(&id);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> FetchKey {
        FetchKey { topic_id: TopicId::default(), topic: "t".into(), partition: PartitionIndex(partition) }
    }

    fn wanted(offset: i64) -> FetchWanted {
        FetchWanted {
            fetch_offset: offset,
            bytes_max: 1,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            log_start_offset: -1,
        }
    }

    fn request(session_id: i32, epoch: i32, partitions: &[(i32, i64)], forgotten: &[i32]) -> SessionRequest {
        SessionRequest {
            session_id,
            epoch,
            uses_topic_ids: false,
            wanted: partitions.iter().map(|(p, offset)| (key(*p), wanted(*offset))).collect(),
            forgotten: forgotten.iter().map(|p| key(*p)).collect(),
        }
    }

    fn quiet(high_watermark: i64) -> Answer {
        Answer { has_records: false, is_special: false, is_error: false, high_watermark, log_start_offset: 0 }
    }

    fn order(partitions: &[(FetchKey, FetchWanted)]) -> Vec<(i32, i64)> {
        partitions.iter().map(|(key, wanted)| (key.partition.0, wanted.fetch_offset)).collect()
    }

    #[test]
    fn a_session_remembers_and_tells_only_what_changed() {
        let sessions = FetchSessions::new(10);
        let now = MonoMs(0);
        let (context, all) =
            sessions.resolve(now, request(0, 0, &[(0, 5), (1, 6), (2, 7)], &[]), || 9).unwrap();
        assert_eq!(context.session_id(), 9);
        assert_eq!(order(&all), [(0, 5), (1, 6), (2, 7)]);
        for partition in 0..3 {
            assert!(context.tell(&key(partition), quiet(1)), "a full answer tells everything");
        }
        let (context, all) = sessions.resolve(now, request(9, 1, &[(1, 8)], &[2]), || 0).unwrap();
        assert_eq!(order(&all), [(0, 5), (1, 8)]);
        assert!(!context.tell(&key(0), quiet(1)), "nothing new");
        assert!(context.tell(&key(1), quiet(2)), "a new watermark");
        assert!(context.tell(&key(0), Answer { has_records: true, ..quiet(1) }));
        let (_, all) = sessions.resolve(now, request(9, 2, &[], &[]), || 0).unwrap();
        assert_eq!(order(&all), [(1, 8), (0, 5)], "who had records goes to the end");
    }

    #[test]
    fn an_error_is_told_again_and_so_is_what_follows_it() {
        let sessions = FetchSessions::new(10);
        let (context, _) = sessions.resolve(MonoMs(0), request(0, 0, &[(0, 0)], &[]), || 4).unwrap();
        let error = Answer { is_special: true, is_error: true, ..quiet(-1) };
        assert!(context.tell(&key(0), error));
        let (context, _) = sessions.resolve(MonoMs(0), request(4, 1, &[], &[]), || 0).unwrap();
        assert!(context.tell(&key(0), error));
        assert!(context.tell(&key(0), quiet(-1)));
        assert!(!context.tell(&key(0), quiet(-1)));
    }

    #[test]
    fn a_session_without_partitions_ends() {
        let sessions = FetchSessions::new(10);
        sessions.resolve(MonoMs(0), request(0, 0, &[(0, 0)], &[]), || 4).unwrap();
        let (context, all) = sessions.resolve(MonoMs(0), request(4, 1, &[], &[0]), || 0).unwrap();
        assert_eq!((context.session_id(), all.len(), sessions.count()), (0, 0, 0));
    }

    #[test]
    fn wrong_ids_and_epochs_are_refused() {
        let sessions = FetchSessions::new(10);
        let refused = |r| sessions.resolve(MonoMs(0), r, || 3).err();
        assert_eq!(refused(request(3, 1, &[], &[])), Some(SessionError::NotFound));
        assert_eq!(refused(request(0, 0, &[(0, 0)], &[])), None);
        assert_eq!(refused(request(3, 2, &[], &[])), Some(SessionError::InvalidEpoch));
        let by_id = SessionRequest { uses_topic_ids: true, ..request(3, 1, &[], &[]) };
        assert_eq!(refused(by_id), Some(SessionError::TopicIdError));
        assert_eq!(refused(request(3, -1, &[], &[])), None);
        assert_eq!(refused(request(3, 1, &[], &[])), Some(SessionError::NotFound), "closed");
    }

    #[test]
    fn a_full_cache_gives_no_session_until_one_is_old() {
        let sessions = FetchSessions::new(1);
        let mut next = 0;
        let mut open = |now| {
            let draw = || {
                next += 1;
                next
            };
            sessions.resolve(MonoMs(now), request(0, 0, &[(0, 0)], &[]), draw).unwrap().0.session_id()
        };
        assert_eq!(open(0), 1);
        assert_eq!(open(EVICTION_MS), 0);
        assert_eq!(open(EVICTION_MS + 1), 2);
    }
}
