//! A start on a directory that somebody else wrote, or that was damaged: taken as it is, or
//! refused and left byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use klamm_cluster::features::MetadataVersion;
use klamm_cluster::metadata_log::batches::{decode_batches, encode_control, encode_records};
use klamm_cluster::metadata_log::checkpoint::{Checkpoint, CheckpointId};
use klamm_cluster::metadata_log::control::{ControlRecord, LeaderChange, Voter};
use klamm_cluster::record::MetadataRecord;
use klamm_log::directory::meta_properties::{self, MetaProperties};
use klamm_log::disk::{Disk, MemoryDisk};
use klamm_protocol::ids::{DirectoryId, LeaderEpoch, NodeId, Offset, Uuid};
use klamm_protocol::messages::metadata_records::{
    AccessControlEntryRecord, BeginTransactionRecord, ConfigRecord, FeatureLevelRecord, NoOpRecord,
    RegisterBrokerRecord, UserScramCredentialRecord,
};
use klamm_protocol::records::BatchBuilder;
use klamm_protocol::time::WallMs;

use super::error::MetadataError;
use crate::boot::StartError;
use crate::host::sim;
use crate::simulation::{
    Client, batch, fetch_request, produce_request, start, start_with, try_start, values,
};

const DIR: &str = "/data/__cluster_metadata-0";
const LOG: &str = "/data/__cluster_metadata-0/00000000000000000000.log";
const QUORUM_STATE: &str = "/data/__cluster_metadata-0/quorum-state";
const DIRECTORY: DirectoryId = DirectoryId(Uuid(0x1234_5678_9abc_4def_8123_4567_89ab_cdef));
const EPOCH: LeaderEpoch = LeaderEpoch(1);

/// A directory of ours with one topic and one record, stopped cleanly.
fn directory() -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("t", 1).await;
        client.call(&produce_request("t", 0, batch(&["a"])), 9).await;
        running.stop().await;
    });
    disk
}

fn read(disk: &MemoryDisk, path: &str) -> Vec<u8> {
    disk.read_file(Path::new(path), 1 << 30).unwrap()
}

fn write(disk: &MemoryDisk, path: &str, bytes: &[u8]) {
    let path = Path::new(path);
    let dir = path.parent().unwrap();
    disk.create_dir_all(dir).unwrap();
    disk.write_file_atomically(path, bytes).unwrap();
    disk.sync_dir(dir.parent().unwrap()).unwrap();
}

/// Every file with its bytes.
fn files(disk: &MemoryDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![PathBuf::from("/")];
    while let Some(dir) = dirs.pop() {
        for entry in disk.list_dir(&dir).unwrap() {
            let path = dir.join(entry.name);
            if entry.is_dir {
                dirs.push(path);
            } else {
                found.insert(path.clone(), disk.read_file(&path, 1 << 30).unwrap());
            }
        }
    }
    found
}

fn end_of_log(disk: &MemoryDisk) -> Offset {
    let bytes = Bytes::from(read(disk, LOG));
    decode_batches(&bytes).last().unwrap().unwrap().end_offset
}

fn append_bytes(disk: &MemoryDisk, bytes: &[u8]) {
    disk.tamper(Path::new(LOG), |log| log.extend_from_slice(bytes)).unwrap();
}

fn append(disk: &MemoryDisk, records: &[MetadataRecord]) {
    let at = end_of_log(disk);
    for batch in encode_records(at, EPOCH, WallMs(1), MetadataVersion::LATEST, records).unwrap() {
        append_bytes(disk, &batch.bytes);
    }
}

fn append_control(disk: &MemoryDisk, records: &[ControlRecord]) {
    append_bytes(disk, &encode_control(end_of_log(disk), EPOCH, WallMs(1), records).unwrap().bytes);
}

/// The refusal of a start, which must have changed nothing.
fn refusal(disk: &Arc<MemoryDisk>) -> StartError {
    let before = files(disk);
    let on = disk.clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    sim::run_on(2, on, move |host| async move {
        sender.send(try_start(&host).await.map(drop)).unwrap();
    });
    let error = receiver.recv().unwrap().expect_err("must not start");
    assert_eq!(before, files(disk), "a refused start changed a file: {error}");
    error
}

