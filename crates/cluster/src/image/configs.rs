//! Dynamic configuration: which resources have it and how Kafka numbers them.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;

/// Values by name, as text. Defaults are not here: they belong to [`crate::config`].
pub type ConfigValues = OrdMap<Arc<str>, Arc<str>>;

/// What a configuration belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigResourceType {
    /// A topic.
    Topic,
    /// A broker by node id, or with an empty name every broker.
    Broker,
    /// A client metrics subscription (KIP-714).
    ClientMetrics,
    /// A group (KIP-848).
    Group,
    /// Another number, carried along.
    Other(i8),
}

impl ConfigResourceType {
    /// Kafka's number.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 2,
            Self::Broker => 4,
            Self::ClientMetrics => 16,
            Self::Group => 32,
            Self::Other(code) => code,
        }
    }

    /// From Kafka's number.
    #[must_use]
    pub fn from_code(code: i8) -> Self {
        match code {
            2 => Self::Topic,
            4 => Self::Broker,
            16 => Self::ClientMetrics,
            32 => Self::Group,
            other => Self::Other(other),
        }
    }
}

/// A resource with configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigResource {
    /// Its type.
    pub resource_type: ConfigResourceType,
    /// Its name.
    pub name: Arc<str>,
}

impl ConfigResource {
    /// A resource.
    pub fn new(resource_type: ConfigResourceType, name: impl Into<Arc<str>>) -> Self {
        Self { resource_type, name: name.into() }
    }

    /// A topic.
    pub fn topic(name: impl Into<Arc<str>>) -> Self {
        Self::new(ConfigResourceType::Topic, name)
    }

    /// One broker.
    #[must_use]
    pub fn broker(node: klamm_protocol::ids::NodeId) -> Self {
        Self::new(ConfigResourceType::Broker, node.to_string())
    }

    /// All brokers: the cluster-wide dynamic default.
    #[must_use]
    pub fn broker_default() -> Self {
        Self::new(ConfigResourceType::Broker, "")
    }
}

impl fmt::Debug for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.resource_type, self.name)
    }
}
