//! DeleteTopics, versions 1 to 6 (6: by topic id, KIP-516).
//!
//! | error | when |
//! |---|---|
//! | TOPIC_DELETION_DISABLED | `delete.topic.enable=false`; INVALID_REQUEST before version 3 |

use std::sync::Arc;

use klamm_cluster::controller::{ControllerCommand, ControllerReply, DeletedTopic, TopicRef};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::TopicId;
use klamm_protocol::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: DeleteTopicsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let by_state = request.topics.iter().map(to_ref);
    let by_name = request.topic_names.iter().map(|name| Ok(TopicRef::Name(name.to_string())));
    let asked: Vec<Result<TopicRef, DeletableTopicResult>> = by_state.chain(by_name).collect();
    if !broker.config.delete_topic_enable {
        let error =
            if meta.version < 3 { ErrorCode::InvalidRequest } else { ErrorCode::TopicDeletionDisabled };
        let responses =
            asked.into_iter().map(|topic| topic.map_or_else(|bad| bad, |topic| failed(&topic, error)));
        return meta.reply(&DeleteTopicsResponse { responses: responses.collect(), ..Default::default() });
    }
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let mut responses = Vec::with_capacity(asked.len());
        let mut topics = Vec::with_capacity(asked.len());
        for topic in asked {
            match topic {
                Ok(topic) => topics.push(topic),
                Err(bad) => responses.push(bad),
            }
        }
        match broker.controller.ask(ControllerCommand::DeleteTopics(topics.clone())).await {
            Ok(ControllerReply::DeleteTopics(deleted)) => {
                responses.extend(deleted.into_iter().map(to_response))
            }
            Ok(_) | Err(_) => {
                responses.extend(topics.iter().map(|topic| failed(topic, ErrorCode::KafkaStorageError)));
            }
        }
        meta.reply(&DeleteTopicsResponse { responses, ..Default::default() })
    }))
}

/// A topic is named by name or by id; both or neither is an error of its own.
fn to_ref(topic: &DeleteTopicState) -> Result<TopicRef, DeletableTopicResult> {
    let refused = |message: &'static str| DeletableTopicResult {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        error_code: ErrorCode::InvalidRequest.code(),
        error_message: Some(message.into()),
        ..Default::default()
    };
    match (&topic.name, TopicId(topic.topic_id)) {
        (Some(name), id) if id == TopicId::default() => Ok(TopicRef::Name(name.to_string())),
        (None, id) if id != TopicId::default() => Ok(TopicRef::Id(id)),
        (Some(_), _) => Err(refused("You may not specify both topic name and topic id.")),
        (None, _) => Err(refused("Neither topic name nor id were specified.")),
    }
}

fn to_response(deleted: DeletedTopic) -> DeletableTopicResult {
    match deleted.result {
        Ok((id, name)) => {
            DeletableTopicResult { name: Some(name.into()), topic_id: id.0, ..Default::default() }
        }
        Err(error) => DeletableTopicResult {
            error_message: error.message.map(Into::into),
            ..failed(&deleted.topic, error.code)
        },
    }
}

fn failed(topic: &TopicRef, error: ErrorCode) -> DeletableTopicResult {
    let mut result = DeletableTopicResult { error_code: error.code(), ..Default::default() };
    match topic {
        TopicRef::Name(name) => result.name = Some(name.clone().into()),
        TopicRef::Id(id) => {
            result.name = None;
            result.topic_id = id.0;
        }
    }
    result
}
