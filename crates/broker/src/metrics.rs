//! What the broker counts, in Prometheus' text format on the HTTP port.
//!
//! Counters are bumped on hot paths: relaxed atomics, no labels there.

use std::sync::atomic::{AtomicU64, Ordering};

use klamm_log::cleaner::CleanStats;
use klamm_protocol::records::ValidatedBatch;
use klamm_protocol::time::MonoMs;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Whose figure it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TopicLabel {
    pub(crate) topic: String,
}

/// Every metric of one broker.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) connections: Gauge,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) requests: Counter,
    pub(crate) produced_records: Counter,
    pub(crate) produced_bytes: Counter,
    pub(crate) fetched_bytes: Counter,
    pub(crate) fetch_sessions: Gauge,
    pub(crate) request_memory_bytes: Gauge,
    pub(crate) topics: Gauge,
    pub(crate) partitions: Gauge,
    pub(crate) metadata_offset: Gauge,
    pub(crate) deleted_segments: Counter,
    pub(crate) deleted_bytes: Counter,
    pub(crate) log_size_bytes: Family<TopicLabel, Gauge>,
    pub(crate) cleaner: CleanerMetrics,
}

/// What compaction does.
#[derive(Debug, Default)]
pub(crate) struct CleanerMetrics {
    pub(crate) max_dirty_percent: Gauge,
    pub(crate) max_compaction_delay_ms: Gauge,
    pub(crate) uncleanable_partitions: Gauge,
    recopy_percent: Gauge,
    map_utilization_percent: Gauge,
    ms_since_last_run: Gauge,
    cleanings: Counter,
    read_bytes: Counter,
    removed_bytes: Counter,
    /// On the monotonic clock.
    last_run_ms: AtomicU64,
}

impl CleanerMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let all = registry.sub_registry_with_prefix("cleaner");
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| all.register(name, help, gauge.clone());
        gauge("max_dirty_percent", "Largest dirty share of a compacted log", &metrics.max_dirty_percent);
        gauge(
            "max_compaction_delay_ms",
            "By how much max.compaction.lag.ms is exceeded at most",
            &metrics.max_compaction_delay_ms,
        );
        gauge(
            "uncleanable_partitions",
            "Partitions whose compaction failed; see the log",
            &metrics.uncleanable_partitions,
        );
        gauge("recopy_percent", "What stayed of the bytes of the last compaction", &metrics.recopy_percent);
        gauge(
            "map_utilization_percent",
            "How full the key map of the last compaction was",
            &metrics.map_utilization_percent,
        );
        gauge(
            "since_last_run_ms",
            "Time since a log to compact was last looked for",
            &metrics.ms_since_last_run,
        );
        let mut counter =
            |name: &str, help: &str, counter: &Counter| all.register(name, help, counter.clone());
        counter("cleanings", "Compactions of a log that ended well", &metrics.cleanings);
        counter("cleaned_bytes", "Bytes of segments that were compacted", &metrics.read_bytes);
        counter("removed_bytes", "Bytes that compaction removed", &metrics.removed_bytes);
        metrics
    }

    /// A log to compact is being looked for.
    pub(crate) fn note_run(&self, now: MonoMs) {
        self.last_run_ms.store(now.0, Ordering::Relaxed);
    }

    /// A compaction has ended.
    pub(crate) fn note_cleaning(&self, stats: &CleanStats) {
        self.cleanings.inc();
        self.read_bytes.inc_by(stats.read_bytes);
        self.removed_bytes.inc_by(stats.read_bytes.saturating_sub(stats.written_bytes));
        let recopied = (100 * stats.written_bytes).checked_div(stats.read_bytes).unwrap_or(0);
        self.recopy_percent.set(i64::try_from(recopied).unwrap_or(i64::MAX));
        self.map_utilization_percent.set((stats.map_utilization * 100.0) as i64);
    }

    /// Before the metrics are read.
    pub(crate) fn set_time(&self, now: MonoMs) {
        let since = now.since_ms(MonoMs(self.last_run_ms.load(Ordering::Relaxed)));
        self.ms_since_last_run.set(i64::try_from(since).unwrap_or(i64::MAX));
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("klamm");
        macro_rules! metric {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                register(&mut registry, $name, $help, &metric);
                metric
            }};
        }
        fn register<M: prometheus_client::registry::Metric + Clone>(
            registry: &mut Registry,
            name: &str,
            help: &str,
            metric: &M,
        ) {
            registry.register(name, help, metric.clone());
        }
        Self {
            connections_accepted: metric!("connections_accepted", "Connections accepted since the start"),
            connections_refused: metric!("connections_refused", "Connections closed at once by a limit"),
            connections: metric!("connections", "Connections now open"),
            bytes_in: metric!("received_bytes", "Bytes read from clients"),
            bytes_out: metric!("sent_bytes", "Bytes sent to clients"),
            requests: metric!("requests", "Requests handled"),
            produced_records: metric!("produced_records", "Records that passed validation"),
            produced_bytes: metric!("produced_bytes", "Bytes of batches that passed validation"),
            fetched_bytes: metric!("fetched_bytes", "Bytes of batches returned by Fetch"),
            fetch_sessions: metric!("fetch_sessions", "Fetch sessions now open"),
            request_memory_bytes: metric!("request_memory_bytes", "Memory held by requests being read"),
            topics: metric!("topics", "Topics"),
            partitions: metric!("partitions", "Partitions led by this broker"),
            metadata_offset: metric!("metadata_offset", "Offset of the last applied metadata record"),
            deleted_segments: metric!("deleted_segments", "Segments deleted by retention and DeleteRecords"),
            deleted_bytes: metric!("deleted_bytes", "Bytes of batches in deleted segments"),
            log_size_bytes: metric!("log_size_bytes", "Bytes of a topic's segments on this broker"),
            cleaner: CleanerMetrics::register(&mut registry),
            registry,
        }
    }

    pub(crate) fn note_batches<'a>(&self, batches: impl IntoIterator<Item = &'a ValidatedBatch>) {
        for batch in batches {
            self.produced_records.inc_by(u64::try_from(batch.header.record_count).unwrap_or(0));
            self.produced_bytes.inc_by(batch.bytes.len() as u64);
        }
    }

    /// The text that `/metrics` answers.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
