//! One file an API: what a request means and how it is answered.
//!
//! A handler decodes, decides and encodes; it owns nothing. Produce and Fetch are the
//! two hot paths; all others may wait for the controller. Only what is in [`SERVED`] is
//! advertised and dispatched.

pub(crate) mod produce;

pub(crate) mod fetch;

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod alter_configs;
mod alter_replica_log_dirs;
mod api_versions;
mod authorized;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod coordinated;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod describe_transactions;
mod distinct;
mod end_txn;
mod find_coordinator;
mod heartbeat;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod list_transactions;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod sync_group;
mod txn_offset_commit;
mod write_txn_markers;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::api_key::ApiKey;
use klamm_protocol::wire::{self, Decoder, Message, Part, Request, RequestHeader, WireStr};

use crate::broker::Broker;
use crate::host::{Host, OutPart};
use crate::net::CloseReason;

/// Every API that is served, and so advertised.
pub(crate) const SERVED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::DeleteRecords,
    ApiKey::InitProducerId,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::AddPartitionsToTxn,
    ApiKey::AddOffsetsToTxn,
    ApiKey::EndTxn,
    ApiKey::WriteTxnMarkers,
    ApiKey::TxnOffsetCommit,
    ApiKey::DescribeConfigs,
    ApiKey::AlterConfigs,
    ApiKey::AlterReplicaLogDirs,
    ApiKey::DescribeLogDirs,
    ApiKey::CreatePartitions,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::DeleteGroups,
    ApiKey::OffsetDelete,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::DescribeTransactions,
    ApiKey::ListTransactions,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::DescribeTopicPartitions,
];

/// What decoding may allocate beside the frame: arrays of structs are larger in memory than on the
/// wire, about eightfold for the worst message that is honest.
const DECODE_BUDGET_BYTES: usize = 1024 * 1024;
const DECODE_BUDGET_PER_FRAME_BYTE: usize = 8;

/// Starts a request that is a barrier: everything but Produce.
pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, context: &ConnectionContext, frame: Frame) -> Handled {
    let listener = &context.listener_name;
    match frame.api {
        ApiKey::Fetch => fetch::handle(broker, frame),
        ApiKey::ListOffsets => list_offsets::handle(broker, frame),
        ApiKey::Metadata => metadata::handle(broker, listener, frame),
        ApiKey::OffsetCommit => offset_commit::handle(broker, frame),
        ApiKey::OffsetFetch => offset_fetch::handle(broker, frame),
        ApiKey::OffsetDelete => offset_delete::handle(broker, frame),
        ApiKey::FindCoordinator => find_coordinator::handle(broker, listener, frame),
        ApiKey::JoinGroup => join_group::handle(broker, context, frame),
        ApiKey::Heartbeat => heartbeat::handle(broker, frame),
        ApiKey::LeaveGroup => leave_group::handle(broker, frame),
        ApiKey::SyncGroup => sync_group::handle(broker, frame),
        ApiKey::DescribeGroups => describe_groups::handle(broker, frame),
        ApiKey::ListGroups => list_groups::handle(broker, frame),
        ApiKey::DeleteGroups => delete_groups::handle(broker, frame),
        ApiKey::ConsumerGroupHeartbeat => consumer_group_heartbeat::handle(broker, context, frame),
        ApiKey::ConsumerGroupDescribe => consumer_group_describe::handle(broker, frame),
        ApiKey::ApiVersions => api_versions::handle(broker, frame),
        ApiKey::CreateTopics => create_topics::handle(broker, frame),
        ApiKey::DeleteTopics => delete_topics::handle(broker, frame),
        ApiKey::DeleteRecords => delete_records::handle(broker, frame),
        ApiKey::InitProducerId => init_producer_id::handle(broker, frame),
        ApiKey::AddPartitionsToTxn => add_partitions_to_txn::handle(broker, frame),
        ApiKey::AddOffsetsToTxn => add_offsets_to_txn::handle(broker, frame),
        ApiKey::EndTxn => end_txn::handle(broker, frame),
        ApiKey::DescribeProducers => describe_producers::handle(broker, frame),
        ApiKey::TxnOffsetCommit => txn_offset_commit::handle(broker, frame),
        ApiKey::WriteTxnMarkers => write_txn_markers::handle(broker, frame),
        ApiKey::DescribeTransactions => describe_transactions::handle(broker, frame),
        ApiKey::ListTransactions => list_transactions::handle(broker, frame),
        ApiKey::OffsetForLeaderEpoch => offset_for_leader_epoch::handle(broker, frame),
        ApiKey::DescribeConfigs => describe_configs::handle(broker, frame),
        ApiKey::AlterConfigs => alter_configs::handle_full(broker, frame),
        ApiKey::AlterReplicaLogDirs => alter_replica_log_dirs::handle(broker, frame),
        ApiKey::DescribeLogDirs => describe_log_dirs::handle(broker, frame),
        ApiKey::CreatePartitions => create_partitions::handle(broker, frame),
        ApiKey::IncrementalAlterConfigs => alter_configs::handle_incremental(broker, frame),
        ApiKey::DescribeCluster => describe_cluster::handle(broker, listener, frame),
        ApiKey::DescribeTopicPartitions => describe_topic_partitions::handle(broker, frame),
        other => Handled::Close(CloseReason::NotServed(other.name().to_owned())),
    }
}

