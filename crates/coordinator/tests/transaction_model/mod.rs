//! What a log checks of transactions, as a naive model: a partition of values and markers, and what it knows of each
//! producer.

use std::collections::BTreeMap;

use klamm_coordinator::contract::ReplyKey;
use klamm_coordinator::transaction::{EPOCH_BUMP_LEVEL, Ending, Producer};
use klamm_protocol::ids::{ProducerEpoch, ProducerId};

/// A value as its client numbered it: the transaction, and its place there.
pub type Value = (usize, usize);

enum Entry {
    Data(ProducerId, Value),
    Marker(ProducerId, Ending),
}

/// What a log knows of a producer.
#[derive(Default)]
struct Known {
    epoch: ProducerEpoch,
    is_open: bool,
    /// The coordinator is asked, and no marker has come since.
    asked: Option<ReplyKey>,
    /// It said yes, and no marker has come since.
    verified: Option<ProducerEpoch>,
}

#[derive(Default)]
pub struct Partition {
    entries: Vec<Entry>,
    known: BTreeMap<ProducerId, Known>,
}

impl Partition {
    pub fn needs_verification(&self, producer: Producer) -> bool {
        !self.known.get(&producer.id).is_some_and(|known| known.is_open && known.epoch == producer.epoch)
    }

    /// The coordinator is asked.
    pub fn begin_verification(&mut self, producer: Producer, key: ReplyKey) {
        self.known.entry(producer.id).or_default().asked = Some(key);
    }

    /// It said yes; what came before a marker is worth nothing.
    pub fn confirm_verification(&mut self, producer: Producer, key: ReplyKey) {
        let known = self.known.entry(producer.id).or_default();
        if known.asked.take() == Some(key) {
            known.verified = Some(producer.epoch);
        }
    }

    /// Somebody whose transaction has not ended.
    pub fn open_producer(&self) -> Option<ProducerId> {
        self.known.iter().find(|(_, known)| known.is_open).map(|(id, _)| *id)
    }

    /// Whether the log takes it.
    pub fn append(&mut self, producer: Producer, value: Value) -> bool {
        let known = self.known.entry(producer.id).or_default();
        let is_open = known.is_open && known.epoch == producer.epoch;
        if producer.epoch < known.epoch || !is_open && known.verified != Some(producer.epoch) {
            return false;
        }
        *known = Known { epoch: producer.epoch, is_open: true, ..Known::default() };
        self.entries.push(Entry::Data(producer.id, value));
        true
    }

    pub fn end(&mut self, producer: Producer, ending: Ending, version: i16) {
        let known = self.known.entry(producer.id).or_default();
        let is_late = if version >= EPOCH_BUMP_LEVEL {
            producer.epoch <= known.epoch && known.is_open
        } else {
            producer.epoch < known.epoch
        };
        if is_late {
            return;
        }
        *known = Known { epoch: producer.epoch, is_open: false, ..Known::default() };
        self.entries.push(Entry::Marker(producer.id, ending));
    }

    /// What a reader of committed data sees.
    pub fn committed(&self) -> Vec<Value> {
        let mut open: BTreeMap<ProducerId, Vec<(usize, Value)>> = BTreeMap::new();
        let mut seen = Vec::new();
        for (offset, entry) in self.entries.iter().enumerate() {
            match entry {
                Entry::Data(producer, value) => open.entry(*producer).or_default().push((offset, *value)),
                Entry::Marker(producer, ending) => {
                    let values = open.remove(producer).unwrap_or_default();
                    if *ending == Ending::Commit {
                        seen.extend(values);
                    }
                }
            }
        }
        seen.sort_unstable();
        seen.into_iter().map(|(_, value)| value).collect()
    }
}
