//! CreatePartitions, versions 0 to 3 (KIP-195). The controller decides.

use std::sync::Arc;

use klamm_cluster::controller::{ControllerCommand, ControllerReply, CreatePartitions, MorePartitions};
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::NodeId;
use klamm_protocol::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopicResult,
};

use super::{Frame, Handled};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Arc<Broker<H>>, mut frame: Frame) -> Handled {
    let request: CreatePartitionsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    let topics: Vec<_> = request
        .topics
        .iter()
        .map(|topic| MorePartitions {
            name: topic.name.to_string(),
            total_count: topic.count,
            assignments: topic.assignments.as_ref().map(|assignments| {
                let nodes = |ids: &[i32]| ids.iter().copied().map(NodeId).collect();
                assignments.iter().map(|assignment| nodes(&assignment.broker_ids)).collect()
            }),
        })
        .collect();
    let command = CreatePartitions { topics, validate_only: request.validate_only };
    let broker = broker.clone();
    Handled::Later(Box::pin(async move {
        let names: Vec<_> = command.topics.iter().map(|topic| topic.name.clone()).collect();
        let results = match broker.controller.ask(ControllerCommand::CreatePartitions(command)).await {
            Ok(ControllerReply::CreatePartitions(results)) => results,
            Ok(_) | Err(_) => {
                names.into_iter().map(|name| (name, Err(ErrorCode::KafkaStorageError.into()))).collect()
            }
        };
        let results = results
            .into_iter()
            .map(|(name, result)| {
                let mut response = CreatePartitionsTopicResult { name: name.into(), ..Default::default() };
                if let Err(error) = result {
                    response.error_code = error.code.code();
                    response.error_message = error.message.map(Into::into);
                }
                response
            })
            .collect();
        meta.reply(&CreatePartitionsResponse { results, ..Default::default() })
    }))
}