/// What a connection tells its handlers.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    pub(crate) listener_name: Arc<str>,
    /// The peer's address as Java writes it: `/127.0.0.1`.
    pub(crate) client_host: WireStr,
}

/// A request whose header is decoded.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) api: ApiKey,
    pub(crate) header: RequestHeader,
    body: Decoder,
}

impl Frame {
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, CloseReason> {
        let len_bytes = bytes.len();
        let budget_bytes = DECODE_BUDGET_BYTES + DECODE_BUDGET_PER_FRAME_BYTE * len_bytes;
        let mut body = Decoder::new(bytes, budget_bytes);
        let header = RequestHeader::decode(&mut body)
            .map_err(|error| CloseReason::Malformed(format!("request header: {error}")))?;
        let api = ApiKey::from_code(header.api_key)
            .filter(|api| SERVED.contains(api))
            .ok_or_else(|| CloseReason::NotServed(format!("api key {}", header.api_key)))?;
        let is_served = api.versions().contains(&header.api_version) || api == ApiKey::ApiVersions;
        if !is_served {
            return Err(CloseReason::NotServed(format!("{} version {}", api.name(), header.api_version)));
        }
        Ok(Self { api, header, body })
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta { api: self.api, version: self.header.api_version, correlation_id: self.header.correlation_id }
    }

    /// The whole body.
    pub(crate) fn decode<R: Request>(&mut self) -> Result<R, CloseReason> {
        wire::decode_request_body(&mut self.body, self.header.api_version).map_err(|error| {
            CloseReason::Malformed(format!(
                "{} version {}: {error}",
                self.api.name(),
                self.header.api_version
            ))
        })
    }
}

/// What an answer needs of its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
}

/// An encoded response, ready to send.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) parts: Vec<OutPart>,
}

/// What becomes of a request that is a barrier.
pub(crate) enum Handled {
    Reply(Response),
    Later(Pin<Box<dyn Future<Output = Handled> + Send>>),
    Close(CloseReason),
}

impl Meta {
    /// Encodes a body without file regions.
    pub(crate) fn reply<M: Message>(self, body: &M) -> Handled {
        match self.encode(body) {
            Ok(response) => Handled::Reply(response),
            Err(reason) => Handled::Close(reason),
        }
    }

    pub(crate) fn encode<M: Message>(self, body: &M) -> Result<Response, CloseReason> {
        self.encode_with(body, |_| None)
    }

    /// Encodes a body; `region` gives the file region that stands for a tag.
    pub(crate) fn encode_with<M: Message>(
        self,
        body: &M,
        mut region: impl FnMut(u32) -> Option<OutPart>,
    ) -> Result<Response, CloseReason> {
        let encoded = wire::encode_response(body, self.api, self.version, self.correlation_id);
        let parts = encoded.map_err(|error| {
            // Only a handler's mistake leads here; the client must not wait for ever.
            tracing::error!(api = self.api.name(), version = self.version, %error, "cannot encode a response");
            CloseReason::Malformed(format!("response: {error}"))
        })?;
        let to_out = |part| match part {
            Part::Bytes(bytes) => OutPart::Bytes(bytes),
            Part::External { tag, .. } => region(tag).expect("a handler tags only regions that it has"),
        };
        Ok(Response { parts: parts.into_iter().map(to_out).collect() })
    }
}
