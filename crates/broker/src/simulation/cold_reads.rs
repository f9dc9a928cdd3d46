//! Old segments that no longer lie in memory: they are read where that may wait, whatever of them is cold. The simulated
//! disk refuses a wait anywhere else.

use std::path::{Path, PathBuf};

use klamm_log::disk::{OpenMode, Residency};
use klamm_protocol::messages::create_topics::CreatableTopicConfig;

use super::*;
use crate::fetch::rooms::ROOMS_PER_REQUEST_MAX;

const READ_COMMITTED: i8 = 1;
const FETCH_VERSION: i16 = 11;

/// Nine records in segments of two batches.
async fn fill(host: SimHost) {
    let values: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    fill_with(host, 1, "150", &values).await;
}

/// The same values in each partition.
async fn fill_with(host: SimHost, partitions: i32, segment_bytes: &str, values: &[String]) {
    let running = start(&host).await;
    let mut client = Client::connect(&host, &running);
    let config = CreatableTopicConfig {
        name: "internal.segment.bytes".into(),
        value: Some(segment_bytes.to_owned().into()),
        ..Default::default()
    };
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: partitions,
        replication_factor: 1,
        configs: vec![config],
        ..Default::default()
    };
    let response = client.call(&CreateTopicsRequest { topics: vec![topic], ..Default::default() }, 5).await;
    assert_eq!(response.topics[0].error_code, 0);
    for partition in 0..partitions {
        for value in values {
            base_offset(&client.call(&produce_request("t", partition, batch(&[value])), 9).await);
        }
    }
    drop(client);
    assert!(running.stop().await);
}

fn files(disk: &MemoryDisk, partition: i32, suffix: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(format!("/data/t-{partition}"));
    let names = disk.list_dir(&dir).expect("is there").into_iter().map(|entry| entry.name);
    names.filter(|name| name.ends_with(suffix)).map(|name| dir.join(name)).collect()
}

fn evict(disk: &MemoryDisk, suffix: &str) {
    files(disk, 0, suffix).iter().for_each(|path| disk.evict(path));
}

fn is_cold(disk: &MemoryDisk, path: &Path) -> bool {
    let file = disk.open(path, OpenMode::Read).expect("is there");
    file.residency(0, file.len().expect("is known")) == Residency::Cold
}

/// Each fetch gives one segment; all of them, one after another.
async fn read_all(client: &mut Client, isolation_level: i8) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < 9 {
        let offset = i64::try_from(seen.len()).expect("small");
        let request = FetchRequest { isolation_level, ..fetch_request("t", 0, offset, 0) };
        let found = values(&client.call(&request, FETCH_VERSION).await);
        assert!(!found.is_empty(), "at offset {offset}");
        seen.extend(found);
    }
    seen
}

#[test]
fn no_worker_waits_for_a_cold_segment_and_a_hot_one_needs_no_other_thread() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), fill);
    let evicted = disk.clone();
    let (seen, trace) = sim::run_on(2, disk, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        let mut seen = Vec::new();
        // Whatever is cold: the batches, the way to them, or both.
        for suffix in [".log", ".index", ""] {
            for isolation_level in [0, READ_COMMITTED] {
                evict(&evicted, suffix);
                host.note(format_args!("cold"));
                seen.push(read_all(&mut client, isolation_level).await);
                host.note(format_args!("hot"));
                seen.push(read_all(&mut client, isolation_level).await);
                host.note(format_args!("done"));
            }
        }
        drop(client);
        assert!(running.stop().await);
        seen
    });
    assert_eq!(seen.len(), 12);
    for values in seen {
        assert_eq!(values, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    }
    let offloaded = |state: &str| {
        let runs = trace.iter().skip_while(|line| !line.ends_with(state));
        runs.take_while(|line| !line.ends_with("done"))
            .filter(|line| line.contains("offload ColdRead"))
            .count()
    };
    assert!(offloaded(" cold") >= 5, "{trace:#?}");
    assert_eq!(offloaded(" hot"), 0, "{trace:#?}");
}

