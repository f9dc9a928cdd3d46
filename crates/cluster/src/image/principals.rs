//! What metadata holds about users and clients: ACLs, SCRAM credentials, delegation tokens,
//! quotas. Kept and carried into snapshots; acted upon elsewhere.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::messages::metadata_records::{
    AccessControlEntryRecord, DelegationTokenRecord, UserScramCredentialRecord,
};

/// Whom a quota applies to: entity type and name, sorted by type; no name is "the default".
pub type QuotaEntity = Vec<(Arc<str>, Option<Arc<str>>)>;

/// Bytes that no log and no dump may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// An access control entry, with Kafka's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclEntry {
    /// `ResourceType`.
    pub resource_type: i8,
    /// The resource's name, prefix or `*`.
    pub resource_name: Arc<str>,
    /// `PatternType`.
    pub pattern_type: i8,
    /// The principal, `User:alice`.
    pub principal: Arc<str>,
    /// The host or `*`.
    pub host: Arc<str>,
    /// `AclOperation`.
    pub operation: i8,
    /// `AclPermissionType`.
    pub permission_type: i8,
}

impl AclEntry {
    pub(super) fn from_record(record: &AccessControlEntryRecord) -> Self {
        Self {
            resource_type: record.resource_type,
            resource_name: Arc::from(&*record.resource_name),
            pattern_type: record.pattern_type,
            principal: Arc::from(&*record.principal),
            host: Arc::from(&*record.host),
            operation: record.operation,
            permission_type: record.permission_type,
        }
    }
}

/// A SCRAM credential (KIP-554).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramCredential {
    /// The salt.
    pub salt: Secret,
    /// Proves the client.
    pub stored_key: Secret,
    /// Proves the server.
    pub server_key: Secret,
    /// Iterations of the hash.
    pub iterations: i32,
}

impl ScramCredential {
    pub(super) fn from_record(record: &UserScramCredentialRecord) -> Self {
        // Copies, so that the credential does not pin the batch it came in.
        let secret = |bytes: &Bytes| Secret(Bytes::copy_from_slice(bytes));
        Self {
            salt: secret(&record.salt),
            stored_key: secret(&record.stored_key),
            server_key: secret(&record.server_key),
            iterations: record.iterations,
        }
    }
}

/// A delegation token (KIP-48).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegationToken {
    /// The principal it speaks for.
    pub owner: Arc<str>,
    /// The principal that asked for it.
    pub requester: Arc<str>,
    /// Principals that may renew it.
    pub renewers: Vec<Arc<str>>,
    /// When it was issued.
    pub issue_timestamp_ms: i64,
    /// When it ends for good.
    pub max_timestamp_ms: i64,
    /// When it ends unless renewed.
    pub expiration_timestamp_ms: i64,
}

impl DelegationToken {
    pub(super) fn from_record(record: &DelegationTokenRecord) -> Self {
        Self {
            owner: Arc::from(&*record.owner),
            requester: Arc::from(&*record.requester),
            renewers: record.renewers.iter().map(|renewer| Arc::from(&**renewer)).collect(),
            issue_timestamp_ms: record.issue_timestamp,
            max_timestamp_ms: record.max_timestamp,
            expiration_timestamp_ms: record.expiration_timestamp,
        }
    }
}
