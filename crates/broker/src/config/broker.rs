//! The broker's typed configuration.
//!
//! Holds what the broker reads today. What topics inherit (`log.*`, `message.max.bytes`, `compression.type`, …) is not
//! repeated here: `TopicConfig::effective` computes it from `layers`, so that a dynamic change needs no second home.

use std::{collections::BTreeMap, path::PathBuf};

use klamm_cluster::config::{ConfigLayers, validate_log_times};
use klamm_protocol::ids::NodeId;

use super::{
    consistency::{
        about_times, check_groups, check_per_ip_overrides, check_quorum, check_roles,
        inter_broker_listener_name, node_id, queued_bytes,
    },
    listeners::{HostPort, Listener, ListenerKeys, resolve_listeners},
    reader::Reader,
    sources::Given,
};

/// What the broker was told at start.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerConfig {
    /// `node.id`.
    pub node_id: NodeId,
    /// `log.dirs`, else `log.dir`.
    pub log_dirs: Vec<PathBuf>,
    /// `metadata.log.dir`; one of them, or a directory of its own.
    pub metadata_log_dir: PathBuf,
    /// The listeners to open.
    pub listeners: Vec<Listener>,
    /// The listeners named in `controller.listener.names`: not opened on one node, never advertised.
    pub controller_listeners: Vec<Listener>,
    /// `inter.broker.listener.name`, or the one that stands for it.
    pub inter_broker_listener_name: String,
    /// `klamm.http.listener`; `None`: off.
    pub http_listener: Option<HostPort>,
    /// `broker.rack`.
    pub broker_rack: Option<String>,
    /// `num.partitions`: of topics that are created without a number.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i32,
    /// `auto.create.topics.enable`.
    pub auto_create_topics_enable: bool,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// `connections.max.idle.ms`; negative: never.
    pub connections_max_idle_ms: i64,
    /// `socket.request.max.bytes`: the largest request.
    pub socket_request_max_bytes: i32,
    /// `queued.max.request.bytes`: memory for requests over all connections; never unbounded, unlike Kafka's.
    pub queued_max_request_bytes: i64,
    /// `fetch.max.bytes`: the largest fetch response.
    pub fetch_max_bytes: i32,
    /// `klamm.fetch.check.crcs`.
    pub fetch_check_crcs: FetchCheckCrcs,
    /// `max.incremental.fetch.session.cache.slots`.
    pub max_incremental_fetch_session_cache_slots: i32,
    /// `metadata.log.max.record.bytes.between.snapshots`.
    pub metadata_snapshot_after_bytes: u64,
    /// `log.retention.check.interval.ms`.
    pub log_retention_check_interval_ms: u64,
    /// `log.initial.task.delay.ms`: after the start, until retention is first looked at.
    pub log_initial_task_delay_ms: u64,
    /// `offsets.topic.*`: as the topic is created.
    pub offsets_topic: InternalTopicConfig,
    /// `transaction.state.log.*`: as the topic is created.
    pub transaction_state_log: InternalTopicConfig,
    /// `share.coordinator.state.topic.*`; not honoured yet.
    pub share_coordinator_state_topic: InternalTopicConfig,
    /// What was given, as text; dynamic layers are added while running.
    pub layers: ConfigLayers,
}

/// When batches that were checked before are checked again before they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchCheckCrcs {
    /// Once they were seen cold: what comes from the disk again may have changed there.
    Cold,
    /// Each time.
    Always,
}

/// The shape of an internal topic. Factors default to 1, as suits one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InternalTopicConfig {
    /// `….num.partitions`.
    pub num_partitions: i32,
    /// `….replication.factor`.
    pub replication_factor: i16,
    /// `….segment.bytes`.
    pub segment_bytes: i32,
    /// `….min.isr`, where the topic has such a key.
    pub min_insync_replicas: i32,
}

