//! What the requests of groups share: who asks, and how a group's coordinator is asked.

use std::sync::Arc;

use klamm_cluster::features::GROUP_VERSION;
use klamm_coordinator::group::{Client, GroupCommand, GroupReply};
use klamm_protocol::error_code::ErrorCode;

use super::{ConnectionContext, Frame, Handled};
use crate::broker::Broker;
use crate::coordinator::Asked;
use crate::host::Host;

/// Who sent `frame`.
pub(super) fn client(context: &ConnectionContext, frame: &Frame) -> Client {
    Client { id: frame.header.client_id.clone().unwrap_or_default(), host: context.client_host.clone() }
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

/// As [`ask`], for requests that are mostly answered at once: what a connection brought of them then leaves
/// in one piece.
pub(super) fn ask_now<H: Host>(
    broker: &Arc<Broker<H>>,
    group_id: &str,
    command: GroupCommand,
    respond: impl FnOnce(Result<GroupReply, ErrorCode>) -> Handled + Send + 'static,
) -> Handled {
    let Some(shard) = broker.coordinators.groups.of_key(group_id) else {
        return respond(Err(ErrorCode::NotCoordinator));
    };
    match shard.ask_now(command) {
        Ok(Asked::Answered(reply)) => respond(Ok(reply)),
        Ok(Asked::Waits(pending)) => {
            let broker = broker.clone();
            Handled::Later(Box::pin(async move {
                let answer = pending.answer(&broker.host).await;
                respond(answer.map_err(|unavailable| unavailable.error_code()))
            }))
        }
        Err(unavailable) => respond(Err(unavailable.error_code())),
    }
}

/// Whether consumer groups (KIP-848) are switched on, here and in the cluster.
pub(super) fn serves_consumer_groups<H: Host>(broker: &Broker<H>) -> bool {
    broker.coordinators.groups.settings().serves_consumer_groups
        && broker.image.load().feature_level(GROUP_VERSION) >= 1
}
