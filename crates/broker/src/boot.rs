//! From a configuration to a broker that may serve: directories, metadata, leadership, partitions.
//!
//! **Invariant:** nothing is written before the directories are known to be this node's and
//! the metadata log was read to its end.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use klamm_cluster::controller::{
    ApiError, BrokerIdentity, Controller, ControllerCommand, ControllerReply, ControllerSettings,
    NodeRegistration, RegisterBroker,
};
use klamm_cluster::features::SUPPORTED_FEATURES;
use klamm_cluster::image::{ConfigResource, Endpoint, FeatureRange, MetadataImage};
use klamm_cluster::metadata_log::control::Voter;
use klamm_cluster::record::MetadataRecord;
use klamm_cluster::replay::Replay;
use klamm_protocol::ids::Uuid;
use tokio::sync::oneshot;

use crate::config::{BrokerConfig, Listener};
use crate::coordinator::{BrokerCoordinators, GroupCoordinators, Memory, TransactionCoordinators};
use crate::host::{Host, Pool};
use crate::log_dirs::{LogDirs, LogDirsError};
use crate::metadata::applier::{Applier, Published, values};
use crate::metadata::controller_host::{ControllerHandle, ControllerHost};
use crate::metadata::error::MetadataError;
use crate::metadata::inspect::Inspected;
use crate::metadata::store::{MetadataStore, Settings};
use crate::partition::registry::TopicIndex;
use crate::producer_ids::ProducerIds;

/// PLAINTEXT in Kafka's numbering of security protocols.
const PLAINTEXT: i16 = 0;

/// The controller's port in Kafka's shipped configuration.
const CONTROLLER_PORT: u16 = 9093;

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {name}://{address}: {source}; {hint}")]
    Listen {
        /// The listener's name.
        name: String,
        /// As configured.
        address: String,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The log directories.
    #[error(transparent)]
    LogDirs(#[from] LogDirsError),
    /// The metadata log.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The controller refuses to let this node register.
    #[error("the controller refuses this node: {0:?}")]
    Refused(ApiError),
}

impl StartError {
    pub(crate) fn cannot_listen(listener: &Listener, source: std::io::Error) -> Self {
        let hint = match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the port is in use: stop who has it, or choose another by --set listeners=PLAINTEXT://HOST:PORT"
            }
            std::io::ErrorKind::PermissionDenied => {
                "choose a port above 1023, or give the process the right to it"
            }
            _ => "name an address of this machine in listeners",
        };
        Self::Listen { name: listener.name.clone(), address: listener.bind.to_string(), source, hint }
    }
}

/// What is ready when booting is done.
pub(crate) struct Booted<H: Host> {
    pub(crate) published: Published,
    pub(crate) controller: ControllerHandle,
    pub(crate) store: oneshot::Receiver<MetadataStore>,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) identity: BrokerIdentity,
    pub(crate) dirs: Arc<LogDirs>,
    pub(crate) coordinators: Arc<BrokerCoordinators<H>>,
}

/// Everything up to serving. `bound` are the listeners' addresses.
pub(crate) async fn boot<H: Host>(
    host: &H,
    config: &BrokerConfig,
    bound: &[(String, SocketAddr)],
) -> Result<Booted<H>, StartError> {
    let Opened { dirs, mut store, replay, bootstrap } = open(host, config).await?;
    let dirs = Arc::new(dirs);
    let now = host.wall();
    let (store, first_offset) = host
        .offload(Pool::Flush, move || {
            let led = store.lead(now);
            (store, led)
        })
        .await;
    let first_offset = first_offset?;
    let settings = ControllerSettings {
        node: config.node_id,
        partition_count_default: config.num_partitions,
        replication_factor_default: i16::try_from(config.default_replication_factor).unwrap_or(1),
        given: config.layers.given.clone(),
    };
    let mut controller = Controller::new(settings, replay);
    let is_empty = controller.is_empty();
    controller.advance_to(first_offset);
    let abort = controller.abort_open_transaction();
    let mut quorum = ControllerHost::new(host.clone(), controller, store);
    if let Some(abort) = abort {
        quorum.write_record(abort).await?;
    }
    if is_empty {
        done(quorum.ask_now(ControllerCommand::Bootstrap(bootstrap)).await?)?;
    }
    let mut layers = config.layers.clone();
    layers.broker = Arc::new(values(quorum.image(), &ConfigResource::broker(config.node_id)));
    dirs.follow_cordons(&layers);
    let registration = registration(host, config, bound);
    done(quorum.ask_now(ControllerCommand::RegisterController(registration.clone())).await?)?;
    let register = RegisterBroker {
        node: registration,
        rack: config.broker_rack.clone(),
        directories: dirs.online(),
        cordoned: dirs.cordoned(),
        previous_epoch: dirs.previous_epoch(),
        // The lock on the directories is ours.
        replaces_dead: true,
    };
    let epoch = match quorum.ask_now(ControllerCommand::RegisterBroker(register)).await? {
        ControllerReply::RegisterBroker(Ok(epoch)) => epoch,
        ControllerReply::RegisterBroker(Err(error)) => return Err(StartError::Refused(error)),
        other => unreachable!("{other:?} answers a registration"),
    };
    let identity = BrokerIdentity { node: config.node_id, epoch };
    done(quorum.ask_now(ControllerCommand::UnfenceBroker(identity)).await?)?;
    let published = Published {
        image: Arc::new(ArcSwap::from_pointee(MetadataImage::default())),
        topics: Arc::new(ArcSwap::from_pointee(TopicIndex::default())),
        layers: Arc::new(ArcSwap::from_pointee(config.layers.clone())),
    };
    let layers = &published.layers.load_full();
    let image = || published.image.clone();
    let coordinators = BrokerCoordinators {
        groups: GroupCoordinators::new(host.clone(), &Memory::of_groups(layers), image(), layers),
        transactions: TransactionCoordinators::new(
            host.clone(),
            &Memory::of_transactions(layers),
            image(),
            layers,
        ),
    };
    let coordinators = Arc::new(coordinators);
    let applier =
        Applier::new(host.clone(), config.node_id, dirs.clone(), published.clone(), coordinators.clone());
    applier.load(quorum.image()).await;
    let strays = dirs.clone();
    host.offload(Pool::Flush, move || strays.set_strays_aside()).await;
    drop(quorum.take_delta());
    let (controller, store) = quorum.start(applier);
    let producer_ids = ProducerIds::new(identity);
    Ok(Booted { published, controller, store, producer_ids, identity, dirs, coordinators })
}

