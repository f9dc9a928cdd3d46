//! Configs of the broker, altered and described as clients see them.

use klamm_protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use klamm_protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};

use super::*;

const BROKER: i8 = 4;
const DYNAMIC_BROKER_CONFIG: i8 = 2;
/// The key that librdkafka's tests alter on a broker.
const KEY: &str = "sasl.kerberos.min.time.before.relogin";

#[test]
fn a_key_of_one_broker_is_altered_and_described_without_documentation() {
    let ((), _) = sim::run(1, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        let config = AlterableConfig { name: KEY.into(), value: Some("58000".into()), ..Default::default() };
        let resource =
            AlterConfigsResource { resource_type: BROKER, resource_name: "1".into(), configs: vec![config] };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
        let altered = client.call(&request, 1).await;
        assert_eq!(altered.responses[0].error_code, 0, "{:?}", altered.responses[0].error_message);
        let resource = DescribeConfigsResource {
            resource_type: BROKER,
            resource_name: "1".into(),
            configuration_keys: Some(vec![KEY.into()]),
        };
        let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
        let described = client.call(&request, 4).await;
        let config = &described.results[0].configs[0];
        assert_eq!((config.value.as_deref(), config.config_source), (Some("58000"), DYNAMIC_BROKER_CONFIG));
        assert_eq!(config.documentation, None);
    });
}
