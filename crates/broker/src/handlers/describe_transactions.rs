//! DescribeTransactions, version 0 (KIP-664): transactional ids and their transactions.
//!
//! An id that is named twice is described once, unlike in Kafka: a small request would else have any amount
//! of answer.
//!
//! | error | when |
//! |---|---|
//! | INVALID_REQUEST | an empty transactional id |
//! | TRANSACTIONAL_ID_NOT_FOUND | nobody has used it, or it has expired |
//! | COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR | there is no answer now |

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_coordinator::transaction::{Transaction, TransactionCommand, TransactionReply};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_transactions::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, TopicData, TransactionState,
};
use klamm_protocol::wire::WireStr;

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;
use crate::transactions::ask;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: DescribeTransactionsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let (meta, broker) = (frame.meta(), broker.clone());
    Handled::Later(Box::pin(async move {
        let mut transactional_ids = request.transactional_ids;
        let mut named = BTreeSet::new();
        transactional_ids.retain(|id| named.insert(id.clone()));
        drop(named);
        let mut transaction_states = Vec::with_capacity(transactional_ids.len());
        for transactional_id in transactional_ids {
            let state = match describe(&broker, &transactional_id).await {
                Ok(transaction) => described(&transaction),
                Err(error) => TransactionState { error_code: error.code(), ..Default::default() },
            };
            transaction_states.push(TransactionState { transactional_id, ..state });
        }
        meta.reply(&DescribeTransactionsResponse { transaction_states, ..Default::default() })
    }))
}

async fn describe<H: Host>(broker: &Broker<H>, transactional_id: &str) -> Result<Transaction, ErrorCode> {
    if transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    match ask(broker, transactional_id, TransactionCommand::Describe(transactional_id.into())).await? {
        TransactionReply::Described(found) => found.ok_or(ErrorCode::TransactionalIdNotFound),
        other => unreachable!("{other:?} answers a description"),
    }
}

fn described(transaction: &Transaction) -> TransactionState {
    let topics = transaction.partitions.topics().map(|(topic, partitions)| TopicData {
        topic: WireStr::from(topic.to_string()),
        partitions: partitions.iter().map(|partition| partition.0).collect(),
        ..Default::default()
    });
    TransactionState {
        transaction_state: WireStr::from_static(transaction.state.name()),
        transaction_timeout_ms: transaction.timeout_ms,
        transaction_start_time_ms: transaction.start_ms,
        producer_id: transaction.producer.id.0,
        producer_epoch: transaction.producer.epoch.0,
        topics: topics.collect(),
        ..Default::default()
    }
}
