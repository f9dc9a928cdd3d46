//! DescribeGroups.
//!
//! A group that is not there, or is of another kind, is `Dead`; from version 6 on that is an error, too (KIP-1043).
//! What members say and get is shown only while the group is stable, their assignments always.

use bytes::Bytes;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_groups::{DescribedGroup, DescribedGroupMember};

use super::member::{Member, text};
use super::{ClassicGroup, State};
use crate::group::{Group, GroupCoordinator};

/// From this version on a group that is not there has an error.
const NOT_FOUND_VERSION_MIN: i16 = 6;

impl GroupCoordinator {
    pub(in crate::group) fn describe_classic(&self, id: &str, version: i16) -> DescribedGroup {
        let reason = match self.groups.get(id) {
            Some(Group::Classic(group)) => return group.describe(id),
            Some(Group::Consumer(_) | Group::Share | Group::Streams) => {
                format!("Group {id} is not a classic group.")
            }
            None => format!("Group {id} not found."),
        };
        let mut described =
            DescribedGroup { group_id: text(id), group_state: text("Dead"), ..Default::default() };
        if version >= NOT_FOUND_VERSION_MIN {
            described.error_code = ErrorCode::GroupIdNotFound.code();
            described.error_message = Some(text(&reason));
        }
        described
    }
}

impl ClassicGroup {
    fn describe(&self, id: &str) -> DescribedGroup {
        let protocol = self.protocol.as_deref().filter(|_| self.state == State::Stable);
        let member = |(id, member): (&std::sync::Arc<str>, &Member)| {
            let (client_id, client_host) = member.client();
            let metadata = protocol.and_then(|protocol| member.metadata(protocol)).unwrap_or_default();
            DescribedGroupMember {
                member_id: text(id),
                group_instance_id: member.instance_id.as_deref().map(text),
                client_id,
                client_host,
                member_metadata: Bytes::copy_from_slice(metadata),
                member_assignment: Bytes::copy_from_slice(&member.assignment),
            }
        };
        DescribedGroup {
            group_id: text(id),
            group_state: text(self.state.name()),
            protocol_type: text(self.protocol_type()),
            protocol_data: text(protocol.unwrap_or_default()),
            members: self.members.iter().map(member).collect(),
            ..Default::default()
        }
    }
}
