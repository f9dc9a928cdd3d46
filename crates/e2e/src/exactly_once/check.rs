//! Judges a history: everything that exactly-once rules out, each under its name.
//!
//! What it deliberately does not do: ask which of two transactions that were open at the same time comes first in a
//! partition. Kafka leaves that open (see `order`).

use super::history::{Copy, History, Outcome, Place, Reads, Record, Transaction, TransactionId, Write};
use super::order::{self, Spans};
use std::collections::{BTreeMap, BTreeSet};

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants say what their fields are")]
pub enum Anomaly {
    /// A committed transaction's record (or one that was acknowledged without a transaction) is not to be read.
    LostWrite { transaction: Option<TransactionId>, place: Place, value: u64 },
    /// A record was acknowledged at an offset where it is not.
    AcknowledgedElsewhere { place: Place, offset: i64, value: u64 },
    /// A record of an aborted transaction was read by read_committed.
    AbortedRead { transaction: TransactionId, place: Place, offset: i64 },
    /// Of a transaction whose end nobody knows, some records were read and others not.
    Torn { transaction: TransactionId, read: usize, written: usize },
    /// A record that its transaction did not write.
    Stranger { place: Place, offset: i64, value: u64 },
    /// The same record stands there twice: in a log, or among committed records of a topic.
    Duplicate { place: Place, offsets: (i64, i64), value: u64 },
    /// An input that was not copied.
    LostCopy { input: Place, offset: i64, value: u64 },
    /// A copy of what is no input.
    InventedCopy { output: Place, offset: i64, value: u64 },
    /// A copy behind that of a later input.
    DisorderedCopy { output: Place, offset: i64, value: u64 },
    /// The group's offset does not lie behind the last input.
    PositionLags { input: Place, committed: Option<i64>, last: i64 },
    /// Offsets that do not rise.
    OffsetsFall { place: Place, offset: i64 },
    /// What read_committed saw at this offset is not in the log.
    NotInLog { place: Place, offset: i64 },
    /// A reader in the middle of it all saw something else at this offset than readers at the end.
    ReadsDiffer { place: Place, offset: i64 },
    /// The last stable offset stays below the end although nothing is open.
    StableOffsetStuck { place: Place, last_stable_offset: i64, end: i64 },
    /// A commit succeeded although another client had taken the transactional id over.
    FencedCommit { transaction: TransactionId },
    /// Transactions that lie before each other in a circle, by partitions or by time.
    Cycle { transactions: Vec<TransactionId> },
}

/// Everything that is wrong with `history`.
pub fn check(history: &History) -> Vec<Anomaly> {
    let mut found = BTreeSet::new();
    for (place, reads) in &history.partitions {
        check_offsets(place, reads, &mut found);
        check_live(place, reads, &mut found);
    }
    check_writes(history, &mut found);
    check_origins(history, &mut found);
    check_duplicates(history, &mut found);
    for copy in &history.copies {
        check_copy(history, copy, &mut found);
    }
    found.extend(order::cycle(&axes(history)).map(|transactions| Anomaly::Cycle { transactions }));
    found.into_iter().collect()
}

fn check_offsets(place: &Place, reads: &Reads, found: &mut BTreeSet<Anomaly>) {
    for records in [&reads.committed, &reads.raw].into_iter().chain(&reads.live) {
        for pair in records.windows(2).filter(|pair| pair[0].offset >= pair[1].offset) {
            found.insert(Anomaly::OffsetsFall { place: place.clone(), offset: pair[1].offset });
        }
    }
    let raw = by_offset(&reads.raw);
    for record in reads.committed.iter().filter(|record| raw.get(&record.offset) != Some(record)) {
        found.insert(Anomaly::NotInLog { place: place.clone(), offset: record.offset });
    }
    let Reads { last_stable_offset, end, .. } = *reads;
    if last_stable_offset != end {
        found.insert(Anomaly::StableOffsetStuck { place: place.clone(), last_stable_offset, end });
    }
}