/// Starts once and stops; returns what the topic `t` holds.
fn starts(disk: &Arc<MemoryDisk>) -> Vec<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    sim::run_on(3, disk.clone(), move |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        sender.send(values(&client.call(&fetch_request("t", 0, 0, 0), 11).await)).unwrap();
        running.stop().await;
    });
    receiver.recv().unwrap()
}

#[test]
fn what_this_build_cannot_lead_is_refused_and_left_as_it_was() {
    let config = ConfigRecord {
        resource_type: 2,
        resource_name: "t".into(),
        name: "remote.storage.enable".into(),
        value: Some("true".into()),
    };
    let level = FeatureLevelRecord { name: "metadata.version".into(), feature_level: 31 };
    let feature = FeatureLevelRecord { name: "later.version".into(), feature_level: 1 };
    let cases: [(MetadataRecord, &str); 5] = [
        (RegisterBrokerRecord { broker_id: 2, ..Default::default() }.into(), "broker 2 is registered"),
        (config.into(), "the topic t has remote.storage.enable=true"),
        (AccessControlEntryRecord { id: Uuid(3), ..Default::default() }.into(), "1 ACLs"),
        (level.into(), "metadata.version at level 31"),
        (feature.into(), "later.version at level 1"),
    ];
    for (record, expected) in cases {
        let disk = directory();
        append(&disk, &[record]);
        let error = refusal(&disk).to_string();
        assert!(error.contains(expected) && error.contains(DIR), "{error}");
    }
}

#[test]
fn another_voter_is_refused_and_the_directory_left_as_it_was() {
    let voter = |node, directory| Voter { node: NodeId(node), directory, endpoints: Vec::new() };
    let disk = directory();
    append_control(&disk, &[ControlRecord::KraftVoters(vec![voter(1, DIRECTORY), voter(2, DIRECTORY)])]);
    assert!(refusal(&disk).to_string().contains("voters 1, 2"));

    let disk = directory();
    append_control(&disk, &[ControlRecord::KraftVoters(vec![voter(1, DIRECTORY)])]);
    assert!(refusal(&disk).to_string().contains(&DIRECTORY.to_string()));

    // A static quorum of three, as its file beside the log names it.
    let disk = formatted(None, &[]);
    let change = LeaderChange { leader: NodeId(1), voters: vec![NodeId(1)], granting_voters: Vec::new() };
    let log = encode_control(Offset(0), EPOCH, WallMs(1), &[ControlRecord::LeaderChange(change)]).unwrap();
    write(&disk, LOG, &log.bytes);
    write(
        &disk,
        QUORUM_STATE,
        br#"{"clusterId":"","leaderId":1,"leaderEpoch":1,"votedId":-1,"appliedOffset":0,"currentVoters":[{"voterId":1},{"voterId":2},{"voterId":3}],"data_version":0}"#,
    );
    assert!(refusal(&disk).to_string().contains("voters 1, 2, 3"));
}

#[test]
fn a_record_that_is_not_known_is_refused_in_the_log_and_in_a_snapshot() {
    // Frame version 1, api key 99, version 0.
    let unknown = |at: Offset| {
        let mut builder = BatchBuilder::new().base_offset(at).leader_epoch(EPOCH);
        builder.push(1, None, Some(&[1, 99, 0, 0]), &[]);
        builder.build()
    };
    let disk = directory();
    append_bytes(&disk, &unknown(end_of_log(&disk)));
    let error = refusal(&disk);
    assert!(matches!(error, StartError::Metadata(MetadataError::Unknown { .. })), "{error}");

    let disk = directory();
    let id = CheckpointId { end_offset: end_of_log(&disk), epoch: EPOCH };
    let snapshot = Checkpoint::default().encode(EPOCH, WallMs(1), MetadataVersion::LATEST).unwrap();
    let [header, footer] = &snapshot[..] else { panic!("two batches") };
    let path = format!("{DIR}/{}", id.file_name());
    write(&disk, &path, &[&header[..], &unknown(Offset(1)), footer].concat());
    let error = refusal(&disk);
    assert!(matches!(error, StartError::Metadata(MetadataError::Unknown { .. })), "{error}");
}

