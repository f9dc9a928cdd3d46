//! Producer ids in blocks from the metadata log: never given twice, also across restarts.
//!
//! **Invariant:** an id is given out only from a block that this process was given.

use klamm_cluster::controller::{BrokerIdentity, ControllerCommand, ControllerReply, ProducerIdBlock};
use klamm_protocol::ids::ProducerId;
use tokio::sync::Mutex;

use crate::metadata::controller_host::{ControllerGone, ControllerHandle};

/// The ids left of the present block.
pub(crate) struct ProducerIds {
    identity: BrokerIdentity,
    /// Held across the question to the controller, so that one block is fetched at a time.
    block: Mutex<Block>,
}

#[derive(Default)]
struct Block {
    next: i64,
    end: i64,
}

impl ProducerIds {
    pub(crate) fn new(identity: BrokerIdentity) -> Self {
        Self { identity, block: Mutex::default() }
    }

    /// An id that nobody had before.
    pub(crate) async fn next(&self, controller: &ControllerHandle) -> Result<ProducerId, ControllerGone> {
        let mut block = self.block.lock().await;
        if block.next == block.end {
            let asked = controller.ask(ControllerCommand::AllocateProducerIds(self.identity)).await?;
            let ControllerReply::AllocateProducerIds(Ok(ProducerIdBlock { first, count })) = asked else {
                return Err(ControllerGone);
            };
            *block = Block { next: first.0, end: first.0 + i64::from(count) };
        }
        let id = block.next;
        block.next += 1;
        Ok(ProducerId(id))
    }
}
