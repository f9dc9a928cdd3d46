//! Accepts connections on one listening socket.
//!
//! A connection over a limit is closed at once. A failed accept (out of file
//! descriptors, say) is logged and tried again after a pause; it never ends the loop.

use std::sync::Arc;

use klamm_protocol::time::MonoMs;
use tokio::sync::watch;

use super::connection;
use crate::broker::Broker;
use crate::host::{Host, Listener};

/// The pause after a failed accept: long enough not to spin, short enough not to be noticed.
const ACCEPT_RETRY_MS: u64 = 100;

/// Runs until the broker stops.
pub(crate) async fn accept_loop<H: Host>(
    broker: Arc<Broker<H>>,
    mut socket: H::Listener,
    listener_name: Arc<str>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! { biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((transport, peer)) => {
                match broker.limits.admit(peer.ip(), broker.allowed_connections(peer.ip())) {
                    Ok(permit) => {
                        broker.metrics.connections_accepted.inc();
                        let task = connection::serve(
                            broker.clone(),
                            transport,
                            peer,
                            listener_name.clone(),
                            stop.clone(),
                            permit,
                        );
                        broker.host.spawn("connection", task);
                    }
                    Err(limit) => {
                        broker.metrics.connections_refused.inc();
                        tracing::debug!(%peer, limit, "connection refused");
                    }
                }
            }
            Err(error) => {
                let now: MonoMs = broker.host.mono();
                tracing::warn!(listener = %listener_name, %error, "cannot accept a connection; trying again");
                broker.host.sleep_until(now.plus_ms(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}
