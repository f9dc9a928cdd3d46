//! Drives the controller: one task takes commands, decides, flushes, applies, publishes, answers.
//!
//! Commands that came during a flush share the next one. A reply leaves after its
//! records are flushed, the image is published and this broker's partitions follow it.
//!
//! **Invariants:** one task owns the controller and the metadata log; after a failed
//! write it decides nothing more, since what is on disk is no longer known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use klamm_cluster::controller::{Controller, ControllerCommand, ControllerReply};
use klamm_cluster::image::{MetadataDelta, MetadataImage};
use klamm_cluster::machine::{Ctx, Machine};
use klamm_cluster::record::MetadataRecord;
use tokio::sync::{mpsc, oneshot};

use super::applier::Applier;
use super::error::MetadataError;
use super::store::MetadataStore;
use crate::host::{Host, Pool};

/// Commands that one flush takes at most.
const ROUND_COMMANDS_MAX: usize = 128;
/// Commands that wait at most; more callers wait for room.
const QUEUE_COMMANDS_MAX: usize = 1_024;

enum Asked {
    Command { command: ControllerCommand, reply: oneshot::Sender<ControllerReply> },
    Close,
}

/// Asks the controller.
#[derive(Clone)]
pub(crate) struct ControllerHandle {
    commands: mpsc::Sender<Asked>,
    has_failed: Arc<AtomicBool>,
}

/// The controller decides no more: its log failed, or the broker stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the metadata log takes no more records")]
pub(crate) struct ControllerGone;

impl ControllerHandle {
    /// The answer to `command`, once everything it wrote is durable and in force.
    pub(crate) async fn ask(&self, command: ControllerCommand) -> Result<ControllerReply, ControllerGone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Asked::Command { command, reply }).await.map_err(|_| ControllerGone)?;
        answer.await.map_err(|_| ControllerGone)
    }

    /// Ends the task and gives back its store; `None` after a failed write.
    pub(crate) async fn close(&self, store: oneshot::Receiver<MetadataStore>) -> Option<MetadataStore> {
        let _ = self.commands.send(Asked::Close).await;
        store.await.ok()
    }

    /// True after a failed write, or if the task ended in any other way.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed) || self.commands.is_closed()
    }
}

/// The controller with its log, before and while it is driven.
pub(crate) struct ControllerHost<H: Host> {
    host: H,
    controller: Controller,
    store: Option<MetadataStore>,
}

impl<H: Host> ControllerHost<H> {
    pub(crate) fn new(host: H, controller: Controller, store: MetadataStore) -> Self {
        Self { host, controller, store: Some(store) }
    }

    pub(crate) fn image(&self) -> &MetadataImage {
        self.controller.stable_image()
    }

    /// What changed in [`ControllerHost::image`] since the last call.
    pub(crate) fn take_delta(&mut self) -> MetadataDelta {
        self.controller.take_delta()
    }

    /// Decides, writes, flushes and applies; at start, before there is a task.
    pub(crate) async fn ask_now(
        &mut self,
        command: ControllerCommand,
    ) -> Result<ControllerReply, MetadataError> {
        let mut replies = self.write_all(vec![command]).await?;
        Ok(replies.pop().expect("one command has one reply"))
    }

    /// Starts the task. It ends when it is closed, and gives back the store.
    pub(crate) fn start(
        mut self,
        applier: Applier<H>,
    ) -> (ControllerHandle, oneshot::Receiver<MetadataStore>) {
        let (commands, queue) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let has_failed = Arc::new(AtomicBool::new(false));
        let (done, store) = oneshot::channel();
        let failed = has_failed.clone();
        let host = self.host.clone();
        host.spawn("controller", async move {
            self.run(queue, &applier, &failed).await;
            if let Some(store) = self.store {
                let _ = done.send(store);
            }
        });
        (ControllerHandle { commands, has_failed }, store)
    }

