//! What keys must be to one another, and to a cluster of one node: each says which key to change, and how.
//!
//! What it deliberately does not do: check a key by itself, which its definition does.

use std::collections::BTreeMap;

use klamm_cluster::config::{ConfigError, broker_definitions, split_list, validate_group_bounds};

use super::broker::Problem;
use super::listeners::{HostPort, Listener};
use super::reader::Reader;

/// `node.id`, for which `broker.id` stands where it is given alone. Describing shows both, as Kafka does.
pub(super) fn node_id(texts: &mut BTreeMap<String, String>) -> Result<i32, Problem> {
    let number = |text: &String| text.trim().parse::<i32>().ok();
    let node = texts.get("node.id").and_then(number);
    let broker = texts.get("broker.id").and_then(number).filter(|id| *id >= 0);
    let id = match (node, broker) {
        (Some(node), Some(broker)) if node != broker => {
            return Err(("node.id", format!("is {node}, but broker.id is {broker}; remove broker.id")));
        }
        (Some(id), _) | (None, Some(id)) => {
            texts.insert("node.id".to_owned(), id.to_string());
            id
        }
        (None, None) => {
            let default = broker_definitions().get("node.id").and_then(|definition| definition.default);
            default.and_then(|text| text.parse().ok()).expect("a table of ours gives node.id a default")
        }
    };
    texts.insert("broker.id".to_owned(), id.to_string());
    Ok(id)
}

pub(super) fn check_roles(read: &Reader<'_>) -> Result<(), Problem> {
    let roles = read.list("process.roles").unwrap_or_default();
    if ["broker", "controller"].iter().all(|role| roles.iter().any(|given| given == role)) {
        return Ok(());
    }
    Err(("process.roles", "Klamm runs both roles in one process; set broker,controller".to_owned()))
}

pub(super) fn inter_broker_listener_name(
    read: &Reader<'_>,
    listeners: &[Listener],
) -> Result<String, Problem> {
    let key = "inter.broker.listener.name";
    let protocol_key = "security.inter.broker.protocol";
    let protocol = read.text(protocol_key).unwrap_or_default();
    if read.is_given(protocol_key) && protocol != "PLAINTEXT" {
        let problem = format!("{protocol} is not served yet; only PLAINTEXT is");
        return Err((protocol_key, problem));
    }
    let exists = |name: &str| listeners.iter().any(|listener| listener.name == name);
    let Some(name) = read.text(key).map(|name| name.to_uppercase()) else {
        // One node talks to nobody, so any listener may stand in where none has the protocol's name.
        let first = listeners.first().map(|listener| listener.name.clone()).unwrap_or_default();
        return Ok(if exists(&protocol) { protocol } else { first });
    };
    if read.is_given(protocol_key) {
        return Err((key, format!("is given together with {protocol_key}; remove one of them")));
    }
    if !exists(&name) {
        return Err((key, format!("{name} is not one of the listeners for clients; name one of them")));
    }
    Ok(name)
}

/// One node is its own quorum: voters and bootstrap servers may name it and nobody else.
pub(super) fn check_quorum(read: &Reader<'_>, node_id: i32, controllers: &[Listener]) -> Result<(), Problem> {
    let key = "controller.quorum.voters";
    let voters = read.list(key).unwrap_or_default();
    if let Some(other) =
        voters.iter().find(|voter| voter.split('@').next() != Some(node_id.to_string().as_str()))
    {
        return Err((
            key,
            format!("{other} is another node; Klamm runs on one, so name only node {node_id}"),
        ));
    }
    if voters.len() > 1 {
        return Err((
            key,
            format!("names {} voters; Klamm runs on one node, so name only this one", voters.len()),
        ));
    }
    let key = "controller.quorum.bootstrap.servers";
    let servers = read.list(key).unwrap_or_default();
    let is_own = |server: &String| {
        let port = HostPort::parse(server).map(|address| address.port);
        controllers.is_empty() || controllers.iter().any(|listener| Some(listener.bind.port) == port)
    };
    if servers.len() > 1 || !servers.iter().all(is_own) {
        let problem = "names more than this node's controller listener; Klamm runs on one node".to_owned();
        return Err((key, problem));
    }
    Ok(())
}

