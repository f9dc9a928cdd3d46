//! A log that takes no records: what a host does then.

use klamm_coordinator::contract::{Coordinator, Ctx, Outcome};
use klamm_coordinator::group::settings::GroupSettings;
use klamm_coordinator::group::{GroupCoordinator, GroupReply};
use klamm_coordinator::record::Codec;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::records::BatchBuilder;

/// The error for an outcome that is not written.
pub fn why(out: &Outcome<GroupCoordinator>, left: &mut u32, bytes_max: usize) -> Option<ErrorCode> {
    if out.records.is_empty() {
        return None;
    }
    if *left > 0 {
        *left -= 1;
        return Some(ErrorCode::NotCoordinator);
    }
    let mut batch = BatchBuilder::new();
    for record in &out.records {
        let (key, value) = record.encode().expect("a record that its version can say");
        batch.push(0, Some(&key), value.as_deref(), &[]);
    }
    (!out.is_divisible && batch.build().len() > bytes_max).then_some(ErrorCode::UnknownServerError)
}

/// Takes the records back, and lets the machine set right the rest.
pub fn refuse(
    machine: &mut GroupCoordinator,
    cx: &Ctx<'_, GroupSettings>,
    out: &mut Outcome<GroupCoordinator>,
    error: ErrorCode,
) {
    let records = std::mem::take(&mut out.records);
    out.transaction = None;
    out.replies.iter_mut().for_each(|(_, reply)| *reply = failed(reply, error.code()));
    machine.refused(cx, &records, out);
    assert!(out.records.is_empty(), "a machine that was refused writes nothing");
}

/// As the broker's handlers tell it.
fn failed(reply: &GroupReply, error_code: i16) -> GroupReply {
    match reply.clone() {
        GroupReply::JoinGroup(_) => GroupReply::JoinGroup(Of { error_code }.into()),
        GroupReply::SyncGroup(_) => GroupReply::SyncGroup(Of { error_code }.into()),
        GroupReply::Heartbeat(_) => GroupReply::Heartbeat(Of { error_code }.into()),
        GroupReply::LeaveGroup(_) => GroupReply::LeaveGroup(Of { error_code }.into()),
        GroupReply::ConsumerGroupHeartbeat(_) => GroupReply::ConsumerGroupHeartbeat(Of { error_code }.into()),
        GroupReply::OffsetCommit(mut response) => {
            let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|partition| partition.error_code = error_code);
            GroupReply::OffsetCommit(response)
        }
        GroupReply::DeleteGroup(result) => {
            GroupReply::DeleteGroup(klamm_protocol::messages::delete_groups::DeletableGroupResult {
                error_code,
                ..result
            })
        }
        other => panic!("{other:?} writes nothing"),
    }
}

/// Responses that say nothing but an error.
struct Of {
    error_code: i16,
}

macro_rules! only_an_error {
    ($($module:ident::$response:ident),*) => {$(
        impl From<Of> for klamm_protocol::messages::$module::$response {
            fn from(Of { error_code }: Of) -> Self {
                Self { error_code, ..Default::default() }
            }
        }
    )*};
}

only_an_error!(
    join_group::JoinGroupResponse,
    sync_group::SyncGroupResponse,
    heartbeat::HeartbeatResponse,
    leave_group::LeaveGroupResponse,
    consumer_group_heartbeat::ConsumerGroupHeartbeatResponse
);