#[test]
fn a_torn_tail_is_cut_and_a_damaged_middle_refused() {
    let disk = directory();
    let whole = read(&disk, LOG);
    let torn = encode_records(
        end_of_log(&disk),
        EPOCH,
        WallMs(1),
        MetadataVersion::LATEST,
        &[NoOpRecord::default().into()],
    )
    .unwrap();
    append_bytes(&disk, &torn[0].bytes[..40]);
    assert_eq!(starts(&disk), ["a"]);
    let after = read(&disk, LOG);
    assert_eq!(after[..whole.len()], whole[..], "what was before the tail stays");
    assert!(decode_batches(&Bytes::from(after)).all(|batch| batch.is_ok()));

    let disk = directory();
    let second = decode_batches(&Bytes::from(whole.clone())).next().unwrap().unwrap().size_bytes;
    disk.tamper(Path::new(LOG), |log| log[second + 70] ^= 1).unwrap();
    let error = refusal(&disk);
    let StartError::Metadata(MetadataError::Corrupt { position, .. }) = error else { panic!("{error}") };
    assert_eq!(position, second as u64);

    // A whole batch is missing in the middle.
    let disk = directory();
    disk.tamper(Path::new(LOG), |log| drop(log.drain(..second))).unwrap();
    let error = refusal(&disk);
    assert!(matches!(error, StartError::Metadata(MetadataError::Corrupt { position: 0, .. })), "{error}");
}

/// The checksum does not cover a batch's offset: the bytes of the last one may not have been written.
#[test]
fn a_last_batch_without_its_offset_is_a_torn_tail_and_a_later_offset_is_a_gap() {
    let last = |disk: &MemoryDisk| {
        let bytes = Bytes::from(read(disk, LOG));
        bytes.len() - decode_batches(&bytes).last().unwrap().unwrap().size_bytes
    };
    let disk = directory();
    let at = last(&disk);
    disk.tamper(Path::new(LOG), |log| log[at..at + 8].fill(0)).unwrap();
    assert_eq!(starts(&disk), ["a"]);

    let disk = directory();
    disk.tamper(Path::new(LOG), |log| log[at + 6] += 1).unwrap();
    let error = refusal(&disk);
    assert!(matches!(error, StartError::Metadata(MetadataError::Corrupt { .. })), "{error}");
}

#[test]
fn a_broken_last_batch_is_a_torn_tail_even_after_a_clean_stop() {
    let disk = directory();
    disk.tamper(Path::new(LOG), |log| *log.last_mut().unwrap() ^= 1).unwrap();
    assert_eq!(starts(&disk), ["a"]);
}

/// What `kafka-storage.sh format` leaves: with a voter `--standalone`, without a static quorum.
fn formatted(voter: Option<Voter>, records: &[MetadataRecord]) -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::default());
    disk.create_dir_all(Path::new("/data")).unwrap();
    let properties = MetaProperties {
        cluster_id: "kLaMmPeErKaFkA0000000A".to_owned(),
        node_id: NodeId(1),
        directory_id: Some(DIRECTORY),
        others: BTreeMap::new(),
    };
    meta_properties::write(&*disk, Path::new("/data"), &properties).unwrap();
    let encode = |checkpoint: Checkpoint| {
        checkpoint.encode(LeaderEpoch(0), WallMs(1), MetadataVersion::LATEST).unwrap().concat()
    };
    let bootstrap = Checkpoint { records: records.to_vec(), ..Default::default() };
    write(&disk, "/data/bootstrap.checkpoint", &encode(bootstrap));
    if let Some(voter) = voter {
        let first = Checkpoint { kraft_version: Some(1), voters: Some(vec![voter]), ..Checkpoint::default() };
        let id = CheckpointId { end_offset: Offset(0), epoch: LeaderEpoch(0) };
        write(&disk, &format!("{DIR}/{}", id.file_name()), &encode(first));
    }
    disk
}

