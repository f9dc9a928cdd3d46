//! Kafka's own command line tools, fetched once from Maven Central.

use crate::process::{Finished, run};
use crate::skip;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The Kafka release whose tools are used.
pub const KAFKA_VERSION: &str = "4.3.1";

/// A tool starts a virtual machine on a machine that is busy with other tests.
const TOOL_TIMEOUT: Duration = Duration::from_secs(90);
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// Kafka's tools, ready to run.
#[derive(Clone, Debug)]
pub struct Tools {
    java: PathBuf,
    home: PathBuf,
}

impl Tools {
    /// The tools, or `None` after noting that the test `name` is skipped because Java or Maven is missing.
    ///
    /// # Panics
    /// When the jars cannot be fetched, and with `CI=true` when a program is missing.
    pub fn need(name: &str) -> Option<Self> {
        let java = skip::need(name, "java")?;
        let cache =
            std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from).join(".cache/klamm-test");
        let home = cache.join(format!("kafka-{KAFKA_VERSION}"));
        static FETCH: Mutex<()> = Mutex::new(());
        let _one_at_a_time = FETCH.lock().unwrap_or_else(PoisonError::into_inner);
        if !home.join("complete").exists() {
            fetch(&skip::need(name, "mvn")?, &home);
        }
        Some(Self { java, home })
    }

    /// A shell script that does what the distribution's script of the same name does: runs `class`.
    pub fn script(&self, class: &str) -> String {
        format!(
            "#!/bin/sh\nexec '{}' -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
             '-Dlog4j2.configurationFile={home}/log4j2.yaml' -cp '{home}/libs/*' {class} \"$@\"\n",
            self.java.display(),
            home = self.home.display(),
        )
    }

    /// The command that runs the main class `class`, not yet started.
    pub fn command(&self, class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command
            // Quick to start, small: a dozen of these run beside each other on two cores.
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .arg(format!("-Dlog4j2.configurationFile={}", self.home.join("log4j2.yaml").display()))
            .arg("-cp")
            .arg(format!("{}/*", self.home.join("libs").display()))
            .arg(class);
        command
    }

    /// Runs the main class `class` to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn run(&self, class: &str, arguments: &[&str], stdin: &[u8]) -> Finished {
        run(self.command(class).args(arguments), stdin, TOOL_TIMEOUT)
    }
}

/// Fetches into a folder of its own and renames it at the end, so that parallel test processes cannot mix.
fn fetch(mvn: &Path, home: &Path) {
    let cache = home.parent().expect("a cache folder");
    std::fs::create_dir_all(cache).expect("make the cache folder");
    let staging = tempfile::Builder::new().prefix("fetch-").tempdir_in(cache).expect("make a folder");
    let dependency = |group: &str, name: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        )
    };
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>test</groupId><artifactId>tools</artifactId><version>1</version><dependencies>{}{}{}{}</dependencies></project>",
        dependency("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        dependency("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.3"),
        dependency("org.apache.logging.log4j", "log4j-core", "2.25.3"),
    );
    let log = "Configuration:\n  Appenders:\n    Console: {name: STDERR, target: SYSTEM_ERR}\n  \
               Loggers:\n    Root: {level: WARN, AppenderRef: {ref: STDERR}}\n";
    std::fs::write(staging.path().join("pom.xml"), pom).expect("write pom.xml");
    std::fs::write(staging.path().join("log4j2.yaml"), log).expect("write log4j2.yaml");
    let mut command = Command::new(mvn);
    command
        .args([
            "-q",
            "-B",
            "dependency:copy-dependencies",
            "-DoutputDirectory=libs",
            "-DincludeScope=runtime",
        ])
        .current_dir(staging.path());
    run(&mut command, b"", FETCH_TIMEOUT).success();
    std::fs::write(staging.path().join("complete"), "").expect("mark as complete");
    // Another process may have been first: then its folder is as good.
    if std::fs::rename(staging.path(), home).is_ok() {
        let _moved = staging.keep();
    }
}
