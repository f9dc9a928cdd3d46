//! What a consumer group's configuration says: its own, else the broker's.

use std::sync::Arc;

use klamm_cluster::config::group_number;
use klamm_cluster::image::{ConfigResource, ConfigResourceType};

use super::super::GroupCtx;

/// The values for one group; durations in milliseconds.
pub(super) struct Configs {
    pub session_timeout_ms: u64,
    pub heartbeat_interval_ms: i32,
    pub assignment_interval_ms: i32,
}

impl Configs {
    /// Of the group `id`.
    pub fn of(cx: &GroupCtx<'_>, id: &Arc<str>) -> Self {
        let broker = &cx.settings.consumer;
        let own = cx.image.config(&ConfigResource::new(ConfigResourceType::Group, id.clone()));
        let number = |name, otherwise: i32| {
            let own = own.and_then(|own| group_number(own, name, &cx.settings.layers));
            own.map_or(otherwise, |own| i32::try_from(own).unwrap_or(i32::MAX))
        };
        let session_timeout_ms = number("consumer.session.timeout.ms", broker.session_timeout_ms);
        Self {
            session_timeout_ms: u64::try_from(session_timeout_ms).unwrap_or(0),
            heartbeat_interval_ms: number("consumer.heartbeat.interval.ms", broker.heartbeat_interval_ms),
            assignment_interval_ms: number("consumer.assignment.interval.ms", broker.assignment_interval_ms),
        }
    }
}
