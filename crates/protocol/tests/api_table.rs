//! The table of APIs, against what Kafka 4.3.1 says of itself.

use klamm_protocol::api_key::ApiKey;

#[test]
fn keys_are_kafkas() {
    // 4 to 7 left with ZooKeeper.
    let keys: Vec<i16> = (0..=3).chain(8..=92).collect();
    assert_eq!(ApiKey::ALL.iter().map(|api| api.code()).collect::<Vec<_>>(), keys);
    for api in ApiKey::ALL {
        assert_eq!(ApiKey::from_code(api.code()), Some(*api));
    }
    assert_eq!(ApiKey::from_code(4), None);
    assert_eq!(ApiKey::from_code(-1), None);
}

#[test]
fn served_and_advertised_versions_differ_for_produce_alone() {
    for api in ApiKey::ALL {
        if *api == ApiKey::Produce {
            assert_eq!((api.versions(), api.advertised_versions()), (3..=13, 0..=13));
        } else {
            assert_eq!(api.versions(), api.advertised_versions(), "{api}");
        }
    }
}

#[test]
fn an_unstable_version_is_not_served() {
    assert_eq!(ApiKey::InitProducerId.versions(), 0..=5);
}

#[test]
fn headers_follow_the_first_flexible_version() {
    for (api, version, request, response) in [
        (ApiKey::Produce, 8, 1, 0),
        (ApiKey::Produce, 9, 2, 1),
        (ApiKey::SaslHandshake, 1, 1, 0),
        (ApiKey::OffsetDelete, 0, 1, 0),
        (ApiKey::ApiVersions, 2, 1, 0),
        (ApiKey::ApiVersions, 4, 2, 0),
        (ApiKey::Vote, 0, 2, 1),
    ] {
        assert_eq!(api.request_header_version(version), request, "{api} {version}");
        assert_eq!(api.response_header_version(version), response, "{api} {version}");
    }
}

#[test]
fn every_api_has_a_listener() {
    for api in ApiKey::ALL {
        assert!(api.is_for_brokers() || api.is_for_controllers(), "{api}");
    }
    assert!(ApiKey::Fetch.is_for_brokers() && ApiKey::Fetch.is_for_controllers());
    assert!(!ApiKey::Vote.is_for_brokers());
    assert!(!ApiKey::Metadata.is_for_controllers());
}