/// The key to change, and what is wrong.
pub(super) type Problem = (&'static str, String);

impl BrokerConfig {
    /// Builds the typed values from given ones that each pass their own check; also warnings.
    pub(super) fn build(
        given: &BTreeMap<String, Given>,
        host_name: Option<&str>,
    ) -> Result<(Self, Vec<String>), Problem> {
        let mut texts: BTreeMap<String, String> =
            given.iter().map(|(key, given)| (key.clone(), given.value.clone())).collect();
        let mut warnings = Vec::new();
        let node_id = node_id(&mut texts)?;
        let layers = ConfigLayers::new(texts);
        let read = Reader { layers: &layers };
        check_roles(&read)?;
        let (listeners, controller_listeners) = listeners(&read, host_name)?;
        check_quorum(&read, node_id, &controller_listeners)?;
        validate_log_times(&layers).map_err(about_times)?;
        check_groups(&read)?;
        let log_dirs = log_dirs(&read)?;
        let metadata_log_dir = metadata_log_dir(&read, &log_dirs);
        let socket_request_max_bytes = read.int("socket.request.max.bytes");
        check_per_ip_overrides(&read)?;
        let config = Self {
            node_id: NodeId(node_id),
            log_dirs,
            metadata_log_dir,
            inter_broker_listener_name: inter_broker_listener_name(&read, &listeners)?,
            listeners,
            controller_listeners,
            http_listener: http_listener(&read)?,
            broker_rack: read.text("broker.rack"),
            num_partitions: read.int("num.partitions"),
            default_replication_factor: read.int("default.replication.factor"),
            auto_create_topics_enable: read.flag("auto.create.topics.enable"),
            delete_topic_enable: read.flag("delete.topic.enable"),
            connections_max_idle_ms: read.long("connections.max.idle.ms"),
            socket_request_max_bytes,
            queued_max_request_bytes: queued_bytes(
                &read,
                i64::from(socket_request_max_bytes),
                &mut warnings,
            )?,
            fetch_max_bytes: read.int("fetch.max.bytes"),
            fetch_check_crcs: match read.text("klamm.fetch.check.crcs").as_deref() {
                Some("always") => FetchCheckCrcs::Always,
                _ => FetchCheckCrcs::Cold,
            },
            max_incremental_fetch_session_cache_slots: read.int("max.incremental.fetch.session.cache.slots"),
            metadata_snapshot_after_bytes: u64::try_from(
                read.long("metadata.log.max.record.bytes.between.snapshots"),
            )
            .unwrap_or(u64::MAX),
            log_retention_check_interval_ms: u64::try_from(read.long("log.retention.check.interval.ms"))
                .unwrap_or(1),
            log_initial_task_delay_ms: u64::try_from(read.long("log.initial.task.delay.ms")).unwrap_or(0),
            offsets_topic: InternalTopicConfig {
                num_partitions: read.int("offsets.topic.num.partitions"),
                replication_factor: read.short("offsets.topic.replication.factor"),
                segment_bytes: read.int("offsets.topic.segment.bytes"),
                min_insync_replicas: 1,
            },
            transaction_state_log: InternalTopicConfig {
                num_partitions: read.int("transaction.state.log.num.partitions"),
                replication_factor: read.short("transaction.state.log.replication.factor"),
                segment_bytes: read.int("transaction.state.log.segment.bytes"),
                min_insync_replicas: read.int("transaction.state.log.min.isr"),
            },
            share_coordinator_state_topic: InternalTopicConfig {
                num_partitions: read.int("share.coordinator.state.topic.num.partitions"),
                replication_factor: read.short("share.coordinator.state.topic.replication.factor"),
                segment_bytes: read.int("share.coordinator.state.topic.segment.bytes"),
                min_insync_replicas: read.int("share.coordinator.state.topic.min.isr"),
            },
            layers: layers.clone(),
        };
        Ok((config, warnings))
    }
}

fn listeners(read: &Reader<'_>, host_name: Option<&str>) -> Result<(Vec<Listener>, Vec<Listener>), Problem> {
    const MAP: &str = "listener.security.protocol.map";
    let protocols = read.text(MAP).unwrap_or_default();
    let keys = ListenerKeys {
        listeners: read.list("listeners").unwrap_or_default(),
        advertised: read.list("advertised.listeners"),
        protocols: &protocols,
        protocols_given: read.is_given(MAP),
        controller_names: read.list("controller.listener.names").unwrap_or_default(),
        host_name,
    };
    resolve_listeners(&keys).map_err(|problem| (problem.key, problem.problem))
}

fn log_dirs(read: &Reader<'_>) -> Result<Vec<PathBuf>, Problem> {
    let (key, dirs) = match read.list("log.dirs") {
        Some(dirs) => ("log.dirs", dirs),
        None => ("log.dir", read.list("log.dir").unwrap_or_default()),
    };
    let dirs: Vec<PathBuf> = dirs.into_iter().map(PathBuf::from).collect();
    if dirs.is_empty() {
        return Err((key, "names no directory".to_owned()));
    }
    Ok(dirs)
}

/// `metadata.log.dir`; without it the first of `log.dirs`, as in Kafka.
fn metadata_log_dir(read: &Reader<'_>, log_dirs: &[PathBuf]) -> PathBuf {
    let given = read.text("metadata.log.dir").filter(|dir| !dir.is_empty());
    given.map_or_else(|| log_dirs[0].clone(), PathBuf::from)
}

fn http_listener(read: &Reader<'_>) -> Result<Option<HostPort>, Problem> {
    let key = "klamm.http.listener";
    let Some(text) = read.text(key) else { return Ok(None) };
    match HostPort::parse(&text) {
        Some(address) => Ok(Some(address)),
        None => Err((key, format!("cannot read {text:?}; write host:port, or nothing to turn HTTP off"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            load::{Loaded, load},
            sources::Sources,
        },
        *,
    };

    fn loaded(set: &[&str]) -> Result<Loaded, String> {
        let set = set.iter().map(|argument| (*argument).to_owned()).collect();
        load(&Sources { set, ..Sources::default() }, Some("machine")).map_err(|error| error.to_string())
    }

    fn config(set: &[&str]) -> BrokerConfig {
        loaded(set).expect("loads").config
    }

    fn refusal(set: &[&str]) -> String {
        loaded(set).expect_err("refused")
    }

    #[test]
    fn the_defaults() {
        let config = config(&[]);
        assert_eq!(config.node_id, NodeId(1));
        assert_eq!(config.log_dirs, [PathBuf::from("./klamm-data")]);
        assert_eq!(config.listeners[0].bind, HostPort { host: "127.0.0.1".to_owned(), port: 9092 });
        assert_eq!(config.listeners[0].advertised.as_ref(), Some(&config.listeners[0].bind));
        assert_eq!(config.inter_broker_listener_name, "PLAINTEXT");
        assert_eq!(config.http_listener, HostPort::parse("127.0.0.1:8080"));
        assert_eq!(config.queued_max_request_bytes, 128 << 20);
        assert_eq!(config.offsets_topic.replication_factor, 1);
        assert_eq!(config.transaction_state_log.min_insync_replicas, 1);
        assert!(config.auto_create_topics_enable && config.delete_topic_enable);
    }

    #[test]
    fn values_reach_their_fields() {
        let config = config(&[
            "broker.id=7",
            "log.dirs=/a, /b",
            "metadata.log.dir=/elsewhere",
            "listeners=INSIDE://h:1",
            "listener.security.protocol.map=INSIDE:PLAINTEXT",
            "klamm.http.listener=",
            "max.connections.per.ip.overrides=10.0.0.1:5,::1:0",
            "queued.max.request.bytes=200000000",
            "log.segment.bytes=2000000",
        ]);
        assert_eq!(config.node_id, NodeId(7));
        assert_eq!(config.layers.given.get("node.id").map(String::as_str), Some("7"));
        assert_eq!(config.log_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(config.metadata_log_dir, PathBuf::from("/elsewhere"));
        assert_eq!(self::config(&["log.dirs=/a, /b"]).metadata_log_dir, PathBuf::from("/a"));
        assert_eq!(config.inter_broker_listener_name, "INSIDE");
        assert_eq!(config.http_listener, None);
        assert_eq!(config.queued_max_request_bytes, 200_000_000);
        let topic = klamm_cluster::config::TopicConfig::effective(&BTreeMap::new(), &config.layers);
        assert_eq!(topic.segment_bytes, 2_000_000);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (set, expected) in [
            (&["node.id=1", "broker.id=2"][..], "--set: node.id: is 1, but broker.id is 2; remove broker.id"),
            (&["process.roles=broker"], "--set: process.roles: Klamm runs both roles in one process"),
            (&["controller.quorum.voters=1@a:1,2@b:1"], "2@b:1 is another node"),
            (&["controller.quorum.bootstrap.servers=a:1,b:1"], "names more than this node's"),
            (&["inter.broker.listener.name=X"], "X is not one of the listeners"),
            (&["security.inter.broker.protocol=SASL_SSL"], "SASL_SSL is not served yet"),
            (&["klamm.http.listener=8080"], "cannot read \"8080\""),
            (&["max.connections.per.ip=0"], "0 lets nobody in"),
            (&["max.connections.per.ip.overrides=a"], "cannot read \"a\""),
            (&["queued.max.request.bytes=1000"], "less than socket.request.max.bytes"),
            (&["log.roll.ms=0"], "--set: log.roll.ms: is too small"),
            (&["log.retention.minutes=0"], "log.retention.ms: 0 is not allowed"),
            (
                &["offsets.topic.compression.codec=5"],
                "--set: offsets.topic.compression.codec: \"5\" is not allowed; allowed: 0 to 4",
            ),
            (&["offsets.topic.compression.codec=-1"], "allowed: 0 to 4"),
            (&["offsets.topic.compression.codec=4"], ""),
            (
                &["group.consumer.assignors="],
                "group.consumer.assignors: \"\" is not allowed; allowed: a list of",
            ),
            (&["group.consumer.assignors=sticky"], "allowed: a list of uniform, range, org.apache.kafka."),
            (
                &[
                    "group.consumer.assignors=org.apache.kafka.coordinator.group.assignor.RangeAssignor,uniform",
                ],
                "",
            ),
            (
                &["group.share.assignors=simple,org.apache.kafka.coordinator.group.assignor.SimpleAssignor"],
                "2",
            ),
            (&["group.coordinator.rebalance.protocols=consumer"], "leaves out classic"),
            (
                &["group.consumer.session.timeout.ms=1000"],
                "--set: group.consumer.session.timeout.ms: is 1000, but must be greater than or equal to \
                 group.consumer.min.session.timeout.ms, which is 45000",
            ),
            (
                &["group.consumer.min.session.timeout.ms=50000"],
                "--set: group.consumer.min.session.timeout.ms: is 50000, but group.consumer.session.timeout.ms, \
                 which is 45000, must be greater than or equal to it",
            ),
            (
                &["group.consumer.min.session.timeout.ms=5000", "group.consumer.session.timeout.ms=5000"],
                "less than",
            ),
            (&["listeners=PLAINTEXT://:1,C://:2", "controller.listener.names=C"], ""),
        ] {
            match loaded(set) {
                Ok(_) => assert_eq!(expected, "", "{set:?} loaded"),
                Err(error) => assert!(!expected.is_empty() && error.contains(expected), "{set:?}: {error}"),
            }
        }
        assert!(refusal(&["listeners=PLAINTEXT://0.0.0.0:1"]).contains("advertised.listeners"));
    }

    #[test]
    fn the_memory_budget_is_always_bounded() {
        let loaded = loaded(&["queued.max.request.bytes=-1"]).expect("loads");
        assert_eq!(loaded.config.queued_max_request_bytes, 128 << 20);
        assert_eq!(loaded.warnings.len(), 1);
        assert_eq!(config(&["socket.request.max.bytes=300000000"]).queued_max_request_bytes, 300_000_000);
    }
}
