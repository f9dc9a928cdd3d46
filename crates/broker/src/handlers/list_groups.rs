//! ListGroups, versions 0 to 5: the groups that this broker coordinates.
//!
//! - 4: by state (KIP-518). 5: by type (KIP-848).
//!
//! COORDINATOR_LOAD_IN_PROGRESS while one of them is being loaded.

use std::sync::Arc;

use klamm_coordinator::group::{GroupCommand, GroupReply};
use klamm_protocol::messages::list_groups::{ListGroupsRequest, ListGroupsResponse};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::coordinator::Unavailable;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: ListGroupsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    Handled::Later(Box::pin(async move {
        let states: Vec<String> = request.states_filter.iter().map(String::from).collect();
        let types: Vec<String> = request.types_filter.iter().map(String::from).collect();
        let mut groups = Vec::new();
        for shard in broker.coordinators.groups.all() {
            let command = GroupCommand::ListGroups { states: states.clone(), types: types.clone() };
            match shard.ask(command).await {
                Ok(GroupReply::ListGroups(listed)) => groups.extend(listed),
                Ok(other) => unreachable!("{other:?} answers ListGroups"),
                Err(Unavailable::Lost | Unavailable::TooLarge) => {}
                Err(loading) => {
                    let error_code = loading.error_code().code();
                    return meta.reply(&ListGroupsResponse { error_code, ..Default::default() });
                }
            }
        }
        meta.reply(&ListGroupsResponse { groups, ..Default::default() })
    }))
}
