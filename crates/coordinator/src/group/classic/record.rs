//! A classic group as a record, and back.
//!
//! Invariant: what is applied says all that is durable. On a live group only members that wait for a rebalance may be
//! more than it says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::messages::consumer_protocol::ConsumerProtocolSubscription;
use klamm_protocol::messages::group_records::{GroupMetadataKey, GroupMetadataValue};
use klamm_protocol::records::{BATCH_HEADER_BYTES, BatchBuilder};
use klamm_protocol::time::WallMs;
use klamm_protocol::wire::{DecodeError, Decoder, Source, Structure};

use super::member::{Member, text};
use super::{ClassicGroup, State};
use crate::group::record::GroupRecord;
use crate::record::Codec;

/// What Kafka wrote before version 2.1 has no time.
const NO_TIMESTAMP: i64 = -1;

pub(super) fn group_record(id: &str, value: GroupMetadataValue) -> GroupRecord {
    GroupRecord::GroupMetadata(GroupMetadataKey { group: text(id) }, Some(value))
}

/// Whether a batch of `bytes_max` has room for it.
pub(super) fn fits_a_batch(record: &GroupRecord, bytes_max: usize) -> bool {
    record.encode().is_ok_and(|(key, value)| {
        BATCH_HEADER_BYTES + BatchBuilder::record_bytes_max(Some(&key), value.as_deref(), &[]) <= bytes_max
    })
}

/// A group without members.
pub(super) fn empty_value(protocol_type: &str, generation: i32, since: WallMs) -> GroupMetadataValue {
    GroupMetadataValue {
        protocol_type: text(protocol_type),
        generation,
        protocol: None,
        leader: None,
        current_state_timestamp: since.0,
        members: Vec::new(),
    }
}

impl ClassicGroup {
    /// The group with all members; whoever is not in `assignments` gets nothing.
    pub(super) fn to_value(&self, assignments: &BTreeMap<&str, &[u8]>) -> GroupMetadataValue {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.iter().map(|(id, member)| {
            member.to_record(id, protocol, assignments.get(&**id).copied().unwrap_or_default())
        });
        GroupMetadataValue {
            protocol_type: text(self.protocol_type()),
            generation: self.generation,
            protocol: self.protocol.as_deref().map(text),
            leader: self.leader.as_deref().map(text),
            current_state_timestamp: self.state_since.unwrap_or(NO_TIMESTAMP),
            members: members.collect(),
        }
    }

    /// Takes in what was written. What is not durable stays: who waits, sessions, protocols that were not chosen.
    pub(super) fn apply(&mut self, value: &GroupMetadataValue) {
        // This is the creation of a group, whose first member joins already.
        if self.state == State::PreparingRebalance && !self.members.is_empty() {
            return;
        }
        let protocol = value.protocol.as_deref().unwrap_or_default();
        let mut before = std::mem::take(&mut self.members);
        self.static_members.clear();
        self.supporters.clear();
        self.awaiting_join_count = 0;
        for record in &value.members {
            let mut member = Member::from_record(record, protocol);
            let id: Arc<str> = match before.remove_entry(&*record.member_id) {
                Some((id, known)) => {
                    member.continue_from(known, protocol);
                    id
                }
                None => record.member_id.as_str().into(),
            };
            self.insert(&id, member, &value.protocol_type);
        }
        let some = |text: &str| (!text.is_empty()).then(|| text.into());
        self.state = if self.members.is_empty() { State::Empty } else { State::Stable };
        self.state_since = Some(value.current_state_timestamp).filter(|since| *since != NO_TIMESTAMP);
        self.generation = value.generation;
        self.protocol_type = some(&value.protocol_type);
        self.protocol = value.protocol.as_deref().and_then(some);
        let leader = value.leader.as_deref().and_then(|leader| self.members.get_key_value(leader));
        self.leader = leader.or_else(|| self.members.first_key_value()).map(|(id, _)| id.clone());
        self.subscribed_topics = self.read_topics();
    }

    /// The topics that the members of a group of consumers read; `None` if that cannot be known.
    pub(super) fn read_topics(&self) -> Option<BTreeSet<Box<str>>> {
        if !self.is_of_consumers() {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = self.protocol.as_deref().and_then(|protocol| member.metadata(protocol))?;
            for topic in subscription(metadata).ok()?.topics {
                if !topics.contains(topic.as_str()) {
                    topics.insert(topic.as_str().into());
                }
            }
        }
        Some(topics)
    }
}

/// Every version of a subscription begins as version 0 does; whoever writes newer ones is understood that far.
fn subscription(metadata: &[u8]) -> Result<ConsumerProtocolSubscription, DecodeError> {
    /// An empty topic's name has two bytes, in memory a few dozen.
    const EXPANSION_MAX: usize = 32;
    let budget_bytes = metadata.len().saturating_mul(EXPANSION_MAX).saturating_add(1024);
    let mut decoder = Decoder::new(Bytes::copy_from_slice(metadata), budget_bytes);
    decoder.i16()?;
    ConsumerProtocolSubscription::read(&mut decoder, 0)
}
