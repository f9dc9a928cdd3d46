//! What clients did and what they saw: the whole evidence of one round.
//!
//! Invariant: a value is written once on purpose and at most copied once, so that it names its record.

use std::collections::BTreeMap;
use std::fmt;

/// Names a transaction: the client and how many it began before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId {
    /// The client's transactional id.
    pub client: String,
    /// Its place among the client's transactions.
    pub number: u64,
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.client, self.number)
    }
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// What the client knows of a transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The commit was answered.
    Committed,
    /// It was aborted by its client or by the next one with the same id.
    Aborted,
    /// Nobody told: it may be either, whole.
    Unknown,
}

/// One record that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where to.
    pub place: Place,
    /// What it carries.
    pub value: u64,
    /// Where the broker said it is, if it said so.
    pub offset: Option<i64>,
}

/// One transaction as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// How it ended.
    pub outcome: Outcome,
    /// Another client with its id had begun before the commit was asked for: it must not succeed.
    pub is_fenced: bool,
    /// A moment before its first request, on a clock that all clients share.
    pub began: u64,
    /// A moment behind its last answer; the end of time where the outcome is unknown.
    pub ended: u64,
    /// Its records.
    pub writes: Vec<Write>,
    /// What went wrong, for people.
    pub remarks: Vec<String>,
}

/// One record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where.
    pub offset: i64,
    /// What it carries.
    pub value: u64,
    /// Which transaction wrote it; copiers that are not ours do not say.
    pub transaction: Option<TransactionId>,
}

/// All that was read of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// At the end, read_committed.
    pub committed: Vec<Record>,
    /// At the end, read_uncommitted.
    pub raw: Vec<Record>,
    /// What read_committed readers saw while clients wrote and the broker died, each from the first offset on.
    pub live: Vec<Vec<Record>>,
    /// At the end.
    pub last_stable_offset: i64,
    /// The high watermark at the end.
    pub end: i64,
}

/// Who copied what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// From here.
    pub input: Place,
    /// To these.
    pub outputs: Vec<Place>,
    /// The group's offset at the end.
    pub committed_offset: Option<i64>,
}

/// Everything of one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What was written in transactions.
    pub transactions: BTreeMap<TransactionId, Transaction>,
    /// What was written and acknowledged without one.
    pub plain: Vec<Write>,
    /// What was read.
    pub partitions: BTreeMap<Place, Reads>,
    /// What had to be copied.
    pub copies: Vec<Copy>,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, transaction) in &self.transactions {
            let Transaction { outcome, is_fenced, began, ended, writes, remarks } = transaction;
            let fenced = if *is_fenced { " fenced" } else { "" };
            write!(f, "transaction {id} {outcome:?}{fenced} {began}..{ended}:")?;
            write_all(f, writes)?;
            for remark in remarks {
                writeln!(f, "  {remark}")?;
            }
        }
        write!(f, "plain:")?;
        write_all(f, &self.plain)?;
        for Copy { input, outputs, committed_offset } in &self.copies {
            let outputs: Vec<String> = outputs.iter().map(Place::to_string).collect();
            writeln!(f, "copy {input} to {} committed {committed_offset:?}", outputs.join(" "))?;
        }
        for (place, reads) in &self.partitions {
            writeln!(f, "partition {place} stable {} end {}", reads.last_stable_offset, reads.end)?;
            let kinds = [("committed", &reads.committed), ("raw", &reads.raw)];
            let live = reads.live.iter().map(|records| ("live", records));
            for (kind, records) in kinds.into_iter().chain(live) {
                write!(f, "  {kind}:")?;
                for Record { offset, value, transaction } in records {
                    match transaction {
                        Some(id) => write!(f, " {offset}={value}@{id}")?,
                        None => write!(f, " {offset}={value}")?,
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

fn write_all(f: &mut fmt::Formatter<'_>, writes: &[Write]) -> fmt::Result {
    for Write { place, value, offset } in writes {
        match offset {
            Some(offset) => write!(f, " {place}@{offset}={value}")?,
            None => write!(f, " {place}@?={value}")?,
        }
    }
    writeln!(f)
}
