//! Frames, headers and limits, by bytes that one can read.

use bytes::Bytes;

use super::*;
use crate::ids::Uuid;
use crate::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use crate::messages::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData};
use crate::messages::heartbeat::HeartbeatRequest;
use crate::messages::metadata::MetadataRequest;
use crate::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use crate::messages::sasl_handshake::SaslHandshakeRequest;

fn decode_body<M: Message>(
    bytes: &'static [u8],
    version: i16,
    budget_bytes: usize,
) -> Result<M, DecodeError> {
    let mut d = Decoder::new(Bytes::from_static(bytes), budget_bytes);
    let message = M::decode(&mut d, version)?;
    d.finish()?;
    Ok(message)
}

fn header(frame: Bytes) -> (RequestHeader, Decoder) {
    let mut d = Decoder::new(frame.slice(4..), 4096);
    (RequestHeader::decode(&mut d).unwrap(), d)
}

#[test]
fn a_request_has_its_length_and_the_header_of_its_version() {
    let request = SaslHandshakeRequest { mechanism: "PLAIN".into() };
    let frame = encode_request(&request, 1, 7, Some("me")).unwrap();
    assert_eq!(&frame[..], b"\0\0\0\x13\0\x11\0\x01\0\0\0\x07\0\x02me\0\x05PLAIN");
    let (header, mut d) = header(frame);
    assert_eq!((header.api_key, header.api_version, header.correlation_id), (17, 1, 7));
    assert_eq!(header.client_id, Some("me".into()));
    assert_eq!(decode_request_body::<SaslHandshakeRequest>(&mut d, 1), Ok(request));
}

/// What librdkafka 2.12 sends to learn of all topics: a four-byte zero where one byte says null.
#[test]
fn bytes_behind_a_request_are_ignored() {
    let frame = b"\0\0\0\x12\0\x03\0\x0d\0\0\0\x02\xff\xff\0\0\0\0\0\0\0\0";
    let (header, mut d) = header(Bytes::from_static(frame));
    assert_eq!((header.api_key, header.api_version), (3, 13));
    let request = decode_request_body::<MetadataRequest>(&mut d, 13).unwrap();
    assert_eq!(request.topics, None);
    assert_eq!(d.left_bytes(), 3);
}

#[test]
fn a_flexible_header_keeps_the_plain_client_id_and_has_tags() {
    let frame = encode_request(&ApiVersionsRequest::default(), 3, 1, None).unwrap();
    assert_eq!(&frame[..], b"\0\0\0\x0e\0\x12\0\x03\0\0\0\x01\xff\xff\0\x01\x01\0");
    let (header, mut d) = header(frame);
    assert_eq!(header.client_id, None);
    assert!(decode_request_body::<ApiVersionsRequest>(&mut d, 3).is_ok());
}

#[test]
fn an_unknown_key_or_version_still_tells_whom_to_answer() {
    for (key, version) in [(18, 99), (999, 0), (0, 2), (-1, -1)] {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&i16::to_be_bytes(key));
        bytes.extend_from_slice(&i16::to_be_bytes(version));
        bytes.extend_from_slice(&[0, 0, 0, 9]);
        for tail in [&b""[..], b"\0\x02me\0", b"\x7f\xff"] {
            let frame = [&bytes[..], tail].concat();
            let header = RequestHeader::decode(&mut Decoder::new(frame.into(), 0)).unwrap();
            assert_eq!((header.api_key, header.api_version, header.correlation_id), (key, version, 9));
        }
    }
    assert!(RequestHeader::decode(&mut Decoder::new(Bytes::from_static(&[0; 7]), 0)).is_err());
}

#[test]
fn the_answer_about_versions_never_has_a_flexible_header() {
    for version in 0..=4 {
        let parts =
            encode_response(&ApiVersionsResponse::default(), ApiKey::ApiVersions, version, 5).unwrap();
        let [Part::Bytes(frame)] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!(frame[4..10], [0, 0, 0, 5, 0, 0], "version {version}");
        let (correlation_id, _) =
            decode_response::<ApiVersionsResponse>(frame.slice(4..), ApiKey::ApiVersions, version).unwrap();
        assert_eq!(correlation_id, 5);
    }
}

