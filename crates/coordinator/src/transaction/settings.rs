//! What the broker's configuration says about transactions.

use klamm_cluster::config::ConfigLayers;

/// The values of one moment; durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionSettings {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i32,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
    pub abort_interval_ms: u64,
    /// `transactional.id.expiration.ms`.
    pub id_expiration_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub expiration_interval_ms: u64,
    /// `add.partitions.to.txn.retry.backoff.max.ms`: how long a request waits for markers.
    pub patience_ms: u64,
}

impl From<&ConfigLayers> for TransactionSettings {
    fn from(layers: &ConfigLayers) -> Self {
        let number = |name| layers.integer(name).unwrap_or(0);
        let interval = |name| u64::try_from(number(name)).unwrap_or(0);
        Self {
            max_timeout_ms: i32::try_from(number("transaction.max.timeout.ms")).unwrap_or(i32::MAX),
            abort_interval_ms: interval("transaction.abort.timed.out.transaction.cleanup.interval.ms"),
            id_expiration_ms: number("transactional.id.expiration.ms"),
            expiration_interval_ms: interval("transaction.remove.expired.transaction.cleanup.interval.ms"),
            patience_ms: interval("add.partitions.to.txn.retry.backoff.max.ms"),
        }
    }
}
