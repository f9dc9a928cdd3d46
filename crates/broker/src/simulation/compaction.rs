//! Compaction as a client sees it: superseded values go, the last ones stay, and what cannot be
//! cleaned is skipped.

use std::path::{Path, PathBuf};

use klamm_protocol::messages::create_topics::CreatableTopicConfig;

use super::*;

async fn create_compacted(client: &mut Client, name: &str) {
    let config = |name: &str, value: &str| CreatableTopicConfig {
        name: name.to_owned().into(),
        value: Some(value.to_owned().into()),
        ..Default::default()
    };
    let topic = CreatableTopic {
        name: name.to_owned().into(),
        num_partitions: 1,
        replication_factor: 1,
        configs: vec![config("cleanup.policy", "compact"), config("internal.segment.bytes", "1000")],
        ..Default::default()
    };
    let response = client.call(&CreateTopicsRequest { topics: vec![topic], ..Default::default() }, 5).await;
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
}

/// Five keys, said again and again.
async fn fill(client: &mut Client, topic: &str, rounds: std::ops::Range<i32>) {
    for round in rounds {
        for key in 0..5 {
            let mut builder = BatchBuilder::new();
            let value = format!("{key}={round} {}", "x".repeat(60));
            builder.push(sim::WALL_START_MS, Some(&[key]), Some(value.as_bytes()), &[]);
            base_offset(&client.call(&produce_request(topic, 0, builder.build()), 9).await);
        }
    }
}

async fn seen(client: &mut Client, topic: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut offset = 0;
    loop {
        let response = client.call(&fetch_request(topic, 0, offset, 0), 11).await;
        let Some(Records::Inline(bytes)) = &response.responses[0].partitions[0].records else { break };
        let before = offset;
        for scanned in scan_batches(bytes) {
            let Ok(Scanned::Batch(batch)) = scanned else { panic!("a whole batch of magic 2") };
            offset = batch.header.next_offset().0;
        }
        seen.extend(values(&response).iter().map(|value| value.split(' ').next().unwrap().to_owned()));
        if offset == before {
            break;
        }
    }
    seen
}

fn metric(running: &Running<SimHost>, name: &str) -> i64 {
    let text = running.broker().render_metrics();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}

async fn pass_ms(host: &SimHost, ms: u64) {
    host.sleep_until(MonoMs(host.mono().0 + ms)).await;
}

const CHECKPOINT: &str = "/data/cleaner-offset-checkpoint";

#[test]
fn a_compacted_topic_keeps_the_last_values() {
    let disk = Arc::new(MemoryDisk::default());
    let reading = disk.clone();
    sim::run_on(1, disk.clone(), |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        create_compacted(&mut client, "t").await;
        fill(&mut client, "t", 0..30).await;
        assert_eq!(seen(&mut client, "t").await.len(), 150);
        pass_ms(&host, 16_000).await;
        let left = seen(&mut client, "t").await;
        assert!(left.len() < 20, "{left:?}");
        let last: Vec<String> = (0..5).map(|key| format!("{key}=29")).collect();
        assert_eq!(left[left.len() - 5..], last);
        assert_eq!(metric(&running, "klamm_cleaner_cleanings_total"), 1);
        assert_eq!(metric(&running, "klamm_cleaner_uncleanable_partitions"), 0);
        assert!(metric(&running, "klamm_cleaner_removed_bytes_total") > 10_000);
        assert!(metric(&running, "klamm_cleaner_since_last_run_ms") < 16_000);
        let text = String::from_utf8(reading.read_file(Path::new(CHECKPOINT), 999).unwrap()).unwrap();
        let end: i64 = text.strip_prefix("0\n1\nt 0 ").unwrap().trim().parse().unwrap();
        assert!((140..=150).contains(&end), "{text}");
        drop(client);
        assert!(running.stop().await);
    });
    let found: Vec<PathBuf> =
        disk.list_dir(Path::new("/data/t-0")).unwrap().into_iter().map(|entry| entry.name.into()).collect();
    assert!(
        !found.iter().any(|name| name.extension().is_some_and(|end| end == "cleaned" || end == "deleted"))
    );
    sim::run_on(2, disk, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        // The checkpoint is known again: nothing is new.
        pass_ms(&host, 60_000).await;
        assert_eq!(metric(&running, "klamm_cleaner_cleanings_total"), 0);
        fill(&mut client, "t", 30..31).await;
        let left = seen(&mut client, "t").await;
        assert!(left.len() < 25 && left.last().unwrap() == "4=30", "{left:?}");
    });
}

#[test]
fn a_log_that_cannot_be_cleaned_is_skipped_and_the_others_go_on() {
    let disk = Arc::new(MemoryDisk::default());
    let breaking = disk.clone();
    sim::run_on(1, disk, |host| async move {
        let running = start(&host).await;
        let mut client = Client::connect(&host, &running);
        for topic in ["broken", "whole"] {
            create_compacted(&mut client, topic).await;
            fill(&mut client, topic, 0..30).await;
        }
        let path = Path::new("/data/broken-0/00000000000000000000.log");
        breaking.tamper(path, |bytes| bytes[100] ^= 1).unwrap();
        pass_ms(&host, 40_000).await;
        assert_eq!(metric(&running, "klamm_cleaner_uncleanable_partitions"), 1);
        assert_eq!(metric(&running, "klamm_cleaner_cleanings_total"), 1);
        assert!(seen(&mut client, "whole").await.len() < 20);
        fill(&mut client, "broken", 30..31).await;
        drop(client);
        assert!(running.stop().await);
    });
}

#[test]
fn the_cleaner_can_be_slowed_down_and_turned_off() {
    sim::run(1, |host| async move {
        let slow = ["log.cleaner.io.max.bytes.per.second=100".to_owned()];
        let running = start_with(&host, &slow).await.unwrap();
        let mut client = Client::connect(&host, &running);
        create_compacted(&mut client, "t").await;
        fill(&mut client, "t", 0..30).await;
        // 20 kB are read twice, in pieces of a segment.
        pass_ms(&host, 60_000).await;
        assert_eq!(metric(&running, "klamm_cleaner_cleanings_total"), 0);
        pass_ms(&host, 900_000).await;
        assert_eq!(metric(&running, "klamm_cleaner_cleanings_total"), 1);
    });
    sim::run(1, |host| async move {
        let running = start_with(&host, &["log.cleaner.enable=false".to_owned()]).await.unwrap();
        let mut client = Client::connect(&host, &running);
        create_compacted(&mut client, "t").await;
        fill(&mut client, "t", 0..30).await;
        pass_ms(&host, 300_000).await;
        assert_eq!(seen(&mut client, "t").await.len(), 150);
    });
}
