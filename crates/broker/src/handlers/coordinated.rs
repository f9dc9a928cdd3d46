//! What the requests of groups share: who asks, and how a group's coordinator is asked.

use klamm_cluster::features::GROUP_VERSION;
use klamm_coordinator::group::{Client, GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;

use super::{ConnectionContext, Frame};
use crate::broker::Broker;
use crate::host::Host;

/// Who sent `frame`.
pub(super) fn client(context: &ConnectionContext, frame: &Frame) -> Client {
    Client {
        id: frame.header.client_id.as_deref().unwrap_or_default().to_owned(),
        host: format!("/{}", context.peer.ip()),
    }
}

/// The answer of the coordinator of `group_id`, or the error that says why there is none.
pub(super) async fn ask<H: Host>(
    broker: &Broker<H>,
    group_id: &str,
    command: GroupCommand,
) -> Result<GroupReply, ErrorCode> {
    let shard = broker.coordinators.groups.of_key(group_id).ok_or(ErrorCode::NotCoordinator)?;
    shard.ask(command).await.map_err(|unavailable| unavailable.error_code())
}

/// Whether consumer groups (KIP-848) are switched on, here and in the cluster.
pub(super) fn serves_consumer_groups<H: Host>(broker: &Broker<H>) -> bool {
    broker.coordinators.groups.settings().serves_consumer_groups
        && broker.image.load().feature_level(GROUP_VERSION) >= 1
}
