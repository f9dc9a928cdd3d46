//! A checksum of what every message becomes in every version, from values made up by a seed.
//!
//! The checksums in `encodings.txt` were taken when Kafka 4.3.1's own classes read these same
//! bytes and wrote them again without a difference, so they stand for Kafka where no other
//! implementation in Rust knows a message. After a change of the schema or of the invented
//! values, run with `KLAMM_BLESS=1` and compare with Kafka again.

use std::fmt::Write as _;
use std::path::Path;

use klamm_protocol::messages::*;
use klamm_protocol::wire::arbitrary::arbitrary;
use klamm_protocol::wire::{Message, encode_data};

const SEEDS: u64 = 40;

fn checksums<M: Message>(text: &mut String) {
    for version in M::VERSIONS {
        let mut sum = 0xcbf2_9ce4_8422_2325_u64;
        for seed in 0..SEEDS {
            let message: M = arbitrary(seed * 1000 + u64::from(version.unsigned_abs()), version);
            for byte in encode_data(&message, version).unwrap() {
                // FNV-1a
                sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        writeln!(text, "{} {version} {sum:016x}", M::NAME).unwrap();
    }
}

macro_rules! apis {
    ($(($api:ident, $module:ident, $request:ident, $response:ident))*) => {{
        let mut text = String::new();
        $(
            checksums::<$module::$request>(&mut text);
            checksums::<$module::$response>(&mut text);
        )*
        text
    }};
}

macro_rules! data {
    ($(($module:ident, $message:ident))*) => {{
        let mut text = String::new();
        $(checksums::<$module::$message>(&mut text);)*
        text
    }};
}

#[test]
fn every_message_is_written_as_kafka_writes_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encodings.txt");
    let now = klamm_protocol::for_each_api!(apis) + &klamm_protocol::for_each_data!(data);
    if std::env::var_os("KLAMM_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let then = std::fs::read_to_string(&path).unwrap();
    let changed: Vec<_> = then.lines().zip(now.lines()).filter(|(then, now)| then != now).collect();
    assert!(changed.is_empty(), "{changed:#?}");
    assert_eq!(then.lines().count(), now.lines().count());
}