struct Opened {
    dirs: LogDirs,
    store: MetadataStore,
    replay: Replay,
    bootstrap: Option<Vec<MetadataRecord>>,
}

async fn open<H: Host>(host: &H, config: &BrokerConfig) -> Result<Opened, StartError> {
    let disk = host.disk();
    let paths = config.log_dirs.clone();
    let metadata_path = config.metadata_log_dir.clone();
    let node = config.node_id;
    let now = host.wall();
    let drawing = host.clone();
    let endpoints = controller_endpoints(config);
    let snapshot_after_bytes = config.metadata_snapshot_after_bytes;
    let opened = host.offload(Pool::Flush, move || {
        let dirs = LogDirs::open(disk.clone(), &paths, &metadata_path, node, || draw_uuid(&drawing))?;
        let voter = Voter { node, directory: dirs.metadata_directory_id(), endpoints };
        let settings = Settings { was_clean: dirs.was_metadata_clean(), snapshot_after_bytes };
        let mut inspected = match Inspected::read(&*disk, dirs.metadata_path(), &voter) {
            Ok(inspected) => inspected,
            Err(error) => {
                dirs.leave();
                return Err(error.into());
            }
        };
        let bootstrap = inspected.take_bootstrap();
        dirs.begin()?;
        let (store, replay) = MetadataStore::open(disk, inspected, voter, settings, now)?;
        Ok::<_, StartError>(Opened { dirs, store, replay, bootstrap })
    });
    opened.await
}

/// The controller listener is not opened on one node, but named: Kafka would open it on this directory.
fn controller_endpoints(config: &BrokerConfig) -> Vec<(String, String, u16)> {
    let named: Vec<_> = config
        .controller_listeners
        .iter()
        .map(|listener| {
            let address = listener.advertised.as_ref().unwrap_or(&listener.bind);
            let host = if address.is_wildcard() { "localhost" } else { address.host.as_str() };
            (listener.name.clone(), host.to_owned(), address.port)
        })
        .collect();
    match named.is_empty() {
        true => vec![("CONTROLLER".to_owned(), "localhost".to_owned(), CONTROLLER_PORT)],
        false => named,
    }
}

fn registration<H: Host>(
    host: &H,
    config: &BrokerConfig,
    bound: &[(String, SocketAddr)],
) -> NodeRegistration {
    let endpoints = config
        .listeners
        .iter()
        .zip(bound)
        .filter_map(|(listener, (_, address))| {
            let advertised = listener.advertised.as_ref()?;
            Some(Endpoint {
                name: Arc::from(listener.name.as_str()),
                host: Arc::from(advertised.host.as_str()),
                port: if advertised.port == 0 { address.port() } else { advertised.port },
                security_protocol: PLAINTEXT,
            })
        })
        .collect();
    let features = SUPPORTED_FEATURES
        .iter()
        .map(|feature| {
            let range = FeatureRange { level_min: feature.level_min, level_max: feature.level_max };
            (feature.name.to_owned(), range)
        })
        .collect();
    NodeRegistration { node: config.node_id, incarnation_id: draw_uuid(host), endpoints, features }
}

fn done(reply: ControllerReply) -> Result<(), StartError> {
    match reply {
        ControllerReply::Done(Ok(())) => Ok(()),
        ControllerReply::Done(Err(error)) => Err(StartError::Refused(error)),
        other => unreachable!("{other:?} is no plain reply"),
    }
}

/// An id as Kafka draws them: none that is reserved, none that reads as an option.
fn draw_uuid<H: Host>(host: &H) -> Uuid {
    loop {
        let id = Uuid::from_random(host.random());
        if !id.is_reserved() && !id.to_string().starts_with('-') {
            return id;
        }
    }
}