#[test]
fn the_metadata_may_have_a_directory_of_its_own() {
    let disk = Arc::new(MemoryDisk::default());
    let properties = ["log.dirs=/data,/more".to_owned(), "metadata.log.dir=/meta".to_owned()];
    for round in 0..3 {
        let properties = properties.clone();
        sim::run_on(round, disk.clone(), move |host| async move {
            let running = start_with(&host, &properties).await.expect("starts");
            let mut client = Client::connect(&host, &running);
            if round == 0 {
                client.create_topic("t", 2).await;
                client.call(&produce_request("t", 0, batch(&["a"])), 9).await;
            }
            assert_eq!(values(&client.call(&fetch_request("t", 0, 0, 0), 11).await), ["a"]);
            // The second is killed.
            if round != 1 {
                running.stop().await;
            }
        });
    }
    let found = files(&disk);
    assert!(found.contains_key(Path::new("/meta/__cluster_metadata-0/quorum-state")));
    assert!(found.keys().all(|path| path.starts_with("/meta") || !path.starts_with(DIR)));
    let id =
        |dir: &str| meta_properties::read(&*disk, Path::new(dir)).unwrap().unwrap().directory_id.unwrap();
    assert!(id("/meta") != id("/data") && id("/data") != id("/more"));
    // Without the setting it would be another cluster on the same partitions.
    let error = refusal(&disk).to_string();
    assert!(error.contains("metadata.log.dir"), "{error}");
}

fn bootstrap_records() -> Vec<MetadataRecord> {
    let level =
        |name: &str, feature_level| FeatureLevelRecord { name: name.to_owned().into(), feature_level }.into();
    let credential = UserScramCredentialRecord {
        name: "alice".into(),
        mechanism: 1,
        iterations: 4096,
        ..Default::default()
    };
    vec![level("metadata.version", 21), level("group.version", 1), credential.into()]
}

fn records_in_log(disk: &MemoryDisk) -> (Vec<MetadataRecord>, Vec<ControlRecord>) {
    use klamm_cluster::metadata_log::batches::BatchContent;
    let (mut records, mut control) = (Vec::new(), Vec::new());
    for (_, bytes) in files(disk).into_iter().filter(|(path, _)| {
        path.starts_with(DIR) && path.extension().is_some_and(|extension| extension == "log")
    }) {
        for batch in decode_batches(&Bytes::from(bytes)) {
            match batch.unwrap().content {
                BatchContent::Records(found) => records.extend(found.into_iter().map(|(_, record)| record)),
                BatchContent::Control(found) => control.extend(found.into_iter().map(|(_, record)| record)),
            }
        }
    }
    (records, control)
}