/// A reader that got as far as some offset has seen what everybody sees up to there.
fn check_live(place: &Place, reads: &Reads, found: &mut BTreeSet<Anomaly>) {
    let expected = by_offset(&reads.committed);
    for live in &reads.live {
        let Some(reached) = live.iter().map(|record| record.offset).max() else { continue };
        let seen = by_offset(live);
        let offsets: BTreeSet<_> =
            expected.range(..=reached).map(|(at, _)| *at).chain(seen.keys().copied()).collect();
        if let Some(offset) = offsets.into_iter().find(|offset| expected.get(offset) != seen.get(offset)) {
            found.insert(Anomaly::ReadsDiffer { place: place.clone(), offset });
        }
    }
}

/// Whether what was written is there, or is not, as the transaction's end says.
fn check_writes(history: &History, found: &mut BTreeSet<Anomaly>) {
    let committed = Contents::of(history, |reads| &reads.committed);
    let raw = Contents::of(history, |reads| &reads.raw);
    let plain = history.plain.iter().map(|write| (None, write));
    let transactional = history.transactions.iter();
    let transactional = transactional
        .flat_map(|(id, transaction)| transaction.writes.iter().map(move |write| (Some(id), write)));
    for (id, write) in plain.chain(transactional) {
        let (place, value) = (&write.place, write.value);
        if let Some(offset) = write.offset
            && !raw.at(place, id, value).contains(&offset)
        {
            found.insert(Anomaly::AcknowledgedElsewhere { place: place.clone(), offset, value });
        }
        let is_committed = id.is_none_or(|id| history.transactions[id].outcome == Outcome::Committed);
        if is_committed && committed.at(place, id, value).is_empty() {
            found.insert(Anomaly::LostWrite { transaction: id.cloned(), place: place.clone(), value });
        }
    }
    for (id, transaction) in &history.transactions {
        let writes = &transaction.writes;
        let is_read = |write: &&Write| !committed.at(&write.place, Some(id), write.value).is_empty();
        let read = writes.iter().filter(is_read).count();
        match transaction.outcome {
            Outcome::Committed if transaction.is_fenced => {
                found.insert(Anomaly::FencedCommit { transaction: id.clone() });
            }
            Outcome::Unknown if read > 0 && read < writes.len() => {
                found.insert(Anomaly::Torn { transaction: id.clone(), read, written: writes.len() });
            }
            _ => {}
        }
    }
}

/// Whether what was read was written, and by nobody who aborted.
fn check_origins(history: &History, found: &mut BTreeSet<Anomaly>) {
    for (place, reads) in &history.partitions {
        for (record, id) in labelled(&reads.raw).chain(labelled(&reads.committed)) {
            let writes = history.transactions.get(id).map_or(&[][..], |transaction| &transaction.writes);
            if !writes.iter().any(|write| write.value == record.value && write.place == *place) {
                let (offset, value) = (record.offset, record.value);
                found.insert(Anomaly::Stranger { place: place.clone(), offset, value });
            }
        }
        for (Record { offset, .. }, id) in labelled(&reads.committed) {
            if history.transactions.get(id).is_some_and(|by| by.outcome == Outcome::Aborted) {
                let (transaction, offset) = (id.clone(), *offset);
                found.insert(Anomaly::AbortedRead { transaction, place: place.clone(), offset });
            }
        }
    }
}

fn check_duplicates(history: &History, found: &mut BTreeSet<Anomaly>) {
    let mut committed = BTreeMap::new();
    for (place, reads) in &history.partitions {
        let mut note = |first: Option<i64>, record: &Record| {
            if let Some(first) = first {
                let offsets = (first, record.offset);
                found.insert(Anomaly::Duplicate { place: place.clone(), offsets, value: record.value });
            }
        };
        for record in &reads.committed {
            note(committed.insert((&place.topic, record.value), record.offset), record);
        }
        let mut raw = BTreeMap::new();
        for (record, id) in labelled(&reads.raw) {
            note(raw.insert((id, record.value), record.offset), record);
        }
    }
}

