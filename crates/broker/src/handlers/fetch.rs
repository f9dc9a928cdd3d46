//! Fetch, versions 4 to 18.
//!
//! Hot records are answered at once from the page cache; without enough of them the
//! request waits for its partitions or `max_wait_ms`; cold ones are first read, and checked,
//! where that may block. What is corrupt is answered with CORRUPT_MESSAGE, never with records.
//!
//! - 5: log start offset. 7: sessions (KIP-227). 9: leader epochs (KIP-320). 12: flexible,
//!   diverging epochs. 13: topic ids (KIP-516). 15: replica state (KIP-903). 16: node
//!   endpoints (KIP-951). 17: replica directory ids (KIP-853). 18: high watermark of
//!   the follower.
//! - Only consumers fetch from a single node: a request that claims to be a replica is
//!   refused with NOT_LEADER_OR_FOLLOWER for each partition; replica id -2 is Kafka's
//!   debugging consumer, which reads to the log's end.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{PartitionIndex, TopicId};
use klamm_protocol::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData,
};
use klamm_protocol::time::MonoMs;
use klamm_protocol::wire::Records;

use super::{Frame, Handled, Meta};
use crate::broker::Broker;
use crate::config::FetchCheckCrcs;
use crate::fetch::plan::{self, COPY_BYTES_MAX, Isolation, PartitionRead, ReadLimits, ReadResult};
use crate::fetch::session::{Answer, Context, FetchKey, FetchWanted, SessionError, SessionRequest};
use crate::host::{Host, OutPart, Pool};
use crate::partition::waiters::FetchWait;

/// Kafka's debugging consumer.
const DEBUGGING_CONSUMER_ID: i32 = -2;
pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: FetchRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let replica_id = if meta.version >= 15 { request.replica_state.replica_id } else { request.replica_id };
    let isolation = match (replica_id, request.isolation_level) {
        (DEBUGGING_CONSUMER_ID, _) => Isolation::LogEnd,
        (_, 1) => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    };
    let limits = ReadLimits {
        isolation,
        bytes_max: u64::try_from(request.max_bytes.min(broker.config.fetch_max_bytes)).unwrap_or(0),
        uses_topic_ids: meta.version >= 13,
        checks_always: broker.config.fetch_check_crcs == FetchCheckCrcs::Always,
    };
    let min_bytes = u64::try_from(request.min_bytes).unwrap_or(0);
    let max_wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0);
    let session = session_request(broker, &request, meta.version);
    let draw = || (broker.host.random() & 0x7fff_ffff) as i32;
    let (context, wanted) = match broker.fetch_sessions.resolve(broker.host.mono(), session, draw) {
        Ok(resolved) => resolved,
        Err(error) => {
            let code = match error {
                SessionError::NotFound => ErrorCode::FetchSessionIdNotFound,
                SessionError::InvalidEpoch => ErrorCode::InvalidFetchSessionEpoch,
                SessionError::TopicIdError => ErrorCode::FetchSessionTopicIdError,
            };
            return meta.reply(&FetchResponse { error_code: code.code(), ..Default::default() });
        }
    };
    let fetch = Fetch { meta, context, wanted, limits, min_bytes, is_replica: replica_id >= 0 };
    let result = fetch.read(broker);
    if result.from_disk.is_empty() && (max_wait_ms == 0 || fetch.is_enough(&result)) {
        return fetch.answer(broker, result);
    }
    let deadline = broker.host.mono().plus_ms(max_wait_ms);
    let broker = broker.clone();
    Handled::Later(Box::pin(async move { fetch.wait(&broker, result, deadline).await }))
}

struct Fetch {
    meta: Meta,
    context: Context,
    wanted: Vec<(FetchKey, FetchWanted)>,
    limits: ReadLimits,
    min_bytes: u64,
    is_replica: bool,
}

impl Fetch {
    fn read<H: Host>(&self, broker: &Broker<H>) -> ReadResult {
        if self.is_replica {
            let refuse = |_| PartitionRead {
                error: ErrorCode::NotLeaderOrFollower,
                limits: None,
                region: None,
                bytes: None,
                aborted: None,
                diverging: None,
            };
            let partitions = self.wanted.iter().map(refuse).collect();
            return ReadResult { partitions, is_urgent: true, ..Default::default() };
        }
        plan::read_all(&broker.topics.load(), &self.wanted, self.limits)
    }

    fn is_enough(&self, result: &ReadResult) -> bool {
        let is_nothing_here = result.unknown_count == self.wanted.len();
        is_nothing_here || result.is_urgent || result.bytes >= self.min_bytes
    }

    async fn wait<H: Host>(
        self,
        broker: &Arc<Broker<H>>,
        mut result: ReadResult,
        deadline: MonoMs,
    ) -> Handled {
        let unknown_count = result.unknown_count;
        // A topic that is deleted meanwhile is told at once.
        let is_over = |result: &ReadResult| {
            self.is_enough(result) || result.unknown_count > unknown_count || broker.is_stopping()
        };
        while !is_over(&result) && broker.host.mono() < deadline {
            let missing_bytes = self.min_bytes - result.bytes;
            let wait = FetchWait::new(i64::try_from(missing_bytes).unwrap_or(i64::MAX));
            {
                let index = broker.topics.load();
                for (key, _) in &self.wanted {
                    if let Ok(partition) = plan::find(&index, key, self.limits.uses_topic_ids) {
                        partition.waiters.register(&wait);
                        partition.hurry_commit(&broker.host);
                    }
                }
            }
            // What came between the last look and the registration woke nobody, and is missing no more.
            let known_bytes = result.bytes;
            result = self.read(broker);
            if is_over(&result) {
                break;
            }
            wait.found(result.bytes.saturating_sub(known_bytes));
            tokio::select! { biased;
                () = wait.enough() => {}
                () = broker.host.sleep_until(deadline) => {}
            }
            result = self.read(broker);
        }
        let left = std::mem::take(&mut result.from_disk);
        if !left.is_empty() {
            let rooms = broker.rooms.clone();
            let read = broker.host.offload(Pool::ColdRead, move || plan::read_from_disk(&rooms, &left)).await;
            for (place, read) in read {
                result.partitions[place] = read;
            }
            let regions = result.partitions.iter().filter_map(|read| read.region.as_ref());
            result.bytes = regions.map(|region| u64::from(region.len_bytes)).sum();
        }
        self.answer(broker, result)
    }

