//! `klamm serve`: configuration, logging, the broker, the HTTP port, signals.
#![allow(clippy::disallowed_methods, reason = "outside the simulated world: it starts the real host")]

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use klamm_broker::config::{self, BrokerConfig, HostPort, Sources};
use klamm_broker::host::RealHost;
use klamm_broker::{Broker, http};
use tokio::signal::unix::{SignalKind, signal};

use crate::banner::Banner;

/// Options of `klamm serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// Read Kafka's server.properties from FILE.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one property, over the environment (KAFKA_*) and the file; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How to write logs (to stderr); what to log is in KLAMM_LOG (default: warn).
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// One line an event, for people.
    Text,
    /// One JSON object an event, for machines.
    Json,
}

/// Serves until a signal says otherwise.
pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    init_logging(args.log)?;
    let config = load_config(&args)?;
    raise_open_files_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("klamm")
        .build()
        .context("cannot start the worker threads")?;
    runtime.block_on(serve(config, started))
}

async fn serve(config: BrokerConfig, started: Instant) -> anyhow::Result<ExitCode> {
    // Signals that come during the start are not lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let http_listener = bind_http(&config).await?;
    let log_dirs = config.log_dirs.iter().map(|dir| absolute(dir)).collect::<Vec<_>>();
    let running = Broker::start(RealHost::new(), config).await?;
    let http_address = match http_listener {
        None => None,
        Some(listener) => {
            let address = listener.local_addr().context("cannot read the HTTP port's address")?;
            let router = http::router(Arc::clone(running.broker()));
            tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(%error, "the HTTP port failed");
                }
            });
            Some(address)
        }
    };
    let banner = Banner {
        cluster_id: running.cluster_id(),
        node_id: running.node_id().0,
        listeners: running.addresses(),
        http: http_address,
        log_dirs: &log_dirs,
        durability: running.durability(),
        start_ms: started.elapsed().as_millis(),
    };
    // Nobody may be reading; the broker serves all the same.
    let _ = std::io::stdout().write_all(banner.render().as_bytes());
    let _ = std::io::stdout().flush();
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        reason = running.lost() => anyhow::bail!("{reason}; look at the disk, then start again"),
    }
    Ok(if running.stop().await { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn bind_http(config: &BrokerConfig) -> anyhow::Result<Option<tokio::net::TcpListener>> {
    let Some(address) = &config.http_listener else { return Ok(None) };
    let host = if address.host.is_empty() { "0.0.0.0" } else { address.host.as_str() };
    let bound = tokio::net::TcpListener::bind((host, address.port)).await;
    Ok(Some(bound.with_context(|| http_hint(address))?))
}

fn http_hint(address: &HostPort) -> String {
    format!(
        "cannot listen on http://{address}; use another port by --set klamm.http.listener=HOST:PORT, or none with an empty value"
    )
}

fn load_config(args: &ServeArgs) -> anyhow::Result<BrokerConfig> {
    let file = match &args.config {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read --config {}", path.display()))?;
            Some((path.display().to_string(), text))
        }
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let host_name = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
    let sources = Sources { file, environment, set: args.set.clone() };
    let loaded = config::load(&sources, host_name.as_deref())?;
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

fn absolute(dir: &Path) -> String {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string()
}

fn init_logging(format: LogFormat) -> anyhow::Result<()> {
    let wanted = match std::env::var("KLAMM_LOG") {
        Err(std::env::VarError::NotPresent) => "warn".to_owned(),
        given => given.context("KLAMM_LOG")?,
    };
    let filter = tracing_subscriber::EnvFilter::builder().parse(&wanted).with_context(|| {
        format!("KLAMM_LOG: \"{wanted}\" is not allowed; allowed: a level, or levels by module, such as warn,klamm_broker=debug")
    })?;
    // Colours are for people: a file or a journal would keep them as control characters. NO_COLOR counts as ever.
    let is_colourful =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_colourful)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.with_target(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// A broker holds a file a segment and a socket a client: the soft limit is for shells.
fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
