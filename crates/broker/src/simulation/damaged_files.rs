//! The small files of a log directory and of a partition, each lost, emptied, cut or overwritten: a
//! start makes them anew or goes without, and everything that was acknowledged is there.

use std::path::{Path, PathBuf};

use klamm_protocol::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};

use super::*;

type Damage = fn(&mut Vec<u8>);

const FILES: [&str; 8] = [
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
    "cleaner-offset-checkpoint",
    ".kafka_cleanshutdown",
    "t-0/leader-epoch-checkpoint",
    "t-0/partition.metadata",
    // The newest producer snapshot.
    "t-0/00000000000000000009.snapshot",
];
const DAMAGES: [(&str, Damage); 5] = [
    ("empty", Vec::clear),
    ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
    ("overwritten", |bytes| bytes.fill(0xa5)),
    ("zeros", |bytes| bytes.fill(0)),
    ("another file", |bytes| *bytes = b"no such thing\n".repeat(400)),
];
const LOG_START: i64 = 4;

fn path(file: &str) -> PathBuf {
    Path::new("/data").join(file)
}

/// Nine records, the first four of which were deleted, in two leader epochs.
fn filled(is_killed: bool) -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::default());
    for run in 0..2 {
        sim::run_on(run, disk.clone(), |host| async move {
            let running = start(&host).await;
            let mut client = Client::connect(&host, &running);
            let mut numbers = 6..9;
            if run == 0 {
                client.create_topic("t", 1).await;
                numbers = 0..6;
            }
            for number in numbers {
                let value = number.to_string();
                base_offset(&client.call(&produce_request("t", 0, batch(&[&value])), 9).await);
            }
            if run == 1 {
                let partition = DeleteRecordsPartition { offset: LOG_START, ..Default::default() };
                let topic = DeleteRecordsTopic {
                    name: "t".into(),
                    partitions: vec![partition],
                    ..Default::default()
                };
                let request = DeleteRecordsRequest { topics: vec![topic], ..Default::default() };
                assert_eq!(client.call(&request, 1).await.topics[0].partitions[0].error_code, 0);
                // Long enough for the checkpoints that are written now and then.
                host.sleep_until(host.mono().plus_ms(70_000)).await;
            }
            drop(client);
            assert!(run == 1 && is_killed || running.stop().await);
        });
    }
    disk
}

/// What is left from the log start that was asked for.
fn read_and_go_on(disk: Arc<MemoryDisk>, what: &str, more: &str) -> Vec<String> {
    let (seen, _) = sim::run_on(7, disk, |host| async move {
        let running = try_start(&host).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut client = Client::connect(&host, &running);
        let produced = client.call(&produce_request("t", 0, batch(&[more])), 9).await;
        assert_eq!(produced.responses[0].partition_responses[0].error_code, 0, "{what}");
        let fetched = client.call(&fetch_request("t", 0, LOG_START, 0), 11).await;
        drop(client);
        assert!(running.stop().await, "{what}");
        values(&fetched)
    });
    seen
}

#[test]
fn no_small_file_is_needed_to_find_what_was_acknowledged() {
    let mut damaged = 0;
    for is_killed in [false, true] {
        let origin = filled(is_killed);
        for file in FILES.iter().filter(|file| origin.exists(&path(file)).expect("looked")) {
            for (how, damage) in
                DAMAGES.map(|(how, damage)| (how, Some(damage))).into_iter().chain([("lost", None)])
            {
                let what = format!("{file} {how}, killed: {is_killed}");
                let disk = Arc::new(origin.fork());
                match damage {
                    Some(damage) => disk.tamper(&path(file), damage).expect("it is there"),
                    None => disk.remove_file(&path(file)).expect("it is there"),
                }
                damaged += 1;
                let seen = read_and_go_on(disk.clone(), &what, "once");
                assert_eq!(seen, ["4", "5", "6", "7", "8", "once"], "{what}");
                let seen = read_and_go_on(disk, &what, "twice");
                assert_eq!(seen, ["4", "5", "6", "7", "8", "once", "twice"], "{what}");
            }
        }
    }
    // A snapshot and the mark are a clean stop's.
    assert!(damaged >= 6 * FILES.len(), "{damaged}");
}

/// Where no log start ever moves, nothing else would write it again, and every start would complain.
#[test]
fn log_starts_that_could_not_be_read_are_written_again() {
    let file = path("log-start-offset-checkpoint");
    let disk = Arc::new(MemoryDisk::default());
    for run in 0..2 {
        sim::run_on(run, disk.clone(), |host| async move {
            let running = start(&host).await;
            let mut client = Client::connect(&host, &running);
            if run == 0 {
                client.create_topic("t", 1).await;
            }
            base_offset(&client.call(&produce_request("t", 0, batch(&["a"])), 9).await);
            drop(client);
            assert!(running.stop().await);
        });
        let written = disk.read_file(&file, 1_000).expect("written at the stop");
        assert!(written.starts_with(b"0\n"), "run {run}: {written:?}");
        disk.tamper(&file, |bytes| bytes.fill(0xa5)).expect("it is there");
    }
}