fn fetched(records: Vec<Records>) -> FetchResponse {
    let one = |(index, records)| PartitionData {
        partition_index: index,
        records: Some(records),
        ..PartitionData::default()
    };
    let partitions = (0..).zip(records).map(one).collect();
    let topic_id = Uuid(9);
    FetchResponse {
        responses: vec![FetchableTopicResponse { topic_id, partitions, ..FetchableTopicResponse::default() }],
        ..FetchResponse::default()
    }
}

#[test]
fn large_records_travel_beside_the_buffer_and_are_not_copied() {
    let large = Bytes::from(vec![7; INLINE_RECORDS_BYTES_MAX + 1]);
    let small = Bytes::from(vec![8; INLINE_RECORDS_BYTES_MAX]);
    let response = fetched(vec![large.clone().into(), small.into()]);
    let parts = encode_response(&response, ApiKey::Fetch, 17, 3).unwrap();
    let [Part::Bytes(_), Part::Bytes(beside), Part::Bytes(_)] = &parts[..] else { panic!("{parts:?}") };
    assert_eq!(beside.as_ptr(), large.as_ptr());

    let whole: Vec<u8> = parts
        .iter()
        .flat_map(|part| match part {
            Part::Bytes(bytes) => bytes.to_vec(),
            Part::External { .. } => unreachable!("none was given"),
        })
        .collect();
    let whole = Bytes::from(whole);
    assert_eq!(whole[..4], i32::try_from(whole.len() - 4).unwrap().to_be_bytes());
    let (_, again) = decode_response::<FetchResponse>(whole.slice(4..), ApiKey::Fetch, 17).unwrap();
    assert_eq!(again, response);
}

#[test]
fn external_records_are_counted_and_named_but_never_in_one_buffer() {
    let response = fetched(vec![
        Records::External { len_bytes: 5, tag: 42 },
        Records::External { len_bytes: 0, tag: 43 },
    ]);
    let parts = encode_response(&response, ApiKey::Fetch, 17, 3).unwrap();
    assert_eq!(parts[1], Part::External { len_bytes: 5, tag: 42 });
    assert_eq!(parts.len(), 3);
    let Part::Bytes(first) = &parts[0] else { panic!("{parts:?}") };
    let total: usize = parts.iter().map(Part::len_bytes).sum();
    assert_eq!(first[..4], u32::try_from(total - 4).unwrap().to_be_bytes());
    assert_eq!(encode_data(&response, 17), Err(EncodeError::ExternalRecords));
}

#[test]
fn decoded_records_are_a_slice_of_the_frame() {
    let records = Bytes::from(vec![1; 5000]);
    let partition = PartitionProduceData { index: 0, records: Some(records.into()) };
    let topic = TopicProduceData { partition_data: vec![partition], ..TopicProduceData::default() };
    let request = ProduceRequest { topic_data: vec![topic], ..ProduceRequest::default() };
    let frame = encode_data(&request, 9).unwrap();
    let again: ProduceRequest = decode_data(frame.clone(), 9).unwrap();
    let found = again.topic_data[0].partition_data[0].records.as_ref().unwrap().as_inline().unwrap();
    assert!(frame.as_ptr_range().contains(&found.as_ptr()));
}

#[test]
fn a_count_has_to_fit_what_is_left() {
    // A billion topics in eight bytes.
    let error = decode_body::<MetadataRequest>(b"\x3b\x9a\xca\0\0\0\0\0", 0, usize::MAX).unwrap_err();
    assert_eq!(error, DecodeError::ArrayTooLong { count: 1_000_000_000, left_bytes: 4 });
    let error = decode_body::<MetadataRequest>(b"\xff\xff\xff\xfe", 0, usize::MAX).unwrap_err();
    assert_eq!(error, DecodeError::InvalidLength(-2));
}

#[test]
fn what_decoding_builds_is_charged_to_the_budget() {
    let one_topic = b"\0\0\0\x01\0\x01a";
    let needed = size_of::<crate::messages::metadata::MetadataRequestTopic>();
    assert!(decode_body::<MetadataRequest>(one_topic, 0, needed).is_ok());
    let error = decode_body::<MetadataRequest>(one_topic, 0, needed - 1).unwrap_err();
    assert_eq!(error, DecodeError::BudgetExceeded { wanted_bytes: needed, left_bytes: needed - 1 });
}

