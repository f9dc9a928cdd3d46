//! Transactions: what one partition of `__transaction_state` says (KIP-98, KIP-360, KIP-890).
//!
//! A transactional id has a producer and at most one transaction. Ending one takes three steps: the
//! decision is written (`PrepareCommit`, `PrepareAbort`), the host writes a marker into every partition
//! of the transaction, and once it has, the transaction is complete. A request that would be refused only
//! because markers are still on their way waits for them a moment instead: a client that is refused
//! comes back no sooner.
//!
//! What it deliberately does not do: write markers, give out producer ids (the host does both), choose
//! the partition of a transactional id, authorize.
//!
//! Invariants: see [`crate::contract`]; and
//! - markers are asked for only once the decision is committed, and again after every load until the
//!   transaction is complete;
//! - no partition joins a transaction whose end is decided;
//! - the epoch before the last bump is soft, as in Kafka: a retry of InitProducerId is fenced after a load.

mod list;
mod record;
mod settings;
mod state;
mod transition;
mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_cluster::features::TRANSACTION_VERSION;
use klamm_cluster::image::MetadataDelta;
use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

pub use list::{ListedTransaction, TransactionFilter};
pub use record::TransactionRecord;
pub use settings::TransactionSettings;
pub use state::{EPOCH_BUMP_LEVEL, Ending, Partitions, Producer, Transaction, TransactionState};

use crate::contract::{At, Coordinator, Ctx, Outcome, ReplyKey};
use turn::Turn;

/// What a transaction coordinator sees of the world.
pub type TransactionCtx<'a> = Ctx<'a, TransactionSettings>;
/// What follows from a command to a transaction coordinator.
pub type TransactionOutcome = Outcome<TransactionCoordinator>;

/// A request about one transactional id, or about all.
#[derive(Clone, Debug)]
pub enum TransactionCommand {
    /// InitProducerId of a transactional producer.
    InitProducerId(InitProducerId),
    /// AddPartitionsToTxn, AddOffsetsToTxn, and what a produce request adds by itself.
    AddPartitions(AddPartitions),
    /// Whether partitions are in a transaction.
    VerifyPartitions {
        /// Whose.
        transactional_id: Arc<str>,
        /// As the request has it.
        producer: Producer,
        /// Which.
        partitions: Partitions,
    },
    /// EndTxn.
    EndTxn(EndTxn),
    /// What [`TransactionEffect::WriteMarkers`] stands for.
    Markers(Arc<str>),
    /// Every partition of a prepared transaction has its marker, or is gone.
    MarkersWritten {
        /// Whose.
        transactional_id: Arc<str>,
        /// As [`Markers`] has it.
        prepared_at: Offset,
    },
    /// [`TransactionEffect::FetchProducerId`] was done.
    AbortTimedOut {
        /// Whose.
        transactional_id: Arc<str>,
        /// As it was then.
        producer: Producer,
        /// An id that nobody had before.
        fresh: ProducerId,
    },
    /// One transactional id of DescribeTransactions.
    Describe(Arc<str>),
    /// ListTransactions.
    List(TransactionFilter),
}

/// A producer with a transactional id begins.
#[derive(Clone, Debug)]
pub struct InitProducerId {
    /// Not empty.
    pub transactional_id: Arc<str>,
    /// How long its transactions may take.
    pub timeout_ms: i32,
    /// What it had before (KIP-360).
    pub expected: Option<Producer>,
    /// Fetched after [`TransactionReply::NeedsProducerId`].
    pub fresh: Option<ProducerId>,
}

/// Partitions join a transaction.
#[derive(Clone, Debug)]
pub struct AddPartitions {
    /// Not empty.
    pub transactional_id: Arc<str>,
    /// As the request has it.
    pub producer: Producer,
    /// Which.
    pub partitions: Partitions,
    /// The feature level that the client follows.
    pub client_version: i16,
}

/// A client ends its transaction.
#[derive(Clone, Debug)]
pub struct EndTxn {
    /// Not empty.
    pub transactional_id: Arc<str>,
    /// As the request has it.
    pub producer: Producer,
    /// How.
    pub ending: Ending,
    /// The feature level that the client follows.
    pub client_version: i16,
    /// Fetched after [`TransactionReply::NeedsProducerId`].
    pub fresh: Option<ProducerId>,
}

