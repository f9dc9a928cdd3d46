//! DescribeCluster, versions 0 to 2 (KIP-700; 1: endpoint type, KIP-919; 2: fenced brokers, KIP-1073).

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};

use super::{Frame, Handled, authorized};
use crate::broker::Broker;
use crate::host::Host;

/// The endpoint type of a broker's listener; the other one is a controller's.
const ENDPOINT_BROKER: i8 = 1;
const ENDPOINT_CONTROLLER: i8 = 2;

pub(crate) fn handle<H: Host>(broker: &Broker<H>, listener: &str, mut frame: Frame) -> Handled {
    let request: DescribeClusterRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let meta = frame.meta();
    if request.endpoint_type != ENDPOINT_BROKER {
        let (error, message) = match request.endpoint_type {
            ENDPOINT_CONTROLLER => (
                ErrorCode::MismatchedEndpointType,
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
            ),
            _ => (ErrorCode::UnsupportedEndpointType, "Unsupported endpoint type"),
        };
        return meta.reply(&DescribeClusterResponse {
            error_code: error.code(),
            error_message: Some(message.into()),
            ..Default::default()
        });
    }
    let image = broker.image.load();
    let brokers = image
        .brokers()
        .values()
        .filter(|registered| request.include_fenced_brokers || !registered.is_fenced)
        .filter_map(|registered| {
            let endpoint = registered.endpoint(listener)?;
            Some(DescribeClusterBroker {
                broker_id: registered.id.0,
                host: endpoint.host.to_string().into(),
                port: i32::from(endpoint.port),
                rack: registered.rack.as_ref().map(|rack| rack.to_string().into()),
                is_fenced: registered.is_fenced,
                ..Default::default()
            })
        })
        .collect();
    meta.reply(&DescribeClusterResponse {
        cluster_id: broker.cluster_id.to_string().into(),
        controller_id: broker.config.node_id.0,
        brokers,
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => authorized::CLUSTER,
            false => authorized::NOT_ASKED,
        },
        ..Default::default()
    })
}