#[test]
fn strings_are_utf8_and_not_null_unless_allowed() {
    assert_eq!(decode_body::<SaslHandshakeRequest>(b"\0\x01\xff", 0, 0), Err(DecodeError::InvalidUtf8));
    assert_eq!(decode_body::<SaslHandshakeRequest>(b"\xff\xff", 0, 0), Err(DecodeError::NullNotAllowed));
    assert_eq!(decode_body::<SaslHandshakeRequest>(b"\xff\xfe", 0, 0), Err(DecodeError::InvalidLength(-2)));
}

#[test]
fn varints_end_at_32_bits() {
    let read = |bytes: &'static [u8]| Decoder::new(Bytes::from_static(bytes), 0).uvarint();
    assert_eq!(read(b"\xff\xff\xff\xff\x0f"), Ok(u32::MAX));
    assert_eq!(read(b"\xff\xff\xff\xff\x1f"), Err(DecodeError::InvalidVarint));
    assert_eq!(read(b"\x80\x80\x80\x80\x80\x01"), Err(DecodeError::InvalidVarint));
    assert_eq!(read(b"\x81\x00"), Ok(1));
    assert!(matches!(read(b"\x80"), Err(DecodeError::Truncated { .. })));
}

/// A Heartbeat of version 4, with these tagged fields.
fn heartbeat_with_tags(tags: &[u8]) -> Result<HeartbeatRequest, DecodeError> {
    decode_data([&b"\x01\0\0\0\0\x01\0"[..], tags].concat().into(), 4)
}

#[test]
fn unknown_tags_are_skipped_in_rising_order_only() {
    assert!(heartbeat_with_tags(b"\0").is_ok());
    assert_eq!(heartbeat_with_tags(b"\x02\x05\x01x\x07\0"), heartbeat_with_tags(b"\0"));
    assert_eq!(heartbeat_with_tags(b"\x02\x05\0\x05\0"), Err(DecodeError::DuplicateTag(5)));
    assert_eq!(heartbeat_with_tags(b"\x02\x05\0\x04\0"), Err(DecodeError::DuplicateTag(4)));
    assert!(matches!(heartbeat_with_tags(b"\x01\x05\x02x"), Err(DecodeError::Truncated { .. })));
    assert_eq!(heartbeat_with_tags(b"\0\0"), Err(DecodeError::TrailingBytes(1)));
}

#[test]
fn a_known_tag_has_to_fill_its_size() {
    let plain = encode_data(&FetchRequest::default(), 12).unwrap();
    let with_tag =
        |tag: &[u8]| decode_data::<FetchRequest>([&plain[..plain.len() - 1], tag].concat().into(), 12);
    assert_eq!(with_tag(b"\x01\0\x02\x02a").unwrap().cluster_id, Some("a".into()));
    assert_eq!(with_tag(b"\x01\0\x03\x02ab"), Err(DecodeError::TagSizeMismatch { tag: 0, left_bytes: 1 }));
    assert!(matches!(with_tag(b"\x01\0\x01\x02a"), Err(DecodeError::Truncated { .. })));
}

#[test]
fn a_value_that_the_version_lacks_is_refused_unless_ignorable() {
    let request = HeartbeatRequest { group_instance_id: Some("i".into()), ..HeartbeatRequest::default() };
    let refused = EncodeError::FieldNotInVersion { field: "GroupInstanceId", version: 2 };
    assert_eq!(request.size(2), Err(refused));
    assert!(request.size(3).is_ok());
    let ignorable = FetchRequest { rack_id: "r".into(), ..FetchRequest::default() };
    assert_eq!(ignorable.size(4), FetchRequest::default().size(4));
    assert!(matches!(request.size(5), Err(EncodeError::UnsupportedVersion { .. })));
    let no_topics = MetadataRequest { topics: None, ..MetadataRequest::default() };
    assert_eq!(no_topics.size(0), Err(EncodeError::NullNotAllowed { field: "Topics" }));
}

#[test]
fn strings_end_where_kafkas_do() {
    let request = |length| SaslHandshakeRequest { mechanism: "x".repeat(length).into() };
    assert!(request(32767).size(1).is_ok());
    assert_eq!(request(32768).size(1), Err(EncodeError::StringTooLong { length_bytes: 32768 }));
}