#[test]
fn what_would_not_fit_any_more_is_not_looked_for() {
    let disk = Arc::new(MemoryDisk::default());
    sim::run_on(1, disk.clone(), fill);
    let evicted = disk.clone();
    let (response, trace) = sim::run_on(2, disk, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        client.create_topic("hot", 1).await;
        base_offset(&client.call(&produce_request("hot", 0, batch(&["h"])), 9).await);
        evict(&evicted, "");
        let mut request = fetch_request("hot", 0, 0, 0);
        request.topics.extend(fetch_request("t", 0, 0, 0).topics);
        request.max_bytes = 1;
        host.note(format_args!("asked"));
        let response = client.call(&request, FETCH_VERSION).await;
        drop(client);
        assert!(running.stop().await);
        response
    });
    assert_eq!(values(&response), ["h"]);
    let without_room = &response.responses[1].partitions[0];
    assert_eq!((without_room.error_code, without_room.high_watermark), (0, 9));
    let mut asked = trace.iter().skip_while(|line| !line.ends_with("asked"));
    assert!(!asked.any(|line| line.contains("offload ColdRead")), "{trace:#?}");
}

#[test]
fn what_is_read_of_an_old_segment_does_not_fill_the_page_cache() {
    let disk = Arc::new(MemoryDisk::default());
    // Longer than what a look for a batch brings into memory.
    let values_of: Vec<String> = (0..9).map(|number| number.to_string().repeat(20_000)).collect();
    let filled = values_of.clone();
    sim::run_on(1, disk.clone(), |host| async move { fill_with(host, 1, "50000", &filled).await });
    for isolation_level in [0, READ_COMMITTED] {
        let shared = disk.fork();
        let read = Arc::new(shared.clone());
        let ((seen, cold_count), _) = sim::run_on(2, read, |host| async move {
            let running = start(&host).await;
            let mut client = Client::connect(&host, &running);
            evict(&shared, ".log");
            let seen = read_all(&mut client, isolation_level).await;
            drop(client);
            assert!(running.stop().await);
            (seen, files(&shared, 0, ".log").iter().filter(|path| is_cold(&shared, path)).count())
        });
        assert_eq!(seen, values_of);
        assert_eq!(cold_count, 4, "all segments but the active one");
    }
}

#[test]
fn a_request_has_so_many_rooms_and_the_rest_through_the_page_cache() {
    const PARTITIONS: i32 = 6;
    let disk = Arc::new(MemoryDisk::default());
    let values_of: Vec<String> = (0..3).map(|number| number.to_string().repeat(20_000)).collect();
    sim::run_on(
        1,
        disk.clone(),
        |host| async move { fill_with(host, PARTITIONS, "50000", &values_of).await },
    );
    let shared = disk.clone();
    let (past_cache, _) = sim::run_on(2, disk, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        let first: Vec<PathBuf> =
            (0..PARTITIONS).map(|index| files(&shared, index, ".log").remove(0)).collect();
        first.iter().for_each(|path| shared.evict(path));
        let mut request = fetch_request("t", 0, 0, 0);
        let others =
            (1..PARTITIONS).flat_map(|index| fetch_request("t", index, 0, 0).topics.remove(0).partitions);
        request.topics[0].partitions.extend(others);
        // What lies cold counts for all that it may be.
        request.max_bytes = 50 << 20;
        let response = client.call(&request, FETCH_VERSION).await;
        let partitions = &response.responses[0].partitions;
        assert_eq!(partitions.len(), first.len());
        for partition in partitions {
            assert!(matches!(&partition.records, Some(Records::Inline(bytes)) if bytes.len() > 40_000));
        }
        drop(client);
        assert!(running.stop().await);
        first.iter().filter(|path| is_cold(&shared, path)).count()
    });
    assert_eq!(past_cache, ROOMS_PER_REQUEST_MAX);
}