fn check_copy(history: &History, copy: &Copy, found: &mut BTreeSet<Anomaly>) {
    let nothing = Reads::default();
    let reads = |place: &Place| history.partitions.get(place).unwrap_or(&nothing);
    let input = &reads(&copy.input).committed;
    let inputs: BTreeMap<u64, i64> = input.iter().map(|record| (record.value, record.offset)).collect();
    let outputs = || {
        copy.outputs.iter().flat_map(|place| reads(place).committed.iter().map(move |record| (place, record)))
    };
    let copied: BTreeSet<u64> = outputs().map(|(_, record)| record.value).collect();
    for record in input.iter().filter(|record| !copied.contains(&record.value)) {
        let (input, offset, value) = (copy.input.clone(), record.offset, record.value);
        found.insert(Anomaly::LostCopy { input, offset, value });
    }
    // An output may hold copies of other inputs of the same topic.
    let inputs_of_all: BTreeSet<u64> = history
        .copies
        .iter()
        .filter(|other| other.input.topic == copy.input.topic)
        .flat_map(|other| reads(&other.input).committed.iter().map(|record| record.value))
        .collect();
    let mut highest = BTreeMap::new();
    for (place, Record { offset, value, .. }) in outputs() {
        let (output, offset, value) = (place.clone(), *offset, *value);
        match inputs.get(&value) {
            Some(at) if highest.get(place).is_some_and(|highest| highest > at) => {
                found.insert(Anomaly::DisorderedCopy { output, offset, value });
            }
            Some(at) => drop(highest.insert(place, *at)),
            None if !inputs_of_all.contains(&value) => {
                found.insert(Anomaly::InventedCopy { output, offset, value });
            }
            None => {}
        }
    }
    if let Some(last) = input.last().map(|record| record.offset)
        && copy.committed_offset.is_none_or(|committed| committed <= last)
    {
        let (input, committed) = (copy.input.clone(), copy.committed_offset);
        found.insert(Anomaly::PositionLags { input, committed, last });
    }
}

/// Where the transactions that took effect lie, in each partition and in time.
fn axes(history: &History) -> Vec<Spans> {
    let mut axes = Vec::new();
    let mut effective = BTreeSet::new();
    for reads in history.partitions.values() {
        let mut spans = Spans::new();
        for (record, id) in labelled(&reads.committed) {
            let offset = u64::try_from(record.offset).unwrap_or_default();
            let span = spans.entry(id.clone()).or_insert((offset, offset));
            *span = (span.0.min(offset), span.1.max(offset));
        }
        effective.extend(spans.keys().cloned());
        axes.push(spans);
    }
    let times = history.transactions.iter().filter(|(id, _)| effective.contains(id));
    axes.push(times.map(|(id, Transaction { began, ended, .. })| (id.clone(), (*began, *ended))).collect());
    axes
}

fn labelled(records: &[Record]) -> impl Iterator<Item = (&Record, &TransactionId)> {
    records.iter().filter_map(|record| Some((record, record.transaction.as_ref()?)))
}

fn by_offset(records: &[Record]) -> BTreeMap<i64, &Record> {
    records.iter().map(|record| (record.offset, record)).collect()
}

/// Where each record stands.
struct Contents<'a>(BTreeMap<(&'a Place, Option<&'a TransactionId>, u64), Vec<i64>>);

impl<'a> Contents<'a> {
    fn of(history: &'a History, of: impl Fn(&'a Reads) -> &'a Vec<Record>) -> Self {
        let mut contents: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for (place, reads) in &history.partitions {
            for Record { offset, value, transaction } in of(reads) {
                contents.entry((place, transaction.as_ref(), *value)).or_default().push(*offset);
            }
        }
        Self(contents)
    }

    fn at<'b>(&'b self, place: &'b Place, id: Option<&'b TransactionId>, value: u64) -> &'b [i64] {
        self.0.get(&(place, id, value)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