    fn answer<H: Host>(&self, broker: &Broker<H>, result: ReadResult) -> Handled {
        let mut regions: VecDeque<OutPart> = VecDeque::new();
        let mut responses: Vec<FetchableTopicResponse> = Vec::new();
        for ((key, _), read) in self.wanted.iter().zip(result.partitions) {
            if !self.context.tell(key, told(&read)) {
                continue;
            }
            let is_same_topic = responses.last().is_some_and(|last| match self.limits.uses_topic_ids {
                true => last.topic_id == key.topic_id.0,
                false => *last.topic == *key.topic,
            });
            if !is_same_topic {
                responses.push(FetchableTopicResponse {
                    topic: key.topic.to_string().into(),
                    topic_id: key.topic_id.0,
                    ..Default::default()
                });
            }
            let data = partition_data(key, read, &mut regions);
            if let Some(last) = responses.last_mut() {
                last.partitions.push(data);
            }
        }
        broker.metrics.fetched_bytes.inc_by(result.bytes);
        let body = FetchResponse { session_id: self.context.session_id(), responses, ..Default::default() };
        // Regions come up in the order in which they were put in.
        match self.meta.encode_with(&body, |_| regions.pop_front()) {
            Ok(response) => Handled::Reply(response),
            Err(reason) => Handled::Close(reason),
        }
    }
}

fn session_request<H: Host>(broker: &Broker<H>, request: &FetchRequest, version: i16) -> SessionRequest {
    let index = broker.topics.load();
    // Names are shared with the topic where it is known: sessions outlive the request's bytes.
    // A request by topic id needs none: neither does its response.
    let name_of = |name: &str| match version {
        13.. => Arc::from(""),
        _ => index.by_name(name).map_or_else(|| Arc::from(name), |topic| topic.name.clone()),
    };
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let topic_id = TopicId(topic.topic_id);
        let name: Arc<str> = name_of(&topic.topic);
        wanted.extend(topic.partitions.iter().map(|partition| {
            let key =
                FetchKey { topic_id, topic: name.clone(), partition: PartitionIndex(partition.partition) };
            let want = FetchWanted {
                fetch_offset: partition.fetch_offset,
                bytes_max: partition.partition_max_bytes,
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
                log_start_offset: partition.log_start_offset,
            };
            (key, want)
        }));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let topic_id = TopicId(topic.topic_id);
        let name = name_of(&topic.topic);
        forgotten.extend(topic.partitions.iter().map(|partition| FetchKey {
            topic_id,
            topic: name.clone(),
            partition: PartitionIndex(*partition),
        }));
    }
    let (session_id, epoch) =
        if version >= 7 { (request.session_id, request.session_epoch) } else { (0, -1) };
    SessionRequest { session_id, epoch, uses_topic_ids: version >= 13, wanted, forgotten }
}

fn told(read: &PartitionRead) -> Answer {
    Answer {
        has_records: read.region.is_some(),
        is_special: read.error != ErrorCode::None || read.diverging.is_some(),
        is_error: read.error != ErrorCode::None,
        high_watermark: read.limits.map_or(-1, |limits| limits.high_watermark.offset.0),
        log_start_offset: read.limits.map_or(-1, |limits| limits.log_start.0),
    }
}

fn partition_data(key: &FetchKey, read: PartitionRead, regions: &mut VecDeque<OutPart>) -> PartitionData {
    let mut error = read.error;
    let records = match read.region {
        None => Records::Inline(Bytes::new()),
        Some(region) if read.bytes.is_none() && region.len_bytes <= COPY_BYTES_MAX => match region.read() {
            Ok(copy) => Records::Inline(copy.into()),
            Err(failure) => {
                tracing::error!(topic = %key.topic, partition = %key.partition, error = %failure, "cannot read");
                error = ErrorCode::KafkaStorageError;
                Records::Inline(Bytes::new())
            }
        },
        Some(region) => {
            let len_bytes = region.len_bytes;
            regions.push_back(read.bytes.map_or(OutPart::File(region), OutPart::Bytes));
            Records::External { len_bytes, tag: 0 }
        }
    };
    let mut data = PartitionData {
        partition_index: key.partition.0,
        error_code: error.code(),
        high_watermark: read.limits.map_or(-1, |limits| limits.high_watermark.offset.0),
        last_stable_offset: read.limits.map_or(-1, |limits| limits.last_stable.offset.0),
        log_start_offset: read.limits.map_or(-1, |limits| limits.log_start.0),
        aborted_transactions: read.aborted.map(|aborted| {
            let entry = |(producer_id, first_offset)| AbortedTransaction {
                producer_id,
                first_offset,
                ..Default::default()
            };
            aborted.into_iter().map(entry).collect()
        }),
        records: Some(records),
        ..Default::default()
    };
    if let Some(end) = read.diverging {
        data.diverging_epoch =
            EpochEndOffset { epoch: end.leader_epoch.0, end_offset: end.end_offset.0, ..Default::default() };
    }
    data
}
