//! Groups and their offsets: what one partition of `__consumer_offsets` says.
//!
//! A group is classic (the members' leader assigns; also Connect, schema registries and consumers
//! that only commit), a consumer group (KIP-848: the coordinator assigns), or of a kind that only its
//! name is known of here. Offsets are kept beside the groups, because a group may be gone or
//! have another kind while its offsets stay.
//!
//! What it deliberately does not do: choose the partition of a group (the host hashes its id), look
//! up topic ids (the handlers do), authorize.
//!
//! Invariants: see [`crate::contract`]; and a group's members never outlive it.

pub mod assignor;
pub mod classic;
pub mod consumer;
pub mod offsets;
pub mod record;
pub mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::mem::discriminant;
use std::sync::Arc;

use klamm_cluster::image::MetadataDelta;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::ProducerId;
use klamm_protocol::messages::consumer_group_describe;
use klamm_protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};
use klamm_protocol::messages::delete_groups::DeletableGroupResult;
use klamm_protocol::messages::describe_groups;
use klamm_protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use klamm_protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use klamm_protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse};
use klamm_protocol::messages::list_groups::ListedGroup;
use klamm_protocol::messages::offset_commit::{OffsetCommitRequest, OffsetCommitResponse};
use klamm_protocol::messages::offset_delete::{OffsetDeleteRequest, OffsetDeleteResponse};
use klamm_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchResponseGroup};
use klamm_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use klamm_protocol::messages::txn_offset_commit::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use klamm_protocol::wire::WireStr;

use crate::contract::{At, Coordinator, Ctx, Outcome, ReplyKey};
use classic::{ClassicGroup, ClassicTimer};
use consumer::{ConsumerGroup, ConsumerTimer, Topics};
use offsets::Offsets;
use record::GroupRecord;
use settings::GroupSettings;

/// What a group coordinator sees of the world.
pub type GroupCtx<'a> = Ctx<'a, GroupSettings>;
/// What follows from a command to a group coordinator.
pub type GroupOutcome = Outcome<GroupCoordinator>;

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its client id; empty without one.
    pub id: WireStr,
    /// Its address as Java writes it: `/127.0.0.1`.
    pub host: WireStr,
}

/// What a group coordinator is asked. All but the lists concern one group; the topics of offsets have
/// their names, and ids where they are known.
#[derive(Clone, Debug)]
pub enum GroupCommand {
    /// JoinGroup.
    JoinGroup {
        /// As it came.
        request: JoinGroupRequest,
        /// Of the request.
        version: i16,
        /// Who sent it.
        client: Client,
    },
    /// SyncGroup.
    SyncGroup(SyncGroupRequest),
    /// Heartbeat.
    Heartbeat(HeartbeatRequest),
    /// LeaveGroup; before version 3 its one member is in the list, too.
    LeaveGroup(LeaveGroupRequest),
    /// ConsumerGroupHeartbeat.
    ConsumerGroupHeartbeat {
        /// As it came.
        request: ConsumerGroupHeartbeatRequest,
        /// Of the request.
        version: i16,
        /// Who sent it.
        client: Client,
    },
    /// OffsetCommit.
    OffsetCommit {
        /// With names of topics.
        request: OffsetCommitRequest,
        /// Of the request.
        version: i16,
    },
    /// TxnOffsetCommit.
    TxnOffsetCommit {
        /// As it came.
        request: TxnOffsetCommitRequest,
        /// Of the request.
        version: i16,
    },
    /// One group of OffsetFetch.
    OffsetFetch {
        /// With names of topics; without topics all offsets of the group.
        group: OffsetFetchRequestGroup,
        /// Offsets that an open transaction may replace are refused.
        require_stable: bool,
    },
    /// OffsetDelete.
    OffsetDelete(OffsetDeleteRequest),
    /// One group of DescribeGroups.
    DescribeGroup {
        /// Its id.
        group_id: WireStr,
        /// Of the request.
        version: i16,
    },
    /// One group of ConsumerGroupDescribe.
    ConsumerGroupDescribe(WireStr),
    /// ListGroups.
    ListGroups {
        /// Only those in one of these states; all if empty. In lower case.
        states: Vec<String>,
        /// Only those of these types; all if empty. In lower case.
        types: Vec<String>,
    },
    /// One group of DeleteGroups.
    DeleteGroup(WireStr),
}

