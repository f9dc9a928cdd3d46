//! Kafka's own command line tools (Java) against the broker, and on the files it leaves.

use klamm_e2e::broker::{self, Broker, Options};
use klamm_e2e::clients::{self, unique_topic};
use klamm_e2e::java::Tools;
use klamm_e2e::pages::commands_of;
use klamm_e2e::process;
use klamm_e2e::skip;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
const API_VERSIONS: &str = "org.apache.kafka.tools.BrokerApiVersionsCommand";
const DUMP_LOG: &str = "org.apache.kafka.tools.DumpLogSegments";

/// Runs a tool against a broker and returns what it printed; it must succeed.
fn tool(tools: &Tools, class: &str, broker: &Broker, arguments: &[&str], stdin: &str) -> String {
    let bootstrap = broker.bootstrap();
    let mut all = vec!["--bootstrap-server", &bootstrap];
    all.extend_from_slice(arguments);
    tools.run(class, &all, stdin.as_bytes()).success()
}

#[test]
fn the_quick_start_works_as_written() {
    let Some(tools) = Tools::need("the_quick_start_works_as_written") else { return };
    let broker = Broker::start();
    let topic = unique_topic("quick");
    // A folder that looks like the distribution's.
    let distribution = broker::folder();
    let scripts = distribution.path().join("bin");
    std::fs::create_dir(&scripts).expect("make bin");
    for (name, class) in [
        ("kafka-topics.sh", TOPICS),
        ("kafka-console-producer.sh", PRODUCER),
        ("kafka-console-consumer.sh", CONSUMER),
        ("kafka-get-offsets.sh", OFFSETS),
    ] {
        let script = scripts.join(name);
        std::fs::write(&script, tools.script(class)).expect("write a script");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("may run");
    }
    let outputs: Vec<String> = commands_of("docs/quick-start.md", "bin/kafka-")
        .iter()
        .map(|command| command.replace("127.0.0.1:9092", &broker.bootstrap()).replace("lines", &topic))
        .map(|command| {
            let mut shell = Command::new("bash");
            shell.args(["-euo", "pipefail", "-c", &command]).current_dir(distribution.path());
            process::run(&mut shell, b"", Duration::from_secs(90)).success()
        })
        .collect();
    let [created, _, records, of_group, end] = &outputs[..] else {
        panic!("the page has other commands: {outputs:?}")
    };
    assert!(created.contains(&format!("Created topic {topic}.")), "{created}");
    assert_eq!(records, "1\n2\n3\n4\n5\n");
    assert_eq!(of_group, records);
    assert_eq!(end.trim(), format!("{topic}:0:5"));
}

#[test]
fn topics_and_configurations() {
    let Some(tools) = Tools::need("topics_and_configurations") else { return };
    let broker = Broker::start();
    let topic = unique_topic("java");
    let run = |class: &str, arguments: &[&str]| tool(&tools, class, &broker, arguments, "");

    let created =
        run(TOPICS, &["--create", "--topic", &topic, "--partitions", "3", "--config", "retention.ms=60000"]);
    assert!(created.contains(&format!("Created topic {topic}.")), "{created}");
    assert!(run(TOPICS, &["--list"]).lines().any(|line| line == topic));
    let described = run(TOPICS, &["--describe", "--topic", &topic]);
    assert!(
        described.contains("PartitionCount: 3") && described.contains("retention.ms=60000"),
        "{described}"
    );
    assert_eq!(described.matches("Isr: ").count(), 3, "{described}");
    run(TOPICS, &["--alter", "--topic", &topic, "--partitions", "5"]);

    let entity = ["--entity-type", "topics", "--entity-name", &topic];
    let alter = [
        &entity[..],
        &["--alter", "--add-config", "segment.bytes=1048576", "--delete-config", "retention.ms"],
    ];
    run(CONFIGS, &alter.concat());
    let described = run(CONFIGS, &[&entity[..], &["--describe"]].concat());
    assert!(
        described.contains("segment.bytes=1048576") && !described.contains("retention.ms=60000"),
        "{described}"
    );
    let described = run(TOPICS, &["--describe", "--topic", &topic]);
    assert!(described.contains("PartitionCount: 5"), "{described}");

    run(TOPICS, &["--delete", "--topic", &topic]);
    assert!(!run(TOPICS, &["--list"]).lines().any(|line| line == topic));
}

