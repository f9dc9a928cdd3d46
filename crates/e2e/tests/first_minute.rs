//! The first minute with the binary: what goes wrong is said in one clear line, and stopping is clean.

use klamm_e2e::broker::{self, Broker, Options};
use klamm_e2e::clients;
use klamm_e2e::process::{Finished, run};
use klamm_e2e::skip;
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
const CLEAN_MARKER: &str = ".kafka_cleanshutdown";

/// Starts what cannot start, and checks that it ends quickly with one clear line naming `words`.
fn refused(command: &mut Command, words: &[&str]) {
    let Finished { status, stdout, stderr } = run(command, b"", LIMIT);
    assert!(!status.success(), "it started\nstdout:\n{stdout}\nstderr:\n{stderr}");
    assert!(status.code().is_some(), "ended by a signal: {status}\n{stderr}");
    assert!(!stderr.contains("panicked at"), "a panic is not a message:\n{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line but:\n{stderr}") };
    assert!(line.starts_with("klamm: "), "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "the line does not say all of {words:?}:\n{line}");
    assert!(stdout.is_empty(), "nothing serves, so nothing is announced:\n{stdout}");
}

/// A directory that a broker has used and left cleanly, and the folder that keeps it alive.
fn used_directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = broker::folder();
    let data = folder.path().join("data");
    assert!(Options::new(&data).start().stop_gracefully().success());
    (folder, data)
}

#[test]
fn a_taken_port_is_named() {
    let folder = broker::folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    refused(
        &mut Options::new(&folder.path().join("data")).port(port).command(),
        &[&port.to_string(), "in use"],
    );
}

#[test]
fn a_locked_directory_is_named() {
    let folder = broker::folder();
    let data = folder.path().join("data");
    let _first = Options::new(&data).start();
    refused(&mut Options::new(&data).command(), &[data.to_str().expect("UTF-8"), "lock"]);
}

#[test]
fn a_killed_broker_leaves_no_lock() {
    let folder = broker::folder();
    let options = Options::new(&folder.path().join("data"));
    options.start().kill_9();
    assert!(options.start().stop_gracefully().success());
}

/// What an operator reads after a crash, in a file or a journal: words, no control characters.
#[test]
fn a_start_after_a_kill_says_so_in_plain_text() {
    let folder = broker::folder();
    let data = folder.path().join("data");
    let options = Options::new(&data);
    let broker = options.start();
    produce(&broker, "kept");
    broker.kill_9();
    let broker = options.start();
    let deadline = Instant::now() + LIMIT;
    let said = broker
        .stderr()
        .expect("our own broker")
        .wait_for(deadline, |line| line.contains("the last stop was not clean").then(|| line.to_owned()));
    let said = said.expect("a line about the stop");
    assert!(said.contains(data.to_str().expect("UTF-8")) && said.contains("partitions=1"), "{said}");
    assert!(!broker.output().contains('\u{1b}'), "{:?}", broker.output());
    assert!(broker.stop_gracefully().success());
    let broker = options.start();
    assert!(!broker.output().contains("not clean"), "{}", broker.output());
}

#[test]
fn a_bad_log_filter_is_named() {
    let folder = broker::folder();
    let mut command = Options::new(&folder.path().join("data")).command();
    command.env("KLAMM_LOG", "klamm_broker=loud");
    refused(&mut command, &["KLAMM_LOG", "klamm_broker=loud"]);
}

#[test]
fn a_directory_of_another_node_is_refused() {
    let (_folder, data) = used_directory();
    refused(&mut Options::new(&data).set("node.id", 77).command(), &["node.id", "77"]);
    // Nothing was changed by trying.
    assert!(Options::new(&data).start().stop_gracefully().success());
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let (_folder, data) = used_directory();
    let (_other_folder, other) = used_directory();
    // Two directories of two clusters cannot serve one broker.
    let both = format!("{},{}", data.display(), other.display());
    refused(&mut Options::new(Path::new(&both)).command(), &["cluster"]);
}

#[test]
fn a_directory_with_something_else_is_refused_and_left_alone() {
    let folder = broker::folder();
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("make a directory");
    fs::write(data.join("diary.txt"), "dear diary").expect("write a file");
    refused(&mut Options::new(&data).command(), &[data.to_str().expect("UTF-8"), "meta.properties"]);
    let names: Vec<_> =
        fs::read_dir(&data).expect("list").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["diary.txt"]);
}