/// What a group coordinator answers.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupReply {
    /// To [`GroupCommand::JoinGroup`].
    JoinGroup(JoinGroupResponse),
    /// To [`GroupCommand::SyncGroup`].
    SyncGroup(SyncGroupResponse),
    /// To [`GroupCommand::Heartbeat`].
    Heartbeat(HeartbeatResponse),
    /// To [`GroupCommand::LeaveGroup`].
    LeaveGroup(LeaveGroupResponse),
    /// To [`GroupCommand::ConsumerGroupHeartbeat`].
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse),
    /// To [`GroupCommand::OffsetCommit`].
    OffsetCommit(OffsetCommitResponse),
    /// To [`GroupCommand::TxnOffsetCommit`].
    TxnOffsetCommit(TxnOffsetCommitResponse),
    /// To [`GroupCommand::OffsetFetch`].
    OffsetFetch(OffsetFetchResponseGroup),
    /// To [`GroupCommand::OffsetDelete`].
    OffsetDelete(OffsetDeleteResponse),
    /// To [`GroupCommand::DescribeGroup`].
    DescribeGroup(describe_groups::DescribedGroup),
    /// To [`GroupCommand::ConsumerGroupDescribe`].
    ConsumerGroupDescribe(consumer_group_describe::DescribedGroup),
    /// To [`GroupCommand::ListGroups`].
    ListGroups(Vec<ListedGroup>),
    /// To [`GroupCommand::DeleteGroup`].
    DeleteGroup(DeletableGroupResult),
}

/// A timer of a group coordinator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupTimer {
    /// Offsets, and groups without any, are looked at.
    OffsetExpiration,
    /// Of a classic group.
    Classic(Arc<str>, ClassicTimer),
    /// Of a consumer group.
    Consumer(Arc<str>, ConsumerTimer),
}

/// A group by its kind.
#[derive(Debug)]
pub enum Group {
    /// Its members' leader assigns.
    Classic(Box<ClassicGroup>),
    /// The coordinator assigns (KIP-848).
    Consumer(Box<ConsumerGroup>),
    /// A share group (KIP-932): only its id is known here.
    Share,
    /// A streams group (KIP-1071): only its id is known here.
    Streams,
}

/// The groups of one partition.
#[derive(Debug, Default)]
pub struct GroupCoordinator {
    groups: BTreeMap<Arc<str>, Group>,
    offsets: Offsets,
    topics: Topics,
}

impl Coordinator for GroupCoordinator {
    type Command = GroupCommand;
    type Reply = GroupReply;
    type Record = GroupRecord;
    type Timer = GroupTimer;
    type Effect = Infallible;
    type Settings = GroupSettings;

    const OUTLIVES_REFUSALS: bool = true;