#[test]
fn console_producer_and_consumer() {
    let Some(tools) = Tools::need("console_producer_and_consumer") else { return };
    let broker = Broker::start();
    let topic = unique_topic("console");
    clients::create_topic(&broker.bootstrap(), &topic, 1, &[]);
    let run = |class: &str, arguments: &[&str], stdin: &str| tool(&tools, class, &broker, arguments, stdin);
    let lines: String = (0..200).map(|n| format!("key{n}:value {n}\n")).collect();
    let keyed =
        ["--topic", &topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=:"];
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        run(PRODUCER, &[&keyed[..], &["--compression-codec", codec]].concat(), &lines);
    }
    // A partition and an offset, no group.
    let from = ["--topic", &topic, "--partition", "0", "--offset", "earliest", "--max-messages", "1000"];
    let format = [
        "--formatter-property",
        "print.key=true",
        "--formatter-property",
        "key.separator=:",
        "--timeout-ms",
        "30000",
    ];
    let consumed = run(CONSUMER, &[&from[..], &format].concat(), "");
    assert_eq!(consumed, lines.repeat(5));

    let offsets = run(OFFSETS, &["--topic", &topic], "");
    assert_eq!(offsets.trim(), format!("{topic}:0:1000"));
    let folder = broker::folder();
    let file = folder.path().join("delete.json");
    let json = format!(r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":250}}],"version":1}}"#);
    std::fs::write(&file, json).expect("write the file");
    let deleted = run(DELETE_RECORDS, &["--offset-json-file", file.to_str().expect("UTF-8")], "");
    assert!(deleted.contains("low_watermark: 250"), "{deleted}");
    let earliest = run(OFFSETS, &["--topic", &topic, "--time", "earliest"], "");
    assert_eq!(earliest.trim(), format!("{topic}:0:250"));
}

#[test]
fn api_versions_are_understood() {
    let Some(tools) = Tools::need("api_versions_are_understood") else { return };
    let broker = Broker::start();
    let versions = tool(&tools, API_VERSIONS, &broker, &[], "");
    for api in ["Produce(0)", "Fetch(1)", "ListOffsets(2)", "Metadata(3)", "CreateTopics(19)"] {
        let line = versions
            .lines()
            .find(|line| line.contains(api))
            .unwrap_or_else(|| panic!("no {api}:\n{versions}"));
        assert!(line.contains("usable:"), "{line}");
    }
}

/// Kafka's dump tool reads what a stopped broker leaves: a partition's log and the metadata log.
#[test]
fn the_dump_tool_reads_our_files() {
    let Some(tools) = Tools::need("the_dump_tool_reads_our_files") else { return };
    if broker::outside().is_some() {
        return skip::note("the_dump_tool_reads_our_files", "the broker's directory is not ours");
    }
    let folder = broker::folder();
    let data = folder.path().join("data");
    let options = Options::new(&data);
    let broker = options.start();
    clients::create_topic(&broker.bootstrap(), "dumped", 1, &[("retention.ms", "777000")]);
    let lines: String = (0..50).map(|n| format!("value {n}\n")).collect();
    tool(&tools, PRODUCER, &broker, &["--topic", "dumped"], &lines);
    assert!(broker.stop_gracefully().success());

    let dump = |path: &Path, more: &[&str]| {
        let mut arguments = vec!["--files", path.to_str().expect("UTF-8")];
        arguments.extend_from_slice(more);
        tools.run(DUMP_LOG, &arguments, b"").success()
    };
    let records = dump(&first_file(&data.join("dumped-0"), "log"), &["--print-data-log"]);
    assert_eq!(records.matches("payload: value ").count(), 50, "{records}");
    assert!(!records.contains("isvalid: false"), "{records}");
    for index in ["index", "timeindex"] {
        let dumped = dump(&first_file(&data.join("dumped-0"), index), &["--index-sanity-check"]);
        assert!(!dumped.contains("mismatch") && !dumped.contains("out of order"), "{dumped}");
    }
    let metadata =
        dump(&first_file(&data.join("__cluster_metadata-0"), "log"), &["--cluster-metadata-decoder"]);
    for record in [
        "FEATURE_LEVEL_RECORD",
        "REGISTER_BROKER_RECORD",
        "TOPIC_RECORD",
        "PARTITION_RECORD",
        "CONFIG_RECORD",
    ] {
        assert!(metadata.contains(record), "no {record}:\n{metadata}");
    }
    assert!(metadata.contains("dumped") && metadata.contains("777000"), "{metadata}");
    assert!(!metadata.contains("could not"), "{metadata}");
}

fn first_file(folder: &Path, extension: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files.into_iter().next().unwrap_or_else(|| panic!("no .{extension} in {}", folder.display()))
}
