//! ApiVersions, versions 0 to 4 (KIP-35, KIP-511, KIP-584).
//!
//! The response header is always version 0, and a request version that is not known is
//! answered in version 0 with UNSUPPORTED_VERSION without looking at its body.
//!
//! - 3: flexible; client software name and version; supported and finalized features.
//! - below 4: features whose minimum level is 0 are left out; older Java clients throw on them.

use klamm_cluster::features::SUPPORTED_FEATURES;
use klamm_protocol::api_key::ApiKey;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::messages::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};

use super::{Frame, Handled, Meta, SERVED};
use crate::broker::Broker;
use crate::host::Host;

pub(crate) fn handle<H: Host>(broker: &Broker<H>, mut frame: Frame) -> Handled {
    let mut meta = frame.meta();
    if !ApiKey::ApiVersions.versions().contains(&meta.version) {
        meta.version = 0;
        return meta.reply(&response(broker, meta, ErrorCode::UnsupportedVersion));
    }
    let request: ApiVersionsRequest = match frame.decode() {
        Ok(request) => request,
        Err(reason) => return Handled::Close(reason),
    };
    let is_valid = meta.version < 3
        || is_software_name(&request.client_software_name)
            && is_software_name(&request.client_software_version);
    meta.reply(&response(broker, meta, if is_valid { ErrorCode::None } else { ErrorCode::InvalidRequest }))
}

fn response<H: Host>(broker: &Broker<H>, meta: Meta, error: ErrorCode) -> ApiVersionsResponse {
    if error == ErrorCode::InvalidRequest {
        return ApiVersionsResponse { error_code: error.code(), ..Default::default() };
    }
    let api_keys = SERVED
        .iter()
        .map(|api| {
            let versions = api.advertised_versions();
            ApiVersion {
                api_key: api.code(),
                min_version: *versions.start(),
                max_version: *versions.end(),
                ..Default::default()
            }
        })
        .collect();
    let image = broker.image.load();
    let supported_features = SUPPORTED_FEATURES
        .iter()
        .filter(|feature| meta.version >= 4 || feature.level_min > 0)
        .map(|feature| SupportedFeatureKey {
            name: feature.name.into(),
            min_version: feature.level_min,
            max_version: feature.level_max,
            ..Default::default()
        })
        .collect();
    let finalized_features = image
        .features()
        .iter()
        .filter(|(_, level)| **level > 0)
        .map(|(name, level)| FinalizedFeatureKey {
            name: name.to_string().into(),
            max_version_level: *level,
            min_version_level: *level,
            ..Default::default()
        })
        .collect();
    ApiVersionsResponse {
        error_code: error.code(),
        api_keys,
        supported_features,
        finalized_features_epoch: image.next_offset().0 - 1,
        finalized_features,
        ..Default::default()
    }
}

/// The pattern that Kafka demands (KIP-511): letters and digits, with dots and dashes between them.
fn is_software_name(text: &str) -> bool {
    let is_inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|c| is_inner(*c))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kafkas_pattern() {
        for name in ["a", "librdkafka", "apache-kafka-java", "4.3.1", "v1.2-3"] {
            assert!(is_software_name(name), "{name}");
        }
        for name in ["", "-a", "a-", ".", "a b", "ä", "a_b"] {
            assert!(!is_software_name(name), "{name}");
        }
    }
}
