//! What a consumer group takes over from a classic one, and what a classic one does that was a consumer group just now.
//!
//! What it deliberately does not do: decide whether a group may change, and write it
//! ([`crate::group::consumer`]).

use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;

use super::{ClassicGroup, Turn};
use crate::group::{Group, GroupCoordinator, GroupCtx, GroupOutcome};

/// What a consumer group takes over (KIP-848).
pub(in crate::group) struct Takeover {
    /// It becomes the epoch.
    pub(in crate::group) generation: i32,
    /// The protocol that was chosen; none before the first rebalance is done.
    pub(in crate::group) protocol: Option<Arc<str>>,
    /// Those that have joined.
    pub(in crate::group) members: Vec<TakenOver>,
}

/// A member of a [`Takeover`].
pub(in crate::group) struct TakenOver {
    pub(in crate::group) member_id: Arc<str>,
    pub(in crate::group) instance_id: Option<Arc<str>>,
    pub(in crate::group) client_id: Arc<str>,
    pub(in crate::group) client_host: Arc<str>,
    pub(in crate::group) session_timeout_ms: i32,
    pub(in crate::group) rebalance_timeout_ms: i32,
    /// Names and subscriptions, the preferred first.
    pub(in crate::group) protocols: Vec<(Arc<str>, Box<[u8]>)>,
    /// Empty without one.
    pub(in crate::group) assignment: Box<[u8]>,
}

impl ClassicGroup {
    /// What a consumer group takes over when a member of the new protocol joins.
    pub(in crate::group) fn takeover(&self) -> Takeover {
        let members = self.members.iter().map(|(id, member)| {
            let (client_id, client_host) = member.client();
            let protocols = member.protocols.iter();
            TakenOver {
                member_id: id.clone(),
                instance_id: member.instance_id.clone(),
                client_id: Arc::from(&*client_id),
                client_host: Arc::from(&*client_host),
                session_timeout_ms: member.session_timeout_ms,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                protocols: protocols.map(|one| (one.name.clone(), one.metadata.clone())).collect(),
                assignment: member.assignment.clone(),
            }
        });
        Takeover { generation: self.generation, protocol: self.protocol.clone(), members: members.collect() }
    }

    /// Tells everybody who waits to join again: it is a consumer group then.
    pub(in crate::group) fn refuse_waiting(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &Arc<str>,
        out: &mut GroupOutcome,
    ) {
        let mut turn = Turn { cx, id, out };
        for (member_id, member) in &mut self.members {
            if let Some(key) = member.awaiting_join.take() {
                turn.refuse_join(key, member_id, ErrorCode::RebalanceInProgress);
            }
            if let Some(key) = member.awaiting_sync.take() {
                turn.refuse_sync(key, ErrorCode::RebalanceInProgress);
            }
        }
        self.awaiting_join_count = 0;
    }
}

impl GroupCoordinator {
    /// A consumer group has become this classic group just now: its members get their sessions, and join again if
    /// what they are assigned is not the last word.
    pub(in crate::group) fn start_downgraded(
        &mut self,
        cx: &GroupCtx<'_>,
        id: &Arc<str>,
        must_rebalance: bool,
        out: &mut GroupOutcome,
    ) {
        let Some(Group::Classic(group)) = self.groups.get_mut(id) else { return };
        group.loaded(cx, id, out);
        if must_rebalance {
            group.prepare_rebalance(&mut Turn { cx, id, out });
        }
    }
}
