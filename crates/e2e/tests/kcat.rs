//! Debian's kcat (librdkafka 2.0) against the broker: first the quick start's own commands, then what people type.

use klamm_e2e::broker::Broker;
use klamm_e2e::clients::unique_topic;
use klamm_e2e::pages::commands_of;
use klamm_e2e::process::run;
use klamm_e2e::skip;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

fn shell(line: &str, stdin: &[u8]) -> String {
    run(Command::new("bash").args(["-euo", "pipefail", "-c", line]), stdin, LIMIT).success()
}

#[test]
fn the_quick_start_works_as_written() {
    let Some(_) = skip::need("the_quick_start_works_as_written", "kcat") else { return };
    let broker = Broker::start();
    let topic = unique_topic("hello");
    let outputs: Vec<String> = commands_of("docs/quick-start.md", "kcat")
        .iter()
        // Only the port (and the topic, where the broker is shared) differ from what the page says.
        .map(|command| command.replace("127.0.0.1:9092", &broker.bootstrap()).replace("hello", &topic))
        .map(|command| shell(&command, b""))
        .collect();
    let [listing, _, records] = &outputs[..] else { panic!("the page has other commands: {outputs:?}") };
    assert!(listing.contains(" brokers:\n") && listing.contains(&broker.bootstrap()), "{listing}");
    let mut lines: Vec<&str> = records.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1", "2", "3", "4", "5"]);
}

#[test]
fn keys_headers_and_formats() {
    let Some(_) = skip::need("keys_headers_and_formats", "kcat") else { return };
    let broker = Broker::start();
    let (kcat, topic) = (format!("kcat -b {}", broker.bootstrap()), unique_topic("kcat"));
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        shell(&format!("{kcat} -t {topic} -p 0 -P -z {codec} -K: -H codec={codec}"), b"a:1\nb:2\n");
    }
    let records = shell(&format!("{kcat} -t {topic} -p 0 -C -o beginning -e -q -f '%o %k=%s %h\\n'"), b"");
    let expected: String = ["none", "gzip", "snappy", "lz4", "zstd"]
        .iter()
        .enumerate()
        .map(|(n, codec)| format!("{} a=1 codec={codec}\n{} b=2 codec={codec}\n", 2 * n, 2 * n + 1))
        .collect();
    assert_eq!(records, expected);
    assert_eq!(shell(&format!("{kcat} -t {topic} -p 0 -C -o -2 -e -q"), b""), "1\n2\n");
    assert_eq!(shell(&format!("{kcat} -t {topic} -p 0 -C -o 3 -c 1 -q"), b""), "2\n");
    let offsets = shell(&format!("{kcat} -Q -t {topic}:0:-1 -t {topic}:0:-2"), b"");
    assert!(offsets.contains("offset 10") || offsets.contains("offset 0"), "{offsets}");
}

#[test]
fn the_listing_names_topics_and_their_leader() {
    let Some(_) = skip::need("the_listing_names_topics_and_their_leader", "kcat") else { return };
    let broker = Broker::start();
    let topic = unique_topic("listed");
    klamm_e2e::clients::create_topic(&broker.bootstrap(), &topic, 2, &[]);
    let listing = shell(&format!("kcat -b {} -L -t {topic}", broker.bootstrap()), b"");
    assert!(listing.contains(&format!("topic \"{topic}\" with 2 partitions:")), "{listing}");
    assert_eq!(listing.matches("isrs:").count(), 2, "{listing}");
    let json = shell(&format!("kcat -b {} -L -J -t {topic}", broker.bootstrap()), b"");
    assert!(json.contains("\"partitions\":[{\"partition\":0"), "{json}");
}