/// What a transaction coordinator answers.
#[derive(Clone, Debug, PartialEq)]
pub enum TransactionReply {
    /// To InitProducerId and EndTxn: take an id that nobody had, and ask again with it.
    NeedsProducerId,
    /// To [`TransactionCommand::InitProducerId`].
    InitProducerId(Result<Producer, ErrorCode>),
    /// To [`TransactionCommand::AddPartitions`].
    AddPartitions(Result<(), ErrorCode>),
    /// To [`TransactionCommand::VerifyPartitions`]: those that are not in the transaction.
    VerifyPartitions(Result<Partitions, ErrorCode>),
    /// To [`TransactionCommand::EndTxn`]: with whom the client goes on; nobody where it keeps its epoch.
    EndTxn(Result<Producer, ErrorCode>),
    /// To [`TransactionCommand::Markers`]: none if the transaction is complete.
    Markers(Option<Markers>),
    /// To [`TransactionCommand::MarkersWritten`] and [`TransactionCommand::AbortTimedOut`].
    Noted,
    /// To [`TransactionCommand::Describe`].
    Described(Option<Transaction>),
    /// To [`TransactionCommand::List`].
    Listed(Vec<ListedTransaction>),
}

/// What a transaction coordinator wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionEffect {
    /// The markers of this id, which [`TransactionCommand::Markers`] tells, then
    /// [`TransactionCommand::MarkersWritten`]. After a load it may come a second time: whoever writes must
    /// ask first, and not begin before an earlier one has ended, or it would end the next transaction.
    WriteMarkers(Arc<str>),
    /// An id that nobody had, for a timed out transaction whose producer has no epoch left; then
    /// [`TransactionCommand::AbortTimedOut`].
    FetchProducerId {
        /// Whose.
        transactional_id: Arc<str>,
        /// As it is now.
        producer: Producer,
    },
}

/// The markers of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// Whose.
    pub transactional_id: Arc<str>,
    /// As the markers have it.
    pub producer: Producer,
    /// How the transaction ends.
    pub ending: Ending,
    /// Where.
    pub partitions: Partitions,
    /// Fences the markers of earlier coordinators.
    pub coordinator_epoch: LeaderEpoch,
    /// The feature level of the transaction, which decides how epochs are compared (KIP-1228).
    pub transaction_version: i16,
    /// Where the decision lies in the log: it tells this transaction from the next, which may have the
    /// same producer.
    pub prepared_at: Offset,
}

/// A timer of a transaction coordinator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransactionTimer {
    /// Transactions that take too long are aborted.
    Abort,
    /// Ids that nobody used for long are forgotten.
    Expiration,
    /// Requests waited long enough for the markers of this id.
    Patience(Arc<str>),
}

/// The transactional ids of one partition.
#[derive(Debug, Default)]
pub struct TransactionCoordinator {
    transactions: BTreeMap<Arc<str>, Remembered>,
    soft: Soft,
}

/// The last record of a transactional id.
#[derive(Debug)]
struct Remembered {
    transaction: Transaction,
    at: Offset,
}

/// What a reload forgets.
#[derive(Debug, Default)]
struct Soft {
    /// The epoch before the last bump: a retry of the request that bumped it names it.
    last_epochs: BTreeMap<Arc<str>, ProducerEpoch>,
    /// Who waits for markers, in the order they came.
    parked: BTreeMap<Arc<str>, Vec<(ReplyKey, TransactionCommand)>>,
}

impl TransactionCommand {
    fn transactional_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::InitProducerId(InitProducerId { transactional_id, .. })
            | Self::AddPartitions(AddPartitions { transactional_id, .. })
            | Self::EndTxn(EndTxn { transactional_id, .. })
            | Self::VerifyPartitions { transactional_id, .. }
            | Self::MarkersWritten { transactional_id, .. }
            | Self::AbortTimedOut { transactional_id, .. }
            | Self::Markers(transactional_id)
            | Self::Describe(transactional_id) => Some(transactional_id),
            Self::List(_) => None,
        }
    }

    /// The answer that says no.
    fn refused(&self, error: ErrorCode) -> TransactionReply {
        match self {
            Self::InitProducerId(_) => TransactionReply::InitProducerId(Err(error)),
            Self::AddPartitions(_) => TransactionReply::AddPartitions(Err(error)),
            Self::VerifyPartitions { .. } => TransactionReply::VerifyPartitions(Err(error)),
            Self::EndTxn(_) => TransactionReply::EndTxn(Err(error)),
            Self::MarkersWritten { .. } | Self::AbortTimedOut { .. } => TransactionReply::Noted,
            Self::Markers(_) => TransactionReply::Markers(None),
            Self::Describe(_) => TransactionReply::Described(None),
            Self::List(_) => TransactionReply::Listed(Vec::new()),
        }
    }
}

