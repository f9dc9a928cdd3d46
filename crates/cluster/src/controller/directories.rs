//! What brokers say of their log directories: which failed, what lies where, which take nothing new.
//!
//! KIP-858 and KIP-1066 as far as a broker that speaks for itself needs them. A directory that
//! failed comes back only with a new registration.

use klamm_protocol::ids::DirectoryId;
use klamm_protocol::messages::metadata_records::BrokerRegistrationChangeRecord;

use super::election::{NodeEvent, assignment_change, partition_changes_where};
use super::nodes::change_of;
use super::{ApiError, BrokerIdentity, Controller, ControllerReply, ReplicaPlace};
use crate::image::BrokerRegistration;
use crate::machine::Decision;
use crate::record::MetadataRecord;

impl Controller {
    pub(super) fn offline_directories(
        &self,
        broker: BrokerIdentity,
        failed: &[DirectoryId],
    ) -> Decision<Self> {
        self.about_directories(broker, |registration| {
            let online: Vec<DirectoryId> =
                registration.directories.iter().copied().filter(|id| !failed.contains(id)).collect();
            let mut records = Vec::new();
            if online.len() < registration.directories.len() {
                let log_dirs = online.iter().map(|id| id.0).collect();
                let change = BrokerRegistrationChangeRecord { log_dirs, ..change_of(broker) };
                records.push(change.into());
            }
            records.extend(partition_changes_where(
                self.image(),
                broker.node,
                NodeEvent::Deactivated,
                |partition| failed.contains(&partition.directory_of(broker.node)),
            ));
            records
        })
    }

    pub(super) fn assign_replicas(&self, broker: BrokerIdentity, places: &[ReplicaPlace]) -> Decision<Self> {
        self.about_directories(broker, |registration| {
            let mut records: Vec<MetadataRecord> = Vec::new();
            for place in places.iter().filter(|place| registration.has_online(place.directory)) {
                // A topic that was deleted meanwhile needs no place.
                let Some(topic) = self.image().topic(place.topic) else { continue };
                let change =
                    assignment_change(self.image(), broker.node, topic, place.partition, place.directory);
                records.extend(change.map(MetadataRecord::from));
            }
            records
        })
    }

    pub(super) fn cordon_directories(
        &self,
        broker: BrokerIdentity,
        cordoned: &[DirectoryId],
    ) -> Decision<Self> {
        self.about_directories(broker, |registration| {
            let is_known = self.image().metadata_version().has_cordoned_directories();
            if !is_known || registration.cordoned_directories.as_deref().unwrap_or_default() == cordoned {
                return Vec::new();
            }
            let change = BrokerRegistrationChangeRecord {
                cordoned_log_dirs: Some(cordoned.iter().map(|id| id.0).collect()),
                ..change_of(broker)
            };
            vec![change.into()]
        })
    }

    /// Metadata versions before KIP-858 have no place for any of it.
    fn about_directories(
        &self,
        broker: BrokerIdentity,
        records: impl FnOnce(&BrokerRegistration) -> Vec<MetadataRecord>,
    ) -> Decision<Self> {
        let done = |result: Result<(), ApiError>| ControllerReply::Done(result);
        match self.current(broker) {
            Err(error) => Decision::read(done(Err(error))),
            Ok(_) if !self.image().metadata_version().has_directories() => Decision::read(done(Ok(()))),
            Ok(registration) => self.write(records(registration), done(Ok(()))),
        }
    }
}
