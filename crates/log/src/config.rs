//! What a log goes by: the topic's and the broker's settings that reach the disk.
//!
//! Retention and compaction settings are not here: who decides about them calls the log.

/// A log's settings; the defaults are Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment never grows beyond this.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment is rolled when a batch is so much later than its first.
    pub segment_ms: i64,
    /// A part of `segment.jitter.ms` drawn by the caller, taken off `segment_ms`.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: room for one index file; a full index rolls the segment.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`: one index entry for at least so many bytes.
    pub index_interval_bytes: u32,
    /// True where `cleanup.policy` has `compact`: offsets may skip. Elsewhere recovery takes
    /// a skipped offset behind the recovery point for a damaged one.
    pub is_compacted: bool,
    /// True where somebody waits for every flush: small ones are made quicker by room for
    /// them, filled with zeros beforehand.
    pub is_prefilled: bool,
    /// `producer.id.expiration.ms`: a producer idle for so long is forgotten.
    pub producer_id_expiration_ms: i64,
    /// `transaction.partition.verification.enable`: a transaction's first batch is taken only once the
    /// transaction's coordinator was asked.
    pub verifies_transactions: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 60 * 60 * 1000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            is_compacted: false,
            is_prefilled: false,
            producer_id_expiration_ms: 24 * 60 * 60 * 1000,
            verifies_transactions: true,
        }
    }
}
