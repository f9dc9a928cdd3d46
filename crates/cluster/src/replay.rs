//! An image that follows the log and understands metadata transactions (KIP-866).
//!
//! Invariants: a transaction takes effect as a whole at its end; one that is aborted, or
//! still open where the log ends, leaves no trace. Keeping the image from before the
//! transaction makes undoing it a pointer swap.

use klamm_protocol::ids::Offset;
use klamm_protocol::messages::metadata_records::AbortTransactionRecord;

use crate::image::{MetadataDelta, MetadataImage};
use crate::record::MetadataRecord;

/// Follows the metadata log.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    image: MetadataImage,
    /// Changes up to `stable_image`.
    delta: MetadataDelta,
    open: Option<OpenTransaction>,
}

#[derive(Clone, Debug)]
struct OpenTransaction {
    before: MetadataImage,
    delta: MetadataDelta,
}

impl Replay {
    /// Continues from an image, for instance a snapshot's.
    #[must_use]
    pub fn from_image(image: MetadataImage) -> Self {
        Self { image, ..Self::default() }
    }

    /// The image with everything applied, an open transaction included: what a controller
    /// decides on.
    #[must_use]
    pub fn image(&self) -> &MetadataImage {
        &self.image
    }

    /// The image without an open transaction: what brokers may see.
    #[must_use]
    pub fn stable_image(&self) -> &MetadataImage {
        self.open.as_ref().map_or(&self.image, |open| &open.before)
    }

    /// Takes in one record.
    pub fn apply(&mut self, at: Offset, record: &MetadataRecord) {
        match record {
            // A second begin cannot be written by a correct controller; the first stands.
            MetadataRecord::BeginTransaction(_) if self.open.is_none() => {
                self.open =
                    Some(OpenTransaction { before: self.image.clone(), delta: MetadataDelta::default() });
            }
            MetadataRecord::EndTransaction(_) => {
                if let Some(open) = self.open.take() {
                    self.delta.merge(open.delta);
                }
            }
            MetadataRecord::AbortTransaction(_) => {
                if let Some(open) = self.open.take() {
                    self.image = open.before;
                }
            }
            _ => {}
        }
        let delta = self.open.as_mut().map_or(&mut self.delta, |open| &mut open.delta);
        self.image.apply(at, record, delta);
    }

    /// Moves past records that are not metadata records.
    pub fn advance_to(&mut self, next_offset: Offset) {
        self.image.advance_to(next_offset);
    }

    /// Whether a transaction is open.
    #[must_use]
    pub fn is_in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// What a new leader must write before anything else: the abort of a transaction which
    /// its predecessor left open.
    #[must_use]
    pub fn abort_open_transaction(&self) -> Option<MetadataRecord> {
        self.is_in_transaction().then(|| {
            let reason = Some("the controller stopped before the transaction's end".into());
            AbortTransactionRecord { reason }.into()
        })
    }

    /// What changed in [`Replay::stable_image`] since the last call.
    pub fn take_delta(&mut self) -> MetadataDelta {
        std::mem::take(&mut self.delta)
    }
}
