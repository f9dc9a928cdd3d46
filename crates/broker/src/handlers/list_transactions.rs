//! ListTransactions, versions 0 to 2 (KIP-664): the transactional ids that this broker coordinates.
//!
//! - 1: by how long a transaction has run (KIP-994). 2: by an expression for the id (KIP-1152).
//!
//! COORDINATOR_LOAD_IN_PROGRESS while one of them is being loaded; INVALID_REGULAR_EXPRESSION.

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_coordinator::transaction::{
    ListedTransaction, TransactionCommand, TransactionFilter, TransactionReply, TransactionState,
};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::ProducerId;
use klamm_protocol::messages::list_transactions::{
    ListTransactionsRequest, ListTransactionsResponse, TransactionState as ListedState,
};
use klamm_protocol::wire::WireStr;

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::coordinator::Unavailable;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: ListTransactionsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    Handled::Later(Box::pin(async move {
        let state_of =
            |name: &WireStr| TransactionState::ALL.into_iter().find(|state| state.name() == &**name);
        let (known, unknown): (Vec<_>, Vec<_>) =
            request.state_filters.iter().cloned().partition(|name| is_kafkas(name));
        let mut response = ListTransactionsResponse { unknown_state_filters: unknown, ..Default::default() };
        match filter(&request, known.iter().filter_map(state_of).collect()) {
            Ok(filter) => match list(&broker, &filter).await {
                Ok(listed) => response.transaction_states = listed.into_iter().map(described).collect(),
                Err(error) => response.error_code = error.code(),
            },
            Err(error) => response.error_code = error.code(),
        }
        meta.reply(&response)
    }))
}

/// Two of Kafka's states are never seen, and no mistake of the client's.
fn is_kafkas(name: &str) -> bool {
    matches!(name, "Dead" | "PrepareEpochFence")
        || TransactionState::ALL.into_iter().any(|state| state.name() == name)
}

fn filter(
    request: &ListTransactionsRequest,
    states: BTreeSet<TransactionState>,
) -> Result<TransactionFilter, ErrorCode> {
    let pattern = request.transactional_id_pattern.as_deref().filter(|pattern| !pattern.is_empty());
    let pattern = pattern.map(TransactionFilter::whole).transpose();
    Ok(TransactionFilter {
        producer_ids: request.producer_id_filters.iter().copied().map(ProducerId).collect(),
        states: (!request.state_filters.is_empty()).then_some(states),
        longer_than_ms: (request.duration_filter >= 0).then_some(request.duration_filter),
        pattern: pattern.map_err(|_| ErrorCode::InvalidRegularExpression)?,
    })
}

async fn list<H: Host>(
    broker: &Broker<H>,
    filter: &TransactionFilter,
) -> Result<Vec<ListedTransaction>, ErrorCode> {
    let mut all = Vec::new();
    for shard in broker.coordinators.transactions.all() {
        match shard.ask(TransactionCommand::List(filter.clone())).await {
            Ok(TransactionReply::Listed(listed)) => all.extend(listed),
            Ok(other) => unreachable!("{other:?} answers a list"),
            Err(Unavailable::Lost | Unavailable::TooLarge) => {}
            Err(loading) => return Err(loading.error_code()),
        }
    }
    Ok(all)
}

fn described(listed: ListedTransaction) -> ListedState {
    ListedState {
        transactional_id: WireStr::from(listed.transactional_id.to_string()),
        producer_id: listed.producer_id.0,
        transaction_state: WireStr::from_static(listed.state.name()),
        ..Default::default()
    }
}
