//! The broker as a whole: what its parts share, how it starts and how it stops.
//!
//! Starting: bind, lock the directories, replay the metadata, register and lead (which raises
//! leader epochs), open the partitions, then serve. Stopping runs the other way and
//! ends with clean-shutdown markers, so that the next start needs no recovery.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use klamm_cluster::config::{ConfigLayers, Durability, TopicConfig};
use klamm_cluster::controller::{BrokerIdentity, ControllerCommand};
use klamm_cluster::image::MetadataImage;
use klamm_protocol::ids::NodeId;
use tokio::sync::{oneshot, watch};

use crate::boot::{self, Booted, StartError};
use crate::cleaner;
use crate::config::BrokerConfig;
use crate::coordinator::BrokerCoordinators;
use crate::directory_move;
use crate::directory_watch;
use crate::fetch::rooms::Rooms;
use crate::fetch::session::FetchSessions;
use crate::flusher::checkpoints;
use crate::host::{Host, Listener, Pool};
use crate::idle_files;
use crate::log_dirs::LogDirs;
use crate::log_manager::{self, Removals};
use crate::metadata::applier::Published;
use crate::metadata::controller_host::ControllerHandle;
use crate::metadata::error::MetadataError;
use crate::metadata::store::MetadataStore;
use crate::metrics::{Metrics, TopicLabel};
use crate::net::limits::{Allowed, ConnectionLimits};
use crate::net::listener::accept_loop;
use crate::net::memory::MemoryBudget;
use crate::partition::registry::TopicIndex;
use crate::producer_ids::ProducerIds;
use crate::transactions;

/// How long connections may take to finish what they began before the broker stops without them.
const DRAIN_MS_MAX: u64 = 5_000;
/// How often the drain is looked at.
const DRAIN_POLL_MS: u64 = 5;

/// What the parts of one broker share.
pub struct Broker<H: Host> {
    pub(crate) host: H,
    pub(crate) config: Arc<BrokerConfig>,
    pub(crate) cluster_id: String,
    pub(crate) image: Arc<ArcSwap<MetadataImage>>,
    pub(crate) topics: Arc<ArcSwap<TopicIndex>>,
    pub(crate) layers: Arc<ArcSwap<ConfigLayers>>,
    pub(crate) controller: ControllerHandle,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) fetch_sessions: FetchSessions,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) limits: Arc<ConnectionLimits>,
    pub(crate) metrics: Metrics,
    pub(crate) dirs: Arc<LogDirs>,
    pub(crate) removals: Arc<Removals>,
    pub(crate) coordinators: Arc<BrokerCoordinators<H>>,
    is_stopping: AtomicBool,
}

/// A broker that serves; [`Running::stop`] ends it.
pub struct Running<H: Host> {
    broker: Arc<Broker<H>>,
    addresses: Vec<(String, SocketAddr)>,
    identity: BrokerIdentity,
    stop: watch::Sender<bool>,
    store: oneshot::Receiver<MetadataStore>,
    lost: watch::Receiver<Option<String>>,
}

impl<H: Host> Broker<H> {
    /// Starts a broker; it serves when this returns.
    ///
    /// # Errors
    /// [`StartError`] says what is wrong and what to do.
    pub async fn start(host: H, config: BrokerConfig) -> Result<Running<H>, StartError> {
        let config = Arc::new(config);
        let mut sockets = Vec::new();
        for listener in &config.listeners {
            let socket = host
                .listen(&listener.bind.host, listener.bind.port)
                .await
                .map_err(|error| StartError::cannot_listen(listener, error))?;
            let address =
                socket.local_address().map_err(|error| StartError::cannot_listen(listener, error))?;
            sockets.push((Arc::<str>::from(listener.name.as_str()), socket, address));
        }
        let bound: Vec<_> = sockets.iter().map(|(name, _, address)| (name.to_string(), *address)).collect();
        let booted = boot::boot(&host, &config, &bound).await?;
        let Booted { published, controller, store, producer_ids, identity, dirs, coordinators } = booted;
        let Published { image, topics, layers } = published;
        let count_of = |value: i32| usize::try_from(value).unwrap_or(0);
        let broker = Arc::new(Self {
            cluster_id: dirs.cluster_id().to_owned(),
            image,
            topics,
            layers,
            controller,
            producer_ids,
            rooms: Arc::default(),
            fetch_sessions: FetchSessions::new(count_of(config.max_incremental_fetch_session_cache_slots)),
            memory: MemoryBudget::new(usize::try_from(config.queued_max_request_bytes).unwrap_or(usize::MAX)),
            limits: Arc::default(),
            metrics: Metrics::new(),
            dirs,
            removals: Arc::default(),
            coordinators,
            is_stopping: AtomicBool::new(false),
            config,
            host,
        });
        let (stop, stopped) = watch::channel(false);
        let (lose, lost) = watch::channel(None);
        for (name, socket, _) in sockets {
            let accepting = accept_loop(broker.clone(), socket, name, stopped.clone());
            broker.host.spawn("listener", accepting);
        }
        let moving = directory_move::run(broker.clone(), identity, stopped.clone());
        broker.host.spawn("moves", moving);
        let watching = directory_watch::run(broker.clone(), identity, stopped.clone(), lose);
        broker.host.spawn("directories", watching);
        let performing = transactions::performer::run(broker.clone(), stopped.clone());
        broker.host.spawn("transactions", performing);
        broker.host.spawn("idle files", idle_files::run(broker.clone(), stopped.clone()));
        broker.host.spawn("cleaner", cleaner::run(broker.clone(), stopped.clone()));
        for dir in broker.dirs.states() {
            broker.host.spawn("flusher", dir.clone().run_flusher(broker.host.clone()));
        }
        broker.host.spawn("checkpoints", checkpoints::run(broker.clone(), stopped.clone()));
        broker.host.spawn("log-manager", log_manager::run(broker.clone(), stopped));
        Ok(Running { broker, addresses: bound, identity, stop, store, lost })
    }

