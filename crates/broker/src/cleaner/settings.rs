//! The cleaner's own settings, as the broker's layers have them now.

use klamm_cluster::config::{ConfigLayers, ConfigValue};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    /// `log.cleaner.threads`: logs cleaned at once.
    pub threads: usize,
    /// Memory of one cleaning's key map: its share of `log.cleaner.dedupe.buffer.size`.
    pub map_bytes: u64,
    /// `log.cleaner.io.buffer.load.factor`.
    pub load_factor: f64,
    /// Of one cleaning's two buffers each: its share of `log.cleaner.io.buffer.size`.
    pub buffer_bytes: usize,
    /// `log.cleaner.io.max.bytes.per.second`.
    pub bytes_per_second: f64,
    /// `log.cleaner.backoff.ms`.
    pub backoff_ms: u64,
}

impl Settings {
    pub(super) fn of(layers: &ConfigLayers) -> Self {
        let integer = |name| layers.integer(name).and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        let double = |name: &str| match layers.value(name) {
            Some(ConfigValue::Double(number)) => number,
            _ => f64::MAX,
        };
        let threads = integer("log.cleaner.threads").max(1);
        Self {
            threads: usize::try_from(threads).unwrap_or(usize::MAX),
            map_bytes: integer("log.cleaner.dedupe.buffer.size") / threads,
            load_factor: double("log.cleaner.io.buffer.load.factor"),
            buffer_bytes: usize::try_from(integer("log.cleaner.io.buffer.size") / threads / 2)
                .unwrap_or(usize::MAX),
            bytes_per_second: double("log.cleaner.io.max.bytes.per.second"),
            // 0 would never pause.
            backoff_ms: integer("log.cleaner.backoff.ms").max(1),
        }
    }

    /// `log.cleaner.enable`, which Kafka reads at start too.
    pub(super) fn is_enabled(layers: &ConfigLayers) -> bool {
        layers.value("log.cleaner.enable") != Some(ConfigValue::Boolean(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn threads_share_the_memory() {
        let defaults = Settings::of(&ConfigLayers::default());
        assert_eq!((defaults.threads, defaults.map_bytes, defaults.buffer_bytes), (1, 128 << 20, 256 << 10));
        assert_eq!((defaults.backoff_ms, defaults.load_factor), (15_000, 0.9));
        let mut layers = ConfigLayers::default();
        let set = [("log.cleaner.threads", "2"), ("log.cleaner.io.max.bytes.per.second", "1000.5")];
        layers.cluster = Arc::new(set.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let settings = Settings::of(&layers);
        assert_eq!((settings.threads, settings.map_bytes, settings.buffer_bytes), (2, 64 << 20, 128 << 10));
        assert_eq!(settings.bytes_per_second, 1000.5);
    }
}