impl Coordinator for TransactionCoordinator {
    type Command = TransactionCommand;
    type Reply = TransactionReply;
    type Record = TransactionRecord;
    type Timer = TransactionTimer;
    type Effect = TransactionEffect;
    type Settings = TransactionSettings;

    fn decide(
        &mut self,
        cx: &TransactionCtx<'_>,
        key: ReplyKey,
        command: TransactionCommand,
        out: &mut TransactionOutcome,
    ) {
        match command.transactional_id().cloned() {
            Some(id) => self.turn(cx, &id, out).run(key, command),
            None => {
                if let TransactionCommand::List(filter) = command {
                    out.reply(key, TransactionReply::Listed(self.list(cx, &filter)));
                }
            }
        }
    }

    fn expire(&mut self, cx: &TransactionCtx<'_>, timer: TransactionTimer, out: &mut TransactionOutcome) {
        match timer {
            TransactionTimer::Abort => {
                self.abort_timed_out(cx, out);
                set_abort_timer(cx, out);
            }
            TransactionTimer::Expiration => {
                self.forget_old(cx, out);
                set_expiration_timer(cx, out);
            }
            TransactionTimer::Patience(id) => {
                for (key, command) in self.soft.parked.remove(&id).into_iter().flatten() {
                    out.reply(key, command.refused(ErrorCode::ConcurrentTransactions));
                }
            }
        }
    }

    /// Topics that go are noticed by who writes the markers.
    fn follow_image(&mut self, _: &TransactionCtx<'_>, _: &MetadataDelta, _: &mut TransactionOutcome) {}

    fn loaded(&mut self, cx: &TransactionCtx<'_>, out: &mut TransactionOutcome) {
        set_abort_timer(cx, out);
        set_expiration_timer(cx, out);
        let prepared: Vec<Arc<str>> = self
            .transactions
            .iter()
            .filter(|(_, remembered)| remembered.transaction.state.prepared().is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in prepared {
            self.turn(cx, &id, out).go_on_to_markers();
        }
        // A partition that loads more often than the timer fires would never abort any.
        self.abort_timed_out(cx, out);
    }

    fn apply(&mut self, at: At, record: &TransactionRecord) {
        let id = record.transactional_id.clone();
        match &record.transaction {
            Some(transaction) => {
                let remembered = Remembered { transaction: transaction.clone(), at: at.offset };
                self.transactions.insert(id, remembered)
            }
            None => self.transactions.remove(&id),
        };
    }

    /// No client writes to this topic.
    fn end_transaction(&mut self, _: ProducerId, _: bool) {}
}

impl TransactionCoordinator {
    fn turn<'a>(
        &'a mut self,
        cx: &'a TransactionCtx<'a>,
        id: &'a Arc<str>,
        out: &'a mut TransactionOutcome,
    ) -> Turn<'a> {
        Turn::new(cx, id, self.transactions.get(id), &mut self.soft, out)
    }

    fn abort_timed_out(&mut self, cx: &TransactionCtx<'_>, out: &mut TransactionOutcome) {
        let timed_out: Vec<Arc<str>> = self
            .transactions
            .iter()
            .filter(|(_, remembered)| remembered.transaction.is_timed_out(cx.wall.0))
            .map(|(id, _)| id.clone())
            .collect();
        out.is_divisible = true;
        for id in timed_out {
            self.turn(cx, &id, out).abort_timed_out(None);
        }
    }

    fn forget_old(&mut self, cx: &TransactionCtx<'_>, out: &mut TransactionOutcome) {
        let newest_ms = cx.wall.0.saturating_sub(cx.settings.id_expiration_ms);
        let old = self.transactions.iter().filter(|(_, Remembered { transaction, .. })| {
            transaction.state.may_expire() && transaction.last_update_ms <= newest_ms
        });
        out.is_divisible = true;
        for (id, _) in old {
            self.soft.last_epochs.remove(id);
            out.write(TransactionRecord::new(id.clone(), None, level(cx)));
        }
    }
}

/// The finalized level of `transaction.version`.
fn level(cx: &TransactionCtx<'_>) -> i16 {
    cx.image.feature_level(TRANSACTION_VERSION)
}

fn set_abort_timer(cx: &TransactionCtx<'_>, out: &mut TransactionOutcome) {
    out.set_timer(TransactionTimer::Abort, cx.mono.plus_ms(cx.settings.abort_interval_ms));
}

fn set_expiration_timer(cx: &TransactionCtx<'_>, out: &mut TransactionOutcome) {
    out.set_timer(TransactionTimer::Expiration, cx.mono.plus_ms(cx.settings.expiration_interval_ms));
}
