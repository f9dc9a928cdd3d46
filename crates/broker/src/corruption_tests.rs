//! A byte that changed on the disk while the broker was stopped, seen through the protocol.

use std::path::Path;
use std::sync::Arc;

use klamm_log::disk::MemoryDisk;
use klamm_protocol::messages::fetch::FetchResponse;

use crate::host::sim;
use crate::simulation::{Client, batch, fetch_request, produce_request, start, start_with, values};

const CORRUPT_MESSAGE: i16 = 2;
const LOG: &str = "/data/t-0/00000000000000000000.log";

fn answer(response: &FetchResponse) -> (i16, Vec<String>) {
    (response.responses[0].partitions[0].error_code, values(response))
}

/// Five batches of one record; the byte at `position` of the third one is changed.
fn stored(position: usize) -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        for value in ["a", "b", "c", "d", "e"] {
            let response = client.call(&produce_request("t", 0, batch(&[value])), 9).await;
            assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
        }
        drop(client);
        assert!(running.stop().await);
    });
    disk.tamper(Path::new(LOG), |bytes| {
        let batch_bytes = bytes.len() / 5;
        bytes[2 * batch_bytes + position] ^= 0x10;
    })
    .expect("the log is there");
    disk
}

#[test]
fn a_changed_byte_is_answered_with_corrupt_message_and_all_around_it_with_records() {
    // The base offset, the length, the leader epoch, the CRC, a value.
    for position in [7, 11, 15, 18, 66] {
        for checks in ["cold", "always"] {
            sim::run_on(2, stored(position), |host| async move {
                let running =
                    start_with(&host, &[format!("klamm.fetch.check.crcs={checks}")]).await.expect("starts");
                let mut client = Client::connect(&host, &running);
                for _ in 0..2 {
                    let before = client.call(&fetch_request("t", 0, 0, 0), 11).await;
                    assert_eq!(answer(&before), (0, vec!["a".into(), "b".into()]), "byte {position}");
                    let bad = client.call(&fetch_request("t", 0, 2, 0), 11).await;
                    assert_eq!(answer(&bad), (CORRUPT_MESSAGE, vec![]), "byte {position}");
                    let behind = client.call(&fetch_request("t", 0, 3, 0), 11).await;
                    assert_eq!(answer(&behind), (0, vec!["d".into(), "e".into()]), "byte {position}");
                }
                let response = client.call(&produce_request("t", 0, batch(&["f"])), 9).await;
                assert_eq!(response.responses[0].partition_responses[0].base_offset, 5);
            });
        }
    }
}

#[test]
fn with_always_a_byte_that_changes_under_a_running_broker_is_found_too() {
    for (checks, error) in [("cold", 0), ("always", CORRUPT_MESSAGE)] {
        let disk = Arc::new(MemoryDisk::default());
        let behind_its_back = disk.clone();
        sim::run_on(1, disk, |host| async move {
            let running =
                start_with(&host, &[format!("klamm.fetch.check.crcs={checks}")]).await.expect("starts");
            let mut client = Client::connect(&host, &running);
            client.create_topic("t", 1).await;
            client.call(&produce_request("t", 0, batch(&["a"])), 9).await;
            behind_its_back.tamper(Path::new(LOG), |bytes| bytes[67] ^= 1).expect("there");
            let response = client.call(&fetch_request("t", 0, 0, 0), 11).await;
            assert_eq!(response.responses[0].partitions[0].error_code, error);
        });
    }
}