    async fn run(&mut self, mut queue: mpsc::Receiver<Asked>, applier: &Applier<H>, has_failed: &AtomicBool) {
        let mut is_closing = false;
        while !is_closing {
            let mut commands = Vec::new();
            let mut askers = Vec::new();
            let mut next = queue.recv().await;
            loop {
                match next {
                    Some(Asked::Command { command, reply }) => {
                        commands.push(command);
                        askers.push(reply);
                    }
                    Some(Asked::Close) | None => {
                        is_closing = true;
                        break;
                    }
                }
                if commands.len() == ROUND_COMMANDS_MAX {
                    break;
                }
                match queue.try_recv() {
                    Ok(more) => next = Some(more),
                    Err(_) => break,
                }
            }
            if commands.is_empty() {
                continue;
            }
            let replies = match self.write_all(commands).await {
                Ok(replies) => replies,
                Err(error) => {
                    has_failed.store(true, Ordering::Relaxed);
                    applier.metadata_failed(&error);
                    tracing::error!(
                        %error,
                        "the metadata log failed: no topic or configuration can change until a restart"
                    );
                    return;
                }
            };
            let delta = self.controller.take_delta();
            applier.apply(self.controller.stable_image(), &delta).await;
            for (asker, reply) in askers.into_iter().zip(replies) {
                // Who asked may have hung up; what it asked for is done all the same.
                let _ = asker.send(reply);
            }
            self.snapshot_if_due().await;
        }
    }

    /// Decides all commands, each on the state that the ones before left, and makes their records
    /// durable with one flush.
    async fn write_all(
        &mut self,
        commands: Vec<ControllerCommand>,
    ) -> Result<Vec<ControllerReply>, MetadataError> {
        let store = self.store.take().ok_or(MetadataError::Gone)?;
        let mut replies = Vec::with_capacity(commands.len());
        let mut batches = Vec::new();
        let mut next_offset = store.next_offset();
        for command in commands {
            let host = self.host.clone();
            let mut random = move || host.random() as u64;
            let mut context =
                Ctx { mono: self.host.mono(), wall: self.host.wall(), next_offset, random: &mut random };
            let decision = self.controller.decide(&mut context, command);
            for record in &decision.records {
                self.controller.apply(next_offset, record);
                next_offset = next_offset.plus(1);
            }
            if !decision.records.is_empty() {
                batches.push(decision.records);
            }
            // Replies leave after the flush below: that is later than any of them may.
            replies.push(decision.reply.into_reply().expect("the controller parks no reply"));
        }
        if batches.is_empty() {
            self.store = Some(store);
            return Ok(replies);
        }
        let store = self.write(store, batches).await?;
        assert_eq!(store.next_offset(), next_offset, "every record has the offset it was applied at");
        self.store = Some(store);
        self.controller.on_committed(next_offset);
        Ok(replies)
    }

    /// Writes one record that no command asked for; at start.
    pub(crate) async fn write_record(&mut self, record: MetadataRecord) -> Result<(), MetadataError> {
        let store = self.store.take().ok_or(MetadataError::Gone)?;
        self.controller.apply(store.next_offset(), &record);
        self.store = Some(self.write(store, vec![vec![record]]).await?);
        Ok(())
    }

    async fn write(
        &self,
        mut store: MetadataStore,
        batches: Vec<Vec<MetadataRecord>>,
    ) -> Result<MetadataStore, MetadataError> {
        let now = self.host.wall();
        let version = self.controller.image().metadata_version();
        let (store, written) = self
            .host
            .offload(Pool::Flush, move || {
                let written = store.append(&batches, version, now);
                (store, written)
            })
            .await;
        written.map(|()| store)
    }

    /// Bounds the replay of the next start.
    async fn snapshot_if_due(&mut self) {
        let Some(mut store) = self.store.take_if(|store| store.is_snapshot_due()) else { return };
        let image = self.controller.stable_image().clone();
        let now = self.host.wall();
        let (store, written) = self
            .host
            .offload(Pool::Flush, move || {
                let written = store.write_snapshot(&image, now);
                (store, written)
            })
            .await;
        if let Err(error) = written {
            // The log holds everything; the next start replays more of it.
            tracing::warn!(%error, "cannot write a metadata snapshot");
        }
        self.store = Some(store);
    }
}