#[test]
fn a_directory_formatted_standalone_begins_as_it_was_formatted() {
    let endpoints = vec![("CONTROLLER".to_owned(), "other.example".to_owned(), 19_093)];
    let voter = Voter { node: NodeId(1), directory: DIRECTORY, endpoints };
    let disk = formatted(Some(voter.clone()), &bootstrap_records());
    let before = files(&disk);
    starts(&disk);
    let after = files(&disk);
    for name in ["meta.properties", "bootstrap.checkpoint"] {
        let path = Path::new("/data").join(name);
        assert_eq!(before[&path], after[&path], "{name}");
    }
    let first = Path::new(DIR).join("00000000000000000000-0000000000.checkpoint");
    assert_eq!(before[&first], after[&first]);
    let (records, control) = records_in_log(&disk);
    assert_eq!(control[1..], [ControlRecord::KraftVersion(1), ControlRecord::KraftVoters(vec![voter])]);
    assert!(matches!(records[0], MetadataRecord::BeginTransaction(_)));
    // At this level there are no eligible leader replicas, so no minimum is written with them.
    assert_eq!(records[1..4], bootstrap_records()[..]);
    assert!(matches!(records[4], MetadataRecord::EndTransaction(_)));
    assert!(String::from_utf8(read(&disk, QUORUM_STATE)).unwrap().contains(r#""data_version":1"#));
}

#[test]
fn a_directory_formatted_for_a_static_quorum_stays_static() {
    let disk = formatted(None, &bootstrap_records());
    starts(&disk);
    let (records, control) = records_in_log(&disk);
    assert!(matches!(control[..], [ControlRecord::LeaderChange(_)]), "{control:?}");
    assert_eq!(records[1..4], bootstrap_records()[..]);
    let names: Vec<_> = disk.list_dir(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(names.iter().all(|name| !name.ends_with(".checkpoint")), "{names:?}");
    assert_eq!(
        String::from_utf8(read(&disk, QUORUM_STATE)).unwrap(),
        r#"{"clusterId":"","leaderId":1,"leaderEpoch":1,"votedId":-1,"appliedOffset":0,"currentVoters":[{"voterId":1}],"data_version":0}"#
    );
    // Again, now with a log.
    starts(&disk);
    assert!(String::from_utf8(read(&disk, QUORUM_STATE)).unwrap().contains(r#""leaderEpoch":2"#));
}

#[test]
fn an_unknown_level_in_the_bootstrap_records_is_refused() {
    let level = FeatureLevelRecord { name: "metadata.version".into(), feature_level: 31 };
    let disk = formatted(None, &[level.into()]);
    assert!(refusal(&disk).to_string().contains("metadata.version at level 31"));
}

#[test]
fn a_bootstrap_that_was_cut_off_is_done_again() {
    let disk = formatted(None, &bootstrap_records());
    let begin = BeginTransactionRecord { name: Some("Bootstrap records".into()) };
    let opening = [begin.into(), bootstrap_records()[0].clone()];
    let batches = encode_records(Offset(0), EPOCH, WallMs(1), MetadataVersion(21), &opening).unwrap();
    write(&disk, LOG, &batches[0].bytes);
    starts(&disk);
    let (records, _) = records_in_log(&disk);
    assert!(matches!(records[2], MetadataRecord::AbortTransaction(_)), "{records:?}");
    assert_eq!(records[4..7], bootstrap_records()[..]);
}

/// Cuts the power at every step of a start, then starts again; `check` sees what came of it.
fn with_power_cuts(disk: &Arc<MemoryDisk>, check: impl Fn(&Arc<MemoryDisk>, u64)) {
    for step in 0.. {
        // A copy of everything, durable.
        let cut = Arc::new(disk.fork());
        cut.cut_power_after(step);
        sim::run_on(step, cut.clone(), |host| async move {
            if let Ok(running) = try_start(&host).await {
                running.stop().await;
            }
        });
        if !cut.is_off() {
            assert!(step > 20, "a start has more steps than {step}");
            return;
        }
        for seed in 0..3 {
            let after = Arc::new(cut.after_power_cut(step * 1_000 + seed));
            starts(&after);
            check(&after, step);
        }
    }
}

#[test]
fn a_first_start_whose_power_fails_leaves_the_layout_that_was_formatted() {
    let voter = Voter { node: NodeId(1), directory: DIRECTORY, endpoints: Vec::new() };
    with_power_cuts(&formatted(Some(voter.clone()), &bootstrap_records()), |disk, step| {
        let (_, control) = records_in_log(disk);
        let is_voter = |record: &ControlRecord| *record == ControlRecord::KraftVoters(vec![voter.clone()]);
        assert!(control.iter().any(is_voter), "step {step}: {control:?}");
        let state = String::from_utf8(read(disk, QUORUM_STATE)).unwrap();
        assert!(state.contains(r#""data_version":1"#), "step {step}: {state}");
    });
    with_power_cuts(&formatted(None, &bootstrap_records()), |disk, step| {
        let state = String::from_utf8(read(disk, QUORUM_STATE)).unwrap();
        assert!(state.contains(r#""data_version":0"#), "step {step}: {state}");
        let (records, _) = records_in_log(disk);
        let level = bootstrap_records()[0].clone();
        assert!(records.contains(&level), "step {step}: {records:?}");
    });
}

#[test]
fn a_start_whose_power_fails_loses_nothing_that_was_there() {
    with_power_cuts(&directory(), |disk, step| {
        assert_eq!(starts(disk), ["a"], "step {step}");
    });
}
