//! One member of a classic group: what it said when it joined, what it was assigned, who waits for it.
//!
//! Its session is a deadline that moves with every sign of life, and a timer that is set once: when it
//! fires it looks at the deadline and is set again if that has moved. A heartbeat costs no timer.
//!
//! Invariant: what a request said is copied.

use bytes::Bytes;
use klamm_protocol::messages::group_records::MemberMetadata;
use klamm_protocol::messages::join_group::{JoinGroupRequestProtocol, JoinGroupResponseMember};
use klamm_protocol::time::MonoMs;
use klamm_protocol::wire::WireStr;
use std::sync::Arc;

use super::{ClassicTimer, Turn};
use crate::contract::ReplyKey;
use crate::group::Client;

/// How a member would like to be assigned, and what it tells the assignor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: Arc<str>,
    pub(super) metadata: Box<[u8]>,
}

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) instance_id: Option<Arc<str>>,
    client_id: Box<str>,
    client_host: Box<str>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// The one it likes best comes first.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Box<[u8]>,
    /// Waits for the others to join.
    pub(super) awaiting_join: Option<ReplyKey>,
    /// Waits for the leader's assignment.
    pub(super) awaiting_sync: Option<ReplyKey>,
    /// Has never seen the end of a rebalance. It cannot send heartbeats, for it does not know its id.
    pub(super) is_new: bool,
    deadline: MonoMs,
    timer_at: Option<MonoMs>,
}

impl Member {
    pub(super) fn joining(
        client: &Client,
        instance_id: Option<&str>,
        protocols: Vec<Protocol>,
        (rebalance_timeout_ms, session_timeout_ms): (i32, i32),
    ) -> Self {
        Self {
            instance_id: instance_id.map(Into::into),
            client_id: client.id.as_str().into(),
            client_host: client.host.as_str().into(),
            rebalance_timeout_ms,
            session_timeout_ms,
            protocols,
            assignment: Box::default(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: true,
            deadline: MonoMs(0),
            timer_at: None,
        }
    }

    pub(super) fn from_record(record: &MemberMetadata, protocol: &str) -> Self {
        let rebalance_timeout_ms = match record.rebalance_timeout {
            // What Kafka wrote before version 0.10.1.
            -1 => record.session_timeout,
            timeout_ms => timeout_ms,
        };
        let client = Client { id: record.client_id.clone(), host: record.client_host.clone() };
        let protocols =
            vec![Protocol { name: protocol.into(), metadata: record.subscription.as_ref().into() }];
        Self {
            assignment: record.assignment.as_ref().into(),
            is_new: false,
            ..Self::joining(
                &client,
                record.group_instance_id.as_deref(),
                protocols,
                (rebalance_timeout_ms, record.session_timeout),
            )
        }
    }

    pub(super) fn to_record(&self, id: &str, protocol: &str, assignment: &[u8]) -> MemberMetadata {
        MemberMetadata {
            member_id: text(id),
            group_instance_id: self.instance_id.as_deref().map(text),
            client_id: text(&self.client_id),
            client_host: text(&self.client_host),
            rebalance_timeout: self.rebalance_timeout_ms,
            session_timeout: self.session_timeout_ms,
            subscription: Bytes::copy_from_slice(self.metadata(protocol).unwrap_or_default()),
            assignment: Bytes::copy_from_slice(assignment),
        }
    }

    /// Takes over what is not in the log from the same member before it was written there.
    pub(super) fn continue_from(&mut self, before: Self, protocol: &str) {
        if before.metadata(protocol) == self.metadata(protocol) {
            self.protocols = before.protocols;
        }
        self.awaiting_join = before.awaiting_join;
        self.awaiting_sync = before.awaiting_sync;
        self.is_new = before.is_new;
        self.deadline = before.deadline;
        self.timer_at = before.timer_at;
    }

    pub(super) fn metadata(&self, protocol: &str) -> Option<&[u8]> {
        self.protocols.iter().find(|known| &*known.name == protocol).map(|known| &*known.metadata)
    }

    /// As the leader is told of it.
    pub(super) fn to_join_response(&self, id: &str, protocol: &str) -> JoinGroupResponseMember {
        JoinGroupResponseMember {
            member_id: text(id),
            group_instance_id: self.instance_id.as_deref().map(text),
            metadata: Bytes::copy_from_slice(self.metadata(protocol).unwrap_or_default()),
        }
    }

    pub(super) fn client(&self) -> (WireStr, WireStr) {
        (text(&self.client_id), text(&self.client_host))
    }

    /// It is alive: its session lasts for another timeout.
    pub(super) fn renew(&mut self, turn: &mut Turn<'_, '_>, id: &Arc<str>) {
        self.renew_for(turn, id, unsigned(self.session_timeout_ms));
    }

    pub(super) fn renew_for(&mut self, turn: &mut Turn<'_, '_>, id: &Arc<str>, timeout_ms: u64) {
        self.note_life(turn.cx.mono, timeout_ms);
        if self.timer_at.is_none_or(|at| at > self.deadline) {
            self.set_timer(turn, id);
        }
    }

    /// The same without a timer. One that is set looks at the deadline.
    pub(super) fn note_life(&mut self, now: MonoMs, timeout_ms: u64) {
        self.deadline = now.plus_ms(timeout_ms);
    }

    /// Its timer has fired; true if its session is over. Whoever waits for others is alive, unless it is new: a client
    /// that gave up and asked again left a member behind.
    pub(super) fn is_expired(&mut self, turn: &mut Turn<'_, '_>, id: &Arc<str>) -> bool {
        self.timer_at = None;
        if turn.cx.mono < self.deadline {
            self.set_timer(turn, id);
            return false;
        }
        self.is_new || (self.awaiting_join.is_none() && self.awaiting_sync.is_none())
    }

    /// Under another id it has another timer.
    pub(super) fn forget_timer(&mut self) {
        self.timer_at = None;
    }

    fn set_timer(&mut self, turn: &mut Turn<'_, '_>, id: &Arc<str>) {
        self.timer_at = Some(self.deadline);
        turn.set_timer(ClassicTimer::Session(id.clone()), self.deadline);
    }
}

/// What a request lists; of two with one name the first.
pub(super) fn protocols_of(listed: &[JoinGroupRequestProtocol]) -> Vec<Protocol> {
    let mut protocols: Vec<Protocol> = Vec::with_capacity(listed.len());
    let mut names = std::collections::BTreeSet::new();
    for protocol in listed {
        if names.insert(protocol.name.as_str()) {
            protocols.push(Protocol {
                name: protocol.name.as_str().into(),
                metadata: protocol.metadata.as_ref().into(),
            });
        }
    }
    protocols
}

pub(super) fn text(text: &str) -> WireStr {
    WireStr::from(text.to_owned())
}

/// A timeout that a client gave; none if it is negative.
pub(super) fn unsigned(timeout_ms: i32) -> u64 {
    u64::try_from(timeout_ms).unwrap_or(0)
}