    fn decide(&mut self, cx: &GroupCtx<'_>, key: ReplyKey, command: GroupCommand, out: &mut GroupOutcome) {
        match command {
            GroupCommand::JoinGroup { request, version, client } => {
                self.join_group(cx, key, &request, version, &client, out);
            }
            GroupCommand::SyncGroup(request) => self.sync_group(cx, key, &request, out),
            GroupCommand::Heartbeat(request) => {
                let reply = self.heartbeat(cx, &request, out);
                out.reply(key, GroupReply::Heartbeat(reply));
            }
            GroupCommand::LeaveGroup(request) => {
                let reply = self.leave_group(cx, &request, out);
                out.reply(key, GroupReply::LeaveGroup(reply));
            }
            GroupCommand::ConsumerGroupHeartbeat { request, version, client } => {
                let reply = self.consumer_group_heartbeat(cx, &request, version, &client, out);
                out.reply(key, GroupReply::ConsumerGroupHeartbeat(reply));
            }
            GroupCommand::OffsetCommit { request, version } => {
                let reply = self.commit_offsets(cx, &request, version, out);
                out.reply(key, GroupReply::OffsetCommit(reply));
            }
            GroupCommand::TxnOffsetCommit { request, version } => {
                let reply = self.commit_transactional_offsets(cx, &request, version, out);
                out.reply(key, GroupReply::TxnOffsetCommit(reply));
            }
            GroupCommand::OffsetFetch { group, require_stable } => {
                out.reply(key, GroupReply::OffsetFetch(self.fetch_offsets(&group, require_stable)));
            }
            GroupCommand::OffsetDelete(request) => {
                let reply = self.delete_offsets(&request, out);
                out.reply(key, GroupReply::OffsetDelete(reply));
            }
            GroupCommand::DescribeGroup { group_id, version } => {
                out.reply(key, GroupReply::DescribeGroup(self.describe_classic(&group_id, version)));
            }
            GroupCommand::ConsumerGroupDescribe(group_id) => {
                out.reply(key, GroupReply::ConsumerGroupDescribe(self.describe_consumer(cx, &group_id)));
            }
            GroupCommand::ListGroups { states, types } => {
                out.reply(key, GroupReply::ListGroups(self.list(&states, &types)));
            }
            GroupCommand::DeleteGroup(group_id) => {
                let result = self.delete(&group_id, out);
                out.reply(key, GroupReply::DeleteGroup(result));
            }
        }
    }

    fn expire(&mut self, cx: &GroupCtx<'_>, timer: GroupTimer, out: &mut GroupOutcome) {
        match timer {
            GroupTimer::OffsetExpiration => {
                self.expire_offsets(cx, out);
                self.delete_offsets_of_lost_topics(cx, out);
                self.set_expiration_timer(cx, out);
            }
            GroupTimer::Classic(group, timer) => self.expire_classic(cx, &group, timer, out),
            GroupTimer::Consumer(group, timer) => self.expire_consumer(cx, &group, timer, out),
        }
    }

    fn follow_image(&mut self, cx: &GroupCtx<'_>, delta: &MetadataDelta, out: &mut GroupOutcome) {
        self.delete_offsets_of(delta.topics_deleted.values(), out);
        self.follow_topics(cx, delta, out);
    }

    fn loaded(&mut self, cx: &GroupCtx<'_>, out: &mut GroupOutcome) {
        self.delete_offsets_of_lost_topics(cx, out);
        self.set_expiration_timer(cx, out);
        let ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for id in ids {
            match self.groups.get_mut(&id) {
                Some(Group::Classic(group)) => group.loaded(cx, &id, out),
                Some(Group::Consumer(group)) => group.loaded(cx, &id, out),
                Some(Group::Share | Group::Streams) | None => {}
            }
        }
    }

    fn refused(&mut self, cx: &GroupCtx<'_>, records: &[GroupRecord], out: &mut GroupOutcome) {
        let mut consumer_groups = BTreeMap::<_, BTreeSet<_>>::new();
        for record in records {
            match record {
                // Offsets have nothing beside their records, and what was to be deleted stays.
                GroupRecord::OffsetCommit(..)
                | GroupRecord::GroupMetadata(_, None)
                | GroupRecord::ShareGroupMetadata(..)
                | GroupRecord::StreamsGroupMetadata(..) => {}
                GroupRecord::GroupMetadata(key, Some(_)) => self.refused_classic(cx, &key.group, out),
                of_consumer_group => {
                    if let Some(id) = consumer::group_of(of_consumer_group) {
                        consumer_groups.entry(id).or_default().extend(consumer::member_of(of_consumer_group));
                    }
                }
            }
        }
        for (id, members) in consumer_groups {
            self.refused_consumer(cx, id, members, out);
        }
    }

