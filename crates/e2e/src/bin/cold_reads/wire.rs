//! One blocking connection, and the three requests that are sent over it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use klamm_protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use klamm_protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use klamm_protocol::records::{Scanned, scan_batches};
use klamm_protocol::wire::{Records, Request, WireStr, decode_response, encode_request};

/// The newest versions that name topics.
const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 12;
const LIST_OFFSETS_VERSION: i16 = 7;
const LATEST: i64 = -1;
/// As consumers have it by default.
const MAX_WAIT_MS: i32 = 500;
const TIMEOUT_MS: i32 = 30_000;
/// Read at once. A system call that copies a megabyte keeps the hot clients from their core meanwhile, and what is
/// measured is the broker.
const PIECE_BYTES: usize = 64 << 10;

/// Requests are answered in the order they were sent.
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    sent: i32,
    answered: i32,
}

/// A partition by name.
#[derive(Clone)]
pub struct Partition {
    pub topic: String,
    pub index: i32,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: BytesMut::new(), sent: 0, answered: 0 })
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.send(version, request)?;
        self.receive::<R>(version)
    }

    fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<()> {
        let frame = encode_request(request, version, self.sent, Some("cold_reads"))?;
        self.sent += 1;
        self.stream.write_all(&frame).with_context(|| format!("send {}", R::NAME))
    }

    fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).with_context(|| format!("the answer to {}", R::NAME))?;
        self.input.resize(usize::try_from(i32::from_be_bytes(length))?, 0);
        for piece in self.input.chunks_mut(PIECE_BYTES) {
            self.stream.read_exact(piece).with_context(|| format!("the answer to {}", R::NAME))?;
        }
        let (correlation_id, response) = decode_response(self.input.split().freeze(), R::API_KEY, version)?;
        if correlation_id != self.answered {
            bail!("an answer to request {correlation_id}, not to {}", self.answered);
        }
        self.answered += 1;
        Ok(response)
    }

    /// Sends a batch; [`Connection::finish_produce`] takes the answer.
    pub fn begin_produce(&mut self, to: &Partition, acks: i16, batch: Bytes) -> Result<()> {
        let partition = PartitionProduceData {
            index: to.index,
            records: Some(Records::Inline(batch)),
            ..Default::default()
        };
        let topic = TopicProduceData {
            name: WireStr::from(to.topic.clone()),
            partition_data: vec![partition],
            ..Default::default()
        };
        let request =
            ProduceRequest { acks, timeout_ms: TIMEOUT_MS, topic_data: vec![topic], ..Default::default() };
        self.send(PRODUCE_VERSION, &request)
    }

    /// The base offset of the earliest batch without an answer.
    pub fn finish_produce(&mut self) -> Result<i64> {
        let answer = self.receive::<ProduceRequest>(PRODUCE_VERSION)?;
        let partition = answer.responses.iter().flat_map(|topic| &topic.partition_responses).next();
        let partition = partition.context("no partition in the answer to Produce")?;
        expect_success("produce", partition.error_code)?;
        Ok(partition.base_offset)
    }

    /// Waits for records at `offset`: how many bytes came, each whole batch's base offset is
    /// given to `seen`, and the offset behind the last one.
    pub fn fetch(
        &mut self,
        from: &Partition,
        offset: i64,
        bytes_max: i32,
        mut seen: impl FnMut(i64),
    ) -> Result<(usize, i64)> {
        let partition = FetchPartition {
            partition: from.index,
            current_leader_epoch: -1,
            fetch_offset: offset,
            last_fetched_epoch: -1,
            partition_max_bytes: bytes_max,
            ..Default::default()
        };
        let topic = FetchTopic {
            topic: WireStr::from(from.topic.clone()),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: MAX_WAIT_MS,
            min_bytes: 1,
            max_bytes: bytes_max.max(1 << 20),
            session_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let answer = self.call(FETCH_VERSION, &request)?;
        expect_success("fetch", answer.error_code)?;
        let mut next = offset;
        let mut bytes = 0;
        for partition in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            expect_success("fetch", partition.error_code)?;
            let Some(Records::Inline(records)) = &partition.records else { continue };
            bytes += records.len();
            // Kafka cuts the last batch where the limit lies.
            for batch in scan_batches(records).map_while(Result::ok) {
                if let Scanned::Batch(batch) = batch {
                    seen(batch.header.base_offset.0);
                    next = batch.header.next_offset().0;
                }
            }
        }
        Ok((bytes, next))
    }

    /// `None` while the partition has no leader yet.
    pub fn end_offset(&mut self, of: &Partition) -> Result<Option<i64>> {
        let partition =
            ListOffsetsPartition { partition_index: of.index, current_leader_epoch: -1, timestamp: LATEST };
        let topic = ListOffsetsTopic { name: WireStr::from(of.topic.clone()), partitions: vec![partition] };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let answer = self.call(LIST_OFFSETS_VERSION, &request)?;
        let found = answer.topics.iter().flat_map(|topic| &topic.partitions).next();
        let found = found.context("no partition in the answer to ListOffsets")?;
        Ok((found.error_code == ErrorCode::None.code()).then_some(found.offset))
    }
}

/// An error but for NONE.
pub fn expect_success(what: &str, code: i16) -> Result<()> {
    match ErrorCode::from_code(code) {
        Some(ErrorCode::None) => Ok(()),
        Some(error) => bail!("{what}: {error:?}"),
        None => bail!("{what}: error {code}"),
    }
}
