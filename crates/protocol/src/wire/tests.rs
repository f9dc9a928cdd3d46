//! Every message, in every version, against the promises of [`super`].

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::arbitrary::arbitrary;
use super::*;
use crate::messages::*;

/// What decoding a small message may need; what it is tested with.
const BUDGET_BYTES: usize = 1 << 20;

/// Every message behind one face.
struct Subject {
    name: &'static str,
    versions: RangeInclusive<i16>,
    round_trip: fn(seed: u64, version: i16) -> Bytes,
    /// Says whether the bytes were a message.
    decode: fn(bytes: Bytes, version: i16, budget_bytes: usize) -> bool,
}

fn subject<M: Message>() -> Subject {
    Subject {
        name: M::NAME,
        versions: M::VERSIONS,
        round_trip: |seed, version| {
            let message: M = arbitrary(seed, version);
            let bytes = encode_data(&message, version).unwrap();
            assert_eq!(message.size(version).unwrap().total_bytes(), bytes.len());
            let again: M = decode_data(bytes.clone(), version).unwrap();
            assert_eq!(again, message, "{} version {version}", M::NAME);
            bytes
        },
        decode: |bytes, version, budget_bytes| {
            let mut d = Decoder::new(bytes, budget_bytes);
            M::decode(&mut d, version).is_ok() && d.finish().is_ok()
        },
    }
}

macro_rules! requests {
    ($(($api:ident, $module:ident, $request:ident, $response:ident))*) => {
        vec![$(subject::<$module::$request>(), subject::<$module::$response>(),)*]
    };
}

macro_rules! data {
    ($(($module:ident, $message:ident))*) => { vec![$(subject::<$module::$message>(),)*] };
}

fn subjects() -> Vec<Subject> {
    let mut all = crate::for_each_api!(requests);
    all.extend(crate::for_each_data!(data));
    all
}

fn for_every_version(mut check: impl FnMut(&Subject, i16)) {
    for subject in subjects() {
        for version in subject.versions.clone() {
            check(&subject, version);
        }
    }
}

#[test]
fn the_messages_are_all_there() {
    let apis = ApiKey::ALL.len();
    assert_eq!(apis, 89);
    assert!(subjects().len() > 2 * apis + 70, "{}", subjects().len());
}

#[test]
fn a_message_cut_short_is_no_message() {
    for_every_version(|subject, version| {
        let whole = (subject.round_trip)(7, version);
        for length in 0..whole.len() {
            let is_message = (subject.decode)(whole.slice(..length), version, BUDGET_BYTES);
            assert!(!is_message, "{} version {version} cut to {length} bytes", subject.name);
        }
    });
}

#[test]
fn a_byte_behind_the_message_is_refused() {
    for_every_version(|subject, version| {
        let mut longer = BytesMut::from(&(subject.round_trip)(8, version)[..]);
        longer.put_u8(0);
        assert!(!(subject.decode)(longer.freeze(), version, BUDGET_BYTES), "{} {version}", subject.name);
    });
}

#[test]
fn versions_outside_the_schema_are_refused() {
    for subject in subjects() {
        for version in [*subject.versions.start() - 1, *subject.versions.end() + 1] {
            assert!(!(subject.decode)(Bytes::new(), version, BUDGET_BYTES), "{} {version}", subject.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_written_is_read_back(seed: u64) {
        for_every_version(|subject, version| {
            (subject.round_trip)(seed, version);
        });
    }

    #[test]
    fn a_damaged_message_never_panics(seed: u64, at: usize, bit in 0..8u32) {
        for_every_version(|subject, version| {
            let mut bytes = BytesMut::from(&(subject.round_trip)(seed, version)[..]);
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }
            (subject.decode)(bytes.freeze(), version, BUDGET_BYTES);
        });
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        for_every_version(|subject, version| {
            (subject.decode)(bytes.clone(), version, 2000);
        });
    }
}