#[test]
fn an_unreadable_directory_is_named() {
    let folder = broker::folder();
    let data = folder.path().join("data");
    if rustix::process::geteuid().is_root() {
        // Root reads everything: a file in the directory's place is refused to it as well.
        fs::write(&data, "not a directory").expect("write a file");
    } else {
        fs::create_dir(&data).expect("make a directory");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).expect("lock it up");
    }
    refused(&mut Options::new(&data).command(), &[data.to_str().expect("UTF-8")]);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("open it again");
}

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    let folder = broker::folder();
    let options = Options::new(&folder.path().join("data"));
    refused(&mut options.clone().set("num.partitions", 0).command(), &["num.partitions", "0"]);
    refused(&mut options.clone().set("num.partitions", "many").command(), &["num.partitions", "many"]);
    let mut no_value = options.command();
    no_value.args(["--set", "num.partitions"]);
    refused(&mut no_value, &["num.partitions"]);
    assert!(!folder.path().join("data/meta.properties").exists(), "a refused start leaves nothing behind");
}

#[test]
fn a_bad_value_in_a_file_is_named_with_its_line() {
    let folder = broker::folder();
    let file = folder.path().join("server.properties");
    fs::write(&file, "# a comment\nnode.id=1\nlog.segment.bytes=tiny\n").expect("write the file");
    let mut command = Options::new(&folder.path().join("data")).command();
    command.arg("--config").arg(&file);
    refused(&mut command, &["server.properties", "3", "log.segment.bytes", "tiny"]);
    let mut missing = Options::new(&folder.path().join("data")).command();
    missing.arg("--config").arg(folder.path().join("gone.properties"));
    refused(&mut missing, &["gone.properties"]);
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_known_one() {
    let folder = broker::folder();
    let broker = Options::new(&folder.path().join("data")).set("num.partition", 3).start();
    let output = broker.output();
    let said = output.lines().any(|line| line.contains("num.partition") && line.contains("num.partitions"));
    assert!(said, "{output}");
}

/// Asking for security and getting none is worse than not starting.
#[test]
fn security_that_is_not_there_stops_the_start() {
    let folder = broker::folder();
    let options = Options::new(&folder.path().join("data"));
    let authorizer = options.clone().set("authorizer.class.name", "com.example.NoSuchAuthorizer");
    refused(&mut authorizer.command(), &["authorizer.class.name"]);
}

#[test]
fn a_bare_command_prints_help() {
    let bare = run(&mut Command::new(klamm_e2e::binary::klamm()), b"", LIMIT);
    assert!(format!("{}{}", bare.stdout, bare.stderr).contains("serve"), "{bare:?}");
    let version = run(Command::new(klamm_e2e::binary::klamm()).arg("--version"), b"", LIMIT).success();
    assert!(version.starts_with("klamm "), "{version}");
    let unknown = run(Command::new(klamm_e2e::binary::klamm()).arg("swim"), b"", LIMIT);
    assert!(!unknown.status.success() && unknown.stderr.contains("swim"), "{unknown:?}");
}

#[test]
fn sigterm_and_sigint_stop_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = broker::folder();
        let data = folder.path().join("data");
        let options = Options::new(&data);
        let broker = options.start();
        assert!(!data.join(CLEAN_MARKER).exists(), "a running broker is not clean");
        produce(&broker, "kept");
        let status = broker.signal_and_wait(signal);
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert!(data.join(CLEAN_MARKER).exists(), "{signal:?}: no {CLEAN_MARKER}");
        let broker = options.start();
        assert!(!data.join(CLEAN_MARKER).exists(), "the next start takes the marker away");
        let offset = rdkafka::topic_partition_list::Offset::Beginning;
        assert_eq!(clients::read_partition(&broker.bootstrap(), "kept", 0, offset).len(), 10);
    }
}

/// A client that waits for records does not hold the stop up.
#[test]
fn a_waiting_fetch_does_not_delay_the_stop() {
    let broker = Broker::start();
    if broker.process_id().is_none() {
        return skip::note("a_waiting_fetch_does_not_delay_the_stop", "the broker is not ours to stop");
    }
    produce(&broker, "idle");
    let consumer = clients::consumer(
        &broker.bootstrap(),
        &[("fetch.wait.max.ms", "10000"), ("socket.timeout.ms", "60000")],
    );
    clients::assign(&consumer, "idle", 0, rdkafka::topic_partition_list::Offset::Beginning);
    let mut count = 0;
    clients::read_to_end(&consumer, |_| count += 1);
    assert_eq!(count, 10);
    let begun = Instant::now();
    assert!(broker.stop_gracefully().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "the stop took {:?}", begun.elapsed());
}

fn produce(broker: &Broker, topic: &str) {
    use rdkafka::producer::{BaseRecord, Producer};
    clients::create_topic(&broker.bootstrap(), topic, 1, &[]);
    let producer = clients::producer(&broker.bootstrap(), &[]);
    for number in 0..10 {
        let record = BaseRecord::with_opaque_to(topic, Box::new(number)).partition(0).payload(&b"value"[..]);
        clients::send(&producer, record);
    }
    clients::flush(&producer);
    assert_eq!(producer.context().count(), 10);
}
