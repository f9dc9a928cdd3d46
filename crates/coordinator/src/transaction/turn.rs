//! One request's turn with one transactional id: the transition, its record, its answer, and what
//! follows for those who waited.
//!
//! Records are applied only when the turn is over, so a turn goes on with the transaction that it wrote
//! last. What it deliberately does not decide: which transitions there are ([`super::transition`]).

use std::borrow::Cow;
use std::sync::Arc;

use klamm_protocol::error_code::ErrorCode;
use klamm_protocol::ids::{Offset, ProducerEpoch, ProducerId};

use super::state::{EPOCH_BUMP_LEVEL, Ending, Partitions, Producer, Transaction};
use super::transition::{self, End, Initialization, Refusal};
use super::{
    AddPartitions, EndTxn, InitProducerId, Markers, Remembered, Soft, TransactionCommand, TransactionCtx,
    TransactionEffect, TransactionOutcome, TransactionRecord, TransactionReply, TransactionTimer, level,
};
use crate::contract::ReplyKey;

pub(super) struct Turn<'a> {
    cx: &'a TransactionCtx<'a>,
    id: &'a Arc<str>,
    /// As the turn has left it so far.
    current: Option<Cow<'a, Transaction>>,
    /// Where the record lies that was the last one when the turn began.
    at: Offset,
    soft: &'a mut Soft,
    out: &'a mut TransactionOutcome,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        cx: &'a TransactionCtx<'a>,
        id: &'a Arc<str>,
        remembered: Option<&'a Remembered>,
        soft: &'a mut Soft,
        out: &'a mut TransactionOutcome,
    ) -> Self {
        let current = remembered.map(|remembered| Cow::Borrowed(&remembered.transaction));
        let at = remembered.map_or(Offset::default(), |remembered| remembered.at);
        Self { cx, id, current, at, soft, out }
    }

    pub(super) fn run(&mut self, key: ReplyKey, command: TransactionCommand) {
        let result = match &command {
            TransactionCommand::InitProducerId(request) => {
                self.init(request).map(|producer| TransactionReply::InitProducerId(Ok(producer)))
            }
            TransactionCommand::AddPartitions(request) => {
                self.add(request).map(|()| TransactionReply::AddPartitions(Ok(())))
            }
            TransactionCommand::VerifyPartitions { producer, partitions, .. } => self
                .verify(*producer, partitions)
                .map(|missing| TransactionReply::VerifyPartitions(Ok(missing))),
            TransactionCommand::EndTxn(request) => {
                self.end(request).map(|producer| TransactionReply::EndTxn(Ok(producer)))
            }
            TransactionCommand::Markers(_) => Ok(TransactionReply::Markers(self.markers())),
            TransactionCommand::MarkersWritten { prepared_at, .. } => {
                self.markers_written(*prepared_at);
                Ok(TransactionReply::Noted)
            }
            TransactionCommand::AbortTimedOut { producer, fresh, .. } => {
                if self.current.as_ref().is_some_and(|current| current.producer == *producer) {
                    self.abort_timed_out(Some(*fresh));
                }
                Ok(TransactionReply::Noted)
            }
            TransactionCommand::Describe(_) => {
                Ok(TransactionReply::Described(self.current.as_deref().cloned()))
            }
            TransactionCommand::List(_) => return,
        };
        match result {
            Ok(reply) => self.out.reply(key, reply),
            Err(Refusal::Error(error)) => self.out.reply(key, command.refused(error)),
            Err(Refusal::NeedsProducerId) => self.out.reply(key, TransactionReply::NeedsProducerId),
            Err(Refusal::NotYet) => self.park(key, command),
        }
    }

    fn park(&mut self, key: ReplyKey, command: TransactionCommand) {
        let parked = self.soft.parked.entry(self.id.clone()).or_default();
        if parked.is_empty() {
            let patience_ms = self.cx.settings.patience_ms;
            self.out
                .set_timer(TransactionTimer::Patience(self.id.clone()), self.cx.mono.plus_ms(patience_ms));
        }
        parked.push((key, command));
    }

    fn init(&mut self, request: &InitProducerId) -> Result<Producer, Refusal> {
        if request.timeout_ms <= 0 || request.timeout_ms > self.cx.settings.max_timeout_ms {
            return Err(ErrorCode::InvalidTransactionTimeout.into());
        }
        let last_epoch = self.soft.last_epochs.get(self.id).copied();
        match transition::initialize(self.current.as_deref(), last_epoch, request, self.cx.wall.0)? {
            Initialization::Ready(next, last_epoch) => {
                let producer = next.producer;
                self.note_last_epoch(last_epoch);
                self.write(next);
                Ok(producer)
            }
            Initialization::AbortFirst => {
                self.fence(request.fresh)?;
                // Without partitions it is over already.
                match self.current.as_deref().and_then(|current| current.state.prepared()) {
                    Some(_) => Err(Refusal::NotYet),
                    None => self.init(request),
                }
            }
        }
    }

    fn add(&mut self, request: &AddPartitions) -> Result<(), Refusal> {
        if let Some(next) = transition::add_partitions(self.known()?, request, self.cx.wall.0)? {
            self.write(next);
        }
        Ok(())
    }

    /// Those that are not in the transaction.
    fn verify(&self, producer: Producer, partitions: &Partitions) -> Result<Partitions, Refusal> {
        let current = self.known()?;
        transition::check_producer(current, producer)?;
        if current.state.prepared().is_some() {
            // Who writes outside its transaction does not get better by waiting.
            return Err(ErrorCode::ConcurrentTransactions.into());
        }
        let mut missing = Partitions::default();
        for (topic, partition) in partitions.iter() {
            if !current.partitions.contains(topic, partition) {
                missing.insert(topic, partition);
            }
        }
        Ok(missing)
    }

    fn end(&mut self, request: &EndTxn) -> Result<Producer, Refusal> {
        let now_ms = self.cx.wall.0;
        let current = self.known()?;
        let bumps = request.client_version >= EPOCH_BUMP_LEVEL;
        let successor = match transition::end(current, request, now_ms)? {
            End::WasEnded => current.producer,
            End::Prepared(next) => {
                if bumps {
                    self.note_last_epoch(Some(request.producer.epoch));
                }
                self.write(next);
                let successor = transition::complete(self.known()?, request.ending, now_ms).producer;
                self.go_on_to_markers();
                successor
            }
        };
        // Before the second version a client keeps what it has, and is told nothing.
        Ok(if bumps { successor } else { Producer::default() })
    }

    /// Aborts what has run too long, as far as an epoch, or `fresh`, is there for it.
    pub(super) fn abort_timed_out(&mut self, fresh: Option<ProducerId>) {
        let Some(current) = self.current.as_deref().filter(|current| current.is_timed_out(self.cx.wall.0))
        else {
            return;
        };
        let producer = current.producer;
        if self.fence(fresh) == Err(Refusal::NeedsProducerId) {
            let effect = TransactionEffect::FetchProducerId { transactional_id: self.id.clone(), producer };
            self.out.effects.push(effect);
        }
    }

    fn fence(&mut self, fresh: Option<ProducerId>) -> Result<(), Refusal> {
        let level = level(self.cx);
        let current = self.known()?;
        let last_epoch = (level >= EPOCH_BUMP_LEVEL).then_some(current.producer.epoch);
        let next = transition::fence(current, level, fresh, self.cx.wall.0)?;
        self.note_last_epoch(last_epoch);
        self.write(next);
        self.go_on_to_markers();
        Ok(())
    }

    fn markers_written(&mut self, prepared_at: Offset) {
        let prepared = self.current.as_deref().filter(|_| self.at == prepared_at);
        if let Some(ending) = prepared.and_then(|current| current.state.prepared()) {
            self.complete(ending);
        }
    }

    /// Asks for the markers of a prepared transaction; without partitions it is complete.
    pub(super) fn go_on_to_markers(&mut self) {
        let Some(markers) = self.markers() else { return };
        match markers.partitions.is_empty() {
            true => self.complete(markers.ending),
            false => self.out.effects.push(TransactionEffect::WriteMarkers(self.id.clone())),
        }
    }

    fn markers(&self) -> Option<Markers> {
        let current = self.current.as_deref()?;
        Some(Markers {
            transactional_id: self.id.clone(),
            producer: current.producer,
            ending: current.state.prepared()?,
            partitions: current.partitions.clone(),
            coordinator_epoch: self.cx.leader_epoch,
            transaction_version: current.client_version,
            prepared_at: self.at,
        })
    }

    fn complete(&mut self, ending: Ending) {
        if let Some(current) = self.current.as_deref() {
            self.write(transition::complete(current, ending, self.cx.wall.0));
        }
        let Some(parked) = self.soft.parked.remove(self.id) else { return };
        self.out.cancel_timer(TransactionTimer::Patience(self.id.clone()));
        for (key, command) in parked {
            self.run(key, command);
        }
    }

    fn known(&self) -> Result<&Transaction, Refusal> {
        self.current.as_deref().ok_or(ErrorCode::InvalidProducerIdMapping.into())
    }

    fn note_last_epoch(&mut self, epoch: Option<ProducerEpoch>) {
        match epoch {
            Some(epoch) => self.soft.last_epochs.insert(self.id.clone(), epoch),
            None => self.soft.last_epochs.remove(self.id),
        };
    }

    fn write(&mut self, next: Transaction) {
        let record = TransactionRecord::new(self.id.clone(), Some(next), level(self.cx));
        // As it is remembered, which may be less than what was decided.
        self.current = record.transaction.clone().map(Cow::Owned);
        self.out.write(record);
    }
}