    /// The metrics as `/metrics` answers them.
    #[must_use]
    pub fn render_metrics(&self) -> String {
        let metrics = &self.metrics;
        let as_gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.connections.set(as_gauge(self.limits.count()));
        metrics.fetch_sessions.set(as_gauge(self.fetch_sessions.count()));
        metrics.request_memory_bytes.set(as_gauge(self.memory.used_bytes()));
        let image = self.image.load();
        metrics.topics.set(as_gauge(image.topics().len()));
        metrics.partitions.set(as_gauge(image.partition_count()));
        metrics.metadata_offset.set(image.next_offset().0 - 1);
        metrics.cleaner.set_time(self.host.mono());
        metrics.log_size_bytes.clear();
        for topic in self.topics.load().topics() {
            let partitions = topic.partitions.load();
            let size_bytes: u64 = partitions.iter().flatten().map(|one| one.view.size_bytes()).sum();
            let label = TopicLabel { topic: topic.name.to_string() };
            metrics.log_size_bytes.get_or_create(&label).set(i64::try_from(size_bytes).unwrap_or(i64::MAX));
        }
        metrics.render()
    }

    /// Nothing may wait any longer.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Why clients should not be sent here, if so.
    #[must_use]
    pub fn not_ready_because(&self) -> Option<&'static str> {
        if self.is_stopping() {
            Some("stopping")
        } else if self.controller.has_failed() {
            Some("the metadata log failed; see the log, then restart")
        } else {
            None
        }
    }

    /// `connections.max.idle.ms`; a negative value is "never".
    pub(crate) fn idle_ms_max(&self) -> u64 {
        u64::try_from(self.config.connections_max_idle_ms).unwrap_or(u64::MAX)
    }

    /// What `max.connections` and its kin allow now for a connection from `ip`. Overrides by host name do not
    /// apply: names would have to be looked up for each connection.
    pub(crate) fn allowed_connections(&self, ip: IpAddr) -> Allowed {
        let layers = self.layers.load();
        let count = |name| match layers.integer(name) {
            Some(count) => usize::try_from(count).unwrap_or(0),
            None => usize::MAX,
        };
        let overrides = layers.text("max.connections.per.ip.overrides").unwrap_or_default();
        let of_ip = overrides.split(',').filter_map(|one| one.rsplit_once(':')).find_map(|(host, count)| {
            let is_meant = host.trim().trim_matches(['[', ']']).parse() == Ok(ip);
            is_meant.then(|| count.trim().parse().ok()).flatten()
        });
        Allowed {
            count_max: count("max.connections"),
            per_ip_max: of_ip.unwrap_or_else(|| count("max.connections.per.ip")),
        }
    }
}

impl<H: Host> Running<H> {
    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker<H>> {
        &self.broker
    }

    /// Each listener's name and the address it is bound to.
    #[must_use]
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    /// Returns when the broker cannot go on, and says why: the process should end at once, as after a kill,
    /// since nothing more may be written to a disk that failed.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The watch ended with a stop: nothing is lost any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops accepting, finishes what is under way, gives leadership up, closes every log.
    /// True if everything was closed cleanly.
    pub async fn stop(self) -> bool {
        let broker = self.broker;
        // Stored before the waiters are told: a fetch registers first and looks at it then.
        broker.is_stopping.store(true, Ordering::SeqCst);
        let _ = self.stop.send(true);
        for topic in broker.topics.load().topics() {
            topic.partitions.load().iter().flatten().for_each(|partition| partition.waiters.changed());
        }
        broker.coordinators.stop();
        let deadline = broker.host.mono().plus_ms(DRAIN_MS_MAX);
        while broker.limits.count() > 0 && broker.host.mono() < deadline {
            broker.host.sleep_until(broker.host.mono().plus_ms(DRAIN_POLL_MS)).await;
        }
        for command in [
            ControllerCommand::BeginControlledShutdown(self.identity),
            ControllerCommand::FenceBroker(self.identity),
        ] {
            if broker.controller.ask(command).await.is_err() {
                tracing::error!("the metadata log is unusable: the next start will recover");
            }
        }
        // Producers were waiting for these until now.
        broker.dirs.states().for_each(|dir| dir.stop_flusher());
        let mut logs = Vec::new();
        for topic in broker.topics.load().topics() {
            for partition in topic.partitions.load().iter().flatten() {
                logs.push((partition.clone(), partition.close(&broker.host).await));
            }
        }
        let Some(store) = broker.controller.close(self.store).await else { return false };
        let dirs = broker.dirs.clone();
        let identity = self.identity;
        let closed = broker.host.offload(Pool::Flush, move || {
            store.close()?;
            dirs.close(logs, identity.epoch).map_err(MetadataError::from)
        });
        match closed.await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "not stopped cleanly: the next start will recover");
                false
            }
        }
    }

    /// When records count, where a topic does not say otherwise.
    #[must_use]
    pub fn durability(&self) -> Durability {
        TopicConfig::effective(&BTreeMap::new(), &self.broker.layers.load()).durability
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.broker.cluster_id
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.identity.node
    }
}