    fn apply(&mut self, at: At, record: &GroupRecord) {
        match record {
            GroupRecord::OffsetCommit(key, value) => self.apply_offset_commit(at, key, value.as_ref()),
            GroupRecord::GroupMetadata(key, value) => self.apply_classic(&key.group, value.as_ref()),
            GroupRecord::ShareGroupMetadata(key, value) => {
                self.apply_unserved(&key.group_id, value.is_some(), Group::Share);
            }
            GroupRecord::StreamsGroupMetadata(key, value) => {
                self.apply_unserved(&key.group_id, value.is_some(), Group::Streams);
            }
            of_consumer_group => self.apply_consumer(of_consumer_group),
        }
    }

    fn end_transaction(&mut self, producer: ProducerId, is_committed: bool) {
        self.offsets.end_transaction(producer, is_committed);
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_empty(),
            Self::Consumer(group) => group.is_empty(),
            Self::Share | Self::Streams => false,
        }
    }

    fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.is_subscribed_to(topic),
            Self::Consumer(group) => group.is_subscribed_to(topic),
            Self::Share | Self::Streams => false,
        }
    }
}

impl GroupCoordinator {
    fn set_expiration_timer(&self, cx: &GroupCtx<'_>, out: &mut GroupOutcome) {
        let at = cx.mono.plus_ms(cx.settings.offsets_retention_check_interval_ms);
        out.set_timer(GroupTimer::OffsetExpiration, at);
    }

    fn apply_unserved(&mut self, id: &str, is_there: bool, group: Group) {
        if is_there {
            self.groups.insert(id.into(), group);
        } else if self.groups.get(id).is_some_and(|known| discriminant(known) == discriminant(&group)) {
            // Another kind of group may have taken the id since.
            self.groups.remove(id);
        }
    }

    fn list(&self, states: &[String], types: &[String]) -> Vec<ListedGroup> {
        let is_wanted = |wanted: &[String], has: &str| {
            wanted.is_empty() || wanted.iter().any(|one| one.eq_ignore_ascii_case(has))
        };
        self.groups
            .iter()
            .filter_map(|(id, group)| {
                let (group_type, protocol_type, state) = match group {
                    Group::Classic(group) => ("classic", group.protocol_type(), group.state_name()),
                    Group::Consumer(group) => ("consumer", "consumer", group.state_name()),
                    // Their members are not known.
                    Group::Share | Group::Streams => return None,
                };
                (is_wanted(states, state) && is_wanted(types, group_type)).then(|| ListedGroup {
                    group_id: WireStr::from(id.to_string()),
                    protocol_type: WireStr::from(protocol_type.to_owned()),
                    group_state: WireStr::from(state.to_owned()),
                    group_type: WireStr::from(group_type.to_owned()),
                })
            })
            .collect()
    }

    /// Deletes a group without members, and its offsets.
    fn delete(&mut self, id: &str, out: &mut GroupOutcome) -> DeletableGroupResult {
        let result = match self.groups.get(id) {
            None | Some(Group::Share | Group::Streams) => Err(ErrorCode::GroupIdNotFound),
            Some(Group::Classic(group)) => group.validate_delete(),
            Some(Group::Consumer(group)) => group.validate_delete(),
        };
        if result.is_ok() {
            // A crash in between leaves a group with fewer offsets, to be deleted again.
            out.is_divisible = true;
            self.offsets.write_tombstones(id, out);
            match self.groups.get(id) {
                Some(Group::Classic(group)) => group.write_tombstones(id, out),
                Some(Group::Consumer(group)) => group.write_tombstones(id, out),
                _ => {}
            }
        }
        DeletableGroupResult {
            group_id: WireStr::from(id.to_owned()),
            error_code: result.err().unwrap_or(ErrorCode::None).code(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_tombstone_of_another_kind_takes_no_group() {
        let mut machine = GroupCoordinator::default();
        machine.apply_unserved("g", true, Group::Share);
        machine.apply_unserved("g", false, Group::Streams);
        assert!(machine.groups.contains_key("g"));
        machine.apply_unserved("g", false, Group::Share);
        assert!(machine.groups.is_empty());
    }
}