pub(super) fn about_times(error: ConfigError) -> Problem {
    let text = error.to_string();
    for key in ["log.roll.jitter.ms", "log.roll.ms"] {
        if text.contains(key) {
            return (
                key,
                "is too small, or its twin in hours; allowed: at least 1 ms (jitter: 0)".to_owned(),
            );
        }
    }
    (
        "log.retention.ms",
        "0 is not allowed, nor in its twins; allowed: -1 (no limit) or at least 1".to_owned(),
    )
}

/// What groups need beyond a check of each key, as in Kafka.
pub(super) fn check_groups(read: &Reader<'_>) -> Result<(), Problem> {
    let key = "group.coordinator.rebalance.protocols";
    if !read.list(key).unwrap_or_default().iter().any(|protocol| protocol == "classic") {
        return Err((key, "leaves out classic, which cannot be turned off; add it".to_owned()));
    }
    let key = "group.share.assignors";
    let count = read.list(key).unwrap_or_default().len();
    if count != 1 {
        return Err((key, format!("names {count} assignors; name exactly one")));
    }
    validate_group_bounds(read.layers).map_err(|error| about_bounds(read, &error))
}

/// Blames the key that was given: its counterpart may be a default.
fn about_bounds(read: &Reader<'_>, error: &ConfigError) -> Problem {
    let ConfigError::OutsideBound { name, relation, bound } = *error else {
        unreachable!("bounds have one kind of mistake")
    };
    let (value, limit) = (read.long(name), read.long(bound));
    if read.is_given(name) {
        (name, format!("is {value}, but must be {relation} {bound}, which is {limit}"))
    } else {
        (bound, format!("is {limit}, but {name}, which is {value}, must be {relation} it"))
    }
}

pub(super) fn check_per_ip_overrides(read: &Reader<'_>) -> Result<(), Problem> {
    let key = "max.connections.per.ip.overrides";
    let overrides = split_list(&read.text(key).unwrap_or_default());
    for item in &overrides {
        let parsed = item.rsplit_once(':').and_then(|(host, count)| Some((host, count.trim().parse().ok()?)));
        if parsed.is_none_or(|(host, count): (&str, i32)| host.trim().is_empty() || count < 0) {
            return Err((key, format!("cannot read {item:?}; write address:count, separated by commas")));
        }
    }
    if overrides.is_empty() && read.int("max.connections.per.ip") == 0 {
        let problem = format!("0 lets nobody in unless {key} names exceptions; allowed: at least 1");
        return Err(("max.connections.per.ip", problem));
    }
    Ok(())
}

/// The budget must hold the largest request, or that request could never be read.
pub(super) fn queued_bytes(
    read: &Reader<'_>,
    request_max_bytes: i64,
    warnings: &mut Vec<String>,
) -> Result<i64, Problem> {
    let key = "queued.max.request.bytes";
    let default =
        broker_definitions().get(key).and_then(|definition| definition.default?.parse::<i64>().ok());
    let default = default.expect("a table of ours gives it a number").max(request_max_bytes);
    let bytes = read.long(key);
    if !read.is_given(key) {
        return Ok(default);
    }
    if bytes <= 0 {
        warnings
            .push(format!("{key}={bytes} means no limit in Kafka; Klamm always has one and uses {default}"));
        return Ok(default);
    }
    if bytes < request_max_bytes {
        let problem = format!(
            "{bytes} is less than socket.request.max.bytes ({request_max_bytes}), so such a request could never be \
             read; raise this or lower that"
        );
        return Err((key, problem));
    }
    Ok(bytes)
}
