//! A frame of a client: header and body are read or refused, never a panic, within the budget;
//! what is read can be written, and that is read as the same.
#![no_main]

use bytes::Bytes;
use klamm_protocol::api_key::ApiKey;
use klamm_protocol::messages::*;
use klamm_protocol::wire::{Decoder, Request, RequestHeader, decode_request_body, encode_request};
use libfuzzer_sys::fuzz_target;

const BUDGET_BYTES: usize = 1 << 20;

fn check<R: Request>(header: &RequestHeader, mut d: Decoder) {
    let version = header.api_version;
    let Ok(request) = decode_request_body::<R>(&mut d, version) else { return };
    let client_id = header.client_id.as_deref();
    let frame = encode_request(&request, version, header.correlation_id, client_id)
        .expect("what was read can be written");
    let mut d = Decoder::new(frame.slice(4..), usize::MAX);
    let again = RequestHeader::decode(&mut d).expect("a header of ours");
    assert_eq!(again, *header);
    let again: R = decode_request_body(&mut d, version).expect("a body of ours");
    assert_eq!(d.left_bytes(), 0, "we write nothing behind a body");
    // By bytes: a NaN is not equal to itself.
    assert_eq!(encode_request(&again, version, header.correlation_id, client_id), Ok(frame));
}

macro_rules! dispatch {
    ($(($api:ident, $module:ident, $request:ident, $response:ident))*) => {
        fn dispatch(api: ApiKey, header: &RequestHeader, d: Decoder) {
            match api {
                $(ApiKey::$api => check::<$module::$request>(header, d),)*
            }
        }
    };
}

klamm_protocol::for_each_api!(dispatch);

fuzz_target!(|data: &[u8]| {
    let mut d = Decoder::new(Bytes::copy_from_slice(data), BUDGET_BYTES);
    let Ok(header) = RequestHeader::decode(&mut d) else { return };
    let Some(api) = ApiKey::from_code(header.api_key) else { return };
    if api.versions().contains(&header.api_version) {
        dispatch(api, &header, d);
    }
});
