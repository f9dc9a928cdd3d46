//! A frame of a broker, or the value of a record: read or refused, never a panic; what is
//! read can be written, and that is read as the same.
//!
//! The first byte chooses among the messages, the second the version.
#![no_main]

use bytes::Bytes;
use klamm_protocol::api_key::ApiKey;
use klamm_protocol::messages::*;
use klamm_protocol::wire::{Message, Part, decode_data, decode_response, encode_data, encode_response};
use libfuzzer_sys::fuzz_target;

fn version_of<M: Message>(choice: u8) -> i16 {
    let count = M::VERSIONS.end() - M::VERSIONS.start() + 1;
    M::VERSIONS.start() + i16::from(choice) % count
}

fn response<M: Message>(api: ApiKey, choice: u8, frame: Bytes) {
    let version = version_of::<M>(choice);
    let Ok((correlation_id, message)) = decode_response::<M>(frame, api, version) else { return };
    let write = |message: &M| -> Vec<u8> {
        let parts =
            encode_response(message, api, version, correlation_id).expect("what was read can be written");
        parts
            .into_iter()
            .flat_map(|part| match part {
                Part::Bytes(bytes) => bytes,
                Part::External { .. } => unreachable!("decoding gives bytes"),
            })
            .collect()
    };
    let ours = write(&message);
    assert_eq!(ours[..4], u32::to_be_bytes(ours.len() as u32 - 4));
    let again = decode_response::<M>(Bytes::copy_from_slice(&ours[4..]), api, version);
    let (again_id, again) = again.expect("a frame of ours");
    assert_eq!(again_id, correlation_id);
    // By bytes: a NaN is not equal to itself.
    assert_eq!(write(&again), ours);
}

fn data<M: Message>(choice: u8, bytes: Bytes) {
    let version = version_of::<M>(choice);
    let Ok(message) = decode_data::<M>(bytes, version) else { return };
    let ours = encode_data(&message, version).expect("what was read can be written");
    let again: M = decode_data(ours.clone(), version).expect("bytes of ours");
    assert_eq!(encode_data(&again, version), Ok(ours));
}

type Check = fn(u8, Bytes);

macro_rules! responses {
    ($(($api:ident, $module:ident, $request:ident, $response:ident))*) => {
        const RESPONSES: &[Check] = &[
            $(|choice, bytes| response::<$module::$response>(ApiKey::$api, choice, bytes),)*
        ];
    };
}

macro_rules! records {
    ($(($module:ident, $message:ident))*) => {
        const RECORDS: &[Check] = &[$(data::<$module::$message>,)*];
    };
}

klamm_protocol::for_each_api!(responses);
klamm_protocol::for_each_data!(records);

fuzz_target!(|input: &[u8]| {
    let [message, version, bytes @ ..] = input else { return };
    let index = usize::from(*message) % (RESPONSES.len() + RECORDS.len());
    let check = RESPONSES.iter().chain(RECORDS).nth(index).expect("below the count");
    check(*version, Bytes::copy_from_slice(bytes));
});
